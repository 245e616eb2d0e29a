/**
 * The control flow of one iteration: what is polled, waited for and run, in which order.
 *
 * Everything with a policy of its own stands in a file of its own: poll mode, the adaptive rule,
 * polling for requests, the backends, timers, bottom halves, requests, the notifier. Here they are
 * put in order: compute the timeout; poll the handlers, or the ring alone where only requests are
 * worth it; announce the sleep; wait; dispatch completed requests, bottom halves, ready handlers;
 * release what was deleted; fire timers. User code runs in the dispatch
 * phase and in the poll callbacks, never inside a wait, and may begin another iteration there.
 *
 * Invariant: nothing is slept over that came after the timeout was computed.
 */
import { type BottomHalfQueue, IDLE_BOTTOM_HALF_NS } from "./bottom_half.ts";
import type { CallbackErrors } from "./callback_errors.ts";
import type { ContextNotifier } from "./context_notifier.ts";
import type { Dispatcher } from "./dispatcher.ts";
import type { Fdmon } from "./fdmon.ts";
import type { HandlerRegistry } from "./handler_registry.ts";
import type { IterationTimes } from "./iteration_times.ts";
import type { PollMode } from "./poll_mode.ts";
import type { PollParams } from "./polling_time.ts";
import type { RequestPolling } from "./request_polling.ts";
import type { RequestQueue } from "./request_queue.ts";
import type { TimerList } from "./timer_list.ts";
import type { Trace } from "./trace.ts";

/** Iterations in a row that succeed by polling before a backend that must be asked is asked. */
const SKIPPED_WAITS_MAX = 16;

/** What an iteration is made of. */
export interface IterationParts {
  readonly notifier: ContextNotifier;
  readonly pollMode: PollMode;
  readonly bottomHalves: BottomHalfQueue;
  readonly timers: TimerList;
  readonly errors: CallbackErrors;
  readonly handlers: HandlerRegistry;
  readonly requests: RequestQueue;
  readonly requestPolling: RequestPolling;
  readonly dispatcher: Dispatcher;
  readonly times: IterationTimes;
  readonly trace: Trace;
}

/** Runs the iterations of one context. */
export class Iteration {
  /** The poll parameters in force. */
  params: PollParams;
  /** The context is disposed: no more callbacks run. */
  disposed = false;
  /** Something changed since the timeout was computed: do not sleep on it. */
  changed = false;
  /** Longest time to sleep with nothing to do, in ns; negative: for ever. */
  longestSleepNs = -1;
  /** The thread is not the loop's to sleep on: a wait collects and returns. */
  sleepless = false;
  /** Other threads may wake the context. */
  shared = false;
  /** Times the backend was asked for events. */
  waits = 0;
  readonly #notifier: ContextNotifier;
  readonly #pollMode: PollMode;
  readonly #bottomHalves: BottomHalfQueue;
  readonly #timers: TimerList;
  readonly #errors: CallbackErrors;
  readonly #handlers: HandlerRegistry;
  readonly #requests: RequestQueue;
  readonly #requestPolling: RequestPolling;
  readonly #dispatcher: Dispatcher;
  readonly #times: IterationTimes;
  readonly #trace: Trace;
  readonly #stopped = (): boolean => this.disposed;
  /** This iteration's poll pass ran. */
  #polled = false;
  #skippedWaits = 0;
  /** When a sleep elsewhere began, where anybody learns from it; else 0. */
  #sleepStartNs = 0;

  constructor(params: PollParams, parts: IterationParts) {
    this.params = params;
    this.#notifier = parts.notifier;
    this.#pollMode = parts.pollMode;
    this.#bottomHalves = parts.bottomHalves;
    this.#timers = parts.timers;
    this.#errors = parts.errors;
    this.#handlers = parts.handlers;
    this.#requests = parts.requests;
    this.#requestPolling = parts.requestPolling;
    this.#dispatcher = parts.dispatcher;
    this.#times = parts.times;
    this.#trace = parts.trace;
  }

  /**
   * Runs one iteration.
   *
   * @returns whether anything made progress
   */
  run(blocking: boolean): boolean {
    const progress = this.#iterate(blocking);
    // What becomes due during the callbacks is left to the next iteration.
    if (this.#timers.soonestNs > this.#times.endNs || this.disposed) return progress;
    return this.#timers.run(this.#times.endNs, this.#stopped) || progress;
  }

  #iterate(blocking: boolean): boolean {
    this.#handlers.walkDepth++;
    this.changed = false;
    try {
      this.#dispatcher.hideRunning();
      if (this.#trace.active && this.#trace.beginIteration(blocking) && this.disposed) return false;
      this.#collect(blocking);
      const completed = this.#requests.run(this.#stopped);
      const ran = !this.disposed && this.#bottomHalves.run(this.#stopped);
      return this.#dispatcher.run(this.#stopped) || ran || completed;
    } finally {
      this.#handlers.walkDepth--;
      if (this.#handlers.walkDepth === 0) this.#handlers.releaseDeleted();
      // An iteration around this one must not sleep on what it knew before.
      else this.changed = true;
    }
  }

  /** Polls and waits until something is there to be dispatched, for as long as it may. */
  #collect(blocking: boolean): void {
    this.#polled = false;
    this.#times.begin(this.#timers.size !== 0 || (blocking && this.#learns()));
    if (blocking) this.#computeTimeout();
    const requests = this.#times.timeoutNs !== 0 && this.#pollsRequests;
    try {
      if (requests && this.#handlers.fdmon.hasChanges) this.#requestPolling.noteSubmission();
      const ringPolled = this.#pollMode.size !== 0 && this.#pollUserspace();
      if (requests && !ringPolled) this.#pollRequests();
      this.#wait();
    } catch (error) {
      this.#notifier.withdraw();
      this.#trace.endWait(this.#dispatcher.pending);
      this.#errors.report(error);
    }
    if (this.params.maxNs !== 0) this.#pollMode.adjust(this.params);
    const completed = this.#requests.completedCount !== 0;
    if (requests) this.#requestPolling.learn(completed, this.params);
    else if (completed) this.#requestPolling.noteUnknown();
    this.#notifier.accept();
  }

  /** Whether anybody can learn from the time the loop is blocked. */
  #learns(): boolean {
    return this.params.maxNs !== 0 && (this.#handlers.pollable !== 0 || this.shared);
  }

  /** How long the loop may sleep. */
  #computeTimeout(): void {
    const times = this.#times;
    if (this.#dispatcher.pending !== 0 || this.#bottomHalves.urgentCount !== 0) return;
    if (this.#requests.completedCount !== 0) return;
    times.timeoutNs = this.#bottomHalves.idleCount === 0
      ? this.longestSleepNs
      : IDLE_BOTTOM_HALF_NS;
    const { soonestNs } = this.#timers;
    if (soonestNs === Infinity) return;
    const leftNs = Math.max(0, soonestNs - times.startNs);
    if (times.timeoutNs < 0 || leftNs < times.timeoutNs) times.timeoutNs = leftNs;
  }

  /** Whether a completion is what the loop may be about to wait for, and a spin would see it. */
  get #pollsRequests(): boolean {
    return this.#requests.inFlight !== 0 && this.params.maxNs !== 0 &&
      this.#handlers.fdmon.showsCompletions;
  }

  /**
   * Polls the poll list; leaves 0 of the timeout when there is work.
   *
   * @returns true when it was polled for longer than a pass, and the ring with it
   */
  #pollUserspace(): boolean {
    const mode = this.#pollMode;
    const times = this.#times;
    const { fdmon } = this.#handlers;
    let maxNs = this.params.maxNs === 0 ? 0 : mode.longestNs(this.params);
    if (maxNs !== 0 && this.#pollsRequests) {
      maxNs = Math.max(maxNs, this.#requestPolling.budgetNs(this.params));
    }
    if (times.timeoutNs >= 0 && times.timeoutNs < maxNs) maxNs = times.timeoutNs;
    if (maxNs !== 0) fdmon.beforePolling(true);
    if (maxNs !== 0 && !fdmon.needWait()) mode.enter();
    // Their fds may be silent in poll mode, so the listed handlers get one pass all the same.
    else if (mode.started) maxNs = 0;
    else return false;
    const timed = times.startNs !== 0;
    if (!timed) times.start();
    mode.run(maxNs, this.params, fdmon);
    this.#polled = true;
    if (mode.interrupted) times.timeoutNs = 0;
    else times.shortenTimeout();
    if (!timed) times.startNs = times.endNs = 0;
    this.#trace.endPolling(mode.progress, times.timeoutNs);
    if (maxNs !== 0) this.#requestPolling.noteWaiting();
    return maxNs !== 0;
  }

  /** Polls the ring for requests in flight; leaves 0 of the timeout when there is work. */
  #pollRequests(): void {
    const polling = this.#requestPolling, mode = this.#pollMode, times = this.#times;
    if (times.timeoutNs === 0 || !this.#maySleep()) return;
    let maxNs = polling.budgetNs(this.params);
    if (maxNs === 0 && !polling.isLookDue()) return;
    // The listed handlers are not polled for, so their fds have to tell.
    if (maxNs !== 0 && mode.started && (mode.leave() || !this.#maySleep())) {
      if (mode.progress) times.timeoutNs = 0;
      return;
    }
    const { fdmon } = this.#handlers;
    fdmon.beforePolling(maxNs === 0);
    if (fdmon.needWait()) return;
    polling.noteWaiting();
    if (times.startNs === 0) {
      times.start();
      times.endNs = times.startNs;
    }
    if (times.timeoutNs > 0 && times.timeoutNs < maxNs) maxNs = times.timeoutNs;
    if (maxNs !== 0) polling.run(maxNs);
  }

  /** Sleeps and collects events; does neither when polling has made it unnecessary. */
  #wait(): void {
    const { fdmon } = this.#handlers;
    const times = this.#times;
    // What a callback has thrown is not to be slept over.
    const mayBlock = times.timeoutNs !== 0 && !this.sleepless && !this.changed &&
      !this.#errors.pending;
    if (mayBlock) this.#notifier.announce();
    // Leaving poll mode runs callbacks, so what they changed is looked at afterwards.
    const leave = mayBlock && this.#pollMode.started && !this.#notifier.notified;
    const found = leave && this.#pollMode.leave();
    let block = mayBlock && !found && this.#maySleep();
    const skip = !block && !fdmon.needWait() &&
      (this.#polled
        ? fdmon.supportsPolling || ++this.#skippedWaits <= SKIPPED_WAITS_MAX
        : !fdmon.mayMissEvents);
    if (!skip) {
      this.#skippedWaits = 0;
      this.waits++;
      if (this.#trace.active && this.#trace.beginWait(block ? times.timeoutNs : 0)) {
        block &&= this.#maySleep();
      }
      fdmon.wait(block, this.#polled);
    }
    if ((found || !skip) && times.startNs !== 0) times.end();
    if (mayBlock) this.#notifier.withdraw();
    if (this.#trace.active) this.#trace.endWait(this.#dispatcher.pending);
  }

  /**
   * Gets ready for another thread to wait in the loop's place, between iterations: leaves poll mode,
   * announces the sleep, has every fd watched.
   *
   * @returns what to wait for, for as long as `times.timeoutNs` says, until `endSleep`; null where an
   *   iteration is due
   * @throws {AioError} when the system has no fds for it
   */
  prepareSleep(): ReturnType<Fdmon["delegateWait"]> | null {
    const { fdmon } = this.#handlers;
    this.#handlers.walkDepth++;
    let asleep = false;
    try {
      this.changed = false;
      this.#notifier.announce();
      if (this.#pollMode.started) this.#pollMode.leave();
      const waitable = fdmon.delegateWait();
      fdmon.wait(false, false);
      this.#times.begin(this.#timers.size !== 0 || this.#learns() || this.#pollsRequests);
      this.#computeTimeout();
      this.#sleepStartNs = this.#times.startNs;
      asleep = this.#times.timeoutNs !== 0 && this.#maySleep();
      return asleep ? waitable : null;
    } finally {
      this.#handlers.walkDepth--;
      if (this.#handlers.walkDepth === 0) this.#handlers.releaseDeleted();
      if (!asleep) this.endSleep();
    }
  }

  /** The sleep that was prepared is over. */
  endSleep(): void {
    if (this.#sleepStartNs !== 0) {
      this.#times.start();
      const sleptNs = this.#times.startNs - this.#sleepStartNs;
      this.#pollMode.budget.slept(sleptNs);
      if (this.#pollsRequests) this.#requestPolling.slept(sleptNs);
      this.#sleepStartNs = 0;
    }
    this.#handlers.fdmon.endDelegation();
    this.#notifier.withdraw();
  }

  /** Nothing has happened that the timeout does not know of. */
  #maySleep(): boolean {
    return !this.changed && !this.#notifier.notified && !this.#errors.pending;
  }
}
