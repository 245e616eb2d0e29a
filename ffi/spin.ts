/**
 * The memory that the shim's spin works on: struct aio_spin and its tables of poll words.
 *
 * The tables are dense, so that C scans them in one sweep; a word that leaves is replaced by the
 * last one. Each word's `seen` value lives in its table while it is watched, where the owner
 * changes it with a plain store. Invariant: between two calls of `run` the structure describes
 * exactly the words that were added and not removed. C writes only `hits`, the count and the
 * time; nothing here is shared with another thread.
 */
import { SpinLayout } from "./layout.ts";
import { addressOfShared, allocateNative, type NativeMemory, storeU64 } from "./memory.ts";
import type { Shim } from "./shim_symbols.ts";

/** Bits of the result of `Spin.run`. */
export const SpinResult = { hit: 1, completion: 2, sqFlags: 4, notified: 8 } as const;

const { aio_spin: SPIN, aio_poll_word: ENTRY } = SpinLayout;

/** Elements of `Spin.times`. */
export const SpinTime = { end: 0, deadline: (SPIN.deadline_ns - SPIN.end_ns) / 8 } as const;

/**
 * Values of the deadline that ask for one pass without a look at the clock: behind a full memory
 * barrier; with no pause after it; with one where nothing was found.
 */
export const SpinPass = { lastChance: 0, hasty: -1, unhurried: -2 } as const;

/** Widths of a poll word, in bits. */
export type WordBits = 16 | 32 | 64;

// Indexes of 32-bit words. The tables of 16-, 32- and 64-bit words stand in a row, and so do their
// counts.
const CQ_HEAD = SPIN.cq_head / 4, CQ_TAIL = SPIN.cq_tail / 4, SQ_FLAGS = SPIN.sq_flags / 4;
const NOTIFIED = SPIN.notified / 4, WORDS = SPIN.words16 / 4, HITS = SPIN.hits / 4;
const COUNTS = SPIN.count16 / 4, SQ_FLAGS_MASK = SPIN.sq_flags_mask / 4;
const HIT_COUNT = SPIN.hit_count / 4;

const ENTRY_WORDS = ENTRY.sizeof / 4;
const ADDRESS_WORD = ENTRY.address / 4, SEEN_WORD = ENTRY.seen / 4;
const FIRST_CAPACITY = 64;
const HIT_TABLE_SHIFT = 30;
const HIT_INDEX_MASK = (1 << HIT_TABLE_SHIFT) - 1;

/** One word of shared memory and the value already seen. Watched by at most one Spin at a time. */
export class WatchedWord {
  readonly bits: WordBits;
  readonly address: bigint;
  /** Index in its table, -1 while not watched. */
  index = -1;
  /** Whose word it is; null while it is nobody's. */
  owner: unknown = null;
  /** Kept, so that the memory stays for as long as C may read it. */
  readonly #buffer: SharedArrayBuffer;
  readonly #byteOffset: number;
  // Many words are watched for a short time only and loaded by C alone: what takes most memory is
  // made when it is asked for.
  #view: Uint16Array | Uint32Array | BigUint64Array | null = null;
  /** Where C reads the seen value, while the word is watched; else it is in the two fields. */
  #store: Uint32Array | null = null;
  #at = 0;
  #low = 0;
  #high = 0;

  constructor(buffer: SharedArrayBuffer, byteOffset: number, bits: WordBits) {
    this.bits = bits;
    this.address = addressOfShared(buffer) + BigInt(byteOffset);
    this.#buffer = buffer;
    this.#byteOffset = byteOffset;
  }

  /** The word's value now, acquiring what its writer released. */
  load(): number | bigint {
    this.#view ??= viewOf(this.#buffer, this.#byteOffset, this.bits);
    return Atomics.load(this.#view as Uint32Array, 0);
  }

  /** The value already seen, as wide as the word. */
  get seen(): number | bigint {
    if (this.bits === 64) return BigInt(this.seenHigh) << 32n | BigInt(this.seenLow);
    return this.bits === 16 ? this.seenLow & 0xffff : this.seenLow;
  }

  get seenLow(): number {
    return this.#store === null ? this.#low : this.#store[this.#at];
  }

  get seenHigh(): number {
    return this.#store === null ? this.#high : this.#store[this.#at + 1];
  }

  /** Both are unsigned words of 32 bits. */
  setSeen(low: number, high: number): void {
    const store = this.#store;
    if (store === null) {
      this.#low = low;
      this.#high = high;
    } else {
      store[this.#at] = low;
      store[this.#at + 1] = high;
    }
  }

  /** Moves the seen value to where C reads it, or back (null) when the word is no longer watched. */
  place(store: Uint32Array<ArrayBuffer> | null, at: number): void {
    const low = this.seenLow, high = this.seenHigh;
    this.#store = store;
    this.#at = at;
    this.setSeen(low, high);
  }
}

function viewOf(buffer: SharedArrayBuffer, byteOffset: number, bits: WordBits) {
  switch (bits) {
    case 16:
      return new Uint16Array(buffer, byteOffset, 1);
    case 32:
      return new Uint32Array(buffer, byteOffset, 1);
    case 64:
      return new BigUint64Array(buffer, byteOffset, 1);
  }
}

class WordTable<Owner> {
  readonly words: WatchedWord[] = [];
  readonly owners: Owner[] = [];
  memory: NativeMemory = allocateNative(FIRST_CAPACITY * ENTRY_WORDS * 4);

  get capacity(): number {
    return this.memory.u32.length / ENTRY_WORDS;
  }

  add(word: WatchedWord, owner: Owner): void {
    if (this.words.length === this.capacity) this.#grow();
    this.#put(this.words.length, word, owner);
  }

  remove(word: WatchedWord): void {
    const last = this.words.length - 1;
    const moved = this.words[last], movedOwner = this.owners[last];
    const index = word.index;
    word.place(null, 0);
    word.index = -1;
    this.words.length = last;
    this.owners.length = last;
    if (index !== last) this.#put(index, moved, movedOwner);
  }

  #put(index: number, word: WatchedWord, owner: Owner): void {
    const at = index * ENTRY_WORDS;
    storeU64(this.memory.u32, at + ADDRESS_WORD, word.address);
    word.place(this.memory.u32, at + SEEN_WORD);
    word.index = index;
    this.words[index] = word;
    this.owners[index] = owner;
  }

  #grow(): void {
    this.memory = allocateNative(this.memory.buffer.byteLength * 2);
    for (let index = 0; index < this.words.length; index++) {
      this.#put(index, this.words[index], this.owners[index]);
    }
  }
}

/** Poll words, the completion queue, the SQ flags and the notifier, watched in one C call. */
export class Spin<Owner> {
  /**
   * Times in ns, indexed by `SpinTime`: when the next `run` has to end, or one of `SpinPass`, and
   * its last look at the clock; it may end without one. An array, as V8 may allocate for a double
   * that is passed or returned.
   */
  readonly times: Float64Array<ArrayBuffer>;
  readonly #shim: Shim;
  readonly #memory = allocateNative(SPIN.sizeof);
  readonly #tables = [new WordTable<Owner>(), new WordTable<Owner>(), new WordTable<Owner>()];
  /** Four words that stand in for a ring where the backend has none. */
  readonly #noRing = allocateNative(16);
  #hits = allocateNative(3 * FIRST_CAPACITY * 4);

  /** @param notified address of the notifier's word */
  constructor(shim: Shim, notified: bigint) {
    this.#shim = shim;
    this.times = new Float64Array(this.#memory.buffer, SPIN.end_ns, 2);
    storeU64(this.#memory.u32, NOTIFIED, notified);
    this.unwatchRing();
    this.#describeTables();
  }

  /** Watches a ring: a completion, or one of the SQ flags in `mask`, ends the spin. */
  watchRing(cqHead: bigint, cqTail: bigint, sqFlags: bigint, mask: number): void {
    const words = this.#memory.u32;
    storeU64(words, CQ_HEAD, cqHead);
    storeU64(words, CQ_TAIL, cqTail);
    storeU64(words, SQ_FLAGS, sqFlags);
    words[SQ_FLAGS_MASK] = mask;
  }

  /** Forgets the ring; to be called before its memory is unmapped. */
  unwatchRing(): void {
    const none = this.#noRing.address;
    this.watchRing(none, none, none, 0);
  }

  /** Number of words watched. */
  get wordCount(): number {
    let count = 0;
    for (const table of this.#tables) count += table.words.length;
    return count;
  }

  add(word: WatchedWord, owner: Owner): void {
    if (word.index !== -1) throw new Error("assertion failed: word is already watched");
    this.#tables[tableOf(word.bits)].add(word, owner);
    this.#describeTables();
  }

  remove(word: WatchedWord): void {
    if (word.index === -1) throw new Error("assertion failed: word is not watched");
    this.#tables[tableOf(word.bits)].remove(word);
    this.#describeTables();
  }

  /**
   * Spins until something changes or the clock reaches the deadline; at least one full pass.
   *
   * @returns bits of SpinResult; 0 when the time was up
   */
  run(): number {
    return this.#shim.aio_spin(this.#memory.pointer);
  }

  /** Words that had changed in the last pass of `run`. */
  get hitCount(): number {
    return this.#memory.u32[HIT_COUNT];
  }

  /** Owner of the hit with this number. */
  hit(number: number): Owner {
    const code = this.#hits.u32[number];
    return this.#tables[code >>> HIT_TABLE_SHIFT].owners[code & HIT_INDEX_MASK];
  }

  #describeTables(): void {
    const words = this.#memory.u32;
    let capacity = 0;
    for (let number = 0; number < 3; number++) {
      const table = this.#tables[number];
      words[COUNTS + number] = table.words.length;
      storeU64(words, WORDS + number * 2, table.memory.address);
      capacity += table.capacity;
    }
    if (capacity * 4 > this.#hits.buffer.byteLength) this.#hits = allocateNative(capacity * 4);
    storeU64(words, HITS, this.#hits.address);
  }
}

function tableOf(bits: WordBits): number {
  return bits === 16 ? 0 : bits === 32 ? 1 : 2;
}
