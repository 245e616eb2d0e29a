/**
 * A split virtqueue, the device's side: descriptor table, available ring, used ring in guest memory.
 *
 * The guest is not trusted. Each value is loaded from its memory once, into a local, then checked and
 * used; JavaScript promises that a read is one read. A chain that loops, nests, points outside the
 * memory or is too long is a VirtioError, after which the queue is not to be used any more.
 *
 * Memory order. The rings are in a SharedArrayBuffer; plain accesses may be reordered by compiler and
 * processor, those of Atomics are not, and have one order among all Atomics:
 * - `avail.idx` is loaded with Atomics (x86-64: a plain load; arm64: ldar), so the ring entry, the
 *   descriptors and the data behind them are loaded after it. Partner: the guest's write barrier
 *   between filling those in and its store of `avail.idx`.
 * - `used.idx` is stored with Atomics (x86-64: xchg; arm64: stlr), so the entry in the used ring and
 *   the data, which the kernel has put there before the completion that we have seen, come before
 *   it. Partner: the guest's read barrier after its load of `used.idx`.
 * - `used.idx` stored, then `used_event` or `avail.flags` loaded ("does the guest want a call?"), and
 *   `avail_event` or `used.flags` stored, then `avail.idx` loaded ("did anything come in before the
 *   guest knew that it has to kick?"): a store and then a load, which x86-64 swaps too. Both are
 *   Atomics: xchg is a full barrier, and arm64 keeps ldar behind stlr. Partner: the guest's full
 *   barrier between its store of the one and its load of the other. Either side sees the other's.
 * - Ring entries, flags of descriptors and their addresses are plain: ordered by the above.
 */
import { PollWord } from "../../mod.ts";
import { type GuestChunk, type GuestMemory, GuestRuns, VirtioError } from "./guest_memory.ts";
import type { InflightQueue } from "./inflight.ts";

/** Entries of a queue at most: the limit of the specification. */
export const QUEUE_SIZE_MAX = 32_768;
/** Descriptors of an indirect table at most. A driver may exceed the queue's size by a few. */
const INDIRECT_MAX = 1024;
/** Bytes of a chain at most, as the specification has it. */
const CHAIN_BYTES_MAX = 0xffff_ffff;

const NEXT = 1, WRITE = 2, INDIRECT = 4;
/** avail.flags: the guest wants no call. used.flags: the device wants no kick. */
const NO_INTERRUPT = 1, NO_NOTIFY = 1;
const DESCRIPTOR_BYTES = 16, DESCRIPTOR_WORDS = 4;
const HIGH = 0x1_0000_0000;

// 16-bit words of both rings.
const FLAGS = 0, INDEX = 1, RING = 2;

/** Where a queue is, in the front end's addresses, and how large. */
export interface VirtqueuePlace {
  /** Entries: a power of two. */
  readonly size: number;
  readonly descriptors: number;
  readonly avail: number;
  readonly used: number;
}

/** What was negotiated that changes how rings are read. */
export interface VirtqueueFeatures {
  readonly eventIndex: boolean;
  readonly indirect: boolean;
}

const NO_TABLE = new Uint32Array(0);

/** What one request of a guest consists of. */
export class DescriptorChain {
  /** What the device may read, before what it may write. */
  readonly readable: GuestRuns = new GuestRuns();
  readonly writable: GuestRuns = new GuestRuns();
}

/** The device's side of a queue. */
export class Virtqueue {
  readonly size: number;
  /** Requests taken from the available ring, modulo 2^16. */
  nextAvail = 0;
  /** Chains put into the used ring, modulo 2^16. */
  nextUsed: number;
  /** Keeps record for a restart; null where nobody asked for it. */
  readonly inflight: InflightQueue | null;
  /** Where the used ring is in its buffer: for the log of what was changed. */
  readonly usedBytes: number;
  readonly #memory: GuestMemory;
  readonly #eventIndex: boolean;
  readonly #indirect: boolean;
  /** Where the parts are, each by the piece of memory it is in and the index of its first word. */
  readonly #descriptors: Uint32Array<SharedArrayBuffer>;
  readonly #descriptorsAt: number;
  readonly #avail: Uint16Array<SharedArrayBuffer>;
  readonly #availAt: number;
  readonly #used: Uint16Array<SharedArrayBuffer>;
  readonly #usedAt: number;
  readonly #usedRing: Uint32Array<SharedArrayBuffer>;
  /** avail.idx when it was last loaded. */
  #availIndex: number;
  /** 1 for the head of each chain that the device has. Idle queues do without. */
  #taken: Uint8Array<ArrayBuffer> | null = null;
  /** The guest was last called at this `nextUsed`; -1: not yet. */
  #called = -1;
  /** Where the indirect table is that was found last. */
  #table: Uint32Array = NO_TABLE;
  #tableStart = 0;
  #tableRuns: GuestRuns | null = null;

  /**
   * Finds the rings in guest memory.
   *
   * @param base where to go on in the available ring
   * @throws {VirtioError} when one of them is not where it has to be
   */
  constructor(
    memory: GuestMemory,
    place: VirtqueuePlace,
    features: VirtqueueFeatures,
    base: number,
    inflight: InflightQueue | null = null,
  ) {
    const { size } = place;
    requireQueueSize(size);
    this.size = size;
    this.#memory = memory;
    this.#eventIndex = features.eventIndex;
    this.#indirect = features.indirect;
    this.usedBytes = 6 + size * 8;
    const descriptors = locate(memory, "descriptor table", place.descriptors, size * 16, 16);
    const avail = locate(memory, "available ring", place.avail, 6 + size * 2, 2);
    const used = locate(memory, "used ring", place.used, this.usedBytes, 4);
    this.#descriptors = descriptors.chunk.words;
    this.#descriptorsAt = descriptors.at / 4;
    this.#avail = avail.chunk.halves;
    this.#availAt = avail.at / 2;
    this.#used = used.chunk.halves;
    this.#usedAt = used.at / 2;
    this.#usedRing = used.chunk.words;
    this.nextUsed = Atomics.load(this.#used, this.#usedAt + INDEX);
    this.nextAvail = this.#availIndex = base & 0xffff;
    this.inflight = inflight;
  }

  /** The word that changes when the guest has made requests available; nothing is seen of it yet. */
  pollWord(): PollWord {
    const word = new PollWord(this.#avail.buffer, (this.#availAt + INDEX) * 2, 16);
    word.seen = this.nextAvail;
    return word;
  }

  /**
   * Takes the next request from the available ring.
   *
   * @returns the head of its chain, or -1 when there is none
   * @throws {VirtioError} when the ring is nonsense
   */
  take(): number {
    if (this.nextAvail === this.#availIndex) {
      const index = Atomics.load(this.#avail, this.#availAt + INDEX);
      const pending = (index - this.nextAvail) & 0xffff;
      if (pending === 0) return -1;
      if (pending > this.size) {
        throw new VirtioError(
          `Cannot take ${pending} requests at once as the queue has ${this.size} entries`,
        );
      }
      this.#availIndex = index;
    }
    const head = this.#avail[this.#availAt + RING + (this.nextAvail & (this.size - 1))];
    this.#hold(head);
    this.nextAvail = (this.nextAvail + 1) & 0xffff;
    this.inflight?.take(head);
    return head;
  }

  /**
   * Takes the chains that a device before this one had when it ended. To be called at first, where
   * there is a record; it, and not `base`, says where to go on.
   *
   * @returns heads of the chains, in the order they were taken
   * @throws {VirtioError} when the record is nonsense
   */
  recover(): number[] {
    const heads = this.inflight === null ? [] : this.inflight.recover(this.nextUsed);
    for (const head of heads) this.#hold(head);
    if (this.inflight !== null) {
      this.nextAvail = this.#availIndex = (this.nextUsed + heads.length) & 0xffff;
    }
    return heads;
  }

  /**
   * Reads a chain.
   *
   * @param head as `take` returned it
   * @param chain is filled in
   * @throws {VirtioError} when the chain is not sound
   */
  read(head: number, chain: DescriptorChain): void {
    const { readable, writable } = chain;
    readable.clear();
    writable.clear();
    let table: Uint32Array = this.#descriptors, first = this.#descriptorsAt, limit = this.size;
    let index = head, count = 0, nested = false;
    for (;;) {
      // Each word is loaded once: the guest may change it at any time.
      const at = first + index * DESCRIPTOR_WORDS;
      const address = table[at + 1] * HIGH + table[at], length = table[at + 2];
      const flagsAndNext = table[at + 3];
      const flags = flagsAndNext & 0xffff;
      if (++count > limit) {
        throw new VirtioError(`Cannot use a chain as it has more than ${limit} descriptors`);
      }
      if ((flags & INDIRECT) !== 0) {
        if (!this.#indirect) throw new VirtioError("Cannot use an indirect descriptor: not agreed");
        if (nested) {
          throw new VirtioError("Cannot use an indirect descriptor inside an indirect table");
        }
        if ((flags & NEXT) !== 0) {
          throw new VirtioError("Cannot use an indirect descriptor as another one follows it");
        }
        limit = this.#findTable(address, length);
        table = this.#table;
        first = this.#tableStart;
        index = count = 0;
        nested = true;
        continue;
      }
      if (length === 0) throw new VirtioError("Cannot use a descriptor as it is empty");
      if ((flags & WRITE) !== 0) writable.append(this.#memory, address, length);
      else if (writable.count === 0) readable.append(this.#memory, address, length);
      else throw new VirtioError("Cannot use a chain as it has data to read behind room to write");
      if (readable.byteLength + writable.byteLength > CHAIN_BYTES_MAX) {
        throw new VirtioError("Cannot use a chain as it is longer than 4 GiB");
      }
      if ((flags & NEXT) === 0) return;
      index = flagsAndNext >>> 16;
      if (index >= limit) {
        throw new VirtioError(`Cannot use descriptor ${index} as there are ${limit}`);
      }
    }
  }

  /**
   * Gives a chain back to the guest.
   *
   * @param written bytes written to the beginning of what the device may write
   */
  put(head: number, written: number): void {
    // The ring begins behind flags and index, with the second 32-bit word.
    const at = this.#usedAt / 2 + 1 + (this.nextUsed & (this.size - 1)) * 2;
    this.inflight?.beforePut(head);
    this.#usedRing[at] = head;
    this.#usedRing[at + 1] = written;
    this.#taken![head] = 0;
    this.nextUsed = (this.nextUsed + 1) & 0xffff;
    Atomics.store(this.#used, this.#usedAt + INDEX, this.nextUsed);
    this.inflight?.afterPut(head, this.nextUsed);
  }

  /** Whether the guest wants a call for what was put since it was asked last. */
  wantsCall(): boolean {
    if (!this.#eventIndex) {
      return (Atomics.load(this.#avail, this.#availAt + FLAGS) & NO_INTERRUPT) === 0;
    }
    const event = Atomics.load(this.#avail, this.#availAt + RING + this.size);
    const before = this.#called, now = this.nextUsed;
    this.#called = now;
    if (before === -1) return true;
    return ((now - event - 1) & 0xffff) < ((now - before) & 0xffff);
  }

  /** Tells the guest that it need not kick. A hint: it may all the same. */
  disableKicks(): void {
    // An index that has just gone by comes again after 65,535 requests only.
    if (this.#eventIndex) this.#storeAvailEvent(this.nextAvail - 1);
    else Atomics.store(this.#used, this.#usedAt + FLAGS, NO_NOTIFY);
  }

  /**
   * Tells the guest to kick for the next request.
   *
   * @returns whether requests came in before it can have known
   */
  enableKicks(): boolean {
    if (this.#eventIndex) this.#storeAvailEvent(this.nextAvail);
    else Atomics.store(this.#used, this.#usedAt + FLAGS, 0);
    return Atomics.load(this.#avail, this.#availAt + INDEX) !== this.nextAvail;
  }

  #storeAvailEvent(index: number): void {
    Atomics.store(this.#used, this.#usedAt + RING + this.size * 4, index & 0xffff);
  }

  #hold(head: number): void {
    if (head >= this.size) {
      throw new VirtioError(`Cannot take a request as descriptor ${head} is beyond ${this.size}`);
    }
    const taken = this.#taken ??= new Uint8Array(this.size);
    if (taken[head] !== 0) {
      throw new VirtioError(`Cannot take a request as descriptor ${head} is of one in flight`);
    }
    taken[head] = 1;
  }

  /** Finds an indirect table, or copies one that is in parts. @returns its number of descriptors */
  #findTable(address: number, length: number): number {
    const count = length / DESCRIPTOR_BYTES;
    if (count === 0 || !Number.isInteger(count) || count > INDIRECT_MAX) {
      throw new VirtioError(`Cannot use an indirect table as its length is ${length}`);
    }
    const runs = this.#tableRuns ??= new GuestRuns();
    runs.clear();
    runs.append(this.#memory, address, length);
    const offset = runs.offsets[0];
    if (runs.count === 1 && offset % 4 === 0) {
      this.#table = runs.chunks[0].words;
      this.#tableStart = offset / 4;
    } else {
      const copy = new Uint32Array(count * DESCRIPTOR_WORDS);
      runs.copyTo(new Uint8Array(copy.buffer), 0, length);
      this.#table = copy;
      this.#tableStart = 0;
    }
    return count;
  }
}

/** @throws {VirtioError} when a queue cannot have as many entries */
export function requireQueueSize(size: number): void {
  const isPower = size >= 1 && size <= QUEUE_SIZE_MAX && (size & (size - 1)) === 0;
  if (!isPower) {
    throw new VirtioError(
      `Cannot use a queue as its size is no power of two up to ${QUEUE_SIZE_MAX}: ${size}`,
    );
  }
}

function locate(
  memory: GuestMemory,
  what: string,
  address: number,
  length: number,
  alignment: number,
): { chunk: GuestChunk; at: number } {
  const place = memory.findUser(what, address, length);
  if (place.at % alignment === 0) return place;
  throw new VirtioError(
    `Cannot use the ${what} as its address is not a multiple of ${alignment}: 0x${
      address.toString(16)
    }`,
  );
}
