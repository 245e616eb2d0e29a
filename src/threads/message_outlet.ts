/**
 * The sending end of a link: writes messages into the ring and tells the partner, and keeps in order
 * what does not fit.
 *
 * A ring takes short messages as they are. A long one is cut into parts, and what the ring has no
 * room for waits in the backlog until the reader has made some; nothing overtakes it. Who fills the
 * backlog bounds it: one-way messages are accepted only while it is empty, calls and replies are as
 * many as calls may be outstanding.
 */
import { type Board, PlaceWord } from "../../ffi/board.ts";
import {
  type Link,
  type LinkSide,
  MESSAGE_HEAD,
  MESSAGE_MAX,
  MessageWord,
  type MessageWriter,
  type PlaceOfContext,
} from "../../ffi/link.ts";

/** What a message is. 0 is none. */
export const MessageKind = {
  call: 1,
  send: 2,
  name: 3,
  result: 4,
  error: 5,
  part: 6,
} as const;

/** How its values are written. */
export const MessageFormat = { numbers: 0, encoded: 1, parts: 2 } as const;

/** The word of the kind: kind, format, number of values. */
export const KIND_BITS = 4, FORMAT_BITS = 4;
/** Most values of a message. */
export const VALUES_MAX = 2 ** 16;

const PART_BYTES = MESSAGE_MAX - MESSAGE_HEAD;

/** What an outlet needs of its context. */
export interface OutletParts {
  readonly board: Board;
  readonly signal: (fd: number) => void;
}

/** Sends messages to the partner of a link. */
export class MessageOutlet {
  readonly partner: PlaceOfContext;
  readonly #parts: OutletParts;
  readonly #link: Link;
  readonly #writer: MessageWriter;
  /** Where the partner's bit of this link is. */
  readonly #bitWord: number;
  readonly #bit: number;
  readonly #backlog: Uint8Array[] = [];
  #drained: PromiseWithResolvers<void> | null = null;

  constructor(parts: OutletParts, link: Link, side: LinkSide) {
    this.#parts = parts;
    this.#link = link;
    this.#writer = link.writer(side);
    this.partner = link.partner(side);
    this.#bitWord = this.partner.place + PlaceWord.links + (link.index >> 5);
    this.#bit = 1 << (link.index & 31);
  }

  /** Whether something waits for room in the ring. */
  get backlogged(): boolean {
    return this.#backlog.length !== 0;
  }

  /** Sends numbers. */
  numbers(kind: number, call: number, name: number, values: readonly number[]): void {
    const { length } = values;
    const bytes = MESSAGE_HEAD + length * 8;
    const at = bytes <= MESSAGE_MAX && this.#backlog.length === 0
      ? this.#writer.reserve(bytes)
      : -1;
    if (at === -1) {
      const copy = new Uint8Array(Float64Array.from(values).buffer);
      return this.#keep(kind, MessageFormat.numbers, call, name, length, copy);
    }
    const { i32, f64 } = this.#writer.views;
    const word = at >> 2;
    i32[word + MessageWord.length] = bytes;
    i32[word + MessageWord.kind] = kind | length << KIND_BITS + FORMAT_BITS;
    i32[word + MessageWord.call] = call;
    i32[word + MessageWord.name] = name;
    const first = at + MESSAGE_HEAD >> 3;
    for (let index = 0; index < length; index++) f64[first + index] = values[index];
    this.#writer.publish(bytes);
    this.#tell();
  }

  /** Sends values that are encoded; the bytes are copied. */
  encoded(kind: number, call: number, name: number, count: number, values: Uint8Array): void {
    const bytes = MESSAGE_HEAD + paddedLength(values.length);
    if (bytes > MESSAGE_MAX || this.#backlog.length !== 0) {
      return this.#keep(kind, MessageFormat.encoded, call, name, count, values);
    }
    const at = this.#writer.reserve(bytes);
    if (at === -1) return this.#keep(kind, MessageFormat.encoded, call, name, count, values);
    this.#writer.views.u8.set(values, at + MESSAGE_HEAD);
    const { i32 } = this.#writer.views;
    const word = at >> 2;
    i32[word + MessageWord.length] = bytes;
    i32[word + MessageWord.kind] = kind | MessageFormat.encoded << KIND_BITS |
      count << KIND_BITS + FORMAT_BITS;
    i32[word + MessageWord.call] = call;
    i32[word + MessageWord.name] = name;
    this.#writer.publish(bytes);
    this.#tell();
  }

  /** Writes what waits, as far as there is room. */
  flush(): void {
    let sent = 0;
    for (; sent < this.#backlog.length; sent++) {
      const message = this.#backlog[sent];
      let at = this.#writer.reserve(message.length);
      if (at === -1) {
        // The reader may have made room before it was asked to tell.
        this.#writer.askForRoom();
        at = this.#writer.reserve(message.length);
        if (at === -1) break;
      }
      this.#writer.views.u8.set(message, at);
      this.#writer.publish(message.length);
    }
    if (sent === 0) return;
    this.#backlog.splice(0, sent);
    this.#tell();
    if (this.#backlog.length !== 0) return;
    this.#drained?.resolve();
    this.#drained = null;
  }

  /** Settles once nothing waits for room. */
  drained(): Promise<void> {
    if (!this.backlogged) return Promise.resolve();
    return (this.#drained ??= Promise.withResolvers<void>()).promise;
  }

  /** Tells the partner that there is something new, or room. */
  tell(): void {
    const { board, signal } = this.#parts;
    board.wake(this.partner.place, this.partner.generation, signal, this.#link.index);
  }

  /** Nothing is sent any more. */
  end(error: Error): void {
    this.#backlog.length = 0;
    // Whoever waits for room is told; nobody may, which is no failure of its own.
    this.#drained?.promise.catch(() => {});
    this.#drained?.reject(error);
    this.#drained = null;
  }

  #tell(): void {
    // While the bit is set the partner has yet to look, or another message has told it.
    if ((Atomics.load(this.#parts.board.words, this.#bitWord) & this.#bit) === 0) this.tell();
  }

  /** Keeps a message back, in parts where it is long. */
  #keep(
    kind: number,
    format: number,
    call: number,
    name: number,
    count: number,
    values: Uint8Array,
  ): void {
    let done = 0;
    let last: number = format;
    // Numbers in parts are encoded on the other side as they are here: in eights of bytes.
    for (; values.length - done > PART_BYTES; done += PART_BYTES) {
      const part = values.subarray(done, done + PART_BYTES);
      this.#backlog.push(formatted(MessageKind.part, 0, 0, 0, 0, part));
      last = format | MessageFormat.parts;
    }
    this.#backlog.push(formatted(kind, last, call, name, count, values.subarray(done)));
    this.flush();
  }
}

/** A whole message, as it will stand in the ring. */
function formatted(
  kind: number,
  format: number,
  call: number,
  name: number,
  count: number,
  values: Uint8Array,
): Uint8Array {
  const bytes = new Uint8Array(MESSAGE_HEAD + paddedLength(values.length));
  bytes.set(values, MESSAGE_HEAD);
  const words = new Int32Array(bytes.buffer, 0, MessageWord.words);
  words[MessageWord.length] = bytes.length;
  words[MessageWord.kind] = kind | format << KIND_BITS | count << KIND_BITS + FORMAT_BITS;
  words[MessageWord.call] = call;
  words[MessageWord.name] = name;
  return bytes;
}

function paddedLength(bytes: number): number {
  return Math.ceil(bytes / 8) * 8;
}
