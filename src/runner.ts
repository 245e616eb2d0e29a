/**
 * `run`: drives a context from Deno's event loop until promises settle.
 *
 * It works in turns. A turn is one task of Deno's loop in which iterations and the promise jobs they
 * make due alternate, so a request costs no trip through Deno's loop. Between two turns Deno's own
 * timers and I/O have theirs: a turn lasts, and sleeps, no longer than a bound, which is shorter
 * while Deno has something to wait for. When nothing in the context can ever happen the thread is
 * left to Deno until the context is changed; when Deno has nothing to wait for either, that is a
 * deadlock, which the promise then reports. Invariant: while runs are unsettled a turn is scheduled,
 * or running, or the runner is parked.
 */
import type { HostLoop } from "./host_loop.ts";
import type { Iteration } from "./iteration.ts";

/** Options of `run`. */
export interface RunOptions {
  /** Ends the run, whose promise then rejects with the signal's reason. */
  signal?: AbortSignal;
}

/** How long a turn keeps Deno's loop waiting, in ns: with nothing to do there, and with something. */
const TURN_NS = 10e6, SHARED_TURN_NS = 1e6;
/** Iterations between two looks at the clock. */
const ITERATIONS_PER_LOOK = 8;
/** How often a parked runner looks whether Deno still has something to wait for. */
const PARKED_CHECK_MS = 100;

/** What a runner is made of. */
export interface RunnerParts {
  readonly host: HostLoop;
  readonly iteration: Iteration;
  /** One blocking iteration; throws what callbacks have thrown. */
  readonly poll: () => void;
  /** Whether anything in the context can happen without somebody changing it. */
  readonly isBusy: () => boolean;
  /** The system's time in ns. */
  readonly now: () => number;
}

/** Drives one context. */
export class Runner {
  readonly #parts: RunnerParts;
  /** Rejects each run that is not settled. */
  readonly #runs = new Set<(error: unknown) => void>();
  #scheduled = false;
  #parked = false;
  #check: ReturnType<typeof setTimeout> | undefined;
  readonly #turn = (): void => this.#takeTurn();

  constructor(parts: RunnerParts) {
    this.#parts = parts;
  }

  /** Calls a function and drives the context until what it returns is settled. */
  async run<Result>(
    task: () => Result | PromiseLike<Result>,
    signal: AbortSignal | undefined,
  ): Promise<Result> {
    signal?.throwIfAborted();
    const { promise, resolve, reject } = Promise.withResolvers<Result>();
    const abort = () => reject(signal!.reason);
    signal?.addEventListener("abort", abort);
    this.#runs.add(reject);
    try {
      (async () => await task())().then(resolve, reject);
      this.wake();
      return await promise;
    } finally {
      this.#runs.delete(reject);
      signal?.removeEventListener("abort", abort);
      if (this.#runs.size === 0) this.#unpark();
    }
  }

  /** The context has been changed: there may be something to do. */
  wake(): void {
    this.#unpark();
    if (this.#scheduled || this.#runs.size === 0) return;
    this.#scheduled = true;
    setImmediate(this.#turn);
  }

  /** Whether nobody drives the context although runs are not settled. */
  get parked(): boolean {
    return this.#parked;
  }

  #takeTurn(): void {
    const { host, iteration, isBusy } = this.#parts;
    this.#scheduled = false;
    host.runJobs?.();
    if (this.#runs.size === 0) return;
    if (!isBusy()) return this.#park();
    const turnNs = host.hasWork() ? SHARED_TURN_NS : TURN_NS;
    iteration.longestSleepNs = turnNs;
    try {
      this.#iterate(turnNs);
    } catch (error) {
      for (const reject of this.#runs) reject(error);
      // They settle, but for the jobs of that, which are Deno's to run.
      this.#runs.clear();
    } finally {
      iteration.longestSleepNs = -1;
    }
    if (this.#runs.size !== 0) this.wake();
  }

  #iterate(turnNs: number): void {
    const { host, poll, isBusy, now } = this.#parts;
    const { runJobs } = host;
    const untilNs = now() + turnNs;
    for (let iterations = 1;; iterations++) {
      poll();
      // Without jobs in between nothing that follows from this iteration could happen.
      if (runJobs === null) return;
      runJobs();
      if (this.#runs.size === 0 || !isBusy()) return;
      if (iterations % ITERATIONS_PER_LOOK === 0 && now() >= untilNs) return;
    }
  }

  /** Leaves the thread to Deno's loop, until the context is changed. */
  #park(): void {
    const { host } = this.#parts;
    if (!host.hasWork()) {
      const error = new Error(
        "Cannot go on running as nothing can ever settle the promise: the context has no requests, " +
          "handlers, timers or bottom halves, and Deno nothing to wait for",
      );
      for (const reject of this.#runs) reject(error);
      this.#runs.clear();
      return;
    }
    this.#parked = true;
    this.#check = setTimeout(() => this.wake(), PARKED_CHECK_MS);
  }

  #unpark(): void {
    if (!this.#parked) return;
    this.#parked = false;
    clearTimeout(this.#check);
  }
}
