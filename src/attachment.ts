/**
 * `attach`: a context that lives inside Deno's own event loop.
 *
 * While there is work it takes turns with Deno: a turn is one task of Deno's loop, in which iterations
 * and the promise jobs they make due alternate for a bounded time, and the next one comes through
 * setImmediate, behind everything that Deno has to do by then. Without work poll mode is left, the
 * sleep is announced, and a thread of the shim waits for the fds; neither uses the processor, and the
 * process may end meanwhile unless `ref` says otherwise or requests are in flight. Whatever changes
 * the context, or wakes it from another thread, brings the next turn about. Where there is no fd or
 * thread for the sleep, a timer of Deno's does.
 *
 * Invariant: an attached context has a turn scheduled, or running, or sleeps with the waiter armed.
 */
import { AioError } from "../ffi/errno.ts";
import type { System } from "../ffi/system.ts";
import type { DelegatedSleep } from "./delegated_sleep.ts";
import type { RunJobs } from "./host_loop.ts";
import type { Iteration } from "./iteration.ts";

/** How long a turn keeps Deno's loop waiting while it makes progress, in ns. */
const TURN_NS = 200_000;

/** How often a context is looked after that nobody can wait for. */
const WITHOUT_WAITER_MS = 5;

/** What an attachment is made of. */
export interface AttachmentParts {
  readonly system: System;
  readonly iteration: Iteration;
  /** Whether something is under way whose end somebody waits for. */
  readonly isAwaited: () => boolean;
  readonly sleep: DelegatedSleep;
  /** Runs promise jobs; null where that cannot be done. */
  readonly runJobs: RunJobs | null;
  /** One iteration; returns whether it made progress, throws what callbacks throw. */
  readonly poll: () => boolean;
}

/** Drives one context from Deno's loop. */
export class Attachment {
  readonly #parts: AttachmentParts;
  #attached = false;
  #scheduled = false;
  #running = false;
  /** The process is to stay alive also where no requests are in flight. */
  #wanted = false;
  readonly #turn = (): void => {
    this.#scheduled = false;
    this.#takeTurn();
  };

  constructor(parts: AttachmentParts) {
    this.#parts = parts;
  }

  /** Whether the context is attached. */
  get attached(): boolean {
    return this.#attached;
  }

  /** Begins to take turns. */
  attach(): void {
    this.#attached = true;
    this.wake();
  }

  /** Takes no more turns. */
  detach(): void {
    if (!this.#attached) return;
    this.#attached = false;
    this.#parts.sleep.dispose();
  }

  /** Keeps the process alive while the context sleeps. */
  ref(): void {
    this.#wanted = true;
    this.keepAlive();
  }

  /** Lets the process end while the context sleeps, unless requests are in flight. */
  unref(): void {
    this.#wanted = false;
    this.keepAlive();
  }

  /** What is under way has changed: the process has to stay alive for it, or need not any more. */
  keepAlive(): void {
    const { sleep } = this.#parts;
    if (this.#attached && sleep.active) sleep.keepAlive(this.#isNeeded());
  }

  #isNeeded(): boolean {
    return this.#wanted || this.#parts.isAwaited();
  }

  /** The context has been changed: a turn is due. */
  wake(): void {
    if (!this.#attached || this.#scheduled || this.#running) return;
    this.#parts.sleep.end();
    this.#scheduled = true;
    setImmediate(this.#turn);
  }

  #takeTurn(): void {
    if (!this.#attached) return;
    const { iteration } = this.#parts;
    let progress = true;
    this.#running = true;
    iteration.sleepless = true;
    // It does not sleep, but may poll for as long as it could.
    iteration.longestSleepNs = TURN_NS;
    try {
      progress = this.#iterate();
      iteration.longestSleepNs = -1;
      if (!progress && this.#attached) progress = !this.#sleep();
    } catch (error) {
      // As with any other callback of Deno's loop: nobody else could catch it.
      reportError(error);
    } finally {
      iteration.sleepless = false;
      iteration.longestSleepNs = -1;
      this.#running = false;
    }
    if (progress) this.wake();
  }

  /** Iterates for as long as that makes progress; whether there may be more to do. */
  #iterate(): boolean {
    const { runJobs, poll, system } = this.#parts;
    runJobs?.();
    const untilNs = system.now() + TURN_NS;
    while (this.#attached) {
      const progress = poll();
      if (runJobs === null) return progress;
      runJobs();
      if (!progress) return false;
      if (system.now() >= untilNs) return true;
    }
    return false;
  }

  /** Leaves the thread to Deno; false where there is something to do already. */
  #sleep(): boolean {
    try {
      return this.#parts.sleep.begin(this.#isNeeded(), () => this.#takeTurn());
    } catch (error) {
      if (!(error instanceof AioError)) throw error;
      this.#scheduled = true;
      setTimeout(this.#turn, WITHOUT_WAITER_MS);
      return true;
    }
  }
}
