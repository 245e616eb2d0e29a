/**
 * How long the loop may poll before it sleeps: as long as the listed handler wants that has learned
 * the longest polling time.
 *
 * It keeps what every handler has learned, and the maximum over the listed ones without walking
 * them: their number that share it is counted, and only when the last of them lets go are all
 * looked at again. With a weight, a handler is dropped from the maximum once the loop has been
 * blocked for longer than it may poll without an event of that handler; time is then the sum of
 * all block times, so that the loop's own work never counts. What is learned from one event is
 * arithmetic in polling_time.ts.
 */
import type { AioHandler } from "./aio_handler.ts";
import type { ReadyList } from "./fdmon.ts";
import type { IntrusiveList } from "./intrusive_list.ts";
import type { IterationTimes } from "./iteration_times.ts";
import { nextAverageNs, nextPollNs, type PollParams, weightedPollNs } from "./polling_time.ts";
import type { Trace } from "./trace.ts";

/** Learned polling times and their maximum. */
export class PollingBudget {
  readonly #times: IterationTimes;
  readonly #trace: Trace;
  /** Sum of all block times. */
  #blockedNs = 0;
  #maxPollNs = 0;
  /** Listed handlers whose pollNs is #maxPollNs; 0 when that has to be looked for again. */
  #holders = 0;
  /** #blockedNs at the latest event of these. */
  #latestEventNs = 0;

  constructor(times: IterationTimes, trace: Trace) {
    this.#times = times;
    this.#trace = trace;
  }

  /** The handler is listed from now on. */
  add(handler: AioHandler): void {
    const { pollNs } = handler;
    if (pollNs > this.#maxPollNs) {
      this.#maxPollNs = pollNs;
      this.#holders = 1;
      this.#latestEventNs = handler.lastEventNs;
    } else if (pollNs === this.#maxPollNs) {
      const othersNs = this.#holders === 0 ? 0 : this.#latestEventNs;
      this.#latestEventNs = Math.max(othersNs, handler.lastEventNs);
      this.#holders++;
    }
  }

  /** The handler is not listed any more. */
  remove(handler: AioHandler): void {
    if (handler.pollNs !== this.#maxPollNs || this.#holders === 0) return;
    // Without the one with the latest event, the others may have been silent for too long.
    const latest = handler.lastEventNs !== 0 && handler.lastEventNs === this.#latestEventNs;
    this.#holders = latest ? 0 : this.#holders - 1;
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

  /** The largest polling time on the list. */
  longest(list: IntrusiveList<AioHandler>, params: PollParams): number {
    // An event from before this is too long ago for its handler to be polled for.
    const silentNs = params.weight === 0 ? -1 : this.#blockedNs - params.maxNs;
    const silent = this.#maxPollNs !== 0 && this.#latestEventNs < silentNs;
    if (this.#holders !== 0 && !silent) return this.#maxPollNs;
    const old = this.#maxPollNs;
    this.#maxPollNs = this.#holders = 0;
    for (let link = list.first; link !== null; link = link.next) {
      const handler = link.member;
      if (handler.lastEventNs < silentNs) handler.pollNs = 0;
      this.add(handler);
    }
    // Told once and not for each handler, as listeners may change the list.
    if (silent) this.#emit(old, this.#maxPollNs);
    return this.#maxPollNs;
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
    // The maximum may be this handler's, and is younger now.
    if (handler.listed && handler.pollNs === this.#maxPollNs) this.#latestEventNs = this.#blockedNs;
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

  #emit(old: number, pollNs: number): void {
    const name = pollNs < old ? "poll_shrink" : "poll_grow";
    if (this.#trace.wants(name)) this.#trace.emit(name, { old, new: pollNs });
  }
}
