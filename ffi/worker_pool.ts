/**
 * The shim's pool of worker threads: requests in the form of io_uring's, for backends without it.
 *
 * A request is the 64 bytes of an SQE and is copied, so the caller may reuse its words at once;
 * what it points to has to stay until its completion is reaped. An eventfd is readable while
 * completions wait, for whoever watches fds. It is drained by `reap` alone: why no completion is
 * missed thereby stands in shim/pool.c. Threads start as requests come, and sleep without any.
 *
 * Invariant: `inFlight` is what was submitted and not reaped, cancelled requests included; it never
 * exceeds the capacity. Only the thread that made the pool may use it. What blocks a worker for
 * ever, such as reading from a silent pipe, blocks `dispose` too. What a completion means is the
 * caller's business.
 */
import { AioError, Errno } from "./errno.ts";
import { RingLayout } from "./layout.ts";
import { allocateNative } from "./memory.ts";
import type { Shim } from "./shim_symbols.ts";
import { SQE_WORDS } from "./sqe.ts";
import type { System } from "./system.ts";

/** Completions that one `reap` takes at most. */
const REAP_MAX = 256;

const CQE_WORDS = RingLayout.io_uring_cqe.sizeof / 4;

/** Sizes of a pool. */
export interface WorkerPoolOptions {
  /** Threads that it may start, 1 to 256. */
  readonly threads: number;
  /** Requests that it may hold, from their submission until they are reaped: 1 to 65,536. */
  readonly capacity: number;
  /** Keeps the address of the C side for whoever finds it abandoned; 0 once it is freed. */
  readonly keep?: (address: bigint) => void;
}

/** Threads that carry requests out, and the queues to and from them. */
export class WorkerPool {
  /** Readable while completions wait. */
  readonly fd: number;
  /** Requests that it may hold. */
  readonly capacity: number;
  /** Words of the completions of the last `reap`; see `cqeIndex` and `CqeWord`. */
  readonly cqes: Int32Array<ArrayBuffer>;
  readonly #shim: Shim;
  readonly #system: System;
  readonly #cqeMemory = allocateNative(REAP_MAX * CQE_WORDS * 4);
  readonly #sqe = allocateNative(SQE_WORDS * 4);
  /** The C side; null once it is freed. */
  #pool: Deno.PointerObject | null;
  readonly #keep: (address: bigint) => void;
  #inFlight = 0;

  /** @throws {AioError} when the sizes are out of range (EINVAL), or fds or memory used up */
  constructor(shim: Shim, system: System, options: WorkerPoolOptions) {
    const { threads, capacity, keep = () => {} } = options;
    this.#shim = shim;
    this.#system = system;
    this.capacity = capacity;
    this.cqes = this.#cqeMemory.i32;
    this.fd = system.eventfd();
    // Threads of the pool may write to it after this one is gone; see aio_pool_abandon.
    system.disown(this.fd);
    const handle = allocateNative(8);
    const opened = shim.aio_pool_open(threads, capacity, this.fd, handle.pointer);
    if (opened < 0) {
      system.close(this.fd);
      const sizes = `of ${threads} threads for ${capacity} requests`;
      throw new AioError(`Cannot make a worker pool ${sizes}`, "aio_pool_open", -opened);
    }
    this.#keep = keep;
    const address = new BigUint64Array(handle.buffer)[0];
    this.#pool = Deno.UnsafePointer.create(address);
    keep(address);
  }

  /** Requests submitted and not reaped. */
  get inFlight(): number {
    return this.#inFlight;
  }

  /** True when nothing can be submitted before the next `reap`. */
  get full(): boolean {
    return this.#inFlight >= this.capacity;
  }

  /**
   * Queues the request that begins at `sqes[at]`; see `SqeWord`.
   *
   * @throws {AioError} EBUSY when the pool is `full`, EAGAIN when the system has no thread for it
   */
  submit(sqes: Int32Array, at: number): void {
    const words = this.#sqe.i32;
    for (let word = 0; word < SQE_WORDS; word++) words[word] = sqes[at + word];
    const result = this.#shim.aio_pool_submit(this.#open(), this.#sqe.pointer);
    if (result < 0) throw submissionError(this, -result);
    this.#inFlight++;
  }

  /**
   * Takes completions out, oldest first, and overwrites those of the last call. What it leaves
   * behind keeps the fd readable.
   *
   * @returns how many are in `cqes`; may be 0 though the fd was readable
   */
  reap(): number {
    this.#system.calls++;
    const count = this.#shim.aio_pool_reap(this.#open(), this.#cqeMemory.pointer, REAP_MAX);
    this.#inFlight -= count;
    return count;
  }

  /** Index into `cqes` of the completion with this number. */
  cqeIndex(number: number): number {
    return number * CQE_WORDS;
  }

  /**
   * Cancels the oldest request with this user_data that no worker has begun; its completion is
   * ECANCELED.
   *
   * @returns 0, -EALREADY when it is running, or -ENOENT when there is none, or no more
   */
  cancel(slot: number): number {
    return this.#shim.aio_pool_cancel(this.#open(), BigInt(slot));
  }

  /** Waits for requests that run, drops the others with all completions, and ends the threads. */
  dispose(): void {
    if (this.#pool === null) return;
    this.#keep(0n);
    this.#shim.aio_pool_close(this.#pool);
    this.#pool = null;
    this.#inFlight = 0;
    this.#system.close(this.fd);
  }

  #open(): Deno.PointerObject {
    // C would crash on a pool that is freed.
    if (this.#pool === null) throw new Error("assertion failed: worker pool is disposed");
    return this.#pool;
  }
}

function submissionError({ capacity }: WorkerPool, errno: number): AioError {
  return errno === Errno.EBUSY
    ? new AioError("Cannot submit a request", "aio_pool_submit", errno, `all ${capacity} are taken`)
    : new AioError("Cannot start a worker thread", "pthread_create", errno);
}
