/** What the loop costs in system calls, by its own count and by the kernel's. */
import { assert, assertEquals } from "@std/assert";
import { EventNotifier, ManualClock } from "../mod.ts";
import { Device } from "./device.ts";
import { eachFdmon, onIoUring } from "./each_fdmon.ts";

onIoUring("stats().systemCalls: a blocking iteration is one, re-arms included", (makeContext) => {
  using ctx = makeContext({ pollParams: { maxNs: 0 } });
  using stack = new DisposableStack();
  const notifiers = Array.from({ length: 10 }, () => stack.use(new EventNotifier()));
  let runs = 0;
  for (const notifier of notifiers) {
    ctx.setFdHandler(notifier.fd, { ioRead: () => (notifier.testAndClear(), runs++) });
  }
  ctx.poll(false);
  for (let round = 1; round <= 100; round++) {
    for (const notifier of notifiers) notifier.set();
    const before = ctx.stats();
    assert(ctx.poll(true));
    const after = ctx.stats();
    assertEquals(after.systemCalls - before.systemCalls, 1, `round ${round}`);
    assertEquals(runs, round * notifiers.length);
  }
});

onIoUring(
  "stats().systemCalls: changes of handlers wait for the iteration's one",
  (makeContext) => {
    using ctx = makeContext({ pollParams: { maxNs: 0 } });
    using stack = new DisposableStack();
    const notifiers = Array.from({ length: 10 }, () => stack.use(new EventNotifier()));
    let runs = 0;
    const attach = (notifier: EventNotifier) =>
      ctx.setFdHandler(notifier.fd, { ioRead: () => (notifier.testAndClear(), runs++) });
    notifiers.forEach(attach);
    ctx.poll(false);
    for (let round = 1; round <= 20; round++) {
      for (const notifier of notifiers.slice(1)) ctx.setFdHandler(notifier.fd, null);
      notifiers.slice(1).forEach(attach);
      notifiers[0].set();
      const before = ctx.stats().systemCalls;
      assert(ctx.poll(true));
      assertEquals(ctx.stats().systemCalls - before, 1);
      assertEquals(runs, round);
    }
  },
);

onIoUring("stats().systemCalls: none while polling finds the work", (makeContext) => {
  using ctx = makeContext({ clock: new ManualClock(), pollParams: { idleNs: Infinity } });
  using device = new Device("word");
  device.attach(ctx);
  device.post();
  assert(ctx.poll(true));
  device.postSilently();
  assert(ctx.poll(true));
  const before = ctx.stats();
  for (let request = 0; request < 1000; request++) {
    device.postSilently();
    assert(ctx.poll(true));
  }
  const after = ctx.stats();
  assertEquals([after.systemCalls - before.systemCalls, after.waits - before.waits], [0, 0]);
  assertEquals([after.pollHits - before.pollHits, after.polls - before.polls], [1000, 1000]);
});

onIoUring(
  "stats().systemCalls: an iteration with nothing to do and nothing new is free",
  (makeContext) => {
    using ctx = makeContext();
    using notifier = new EventNotifier();
    ctx.setFdHandler(notifier.fd, { ioRead() {} });
    ctx.poll(false);
    const before = ctx.stats().systemCalls;
    for (let poll = 0; poll < 100; poll++) assert(!ctx.poll(false));
    assertEquals(ctx.stats().systemCalls - before, 0);
  },
);

eachFdmon(
  "notify: no system call on the own thread, none by a waker while awake",
  (makeContext) => {
    using ctx = makeContext();
    ctx.poll(false);
    const before = ctx.stats().systemCalls;
    for (let count = 0; count < 100; count++) ctx.notify();
    assertEquals(ctx.stats().systemCalls - before, 0);
    assert(!ctx.poll(true));
  },
);

eachFdmon("stats(): a wait of poll or epoll is one system call", (makeContext) => {
  using ctx = makeContext({ pollParams: { maxNs: 0 } });
  using notifier = new EventNotifier();
  ctx.setFdHandler(notifier.fd, { ioRead: () => notifier.testAndClear() });
  for (let round = 0; round < 10; round++) {
    notifier.set();
    const before = ctx.stats();
    assert(ctx.poll(true));
    const after = ctx.stats();
    assertEquals(after.systemCalls - before.systemCalls, 1);
    assertEquals(after.waits - before.waits, 1);
    assertEquals(after.dispatches - before.dispatches, 1);
  }
}, ["epoll", "poll"]);
