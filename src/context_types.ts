/**
 * What a context is made from, and what it tells about itself.
 */
import type { Clock } from "./clock.ts";
import type { FdmonName } from "./fdmon.ts";
import type { PollParams } from "./polling_time.ts";

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
  /** Its name. */
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
  /** Runs of poll mode. */
  pollRuns: number;
  /** Runs of poll mode that found work. */
  pollHits: number;
  /** Time spent in poll mode. */
  pollModeNs: number;
  /** Times the ring was polled for requests in flight, beside no handlers. */
  requestPolls: number;
  /** Those that ended with a completion or another event. */
  requestPollHits: number;
  /** Time they took. */
  requestPollNs: number;
  /** Handlers that left the poll list because they were idle. */
  idleRemovals: number;
  /** Callbacks of handlers dispatched. */
  dispatches: number;
  /** Handlers set now. */
  handlers: number;
  /** Handlers on the poll list now; the context's own notifier can be one more. */
  listed: number;
  /** Handlers ready and not dispatched yet. */
  ready: number;
  /** Handlers deleted and not released yet. */
  deleted: number;
  /** Timers armed now. */
  timers: number;
  /** Bottom halves scheduled now. */
  bottomHalves: number;
  /** Requests in flight now, those whose completion is not dispatched yet included. */
  requests: number;
  /** Coroutines that live in the context now and have not ended. */
  coroutines: number;
}

/**
 * Reads the options, each once, as it may be a getter. Here only the clock is checked; the others
 * are by whoever they are for.
 */
export function readContextOptions(options: AioContextOptions): AioContextOptions {
  if (typeof options !== "object" || options === null) {
    throw new TypeError(`Cannot make a context as the options are no object: ${String(options)}`);
  }
  const { fdmon, pollParams, clock, shim, liburing } = options;
  if (clock !== undefined && typeof clock?.now !== "function") {
    throw new TypeError("Cannot make a context as its clock has no now()");
  }
  return { fdmon, pollParams, clock, shim, liburing };
}

/** Checks a callback; `what` says what it is for. */
export function requireFunction(callback: unknown, what: string): void {
  if (typeof callback !== "function") {
    throw new TypeError(`Cannot ${what} as the callback is not a function: ${typeof callback}`);
  }
}

/**
 * Has structuredClone and postMessage refuse a context, in words: they would make an empty object
 * of it, as its state is private. A getter is what they come across.
 */
export function refusePosting(context: object): void {
  Object.defineProperty(context, "transferable", {
    enumerable: true,
    get() {
      throw new TypeError(
        "Cannot post an AioContext as it belongs to the thread that made it: post ctx.remote()",
      );
    },
  });
}
