/**
 * The device side of a queue: a handler that reads blocks of the file for the guest.
 *
 * It stands for a virtio device. Its handler is the seed's: ioRead for the guest's kick, ioPoll for
 * the avail index, and ioPollBegin and ioPollEnd that turn the guest's kicks off and on. This is the
 * measured path: one class for busy and idle queues, plain words, nothing allocated per request.
 *
 * Invariant: the device alone writes `used` and `notificationsOff`, the guest alone `avail`.
 */
import { AioError } from "../../ffi/errno.ts";
import { allocateNative, type NativeMemory } from "../../ffi/memory.ts";
import type { Shim } from "../../ffi/shim_symbols.ts";
import { EventNotifier, type FdHandler, PollWord } from "../../mod.ts";
import { CommandError } from "./exit.ts";
import { type GuestMemory, type QueuePlace, RING_SLOTS } from "./scale_guest.ts";
import type { PollForm } from "./scale_options.ts";

const PAGE = 4096;

/** What serves the requests of a queue. */
export interface RequestReader {
  /** Reads one block into the buffer of `slot`. */
  read(block: number, slot: number): void;
}

/** Reads blocks of a file with pread(2), each slot of the ring into its own buffer. */
export class BlockReader implements RequestReader {
  readonly #shim: Shim;
  readonly #fd: number;
  readonly #blockSize: number;
  /** C writes into this while a read runs; the pointers do not keep it alive. */
  readonly #buffers: NativeMemory;
  /** One buffer for each slot, page-aligned as a guest's are: the kernel copies slower to others. */
  readonly #pointers: Deno.PointerValue[] = [];

  /** @param depth requests in flight at most */
  constructor(shim: Shim, fd: number, blockSize: number, depth: number) {
    this.#shim = shim;
    this.#fd = fd;
    this.#blockSize = blockSize;
    const stride = Math.ceil(blockSize / PAGE) * PAGE;
    this.#buffers = allocateNative(stride * depth + PAGE);
    const first = this.#buffers.address + (-this.#buffers.address & BigInt(PAGE - 1));
    for (let slot = 0; slot < depth; slot++) {
      this.#pointers.push(Deno.UnsafePointer.create(first + BigInt(slot * stride)));
    }
  }

  read(block: number, slot: number): void {
    const size = this.#blockSize;
    const pointer = this.#pointers[slot % this.#pointers.length];
    const result = this.#shim.aio_pread(this.#fd, pointer, size, block * size);
    if (result !== size) this.#fail(block, result);
  }

  #fail(block: number, result: number): never {
    if (result < 0) throw new AioError(`Cannot read block ${block}`, "pread", -result);
    throw new CommandError(`Cannot read block ${block} as the file has become shorter`);
  }
}

/** One queue of a device, with the notifier its guest kicks. */
export class DeviceQueue implements Disposable {
  readonly notifier: EventNotifier = new EventNotifier();
  /** Notifiers drained: the system calls of the device that are not reads of data. */
  drains = 0;
  readonly #words: Int32Array<SharedArrayBuffer>;
  readonly #ring: number;
  readonly #place: QueuePlace;
  readonly #reader: RequestReader | null;
  readonly #word: PollWord | null;
  #used = 0;

  /** @param reader reads the blocks asked for; null where the guest asks for none */
  constructor(
    memory: GuestMemory,
    place: QueuePlace,
    reader: RequestReader | null,
    poll: PollForm,
  ) {
    this.#words = memory.words;
    this.#ring = memory.ring;
    this.#place = place;
    this.#reader = reader;
    this.#word = poll === "word" ? new PollWord(memory.buffer, place.avail * 4, 32) : null;
  }

  /** The callbacks of the notifier's fd. */
  handler(): FdHandler {
    const words = this.#words;
    const { avail } = this.#place;
    return {
      ioRead: () => this.#acceptKick(),
      // A plain load: this is a hint, and process() loads again with the right order.
      ioPoll: this.#word ?? (() => words[avail] !== this.#used),
      ioPollReady: () => this.#process(),
      ioPollBegin: () => this.#setNotificationsOff(1),
      ioPollEnd: () => this.#setNotificationsOff(0),
    };
  }

  /** Posts one event as a guest would, on a queue that no guest drives. */
  postEvent(): void {
    Atomics.add(this.#words, this.#place.avail, 1);
    this.notifier.set();
  }

  /** Requests and events handled. */
  get used(): number {
    return this.#used;
  }

  /** Requests and events posted and not handled. */
  get pending(): number {
    return Atomics.load(this.#words, this.#place.avail) - this.#used | 0;
  }

  [Symbol.dispose](): void {
    this.notifier[Symbol.dispose]();
  }

  #acceptKick(): void {
    this.drains++;
    this.notifier.testAndClear();
    this.#process();
  }

  /**
   * Handles what is there at the call, and no more: a guest that posts as fast as it is served would
   * keep the loop from its timers. The acquire of avail makes the guest's ring readable; the store of
   * used gives it back.
   */
  #process(): void {
    const words = this.#words, reader = this.#reader;
    const avail = Atomics.load(words, this.#place.avail);
    let used = this.#used;
    while (used !== avail) {
      const slot = used & (RING_SLOTS - 1);
      if (reader !== null) reader.read(words[this.#ring + slot] >>> 0, slot);
      used = (used + 1) | 0;
      this.#used = used;
      Atomics.store(words, this.#place.used, used);
    }
    if (this.#word !== null) this.#word.seen = used;
  }

  /**
   * Partner of the fence in publish() of shim/guest.c: the load of avail comes after the store in
   * the one order of all atomics, and orders the plain load of the ioPoll that follows ioPollEnd.
   */
  #setNotificationsOff(off: number): void {
    Atomics.store(this.#words, this.#place.notificationsOff, off);
    Atomics.load(this.#words, this.#place.avail);
  }
}
