/**
 * What a ring is told of beside its requests: an eventfd that says when there are completions, and
 * memory that requests may name by a number.
 *
 * Each is made known when it is first needed and forgotten with the ring, which is torn down before
 * this is disposed of.
 */
import { AioError } from "./errno.ts";
import type { Liburing } from "./liburing_symbols.ts";
import type { System } from "./system.ts";

/** Buffers that can be registered. */
const BUFFERS_MAX = 16;

/** Registrations of one ring. */
export class RingRegistrations {
  readonly #liburing: Liburing;
  readonly #system: System;
  readonly #ring: BigUint64Array<ArrayBuffer>;
  #eventFd = -1;
  /** Buffers registered; -1 while there is no table for them. */
  #buffers = -1;

  /** @param ring struct io_uring */
  constructor(liburing: Liburing, system: System, ring: BigUint64Array<ArrayBuffer>) {
    this.#liburing = liburing;
    this.#system = system;
    this.#ring = ring;
  }

  /** An eventfd that the kernel writes when completions come, unless the CQ ring's flags forbid it. */
  get eventFd(): number {
    if (this.#eventFd !== -1) return this.#eventFd;
    const fd = this.#system.eventfd();
    this.#system.calls++;
    const registered = this.#liburing.io_uring_register_eventfd(this.#ring, fd);
    if (registered < 0) {
      this.#system.close(fd);
      const what = "Cannot wait for completions elsewhere";
      throw new AioError(what, "io_uring_register", -registered);
    }
    return this.#eventFd = fd;
  }

  /**
   * Makes memory known, which stays in place until the ring is gone.
   *
   * @returns its number for `SqeWord.bufIndex`; -1 where the kernel refuses
   */
  registerBuffer(address: number, byteLength: number): number {
    const liburing = this.#liburing;
    if (this.#buffers === -1) {
      this.#system.calls++;
      if (liburing.io_uring_register_buffers_sparse(this.#ring, BUFFERS_MAX) < 0) return -1;
      this.#buffers = 0;
    }
    if (this.#buffers === BUFFERS_MAX) return -1;
    const vector = new Uint8Array(BigUint64Array.of(BigInt(address), BigInt(byteLength)).buffer);
    const index = this.#buffers;
    this.#system.calls++;
    const done = liburing.io_uring_register_buffers_update_tag(this.#ring, index, vector, null, 1);
    return done < 0 ? -1 : this.#buffers++;
  }

  /** Closes the eventfd; the ring is torn down. */
  dispose(): void {
    if (this.#eventFd !== -1) this.#system.close(this.#eventFd);
    this.#eventFd = -1;
  }
}
