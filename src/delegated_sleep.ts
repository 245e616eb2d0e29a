/**
 * A sleep of the loop that leaves the thread to Deno: a thread of the shim waits for the fds
 * meanwhile.
 *
 * Whoever drives the context begins it when there is nothing to do, and is called when that has
 * changed. Neither the loop nor Deno uses the processor for it. Changing the context does not end it:
 * who drives the context is told of changes, and does. Invariant: while it is active the waiter is
 * armed and the iteration has prepared a sleep.
 */
import type { Shim } from "../ffi/shim_symbols.ts";
import type { System } from "../ffi/system.ts";
import { Waiter } from "../ffi/waiter.ts";
import type { ContextNotifier } from "./context_notifier.ts";
import type { Iteration } from "./iteration.ts";
import type { IterationTimes } from "./iteration_times.ts";

/** What it is made of. */
export interface DelegatedSleepParts {
  readonly shim: Shim;
  readonly system: System;
  readonly iteration: Iteration;
  readonly times: IterationTimes;
  readonly notifier: ContextNotifier;
}

/** Sleeps of one context. */
export class DelegatedSleep {
  readonly #parts: DelegatedSleepParts;
  #waiter: Waiter | null = null;
  #keepsAlive = false;
  /** Whom to call; null while the loop does not sleep. */
  #woken: (() => void) | null = null;

  constructor(parts: DelegatedSleepParts) {
    this.#parts = parts;
  }

  /** Whether the loop sleeps. */
  get active(): boolean {
    return this.#woken !== null;
  }

  /**
   * Begins to sleep.
   *
   * @param keepAlive whether the process has to stay alive meanwhile
   * @param woken called once there is something to do, unless `end` is called before
   * @returns false where there is something to do already
   * @throws {AioError} when the system has no thread, fd or memory for it; it does not sleep then
   */
  begin(keepAlive: boolean, woken: () => void): boolean {
    const { iteration, system, times } = this.#parts;
    const waiter = this.#waiter ??= this.#openWaiter();
    const waitable = iteration.prepareSleep();
    if (waitable === null) return false;
    this.#woken = woken;
    const { timeoutNs } = times;
    try {
      waiter.arm(waitable.fds, waitable.count, timeoutNs < 0 ? -1 : system.now() + timeoutNs);
    } catch (error) {
      this.end();
      throw error;
    }
    this.keepAlive(keepAlive);
    return true;
  }

  /** Sleeps no more; nobody is called. */
  end(): void {
    if (this.#woken === null) return;
    this.#woken = null;
    this.#waiter!.disarm();
    this.keepAlive(false);
    this.#parts.iteration.endSleep();
  }

  /** Whether the process has to stay alive while it is active. */
  keepAlive(keeps: boolean): void {
    if (this.#waiter === null || keeps === this.#keepsAlive) return;
    if (keeps) this.#waiter.ref();
    else this.#waiter.unref();
    this.#keepsAlive = keeps;
  }

  #openWaiter(): Waiter {
    const { shim, notifier: { board, place } } = this.#parts;
    const fired = () => {
      // The byte may have been on its way when the sleep ended otherwise.
      const woken = this.#woken;
      this.end();
      woken?.();
    };
    return new Waiter(shim, fired, (fd, inode) => board.keepWaiter(place, fd, inode));
  }

  /** Ends the thread. */
  dispose(): void {
    this.end();
    this.#waiter?.dispose();
    this.#waiter = null;
    this.#keepsAlive = false;
  }
}
