/**
 * Reads that the page cache can answer at once, without the ring or a worker thread.
 *
 * preadv2(2) with RWF_NOWAIT copies what is cached and never waits for a disk. Where a file is
 * cached that is the fastest a single read can be, on every backend, and as it is over when the
 * call returns it may use anybody's memory without a copy. Where a file is not cached, asking costs
 * a system call in vain, so after a miss the next reads do not ask, twice as many after each.
 *
 * Reads with a promise are asked for one at a time, as programs await them, or many at once, which
 * are faster on a ring that takes them all with one call. Only so many are answered between two
 * iterations, lest a program that reads for ever keeps the loop from everybody else; what goes
 * through the ring then shows how many there are at once. None of that is for `tryRead`, which has
 * no promise and whose caller decides when others have their turn.
 */
import { Errno } from "../../ffi/errno.ts";
import type { Shim } from "../../ffi/shim_symbols.ts";
import type { System } from "../../ffi/system.ts";
import type { RequestQueue } from "../request_queue.ts";
import type { RequestView } from "./buffers.ts";
import { TRANSFER_MAX } from "./operation.ts";

/** From so many completions in an iteration on a ring is asked rather than the cache. */
const BATCH_MIN = 8;
/** Reads that do not ask after misses at most. */
const SKIPPED_MAX = 63;

/** What is known of a file: whether it pays to ask. */
export class CacheHistory {
  /** Reads still to be made without asking. */
  skip = 0;
  /** How many were skipped after the last miss. */
  skipped = 0;
  /** The filesystem cannot tell. */
  unsupported = false;

  /** Whether what is known lets hope for a hit. */
  get isPromising(): boolean {
    return this.skip === 0 && !this.unsupported;
  }
}

/** Asks the page cache, for the files of one context. */
export class CachedReads {
  readonly #read: Shim["aio_pread_cached"];
  readonly #system: System;
  readonly #queue: RequestQueue;

  /** @param system counts its calls */
  constructor(shim: Shim, system: System, queue: RequestQueue) {
    this.#read = shim.aio_pread_cached;
    this.#system = system;
    this.#queue = queue;
  }

  /** Whether it pays to ask for a read with a promise now. */
  isWorthwhile(history: CacheHistory): boolean {
    const queue = this.#queue;
    if (!history.isPromising || !queue.mayAnswer) return false;
    return queue.batch < BATCH_MIN || queue.device?.batches !== true;
  }

  /** Counts a read with a promise: one that was answered at once, or is made without asking. */
  count(history: CacheHistory, answered: boolean): void {
    if (answered) this.#queue.answered++;
    else if (history.skip !== 0) history.skip--;
  }

  /**
   * Reads what is asked for if all of it is cached, and no more than one call can read.
   *
   * @param view the memory
   * @param start where in it, in bytes; it ends at `start + byteLength` or later
   * @returns whether it has been read
   */
  read(
    history: CacheHistory,
    fd: number,
    view: RequestView,
    start: number,
    byteLength: number,
    offset: number,
  ): boolean {
    if (byteLength > TRANSFER_MAX) return false;
    this.#system.calls++;
    const result = this.#read(fd, view as Uint8Array<ArrayBuffer>, start, byteLength, offset);
    if (result === byteLength) {
      history.skipped = 0;
      return true;
    }
    // Whatever else it is, the end of the file or an error, the request itself will tell.
    history.unsupported = result === -Errno.EOPNOTSUPP || result === -Errno.ENOSYS;
    history.skip = history.skipped = Math.min(history.skipped * 2 + 1, SKIPPED_MAX);
    return false;
  }
}
