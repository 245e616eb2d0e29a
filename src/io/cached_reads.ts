/**
 * Reads that the page cache can answer at once, without the ring or a worker thread.
 *
 * preadv2(2) with RWF_NOWAIT copies what is cached and never waits for a disk. Where a file is
 * cached that is the fastest a single read can be, on every backend, and as it is over when the
 * call returns it may use anybody's memory without a copy. Many at once are faster on a ring, which
 * takes them all with one call. Where a file is not cached, asking costs a system call in vain, so
 * after a miss the next reads do not ask, twice as many after each. Only so many are answered
 * between two iterations, lest a program that reads for ever keeps the loop from everybody else;
 * what goes through the ring then shows how many there are at once.
 */
import { Errno } from "../../ffi/errno.ts";
import type { Shim } from "../../ffi/shim_symbols.ts";
import type { System } from "../../ffi/system.ts";
import type { RequestQueue } from "../request_queue.ts";
import type { RequestView } from "./buffers.ts";

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

  /** Whether it pays to ask about a file now. To be called for each read, before `read`. */
  isWorthwhile(history: CacheHistory): boolean {
    const queue = this.#queue;
    if (history.unsupported || !queue.mayAnswer) return false;
    if (queue.batch >= BATCH_MIN && queue.device?.batches === true) return false;
    if (history.skip === 0) return true;
    history.skip--;
    return false;
  }

  /**
   * Reads what is asked for if all of it is cached.
   *
   * @param view the memory; `byteLength` is its length
   * @returns whether it has been read
   */
  read(
    history: CacheHistory,
    fd: number,
    view: RequestView,
    byteLength: number,
    offset: number,
  ): boolean {
    this.#system.calls++;
    const result = this.#read(fd, view as Uint8Array<ArrayBuffer>, byteLength, offset);
    if (result === byteLength) {
      this.#queue.answered++;
      history.skipped = 0;
      return true;
    }
    // Whatever else it is, the end of the file or an error, the request itself will tell.
    history.unsupported = result === -Errno.EOPNOTSUPP || result === -Errno.ENOSYS;
    history.skip = history.skipped = Math.min(history.skipped * 2 + 1, SKIPPED_MAX);
    return false;
  }
}
