/**
 * The log of pages that a device has written to, for a guest that is being moved to another host.
 *
 * One bit for each page of 4 KiB of guest memory, in memory that the front end reads meanwhile and
 * clears; so bits are set with an atomic operation, after what they stand for is written.
 */
import type { MappedMemory } from "../../mod.ts";
import { type GuestRuns, VirtioError } from "./guest_memory.ts";

const LOG_PAGE = 4096;

/** A log in mapped memory. */
export class DirtyLog implements Disposable {
  readonly #memory: MappedMemory;

  /** @param memory taken over */
  constructor(memory: MappedMemory) {
    this.#memory = memory;
  }

  /**
   * Marks a range of guest addresses.
   *
   * @throws {VirtioError} when the log does not reach as far
   */
  mark(address: number, length: number): void {
    const { bytes } = this.#memory;
    const last = Math.floor((address + length - 1) / LOG_PAGE);
    if (Math.floor(last / 8) >= bytes.length) {
      throw new VirtioError(
        `Cannot log a write as it is beyond the log: 0x${address.toString(16)}`,
      );
    }
    for (let page = Math.floor(address / LOG_PAGE); page <= last; page++) {
      Atomics.or(bytes, Math.floor(page / 8), 1 << (page % 8));
    }
  }

  /** Marks what a chain has room to write in. */
  markRuns({ count, chunks, offsets, lengths }: GuestRuns): void {
    for (let index = 0; index < count; index++) {
      const { guestStart, byteOffset } = chunks[index];
      this.mark(guestStart + offsets[index] - byteOffset, lengths[index]);
    }
  }

  /** Unmaps the log. */
  [Symbol.dispose](): void {
    this.#memory[Symbol.dispose]();
  }
}
