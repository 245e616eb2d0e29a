/**
 * A block device in memory: for tests, and for disks that may be lost.
 *
 * Memory is taken in pieces as they are written, so a device can be far larger than the machine's
 * memory as long as most of it is zeros; what it takes is bounded, and ENOSPC beyond that. Invariant:
 * a piece that is not there reads as zeros.
 */
import { AioError } from "../../mod.ts";
import type { BlockDevice, BlockExtent, BlockZeroOptions } from "./block_device.ts";

/** Unit in which memory is taken and given back. */
const PIECE_BYTES = 65_536;
const PREFERRED_BYTES = 4096;
/** What it takes at most where nothing is said. */
const MEMORY_MAX = 2 ** 32;
const ENOSPC = 28;

/** Options of a device in memory. */
export interface MemoryBlockDeviceOptions {
  /** Bytes of memory that it may take; 4 GiB where not given. */
  readonly memoryMax?: number;
}

const DONE: Promise<void> = Promise.resolve();

/**
 * A device whose content is memory.
 *
 * @example
 * ```ts
 * import { MemoryBlockDevice } from "@aio/context/block";
 * const device = new MemoryBlockDevice(1e12);
 * await device.write([new Uint8Array([1, 2, 3])], 5e11);
 * const bytes = new Uint8Array(4);
 * await device.read([bytes], 5e11);
 * console.log(bytes); // Uint8Array(4) [ 1, 2, 3, 0 ]
 * ```
 */
export class MemoryBlockDevice implements BlockDevice {
  /** Its size in bytes. */
  readonly size: number;
  /** Any range can be used. */
  readonly blockSize = 1;
  /** A page. */
  readonly preferredBlockSize: number = PREFERRED_BYTES;
  /** It can always be written; an export of it can be read-only. */
  readonly readOnly = false;
  /** Memory has no head that moves. */
  readonly rotational = false;
  /** `trim` gives memory back. */
  readonly canTrim = true;
  /** Zeroing is faster than writing. */
  readonly canZeroFast = true;
  /** It is all hole at first. */
  readonly sparse = true;
  /** By number; those that are missing are zeros. */
  readonly #pieces: Map<number, Uint8Array> = new Map();
  readonly #piecesMax: number;

  /**
   * Makes a device of zeros.
   *
   * @param size in bytes
   * @param options what it may take
   * @throws {RangeError} when that is no whole number >= 0
   */
  constructor(size: number, options: MemoryBlockDeviceOptions = {}) {
    const { memoryMax = MEMORY_MAX } = options;
    for (const [name, value] of [["size", size], ["limit of memory", memoryMax]] as const) {
      if (Number.isSafeInteger(value) && value >= 0) continue;
      throw new RangeError(
        `Cannot make a device as its ${name} is no whole number >= 0: ${String(value)}`,
      );
    }
    this.size = size;
    this.#piecesMax = Math.ceil(memoryMax / PIECE_BYTES);
  }

  /** Copies from memory. */
  read(buffers: readonly Uint8Array[], offset: number): Promise<void> {
    let at = offset;
    for (const buffer of buffers) {
      this.tryRead(buffer, 0, buffer.length, at);
      at += buffer.length;
    }
    return DONE;
  }

  /** Copies from memory, which takes no waiting: true. */
  tryRead(memory: Uint8Array, start: number, length: number, offset: number): boolean {
    for (let done = 0; done < length;) {
      const at = (offset + done) % PIECE_BYTES, to = start + done;
      const part = Math.min(PIECE_BYTES - at, length - done);
      const piece = this.#pieces.get(Math.floor((offset + done) / PIECE_BYTES));
      if (piece === undefined) memory.fill(0, to, to + part);
      else memory.set(piece.subarray(at, at + part), to);
      done += part;
    }
    return true;
  }

  /** Copies to memory. */
  write(buffers: readonly Uint8Array[], offset: number): Promise<void> {
    let at = offset;
    for (const buffer of buffers) {
      for (let done = 0; done < buffer.length;) {
        const start = at % PIECE_BYTES;
        const length = Math.min(PIECE_BYTES - start, buffer.length - done);
        const number = Math.floor(at / PIECE_BYTES);
        const piece = this.#pieces.get(number) ?? this.#make(number);
        if (piece === null) return Promise.reject(full());
        piece.set(buffer.subarray(done, done + length), start);
        done += length;
        at += length;
      }
    }
    return DONE;
  }

  /** There is nothing to be flushed to. */
  flush(): Promise<void> {
    return DONE;
  }

  /** Gives memory back. */
  trim(offset: number, length: number): Promise<void> {
    return this.zero(offset, length);
  }

  /** Fills with zeros; without `noHole` whole pieces are given back. */
  zero(offset: number, length: number, options?: BlockZeroOptions): Promise<void> {
    const end = offset + length, noHole = options?.noHole === true;
    for (const number of this.#inRange(offset, end)) {
      const first = number * PIECE_BYTES;
      const from = Math.max(0, offset - first), to = Math.min(PIECE_BYTES, end - first);
      if (from === 0 && to === PIECE_BYTES && !noHole) this.#pieces.delete(number);
      else this.#pieces.get(number)!.fill(0, from, to);
    }
    const last = Math.ceil(end / PIECE_BYTES);
    for (let number = Math.floor(offset / PIECE_BYTES); noHole && number < last; number++) {
      if (!this.#pieces.has(number) && this.#make(number) === null) return Promise.reject(full());
    }
    return DONE;
  }

  /** A new piece; null where that is too much. */
  #make(number: number): Uint8Array | null {
    if (this.#pieces.size >= this.#piecesMax) return null;
    const piece = new Uint8Array(PIECE_BYTES);
    this.#pieces.set(number, piece);
    return piece;
  }

  /** Numbers of the pieces that are there in a range. */
  *#inRange(offset: number, end: number): Iterable<number> {
    const first = Math.floor(offset / PIECE_BYTES), last = Math.ceil(end / PIECE_BYTES);
    // Whichever are fewer: a range can have more pieces than there is memory.
    if (last - first > this.#pieces.size) {
      for (const number of this.#pieces.keys()) if (number >= first && number < last) yield number;
      return;
    }
    for (let number = first; number < last; number++) if (this.#pieces.has(number)) yield number;
  }

  /** Pieces that are there are data. */
  extents(offset: number, length: number, countMax: number): Promise<BlockExtent[]> {
    const end = offset + length;
    const first = Math.floor(offset / PIECE_BYTES), last = Math.ceil(end / PIECE_BYTES);
    const there = [...this.#inRange(offset, end)].sort((one, other) => one - other);
    const extents: BlockExtent[] = [];
    let at = first;
    const add = (until: number, hole: boolean): void => {
      const from = Math.max(offset, at * PIECE_BYTES), to = Math.min(end, until * PIECE_BYTES);
      if (to > from) extents.push({ length: to - from, hole, zero: hole });
      at = until;
    };
    for (let index = 0; index < there.length && extents.length < countMax;) {
      if (there[index] > at) add(there[index], true);
      let until = there[index];
      while (there[index] === until) {
        index++;
        until++;
      }
      add(until, false);
    }
    add(last, true);
    return Promise.resolve(extents.slice(0, Math.max(1, countMax)));
  }

  /** It is all cached. */
  cache(): Promise<void> {
    return DONE;
  }

  /** Gives all memory back. */
  close(): Promise<void> {
    this.#pieces.clear();
    return DONE;
  }
}

function full(): AioError {
  return new AioError("Cannot take more memory for the device", "write", ENOSPC);
}
