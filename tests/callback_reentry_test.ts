/** Callbacks that change the very handlers the loop is busy with. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { closeSync, openSync } from "node:fs";
import { type AioContext, AioError, EventNotifier, type FdHandler, ManualClock } from "../mod.ts";
import { Device } from "./device.ts";
import { eachFdmon, type MakeContext, onIoUring } from "./each_fdmon.ts";

const PARAMS = { pollParams: { idleNs: Infinity } };

/** A context with a device that is in poll mode. */
function polled(makeContext: MakeContext, device: Device): AioContext {
  const ctx = makeContext({ clock: new ManualClock(), ...PARAMS });
  device.attach(ctx);
  device.post();
  assert(ctx.poll(true));
  device.whilePolled = () => device.postSilently();
  assert(ctx.poll(true));
  assert(!device.notificationsOn);
  device.whilePolled = null;
  return ctx;
}

for (const how of ["deleted", "replaced"] as const) {
  eachFdmon(
    `ioPollEnd: may set the handler of its fd again while it is ${how}`,
    (makeContext) => {
      using device = new Device();
      using ctx = polled(makeContext, device);
      const { fd } = device.notifier;
      const runs: string[] = [];
      const named = (name: string): FdHandler => ({
        ioRead: () => (device.notifier.testAndClear(), runs.push(name)),
      });
      device.whenEnded = () => ctx.setFdHandler(fd, named("inner"));
      ctx.setFdHandler(fd, how === "deleted" ? null : named("outer"));
      // The last one to be set is the inner one, and it is the only one.
      assertEquals(ctx.stats().handlers, 1);
      device.notifier.set();
      assert(ctx.poll(true));
      assertEquals(runs, ["inner"]);
      ctx.setFdHandler(fd, null);
      assertEquals(ctx.stats().handlers, 0);
      device.notifier.set();
      assert(!ctx.poll(false));
      assertEquals(runs, ["inner"]);
    },
  );
}

eachFdmon("ioPollEnd: may enable external handlers while they are disabled", (makeContext) => {
  using device = new Device();
  using ctx = makeContext({ clock: new ManualClock(), ...PARAMS });
  using stack = new DisposableStack();
  const others = Array.from({ length: 4 }, () => stack.use(new EventNotifier()));
  let runs = 0;
  const attach = (notifier: EventNotifier) => {
    const ioRead = () => (notifier.testAndClear(), runs++);
    // With a poll callback each, as epoll and poll do not poll beside one that has none.
    const poll = { ioPoll: () => false, ioPollReady() {} };
    ctx.setFdHandler(notifier.fd, { ioRead, ...poll, isExternal: true });
  };
  // The device stands between others, so that some come after it.
  others.slice(0, 2).forEach(attach);
  device.attach(ctx, true);
  others.slice(2).forEach(attach);
  device.post();
  assert(ctx.poll(true));
  device.whilePolled = () => device.postSilently();
  assert(ctx.poll(true));
  assert(!device.notificationsOn);
  device.whilePolled = null;
  device.whenEnded = () => ctx.enableExternal();
  ctx.disableExternal();
  assertThrows(() => ctx.enableExternal(), RangeError, "they are not disabled");
  for (const notifier of others) notifier.set();
  for (let round = 0; round < 3; round++) ctx.poll(false);
  assertEquals(runs, 4);
});

eachFdmon("ioPoll: may disable external handlers while they are enabled", (makeContext) => {
  using ctx = makeContext();
  using stack = new DisposableStack();
  const notifiers = Array.from({ length: 3 }, () => stack.use(new EventNotifier()));
  let runs = 0, disabled = false;
  for (const notifier of notifiers) {
    ctx.setFdHandler(notifier.fd, {
      ioRead: () => (notifier.testAndClear(), runs++),
      ioPollReady: () => {},
      ioPoll() {
        if (!disabled) ctx.disableExternal();
        disabled = true;
        return false;
      },
      isExternal: true,
    });
  }
  ctx.disableExternal();
  ctx.enableExternal();
  assert(disabled);
  for (const notifier of notifiers) notifier.set();
  for (let round = 0; round < 3; round++) assert(!ctx.poll(false));
  assertEquals(runs, 0);
  ctx.enableExternal();
  assert(ctx.poll(false));
  assertEquals(runs, 3);
});

eachFdmon("enableExternal: an fd closed meanwhile does not silence the others", (makeContext) => {
  using ctx = makeContext();
  using stack = new DisposableStack();
  const notifiers = Array.from({ length: 3 }, () => new EventNotifier());
  let runs = 0;
  for (const notifier of notifiers) {
    const ioRead = () => (notifier.testAndClear(), runs++);
    ctx.setFdHandler(notifier.fd, { ioRead, isExternal: true });
  }
  ctx.disableExternal();
  const { fd } = notifiers[0];
  notifiers[0][Symbol.dispose]();
  const thrown: unknown[] = [];
  const attempt = (call: () => void) => {
    try {
      call();
    } catch (error) {
      thrown.push(error);
    }
  };
  attempt(() => ctx.enableExternal());
  for (const notifier of notifiers.slice(1)) stack.use(notifier).set();
  for (let round = 0; round < 3; round++) attempt(() => ctx.poll(false));
  assertEquals(runs, 2);
  assertEquals(thrown.length, 1);
  assert(thrown[0] instanceof AioError);
  assertEquals([thrown[0].code, thrown[0].message.includes(`fd ${fd} `)], ["EBADF", true]);
  // Once more, with a handler that is deleted and so neither watched nor silenced.
  ctx.disableExternal();
  ctx.enableExternal();
  notifiers[1].set();
  assert(ctx.poll(false));
  assertEquals([runs, ctx.stats().handlers], [3, 2]);
});

eachFdmon("setFdHandler: deletes where the fd's number is a regular file's now", (makeContext) => {
  using ctx = makeContext();
  const notifier = new EventNotifier();
  const { fd } = notifier;
  ctx.setFdHandler(fd, { ioRead() {} });
  ctx.poll(false);
  notifier[Symbol.dispose]();
  const file = openSync(Deno.execPath(), "r");
  try {
    assertEquals(file, fd, "the lowest number that is free");
    ctx.setFdHandler(fd, null);
    assertEquals(ctx.stats().handlers, 0);
    for (let round = 0; round < 3; round++) assert(!ctx.poll(false));
  } finally {
    closeSync(file);
  }
});

for (const what of ["delete", "poll"] as const) {
  eachFdmon(`trace: a listener of poll_add may ${what}`, (makeContext) => {
    using notifier = new EventNotifier();
    using ctx = makeContext({ clock: new ManualClock(), ...PARAMS });
    let runs = 0, asked = 0;
    ctx.setFdHandler(notifier.fd, {
      ioRead: () => (notifier.testAndClear(), runs++),
      ioPoll: () => (asked++, false),
      ioPollReady: () => assert(false),
    });
    const stop = ctx.trace.on("poll_add", ({ fd }) => {
      if (fd !== notifier.fd) return;
      stop();
      if (what === "delete") ctx.setFdHandler(fd, null);
      // The event is still there, so the nested poll serves it and lists the handler.
      else ctx.poll(false);
    });
    notifier.set();
    ctx.poll(true);
    asked = 0;
    ctx.timer(() => {}).arm(ctx.now() + 1e5);
    ctx.poll(true);
    if (what === "delete") assertEquals([runs, asked, ctx.stats().handlers], [0, 0, 0]);
    else assert(runs >= 1 && asked >= 1, `${runs} ${asked}`);
  });
}

onIoUring("trace: a listener of poll_remove may delete the handler", (makeContext) => {
  const clock = new ManualClock();
  using ctx = makeContext({ clock, pollParams: { idleNs: 1e6 } });
  using first = new Device();
  using second = new Device();
  for (const device of [first, second]) {
    device.attach(ctx);
    device.post();
  }
  assert(ctx.poll(true));
  const removed: number[] = [];
  ctx.trace.on("poll_remove", ({ fd }) => {
    removed.push(fd);
    if (ctx.stats().handlers !== 0) ctx.setFdHandler(fd, null);
  });
  for (let round = 0; round < 3; round++) {
    // Ends the poll without finding work.
    for (const device of [first, second]) device.whilePolled = () => ctx.notify();
    if (round === 2) ctx.notify();
    ctx.poll(true);
    clock.advance(2e6);
  }
  const fds = [first.notifier.fd, second.notifier.fd];
  assertEquals(removed.filter((fd) => fds.includes(fd)).toSorted(), fds.toSorted());
  assertEquals(ctx.stats().handlers, 0);
});

eachFdmon("ioPollBegin: a nested poll that leaves poll mode leaves it for all", (makeContext) => {
  // By readings, as a timer that is due by the time poll() looks lets it neither poll nor block.
  using ctx = makeContext({ clock: new ManualClock(0, 1000), ...PARAMS });
  using stack = new DisposableStack();
  const notifiers = Array.from({ length: 3 }, () => stack.use(new EventNotifier()));
  const polling = new Set<number>();
  let nest = false;
  for (const notifier of notifiers) {
    const { fd } = notifier;
    ctx.setFdHandler(fd, {
      ioRead: () => notifier.testAndClear(),
      ioPoll: () => false,
      ioPollReady: () => {},
      ioPollBegin() {
        polling.add(fd);
        if (!nest) return;
        nest = false;
        // It blocks, as nothing is there to be done but the timer's work: poll mode is left.
        ctx.timer(() => {}).arm(ctx.now() + 100_000);
        ctx.poll(true);
        ctx.setPollParams({ maxNs: 0 });
      },
      ioPollEnd: () => polling.delete(fd),
    });
    notifier.set();
  }
  assert(ctx.poll(true));
  nest = true;
  ctx.timer(() => {}).arm(ctx.now() + 1e5);
  ctx.poll(true);
  assert(!nest);
  // Nobody may have been left in poll mode, which was not begun again.
  assertEquals([...polling], []);
});

eachFdmon("poll: a notify that a nested poll takes at its beginning lets it not sleep", (make) => {
  using ctx = make({ clock: new ManualClock(), ...PARAMS });
  using device = new Device();
  device.attach(ctx);
  device.post();
  assert(ctx.poll(true));
  const timeouts: number[] = [];
  // Without it a loop that sleeps would not wake again.
  const watchdog = ctx.timer(() => {});
  device.whenReady = () => {
    device.whenReady = null;
    // To hide the handler that is running, the poll below calls its ioPollEnd before all else.
    device.whenEnded = () => {
      device.whenEnded = null;
      ctx.poll(false);
    };
    ctx.notify();
    watchdog.arm(ctx.now() + 1e8);
    const stop = ctx.trace.on("wait_begin", ({ timeoutNs }) => timeouts.push(timeoutNs));
    ctx.poll(true);
    stop();
    watchdog.cancel();
  };
  device.postSilently();
  assert(ctx.poll(true));
  assertEquals([device.whenReady, device.whenEnded], [null, null]);
  assertEquals(timeouts.filter((timeoutNs) => timeoutNs !== 0), []);
});
