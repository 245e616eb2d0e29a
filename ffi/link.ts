/**
 * Links: memory through which two contexts of the process pass messages, one ring for each
 * direction.
 *
 * The client takes a free link and writes down whose it is; the server learns of it from the first
 * bit the client sets for it. A ring has one writer and one reader, so nobody waits for a lock, and
 * a thread that is killed in the middle of a message leaves nothing half done: what is not published
 * is not there. Who owns which word of the head:
 *
 * - `state`: bits HELD_BY_CLIENT and HELD_BY_SERVER, which each side takes away for itself, or
 *   whoever finds it dead; SETTING_UP while the client writes the next four, and while the last to
 *   let go gives the memory back; above them a number that changes with each pair, so that a late
 *   hand cannot touch the link of others. 0 bits: free.
 * - the places and generations of both: the client's, before the state says HELD.
 * - for each ring: `tail`, the writer's, stored after the message it publishes; `head`, the reader's,
 *   stored after it has taken what it frees; `waits`, set by a writer that found the ring full and
 *   then looks at `head` again, cleared by the reader, which looks at it after storing `head`.
 *
 * All of these are accessed by Atomics, sequentially consistent, where the other side writes them.
 */
import { AioError, Errno } from "./errno.ts";
import { mapWords } from "./memory.ts";
import type { Shim } from "./shim_symbols.ts";

/** Links there can be. */
export const LINKS = 992;
/** Words of one head. */
const HEAD_WORDS = 128;
const HEADS_BYTES = LINKS * HEAD_WORDS * 4;
/** Bytes of one ring. */
export const LINK_RING = 65_536;

/** The sides of a link: who made it, and who serves. */
export const LinkSide = { client: 1, server: 2 } as const;
/** One of them. */
export type LinkSide = typeof LinkSide[keyof typeof LinkSide];
const SETTING_UP = 4;
const ALL_BITS = 7;
const NUMBER_SHIFT = 3;

/** Words of a head, from its first one; a cache line for each writer. */
const LinkWord = { state: 0, client: 16, server: 18 } as const;
/** A context, from one of those. */
const ContextWord = { place: 0, generation: 1 } as const;
/** First words of the rings in a head. */
const REQUESTS = 32, REPLIES = 80;
/** Words of a ring, from its first one. */
const RingWord = { tail: 0, head: 16, waits: 32 } as const;

/** A message's first words; its length counts them, and is a multiple of 8. */
export const MessageWord = { length: 0, kind: 1, call: 2, name: 3, words: 4 } as const;
/** Bytes of them. */
export const MESSAGE_HEAD = MessageWord.words * 4;
/** Longest message, so that two fit into a ring wherever the first one begins. */
export const MESSAGE_MAX = LINK_RING / 4;
/** Kind of what fills a ring's end up, where a message would not fit. */
const PADDING = 0;

/** The links of the process, as this isolate sees them. */
export class Links {
  readonly #shim: Shim;
  readonly #base: bigint;
  /** The heads of all. */
  readonly #heads: Int32Array<ArrayBuffer>;
  readonly #open: (Link | undefined)[] = [];
  #next = 0;

  constructor(shim: Shim) {
    this.#shim = shim;
    const memory = shim.aio_links();
    if (memory === null) throw new AioError("Cannot link contexts", "mmap", Errno.ENOMEM);
    this.#base = Deno.UnsafePointer.value(memory);
    this.#heads = mapWords(this.#base, HEADS_BYTES / 4);
  }

  /** One of them. */
  at(index: number): Link {
    return this.#open[index] ??= new Link(index, this.#heads, this.#base);
  }

  /**
   * Takes a free link.
   *
   * @throws {AioError} when there is none
   */
  claim(client: PlaceOfContext, server: PlaceOfContext): Link {
    for (let tries = 0; tries < LINKS; tries++) {
      const link = this.at((this.#next + tries) % LINKS);
      if (!link.claim(client, server)) continue;
      this.#next = link.index + 1;
      return link;
    }
    throw new AioError(
      "Cannot link contexts",
      "claim",
      Errno.ENOSPC,
      `this process has ${LINKS} links already: close some peers`,
    );
  }

  /** Lets go of a link for one side; the memory of its messages is given back with the last. */
  release(link: Link, side: LinkSide, number: number): void {
    if (!link.letGo(side, number)) return;
    // Nobody can have taken the link yet, whose messages would be wiped out.
    this.#shim.aio_link_release(link.index);
    link.free(number);
  }

  /** Those of which a context holds a side. */
  *of(context: PlaceOfContext): Generator<Link> {
    for (let index = 0; index < LINKS; index++) {
      const state = Atomics.load(this.#heads, index * HEAD_WORDS + LinkWord.state);
      if ((state & ALL_BITS) !== 0 && this.at(index).sideOf(context) !== 0) yield this.at(index);
    }
  }
}

/** A context by its place on the board and its generation there. */
export interface PlaceOfContext {
  readonly place: number;
  readonly generation: number;
}

/** One link. */
export class Link {
  readonly index: number;
  /** The heads of all links, and where its own begins. */
  readonly #words: Int32Array<ArrayBuffer>;
  readonly #head: number;
  readonly #base: bigint;
  #rings: ArrayBuffer | null = null;

  constructor(index: number, heads: Int32Array<ArrayBuffer>, base: bigint) {
    this.index = index;
    this.#words = heads;
    this.#head = index * HEAD_WORDS;
    this.#base = base;
  }

  /** Which pair has it now, or had it last. */
  get number(): number {
    return this.#state >>> NUMBER_SHIFT;
  }

  /** Whether a side holds it, as one of that pair. */
  isHeldBy(side: LinkSide, number: number): boolean {
    const state = this.#state;
    return (state & side) !== 0 && state >>> NUMBER_SHIFT === number;
  }

  /** Takes it if it is free. */
  claim(client: PlaceOfContext, server: PlaceOfContext): boolean {
    const old = this.#state;
    if ((old & ALL_BITS) !== 0) return false;
    const number = (old >>> NUMBER_SHIFT) + 1 << NUMBER_SHIFT;
    const words = this.#words, state = this.#head + LinkWord.state;
    if (Atomics.compareExchange(words, state, old, number | SETTING_UP) !== old) return false;
    this.#write(LinkWord.client, client);
    this.#write(LinkWord.server, server);
    for (const ring of [REQUESTS, REPLIES]) {
      for (const word of Object.values(RingWord)) words[this.#head + ring + word] = 0;
    }
    Atomics.store(words, state, number | LinkSide.client | LinkSide.server);
    return true;
  }

  /**
   * Which side of it a context holds, if any.
   *
   * @returns the side, or 0
   */
  sideOf({ place, generation }: PlaceOfContext): LinkSide | 0 {
    const state = this.#state;
    for (const side of [LinkSide.client, LinkSide.server] as const) {
      const context = this.#read(side === LinkSide.client ? LinkWord.client : LinkWord.server);
      if ((state & side) === 0) continue;
      if (context.place !== place || context.generation !== generation) continue;
      // It may have been given to others between the two looks.
      if (this.number === state >>> NUMBER_SHIFT) return side;
    }
    return 0;
  }

  /**
   * Takes a side's bit away, of that pair.
   *
   * @returns true when it was there and the last: the caller has to clear up and to call `free`
   */
  letGo(side: LinkSide, number: number): boolean {
    const word = this.#head + LinkWord.state;
    for (;;) {
      const old = this.#state;
      if ((old & side) === 0 || old >>> NUMBER_SHIFT !== number) return false;
      const last = (old & ALL_BITS) === side;
      const left = last ? old & ~ALL_BITS | SETTING_UP : old & ~side;
      if (Atomics.compareExchange(this.#words, word, old, left) === old) return last;
    }
  }

  /** Lets anybody have it. */
  free(number: number): void {
    Atomics.store(this.#words, this.#head + LinkWord.state, number << NUMBER_SHIFT);
  }

  /** The context on the other side. */
  partner(side: LinkSide): PlaceOfContext {
    return this.#read(side === LinkSide.client ? LinkWord.server : LinkWord.client);
  }

  /** The ring that a side writes. */
  writer(side: LinkSide): MessageWriter {
    const ring = this.#head + (side === LinkSide.client ? REQUESTS : REPLIES);
    return new MessageWriter(this.#words, ring, this.#viewsOf(side === LinkSide.client));
  }

  /** The ring that a side reads. */
  reader(side: LinkSide): MessageReader {
    const ring = this.#head + (side === LinkSide.client ? REPLIES : REQUESTS);
    return new MessageReader(this.#words, ring, this.#viewsOf(side !== LinkSide.client));
  }

  get #state(): number {
    return Atomics.load(this.#words, this.#head + LinkWord.state);
  }

  #read(at: number): PlaceOfContext {
    const first = this.#head + at;
    // Neither may be read later than the state that is looked at afterwards.
    return {
      place: Atomics.load(this.#words, first + ContextWord.place),
      generation: Atomics.load(this.#words, first + ContextWord.generation),
    };
  }

  #write(at: number, { place, generation }: PlaceOfContext): void {
    const first = this.#head + at;
    this.#words[first + ContextWord.place] = place;
    this.#words[first + ContextWord.generation] = generation;
  }

  #viewsOf(requests: boolean): RingViews {
    const rings = this.#rings ??= Deno.UnsafePointerView.getArrayBuffer(
      Deno.UnsafePointer.create(this.#base + BigInt(HEADS_BYTES + this.index * 2 * LINK_RING))!,
      2 * LINK_RING,
    );
    const at = requests ? 0 : LINK_RING;
    return {
      i32: new Int32Array(rings, at, LINK_RING / 4),
      f64: new Float64Array(rings, at, LINK_RING / 8),
      u8: new Uint8Array(rings, at, LINK_RING),
    };
  }
}

/** The memory of a ring, as words of each kind. */
export interface RingViews {
  readonly i32: Int32Array<ArrayBuffer>;
  readonly f64: Float64Array<ArrayBuffer>;
  readonly u8: Uint8Array<ArrayBuffer>;
}

/**
 * The writing end of a ring. Positions are bytes written since the beginning and wrap at 2^32.
 */
export class MessageWriter {
  readonly views: RingViews;
  readonly #words: Int32Array<ArrayBuffer>;
  readonly #tailWord: number;
  readonly #headWord: number;
  readonly #waitsWord: number;
  #tail = 0;
  /** As far as is known. */
  #head = 0;

  constructor(words: Int32Array<ArrayBuffer>, ring: number, views: RingViews) {
    this.#words = words;
    this.views = views;
    this.#tailWord = ring + RingWord.tail;
    this.#headWord = ring + RingWord.head;
    this.#waitsWord = ring + RingWord.waits;
  }

  /**
   * Finds room for a message.
   *
   * @param bytes its length, a multiple of 8, at most MESSAGE_MAX
   * @returns index of its first byte, or -1 where the ring is full
   */
  reserve(bytes: number): number {
    const at = this.#tail & LINK_RING - 1;
    const left = LINK_RING - at;
    const needed = bytes <= left ? bytes : left + bytes;
    if (this.#free() < needed) {
      this.#head = Atomics.load(this.#words, this.#headWord);
      if (this.#free() < needed) return -1;
    }
    if (bytes <= left) return at;
    this.views.i32[at / 4 + MessageWord.length] = left;
    this.views.i32[at / 4 + MessageWord.kind] = PADDING;
    this.#tail = this.#tail + left | 0;
    return 0;
  }

  /** Publishes the message that was written where `reserve` said. */
  publish(bytes: number): void {
    this.#tail = this.#tail + bytes | 0;
    Atomics.store(this.#words, this.#tailWord, this.#tail);
  }

  /** Asks the reader to say when it has made room; there may be some by now. */
  askForRoom(): void {
    Atomics.store(this.#words, this.#waitsWord, 1);
  }

  #free(): number {
    return LINK_RING - (this.#tail - this.#head | 0);
  }
}

/** The reading end of a ring. */
export class MessageReader {
  readonly views: RingViews;
  readonly #words: Int32Array<ArrayBuffer>;
  readonly #tailWord: number;
  readonly #headWord: number;
  readonly #waitsWord: number;
  #head = 0;
  /** As far as is known. */
  #tail = 0;

  constructor(words: Int32Array<ArrayBuffer>, ring: number, views: RingViews) {
    this.#words = words;
    this.views = views;
    this.#tailWord = ring + RingWord.tail;
    this.#headWord = ring + RingWord.head;
    this.#waitsWord = ring + RingWord.waits;
  }

  /**
   * The next message; `take` is to be called when it has been read.
   *
   * @returns index of its first byte, or -1 where there is none
   */
  next(): number {
    for (;;) {
      if (this.#head === this.#tail) {
        this.#tail = Atomics.load(this.#words, this.#tailWord);
        if (this.#head === this.#tail) return -1;
      }
      const at = this.#head & LINK_RING - 1;
      if (this.views.i32[at / 4 + MessageWord.kind] !== PADDING) return at;
      this.#head = this.#head + this.views.i32[at / 4 + MessageWord.length] | 0;
    }
  }

  /** Whether there is another message, or padding. */
  get hasNext(): boolean {
    if (this.#head !== this.#tail) return true;
    this.#tail = Atomics.load(this.#words, this.#tailWord);
    return this.#head !== this.#tail;
  }

  /** Goes on behind a message. */
  take(at: number): void {
    this.#head = this.#head + this.views.i32[at / 4 + MessageWord.length] | 0;
  }

  /**
   * Gives the room of what was taken to the writer.
   *
   * @returns whether the writer waits for it and has to be told
   */
  free(): boolean {
    Atomics.store(this.#words, this.#headWord, this.#head);
    return Atomics.load(this.#words, this.#waitsWord) !== 0 &&
      Atomics.exchange(this.#words, this.#waitsWord, 0) !== 0;
  }
}
