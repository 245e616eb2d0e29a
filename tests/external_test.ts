/** disableExternal and enableExternal, on every backend by name. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { EventNotifier } from "../mod.ts";
import { eachFdmon } from "./each_fdmon.ts";

for (const count of [1, 100]) {
  eachFdmon(
    `disableExternal: ${count} set fds neither run nor spin, and run after`,
    (makeContext) => {
      using ctx = makeContext();
      using stack = new DisposableStack();
      const notifiers = Array.from({ length: count }, () => stack.use(new EventNotifier()));
      let external = 0, internal = 0;
      for (const notifier of notifiers) {
        ctx.setFdHandler(notifier.fd, {
          ioRead: () => (notifier.testAndClear(), external++),
          isExternal: true,
        });
      }
      const own = stack.use(new EventNotifier());
      ctx.setFdHandler(own.fd, { ioRead: () => (own.testAndClear(), internal++) });
      ctx.disableExternal();
      for (const notifier of notifiers) notifier.set();
      assert(!ctx.poll(false));
      // A blocking poll sleeps until its timer: an fd nobody may handle must not keep it awake.
      const pollsBefore = ctx.stats().polls;
      let fired = false;
      ctx.timer(() => fired = true).arm(ctx.now() + 3e6);
      while (!fired) ctx.poll(true);
      assert(ctx.stats().polls - pollsBefore <= 5, "the loop was kept awake");
      own.set();
      assert(ctx.poll(true));
      assertEquals([external, internal], [0, 1]);
      ctx.enableExternal();
      while (ctx.poll(false));
      assertEquals([external, internal], [count, 1]);
    },
  );
}

eachFdmon("enableExternal: as many as there were disables, and not more", (makeContext) => {
  using ctx = makeContext();
  using notifier = new EventNotifier();
  let runs = 0;
  ctx.setFdHandler(notifier.fd, {
    ioRead: () => (notifier.testAndClear(), runs++),
    isExternal: true,
  });
  ctx.disableExternal();
  ctx.disableExternal();
  notifier.set();
  ctx.enableExternal();
  assert(!ctx.poll(false));
  ctx.enableExternal();
  assert(ctx.poll(true));
  assertEquals(runs, 1);
  assertThrows(() => ctx.enableExternal(), RangeError, "they are not disabled");
});

eachFdmon("disableExternal: takes back what was found and not dispatched yet", (makeContext) => {
  using ctx = makeContext();
  using first = new EventNotifier();
  using second = new EventNotifier();
  let runs = 0;
  for (const notifier of [first, second]) {
    ctx.setFdHandler(notifier.fd, {
      ioRead: () => {
        notifier.testAndClear();
        runs++;
        ctx.disableExternal();
      },
      isExternal: true,
    });
    notifier.set();
  }
  assert(ctx.poll(true));
  assert(!ctx.poll(false));
  assertEquals(runs, 1);
  ctx.enableExternal();
  assert(ctx.poll(true));
  assertEquals(runs, 2);
});

eachFdmon("disableExternal: set, replaced and deleted while disabled", (makeContext) => {
  using ctx = makeContext();
  using notifier = new EventNotifier();
  const order: string[] = [];
  const handler = (name: string) => ({
    ioRead: () => (notifier.testAndClear(), order.push(name)),
    isExternal: true,
  });
  notifier.set();
  ctx.disableExternal();
  ctx.setFdHandler(notifier.fd, handler("first"));
  assert(!ctx.poll(false));
  ctx.setFdHandler(notifier.fd, handler("second"));
  assert(!ctx.poll(false));
  ctx.enableExternal();
  assert(ctx.poll(true));
  assertEquals(order, ["second"]);
  ctx.disableExternal();
  ctx.setFdHandler(notifier.fd, null);
  notifier.set();
  ctx.enableExternal();
  assert(!ctx.poll(false));
  assertEquals([order, ctx.stats().handlers], [["second"], 0]);
});

eachFdmon(
  "disableExternal: ends polling for a handler, and enable looks for its work",
  (makeContext) => {
    using ctx = makeContext();
    using notifier = new EventNotifier();
    const calls: string[] = [];
    let work = false;
    ctx.setFdHandler(notifier.fd, {
      ioRead: () => (notifier.testAndClear(), calls.push("read")),
      ioPoll: () => work,
      ioPollReady: () => {
        work = false;
        calls.push("ready");
      },
      ioPollBegin: () => calls.push("begin"),
      ioPollEnd: () => calls.push("end"),
      isExternal: true,
    });
    notifier.set();
    assert(ctx.poll(true));
    // The next iteration polls, as there is a handler on the list that has just had an event.
    const timer = ctx.timer(() => {});
    timer.arm(0);
    ctx.poll(true);
    const begun = calls.filter((call) => call === "begin").length;
    ctx.disableExternal();
    assertEquals(calls.filter((call) => call === "end").length, begun);
    work = true;
    assert(!ctx.poll(false));
    assert(!calls.includes("ready"));
    ctx.enableExternal();
    assert(ctx.poll(true));
    assert(calls.includes("ready"), calls.join());
  },
);
