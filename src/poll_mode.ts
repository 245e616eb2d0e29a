/**
 * Poll mode: entering, running and leaving userspace polling, and the removal of idle handlers.
 *
 * It owns the poll list and which handlers have had their ioPollBegin but not yet their
 * ioPollEnd. The list is kept in the order of idle deadlines, so the ones to remove are found at
 * its front; handlers that joined since the last run stand at its end with no deadline yet. Beside
 * it stand dense tables of the words (in the spin), the functions, and the handlers with begin or
 * end callbacks. The tables are walked from their end while user code runs: a removal moves a
 * visited entry down, so nobody is skipped.
 *
 * Invariant: a handler is in the tables exactly while it is listed; `polling` is set only on a
 * listed handler with `started`. What polling means for the timeout of the wait is decided by the
 * context; this file reports what it found.
 */
import { type Spin, SpinResult } from "../ffi/spin.ts";
import type { AioHandler } from "./aio_handler.ts";
import { type Clock, SystemClock } from "./clock.ts";
import type { Fdmon, ReadyList } from "./fdmon.ts";
import { IntrusiveList, type ListLink } from "./intrusive_list.ts";
import { nextPollNs, type PollParams } from "./polling_time.ts";
import type { Trace } from "./trace.ts";

/** A deadline for which the spin makes exactly one pass behind a barrier. */
const ONE_PASS = 0;

/** What poll mode is made of. */
export interface PollModeParts {
  readonly spin: Spin<AioHandler>;
  readonly ready: ReadyList;
  readonly clock: Clock;
  readonly trace: Trace;
  readonly notifier: AioHandler;
  /** Receives what callbacks throw. */
  readonly report: (error: unknown) => void;
}

/** The poll list and the state of polling it. */
export class PollMode {
  /** Listed handlers have been told that they are polled. */
  started = false;
  /** Results of the last run: handlers were found ready, and time spent. */
  progress = false;
  /** The last run ended because of an event of any kind, the time then. */
  interrupted = false;
  endNs = 0;
  /** Counters for stats(). */
  runs = 0;
  hits = 0;
  totalNs = 0;
  removals = 0;
  readonly #parts: PollModeParts;
  readonly #spin: Spin<AioHandler>;
  readonly #native: boolean;
  readonly #list = new IntrusiveList<AioHandler>();
  readonly #functions: AioHandler[] = [];
  readonly #paired: AioHandler[] = [];
  #maxPollNs = 0;
  /** Listed handlers whose pollNs is #maxPollNs; 0 when that has to be looked for again. */
  #maxPollCount = 0;

  constructor(parts: PollModeParts) {
    this.#parts = parts;
    this.#spin = parts.spin;
    this.#native = parts.clock instanceof SystemClock;
  }

  /** Number of handlers on the poll list. */
  get size(): number {
    return this.#list.size;
  }

  /** Lists a handler, which must not be listed; tells it when poll mode is on. */
  add(handler: AioHandler): void {
    handler.idleDeadlineNs = 0;
    this.#list.append(handler.pollLink);
    if (handler.pollWord !== null) this.#spin.add(handler.pollWord, handler);
    if (handler.pollFunction !== null) {
      handler.functionIndex = this.#functions.push(handler) - 1;
    }
    if (handler.ioPollBegin !== null || handler.ioPollEnd !== null) {
      handler.pairedIndex = this.#paired.push(handler) - 1;
      if (this.started) this.#begin(handler);
    }
    this.#countRaised(handler.pollNs);
  }

  /** Takes a listed handler off; ends polling for it first. Its last events are not looked for. */
  remove(handler: AioHandler): void {
    this.#list.remove(handler.pollLink);
    handler.idleDeadlineNs = 0;
    if (handler.pollWord !== null) this.#spin.remove(handler.pollWord);
    if (handler.functionIndex !== -1) {
      const moved = swapRemove(this.#functions, handler.functionIndex);
      if (moved !== null) moved.functionIndex = handler.functionIndex;
      handler.functionIndex = -1;
    }
    this.#countLowered(handler.pollNs);
    if (handler.pairedIndex !== -1) {
      const moved = swapRemove(this.#paired, handler.pairedIndex);
      if (moved !== null) moved.pairedIndex = handler.pairedIndex;
      handler.pairedIndex = -1;
      if (handler.polling) this.#end(handler);
    }
  }

  /** Changes a handler's polling time. */
  setPollNs(handler: AioHandler, pollNs: number): void {
    if (handler.listed) {
      this.#countLowered(handler.pollNs);
      handler.pollNs = pollNs;
      this.#countRaised(pollNs);
    } else {
      handler.pollNs = pollNs;
    }
  }

  /** Teaches the handlers that became ready in this round how long the loop was blocked. */
  adjust(blockNs: number, params: PollParams): void {
    const { ready, trace } = this.#parts;
    for (let link = ready.last; link !== null; link = link.previous) {
      const handler = link.member;
      if (handler.adjusted) break;
      handler.adjusted = true;
      if (!handler.hasPoll) continue;
      const old = handler.pollNs;
      const pollNs = nextPollNs(old, blockNs, params);
      if (pollNs === old) continue;
      this.setPollNs(handler, pollNs);
      const name = pollNs < old ? "poll_shrink" : "poll_grow";
      if (trace.wants(name)) trace.emit(name, { old, new: pollNs });
    }
  }

  /** Forgets the idle deadlines, as the interval has changed. */
  disarm(): void {
    for (let link = this.#list.first; link !== null; link = link.next) {
      link.member.idleDeadlineNs = 0;
    }
  }

  /** The largest polling time on the list. */
  maxPollNs(): number {
    if (this.#maxPollCount === 0) {
      this.#maxPollNs = 0;
      for (let link = this.#list.first; link !== null; link = link.next) {
        this.#countRaised(link.member.pollNs);
      }
    }
    return this.#maxPollNs;
  }

  /** Enters poll mode: from here on the listed handlers need not signal their fds. */
  enter(): void {
    if (this.started) return;
    this.started = true;
    for (let index = this.#paired.length - 1; index >= 0; index--) {
      const handler = this.#paired[index];
      if (handler !== undefined && !handler.polling) this.#begin(handler);
    }
  }

  /**
   * Polls until something is ready or `maxNs` are over; at least one full pass. Then removes idle
   * handlers, where the backend allows it.
   */
  run(startNs: number, maxNs: number, idleNs: number, fdmon: Fdmon): void {
    this.runs++;
    this.progress = this.interrupted = false;
    this.#armIdleDeadlines(startNs + idleNs);
    for (;;) {
      let hit = this.#pollFunctions(startNs + idleNs);
      const slice = hit || maxNs === 0 || this.#functions.length !== 0 || !this.#native;
      const result = this.#spin.run(slice ? ONE_PASS : startNs + maxNs);
      if (result & SpinResult.hit) this.#takeWordHits(startNs + idleNs);
      if (result & SpinResult.notified) this.#takeNotified(startNs + idleNs);
      hit ||= result !== 0;
      this.endNs = this.#native ? this.#spin.endNs : this.#parts.clock.now();
      this.interrupted = hit;
      if (hit || this.endNs - startNs >= maxNs) break;
    }
    this.totalNs += this.endNs - startNs;
    if (fdmon.supportsPolling) this.#removeIdle(this.endNs, fdmon);
    if (this.progress) this.hits++;
  }

  /**
   * Leaves poll mode. Every handler is told, then polled once more, as an event may have raced
   * with the telling.
   *
   * @returns true when that found work
   */
  leave(): boolean {
    this.started = false;
    this.progress = false;
    for (let index = this.#paired.length - 1; index >= 0; index--) {
      const handler = this.#paired[index];
      if (handler !== undefined && handler.polling) this.#end(handler);
    }
    this.#pollFunctions(0);
    const result = this.#spin.run(ONE_PASS);
    if (result & SpinResult.hit) this.#takeWordHits(0);
    return this.progress;
  }

  /** Polls one handler that is not listed; a hit goes to the ready list. */
  pollOnce(handler: AioHandler): boolean {
    let hit = false;
    const word = handler.pollWord;
    if (word !== null) {
      hit = word.load() !== word.seen;
    } else if (handler.pollFunction !== null) {
      try {
        hit = handler.pollFunction() === true;
      } catch (error) {
        this.#parts.report(error);
      }
    }
    if (hit && !handler.deleted) this.#markPollReady(handler);
    return hit;
  }

  #begin(handler: AioHandler): void {
    handler.polling = true;
    this.#call(handler.ioPollBegin);
  }

  #end(handler: AioHandler): void {
    handler.polling = false;
    this.#call(handler.ioPollEnd);
  }

  #call(callback: (() => void) | null): void {
    try {
      callback?.();
    } catch (error) {
      this.#parts.report(error);
    }
  }

  /** One pass over the functions; true when one of them found work or threw. */
  #pollFunctions(deadlineNs: number): boolean {
    const functions = this.#functions;
    let hit = false;
    let handler: AioHandler | undefined;
    for (let index = functions.length - 1; index >= 0; index--) {
      try {
        for (; index >= 0; index--) {
          handler = functions[index];
          if (handler !== undefined && handler.pollFunction!() === true && handler.listed) {
            hit = true;
            this.#takeHit(handler, deadlineNs);
          }
        }
      } catch (error) {
        hit = true;
        this.#parts.report(error);
      }
    }
    return hit;
  }

  #takeWordHits(deadlineNs: number): void {
    const count = this.#spin.hitCount;
    for (let number = 0; number < count; number++) {
      this.#takeHit(this.#spin.hit(number), deadlineNs);
    }
  }

  /** The notifier is polled by every spin, but is a member of the list like any other handler. */
  #takeNotified(deadlineNs: number): void {
    const { notifier } = this.#parts;
    if (!notifier.listed) return;
    this.#refresh(notifier.pollLink, deadlineNs);
    this.#markPollReady(notifier);
  }

  #takeHit(handler: AioHandler, deadlineNs: number): void {
    this.progress = true;
    if (deadlineNs !== 0) this.#refresh(handler.pollLink, deadlineNs);
    this.#markPollReady(handler);
  }

  #markPollReady(handler: AioHandler): void {
    handler.pollReady = true;
    if (handler.readyLink.list === null) this.#parts.ready.append(handler.readyLink);
  }

  #refresh(link: ListLink<AioHandler>, deadlineNs: number): void {
    link.member.idleDeadlineNs = deadlineNs;
    if (this.#list.last === link) return;
    this.#list.remove(link);
    this.#list.append(link);
  }

  #armIdleDeadlines(deadlineNs: number): void {
    for (let link = this.#list.last; link !== null; link = link.previous) {
      if (link.member.idleDeadlineNs !== 0) break;
      link.member.idleDeadlineNs = deadlineNs;
    }
  }

  #removeIdle(nowNs: number, fdmon: Fdmon): void {
    for (;;) {
      const handler = this.#list.first?.member;
      if (handler === undefined || handler.idleDeadlineNs === 0) break;
      if (handler.idleDeadlineNs > nowNs) break;
      const { trace } = this.#parts;
      if (trace.wants("poll_remove")) {
        trace.emit("poll_remove", { handler: handler.id, fd: handler.fd });
      }
      const wasPolling = this.started;
      this.removals++;
      this.remove(handler);
      if (handler.deleted) continue;
      fdmon.unpolled(handler);
      if (wasPolling && this.pollOnce(handler)) this.progress = this.interrupted = true;
    }
  }

  #countRaised(pollNs: number): void {
    if (pollNs > this.#maxPollNs) {
      this.#maxPollNs = pollNs;
      this.#maxPollCount = 1;
    } else if (pollNs === this.#maxPollNs) {
      this.#maxPollCount++;
    }
  }

  #countLowered(pollNs: number): void {
    if (pollNs === this.#maxPollNs && this.#maxPollCount > 0) this.#maxPollCount--;
  }
}

/** Removes an entry by moving the last one into its place; returns the one that moved, or null. */
function swapRemove(handlers: AioHandler[], index: number): AioHandler | null {
  const last = handlers.pop()!;
  if (index === handlers.length) return null;
  handlers[index] = last;
  return last;
}
