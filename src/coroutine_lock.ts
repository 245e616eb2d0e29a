/**
 * Mutex and semaphore for coroutines, or any async functions of one thread.
 *
 * Between two `await`s nobody else runs, so a lock is needed only by what awaits while it holds it.
 * They hand over: a permit given back while others wait belongs to the first of them from that
 * moment on, so nobody who asks in between gets ahead, and none waits for ever. Who is not made to
 * wait gets a small object and goes on with the next promise job; `tryLock` and `tryAcquire` do not
 * even take that. Who waits goes on as a promise job, not through a context.
 */
import type { RequestOptions } from "./io/operation.ts";
import { readSignal, WaitList } from "./wait_list.ts";

/** A lock that is held, or a permit of a semaphore, until it is released: `using` does that. */
export class CoPermit implements Disposable {
  #semaphore: CoSemaphore | null;

  /**
   * For `CoSemaphore`.
   *
   * @internal
   */
  constructor(semaphore: CoSemaphore) {
    this.#semaphore = semaphore;
  }

  /** Gives it back, to the first who waits if anybody does. Doing that twice is harmless. */
  release(): void {
    const semaphore = this.#semaphore;
    this.#semaphore = null;
    semaphore?.release();
  }

  /** Gives it back. */
  [Symbol.dispose](): void {
    this.release();
  }
}

/**
 * A number of permits, of which one can also make more.
 *
 * @example
 * ```ts
 * import { CoSemaphore } from "@aio/context";
 * const slots = new CoSemaphore(2);
 * let busy = 0, most = 0;
 * await Promise.all([1, 2, 3, 4].map(async () => {
 *   using _slot = await slots.acquire();
 *   most = Math.max(most, ++busy);
 *   await null;
 *   busy--;
 * }));
 * console.log(most); // 2
 * ```
 */
export class CoSemaphore {
  #free: number;
  readonly #waiting = new WaitList<CoPermit>();

  /**
   * Makes a semaphore.
   *
   * @param permits how many there are at first
   * @throws {RangeError} when that is not a whole number >= 0, or a TypeError
   */
  constructor(permits: number) {
    this.#free = requireCount("make a semaphore", permits);
  }

  /** Permits that nobody holds. */
  get free(): number {
    return this.#free;
  }

  /** How many wait. */
  get waiting(): number {
    return this.#waiting.size;
  }

  /**
   * Waits for a permit.
   *
   * @param options a signal that ends the waiting
   * @throws the signal's reason
   */
  acquire(options?: RequestOptions): Promise<CoPermit> {
    try {
      const signal = readSignal("acquire a permit", options);
      const permit = this.tryAcquire();
      return permit === null ? this.#waiting.wait(undefined, signal) : Promise.resolve(permit);
    } catch (error) {
      return Promise.reject(error);
    }
  }

  /** A permit, or null where one would have to wait for it. */
  tryAcquire(): CoPermit | null {
    if (this.#free === 0) return null;
    this.#free--;
    return new CoPermit(this);
  }

  /**
   * Makes permits, whoever has held any: to those that wait, first come first served, then to be had.
   * A permit that was acquired is given back by its own `release`, or by this and never both.
   *
   * @throws {RangeError} when the count is not a whole number >= 0, or the permits too many to count
   */
  release(count = 1): void {
    const free = this.#free + requireCount("release permits", count);
    requireCount("release permits", free);
    for (; count > 0; count--) {
      const waiter = this.#waiting.shift();
      if (waiter === null) break;
      waiter.resolve(new CoPermit(this));
    }
    this.#free += count;
  }
}

/**
 * A lock that one holds at a time.
 *
 * @example
 * ```ts
 * import { CoMutex } from "@aio/context";
 * const mutex = new CoMutex();
 * let balance = 0;
 * await Promise.all(Array.from({ length: 100 }, async () => {
 *   using _lock = await mutex.lock();
 *   const before = balance;
 *   await null; // others run here
 *   balance = before + 1;
 * }));
 * console.log(balance); // 100
 * ```
 */
export class CoMutex {
  readonly #semaphore = new CoSemaphore(1);

  /** Whether somebody holds it. */
  get locked(): boolean {
    return this.#semaphore.free === 0;
  }

  /** How many wait. */
  get waiting(): number {
    return this.#semaphore.waiting;
  }

  /**
   * Waits for the lock: `using lock = await mutex.lock()`. Who holds it and locks it again waits for
   * ever.
   *
   * @param options a signal that ends the waiting
   * @throws the signal's reason
   */
  lock(options?: RequestOptions): Promise<CoPermit> {
    return this.#semaphore.acquire(options);
  }

  /** The lock, or null where one would have to wait for it. */
  tryLock(): CoPermit | null {
    return this.#semaphore.tryAcquire();
  }
}

function requireCount(verb: string, count: number): number {
  if (typeof count !== "number") {
    throw new TypeError(`Cannot ${verb} as the count is not a number: ${typeof count}`);
  }
  if (!Number.isSafeInteger(count) || count < 0) {
    throw new RangeError(`Cannot ${verb} as the count is not a whole number >= 0: ${count}`);
  }
  return count;
}
