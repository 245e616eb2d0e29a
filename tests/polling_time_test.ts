/** The adaptive rule as a table, and how a context applies it. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { AioContext, ManualClock } from "../mod.ts";
import { nextPollNs, type PollParams } from "../src/polling_time.ts";
import { Device } from "./device.ts";
import { eachFdmon } from "./each_fdmon.ts";

const BASE: PollParams = { maxNs: 32_768, grow: 0, shrink: 0, idleNs: 7e9, weight: 0 };

const TABLE: readonly [
  what: string,
  current: number,
  block: number,
  next: number,
  changes?: object,
][] = [
  ["polled long enough: keep", 8_000, 8_000, 8_000],
  ["polled longer than needed: keep", 8_000, 10, 8_000],
  ["not blocked at all: keep", 0, 0, 0],
  ["first growth starts at 4 us", 0, 1, 4_000],
  ["doubles", 4_000, 4_001, 8_000],
  ["grows by the factor", 4_000, 5_000, 12_000, { grow: 3 }],
  ["grows no further than the limit", 20_000, 30_000, 32_768],
  ["first growth no further than the limit", 0, 500, 1_000, { maxNs: 1_000 }],
  ["at the limit already: keep", 32_768, 32_768, 32_768],
  ["blocked exactly for the limit: keep", 8_000, 32_768, 8_000],
  ["blocked beyond the limit: start again", 16_000, 32_769, 0],
  ["blocked beyond the limit: divide", 16_000, 1e9, 8_000, { shrink: 2 }],
  ["divides to whole ns", 1, 1e9, 0, { shrink: 2 }],
  ["nothing to shrink", 0, 1e9, 0],
  ["above a lowered limit and blocked beyond it: shrink", 16_000, 20_000, 0, { maxNs: 5_000 }],
];

for (const [what, current, block, next, changes] of TABLE) {
  Deno.test(`nextPollNs: ${what}`, () => {
    assertEquals(nextPollNs(current, block, { ...BASE, ...changes }), next);
  });
}

Deno.test("setPollParams: bad values are refused, the old ones stay", () => {
  using ctx = new AioContext();
  const before = ctx.pollParams;
  for (const name of ["maxNs", "grow", "shrink", "idleNs", "weight"] as const) {
    for (const bad of [-1, 1.5, NaN, "1", null, 2 ** 60, -Infinity]) {
      const error = assertThrows(
        () => ctx.setPollParams({ maxNs: 5, [name]: bad as number } as object),
        RangeError,
        `Cannot set poll parameter ${name} as it is not a whole number >= 0`,
      );
      assert(error.message.endsWith(String(bad)));
    }
  }
  assertThrows(() => ctx.setPollParams({ weight: 17 }), RangeError, "weight as it is above 16: 17");
  assertThrows(() => ctx.setPollParams({ grow: 1 }), RangeError, "a factor of 1 never grows: 1");
  assertThrows(() => ctx.setPollParams(7 as never), TypeError, "they are not an object: 7");
  assertThrows(() => ctx.setPollParams({ maxNs: Infinity }), RangeError);
  assertEquals(ctx.pollParams, before);
  ctx.setPollParams({ idleNs: Infinity, shrink: 3 });
  assertEquals(ctx.pollParams, { ...before, idleNs: Infinity, shrink: 3 });
});

eachFdmon(
  "poll: a handler's polling time grows with short blocks, shrinks with long ones",
  (makeContext) => {
    const clock = new ManualClock(1e9, 10);
    using ctx = makeContext({ clock, pollParams: { idleNs: Infinity, weight: 0 } });
    using device = new Device();
    const traced: (readonly [string, number, number])[] = [];
    ctx.trace.on("poll_grow", (event) => traced.push(["grow", event.old, event.new]));
    ctx.trace.on("poll_shrink", (event) => traced.push(["shrink", event.old, event.new]));
    device.attach(ctx);
    device.post();
    assert(ctx.poll(true));
    assertEquals(traced, [["grow", 0, 4_000]]);
    // Polling for 4 us finds nothing; the event comes by the fd while the loop leaves poll mode.
    for (let round = 0; round < 3; round++) {
      device.whenEnded = () => device.post();
      assert(ctx.poll(true));
    }
    const growth: typeof traced = [
      ["grow", 4_000, 8_000],
      ["grow", 8_000, 16_000],
      ["grow", 16_000, 32_000],
    ];
    assertEquals(traced.slice(1), growth);
    device.whenEnded = () => {
      clock.advance(1e6);
      device.post();
    };
    traced.length = 0;
    assert(ctx.poll(true));
    assertEquals(traced.map(([name, , to]) => [name, to]), [["shrink", 0]]);
  },
);

eachFdmon("poll: time spent in callbacks is not block time", (makeContext) => {
  const clock = new ManualClock(1e9, 10);
  using ctx = makeContext({ clock, pollParams: { idleNs: Infinity } });
  using device = new Device();
  let shrinks = 0;
  ctx.trace.on("poll_shrink", () => shrinks++);
  device.attach(ctx);
  device.post();
  assert(ctx.poll(true));
  device.whenReady = () => clock.advance(1e9);
  for (let round = 0; round < 10; round++) {
    device.whilePolled = () => device.post();
    assert(ctx.poll(true));
  }
  assertEquals([shrinks, device.kicks, device.handled], [0, 1, 11]);
});

eachFdmon("setPollParams: zeroes what was learned", (makeContext) => {
  using ctx = makeContext({ clock: new ManualClock(), pollParams: { idleNs: Infinity } });
  using device = new Device();
  device.attach(ctx);
  device.post();
  assert(ctx.poll(true));
  ctx.setPollParams({ maxNs: 10_000 });
  const grown: unknown[] = [];
  ctx.trace.on("poll_grow", (event) => grown.push(event));
  device.post();
  assert(ctx.poll(true));
  assertEquals(grown, [{ old: 0, new: 4_000 }]);
});
