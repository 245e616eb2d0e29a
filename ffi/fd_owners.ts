/**
 * Which thread has to close which fd, for those that objects of this project own.
 *
 * A table of the shim's that all threads see: whoever gives back what a thread has left behind finds
 * its fds there (src/threads/thread_remains.ts). A word is written by the thread that has the fd, after
 * it was opened and before it is closed, so a number that stands in it is nobody else's.
 */
import { mapWords } from "./memory.ts";
import type { Shim } from "./shim_symbols.ts";

/** Fds with larger numbers are not known, as nobody has that many. */
const FDS = 1 << 20;

const tables = new WeakMap<Shim, FdOwners>();

/** The table, as this thread sees it. */
export class FdOwners {
  readonly #words: Int32Array<ArrayBuffer>;
  readonly #thread: number;

  private constructor(shim: Shim) {
    this.#words = mapWords(Deno.UnsafePointer.value(shim.aio_fd_owners()), FDS);
    this.#thread = shim.aio_thread_id();
  }

  /** The table of a shim. */
  static of(shim: Shim): FdOwners {
    let table = tables.get(shim);
    if (table === undefined) tables.set(shim, table = new FdOwners(shim));
    return table;
  }

  /** An fd is this thread's to close. */
  own(fd: number): void {
    if (fd < FDS) this.#words[fd] = this.#thread;
  }

  /** It is closed now, or somebody else's to close. */
  disown(fd: number): void {
    if (fd < FDS) this.#words[fd] = 0;
  }

  /** The fds of a thread. */
  *of(thread: number): Generator<number> {
    let fd = this.#words.indexOf(thread);
    for (; fd !== -1; fd = this.#words.indexOf(thread, fd + 1)) yield fd;
  }
}
