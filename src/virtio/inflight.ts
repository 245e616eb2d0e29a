/**
 * A record of the chains that the device has, in memory that outlives it (INFLIGHT_SHMFD).
 *
 * A device that is killed has taken chains from the available ring that never came back. Its
 * successor gets the same memory from the front end and does them again. The layout is that of the
 * vhost-user specification for split queues: a header, then 16 bytes for each descriptor.
 *
 * Between the store of `used.idx` and the two behind it the device may be killed: then the record
 * says "in flight" of a chain that the guest has back. So before it the chain is noted as the last
 * one put, and `used_idx` behind it tells whether the record is complete. What a killed process has
 * stored stays, in the order of its program, so only the compiler's order matters: Atomics.
 *
 * The memory is the front end's: what is in it is loaded once and checked like all that is a guest's.
 */
import { VirtioError } from "./guest_memory.ts";
import type { MemoryViews } from "./memory_views.ts";

const HEADER_BYTES = 16, ENTRY_BYTES = 16;
const VERSION = 1;
const HIGH = 0x1_0000_0000;
/** The record of each queue begins at a multiple of this. */
const ALIGNMENT = 64;

// 16-bit words of the header.
const VERSION_WORD = 4, SIZE_WORD = 5, LAST_WORD = 6, USED_WORD = 7;
/** 16-bit word of an entry: the chain that was put before. */
const NEXT_WORD = 3;

/** Bytes that the record of a queue takes. */
export function inflightBytes(queueSize: number): number {
  return Math.ceil((HEADER_BYTES + queueSize * ENTRY_BYTES) / ALIGNMENT) * ALIGNMENT;
}

/** The record of one queue. */
export class InflightQueue {
  readonly size: number;
  readonly #memory: MemoryViews;
  readonly #start: number;
  #counter = 0;

  /**
   * @param start where in the memory the record begins, in bytes, a multiple of 8; all of it is inside
   * @param size entries of the queue
   */
  constructor(memory: MemoryViews, start: number, size: number) {
    this.size = size;
    this.#memory = memory;
    this.#start = start;
  }

  /**
   * Puts the record right and finds out what was in flight.
   *
   * @param usedIndex of the used ring
   * @returns heads of the chains to do again, in the order they were taken
   * @throws {VirtioError} when the record is of another queue, or nonsense
   */
  recover(usedIndex: number): number[] {
    const { bytes, halves, words } = this.#memory, header = this.#start / 2;
    const version = halves[header + VERSION_WORD], size = halves[header + SIZE_WORD];
    if (version === 0) {
      halves[header + VERSION_WORD] = VERSION;
      halves[header + SIZE_WORD] = this.size;
      halves[header + USED_WORD] = usedIndex;
      return [];
    }
    if (version !== VERSION || size !== this.size) {
      throw new VirtioError(
        `Cannot use the record of chains in flight: version ${version}, ${size} entries`,
      );
    }
    let left = (usedIndex - halves[header + USED_WORD]) & 0xffff;
    for (let head = halves[header + LAST_WORD]; left > 0; left--) {
      if (left > this.size || head >= this.size) {
        throw new VirtioError("Cannot use the record of chains in flight as its list is broken");
      }
      bytes[this.#entry(head)] = 0;
      head = halves[this.#entry(head) / 2 + NEXT_WORD];
    }
    Atomics.store(halves, header + USED_WORD, usedIndex);
    const chains: { head: number; counter: number }[] = [];
    for (let head = 0; head < this.size; head++) {
      if (bytes[this.#entry(head)] === 0) continue;
      const word = this.#entry(head) / 4 + 2;
      const counter = words[word + 1] * HIGH + words[word];
      chains.push({ head, counter });
      if (counter >= this.#counter) this.#counter = counter + 1;
    }
    chains.sort((one, other) => one.counter - other.counter);
    return chains.map(({ head }) => head);
  }

  /** The device has taken a chain. */
  take(head: number): void {
    const { bytes, words } = this.#memory, at = this.#entry(head);
    const counter = this.#counter++;
    words[at / 4 + 2] = counter;
    words[at / 4 + 3] = counter / HIGH;
    Atomics.store(bytes, at, 1);
  }

  /** The chain is about to be put into the used ring. */
  beforePut(head: number): void {
    const { halves } = this.#memory, last = this.#start / 2 + LAST_WORD;
    halves[this.#entry(head) / 2 + NEXT_WORD] = halves[last];
    halves[last] = head;
  }

  /** The guest has the chain back. */
  afterPut(head: number, usedIndex: number): void {
    const { bytes, halves } = this.#memory;
    Atomics.store(bytes, this.#entry(head), 0);
    Atomics.store(halves, this.#start / 2 + USED_WORD, usedIndex);
  }

  #entry(head: number): number {
    return this.#start + HEADER_BYTES + head * ENTRY_BYTES;
  }
}
