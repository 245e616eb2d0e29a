/**
 * The board: where every context of the process has a place, whatever isolate made it.
 *
 * A place is a few words of memory that the shim owns and never unmaps, so a thread that knows its
 * number and generation can wake the context that has it, or find out that it is gone; nothing has
 * to be handed over for that but numbers. Who owns which word:
 *
 * - `notified`: set by any waker, cleared by the loop. `notifyMe`: the loop's. How the two keep
 *   wake-ups from being lost stands in src/context_notifier.ts.
 * - `users`: counts threads inside a wake-up; carries CLOSED while nobody has the place.
 * - `fd`: the eventfd, written by `claim` before it opens the place.
 * - `generation`: one more for each context that has had the place; written by `claim` likewise.
 * - `owner`: the thread whose context it is, 0 for a place that is free; RETIRED where a thread ended
 *   inside a wake-up, and nobody can know any more whether it will write to the eventfd.
 * - `ring`, `pool`, `waiter...`: what has to be given back of it where the thread is dropped: written by it alone.
 * - `groups`, `links`: a bit for each link on which something is new. Set by whoever has put it there,
 *   the link's first; taken by the loop, the groups' first. So a bit that is set is found or will be.
 */
import { AioError, Errno } from "./errno.ts";
import { PlaceLayout } from "./layout.ts";
import { mapWords, storeU64 } from "./memory.ts";
import type { Shim } from "./shim_symbols.ts";

const { aio_place: PLACE } = PlaceLayout;
const PLACES = 8192;
const PLACE_WORDS = PLACE.sizeof / 4;

/** Words of a place, from its first one. */
export const PlaceWord = {
  notified: PLACE.notified / 4,
  notifyMe: PLACE.notify_me / 4,
  users: PLACE.users / 4,
  fd: PLACE.fd / 4,
  generation: PLACE.generation / 4,
  owner: PLACE.owner / 4,
  groups: PLACE.groups / 4,
  links: PLACE.links / 4,
  ring: PLACE.ring / 4,
  pool: PLACE.pool / 4,
  waiterFd: PLACE.waiter_fd / 4,
} as const;
const WAITER_INODE = PLACE.waiter_inode / 8;

/** 64-bit words of a ring. */
const RING_U64S = (PLACE.pool - PLACE.ring) / 8;

/** Groups of 32 links, each with a word of bits. */
export const LINK_GROUPS = 31;

/** Sign bit of `users`. */
const CLOSED = 0x8000_0000 | 0;
const RETIRED = -1;

/**
 * How long it is waited for threads inside a wake-up. Each needs a system call's time; one that
 * was terminated there never leaves.
 */
const USERS_GONE_NS = 1e9;

const boards = new WeakMap<Shim, Board>();

/** The board of the process, as this isolate sees it. */
export class Board {
  /** All places, one after the other. */
  readonly words: Int32Array<ArrayBuffer>;
  /** Tells this board from one of another shim. */
  readonly id: number;
  readonly #shim: Shim;
  readonly #address: bigint;
  readonly #u32: Uint32Array<ArrayBuffer>;
  readonly #f64: Float64Array<ArrayBuffer>;
  #next = 0;
  /** Closed places where a thread is inside a wake-up that it never leaves. */
  readonly #stuck = new Set<number>();

  private constructor(shim: Shim) {
    this.#shim = shim;
    this.#address = Deno.UnsafePointer.value(shim.aio_board());
    this.id = Number(this.#address);
    this.words = mapWords(this.#address, PLACES * PLACE_WORDS);
    this.#u32 = new Uint32Array(this.words.buffer);
    this.#f64 = new Float64Array(this.words.buffer);
  }

  /** The board of a shim. */
  static of(shim: Shim): Board {
    let board = boards.get(shim);
    if (board === undefined) boards.set(shim, board = new Board(shim));
    return board;
  }

  /**
   * Takes a place for a context of this thread.
   *
   * @param fd its eventfd
   * @returns index of the place's first word
   * @throws {AioError} when there are as many contexts as places
   */
  claim(fd: number): number {
    const owner = this.#shim.aio_thread_id();
    for (let tries = 0; tries < PLACES; tries++) {
      const base = (this.#next + tries) % PLACES * PLACE_WORDS;
      if (Atomics.compareExchange(this.words, base + PlaceWord.owner, 0, owner) !== 0) continue;
      // The one before this is the last to be given out again, so that numbers are told apart.
      this.#next = base / PLACE_WORDS + 1;
      this.words[base + PlaceWord.notified] = this.words[base + PlaceWord.notifyMe] = 0;
      this.words[base + PlaceWord.fd] = fd;
      this.words.fill(0, base + PlaceWord.groups, base + PlaceWord.links + LINK_GROUPS);
      Atomics.add(this.words, base + PlaceWord.generation, 1);
      Atomics.and(this.words, base + PlaceWord.users, ~CLOSED);
      return base;
    }
    throw new AioError(
      "Cannot make a context",
      "claim",
      Errno.ENOSPC,
      `this process has ${PLACES} contexts already: dispose some`,
    );
  }

  /** Whether an index is that of a place, whoever has it. */
  isPlace(base: unknown): base is number {
    return Number.isInteger(base) && base as number >= 0 &&
      base as number < this.words.length && base as number % PLACE_WORDS === 0;
  }

  /** Whether the context that had this generation of a place has it still. */
  isOpen(base: number, generation: number): boolean {
    return Atomics.load(this.words, base + PlaceWord.users) >= 0 &&
      Atomics.load(this.words, base + PlaceWord.generation) === generation;
  }

  /** The thread whose context has a place; 0 or less where none does. */
  owner(base: number): number {
    return Atomics.load(this.words, base + PlaceWord.owner);
  }

  /** Which context has the place now. */
  generation(base: number): number {
    return Atomics.load(this.words, base + PlaceWord.generation);
  }

  /** Memory for the struct io_uring of a context. */
  ringMemory(base: number): BigUint64Array<ArrayBuffer> {
    const pointer = Deno.UnsafePointer.create(this.#address + BigInt((base + PlaceWord.ring) * 4));
    return new BigUint64Array(Deno.UnsafePointerView.getArrayBuffer(pointer!, RING_U64S * 8));
  }

  /** Keeps the address of a context's thread pool; 0 where it has none any more. */
  keepPool(base: number, address: bigint): void {
    storeU64(this.#u32, base + PlaceWord.pool, address);
  }

  /** Keeps an fd that Deno closes, as a rule, when a thread is dropped; inode 0 where there is none. */
  keepWaiter(base: number, fd: number, inode: number): void {
    this.words[base + PlaceWord.waiterFd] = fd;
    this.#f64[base / 2 + WAITER_INODE] = inode;
  }

  /** The fd of a waiting thread's socket that is open still; -1 where there is none. */
  waiter(base: number): number {
    const fd = this.words[base + PlaceWord.waiterFd], inode = this.#f64[base / 2 + WAITER_INODE];
    return inode !== 0 && this.#shim.aio_fd_inode(fd) === inode ? fd : -1;
  }

  /** The address of a context's thread pool, or null. */
  pool(base: number): Deno.PointerValue {
    const [low, high] = this.#u32.subarray(base + PlaceWord.pool);
    return Deno.UnsafePointer.create(BigInt(high) << 32n | BigInt(low));
  }

  /** Address of the word that the spin watches. */
  notifiedAddress(base: number): bigint {
    return this.#address + BigInt((base + PlaceWord.notified) * 4);
  }

  /**
   * Wakes a context, from any thread. Costs a system call only if it sleeps.
   *
   * @param signal writes to an eventfd
   * @param link number of the link on which something is new for it, or -1
   * @returns false when it is disposed
   */
  wake(base: number, generation: number, signal: (fd: number) => void, link = -1): boolean {
    const { words } = this;
    // While `users` counts this thread the eventfd stays open; its partner is `close`.
    const users = Atomics.add(words, base + PlaceWord.users, 1);
    try {
      if (users < 0 || Atomics.load(words, base + PlaceWord.generation) !== generation) {
        return false;
      }
      if (link !== -1) {
        Atomics.or(words, base + PlaceWord.links + (link >> 5), 1 << (link & 31));
        Atomics.or(words, base + PlaceWord.groups, 1 << (link >> 5));
      }
      Atomics.store(words, base + PlaceWord.notified, 1);
      if (Atomics.load(words, base + PlaceWord.notifyMe) !== 0) signal(words[base + PlaceWord.fd]);
      return true;
    } finally {
      Atomics.sub(words, base + PlaceWord.users, 1);
    }
  }

  /**
   * Lets no thread begin a wake-up any more, and waits for those that are inside one: what they have
   * set is seen afterwards.
   *
   * @returns false where the place was closed before
   */
  close(base: number): boolean {
    const { words } = this;
    if (Atomics.or(words, base + PlaceWord.users, CLOSED) < 0) return false;
    if (!this.#waitUnused(base)) this.#stuck.add(base);
    return true;
  }

  /**
   * Gives a closed place back.
   *
   * @returns false where a thread never left a wake-up: the eventfd has to stay open, as its number
   *   must not become somebody else's while that one may still write to it
   */
  release(base: number): boolean {
    // Some may just be finding out that it is closed.
    const unused = !this.#stuck.delete(base) && this.#waitUnused(base);
    Atomics.store(this.words, base + PlaceWord.owner, unused ? 0 : RETIRED);
    return unused;
  }

  #waitUnused(base: number): boolean {
    const untilNs = this.#shim.aio_now() + USERS_GONE_NS;
    while ((Atomics.load(this.words, base + PlaceWord.users) & ~CLOSED) !== 0) {
      if (this.#shim.aio_now() > untilNs) return false;
    }
    return true;
  }

  /** The places whose contexts belong to a thread. */
  *placesOf(thread: number): Generator<number> {
    for (let base = 0; base < this.words.length; base += PLACE_WORDS) {
      if (this.owner(base) === thread) yield base;
    }
  }
}
