/** Timers, on every backend by name, and the clock they are measured with. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { EventNotifier, ManualClock } from "../mod.ts";
import { eachFdmon } from "./each_fdmon.ts";

eachFdmon("timer: fires at its deadline, not before", (makeContext) => {
  const clock = new ManualClock();
  using ctx = makeContext({ clock });
  let fired = 0;
  const timer = ctx.timer(() => fired++);
  const deadlineNs = ctx.now() + 1e6;
  timer.arm(deadlineNs);
  assertEquals([timer.armed, timer.deadlineNs], [true, deadlineNs]);
  clock.advance(deadlineNs - ctx.now() - 100);
  assert(!ctx.poll(false));
  assertEquals(fired, 0);
  clock.advance(100);
  assert(ctx.poll(false));
  assertEquals([fired, timer.armed, ctx.stats().timers], [1, false, 0]);
  assert(!ctx.poll(false));
});

eachFdmon("timer: a blocking poll returns for it, and not early", (makeContext) => {
  using ctx = makeContext();
  let firedNs = 0;
  const timer = ctx.timer(() => firedNs = ctx.now());
  for (let round = 0; round < 5; round++) {
    const deadlineNs = ctx.now() + 2e6;
    timer.arm(deadlineNs);
    // A signal may end one wait early, but never fires the timer.
    while (!ctx.poll(true));
    assert(firedNs >= deadlineNs, `${deadlineNs - firedNs} ns early`);
  }
});

eachFdmon("timer: armed again in its callback, each arming fires once", (makeContext) => {
  using ctx = makeContext();
  const firings: number[] = [];
  const timer = ctx.timer(() => {
    firings.push(firings.length);
    if (firings.length < 5) timer.arm(ctx.now() + 1e5);
  });
  timer.arm(ctx.now());
  while (firings.length < 5) ctx.poll(true);
  assert(!ctx.poll(false));
  assertEquals(firings, [0, 1, 2, 3, 4]);
});

eachFdmon("timer: armed for the past in its callback, it fires once per poll", (makeContext) => {
  using ctx = makeContext();
  let fired = 0;
  const timer = ctx.timer(() => {
    fired++;
    timer.arm(0);
  });
  timer.arm(0);
  for (let poll = 1; poll <= 10; poll++) {
    assert(ctx.poll(true));
    assertEquals(fired, poll);
  }
});

eachFdmon("timer: equal deadlines fire in the order of arming", (makeContext) => {
  const clock = new ManualClock();
  using ctx = makeContext({ clock });
  const order: number[] = [];
  const timers = Array.from({ length: 20 }, (_, index) => ctx.timer(() => order.push(index)));
  const armed = [7, 3, 19, 0, 11, 5, 2];
  for (const index of armed) timers[index].arm(5e9);
  timers[3].arm(5e9);
  timers[1].arm(4e9);
  clock.advance(9e9);
  assert(ctx.poll(false));
  assertEquals(order, [1, 7, 19, 0, 11, 5, 2, 3]);
});

eachFdmon("timer: cancelled by an earlier one of the same run, it does not fire", (makeContext) => {
  using ctx = makeContext();
  let fired = 0;
  const victim = ctx.timer(() => fired++);
  const first = ctx.timer(() => victim.cancel());
  first.arm(0);
  victim.arm(1);
  assert(ctx.poll(true));
  assertEquals([fired, victim.armed], [0, false]);
  victim.cancel();
});

eachFdmon("timer: arming a nearer deadline shortens the wait that follows", (makeContext) => {
  using ctx = makeContext();
  let fired = 0;
  ctx.timer(() => {}).arm(ctx.now() + 3600e9);
  const near = ctx.timer(() => fired++);
  ctx.scheduleOneshot(() => near.arm(ctx.now() + 1e5));
  while (fired === 0) ctx.poll(true);
});

eachFdmon("timer: 1,000 armed and cancelled in random order against a model", (makeContext) => {
  const seed = Math.floor(Math.random() * 2 ** 31);
  let state = seed;
  const random = (limit: number) => (state = Math.imul(state, 48271) >>> 0) % limit;
  const clock = new ManualClock(0, 1e-3);
  using ctx = makeContext({ clock });
  const deadlines = new Map<number, number>();
  let fired: number[] = [];
  const timers = Array.from({ length: 1000 }, (_, index) => ctx.timer(() => fired.push(index)));
  for (let step = 0; step < 20_000; step++) {
    const index = random(timers.length);
    if (random(3) === 0) {
      timers[index].cancel();
      deadlines.delete(index);
    } else {
      const deadlineNs = step * 100 + random(100_000);
      timers[index].arm(deadlineNs);
      deadlines.delete(index);
      deadlines.set(index, deadlineNs);
    }
    if (step % 100 !== 0) continue;
    clock.advance(Math.max(0, step * 100 - clock.now()));
    ctx.poll(false);
    // A Map keeps the order of arming, and sorting is stable.
    const due = [...deadlines].filter(([, deadlineNs]) => deadlineNs <= clock.now())
      .sort(([, a], [, b]) => a - b).map(([index]) => index);
    assertEquals(fired, due, `seed ${seed}, step ${step}`);
    for (const index of due) deadlines.delete(index);
    fired = [];
    assertEquals(ctx.stats().timers, deadlines.size);
  }
});

eachFdmon("timer: a bad deadline is refused and leaves the timer as it was", (makeContext) => {
  using ctx = makeContext();
  const timer = ctx.timer(() => {});
  timer.arm(5e15);
  for (const bad of [NaN, -1, Infinity, "1", undefined, 5n]) {
    assertThrows(() => timer.arm(bad as number), RangeError, "Cannot arm a timer");
  }
  assertEquals([timer.armed, timer.deadlineNs], [true, 5e15]);
});

Deno.test("ManualClock: stands still but for its step, and refuses to go back", () => {
  const clock = new ManualClock(100, 5);
  assertEquals([clock.now(), clock.now()], [105, 110]);
  clock.advance(1000);
  assertEquals(clock.now(), 1115);
  assertThrows(() => clock.advance(-1), RangeError, "advance is not a time in ns: -1");
  assertThrows(() => new ManualClock(0, 0), RangeError, "its step is not > 0: 0");
  assertThrows(() => new ManualClock(NaN), RangeError, "start is not a time in ns: NaN");
});

eachFdmon("poll: waits for an event before the latest deadline there is", (makeContext) => {
  using ctx = makeContext({ pollParams: { maxNs: 0 } });
  using notifier = new EventNotifier();
  ctx.setFdHandler(notifier.fd, { ioRead: () => notifier.testAndClear() });
  for (const deadlineNs of [4e18, 2 ** 63, 1e19, 2e27, Number.MAX_VALUE]) {
    const timer = ctx.timer(() => {});
    timer.arm(deadlineNs);
    notifier.set();
    assert(ctx.poll(true), `${deadlineNs}`);
    timer.cancel();
  }
  ctx.setFdHandler(notifier.fd, null);
});
