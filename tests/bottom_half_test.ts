/** Bottom halves, on every backend by name. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import type { BottomHalf } from "../mod.ts";
import { eachFdmon } from "./each_fdmon.ts";

eachFdmon("schedule: runs at poll, once, and not before", (makeContext) => {
  using ctx = makeContext();
  let runs = 0;
  const half = ctx.bottomHalf(() => runs++);
  half.schedule();
  half.schedule();
  assertEquals([runs, half.scheduled], [0, true]);
  assert(ctx.poll(true));
  assertEquals([runs, half.scheduled], [1, false]);
  assert(!ctx.poll(false));
  assertEquals(runs, 1);
});

eachFdmon("schedule: ten self-reschedules take ten polls", (makeContext) => {
  using ctx = makeContext();
  let runs = 0;
  const half = ctx.bottomHalf(() => {
    if (++runs < 10) half.schedule();
  });
  half.schedule();
  for (let poll = 1; poll <= 10; poll++) {
    assert(ctx.poll(true));
    assertEquals(runs, poll);
  }
  assert(!ctx.poll(false));
  assertEquals(runs, 10);
});

eachFdmon("schedule: first scheduled, first run", (makeContext) => {
  using ctx = makeContext();
  const order: number[] = [];
  const halves = [0, 1, 2, 3].map((number) => ctx.bottomHalf(() => order.push(number)));
  for (const number of [2, 0, 3, 1]) halves[number].schedule();
  ctx.poll(false);
  assertEquals(order, [2, 0, 3, 1]);
});

eachFdmon("schedule: what a bottom half schedules waits for the next pass", (makeContext) => {
  using ctx = makeContext();
  const order: string[] = [];
  const second = ctx.bottomHalf(() => order.push("second"));
  ctx.bottomHalf(() => {
    order.push("first");
    second.schedule();
  }).schedule();
  ctx.poll(false);
  assertEquals(order, ["first"]);
  ctx.poll(false);
  assertEquals(order, ["first", "second"]);
});

eachFdmon("cancel: a scheduled one does not run and can be scheduled again", (makeContext) => {
  using ctx = makeContext();
  let runs = 0;
  const half = ctx.bottomHalf(() => runs++);
  half.schedule();
  half.cancel();
  assert(!ctx.poll(false));
  assertEquals([runs, ctx.stats().bottomHalves], [0, 0]);
  half.schedule();
  assert(ctx.poll(false));
  assertEquals(runs, 1);
});

eachFdmon("delete: while scheduled, it does not run and refuses to be scheduled", (makeContext) => {
  using ctx = makeContext();
  let runs = 0;
  const half = ctx.bottomHalf(() => runs++, { name: "doomed" });
  half.schedule();
  half.delete();
  assert(!ctx.poll(false));
  assertEquals(runs, 0);
  const message = "Cannot schedule bottom half as it was deleted: doomed";
  assertThrows(() => half.schedule(), TypeError, message);
  assertThrows(() => half.scheduleIdle(), TypeError, message);
});

eachFdmon("delete: in the own callback, one and many", (makeContext) => {
  using ctx = makeContext();
  for (const count of [1, 5]) {
    const runs: number[] = [];
    const halves: BottomHalf[] = [];
    for (let number = 0; number < count; number++) {
      halves.push(ctx.bottomHalf(() => {
        runs.push(number);
        halves[number].delete();
      }));
    }
    for (const half of halves) half.schedule();
    assert(ctx.poll(true));
    assertEquals(runs, [...runs.keys()]);
    assertEquals(runs.length, count);
    assert(!ctx.poll(false));
  }
});

eachFdmon("delete: by an earlier one of the same pass", (makeContext) => {
  using ctx = makeContext();
  let runs = 0;
  const victim = ctx.bottomHalf(() => runs++);
  ctx.bottomHalf(() => victim.delete()).schedule();
  victim.schedule();
  assert(ctx.poll(true));
  assertEquals([runs, ctx.stats().bottomHalves], [0, 0]);
});

eachFdmon("flush: polling until no progress runs what others scheduled", (makeContext) => {
  using ctx = makeContext();
  let left = 3;
  const half = ctx.bottomHalf(() => {
    if (--left > 0) half.schedule();
  });
  half.schedule();
  while (ctx.poll(false));
  assertEquals(left, 0);
});

eachFdmon("scheduleIdle: runs without being progress; schedule makes it urgent", (makeContext) => {
  using ctx = makeContext();
  let runs = 0;
  const half = ctx.bottomHalf(() => runs++);
  half.scheduleIdle();
  assert(!ctx.poll(false));
  assertEquals(runs, 1);
  half.scheduleIdle();
  half.schedule();
  half.scheduleIdle();
  assert(ctx.poll(true));
  assertEquals([runs, ctx.stats().bottomHalves], [2, 0]);
});

eachFdmon("scheduleIdle: bounds a blocking poll by 10 ms, not 0", (makeContext) => {
  using ctx = makeContext();
  const half = ctx.bottomHalf(() => {});
  let longestNs = 0;
  // A signal, or the end of another test's ring, may cut a wait short.
  for (let attempt = 0; attempt < 3; attempt++) {
    half.scheduleIdle();
    const startNs = ctx.now();
    assert(!ctx.poll(true));
    assert(!half.scheduled);
    longestNs = Math.max(longestNs, ctx.now() - startNs);
  }
  assert(longestNs >= 9e6, `an idle bottom half made the loop spin: ${longestNs} ns`);
});

eachFdmon("scheduleOneshot: runs once, in order with the others", (makeContext) => {
  using ctx = makeContext();
  const order: number[] = [];
  ctx.scheduleOneshot(() => order.push(1));
  ctx.scheduleOneshot(() => order.push(2));
  assert(ctx.poll(true));
  assert(!ctx.poll(false));
  assertEquals(order, [1, 2]);
});

eachFdmon("poll: an error of a bottom half comes after the others have run", (makeContext) => {
  using ctx = makeContext();
  let runs = 0;
  const boom = () => {
    throw new Error("boom");
  };
  ctx.scheduleOneshot(boom);
  ctx.scheduleOneshot(() => runs++);
  assertThrows(() => ctx.poll(true), Error, "boom");
  assertEquals(runs, 1);
  ctx.scheduleOneshot(boom);
  ctx.scheduleOneshot(boom);
  assertThrows(() => ctx.poll(true), AggregateError, "2 callbacks failed");
  assert(!ctx.poll(false));
});
