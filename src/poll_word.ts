/**
 * A handler's ioPoll as data: a word of shared memory and the value already seen.
 *
 * "Is there work?" is then "does the word differ?", which C asks of thousands of words in a
 * microsecond. The memory has to be a SharedArrayBuffer: it cannot be detached or moved while the
 * spin reads it, so no use of a PollWord can crash the process.
 */
import { WatchedWord, type WordBits } from "../ffi/spin.ts";

let reveal: (word: PollWord) => WatchedWord;
let isBranded: (value: object) => boolean;

/**
 * A 16-, 32- or 64-bit word of shared memory to be polled instead of a function.
 *
 * The handler is ready while the word's value is not `seen`; its ioPollReady handles the work and
 * sets `seen` to what it has handled.
 *
 * @example
 * ```ts
 * import { PollWord } from "@aio/context";
 * const memory = new SharedArrayBuffer(4);
 * const word = new PollWord(memory, 0, 32);
 * Atomics.store(new Uint32Array(memory), 0, 7);
 * console.log(word.load() !== word.seen); // true: there is work
 * word.seen = word.load();
 * ```
 */
export class PollWord {
  readonly #watched: WatchedWord;

  static {
    reveal = (word) => word.#watched;
    isBranded = (value) => #watched in value;
  }

  /**
   * Names a word of shared memory; nothing has been seen of it yet.
   *
   * @param buffer the shared memory
   * @param byteOffset where the word begins, in bytes, aligned to its width
   * @param bits its width
   * @throws {TypeError} when the buffer is not a SharedArrayBuffer
   * @throws {RangeError} when the word is misaligned, out of bounds or of another width
   */
  constructor(buffer: SharedArrayBuffer, byteOffset: number, bits: 16 | 32 | 64) {
    const byteLength = byteLengthOf(buffer);
    if (bits !== 16 && bits !== 32 && bits !== 64) {
      throw new RangeError(`Cannot poll a word as its width is not 16, 32 or 64: ${String(bits)}`);
    }
    const bytes = bits / 8;
    if (!Number.isSafeInteger(byteOffset) || byteOffset < 0 || byteOffset % bytes !== 0) {
      throw new RangeError(
        `Cannot poll a word as its offset is not a multiple of ${bytes}: ${String(byteOffset)}`,
      );
    }
    if (byteOffset + bytes > byteLength) {
      throw new RangeError(
        `Cannot poll a word as its offset is beyond ${byteLength} bytes: ${byteOffset}`,
      );
    }
    this.#watched = new WatchedWord(buffer, byteOffset, bits as WordBits);
  }

  /** The word's value now: a bigint where it has 64 bits. Acquires what its writer released. */
  load(): number | bigint {
    return this.#watched.load();
  }

  /** The value already handled; 0 at first. Only its low bits count, as in the word. */
  get seen(): number | bigint {
    return this.#watched.seen;
  }

  set seen(value: number | bigint) {
    if (typeof value === "number") {
      if (!Number.isInteger(value)) {
        throw new RangeError(`Cannot set what was seen as it is not a whole number: ${value}`);
      }
      // A full word of 32 bits fits a number; the high half is that of the integer.
      this.#watched.setSeen(value >>> 0, Math.floor(value / 0x1_0000_0000) >>> 0);
    } else {
      if (typeof value !== "bigint") {
        const kind = typeof value;
        throw new TypeError(
          `Cannot set what was seen as it is neither a number nor a bigint: ${kind}`,
        );
      }
      this.#watched.setSeen(
        Number(value & 0xffff_ffffn),
        Number((value >> 32n) & 0xffff_ffffn),
      );
    }
  }
}

/** The getter of the engine, which nobody can forge as they can a prototype. */
const readByteLength = Object.getOwnPropertyDescriptor(SharedArrayBuffer.prototype, "byteLength")!
  .get!;

function byteLengthOf(buffer: SharedArrayBuffer): number {
  try {
    return readByteLength.call(buffer);
  } catch {
    throw new TypeError("Cannot poll a word as its memory is not a SharedArrayBuffer");
  }
}

/** Whether it is one that the constructor made, which `instanceof` does not tell. */
export function isPollWord(value: unknown): value is PollWord {
  return typeof value === "object" && value !== null && isBranded(value);
}

/** What the spin needs of a PollWord; not for users. */
export function watchedWord(word: PollWord): WatchedWord {
  return reveal(word);
}
