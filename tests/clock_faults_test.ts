/** Clocks of callers that do not do what a clock has to. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { type AioContext, type Clock, EventNotifier, ManualClock } from "../mod.ts";
import { Device } from "./device.ts";
import { eachFdmon, type MakeContext } from "./each_fdmon.ts";

/** A clock whose readings a test makes up; counts them. */
class MadeUpClock implements Clock {
  readings = 0;
  read: () => unknown = () => performance.now() * 1e6;

  now(): number {
    this.readings++;
    return this.read() as number;
  }
}

/** A context on such a clock with a device that was active just now, so that it is polled. */
function polled(makeContext: MakeContext, clock: Clock, device: Device): AioContext {
  const ctx = makeContext({ clock, pollParams: { maxNs: 1e9, idleNs: Infinity } });
  device.attach(ctx);
  device.post();
  assert(ctx.poll(true));
  return ctx;
}

const NO_TIMES: readonly unknown[] = [NaN, Infinity, -Infinity, "7", "x", null, undefined, {}, 7n];

for (const [index, value] of NO_TIMES.entries()) {
  const shown = `${typeof value} ${index}`;
  eachFdmon(`Clock: a reading that is no time is an error of poll: ${shown}`, (makeContext) => {
    const clock = new MadeUpClock();
    using device = new Device();
    using ctx = polled(makeContext, clock, device);
    const good = clock.read;
    let fired = 0;
    for (let round = 1; round <= 3; round++) {
      clock.read = () => value;
      device.post();
      // Events are served all the same, and nothing sleeps with the error in hand.
      const error = thrownBy(() => ctx.poll(true));
      const errors = error instanceof AggregateError ? error.errors : [error];
      for (const each of errors) {
        assert(each instanceof TypeError);
        assert(each.message.startsWith("Cannot use the clock as now() is not a finite number: "));
      }
      clock.read = good;
      device.post();
      while (device.pending !== 0) ctx.poll(true);
      ctx.timer(() => fired++).arm(0);
      while (fired < round) ctx.poll(true);
    }
    ctx.setFdHandler(device.notifier.fd, null);
    assert(device.notificationsOn);
  });
}

eachFdmon("Clock: what it throws is thrown by poll, and by it alone", (makeContext) => {
  const clock = new MadeUpClock();
  using device = new Device();
  using ctx = polled(makeContext, clock, device);
  for (const skip of [0, 1, 2, 3, 5, 8]) {
    const failing = { left: skip };
    clock.read = () => {
      if (failing.left-- > 0) return performance.now() * 1e6;
      throw new Error(`reading ${skip}`);
    };
    let error: unknown;
    while (error === undefined) {
      ctx.timer(() => {}).arm(performance.now() * 1e6 + 1e5);
      error = thrownBy(() => ctx.poll(true));
    }
    const errors = error instanceof AggregateError ? error.errors : [error];
    for (const each of errors) assertEquals((each as Error).message, `reading ${skip}`);
  }
  clock.read = () => performance.now() * 1e6;
  device.post();
  while (device.pending !== 0) ctx.poll(true);
  ctx.setFdHandler(device.notifier.fd, null);
  // With the iteration over for every observer, the deleted handler is released.
  assertEquals([ctx.stats().handlers, ctx.stats().deleted], [0, 0]);
});

for (
  const [what, read] of [
    ["stands still", () => 5e9],
    ["has a time too large to move on", () => 1e300],
    ["swings", (readings: number) => 5e9 + (readings % 7)],
    ["goes back", (readings: number) => 5e15 - readings * 1e6],
  ] as const
) {
  eachFdmon(`Clock: one that ${what} does not keep the loop polling`, (makeContext) => {
    const clock = new MadeUpClock();
    using device = new Device();
    using ctx = polled(makeContext, clock, device);
    clock.read = () => read(clock.readings);
    const before = clock.readings;
    ctx.timer(() => {}).arm(1.1e300);
    // The loop gives up polling and is about to sleep; what comes just then keeps it awake.
    device.whenEnded = () => device.post();
    device.whilePolled = () => {
      if (clock.readings - before > 1_000_000) throw new Error("still polling");
    };
    assert(ctx.poll(true));
    assertEquals(device.pending, 0);
    device.whenEnded = null;
    ctx.setFdHandler(device.notifier.fd, null);
  });
}

eachFdmon("Clock: going back delays timers and loses none", (makeContext) => {
  const clock = new ManualClock(50e9);
  let backNs = 0;
  using ctx = makeContext({ clock: { now: () => clock.now() - backNs } });
  let fired = "";
  ctx.timer(() => fired += "b").arm(ctx.now() + 2e6);
  ctx.timer(() => fired += "a").arm(ctx.now() + 1e6);
  backNs = 40e9;
  for (let round = 0; round < 3; round++) ctx.poll(false);
  assertEquals(fired, "");
  clock.advance(40e9 + 1.5e6);
  ctx.poll(false);
  assertEquals(fired, "a");
  clock.advance(1e6);
  ctx.poll(false);
  assertEquals(fired, "ab");
});

Deno.test("ManualClock: a start or step that is no number of ns is refused", () => {
  for (const value of [NaN, -1, Infinity, "5", 5n, null, {}]) {
    const call = () => new ManualClock(value as number);
    assertThrows(call, RangeError, "start is not a time in ns");
    const step = () => new ManualClock(0, value as number);
    assertThrows(step, RangeError, "step is not a time in ns");
    const advance = () => new ManualClock().advance(value as number);
    assertThrows(advance, RangeError, "advance is not a time in ns");
  }
});

eachFdmon("Clock: may poll its context, and an fd event is served once", (makeContext) => {
  const clock = new MadeUpClock();
  using notifier = new EventNotifier();
  using ctx = makeContext({ clock, pollParams: { maxNs: 1e6 } });
  let reads = 0, nested = 0;
  ctx.setFdHandler(notifier.fd, { ioRead: () => (notifier.testAndClear(), reads++) });
  clock.read = () => {
    if (nested++ < 3) ctx.poll(false);
    return performance.now() * 1e6;
  };
  notifier.set();
  ctx.timer(() => {}).arm(performance.now() * 1e6 + 1e9);
  while (reads === 0) ctx.poll(true);
  for (let round = 0; round < 3; round++) ctx.poll(false);
  assertEquals(reads, 1);
});

function thrownBy(call: () => void): unknown {
  try {
    call();
  } catch (error) {
    return error;
  }
}
