/**
 * The loop's named trace events: those QEMU's users know under QEMU's names, and beside them the
 * beginning and end of each iteration, wait and callback, from which a timeline can be drawn.
 *
 * An event nobody listens to costs one null check where it would be emitted, and no allocation.
 * A listener that throws does not disturb the loop: its error is reported like a callback's. One
 * may call anything, so whoever emits looks afterwards at whether it still may do what it said:
 * a callback whose handler was deleted meanwhile does not run, and has its end all the same.
 *
 * `observeContexts` is how the command line traces contexts that a program makes for itself.
 */

/** What can be called back. "notifier" stands for the context's own, after a wake-up. */
export type TracedCallback =
  | "ioRead"
  | "ioWrite"
  | "ioPollReady"
  | "ioPollBegin"
  | "ioPollEnd"
  | "notifier"
  | "request"
  | "bottomHalf"
  | "timer";

/** Whose callback it is. */
export interface CallbackEvent {
  /** Which callback. */
  kind: TracedCallback;
  /** Its handler, as in `poll_add`; 0 for bottom halves, timers and requests. */
  handler: number;
  /** The handler's fd; -1 for bottom halves, timers and requests. */
  fd: number;
  /** The name of a bottom half, else empty. */
  name: string;
}

/**
 * What each event carries. Times in ns, fds and handler ids as numbers.
 *
 * Each `_begin` has its `_end`, whatever happens in between, and pairs are nested: in an iteration
 * stand its poll mode, its polling for requests, its wait and its callbacks; in a callback may
 * stand an iteration. The functions polled in poll mode are not told of one by one.
 */
export interface TraceEvents {
  /** poll() was called. */
  iteration_begin: { blocking: boolean };
  /** It returns; `progress` is what it returns, or would if no callback had thrown. */
  iteration_end: { progress: boolean };
  /** The backend is asked for events; it may sleep for `timeoutNs` (-1: for ever, 0: not). */
  wait_begin: { timeoutNs: number };
  /** It has answered; `ready` handlers are ready now, those found by polling among them. */
  wait_end: { ready: number };
  /** A callback is about to run. */
  callback_begin: CallbackEvent;
  /** It has returned or thrown; or it did not run, as listeners have seen to that. */
  callback_end: CallbackEvent;
  /** Poll mode runs: at most `maxNs`, with `timeoutNs` (-1: none) left for the whole wait. */
  run_poll_handlers_begin: { maxNs: number; timeoutNs: number };
  /** It ended; `progress` when work was found. */
  run_poll_handlers_end: { progress: boolean; timeoutNs: number };
  /**
   * The ring is polled for completions of requests in flight before the loop sleeps, at most for
   * `maxNs`. The handlers are not polled meanwhile.
   */
  poll_requests_begin: { maxNs: number; timeoutNs: number };
  /** It ended; `progress` when there was an event. */
  poll_requests_end: { progress: boolean; timeoutNs: number };
  /** The polling time of a handler, or of the requests in flight, shrank. */
  poll_shrink: { old: number; new: number };
  /** It grew. */
  poll_grow: { old: number; new: number };
  /** A handler joined the poll list when its fd reported `revents`. */
  poll_add: { handler: number; fd: number; revents: number };
  /** A handler was idle for too long and left the poll list. */
  poll_remove: { handler: number; fd: number };
  /** A coroutine was scheduled; `co` is its number. */
  aio_co_schedule: { co: number; name: string };
  /** It was entered: its job is due. */
  aio_co_schedule_bh_cb: { co: number; name: string };
  /** A request was handed to the backend. `off` in bytes, where the opcode has one. */
  fdmon_io_uring_add_sqe: { opcode: number; fd: number; off: number };
  /** The completion of a request is dispatched; `res` is a count or -errno. */
  fdmon_io_uring_cqe_handler: { res: number };
}

/** Name of a trace event. */
export type TraceName = keyof TraceEvents;

/** Called with each event of one name. */
export type TraceListener<Name extends TraceName> = (event: TraceEvents[Name]) => void;

type Listeners = { [Name in TraceName]: TraceListener<Name>[] | null };

/** Names a handler in events. */
interface TracedHandler {
  readonly id: number;
  readonly fd: number;
}

/** A context's trace events; `ctx.trace`. */
export class Trace {
  /** Null for an event nobody listens to. */
  readonly #listeners: Listeners = {
    iteration_begin: null,
    iteration_end: null,
    wait_begin: null,
    wait_end: null,
    callback_begin: null,
    callback_end: null,
    run_poll_handlers_begin: null,
    run_poll_handlers_end: null,
    poll_requests_begin: null,
    poll_requests_end: null,
    poll_shrink: null,
    poll_grow: null,
    poll_add: null,
    poll_remove: null,
    aio_co_schedule: null,
    aio_co_schedule_bh_cb: null,
    fdmon_io_uring_add_sqe: null,
    fdmon_io_uring_cqe_handler: null,
  };
  readonly #report: (error: unknown) => void;
  /** @internal Somebody listens to something. */
  active = false;
  /** A wait has begun and not ended. */
  #waiting = false;

  /**
   * Made by the context.
   *
   * @param report receives what a listener throws
   */
  constructor(report: (error: unknown) => void) {
    this.#report = report;
    // The members of a prototype would be taken for lists.
    Object.setPrototypeOf(this.#listeners, null);
  }

  /**
   * Listens to one event. A function given twice is called twice.
   *
   * @returns a function that stops what this call has begun; harmless when that has been stopped
   * @throws {TypeError} for an unknown name or when the listener is not a function
   */
  on<Name extends TraceName>(name: Name, listener: TraceListener<Name>): () => void {
    // A name that is an object could read as another one the next time.
    if (typeof name !== "string" || !Object.hasOwn(this.#listeners, name)) {
      throw new TypeError(`Cannot trace an event as it has no such name: ${String(name)}`);
    }
    if (typeof listener !== "function") {
      throw new TypeError(`Cannot trace ${name} as the listener is not a function`);
    }
    const listeners = this.#listeners as Record<TraceName, TraceListener<Name>[] | null>;
    listeners[name] = [...(listeners[name] ?? []), listener];
    this.active = true;
    let listening = true;
    return () => {
      if (!listening) return;
      listening = false;
      const rest = [...listeners[name]!];
      rest.splice(rest.indexOf(listener), 1);
      listeners[name] = rest.length === 0 ? null : rest;
      this.active = Object.values(this.#listeners).some((others) => others !== null);
    };
  }

  /** True when somebody listens: only then is the event worth making. */
  wants(name: TraceName): boolean {
    return this.#listeners[name] !== null;
  }

  /** Hands an event to its listeners. */
  emit<Name extends TraceName>(name: Name, event: TraceEvents[Name]): void {
    for (const listener of this.#listeners[name] ?? []) {
      try {
        listener(event);
      } catch (error) {
        this.#report(error);
      }
    }
  }

  // The loop's own ways to say what it says in every iteration, called where `active` is set.

  /** @internal An iteration begins. Returns true when somebody was told, who may have disposed. */
  beginIteration(blocking: boolean): boolean {
    if (this.#listeners.iteration_begin === null) return false;
    this.emit("iteration_begin", { blocking });
    return true;
  }

  /** @internal It ends. */
  endIteration(progress: boolean): void {
    if (this.#listeners.iteration_end !== null) this.emit("iteration_end", { progress });
  }

  /** @internal Poll mode has run. */
  endPolling(progress: boolean, timeoutNs: number): void {
    if (this.#listeners.run_poll_handlers_end === null) return;
    this.emit("run_poll_handlers_end", { progress, timeoutNs });
  }

  /** @internal A wait begins. Returns true when somebody was told, who may have changed anything. */
  beginWait(timeoutNs: number): boolean {
    const told = this.#listeners.wait_begin !== null;
    if (told) this.emit("wait_begin", { timeoutNs });
    // Last, as a listener may have polled.
    this.#waiting = true;
    return told;
  }

  /** @internal It has ended, if one had begun. */
  endWait(ready: number): void {
    if (!this.#waiting) return;
    this.#waiting = false;
    if (this.#listeners.wait_end !== null) this.emit("wait_end", { ready });
  }

  /** @internal A callback is about to run, if listeners do not see to it that it must not. */
  beginCallback(kind: TracedCallback, handler: TracedHandler | null, name = ""): void {
    if (this.#listeners.callback_begin === null) return;
    this.emit("callback_begin", callbackEvent(kind, handler, name));
  }

  /** @internal It has returned or thrown, or did not run. */
  endCallback(kind: TracedCallback, handler: TracedHandler | null, name = ""): void {
    if (this.#listeners.callback_end === null) return;
    this.emit("callback_end", callbackEvent(kind, handler, name));
  }
}

function callbackEvent(
  kind: TracedCallback,
  handler: TracedHandler | null,
  name: string,
): CallbackEvent {
  return { kind, handler: handler === null ? 0 : handler.id, fd: handler?.fd ?? -1, name };
}

/** What an observer of contexts is given. */
export interface TracedContext {
  readonly trace: Trace;
  readonly fdmon: { readonly name: string };
  stats(): { readonly handlers: number; readonly listed: number; readonly ready: number };
}

let observer: ((context: TracedContext) => void) | null = null;

/** Has every context that this thread makes from now on told to `observe`; null ends that. */
export function observeContexts(observe: ((context: TracedContext) => void) | null): void {
  observer = observe;
}

/** Called by each new context. */
export function contextMade(context: TracedContext): void {
  observer?.(context);
}
