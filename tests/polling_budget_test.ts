/** The weighted rule: its arithmetic, the maximum over all handlers, and what a context makes of it. */
import { assert, assertEquals } from "@std/assert";
import { ManualClock } from "../mod.ts";
import { AioHandler, readFdHandler } from "../src/aio_handler.ts";
import { IntrusiveList } from "../src/intrusive_list.ts";
import { IterationTimes } from "../src/iteration_times.ts";
import { PollingBudget } from "../src/polling_budget.ts";
import {
  defaultPollParams,
  nextAverageNs,
  nextPollNs,
  type PollParams,
  weightedPollNs,
} from "../src/polling_time.ts";
import { Trace } from "../src/trace.ts";
import { run } from "./child.ts";
import { Device } from "./device.ts";
import { eachFdmon } from "./each_fdmon.ts";

const BASE: PollParams = { maxNs: 32_768, grow: 0, shrink: 0, idleNs: 7e9, weight: 3 };

const AVERAGES: readonly [what: string, average: number, interval: number, next: number][] = [
  ["the first interval is the mean", 0, 10_000, 10_000],
  ["an equal one changes nothing", 8_000, 8_000, 8_000],
  ["a longer one counts an eighth", 8_000, 16_000, 9_000],
  ["a shorter one counts an eighth", 16_000, 8_000, 15_000],
  ["a pause counts as twice the limit", 8_000, 1e12, 8_000 + (65_536 - 8_000) / 8],
  ["a first pause too", 0, 1e12, 65_536],
];

for (const [what, average, interval, next] of AVERAGES) {
  Deno.test(`nextAverageNs: ${what}`, () => {
    assertEquals(nextAverageNs(average, interval, BASE), next);
  });
}

const POLL_TIMES: readonly [
  what: string,
  current: number,
  average: number,
  next: number,
  changes?: object,
][] = [
  ["twice the mean, rounded up to a doubling", 0, 5_000, 16_000],
  ["a multiple of the mean", 0, 5_000, 16_000, { grow: 3 }],
  ["at least 4 us", 0, 100, 4_000],
  ["no longer than the limit", 4_000, 30_000, 32_768],
  ["no polling for a mean well beyond the limit", 32_768, 40_961, 0],
  ["still for one just below that", 32_768, 40_959, 32_768],
  ["not again before the mean is within the limit", 0, 32_769, 0],
  ["but then, however close: a mean includes wake-ups", 0, 32_768, 32_768],
  ["4 us where nothing is known", 0, 0, 4_000],
  ["no longer than a small limit", 0, 0, 1_000, { maxNs: 1_000 }],
  ["kept while a quarter would not do", 16_000, 2_001, 16_000],
  ["shorter once it would", 16_000, 2_000, 4_000],
];

for (const [what, current, average, next, changes] of POLL_TIMES) {
  Deno.test(`weightedPollNs: ${what}`, () => {
    assertEquals(weightedPollNs(current, average, { ...BASE, ...changes }), next);
  });
}

for (const weight of [0, 3]) {
  Deno.test(`PollingBudget: the maximum in random order against a model, weight ${weight}`, () => {
    const seed = Math.floor(Math.random() * 2 ** 32);
    let random = seed;
    const below = (limit: number) => {
      random = (Math.imul(random, 1664525) + 1013904223) >>> 0;
      return Math.floor(random / 2 ** 32 * limit);
    };
    const params = { ...BASE, weight };
    const times = new IterationTimes(new ManualClock(), () => {});
    const budget = new PollingBudget(times, new Trace(() => {}));
    const list = new IntrusiveList<AioHandler>(), ready = new IntrusiveList<AioHandler>();
    const callbacks = { ioRead() {}, ioPoll: () => false, ioPollReady() {} };
    const handlers = Array.from(
      { length: 20 },
      (_, fd) => new AioHandler(fd, readFdHandler(fd, callbacks, -1)!),
    );
    const model = handlers.map(() => ({ pollNs: 0, averageNs: 0, lastNs: 0 }));
    /** Blocked time at the latest event of a handler with each polling time. */
    const latest = new Map<number, number>();
    let blockedNs = 0;
    for (let step = 0; step < 50_000; step++) {
      const place = () => `seed ${seed}, step ${step}`;
      const handler = handlers[below(handlers.length)];
      const known = model[handler.fd];
      if (below(4) === 0) {
        if (handler.listed) {
          list.remove(handler.pollLink);
          budget.remove(handler);
        } else {
          list.append(handler.pollLink);
          budget.add(handler);
        }
      } else {
        const blockNs = below(8) === 0 ? 1 + below(100_000) : 1 + below(10_000);
        times.startNs = 1e9;
        times.endNs = 1e9 + blockNs;
        blockedNs += blockNs;
        ready.append(handler.readyLink);
        budget.learn(ready, params);
        ready.remove(handler.readyLink);
        handler.adjusted = false;
        if (weight === 0) known.pollNs = nextPollNs(known.pollNs, blockNs, params);
        else {
          if (known.lastNs !== 0) {
            if (blockedNs - known.lastNs > params.maxNs) known.pollNs = 0;
            known.averageNs = nextAverageNs(known.averageNs, blockedNs - known.lastNs, params);
          }
          known.pollNs = weightedPollNs(known.pollNs, known.averageNs, params);
          known.lastNs = blockedNs;
        }
        latest.set(known.pollNs, blockedNs);
      }
      const longest = budget.longest(params);
      // Whoever has the same polling time as one with an event counts as long as that one.
      let least = 0, most = 0;
      for (const { listed, fd } of handlers) {
        const { pollNs, lastNs } = model[fd];
        const silentNs = weight === 0 ? 0 : blockedNs - params.maxNs;
        if (listed && lastNs >= silentNs) least = Math.max(least, pollNs);
        if (listed && (latest.get(pollNs) ?? 0) >= silentNs) most = Math.max(most, pollNs);
      }
      assert(longest >= least && longest <= most, `${least} ${longest} ${most}, ${place()}`);
    }
  });
}

eachFdmon("poll: a handler that falls silent is not polled for, its event is", (makeContext) => {
  const clock = new ManualClock(1e9, 10);
  using ctx = makeContext({ clock, pollParams: { idleNs: Infinity, weight: 3 } });
  using busy = new Device();
  using slow = new Device();
  busy.attach(ctx);
  slow.attach(ctx);
  let runs = 0;
  ctx.trace.on("run_poll_handlers_begin", ({ maxNs }) => runs += Math.sign(maxNs));
  for (const device of [busy, slow]) {
    device.post();
    assert(ctx.poll(true));
  }
  for (let round = 0; round < 10; round++) {
    busy.whilePolled = () => busy.post();
    assert(ctx.poll(true));
  }
  busy.whilePolled = null;
  assert(runs > 0);
  // The slow one has its event at last, while the loop leaves poll mode.
  slow.whenEnded = () => {
    slow.whenEnded = null;
    clock.advance(1e6);
    slow.post();
  };
  assert(ctx.poll(true));
  const before = runs;
  assert(ctx.poll(true));
  busy.post();
  assert(ctx.poll(true));
  assertEquals([runs, slow.handled, slow.count("kick")], [before, 2, 2]);
  busy.whilePolled = () => busy.post();
  assert(ctx.poll(true));
  assertEquals([runs, busy.kicks], [before + 1, 2]);
});

eachFdmon("poll: one pause in a steady load costs one kick", (makeContext) => {
  const clock = new ManualClock(1e9, 10);
  using ctx = makeContext({ clock, pollParams: { idleNs: Infinity, weight: 3 } });
  using device = new Device();
  device.attach(ctx);
  const steady = (events: number) => {
    for (let event = 0; event < events; event++) {
      device.whilePolled = () => {
        device.whilePolled = null;
        device.post();
      };
      assert(ctx.poll(true));
    }
  };
  device.post();
  assert(ctx.poll(true));
  steady(100);
  assertEquals(device.kicks, 1);
  for (let pause = 1; pause <= 5; pause++) {
    // The event after the pause comes as the loop leaves poll mode, with the kick it then takes.
    device.whenEnded = () => {
      device.whenEnded = null;
      clock.advance(1e9);
      device.post();
    };
    assert(ctx.poll(true));
    steady(100);
    assertEquals(device.kicks, pause + 1);
  }
});

Deno.test("AioContext: polling is off by default where there is one processor", async () => {
  assertEquals([defaultPollParams(1).maxNs, defaultPollParams(2).maxNs], [0, 32_768]);
  const text = 'import { AioContext } from "./mod.ts";' +
    "using ctx = new AioContext(); console.log(ctx.pollParams.maxNs);" +
    "ctx.setPollParams({ maxNs: 5 }); console.log(ctx.pollParams.maxNs);";
  const deno = [Deno.execPath(), "eval", text];
  assertEquals((await run(["taskset", "-c", "0", ...deno])).stdout, "0\n5\n");
});
