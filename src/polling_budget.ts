/**
 * How long the loop may poll before it sleeps: as long as the listed handler wants that has learned
 * the longest polling time.
 *
 * The rules give only a few different times, doublings mostly, so the listed handlers are counted
 * by polling time, and the longest is found without walking them. With a weight, those of one time
 * count no more once the loop has been blocked for longer than it may poll without an event of any
 * of them. Blocked time is the sum of all block times, so that the loop's own work never counts.
 * What is learned from one event is arithmetic in polling_time.ts.
 */
import type { AioHandler } from "./aio_handler.ts";
import type { ReadyList } from "./fdmon.ts";
import type { IterationTimes } from "./iteration_times.ts";
import { nextAverageNs, nextPollNs, type PollParams, weightedPollNs } from "./polling_time.ts";
import type { Trace } from "./trace.ts";

/** The listed handlers of one polling time; 0 has none, as it never is the longest. */
interface Level {
  pollNs: number;
  handlers: number;
  /** Blocked time at their latest event, also of those that have left. */
  latestEventNs: number;
  /** They have fallen silent, and that has been told. */
  silent: boolean;
}

/** Learned polling times and the longest of them. */
export class PollingBudget {
  readonly #times: IterationTimes;
  readonly #trace: Trace;
  /** In no order; one without handlers is used again for another time. */
  readonly #levels: Level[] = [];
  /** Sum of all block times. */
  #blockedNs = 0;

  constructor(times: IterationTimes, trace: Trace) {
    this.#times = times;
    this.#trace = trace;
  }

  /** The handler is listed from now on. */
  add({ pollNs, lastEventNs }: AioHandler): void {
    if (pollNs === 0) return;
    const level = this.#level(pollNs);
    const othersNs = level.handlers === 0 ? 0 : level.latestEventNs;
    level.handlers++;
    level.latestEventNs = Math.max(othersNs, lastEventNs);
    level.silent = false;
  }

  /** The handler is not listed any more. */
  remove({ pollNs }: AioHandler): void {
    if (pollNs !== 0) this.#level(pollNs).handlers--;
  }

  /** Forgets what a handler has learned. */
  reset(handler: AioHandler): void {
    handler.averageNs = handler.lastEventNs = 0;
    this.#change(handler, 0);
  }

  /** Teaches the handlers that became ready in this round how long the loop was blocked. */
  learn(ready: ReadyList, params: PollParams): void {
    // An iteration that may not block takes no time of its own; it is not nothing.
    const blockNs = Math.max(1, this.#times.endNs - this.#times.startNs);
    this.#blockedNs += blockNs;
    for (let link = ready.last; link !== null; link = link.previous) {
      const handler = link.member;
      if (handler.adjusted) break;
      handler.adjusted = true;
      if (!handler.hasPoll) continue;
      if (params.weight === 0) this.#learn(handler, nextPollNs(handler.pollNs, blockNs, params));
      else this.#learnWeighted(handler, params);
    }
  }

  /** The loop has slept between iterations, which counts as blocked. */
  slept(ns: number): void {
    this.#blockedNs += Math.max(0, ns);
  }

  /** The longest polling time of the listed handlers. */
  longest(params: PollParams): number {
    // An event from before this is too long ago for its handler to be polled for.
    const silentNs = params.weight === 0 ? 0 : this.#blockedNs - params.maxNs;
    let longestNs = 0, silenced: Level | null = null;
    for (const level of this.#levels) {
      if (level.handlers === 0) continue;
      if (level.latestEventNs >= silentNs) longestNs = Math.max(longestNs, level.pollNs);
      else if (!level.silent) silenced = level;
    }
    if (silenced !== null) {
      silenced.silent = true;
      this.#emit(silenced.pollNs, longestNs);
    }
    return longestNs;
  }

  #learnWeighted(handler: AioHandler, params: PollParams): void {
    let currentNs = handler.pollNs;
    // Of a first event nobody knows how long it took; the next one will tell.
    if (handler.lastEventNs !== 0) {
      const intervalNs = this.#blockedNs - handler.lastEventNs;
      // It had fallen silent, whether or not that has been noticed.
      if (intervalNs > params.maxNs) currentNs = 0;
      handler.averageNs = nextAverageNs(handler.averageNs, intervalNs, params);
    }
    handler.lastEventNs = this.#blockedNs;
    this.#learn(handler, weightedPollNs(currentNs, handler.averageNs, params));
    if (!handler.listed || handler.pollNs === 0) return;
    const level = this.#level(handler.pollNs);
    level.latestEventNs = this.#blockedNs;
    level.silent = false;
  }

  #learn(handler: AioHandler, pollNs: number): void {
    if (pollNs === handler.pollNs) return;
    const old = handler.pollNs;
    this.#change(handler, pollNs);
    this.#emit(old, pollNs);
  }

  #change(handler: AioHandler, pollNs: number): void {
    if (handler.listed) this.remove(handler);
    handler.pollNs = pollNs;
    if (handler.listed) this.add(handler);
  }

  #level(pollNs: number): Level {
    let unused: Level | null = null;
    for (const level of this.#levels) {
      if (level.pollNs === pollNs) return level;
      if (level.handlers === 0) unused = level;
    }
    if (unused === null) {
      unused = { pollNs, handlers: 0, latestEventNs: 0, silent: false };
      this.#levels.push(unused);
    }
    unused.pollNs = pollNs;
    return unused;
  }

  #emit(old: number, pollNs: number): void {
    const name = pollNs < old ? "poll_shrink" : "poll_grow";
    if (this.#trace.wants(name)) this.#trace.emit(name, { old, new: pollNs });
  }
}
