/**
 * Polling for requests in flight: how long the loop looks at the ring's memory for a completion
 * before it sleeps, and that spin itself.
 *
 * It has nothing to do with the poll list. Handlers that are not polled for are watched by the ring
 * meanwhile, so the spin looks at the ring and the notifier alone and costs the same whatever is
 * listed; a thousand receives that wait cost it nothing either. What is learned is one time for all
 * requests, as any completion ends the wait for all of them.
 *
 * A completion counts only where the loop has waited for it: one that its submission brought about
 * at once, as those of most sends are, says nothing of how long the next one takes. To know the two
 * apart, requests have to be submitted before the wait and not with it, which is a system call more.
 * While the loop polls that is due anyway; else it is done for a look, now and then, and more rarely
 * where looks find nothing. A look sees the time of a sleep with the wake-up in it, up to several
 * tens of us, so it cannot tell whether polling would pay: it only begins a trial, in which events
 * are timed as they come.
 *
 * Invariant: `#waitedNs` is blocked time since the latest completion that was waited for, or could
 * have been, and `#known` says that the next one is.
 */
import { type Spin, SpinPass, SpinTime } from "../ffi/spin.ts";
import type { IterationTimes } from "./iteration_times.ts";
import { nextAverageNs, nextPollNs, type PollParams, weightedPollNs } from "./polling_time.ts";
import type { Trace } from "./trace.ts";

/** Waits from one look to the next, at first and at most. */
const LOOK_INTERVAL = 8, LOOK_INTERVAL_MAX = 256;
/** A sleep of less than this many times maxNs, its wake-up included, begins a trial. */
const TRIAL_FACTOR = 2;
/** Events found by polling after which a trial has succeeded. */
const TRIAL_HITS = 16;
/** Passes during which a caller's clock may stand still. */
const STILL_PASSES_MAX = 100_000;

/** What it is made of. */
export interface RequestPollingParts {
  readonly times: IterationTimes;
  /** Watches the ring and the notifier, and no words. */
  readonly ringSpin: Spin<never>;
  readonly trace: Trace;
}

/** The polling time of a context's requests in flight. */
export class RequestPolling {
  /** Counters for stats(). */
  runs = 0;
  hits = 0;
  totalNs = 0;
  readonly #times: IterationTimes;
  readonly #spin: Spin<never>;
  readonly #trace: Trace;
  #pollNs = 0;
  #averageNs = 0;
  #waitedNs = 0;
  #known = false;
  // Fields, as V8 may allocate for a double that is passed to a function.
  #beginNs = 0;
  #intervalNs = 0;
  #untilLook = LOOK_INTERVAL;
  #lookInterval = LOOK_INTERVAL;
  #trialHits = 0;

  constructor({ times, ringSpin, trace }: RequestPollingParts) {
    this.#times = times;
    this.#spin = ringSpin;
    this.#trace = trace;
  }

  /** How long to poll, in ns; 0 where nothing has been learned, or they have fallen silent. */
  budgetNs(params: PollParams): number {
    return params.weight !== 0 && this.#waitedNs > params.maxNs ? 0 : this.#pollNs;
  }

  /** Counts a wait without polling; true when it is to be looked at. */
  isLookDue(): boolean {
    if (--this.#untilLook > 0) return false;
    this.#untilLook = this.#lookInterval;
    return true;
  }

  /** Everything has been submitted, and there is no completion: the next one is waited for. */
  noteWaiting(): void {
    this.#known = true;
  }

  /** The next completion may be one that its submission brings about at once. */
  noteSubmission(): void {
    this.#known = false;
  }

  /** The loop has slept between iterations, which counts as blocked. */
  slept(ns: number): void {
    this.#waitedNs += Math.max(0, ns);
    this.#known = true;
  }

  /** Forgets what has been learned. */
  reset(): void {
    this.#change(0);
    this.#averageNs = this.#waitedNs = 0;
    this.#known = false;
    this.#untilLook = this.#lookInterval = LOOK_INTERVAL;
  }

  /** Polls from the end of what this iteration has done so far; notes the end. */
  run(maxNs: number): void {
    const times = this.#times;
    this.#beginNs = times.endNs;
    if (this.#trace.wants("poll_requests_begin")) {
      this.#trace.emit("poll_requests_begin", { maxNs, timeoutNs: times.timeoutNs });
    }
    this.runs++;
    const progress = this.#spinFor(maxNs);
    const polledNs = Math.max(0, times.endNs - this.#beginNs);
    this.totalNs += polledNs;
    if (progress) {
      this.hits++;
      times.timeoutNs = 0;
    } else if (times.timeoutNs > 0) {
      times.timeoutNs = Math.max(0, times.timeoutNs - polledNs);
    }
    if (this.#trace.wants("poll_requests_end")) {
      this.#trace.emit("poll_requests_end", { progress, timeoutNs: times.timeoutNs });
    }
  }

  /** Returns true where an event has ended it. */
  #spinFor(maxNs: number): boolean {
    const times = this.#times, spin = this.#spin;
    const beginNs = this.#beginNs;
    spin.times[SpinTime.end] = beginNs;
    for (let latestNs = beginNs, stillPasses = 0;;) {
      // C reads the system's clock alone; between looks at a caller's it makes one pass.
      spin.times[SpinTime.deadline] = times.native ? beginNs + maxNs : SpinPass.unhurried;
      const hit = spin.run() !== 0;
      times.endOfSpin(spin);
      if (hit) return true;
      if (times.failed || times.endNs - beginNs >= maxNs) return false;
      if (times.endNs > latestNs) {
        latestNs = times.endNs;
        stillPasses = 0;
      } else if (++stillPasses === STILL_PASSES_MAX) return false;
    }
  }

  /**
   * Learns from an iteration's wait.
   *
   * @param completed it has brought completions
   */
  learn(completed: boolean, params: PollParams): void {
    const { startNs, endNs } = this.#times;
    this.#waitedNs += Math.max(0, endNs - startNs);
    if (!completed) return;
    if (!this.#known) return this.noteUnknown();
    this.#known = false;
    this.#intervalNs = this.#waitedNs;
    this.#waitedNs = 0;
    this.#learn(params);
  }

  /** A completion has come of which nobody can say whether it was waited for. */
  noteUnknown(): void {
    this.#known = false;
    // While the loop polls it would be known, so it was not; what is waited for is still to come.
    if (this.#pollNs === 0) this.#waitedNs = 0;
  }

  #learn(params: PollParams): void {
    const intervalNs = this.#intervalNs;
    if (params.weight === 0) return this.#change(nextPollNs(this.#pollNs, intervalNs, params));
    if (this.#pollNs === 0) {
      if (intervalNs < params.maxNs * TRIAL_FACTOR) this.#beginTrial(params);
      else this.#lookLater();
      return;
    }
    if (intervalNs <= this.#pollNs && ++this.#trialHits === TRIAL_HITS) {
      this.#lookInterval = LOOK_INTERVAL;
    }
    this.#averageNs = nextAverageNs(this.#averageNs, intervalNs, params);
    const currentNs = intervalNs > params.maxNs ? 0 : this.#pollNs;
    const pollNs = weightedPollNs(currentNs, this.#averageNs, params);
    if (pollNs === 0) this.#lookLater();
    this.#change(pollNs);
  }

  #beginTrial(params: PollParams): void {
    // The mean of sleeps would say that polling does not pay.
    this.#averageNs = this.#trialHits = 0;
    this.#change(params.maxNs);
  }

  #lookLater(): void {
    this.#untilLook = this.#lookInterval = Math.min(this.#lookInterval * 2, LOOK_INTERVAL_MAX);
  }

  #change(pollNs: number): void {
    const old = this.#pollNs;
    if (pollNs === old) return;
    this.#pollNs = pollNs;
    const name = pollNs < old ? "poll_shrink" : "poll_grow";
    if (this.#trace.wants(name)) this.#trace.emit(name, { old, new: pollNs });
  }
}
