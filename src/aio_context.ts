/**
 * AioContext: an event loop for file descriptors, and the control flow of its one iteration.
 *
 * Everything with a policy of its own stands in a file of its own: poll mode, the adaptive rule,
 * the backends, timers, bottom halves, the notifier. Here they are put in order. One iteration:
 * compute the timeout; poll in userspace; announce the sleep; wait; dispatch bottom halves, then
 * ready handlers; release what was deleted; fire timers. User code runs in the dispatch phase and
 * in the poll callbacks, never inside a wait, and may call anything here, `poll` included.
 *
 * Invariants: a live handler is on `#all` and in `#byFd`; a deleted one is on `#deleted` until
 * nobody can be running its callbacks. What callbacks throw is kept until the iteration is over.
 */
import { AioError, Errno } from "../ffi/errno.ts";
import { loadShim } from "../ffi/library.ts";
import { Spin } from "../ffi/spin.ts";
import { System } from "../ffi/system.ts";
import { AioHandler, type FdHandler, validateFdHandler } from "./aio_handler.ts";
import { BottomHalf, type BottomHalfOptions, BottomHalfQueue } from "./bottom_half.ts";
import { type Clock, SystemClock } from "./clock.ts";
import { ContextNotifier, type RemoteContext } from "./context_notifier.ts";
import type { Fdmon, FdmonName } from "./fdmon.ts";
import { fallBackToPoll, type FdmonChoice, type FdmonParts, selectFdmon } from "./fdmon_select.ts";
import { IntrusiveList } from "./intrusive_list.ts";
import { PollMode } from "./poll_mode.ts";
import {
  DEFAULT_POLL_PARAMS,
  mergePollParams,
  nextPollNs,
  type PollParams,
} from "./polling_time.ts";
import { Timer, TimerList } from "./timer_list.ts";
import { Trace } from "./trace.ts";

/** Options of a context. */
export interface AioContextOptions {
  /** The backend to use; the best that works where not given. */
  fdmon?: FdmonName;
  /** First poll parameters; the others have their defaults. */
  pollParams?: Partial<PollParams>;
  /** The source of time; the system's monotonic clock where not given. */
  clock?: Clock;
  /** Path of an own build of the shim. */
  shim?: string;
  /** Path of liburing.so.2. */
  liburing?: string;
}

/** Which backend a context uses. */
export interface FdmonInfo {
  readonly name: FdmonName;
  /** Why this one, and why not a better one. */
  readonly reason: string;
}

/** Counters since the context was made, and sizes now. Times in ns. */
export interface AioStats {
  /** Calls of poll, nested ones included. */
  polls: number;
  /** Times the backend was asked for events. */
  waits: number;
  /** System calls made by this context. */
  systemCalls: number;
  /** Runs of poll mode, and those that found work. */
  pollRuns: number;
  pollHits: number;
  /** Time spent in poll mode. */
  pollModeNs: number;
  /** Handlers that left the poll list because they were idle. */
  idleRemovals: number;
  /** Callbacks of handlers dispatched. */
  dispatches: number;
  /** Handlers set, listed for polling, ready, and deleted but not released. */
  handlers: number;
  listed: number;
  ready: number;
  deleted: number;
  /** Timers armed and bottom halves scheduled. */
  timers: number;
  bottomHalves: number;
}

/** How long the loop sleeps at most while idle bottom halves wait. */
const IDLE_BOTTOM_HALF_NS = 10e6;

/** Iterations in a row that succeed by polling before a backend that must be asked is asked. */
const SKIPPED_WAITS_MAX = 16;

const FD_MAX = 0x7fff_ffff;

/**
 * An event loop that belongs to the isolate that made it.
 *
 * @example
 * ```ts
 * import { AioContext, EventNotifier } from "@aio/context";
 * using ctx = new AioContext();
 * using notifier = new EventNotifier();
 * ctx.setFdHandler(notifier.fd, { ioRead: () => notifier.testAndClear() });
 * notifier.set();
 * console.log(ctx.fdmon.name, ctx.poll(true)); // io_uring true
 * ctx.setFdHandler(notifier.fd, null);
 * ```
 */
export class AioContext implements Disposable {
  /** The named trace events. */
  readonly trace: Trace;
  readonly #system: System;
  readonly #clock: Clock;
  readonly #notifier: ContextNotifier;
  readonly #notifierHandler: AioHandler;
  readonly #parts: FdmonParts;
  readonly #pollMode: PollMode;
  readonly #bottomHalves: BottomHalfQueue;
  readonly #timers: TimerList;
  readonly #byFd = new Map<number, AioHandler>();
  readonly #all = new IntrusiveList<AioHandler>();
  readonly #deleted = new IntrusiveList<AioHandler>();
  readonly #ready = new IntrusiveList<AioHandler>();
  readonly #stopped = (): boolean => this.#disposed;
  #choice: FdmonChoice;
  #fdmon: Fdmon;
  #params: PollParams;
  #depth = 0;
  #externalDisabled = 0;
  /** Something changed since the timeout was computed: do not sleep on it. */
  #changed = false;
  /** The handler whose ioPollReady is running. */
  #running: AioHandler | null = null;
  /** What callbacks threw in this iteration. */
  #errors: unknown[] | null = null;
  /** This iteration's poll pass ran; the time when it or the wait ended. */
  #polled = false;
  #endNs = 0;
  #skippedWaits = 0;
  #disposed = false;
  #tornDown = false;
  #polls = 0;
  #waits = 0;
  #dispatches = 0;

  /**
   * @param options what to use; everything has a default
   * @throws {AioError} when a library or a backend asked for cannot be had; its message says what
   *   to do
   * @throws {TypeError} {@linkcode RangeError} for bad options
   */
  constructor(options: AioContextOptions = {}) {
    if (typeof options !== "object" || options === null) {
      throw new TypeError(`Cannot make a context as the options are no object: ${String(options)}`);
    }
    this.#params = mergePollParams(DEFAULT_POLL_PARAMS, options.pollParams ?? {});
    if (options.clock !== undefined && typeof options.clock?.now !== "function") {
      throw new TypeError("Cannot make a context as its clock has no now()");
    }
    const shim = loadShim({ shim: options.shim });
    const report = (error: unknown) => this.#report(error);
    const changed = () => {
      this.#changed = true;
    };
    this.#clock = options.clock ?? new SystemClock(shim);
    this.#system = new System(shim);
    this.trace = new Trace(report);
    this.#bottomHalves = new BottomHalfQueue(changed, report);
    this.#timers = new TimerList(changed, report);
    this.#notifier = new ContextNotifier(this.#system);
    const notifier = new AioHandler(
      this.#notifier.fd,
      { ioRead: () => this.#notifier.drain(), ioPollReady: () => {} },
      true,
    );
    this.#notifierHandler = notifier;
    const spin = new Spin<AioHandler>(shim, this.#notifier.words);
    const { trace } = this;
    const ready = this.#ready;
    this.#pollMode = new PollMode({ spin, ready, clock: this.#clock, trace, notifier, report });
    this.#parts = { system: this.#system, spin, ready, liburing: options.liburing };
    try {
      this.#choice = selectFdmon(options.fdmon, this.#parts);
    } catch (error) {
      this.#notifier.dispose();
      throw error;
    }
    this.#fdmon = this.#choice.fdmon;
    this.#fdmon.update(null, notifier);
  }

  /** The backend in use and why. */
  get fdmon(): FdmonInfo {
    return { name: this.#fdmon.name, reason: this.#choice.reason };
  }

  /** The context's time in ns; what timers are armed with. */
  now(): number {
    return this.#clock.now();
  }

  /**
   * Sets, replaces or deletes the callbacks of an fd. Close the fd only after deleting them.
   *
   * @param fd an open file descriptor
   * @param callbacks the callbacks; null, or none of ioRead, ioWrite and ioPoll, deletes
   * @throws {TypeError} {@linkcode RangeError} for bad arguments
   * @throws {AioError} EBADF when the fd is not open; what the backend has to say otherwise
   */
  setFdHandler(fd: number, callbacks: FdHandler | null): void {
    this.#requireOpen("set an fd handler");
    if (typeof fd !== "number") {
      throw new TypeError(`Cannot set an fd handler as the fd is not a number: ${String(fd)}`);
    }
    if (!Number.isInteger(fd) || fd < 0 || fd > FD_MAX || fd === this.#notifier.fd) {
      throw new RangeError(`Cannot set an fd handler as this is nobody's fd to watch: ${fd}`);
    }
    const old = this.#byFd.get(fd) ?? null;
    if (callbacks !== null) validateFdHandler(fd, callbacks, old);
    if (callbacks === null || !(callbacks.ioRead || callbacks.ioWrite)) {
      if (old !== null) this.#replaceHandler(old, null);
    } else {
      this.#system.requireOpen(fd);
      this.#replaceHandler(old, new AioHandler(fd, callbacks));
    }
    this.#throwOutsidePoll();
  }

  /** Makes a bottom half: a callback that `schedule()` runs in the next iteration. */
  bottomHalf(callback: () => void, options: BottomHalfOptions = {}): BottomHalf {
    this.#requireOpen("make a bottom half");
    requireFunction(callback, "make a bottom half");
    const name = String(options?.name ?? (callback.name || "anonymous"));
    return new BottomHalf(this.#bottomHalves, callback, name);
  }

  /** Runs a function once in the next iteration. */
  scheduleOneshot(callback: () => void): void {
    this.bottomHalf(callback).schedule();
  }

  /** Makes a timer, to be armed with an absolute deadline in ns of `now()`. */
  timer(callback: () => void): Timer {
    this.#requireOpen("make a timer");
    requireFunction(callback, "make a timer");
    return new Timer(this.#timers, callback);
  }

  /** Makes a blocking poll() return, or the next one not block. */
  notify(): void {
    this.#requireOpen("notify");
    this.#notifier.notify();
  }

  /** A handle for other threads; post it to a Worker and call `wakeContext` there. */
  remote(): RemoteContext {
    this.#requireOpen("make a remote handle");
    return { words: this.#notifier.words, fd: this.#notifier.fd };
  }

  /** Keeps handlers marked isExternal from running until as many calls of `enableExternal`. */
  disableExternal(): void {
    this.#requireOpen("disable external handlers");
    if (this.#externalDisabled++ !== 0) return;
    for (const handler of this.#externalHandlers()) {
      if (handler.deleted) continue;
      this.#fdmon.update(handler, null);
      this.#forgetEvents(handler);
      if (handler.listed) this.#pollMode.remove(handler);
    }
    this.#throwOutsidePoll();
  }

  /**
   * Takes one `disableExternal` back.
   *
   * @throws {RangeError} when there was none
   */
  enableExternal(): void {
    this.#requireOpen("enable external handlers");
    if (this.#externalDisabled === 0) {
      throw new RangeError("Cannot enable external handlers as they are not disabled");
    }
    if (--this.#externalDisabled !== 0) return;
    this.#changed = true;
    for (const handler of this.#externalHandlers()) {
      if (handler.deleted) continue;
      this.#updateFdmon(null, handler);
      // What came while nobody polled was perhaps not signalled either.
      this.#pollMode.pollOnce(handler);
    }
    this.#throwOutsidePoll();
  }

  /**
   * Changes poll parameters and starts learning anew.
   *
   * @throws {RangeError} when one is not a whole number >= 0 (idleNs may be Infinity)
   */
  setPollParams(changes: Partial<PollParams>): void {
    this.#requireOpen("set poll parameters");
    this.#params = mergePollParams(this.#params, changes);
    this.#pollMode.setPollNs(this.#notifierHandler, 0);
    for (let link = this.#all.first; link !== null; link = link.next) {
      this.#pollMode.setPollNs(link.member, 0);
    }
    this.#pollMode.disarm();
    this.#changed = true;
  }

  /** The poll parameters in force. */
  get pollParams(): Readonly<PollParams> {
    return { ...this.#params };
  }

  /** Counters and sizes, as they are now. */
  stats(): AioStats {
    return {
      polls: this.#polls,
      waits: this.#waits,
      systemCalls: this.#system.calls,
      pollRuns: this.#pollMode.runs,
      pollHits: this.#pollMode.hits,
      pollModeNs: this.#pollMode.totalNs,
      idleRemovals: this.#pollMode.removals,
      dispatches: this.#dispatches,
      handlers: this.#all.size,
      listed: this.#pollMode.size,
      ready: this.#ready.size,
      deleted: this.#deleted.size,
      timers: this.#timers.size,
      bottomHalves: this.#bottomHalves.urgentCount + this.#bottomHalves.idleCount,
    };
  }

  /**
   * Runs one iteration. Can be called from inside callbacks.
   *
   * @param blocking whether to wait until something happens
   * @returns whether anything made progress; a blocking call can return false, as after notify()
   * @throws what a callback threw; an AggregateError where several did. The iteration is complete
   *   all the same.
   */
  poll(blocking: boolean): boolean {
    this.#requireOpen("poll");
    if (typeof blocking !== "boolean") {
      throw new TypeError(`Cannot poll as blocking is not a boolean: ${String(blocking)}`);
    }
    const outerErrors = this.#errors;
    this.#errors = null;
    this.#polls++;
    let progress = this.#iterate(blocking);
    if (this.#timers.size !== 0 && !this.#disposed) {
      progress = this.#timers.run(this.#clock.now(), this.#stopped) || progress;
    }
    if (this.#disposed && this.#depth === 0) this.#tearDown();
    const errors = this.#errors;
    this.#errors = outerErrors;
    if (errors !== null) throwErrors(errors);
    return progress;
  }

  #iterate(blocking: boolean): boolean {
    this.#depth++;
    const running = this.#running;
    if (running !== null && running.listed) {
      // A nested poll must not find the handler whose ioPollReady called it.
      this.#pollMode.remove(running);
      this.#fdmon.unpolled(running);
    }
    this.#changed = false;
    const startNs = this.#params.maxNs === 0 ? 0 : this.#clock.now();
    this.#endNs = startNs;
    const timeoutNs = blocking ? this.#computeTimeout(startNs) : 0;
    this.#wait(this.#pollUserspace(startNs, timeoutNs));
    if (startNs !== 0) this.#adjustPollNs(this.#endNs - startNs);
    this.#notifier.accept();
    let progress = this.#bottomHalves.run(this.#stopped);
    progress = this.#dispatchReady() || progress;
    this.#depth--;
    if (this.#depth === 0) this.#releaseDeleted();
    return progress;
  }

  /** How long the loop may sleep, in ns; negative: for ever. */
  #computeTimeout(startNs: number): number {
    if (this.#ready.size !== 0 || this.#bottomHalves.urgentCount !== 0) return 0;
    const idleNs = this.#bottomHalves.idleCount === 0 ? -1 : IDLE_BOTTOM_HALF_NS;
    const soonestNs = this.#timers.soonestNs;
    if (soonestNs === Infinity) return idleNs;
    const leftNs = Math.max(0, soonestNs - (startNs === 0 ? this.#clock.now() : startNs));
    return idleNs < 0 ? leftNs : Math.min(leftNs, idleNs);
  }

  /** Polls the poll list; returns what is left of the timeout, 0 when there is work. */
  #pollUserspace(startNs: number, timeoutNs: number): number {
    const mode = this.#pollMode;
    this.#polled = false;
    if (mode.size === 0) return timeoutNs;
    let maxNs = this.#params.maxNs === 0 ? 0 : mode.maxPollNs();
    if (timeoutNs >= 0 && timeoutNs < maxNs) maxNs = timeoutNs;
    if (maxNs !== 0) this.#fdmon.beforePolling();
    if (maxNs !== 0 && !this.#fdmon.needWait()) {
      mode.enter();
    } else if (mode.started) {
      // Their fds may be silent in poll mode, so the listed handlers get one pass all the same.
      maxNs = 0;
    } else {
      return timeoutNs;
    }
    const { trace } = this;
    if (trace.wants("run_poll_handlers_begin")) {
      trace.emit("run_poll_handlers_begin", { maxNs, timeoutNs });
    }
    const beginNs = startNs === 0 ? this.#clock.now() : startNs;
    mode.run(beginNs, maxNs, this.#params.idleNs, this.#fdmon);
    this.#polled = true;
    if (startNs !== 0) this.#endNs = mode.endNs;
    if (mode.interrupted) timeoutNs = 0;
    else if (timeoutNs > 0) timeoutNs = Math.max(0, timeoutNs - (mode.endNs - beginNs));
    if (trace.wants("run_poll_handlers_end")) {
      trace.emit("run_poll_handlers_end", { progress: mode.progress, timeoutNs });
    }
    return timeoutNs;
  }

  /** Sleeps and collects events; does neither when polling has made it unnecessary. */
  #wait(timeoutNs: number): void {
    const fdmon = this.#fdmon;
    const mayBlock = timeoutNs !== 0 && !this.#changed;
    if (mayBlock) this.#notifier.announce();
    // Leaving poll mode runs callbacks, so what they changed is looked at afterwards.
    const leave = mayBlock && !this.#notifier.notified && this.#pollMode.started;
    const found = leave && this.#pollMode.leave();
    const block = mayBlock && !found && !this.#changed && !this.#notifier.notified;
    const skip = !block && !fdmon.needWait() &&
      (this.#polled
        ? fdmon.supportsPolling || ++this.#skippedWaits <= SKIPPED_WAITS_MAX
        : !fdmon.mayMissEvents);
    if (!skip) {
      this.#skippedWaits = 0;
      this.#waits++;
      try {
        fdmon.wait(block ? timeoutNs : 0, this.#polled);
      } catch (error) {
        this.#report(error);
      }
      if (this.#params.maxNs !== 0) this.#endNs = this.#clock.now();
    }
    if (mayBlock) this.#notifier.withdraw();
  }

  /** Teaches the handlers that became ready in this round how long the loop was blocked. */
  #adjustPollNs(blockNs: number): void {
    for (let link = this.#ready.last; link !== null; link = link.previous) {
      const handler = link.member;
      if (handler.adjusted) break;
      handler.adjusted = true;
      if (!handler.hasPoll) continue;
      const old = handler.pollNs;
      const pollNs = nextPollNs(old, blockNs, this.#params);
      if (pollNs === old) continue;
      this.#pollMode.setPollNs(handler, pollNs);
      const name = pollNs < old ? "poll_shrink" : "poll_grow";
      if (this.trace.wants(name)) this.trace.emit(name, { old, new: pollNs });
    }
  }

  #dispatchReady(): boolean {
    let progress = false;
    while (!this.#disposed) {
      const handler = this.#ready.shift();
      if (handler === null) break;
      progress = this.#dispatch(handler) || progress;
    }
    return progress;
  }

  #dispatch(handler: AioHandler): boolean {
    const { revents, pollReady, watchErrno } = handler;
    this.#forgetEvents(handler);
    if (watchErrno !== 0) return this.#dropFailed(handler, watchErrno);
    if (handler.hasPoll && !handler.listed && !handler.running) this.#list(handler, revents);
    if (handler.deleted) return false;
    let ran = false;
    if ((revents & handler.readEvents) !== 0) {
      ran = this.#call(handler.ioRead!);
    } else if (pollReady) {
      ran = this.#callPollReady(handler);
    }
    if ((revents & handler.writeEvents) !== 0 && !handler.deleted) {
      ran = this.#call(handler.ioWrite!);
    }
    return ran && !handler.isNotifier;
  }

  #call(callback: () => void): boolean {
    this.#dispatches++;
    try {
      callback();
    } catch (error) {
      this.#report(error);
    }
    return true;
  }

  #callPollReady(handler: AioHandler): boolean {
    const outer = this.#running;
    this.#running = handler;
    handler.running = true;
    this.#call(handler.ioPollReady!);
    handler.running = false;
    this.#running = outer;
    const enabled = !handler.isExternal || this.#externalDisabled === 0;
    if (!handler.listed && !handler.deleted && enabled) {
      // A nested poll took it off the list; what came meanwhile is looked for here.
      this.#pollMode.add(handler);
      this.#pollMode.pollOnce(handler);
    }
    return true;
  }

  #list(handler: AioHandler, revents: number): void {
    if (this.trace.wants("poll_add")) {
      this.trace.emit("poll_add", { handler: handler.id, fd: handler.fd, revents });
    }
    this.#pollMode.add(handler);
  }

  /** Puts `replacement` in the place of `old`; either can be null. */
  #replaceHandler(old: AioHandler | null, replacement: AioHandler | null): void {
    const disabled = this.#externalDisabled !== 0;
    const watched = old !== null && old.watched ? old : null;
    const toWatch = replacement === null || (replacement.isExternal && disabled)
      ? null
      : replacement;
    if (watched !== null || toWatch !== null) this.#updateFdmon(watched, toWatch);
    this.#changed = true;
    if (old !== null) this.#markDeleted(old);
    if (replacement !== null) {
      this.#byFd.set(replacement.fd, replacement);
      this.#all.append(replacement.allLink);
      if (replacement.pollWord !== null) replacement.pollWord.owner = replacement;
    }
  }

  /** From here on no callback of the handler runs, but the ioPollEnd that is due. */
  #markDeleted(handler: AioHandler): void {
    handler.deleted = true;
    this.#byFd.delete(handler.fd);
    this.#all.remove(handler.allLink);
    this.#forgetEvents(handler);
    if (handler.pollWord !== null) handler.pollWord.owner = null;
    if (handler.listed) this.#pollMode.remove(handler);
    if (this.#depth === 0) handler.release();
    else this.#deleted.append(handler.allLink);
  }

  #releaseDeleted(): void {
    for (let handler = this.#deleted.shift(); handler !== null; handler = this.#deleted.shift()) {
      handler.release();
    }
  }

  #forgetEvents(handler: AioHandler): void {
    if (handler.readyLink.list !== null) this.#ready.remove(handler.readyLink);
    handler.revents = handler.watchErrno = 0;
    handler.pollReady = handler.adjusted = false;
  }

  /** The fd cannot be watched any more: the handler goes, and poll() throws. */
  #dropFailed(handler: AioHandler, errno: number): boolean {
    this.#report(new AioError(`Cannot watch fd ${handler.fd} any longer`, "poll", errno));
    this.#replaceHandler(handler, null);
    return true;
  }

  #externalHandlers(): AioHandler[] {
    const handlers: AioHandler[] = [];
    for (let link = this.#all.first; link !== null; link = link.next) {
      if (link.member.isExternal) handlers.push(link.member);
    }
    return handlers;
  }

  /** Tells the backend; one that refuses an fd for its kind is given up for poll. */
  #updateFdmon(old: AioHandler | null, replacement: AioHandler | null): void {
    try {
      this.#fdmon.update(old, replacement);
    } catch (error) {
      const refused = error instanceof AioError && error.errno === Errno.EPERM;
      if (!refused || this.#fdmon.name !== "epoll" || replacement === null) throw error;
      this.#fdmon.dispose();
      this.#choice = fallBackToPoll(this.#parts, replacement.fd);
      this.#fdmon = this.#choice.fdmon;
      this.#fdmon.update(null, this.#notifierHandler);
      for (let link = this.#all.first; link !== null; link = link.next) {
        if (link.member.watched && link.member !== old) this.#fdmon.update(null, link.member);
      }
      this.#fdmon.update(null, replacement);
    }
  }

  #report(error: unknown): void {
    (this.#errors ??= []).push(error);
  }

  /** Outside of poll() nobody else would throw what a callback threw. */
  #throwOutsidePoll(): void {
    if (this.#depth !== 0 || this.#errors === null) return;
    const errors = this.#errors;
    this.#errors = null;
    throwErrors(errors);
  }

  #requireOpen(verb: string): void {
    if (this.#disposed) throw new TypeError(`Cannot ${verb} as the context is disposed`);
  }

  /**
   * Deletes all handlers, with the ioPollEnd that is due, and gives everything back to the
   * system. Inside a callback this happens when the outermost poll() ends; no other callback runs
   * until then. Disposing twice is harmless.
   */
  [Symbol.dispose](): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#changed = true;
    if (this.#depth !== 0) return;
    this.#tearDown();
    this.#throwOutsidePoll();
  }

  #tearDown(): void {
    if (this.#tornDown) return;
    this.#tornDown = true;
    for (let link = this.#all.first; link !== null; link = this.#all.first) {
      this.#markDeleted(link.member);
    }
    this.#timers.clear();
    this.#bottomHalves.clear();
    this.#fdmon.dispose();
    this.#notifier.dispose();
  }
}

function requireFunction(callback: unknown, what: string): void {
  if (typeof callback !== "function") {
    throw new TypeError(`Cannot ${what} as the callback is not a function: ${typeof callback}`);
  }
}

function throwErrors(errors: unknown[]): never {
  if (errors.length === 1) throw errors[0];
  throw new AggregateError(errors, `${errors.length} callbacks failed in one iteration`);
}
