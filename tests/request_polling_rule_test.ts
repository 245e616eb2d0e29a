/**
 * The rule for requests in flight, in simulated time: what it finds by polling and what it polls in
 * vain, for loads of many kinds and wake-ups that are fast and slow.
 */
import "./open_libraries.ts";
import { assert } from "@std/assert";
import { Spin } from "../ffi/spin.ts";
import { loadShim } from "../ffi/library.ts";
import { ManualClock } from "../mod.ts";
import { IterationTimes } from "../src/iteration_times.ts";
import { defaultPollParams } from "../src/polling_time.ts";
import { RequestPolling } from "../src/request_polling.ts";
import { Trace } from "../src/trace.ts";
import { Random } from "./random_values.ts";

const SEED = Number(Deno.env.get("AIO_TEST_SEED") ?? Math.floor(Math.random() * 2 ** 32));
const WAITS = 20_000;
const PARAMS = defaultPollParams(2);
const WAKE_UPS_NS: readonly number[] = [2_000, 6_000, 27_000];
/** How long a completion takes that its submission brings about. */
const AT_ONCE_NS = 3_000;

interface Load {
  readonly what: string;
  /** From the end of one wait to the next completion; 0: with its submission. */
  readonly nextNs: (wait: number, random: Random) => number;
  /** Completions, of those waited for, that polling has to find at least. */
  readonly foundMin: number;
  /** Share of the time that may be spent polling in vain. */
  readonly vainMax: number;
}

const LOADS: readonly Load[] = [
  { what: "a client at depth 1", nextNs: () => 10_000, foundMin: 0.99, vainMax: 0.001 },
  { what: "one that takes 30 us", nextNs: () => 30_000, foundMin: 0.99, vainMax: 0.001 },
  {
    what: "one that pauses every 16th time",
    nextNs: (wait) => wait % 16 === 0 ? 1e6 : 8_000,
    foundMin: 0.9,
    vainMax: 0.04,
  },
  {
    what: "one whose every other message is there",
    nextNs: (wait) => wait % 2 === 0 ? 0 : 10_000,
    foundMin: 0.99,
    vainMax: 0.001,
  },
  {
    what: "a disk beside what completes at once",
    nextNs: (wait) => wait % 2 === 0 ? 0 : 150_000,
    foundMin: 0,
    vainMax: 0.001,
  },
  { what: "a client that takes 50 us", nextNs: () => 50_000, foundMin: 0, vainMax: 0.01 },
  { what: "a disk", nextNs: () => 150_000, foundMin: 0, vainMax: 0.001 },
  {
    what: "a disk that takes 20 to 200 us",
    nextNs: (_, random) => 20_000 + random.below(180_000),
    foundMin: 0,
    vainMax: 0.02,
  },
  { what: "idle connections", nextNs: () => 1e7, foundMin: 0, vainMax: 0.001 },
  {
    what: "busy and slow by turns",
    nextNs: (wait) => (wait >> 10) % 2 === 0 ? 10_000 : 1e6,
    foundMin: 0.35,
    vainMax: 0.001,
  },
];

for (const wakeUpNs of WAKE_UPS_NS) {
  for (const { what, nextNs, foundMin, vainMax } of LOADS) {
    Deno.test(`RequestPolling: ${what}, a wake-up of ${wakeUpNs / 1000} us`, () => {
      const random = new Random(SEED);
      const clock = new ManualClock(1e9, 1);
      const times = new IterationTimes(clock, () => {});
      // It is not to run here.
      const ringSpin = new Spin<never>(loadShim(), 0n);
      const polling = new RequestPolling({ times, ringSpin, trace: new Trace(() => {}) });
      let found = 0, waited = 0, vainNs = 0, totalNs = 0;
      for (let wait = 0; wait < WAITS; wait++) {
        const completionNs = nextNs(wait, random);
        // What an iteration does; the ring itself is not asked.
        times.begin(false);
        polling.noteSubmission();
        const budgetNs = polling.budgetNs(PARAMS);
        const looks = budgetNs !== 0 || polling.isLookDue();
        if (completionNs === 0) {
          totalNs += AT_ONCE_NS;
          polling.learn(true, PARAMS);
          continue;
        }
        waited++;
        const polled = completionNs <= budgetNs;
        const tookNs = polled ? completionNs : completionNs + wakeUpNs;
        if (polled) found++;
        else vainNs += budgetNs;
        totalNs += tookNs;
        if (looks) {
          polling.noteWaiting();
          times.start();
          clock.advance(tookNs);
          times.end();
        }
        polling.learn(true, PARAMS);
      }
      const foundShare = found / waited, vainShare = vainNs / totalNs;
      const where = `found ${foundShare}, in vain ${vainShare}, AIO_TEST_SEED=${SEED}`;
      assert(foundShare >= foundMin && vainShare <= vainMax, where);
    });
  }
}
