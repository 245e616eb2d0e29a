/** poll() called from inside callbacks, on every backend by name. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { EventNotifier, ManualClock } from "../mod.ts";
import { Device } from "./device.ts";
import { eachFdmon } from "./each_fdmon.ts";

for (const poll of ["function", "word"] as const) {
  eachFdmon(
    `nested poll: ioPollReady of a ${poll} that polls again is not re-entered`,
    (makeContext) => {
      using ctx = makeContext({ clock: new ManualClock() });
      using device = new Device(poll);
      device.attach(ctx);
      device.post();
      assert(ctx.poll(true));
      let depth = 0, deepest = 0;
      device.whenReady = () => {
        deepest = Math.max(deepest, ++depth);
        // Work is there all along, which the inner polls must leave to the next round.
        device.postSilently();
        for (let round = 0; round < 3; round++) ctx.poll(false);
        depth--;
      };
      for (let round = 1; round <= 5; round++) {
        device.postSilently();
        assert(ctx.poll(true));
      }
      assertEquals(deepest, 1);
      assert(device.count("ready") >= 5);
      device.whenReady = null;
      while (device.pending > 0) assert(ctx.poll(true));
    },
  );
}

eachFdmon("nested poll: other handlers run inside, polled ones too", (makeContext) => {
  using ctx = makeContext({ clock: new ManualClock() });
  using outer = new Device();
  using inner = new Device();
  using notifier = new EventNotifier();
  let runs = 0;
  // Listing happens through the fd, and is then followed by polling.
  for (const device of [outer, inner]) {
    device.attach(ctx);
    device.post();
    while (device.pending > 0) assert(ctx.poll(true));
  }
  outer.whenReady = () => {
    outer.whenReady = null;
    // From here on there is a handler that cannot be polled.
    ctx.setFdHandler(notifier.fd, { ioRead: () => (notifier.testAndClear(), runs++) });
    inner.post();
    notifier.set();
    while (inner.pending > 0 || runs === 0) ctx.poll(true);
  };
  outer.whilePolled = () => {
    outer.whilePolled = null;
    outer.postSilently();
  };
  while (outer.whenReady !== null) ctx.poll(true);
  assertEquals([runs, inner.handled, outer.whenReady], [1, 2, null]);
});

eachFdmon("nested poll: dispatches what the outer one has not come to yet, once", (makeContext) => {
  using ctx = makeContext();
  using stack = new DisposableStack();
  const runs = new Map<number, number>();
  let nested = false;
  const notifiers = Array.from({ length: 10 }, () => stack.use(new EventNotifier()));
  for (const notifier of notifiers) {
    ctx.setFdHandler(notifier.fd, {
      ioRead: () => {
        notifier.testAndClear();
        runs.set(notifier.fd, (runs.get(notifier.fd) ?? 0) + 1);
        if (nested) return;
        nested = true;
        while (runs.size < notifiers.length) assert(ctx.poll(true));
      },
    });
    notifier.set();
  }
  assert(ctx.poll(true));
  assert(!ctx.poll(false));
  assertEquals([...runs.values()], notifiers.map(() => 1));
});

eachFdmon("nested poll: runs the outer pass's bottom halves first, in order", (makeContext) => {
  using ctx = makeContext();
  const order: string[] = [];
  ctx.scheduleOneshot(() => {
    order.push("first");
    ctx.scheduleOneshot(() => order.push("new"));
    assert(ctx.poll(false));
    order.push("first ends");
  });
  ctx.scheduleOneshot(() => order.push("second"));
  assert(ctx.poll(true));
  assertEquals(order, ["first", "second", "new", "first ends"]);
});

eachFdmon(
  "nested poll: a bottom half that waits for an event by polling gets it",
  (makeContext) => {
    using ctx = makeContext();
    using notifier = new EventNotifier();
    let done = false;
    ctx.setFdHandler(notifier.fd, { ioRead: () => done = notifier.testAndClear() });
    ctx.scheduleOneshot(() => {
      notifier.set();
      while (!done) ctx.poll(true);
    });
    assert(ctx.poll(true));
    assert(done);
  },
);

eachFdmon("nested poll: handlers deleted inside are released by the outermost", (makeContext) => {
  using ctx = makeContext();
  using notifier = new EventNotifier();
  const order: string[] = [];
  ctx.setFdHandler(notifier.fd, {
    ioRead: () => {
      notifier.testAndClear();
      ctx.setFdHandler(notifier.fd, null);
      ctx.poll(false);
      order.push(`after nested poll ${ctx.stats().deleted}`);
    },
  });
  notifier.set();
  assert(ctx.poll(true));
  assertEquals([order, ctx.stats().deleted], [["after nested poll 1"], 0]);
});

eachFdmon("nested poll: each throws its own errors", (makeContext) => {
  using ctx = makeContext();
  let inner: unknown;
  ctx.scheduleOneshot(() => {
    ctx.scheduleOneshot(() => {
      throw new Error("inner");
    });
    inner = assertThrows(() => ctx.poll(false), Error, "inner");
    throw new Error("outer");
  });
  assertThrows(() => ctx.poll(true), Error, "outer");
  assert(inner instanceof Error);
});

eachFdmon("nested poll: a timer's callback may poll, and the timer fires once", (makeContext) => {
  using ctx = makeContext();
  let fired = 0, others = 0;
  const timer = ctx.timer(() => {
    fired++;
    while (ctx.poll(false));
    assertEquals(others, 1);
  });
  timer.arm(0);
  ctx.timer(() => others++).arm(1);
  assert(ctx.poll(true));
  assertEquals([fired, others], [1, 1]);
});

eachFdmon("nested poll: 100 deep", (makeContext) => {
  using ctx = makeContext();
  let depth = 0;
  const half = ctx.bottomHalf(() => {
    if (++depth === 100) return;
    half.schedule();
    assert(ctx.poll(true));
  });
  half.schedule();
  assert(ctx.poll(true));
  assertEquals(depth, 100);
});
