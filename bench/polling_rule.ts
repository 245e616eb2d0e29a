/**
 * Which rule should teach the loop how long to poll: QEMU's, or the weighted mean?
 *
 * Replays recorded arrivals (bench/arrivals.json, made by bench/record_arrivals.ts) through the
 * project's own PollingBudget in simulated time. An event that comes while the loop polls is found
 * at once; one that comes while it sleeps costs the sender a kick and everybody a wake-up. What a
 * rule is worth is how much later than at once events are handled, how many need a kick, and how
 * much processor time polling burns for it.
 *
 * Run with: deno run -A bench/polling_rule.ts [--json]
 */
import Table from "cli-table3";
import { AioHandler, readFdHandler } from "../src/aio_handler.ts";
import type { Clock } from "../src/clock.ts";
import { IntrusiveList } from "../src/intrusive_list.ts";
import { IterationTimes } from "../src/iteration_times.ts";
import { PollingBudget } from "../src/polling_budget.ts";
import { defaultPollParams, type PollParams } from "../src/polling_time.ts";
import { Trace } from "../src/trace.ts";
import arrivals from "./arrivals.json" with { type: "json" };

/**
 * From an event on a sleeping loop to its callback: eventfd, scheduler, system call. On hardware,
 * and in a virtual machine whose idle processor its host must wake up first.
 */
const WAKE_UPS_NS: readonly number[] = [6_000, 27_000];
/** What the loop does for an event before it can block again. */
const WORK_NS = 1_500;

const PARAMS = defaultPollParams(2);

/** Rules to compare. */
const RULES: Readonly<Record<string, PollParams>> = {
  "no polling": { ...PARAMS, maxNs: 0 },
  "grow, reset": { ...PARAMS, weight: 0 },
  "grow, halve": { ...PARAMS, weight: 0, shrink: 2 },
  "weight 1": { ...PARAMS, weight: 1 },
  "weight 2": { ...PARAMS, weight: 2 },
  "weight 3": { ...PARAMS, weight: 3 },
  "weight 4": { ...PARAMS, weight: 4 },
};

/** Times between events of each device, and when it begins. */
interface Source {
  readonly gapsNs: readonly number[];
  readonly startNs?: number;
}

const { "guest at depth 1": guest, "guest in bursts": bursts } = arrivals;
const { "64 KiB cached reads": cached, "4 KiB disk reads": disk } = arrivals;

/** A guest that is kept from running at times, for long enough that polling is unlearned. */
const stalled = guest.map((gapNs, index) => index % 500 < 20 ? 1e6 : gapNs);

/** Loads to compare them on. */
const LOADS: Readonly<Record<string, readonly Source[]>> = {
  "a guest at depth 1": [{ gapsNs: guest }],
  "a guest in bursts": [{ gapsNs: bursts }],
  "a guest that stalls at times": [{ gapsNs: stalled }],
  "cached 64 KiB reads": [{ gapsNs: cached }],
  "disk reads": [{ gapsNs: disk }],
  "cached and disk reads": [{ gapsNs: cached }, { gapsNs: disk }],
  "disk reads after a guest fell silent": [{ gapsNs: guest }, { gapsNs: disk, startNs: 1e7 }],
};

/** What a rule did with a load. */
interface Outcome {
  readonly wakeUpNs: number;
  readonly load: string;
  readonly rule: string;
  /** Mean time from the event to its callback. */
  readonly lateNs: number;
  readonly kicksPerEvent: number;
  /** Processor time spent polling, for each event. */
  readonly polledNsPerEvent: number;
  /** Share of the time spent polling. */
  readonly pollShare: number;
}

/** Simulated time. */
class SimulatedClock implements Clock {
  nowNs = 1;
  now(): number {
    return this.nowNs;
  }
}

/** A device: its handler and the time of its next event. */
class Device {
  readonly handler: AioHandler;
  nextNs: number;
  readonly #gapsNs: readonly number[];
  #event = 0;

  constructor(fd: number, { gapsNs, startNs = 0 }: Source) {
    const callbacks = { ioRead() {}, ioPoll: () => false, ioPollReady() {} };
    this.handler = new AioHandler(fd, readFdHandler(fd, callbacks, -1)!);
    this.#gapsNs = gapsNs;
    this.nextNs = startNs + gapsNs[0];
  }

  /** Handles its event; the next one comes a recorded time after it is answered. */
  answer(nowNs: number): void {
    const gapNs = this.#gapsNs[++this.#event];
    this.nextNs = gapNs === undefined ? Infinity : nowNs + gapNs;
  }
}

function simulate(wakeUpNs: number, load: string, rule: string): Outcome {
  const params = RULES[rule];
  const clock = new SimulatedClock();
  const times = new IterationTimes(clock, (error) => {
    throw error;
  });
  const budget = new PollingBudget(times, new Trace(() => {}));
  const list = new IntrusiveList<AioHandler>(), ready = new IntrusiveList<AioHandler>();
  const devices = LOADS[load].map((source, index) => new Device(index, source));
  let events = 0, lateNs = 0, kicks = 0, polledNs = 0;
  for (;;) {
    const soonestNs = Math.min(...devices.map((device) => device.nextNs));
    if (soonestNs === Infinity) break;
    times.start();
    const pollNs = params.maxNs === 0 ? 0 : budget.longest(params);
    const found = soonestNs - times.startNs < pollNs;
    const wakeNs = Math.max(soonestNs, times.startNs + pollNs) + wakeUpNs;
    polledNs += found ? Math.max(0, soonestNs - times.startNs) : pollNs;
    clock.nowNs = found ? Math.max(times.startNs, soonestNs) : wakeNs;
    times.end();
    for (const device of devices) {
      if (device.nextNs > clock.nowNs) continue;
      events++;
      if (!found) kicks++;
      lateNs += clock.nowNs - device.nextNs;
      ready.append(device.handler.readyLink);
    }
    budget.learn(ready, params);
    for (let handler = ready.shift(); handler !== null; handler = ready.shift()) {
      handler.adjusted = false;
      clock.nowNs += WORK_NS;
      devices[handler.fd].answer(clock.nowNs);
      if (handler.listed) continue;
      list.append(handler.pollLink);
      budget.add(handler);
    }
  }
  return {
    wakeUpNs,
    load,
    rule,
    lateNs: lateNs / events,
    kicksPerEvent: kicks / events,
    polledNsPerEvent: polledNs / events,
    pollShare: polledNs / clock.nowNs,
  };
}

const outcomes = WAKE_UPS_NS.flatMap((wakeUpNs) =>
  Object.keys(LOADS).flatMap((load) =>
    Object.keys(RULES).map((rule) => simulate(wakeUpNs, load, rule))
  )
);

if (Deno.args.includes("--json")) {
  console.log(JSON.stringify(outcomes, null, 2));
} else {
  const table = new Table({
    head: [
      "load, us of a wake-up",
      "rule",
      "late, ns",
      "kicks per event",
      "polled ns per event",
      "time polling",
    ],
    colAligns: ["left", "left", "right", "right", "right", "right"],
    style: { head: [], border: [], compact: true },
  });
  for (const [number, outcome] of outcomes.entries()) {
    table.push([
      number % Object.keys(RULES).length === 0 ? `${outcome.load}, ${outcome.wakeUpNs / 1000}` : "",
      outcome.rule,
      Math.round(outcome.lateNs).toLocaleString("en-US"),
      outcome.kicksPerEvent.toFixed(3),
      Math.round(outcome.polledNsPerEvent).toLocaleString("en-US"),
      `${(outcome.pollShare * 100).toFixed(1)} %`,
    ]);
  }
  console.log(table.toString());
}
