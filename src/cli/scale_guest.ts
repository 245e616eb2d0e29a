/**
 * The guest and the memory it shares with the devices: struct aio_guest and struct aio_queue of
 * shim/aio.h, laid out in one SharedArrayBuffer.
 *
 * The busy queue comes first, inside struct aio_guest; the idle queues follow, two cache lines
 * each. The guest is a real thread that runs in C and stops when the stop word is set, so the
 * memory is kept referenced until that thread has ended. What a device does with a queue is in
 * scale_device.ts.
 */
import { AioError } from "../../ffi/errno.ts";
import { addressOfShared } from "../../ffi/memory.ts";
import type { Shim } from "../../ffi/shim_symbols.ts";

const CACHE_LINE = 64;
const QUEUE_BYTES = 2 * CACHE_LINE;
const GUEST_BYTES = 4864;

// 32-bit word offsets in struct aio_queue and struct aio_guest.
const AVAIL = 0, USED = 16, NOTIFICATIONS_OFF = 17;
const STOP = 32, EVENT_FD = 33, DEPTH = 34, BLOCKS = 35;
const KICKS = 48, LATENCIES = 49, RING = 945;

/** Ranges of latencies that are counted apart. */
export const LATENCY_BUCKETS = 896;
const SUB_BUCKETS = 32;
/** Slots of the ring of block numbers; an index is taken modulo this. */
export const RING_SLOTS = 256;

/** Where a queue's words are, as indexes of 32-bit words. */
export interface QueuePlace {
  readonly avail: number;
  readonly used: number;
  readonly notificationsOff: number;
}

/** What the guest is to do. */
export interface GuestLoad {
  readonly eventFd: number;
  readonly depth: number;
  readonly blocks: number;
}

/** What the guest has counted so far, or between two such counts. */
export class GuestCounts {
  constructor(readonly kicks: number, readonly latencies: Uint32Array) {}

  get requests(): number {
    return this.latencies.reduce((sum, count) => sum + count, 0);
  }

  /** What was counted since an earlier count; the guest's counters wrap at 2^32. */
  since(earlier: GuestCounts): GuestCounts {
    const latencies = this.latencies.map((count, index) => count - earlier.latencies[index]);
    return new GuestCounts((this.kicks - earlier.kicks) >>> 0, latencies);
  }

  /** The latency that `share` of the requests stay within, in nanoseconds, to 1.6 %. */
  quantileNs(share: number): number {
    let left = this.requests * share;
    let bucket = 0;
    while (bucket < LATENCY_BUCKETS - 1 && left >= this.latencies[bucket]) {
      left -= this.latencies[bucket++];
    }
    if (bucket < 2 * SUB_BUCKETS) return bucket;
    const width = 2 ** (Math.floor(bucket / SUB_BUCKETS) - 1);
    return (bucket % SUB_BUCKETS + SUB_BUCKETS + 0.5) * width;
  }
}

/** Which bucket counts a latency; `quantileNs` does the reverse, and shim/guest.c the same. */
export function bucketOf(latencyNs: number): number {
  const ns = Math.min(latencyNs, 0xffff_ffff) >>> 0;
  if (ns < 2 * SUB_BUCKETS) return ns;
  const shift = 26 - Math.clz32(ns);
  return (shift * SUB_BUCKETS) + (ns >>> shift);
}

/** Shared memory of one busy queue with its guest and of the idle queues. */
export class GuestMemory {
  readonly buffer: SharedArrayBuffer;
  readonly words: Int32Array<SharedArrayBuffer>;
  /** First word of the ring of block numbers. */
  readonly ring: number;
  /** Bytes that the first queue is moved up by, so that every queue has its own cache lines. */
  readonly #alignment: number;

  constructor(idleQueues: number) {
    this.buffer = new SharedArrayBuffer(GUEST_BYTES + idleQueues * QUEUE_BYTES + CACHE_LINE);
    this.words = new Int32Array(this.buffer);
    this.#alignment = Number(-addressOfShared(this.buffer) & BigInt(CACHE_LINE - 1));
    this.ring = this.#guestWord(RING);
  }

  /** The queue the guest drives. */
  get busyQueue(): QueuePlace {
    return this.#queueAt(this.#alignment);
  }

  /** An idle queue, numbered from 0. */
  idleQueue(index: number): QueuePlace {
    return this.#queueAt(this.#alignment + GUEST_BYTES + index * QUEUE_BYTES);
  }

  /**
   * Starts the guest's thread, on a queue where nothing is pending.
   *
   * @returns settles when the thread has ended, after `stopGuest`
   * @throws {AioError} rejects with it when the thread could not kick
   */
  async runGuest(shim: Shim, load: GuestLoad): Promise<void> {
    this.words[this.#guestWord(EVENT_FD)] = load.eventFd;
    this.words[this.#guestWord(DEPTH)] = load.depth;
    this.words[this.#guestWord(BLOCKS)] = load.blocks;
    this.words[this.#guestWord(STOP)] = 0;
    const address = addressOfShared(this.buffer) + BigInt(this.#alignment);
    const result = await shim.aio_guest_run(Deno.UnsafePointer.create(address));
    if (result < 0) throw new AioError("Cannot kick the device", "write", -result);
  }

  /** Tells the guest's thread to end; it does so at once. */
  stopGuest(): void {
    Atomics.store(this.words, this.#guestWord(STOP), 1);
  }

  /** A copy of the guest's counters while it runs, off by the request in the making at most. */
  countGuest(): GuestCounts {
    const first = this.#guestWord(LATENCIES);
    const latencies = new Uint32Array(this.words.subarray(first, first + LATENCY_BUCKETS));
    return new GuestCounts(this.words[this.#guestWord(KICKS)], latencies);
  }

  #guestWord(word: number): number {
    return this.#alignment / 4 + word;
  }

  #queueAt(byteOffset: number): QueuePlace {
    const word = byteOffset / 4;
    return { avail: word + AVAIL, used: word + USED, notificationsOff: word + NOTIFICATIONS_OFF };
  }
}
