/**
 * Poll mode: entering, running and leaving userspace polling, and the removal of idle handlers.
 *
 * It owns the poll list and which handlers have had their ioPollBegin but not yet their
 * ioPollEnd. The list is kept in the order of idle deadlines, so the ones to remove are found at
 * its front; handlers that joined since the last run stand at its end with no deadline yet. Beside
 * it stand dense tables: the words in the spin, the functions, and here the handlers with begin or
 * end callbacks. They are walked from their end while user code runs: a removal moves a visited
 * entry down, so nobody is skipped.
 *
 * Invariant: a handler is in the tables exactly while it is listed; `polling` is set only on a
 * listed handler with `started`, or between `unlist` and `finish`. What polling means for the timeout
 * of the wait is decided in iteration.ts; this file reports what it found. Requests in flight are
 * polled for by request_polling.ts, and here along with the handlers.
 */
import { type Spin, SpinPass, SpinResult, SpinTime } from "../ffi/spin.ts";
import type { AioHandler } from "./aio_handler.ts";
import type { Fdmon, ReadyList } from "./fdmon.ts";
import { IntrusiveList, type ListLink } from "./intrusive_list.ts";
import type { IterationTimes } from "./iteration_times.ts";
import { PollFunctions } from "./poll_functions.ts";
import { PollingBudget } from "./polling_budget.ts";
import type { PollParams } from "./polling_time.ts";
import type { Trace } from "./trace.ts";

/** Deadline for one pass that looks at the clock too, as it is over already. */
const ONE_PASS = 1;

/**
 * Passes over poll functions between two looks at the clock, each of which costs as much as a pass
 * over a few. Doubling leads up to it while the looks are not far apart, so functions that take
 * long are noticed.
 */
const PASSES_PER_LOOK_MAX = 16;
const LOOK_INTERVAL_NS = 2_000;
/** A pass over more functions than this is too long for its time to be neglected. */
const NEGLIGIBLE_FUNCTIONS = 64;

/**
 * Passes during which the clock may stand still, or be behind where it was: a caller's clock that
 * does so for ever must not keep the loop here, and a coarse one moves on before.
 */
const STILL_PASSES_MAX = 100_000;

/** What poll mode is made of. */
export interface PollModeParts {
  readonly times: IterationTimes;
  readonly spin: Spin<AioHandler>;
  readonly ready: ReadyList;
  readonly trace: Trace;
  readonly notifier: AioHandler;
  /** Receives what callbacks throw. */
  readonly report: (error: unknown) => void;
}

/** The poll list and the state of polling it. */
export class PollMode {
  /** Listed handlers have been told that they are polled. */
  started = false;
  /** The last run, or leaving, found handlers ready. */
  progress = false;
  /** The last run ended because of an event of any kind. */
  interrupted = false;
  /** What the handlers have learned. */
  readonly budget: PollingBudget;
  /** Counters for stats(). */
  runs = 0;
  hits = 0;
  totalNs = 0;
  removals = 0;
  readonly #parts: PollModeParts;
  readonly #spin: Spin<AioHandler>;
  readonly #times: IterationTimes;
  readonly #list = new IntrusiveList<AioHandler>();
  readonly #functions: PollFunctions;
  readonly #paired: AioHandler[] = [];
  /** What a hit sets its handler's idle deadline to. */
  #idleDeadlineNs = 0;

  constructor(parts: PollModeParts) {
    this.#parts = parts;
    this.#spin = parts.spin;
    this.#times = parts.times;
    this.budget = new PollingBudget(parts.times, parts.trace);
    this.#functions = new PollFunctions((handler) => this.#takeHit(handler), parts.report);
  }

  /** Number of handlers on the poll list. */
  get size(): number {
    return this.#list.size;
  }

  /** The largest polling time on the list, in ns. */
  longestNs(params: PollParams): number {
    return this.budget.longest(params);
  }

  /** Teaches the handlers that became ready in this round how long the loop was blocked. */
  adjust(params: PollParams): void {
    this.budget.learn(this.#parts.ready, params);
  }

  /** Lists a handler, which must not be listed; tells it when poll mode is on. */
  add(handler: AioHandler): void {
    handler.idleDeadlineNs = 0;
    this.#list.append(handler.pollLink);
    if (handler.pollWord !== null) this.#spin.add(handler.pollWord, handler);
    if (handler.pollFunction !== null) this.#functions.add(handler);
    this.budget.add(handler);
    if (handler.ioPollBegin === null && handler.ioPollEnd === null) return;
    handler.pairedIndex = this.#paired.push(handler) - 1;
    if (this.started && !handler.polling) this.#begin(handler);
    else if (!this.started) this.finish(handler);
  }

  /** Takes a handler off and ends polling for it. Its last events are not looked for. */
  remove(handler: AioHandler): void {
    if (handler.listed) this.unlist(handler);
    this.finish(handler);
  }

  /** Takes a listed handler off; the ioPollEnd that may be due is left to `finish`. */
  unlist(handler: AioHandler): void {
    this.#list.remove(handler.pollLink);
    handler.idleDeadlineNs = 0;
    if (handler.pollWord !== null) this.#spin.remove(handler.pollWord);
    if (handler.functionIndex !== -1) this.#functions.remove(handler);
    this.budget.remove(handler);
    if (handler.pairedIndex !== -1) {
      const moved = swapRemove(this.#paired, handler.pairedIndex);
      if (moved !== null) moved.pairedIndex = handler.pairedIndex;
      handler.pairedIndex = -1;
    }
  }

  /** Calls the ioPollEnd that is due, unless the handler is polled for. */
  finish(handler: AioHandler): void {
    if (handler.polling && !(handler.listed && this.started)) this.#end(handler);
  }

  /** Forgets the idle deadlines, as the interval has changed. */
  disarm(): void {
    for (let link = this.#list.first; link !== null; link = link.next) {
      link.member.idleDeadlineNs = 0;
    }
  }

  /** Enters poll mode: from here on the listed handlers need not signal their fds. */
  enter(): void {
    if (this.started) return;
    this.started = true;
    // A nested poll may leave poll mode again: who has not been told then need not be.
    for (let index = this.#paired.length - 1; index >= 0 && this.started; index--) {
      const handler = this.#paired[index];
      if (handler !== undefined && !handler.polling) this.#begin(handler);
    }
  }

  /**
   * Polls from the iteration's start until something is ready or `maxNs` are over, at least one
   * full pass, and notes the end. Then removes idle handlers, where the backend allows it.
   */
  run(maxNs: number, params: PollParams, fdmon: Fdmon): void {
    const times = this.#times;
    const { trace } = this.#parts;
    if (trace.wants("run_poll_handlers_begin")) {
      trace.emit("run_poll_handlers_begin", { maxNs, timeoutNs: times.timeoutNs });
    }
    this.runs++;
    this.progress = this.interrupted = false;
    this.#idleDeadlineNs = times.startNs + params.idleNs;
    this.#armIdleDeadlines();
    this.#spin.times[SpinTime.end] = times.startNs;
    let latestNs = times.startNs, stillPasses = 0, passesPerLook = 1, passes = 0;
    for (;;) {
      let hit = this.#functions.poll();
      // Words alone are looked at by C until the time is up; a caller's clock can only be read here.
      const alone = maxNs !== 0 && this.#functions.size === 0 && times.native;
      const look = alone || !times.native || ++passes === passesPerLook;
      const deadlineNs = alone ? times.startNs + maxNs : look ? ONE_PASS : SpinPass.unhurried;
      this.#spin.times[SpinTime.deadline] = hit ? SpinPass.hasty : deadlineNs;
      const result = this.#spin.run();
      if (result & SpinResult.hit) this.#takeWordHits();
      if (result & SpinResult.notified) this.#takeNotified();
      hit ||= result !== 0;
      // After a hit the last look will do, unless a pass takes long.
      if (hit && this.#functions.size > NEGLIGIBLE_FUNCTIONS) times.end();
      else times.endOfSpin(this.#spin);
      this.interrupted = hit;
      if (hit || times.failed) break;
      if (!look) continue;
      if (times.endNs - times.startNs >= maxNs) break;
      const quick = times.endNs - latestNs < LOOK_INTERVAL_NS;
      passesPerLook = quick ? Math.min(passesPerLook * 2, PASSES_PER_LOOK_MAX) : 1;
      passes = 0;
      if (times.endNs > latestNs) {
        latestNs = times.endNs;
        stillPasses = 0;
      } else if (++stillPasses === STILL_PASSES_MAX) break;
    }
    this.totalNs += Math.max(0, times.endNs - times.startNs);
    if (fdmon.supportsPolling) this.#removeIdle(fdmon);
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
    this.#functions.poll();
    this.#spin.times[SpinTime.deadline] = SpinPass.lastChance;
    const result = this.#spin.run();
    if (result & SpinResult.hit) this.#takeWordHits();
    return this.progress;
  }

  /** Polls one handler, unless it is deleted or silenced; a hit goes to the ready list. */
  pollOnce(handler: AioHandler): boolean {
    if (!handler.watched) return false;
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
    if (hit && handler.watched) this.#markPollReady(handler);
    return hit;
  }

  #begin(handler: AioHandler): void {
    const { trace } = this.#parts;
    trace.beginCallback("ioPollBegin", handler);
    // Listeners may have ended polling, for all or for this handler, or have begun it.
    if (this.started && handler.listed && !handler.polling) {
      handler.polling = true;
      this.#call(handler.ioPollBegin);
    }
    trace.endCallback("ioPollBegin", handler);
  }

  #end(handler: AioHandler): void {
    const { trace } = this.#parts;
    trace.beginCallback("ioPollEnd", handler);
    if (handler.polling) {
      handler.polling = false;
      this.#call(handler.ioPollEnd);
    }
    trace.endCallback("ioPollEnd", handler);
  }

  #call(callback: (() => void) | null): void {
    try {
      callback?.();
    } catch (error) {
      this.#parts.report(error);
    }
  }

  #takeWordHits(): void {
    const count = this.#spin.hitCount;
    for (let number = 0; number < count; number++) {
      this.#takeHit(this.#spin.hit(number));
    }
  }

  /** The notifier is polled by every spin, but is a member of the list like any other handler. */
  #takeNotified(): void {
    const { notifier } = this.#parts;
    if (!notifier.listed) return;
    this.#refresh(notifier.pollLink);
    this.#markPollReady(notifier);
  }

  #takeHit(handler: AioHandler): void {
    this.progress = true;
    this.#refresh(handler.pollLink);
    this.#markPollReady(handler);
  }

  #markPollReady(handler: AioHandler): void {
    handler.pollReady = true;
    if (!handler.ready) this.#parts.ready.append(handler.readyLink);
  }

  #refresh(link: ListLink<AioHandler>): void {
    link.member.idleDeadlineNs = this.#idleDeadlineNs;
    if (this.#list.last === link) return;
    this.#list.remove(link);
    this.#list.append(link);
  }

  #armIdleDeadlines(): void {
    for (let link = this.#list.last; link !== null; link = link.previous) {
      if (link.member.idleDeadlineNs !== 0) break;
      link.member.idleDeadlineNs = this.#idleDeadlineNs;
    }
  }

  #removeIdle(fdmon: Fdmon): void {
    const nowNs = this.#times.endNs;
    for (;;) {
      const handler = this.#list.first?.member;
      if (handler === undefined || handler.idleDeadlineNs === 0) break;
      if (handler.idleDeadlineNs > nowNs) break;
      const { trace } = this.#parts;
      if (trace.wants("poll_remove")) {
        trace.emit("poll_remove", { handler: handler.id, fd: handler.fd });
        // A listener may have deleted it, or polled and so found it active.
        if (this.#list.first?.member !== handler) continue;
      }
      const wasPolling = this.started;
      this.removals++;
      this.remove(handler);
      // Its ioPollEnd, or a listener, may have deleted or silenced it.
      if (!handler.watched) continue;
      fdmon.unpolled(handler);
      if (wasPolling && this.pollOnce(handler)) this.progress = this.interrupted = true;
    }
  }
}

/** Removes an entry by moving the last one into its place; returns the one that moved, or null. */
function swapRemove(handlers: AioHandler[], index: number): AioHandler | null {
  const last = handlers.pop()!;
  if (index === handlers.length) return null;
  handlers[index] = last;
  return last;
}
