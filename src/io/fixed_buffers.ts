/**
 * Memory of the pool that a ring knows: reads and writes of files that name it by its number save the
 * kernel looking up its pages, some 6 % of a read of the page cache.
 *
 * The kernel keeps such memory in place until the ring is gone, and counts it as locked, so only the
 * first few slabs are registered. Where that is refused everything works as without.
 */
import type { RequestDevice } from "../request.ts";
import { slabOf } from "./buffers.ts";

/** Slabs of 1 MiB that are registered: half of what a user may lock by default. */
const REGISTERED_MAX = 4;

/** Numbers of memory, for one context. */
export class FixedBuffers {
  readonly #indexes = new WeakMap<ArrayBufferLike, number>();
  #left = REGISTERED_MAX;
  #last: ArrayBufferLike | null = null;
  #lastIndex = -1;

  /** The number of memory in a request to this device; -1 where it has none. */
  indexOf(buffer: ArrayBufferLike, device: RequestDevice | null): number {
    if (buffer === this.#last) return this.#lastIndex;
    // The first request of all opens the device, and does without.
    if (device === null) return -1;
    let index = this.#indexes.get(buffer);
    if (index === undefined) {
      index = this.#register(buffer, device);
      this.#indexes.set(buffer, index);
    }
    this.#last = buffer;
    this.#lastIndex = index;
    return index;
  }

  #register(buffer: ArrayBufferLike, device: RequestDevice): number {
    const address = this.#left === 0 ? 0 : slabOf(buffer);
    if (address === 0) return -1;
    const index = device.registerBuffer(address, buffer.byteLength);
    // What was refused once, for want of memory or by an old kernel, is not asked for again.
    this.#left = index === -1 ? 0 : this.#left - 1;
    return index;
  }
}
