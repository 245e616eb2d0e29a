/**
 * What a client sends, as a buffer of bytes that are there and ways to get more.
 *
 * Waiting takes the small buffer alone, so an idle connection holds no more than that. Where a
 * receive has filled it there is more to be had: then a large one takes all there is, without
 * waiting, and is given up when it has been read. Parts that are handed out keep their buffer from
 * being used again. Invariant: `start..end` of the current buffer is received and not read.
 */
import type { AioContext, AioSocket } from "../../mod.ts";
import type { NbdMemory, ReceiveBuffer } from "./memory.ts";
import type { NbdCounters } from "./stats.ts";

const MSG_DONTWAIT = 0x40;
const EAGAIN = 11, EINTR = 4;

/** Bytes from one connection. */
export class NbdInput {
  readonly #ctx: AioContext;
  readonly #socket: AioSocket;
  readonly #memory: NbdMemory;
  readonly #counters: NbdCounters;
  #buffer: ReceiveBuffer;
  /** The next byte to be read, in `view`. */
  start = 0;
  #end = 0;

  constructor(ctx: AioContext, socket: AioSocket, memory: NbdMemory, counters: NbdCounters) {
    this.#ctx = ctx;
    this.#socket = socket;
    this.#memory = memory;
    this.#counters = counters;
    this.#buffer = memory.takeReceiveBuffer(true);
  }

  /** What is received, from `start` on. */
  get view(): DataView {
    return this.#buffer.view;
  }

  /** Bytes that can be read. */
  get available(): number {
    return this.#end - this.start;
  }

  /** The current buffer, for who keeps a part of it. */
  get buffer(): ReceiveBuffer {
    return this.#buffer;
  }

  /** There may be more that has been sent already. */
  get full(): boolean {
    return this.#end === this.#buffer.bytes.length;
  }

  /** A part of the current buffer, as long as `users` says that somebody has it. */
  take(length: number): Uint8Array<ArrayBuffer> {
    const at = this.start;
    this.start = at + length;
    return this.#buffer.bytes.subarray(at, at + length);
  }

  /**
   * Receives more, behind what has not been read, which may move: it has to be short.
   *
   * @returns false at the end
   */
  async fill(): Promise<boolean> {
    if (this.full && this.#end !== 0) {
      const count = await this.#receiveLarge();
      if (count >= 0) return count !== 0;
    }
    this.#moveTo(this.#buffer.small && this.#buffer.users === 1 ? this.#buffer : null);
    const { bytes } = this.#buffer;
    const end = this.#end;
    const count = await this.#socket.recv(end === 0 ? bytes : bytes.subarray(end));
    this.#counters.receives++;
    this.#end = end + count;
    return count !== 0;
  }

  /** Receives what is there; returns -1 where nothing is, 0 at the end. */
  async #receiveLarge(): Promise<number> {
    const memory = this.#memory, left = this.available;
    const large = memory.takeReceiveBuffer(false);
    const into = left === 0 ? large.bytes : large.bytes.subarray(left);
    const { fd } = this.#socket;
    const result = await new Promise<number>((resolve) => {
      this.#ctx.addSqe((sqe) => sqe.recv(fd, into, MSG_DONTWAIT), resolve);
    });
    this.#counters.receives++;
    if (result <= 0) {
      memory.release(large);
      // What else is wrong the receive that waits is going to say.
      return result === 0 || (result !== -EAGAIN && result !== -EINTR) ? result : -1;
    }
    large.bytes.set(this.#buffer.bytes.subarray(this.start, this.#end));
    memory.release(this.#buffer);
    this.#buffer = large;
    this.start = 0;
    this.#end = left + result;
    return result;
  }

  /** Has what was not read at the beginning of a buffer; null: of a small one that is free. */
  #moveTo(target: ReceiveBuffer | null): void {
    const old = this.#buffer, left = this.available;
    const buffer = target ?? this.#memory.takeReceiveBuffer(true);
    if (left !== 0) buffer.bytes.set(old.bytes.subarray(this.start, this.#end));
    if (buffer !== old) this.#memory.release(old);
    this.#buffer = buffer;
    this.start = 0;
    this.#end = left;
  }

  /** Reads so many bytes into memory of its own; null at the end. */
  async read(length: number): Promise<Uint8Array<ArrayBuffer> | null> {
    const bytes = new Uint8Array(length);
    for (let done = 0; done < length;) {
      if (this.available === 0 && !await this.fill()) return null;
      const part = this.take(Math.min(length - done, this.available));
      bytes.set(part, done);
      done += part.length;
    }
    return bytes;
  }

  /** Receives all of a buffer, past the one here, which has to be empty; false at the end. */
  async receiveInto(bytes: Uint8Array<ArrayBuffer>): Promise<boolean> {
    for (let done = 0; done < bytes.length;) {
      const count = await this.#socket.recv(done === 0 ? bytes : bytes.subarray(done));
      this.#counters.receives++;
      if (count === 0) return false;
      done += count;
    }
    return true;
  }

  /** Reads and forgets; false at the end. */
  async skip(length: number): Promise<boolean> {
    for (let left = length; left > 0;) {
      if (this.available === 0 && !await this.fill()) return false;
      const count = Math.min(left, this.available);
      this.start += count;
      left -= count;
    }
    return true;
  }

  /** Gives the buffer back. */
  close(): void {
    this.#memory.release(this.#buffer);
  }
}
