/**
 * Memory of a server's connections: for payloads, and to receive into.
 *
 * It is all of `ctx.buffers`, so that the kernel gets it without a copy, and belongs to whoever has
 * taken it; a connection that is idle has one small buffer to wait with. Payloads begin at a page, as
 * O_DIRECT wants it, and the header of the reply stands right before, so that both are sent as one.
 * What is free is used again; what nobody has needed for a second is left to garbage collection.
 */
import type { AioContext, Timer } from "../../mod.ts";

/** Room for headers before a payload. */
export const HEADER_ROOM = 4096;
/** Payloads have sizes of powers of two, from this one on. */
const PAYLOAD_MIN = 4096;

/** What an idle connection waits with: room for a header and the payload of a small write. */
const SMALL_BYTES = 4096 + 64;
/** For what does not fit in there. */
const LARGE_BYTES = 1 << 18;

/** Memory for one payload. */
export class Payload {
  /** Everything: `HEADER_ROOM` and the payload. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly view: DataView;
  /** Its size is that power of two. */
  readonly sizeClass: number;
  /** Most requests are as long as the one before: the views of that are used again. */
  #data: Uint8Array<ArrayBuffer>;
  #sent: Uint8Array<ArrayBuffer>;

  constructor(bytes: Uint8Array<ArrayBuffer>, sizeClass: number) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    this.sizeClass = sizeClass;
    this.#data = this.#sent = bytes.subarray(HEADER_ROOM, HEADER_ROOM);
  }

  /** The first bytes of the payload. */
  data(length: number): Uint8Array<ArrayBuffer> {
    if (this.#data.length !== length) {
      this.#data = this.bytes.subarray(HEADER_ROOM, HEADER_ROOM + length);
    }
    return this.#data;
  }

  /** So many bytes before the payload, and the first of the payload. */
  withHeader(headerLength: number, length: number): Uint8Array<ArrayBuffer> {
    const { length: sentLength, byteOffset } = this.#sent;
    const start = this.bytes.byteOffset + HEADER_ROOM - headerLength;
    if (sentLength !== headerLength + length || byteOffset !== start) {
      this.#sent = this.bytes.subarray(HEADER_ROOM - headerLength, HEADER_ROOM + length);
    }
    return this.#sent;
  }
}

/** Memory to receive into. It is shared by the connection and by writes whose payloads are in it. */
export class ReceiveBuffer {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly view: DataView;
  /** Who uses it. */
  users = 0;

  constructor(bytes: Uint8Array<ArrayBuffer>) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  }

  /** Nothing but a small request fits in. */
  get small(): boolean {
    return this.bytes.length === SMALL_BYTES;
  }
}

/** Free memory of one kind, of which only what was in use lately is kept. */
class FreeList<Item> {
  readonly #items: Item[] = [];
  /** The fewest there were since the last look: so many nobody has needed. */
  #unneeded = 0;

  take(): Item | undefined {
    const item = this.#items.pop();
    if (this.#items.length < this.#unneeded) this.#unneeded = this.#items.length;
    return item;
  }

  give(item: Item): void {
    this.#items.push(item);
  }

  /** Lets go of what nobody has needed; returns whether any are left. */
  trim(): boolean {
    this.#items.length -= this.#unneeded;
    this.#unneeded = this.#items.length;
    return this.#items.length !== 0;
  }
}

const TRIM_INTERVAL_NS = 1e9;

/** The memory of one server. */
export class NbdMemory {
  readonly #ctx: AioContext;
  readonly #payloads: FreeList<Payload>[] = [];
  readonly #small = new FreeList<ReceiveBuffer>();
  readonly #large = new FreeList<ReceiveBuffer>();
  readonly #trimTimer: Timer;
  #timed = false;

  constructor(ctx: AioContext) {
    this.#ctx = ctx;
    this.#trimTimer = ctx.timer(() => this.#trim());
  }

  /** What a payload of a length takes. */
  static bytesFor(length: number): number {
    return HEADER_ROOM + (PAYLOAD_MIN << sizeClassOf(length));
  }

  /** Memory for a payload, to be given back. */
  takePayload(length: number): Payload {
    const sizeClass = sizeClassOf(length);
    const free = this.#payloads[sizeClass]?.take();
    if (free !== undefined) return free;
    const bytes = HEADER_ROOM + (PAYLOAD_MIN << sizeClass);
    return new Payload(this.#ctx.buffers.allocate(bytes), sizeClass);
  }

  givePayload(payload: Payload): void {
    (this.#payloads[payload.sizeClass] ??= new FreeList()).give(payload);
    if (!this.#timed) this.#startTimer();
  }

  /** Memory to receive into, with one user. */
  takeReceiveBuffer(small: boolean): ReceiveBuffer {
    const list = small ? this.#small : this.#large;
    let buffer = list.take();
    if (buffer === undefined) {
      // A cache line is alignment enough: a page would nearly double what is small.
      const bytes = this.#ctx.buffers.allocate(small ? SMALL_BYTES : LARGE_BYTES, {
        alignment: 64,
      });
      buffer = new ReceiveBuffer(bytes);
    }
    buffer.users = 1;
    return buffer;
  }

  /** One user less. */
  release(buffer: ReceiveBuffer): void {
    if (--buffer.users !== 0) return;
    (buffer.small ? this.#small : this.#large).give(buffer);
    if (!this.#timed) this.#startTimer();
  }

  /** Nothing is going to be used again. */
  close(): void {
    this.#trimTimer.cancel();
    // For good: what comes back from now on must not arm it.
    this.#timed = true;
  }

  #startTimer(): void {
    this.#timed = true;
    this.#trimTimer.arm(this.#ctx.now() + TRIM_INTERVAL_NS);
  }

  #trim(): void {
    this.#timed = false;
    let left = this.#small.trim();
    left = this.#large.trim() || left;
    for (const list of this.#payloads) left = (list?.trim() ?? false) || left;
    if (left) this.#startTimer();
  }
}

function sizeClassOf(length: number): number {
  return length <= PAYLOAD_MIN ? 0 : 32 - Math.clz32((length - 1) >>> 12);
}
