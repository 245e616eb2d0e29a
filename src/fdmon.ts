/**
 * What a file descriptor monitoring backend promises the loop. Types only.
 *
 * A backend watches the fds it is told of and collects the ready ones; it runs no user code and
 * does not know the context. It owns the `watched`, `slot` and `arm...` fields of a handler. All
 * three backends are level-triggered: an fd that stays ready is reported by every wait.
 */
import type { NativeMemory } from "../ffi/memory.ts";
import type { Spin } from "../ffi/spin.ts";
import type { System } from "../ffi/system.ts";
import type { AioHandler } from "./aio_handler.ts";
import type { IntrusiveList } from "./intrusive_list.ts";
import type { IterationTimes } from "./iteration_times.ts";
import type { RequestDevice } from "./request.ts";
import type { RequestQueue } from "./request_queue.ts";
import type { Trace } from "./trace.ts";

/** Names of the backends. */
export type FdmonName = "io_uring" | "epoll" | "poll";

/** Handlers with events to dispatch. */
export type ReadyList = IntrusiveList<AioHandler>;

/** What the backends are made of. */
export interface FdmonParts {
  readonly system: System;
  readonly spin: Spin<AioHandler>;
  /** Watches no words, only the ring and the notifier. */
  readonly ringSpin: Spin<never>;
  readonly ready: ReadyList;
  readonly times: IterationTimes;
  /** The context's own, which has to be watched for a backend to be of use. */
  readonly notifier: AioHandler;
  /** Hears of completions. */
  readonly requests: RequestQueue;
  readonly trace: Trace;
  /** Memory for a ring's description, where it is found when this thread is dropped. */
  readonly ringMemory: BigUint64Array<ArrayBuffer>;
  /** Path of liburing, where the user gave one. */
  readonly liburing?: string;
}

/** A monitoring backend. */
export interface Fdmon {
  readonly name: FdmonName;

  /**
   * Whether it learns of ready fds without a system call. Only then may the loop skip `wait` for
   * as long as polling succeeds, and only then do idle handlers leave the poll list.
   */
  readonly supportsPolling: boolean;

  /** Carries requests out; null where the backend cannot. */
  readonly requests: RequestDevice | null;

  /**
   * Stops watching `old`, begins to watch `replacement`; either can be null, and both have the
   * same fd. Throws before anything has changed.
   */
  update(old: AioHandler | null, replacement: AioHandler | null): void;

  /** The handler has left the poll list: from now on only its fd tells of work. */
  unpolled(handler: AioHandler): void;

  /**
   * The loop is about to poll in userspace: everything not polled there has to be watched.
   *
   * @param listed the handlers on the poll list are polled
   */
  beforePolling(listed: boolean): void;

  /** Whether the memory that a spin looks at shows the completions of requests. */
  readonly showsCompletions: boolean;

  /** Whether something waits to be submitted, which may complete at once. */
  readonly hasChanges: boolean;

  /** True when there is something to fetch that a poll of userspace memory would miss. */
  needWait(): boolean;

  /** True when an fd can become ready without `needWait` telling, unless `wait` is called. */
  readonly mayMissEvents: boolean;

  /**
   * Collects ready handlers on the ready list it was made with. Returning without any is not an
   * error.
   *
   * @param block wait for as long as the iteration's `timeoutNs` says
   * @param polled the listed handlers have been polled in this iteration, so their fds may stay
   *   unwatched if this wait does not block
   */
  wait(block: boolean, polled: boolean): void;

  /**
   * From now on another thread may wait in the loop's place, for what is returned: struct pollfd,
   * good until something is changed. A `wait` that does not block has to follow.
   */
  delegateWait(): { readonly fds: NativeMemory; readonly count: number };

  /** Nobody waits in the loop's place any more. */
  endDelegation(): void;

  /** Gives everything back to the system. */
  dispose(): void;
}

/** Notes that a handler's fd is ready. */
export function markReady(ready: ReadyList, handler: AioHandler, revents: number): void {
  handler.revents |= revents;
  if (!handler.ready) ready.append(handler.readyLink);
}

/** Notes that a handler's fd cannot be watched any more. */
export function markFailed(ready: ReadyList, handler: AioHandler, errno: number): void {
  handler.watchErrno = errno;
  markReady(ready, handler, 0);
}
