/**
 * A queue of a virtio-blk driver: descriptors, slots and the two rings, as the kernel of a virtual
 * machine has them.
 *
 * Each queue has slots, each with a header, a status and room for data; with indirect descriptors a
 * slot is one descriptor, else three in a row. The hot path, `post` and `takeUsed`, allocates
 * nothing: a measurement drives it from another thread or process.
 *
 * Partners of the barriers in ../virtio/virtqueue.ts: avail.idx and used.idx are Atomics here too, and
 * so are the words by which each side tells the other to keep quiet.
 */
import { EventNotifier } from "../../mod.ts";
import { BlkRequestType } from "../virtio/virtio_blk.ts";
import type { VhostDriver, VhostDriverOptions } from "./vhost_driver.ts";

/** Where the guest has the memory. */
export const GUEST_BASE = 0x4000_0000;
const PAGE = 4096;
/** Of a slot, without its data: header at 0, status at 16, indirect table at 32. */
const SLOT_BYTES = 128, STATUS_AT = 16, TABLE_AT = 32;
const NEXT = 1, WRITE = 2, INDIRECT = 4;
const NO_NOTIFY = 1;
const HEADER_BYTES = 16;

/** A request that has come back. */
export interface UsedRequest {
  readonly slot: number;
  readonly status: number;
  /** What the device says it has written. */
  readonly written: number;
}

/** One queue. */
export class DriverQueue implements Disposable {
  readonly index: number;
  readonly size: number;
  /** Requests that can be in flight at once. */
  readonly slots: number;
  /** Where its parts are, from the beginning of the memory. */
  readonly descriptorsAt: number;
  readonly availAt: number;
  readonly usedAt: number;
  readonly slotsAt: number;
  readonly dataAt: number;
  readonly kick: EventNotifier = new EventNotifier();
  readonly call: EventNotifier = new EventNotifier();
  /** What the device tells errors with; null where nobody wants to know. */
  readonly error: EventNotifier | null;
  /** Kicks that the device wanted. */
  kicks = 0;
  readonly driver: VhostDriver;
  readonly descriptors: Uint32Array<SharedArrayBuffer>;
  readonly avail: Uint16Array<SharedArrayBuffer>;
  readonly used: Uint16Array<SharedArrayBuffer>;
  readonly #usedRing: Uint32Array<SharedArrayBuffer>;
  readonly #words: Uint32Array<SharedArrayBuffer>;
  #nextAvail = 0;
  #nextUsed = 0;
  #usedSlot = 0;
  #usedWritten = 0;

  constructor(driver: VhostDriver, index: number, at: number) {
    const { queueSize: size, slotBytes, indirect, errors } = driver.options;
    this.driver = driver;
    this.error = errors ? new EventNotifier() : null;
    this.index = index;
    this.size = size;
    this.slots = indirect ? size : Math.floor(size / 3);
    this.descriptorsAt = at;
    this.availAt = at + size * 16;
    this.usedAt = align(this.availAt + 6 + size * 2, 4);
    this.slotsAt = align(this.usedAt + 6 + size * 8, SLOT_BYTES);
    this.dataAt = align(this.slotsAt + this.slots * SLOT_BYTES, PAGE);
    const { buffer, byteOffset } = driver.memory;
    this.descriptors = new Uint32Array(buffer, byteOffset + at, size * 4);
    this.avail = new Uint16Array(buffer, byteOffset + this.availAt, size + 3);
    this.used = new Uint16Array(buffer, byteOffset + this.usedAt, size * 4 + 3);
    this.#usedRing = new Uint32Array(buffer, byteOffset + this.usedAt + 4, size * 2);
    this.#words = new Uint32Array(buffer, byteOffset, driver.memory.byteLength / 4);
    for (let slot = 0; slot < this.slots; slot++) {
      this.describe(slot, BlkRequestType.in, slotBytes);
    }
  }

  /** Bytes that a queue takes in memory. */
  static bytes({ queueSize, slotBytes, indirect }: Required<VhostDriverOptions>): number {
    const slots = indirect ? queueSize : Math.floor(queueSize / 3);
    return align(queueSize * 26 + 16 + SLOT_BYTES * (slots + 1), PAGE) + slots * slotBytes + PAGE;
  }

  /** The room for a slot's data. */
  data(slot: number): Uint8Array<SharedArrayBuffer> {
    const { slotBytes } = this.driver.options;
    const at = this.dataAt + slot * slotBytes;
    return this.driver.memory.bytes.subarray(at, at + slotBytes);
  }

  /** Says what a slot's requests are: a header, data in one direction or none, a status. */
  describe(slot: number, type: number, length: number): void {
    const { indirect, slotBytes } = this.driver.options;
    const slotAt = this.slotsAt + slot * SLOT_BYTES;
    this.#words[slotAt / 4] = type;
    const writes = type === BlkRequestType.in || type === BlkRequestType.getId;
    const parts: [number, number, number][] = [[slotAt, HEADER_BYTES, 0]];
    if (length !== 0) parts.push([this.dataAt + slot * slotBytes, length, writes ? WRITE : 0]);
    parts.push([slotAt + STATUS_AT, 1, WRITE]);
    const first = indirect ? 0 : slot * 3;
    const table = indirect ? this.#tableOf(slotAt) : this.descriptors;
    for (const [number, [at, bytes, flags]] of parts.entries()) {
      const next = number + 1 < parts.length;
      describe(table, first + number, at, bytes, flags | (next ? NEXT : 0), first + number + 1);
    }
    if (indirect) {
      describe(this.descriptors, slot, slotAt + TABLE_AT, parts.length * 16, INDIRECT, 0);
    }
  }

  /**
   * Makes a slot's request available, once more or for the first time; `publish` shows it.
   *
   * @param sector where, in units of 512 bytes
   */
  post(slot: number, sector: number): void {
    const slotAt = this.slotsAt + slot * SLOT_BYTES;
    this.#words[slotAt / 4 + 2] = sector;
    this.#words[slotAt / 4 + 3] = sector / 0x1_0000_0000;
    this.driver.memory.bytes[slotAt + STATUS_AT] = 0xff;
    this.offer(this.driver.options.indirect ? slot : slot * 3);
  }

  /** Puts the head of a chain into the available ring. */
  offer(head: number): void {
    this.avail[2 + (this.#nextAvail & (this.size - 1))] = head;
    this.#nextAvail = (this.#nextAvail + 1) & 0xffff;
  }

  /** Shows what was posted to the device, and kicks it where it wants that. @returns whether it did */
  publish(): boolean {
    const before = this.avail[1], now = this.#nextAvail;
    Atomics.store(this.avail, 1, now);
    const event = this.driver.options.eventIndex
      ? Atomics.load(this.used, 2 + this.size * 4)
      : Atomics.load(this.used, 0) & NO_NOTIFY;
    const wanted = this.driver.options.eventIndex
      ? ((now - event - 1) & 0xffff) < ((now - before) & 0xffff)
      : event === 0;
    if (!wanted) return false;
    this.kicks++;
    this.kick.set();
    return true;
  }

  /**
   * Takes a request that has come back: `usedSlot`, `usedStatus`, `usedWritten` say how.
   *
   * @returns false where there is none
   */
  takeUsed(): boolean {
    if (Atomics.load(this.used, 1) === this.#nextUsed) return false;
    const at = (this.#nextUsed & (this.size - 1)) * 2;
    const head = this.#usedRing[at];
    this.#usedSlot = this.driver.options.indirect ? head : head / 3;
    this.#usedWritten = this.#usedRing[at + 1];
    this.#nextUsed = (this.#nextUsed + 1) & 0xffff;
    return true;
  }

  /** What `takeUsed` has found. */
  get usedSlot(): number {
    return this.#usedSlot;
  }

  /** Its status. */
  get usedStatus(): number {
    return this.driver.memory.bytes[this.slotsAt + this.#usedSlot * SLOT_BYTES + STATUS_AT];
  }

  /** What the device says it has written. */
  get usedWritten(): number {
    return this.#usedWritten;
  }

  /** Asks to be called for the next request that comes back. @returns whether one has already */
  wantCall(): boolean {
    if (this.driver.options.eventIndex) Atomics.store(this.avail, this.size + 2, this.#nextUsed);
    else Atomics.store(this.avail, 0, 0);
    return Atomics.load(this.used, 1) !== this.#nextUsed;
  }

  /** Asks not to be called. */
  refuseCalls(): void {
    if (this.driver.options.eventIndex) {
      Atomics.store(this.avail, this.size + 2, this.#nextUsed - 1);
    } else Atomics.store(this.avail, 0, 1);
  }

  /** Sends one request and waits until it is back. Nothing else may be in flight on the queue. */
  async request(type: number, sector: number, length: number, slot = 0): Promise<UsedRequest> {
    this.describe(slot, type, length);
    this.post(slot, sector);
    this.publish();
    return await this.nextUsed();
  }

  /** Waits for the next request that comes back. */
  async nextUsed(): Promise<UsedRequest> {
    const { ctx } = this.driver;
    if (!this.takeUsed()) {
      const { promise, resolve } = Promise.withResolvers<void>();
      const look = () => {
        if (this.takeUsed()) resolve();
      };
      ctx.setFdHandler(this.call.fd, { ioRead: () => (this.call.testAndClear(), look()) });
      if (this.wantCall()) look();
      await promise;
      ctx.setFdHandler(this.call.fd, null);
    }
    return { slot: this.#usedSlot, status: this.usedStatus, written: this.#usedWritten };
  }

  /** The indirect table of a slot. */
  slotTable(slot: number): Uint32Array<SharedArrayBuffer> {
    return this.#tableOf(this.slotsAt + slot * SLOT_BYTES);
  }

  #tableOf(slotAt: number): Uint32Array<SharedArrayBuffer> {
    const at = (slotAt + TABLE_AT) / 4;
    return this.#words.subarray(at, at + 12);
  }

  [Symbol.dispose](): void {
    for (const notifier of [this.kick, this.call, this.error]) notifier?.[Symbol.dispose]();
  }
}

/** Writes a descriptor. @param at where in the memory its buffer is */
function describe(
  table: Uint32Array,
  index: number,
  at: number,
  length: number,
  flags: number,
  next: number,
): void {
  writeDescriptor(table, index, GUEST_BASE + at, length, flags, next);
}

/** Writes a descriptor with any address. */
export function writeDescriptor(
  table: Uint32Array,
  index: number,
  address: number,
  length: number,
  flags: number,
  next: number,
): void {
  table[index * 4] = address;
  table[index * 4 + 1] = address / 0x1_0000_0000;
  table[index * 4 + 2] = length;
  table[index * 4 + 3] = flags | next << 16;
}

function align(value: number, alignment: number): number {
  return Math.ceil(value / alignment) * alignment;
}
