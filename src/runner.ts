/**
 * `run`: drives a context from Deno's event loop until promises settle.
 *
 * It works in turns. A turn is one task of Deno's loop in which iterations and the promise jobs they
 * make due alternate, so a request costs no trip through Deno's loop. Between two turns Deno's own
 * timers and I/O have theirs: a turn lasts, and sleeps, a millisecond at first and a few where nothing
 * happens; then another thread waits in the loop's place, and this one is Deno's alone. Where there is
 * no fd or thread for that, the turns go on. Where the thread is the context's nobody waits in its
 * place: it sleeps itself, for longer and longer between two turns of Deno's, unless something is
 * hosted that Deno has to do. When nothing in the context can ever happen nobody waits
 * for it until it is changed. When Deno has nothing to wait for either, that is a deadlock: Deno ends,
 * but the promise rejects before; at the top level of a module Deno itself says which `await` it is.
 * Invariant: while runs are unsettled a turn is scheduled, or running, or the context sleeps, or the
 * runner is parked.
 */
import { AioError } from "../ffi/errno.ts";
import type { System } from "../ffi/system.ts";
import type { DelegatedSleep } from "./delegated_sleep.ts";
import type { RunJobs } from "./host_loop.ts";
import { heedSignal, ignoreSignal, readSignal } from "./io/request_signal.ts";
import type { Iteration } from "./iteration.ts";

/** Options of `run`. */
export interface RunOptions {
  /** Ends the run, whose promise then rejects with the signal's reason. */
  signal?: AbortSignal;
  /**
   * The thread is the context's, as a Worker's can be: where nothing happens it sleeps in the context
   * itself, for 64 ms at most between two turns of Deno's loop, and wakes up the sooner for it.
   */
  ownsThread?: boolean;
}

/** What the function of a run is given. */
export interface RunScope {
  /**
   * Hands on a promise of something Deno does, as `fetch`. Until it is settled the thread is Deno's
   * wherever nothing happens in the context, also if the run owns it.
   */
  host<Result>(promise: PromiseLike<Result>): Promise<Result>;
}

/** How long a turn keeps Deno's loop waiting, in ns: while things happen, and at most. */
const BUSY_TURN_NS = 1e6, IDLE_TURN_NS = 4e6;
/** The same at most where the thread is the context's. */
const OWN_TURN_NS = 64e6;
/** Iterations between two looks at the clock. */
const ITERATIONS_PER_LOOK = 8;

/** What a runner is made of. */
export interface RunnerParts {
  /** Runs promise jobs; null where that cannot be done. */
  readonly runJobs: RunJobs | null;
  readonly iteration: Iteration;
  /** One blocking iteration; returns whether it made progress, throws what callbacks throw. */
  readonly poll: () => boolean;
  /** Somebody else drives the context. */
  readonly isDriven: () => boolean;
  /** Leaves the thread to Deno while nothing happens. */
  readonly sleep: DelegatedSleep;
  /** Whether anything in the context can happen without somebody changing it. */
  readonly isBusy: () => boolean;
  readonly system: System;
}

/** Drives one context. */
export class Runner {
  readonly #parts: RunnerParts;
  /** Rejects each run that is not settled. */
  readonly #runs = new Set<(error: unknown) => void>();
  #scheduled = false;
  #parked = false;
  #sleeping = false;
  #turnNs = BUSY_TURN_NS;
  /** Runs that have the thread for themselves, and things Deno has to do nevertheless. */
  #owning = 0;
  #hosted = 0;
  readonly #turn = (): void => this.#takeTurn();
  readonly #denoEnds = (event: Event): void => this.#reportDeadlock(event);

  constructor(parts: RunnerParts) {
    this.#parts = parts;
  }

  /** Calls a function and drives the context until what it returns is settled. */
  async run<Result>(
    task: (scope: RunScope) => Result | PromiseLike<Result>,
    options: RunOptions,
  ): Promise<Result> {
    const signal = readSignal(options);
    const { promise, resolve, reject } = Promise.withResolvers<Result>();
    const abort = () => reject(signal!.reason);
    if (signal !== null) heedSignal(signal, abort);
    this.#runs.add(reject);
    const owns = options.ownsThread === true ? 1 : 0;
    this.#owning += owns;
    try {
      (async () => await task({ host: (promise) => this.#host(promise) }))().then(resolve, reject);
      this.wake();
      return await promise;
    } finally {
      this.#runs.delete(reject);
      this.#owning -= owns;
      if (signal !== null) ignoreSignal(signal, abort);
      if (this.#runs.size === 0) this.#rest();
    }
  }

  async #host<Result>(promise: PromiseLike<Result>): Promise<Result> {
    this.#hosted++;
    try {
      return await promise;
    } finally {
      this.#hosted--;
    }
  }

  /** The context has been changed: there may be something to do. */
  wake(): void {
    this.#rest();
    if (this.#scheduled || this.#runs.size === 0) return;
    this.#scheduled = true;
    setImmediate(this.#turn);
  }

  /** Whether the thread is Deno's although runs are not settled: changes have to be told. */
  get resting(): boolean {
    return this.#parked || this.#sleeping;
  }

  /** Nothing could happen in the context when that was looked at last. */
  get parked(): boolean {
    return this.#parked;
  }

  /** Neither sleeps nor is parked any more. */
  #rest(): void {
    this.#unpark();
    if (!this.#sleeping) return;
    this.#sleeping = false;
    this.#parts.sleep.end();
  }

  #takeTurn(): void {
    const { runJobs, iteration, isBusy, isDriven } = this.#parts;
    this.#scheduled = false;
    runJobs?.();
    if (this.#runs.size === 0) return;
    if (isDriven() || !isBusy()) return this.#park();
    iteration.longestSleepNs = this.#turnNs;
    try {
      const progress = this.#iterate(this.#turnNs);
      const own = this.#owning !== 0 && this.#hosted === 0;
      const idle = !progress && this.#turnNs >= IDLE_TURN_NS && !own;
      this.#turnNs = progress
        ? BUSY_TURN_NS
        : Math.min(this.#turnNs * 2, own ? OWN_TURN_NS : IDLE_TURN_NS);
      if (idle && this.#runs.size !== 0 && isBusy() && this.#sleep()) return;
    } catch (error) {
      this.#rejectAll(error);
    } finally {
      iteration.longestSleepNs = -1;
    }
    if (this.#runs.size !== 0) this.wake();
  }

  #iterate(turnNs: number): boolean {
    const { runJobs, poll, isBusy, iteration, system } = this.#parts;
    const untilNs = system.now() + turnNs;
    let progress = false;
    for (let iterations = 1;; iterations++) {
      const progressed = poll();
      if (progressed && !progress) iteration.longestSleepNs = BUSY_TURN_NS;
      progress ||= progressed;
      // Without jobs in between nothing that follows from this iteration could happen.
      if (runJobs === null) break;
      runJobs();
      if (this.#runs.size === 0 || !isBusy()) break;
      // One that slept in vain has used the turn up.
      if (!progressed) break;
      if (iterations % ITERATIONS_PER_LOOK === 0 && system.now() >= untilNs) break;
    }
    return progress;
  }

  /** Leaves the thread to Deno until something happens; false where it has already. */
  #sleep(): boolean {
    this.#parts.iteration.longestSleepNs = -1;
    try {
      this.#sleeping = this.#parts.sleep.begin(true, () => {
        this.#sleeping = false;
        this.#takeTurn();
      });
    } catch (error) {
      // Short sleeps between turns need nothing of the system.
      if (!(error instanceof AioError)) throw error;
    }
    return this.#sleeping;
  }

  /** Leaves the thread to Deno's loop, until the context is changed. */
  #park(): void {
    this.#parked = true;
    globalThis.addEventListener("beforeunload", this.#denoEnds);
  }

  #unpark(): void {
    if (!this.#parked) return;
    this.#parked = false;
    globalThis.removeEventListener("beforeunload", this.#denoEnds);
  }

  #reportDeadlock(event: Event): void {
    // Jobs only run if Deno does not end after all.
    event.preventDefault();
    this.#unpark();
    this.#rejectAll(
      new Error(
        "Cannot go on running as nothing can ever settle the promise: the context has no requests, " +
          "handlers, timers or bottom halves, and Deno nothing to wait for",
      ),
    );
  }

  /** Ends all runs; that they are over is told by jobs, which are Deno's to run. */
  #rejectAll(error: unknown): void {
    for (const reject of this.#runs) reject(error);
    this.#runs.clear();
  }
}
