/** Idle poll handlers leave the poll list and come back; the interval by a manual clock. */
import { assert, assertEquals } from "@std/assert";
import { type AioContext, ManualClock } from "../mod.ts";
import { Device } from "./device.ts";
import { eachFdmon, onIoUring } from "./each_fdmon.ts";

const IDLE_NS = 7e9;

/** Makes one event arrive through the fd, which lists the device's handler. */
function list(ctx: AioContext, device: Device): void {
  device.attach(ctx);
  device.post();
  while (device.pending > 0) assert(ctx.poll(true));
}

/** One non-blocking iteration that polls. */
function pollOnce(ctx: AioContext, busy: Device): void {
  busy.postSilently();
  assert(ctx.poll(true));
}

for (const poll of ["function", "word"] as const) {
  onIoUring(`idle removal: of a ${poll}, at the interval and not before`, (makeContext) => {
    const clock = new ManualClock();
    using ctx = makeContext({ clock });
    using idle = new Device(poll);
    using busy = new Device();
    list(ctx, idle);
    list(ctx, busy);
    const removed: unknown[] = [];
    ctx.trace.on("poll_remove", (event) => removed.push(event.fd));
    // The interval of both is armed here.
    pollOnce(ctx, busy);
    assertEquals([ctx.stats().listed, idle.notificationsOn], [2, false]);
    clock.advance(IDLE_NS - 1e6);
    pollOnce(ctx, busy);
    assertEquals([ctx.stats().listed, removed.length, idle.count("end")], [2, 0, 0]);
    clock.advance(1e6);
    pollOnce(ctx, busy);
    assertEquals([ctx.stats().listed, ctx.stats().idleRemovals], [1, 1]);
    assertEquals(removed, [idle.notifier.fd]);
    assertEquals([idle.count("end"), idle.notificationsOn], [1, true]);
    const { polls } = idle;
    pollOnce(ctx, busy);
    assertEquals(idle.polls, polls, "polled after its removal");
    assert(busy.notificationsOn === false, "the busy one has been removed too");
  });
}

onIoUring(
  "idle removal: back on the first fd event, with poll_add and ioPollBegin",
  (makeContext) => {
    const clock = new ManualClock();
    using ctx = makeContext({ clock });
    using idle = new Device();
    using busy = new Device();
    list(ctx, idle);
    list(ctx, busy);
    pollOnce(ctx, busy);
    clock.advance(IDLE_NS);
    pollOnce(ctx, busy);
    assertEquals(ctx.stats().listed, 1);
    const added: number[] = [];
    ctx.trace.on("poll_add", ({ fd, revents }) => added.push(fd, revents));
    const begins = idle.count("begin");
    const kicks = idle.kicks;
    idle.post();
    assertEquals(idle.kicks, kicks + 1);
    while (idle.pending > 0) assert(ctx.poll(true));
    assertEquals(ctx.stats().listed, 2);
    assertEquals(added, [idle.notifier.fd, 1]);
    assertEquals(idle.count("begin"), begins + 1);
    // From here on it is polled again.
    idle.postSilently();
    while (idle.pending > 0) assert(ctx.poll(true));
    assertEquals(idle.kicks, kicks + 1);
  },
);

for (const poll of ["function", "word"] as const) {
  onIoUring(`idle removal: the final poll of a ${poll} catches the race`, (makeContext) => {
    const clock = new ManualClock();
    using ctx = makeContext({ clock });
    using idle = new Device(poll);
    using busy = new Device();
    list(ctx, idle);
    list(ctx, busy);
    pollOnce(ctx, busy);
    // The guest posts just before its notifications are on again: there is no kick.
    idle.whenEnded = () => {
      idle.whenEnded = null;
      idle.postSilently();
    };
    clock.advance(IDLE_NS);
    const before = idle.handled;
    pollOnce(ctx, busy);
    assertEquals([idle.count("end"), idle.handled], [1, before + 1]);
    assertEquals(ctx.stats().listed, 2, "activity lists it again");
  });
}

onIoUring("idle removal: an event refreshes the interval, its own alone", (makeContext) => {
  const clock = new ManualClock();
  using ctx = makeContext({ clock });
  using stack = new DisposableStack();
  const devices = Array.from({ length: 4 }, () => stack.use(new Device()));
  for (const device of devices) list(ctx, device);
  const [busy, first, second, third] = devices;
  pollOnce(ctx, busy);
  clock.advance(IDLE_NS / 2);
  second.postSilently();
  assert(ctx.poll(true));
  clock.advance(IDLE_NS / 2 + 1);
  pollOnce(ctx, busy);
  assertEquals(ctx.stats().listed, 2);
  assertEquals([first, second, third].map((device) => device.count("end")), [1, 0, 1]);
  clock.advance(IDLE_NS / 2);
  pollOnce(ctx, busy);
  assertEquals(second.count("end"), 1);
});

onIoUring("idle removal: setPollParams changes the interval; Infinity keeps all", (makeContext) => {
  const clock = new ManualClock();
  using ctx = makeContext({ clock, pollParams: { idleNs: Infinity } });
  using idle = new Device();
  using busy = new Device();
  list(ctx, idle);
  list(ctx, busy);
  pollOnce(ctx, busy);
  clock.advance(1e12);
  pollOnce(ctx, busy);
  assertEquals(ctx.stats().listed, 2);
  ctx.setPollParams({ idleNs: 1e6 });
  // The learned times are gone, so an event has to come through the fd once more.
  busy.attach(ctx);
  list(ctx, busy);
  pollOnce(ctx, busy);
  clock.advance(1e6);
  pollOnce(ctx, busy);
  assertEquals(ctx.stats().idleRemovals, 1);
});

eachFdmon("idle removal: never on a backend that has to be asked", (makeContext) => {
  const clock = new ManualClock();
  using ctx = makeContext({ clock });
  using idle = new Device();
  using busy = new Device();
  list(ctx, idle);
  list(ctx, busy);
  pollOnce(ctx, busy);
  const ends = idle.count("end");
  for (let round = 0; round < 20; round++) {
    clock.advance(IDLE_NS);
    pollOnce(ctx, busy);
  }
  assertEquals([ctx.stats().listed, ctx.stats().idleRemovals], [2, 0]);
  assertEquals(idle.count("end"), ends);
}, ["epoll", "poll"]);

onIoUring("idle removal: 3,200 idle handlers leave in one iteration", (makeContext) => {
  const clock = new ManualClock();
  using ctx = makeContext({ clock });
  using stack = new DisposableStack();
  const idle = Array.from({ length: 3200 }, (_, index) => {
    return stack.use(new Device(index % 2 === 0 ? "function" : "word"));
  });
  for (const device of idle) list(ctx, device);
  const busy = stack.use(new Device());
  list(ctx, busy);
  pollOnce(ctx, busy);
  clock.advance(IDLE_NS);
  pollOnce(ctx, busy);
  assertEquals([ctx.stats().listed, ctx.stats().idleRemovals], [1, 3200]);
  // Every one of them is watched by its fd again.
  for (const device of idle) device.post();
  while (idle.some((device) => device.pending > 0)) assert(ctx.poll(true));
  assertEquals(ctx.stats().listed, 3201);
});
