/**
 * Messages for sendmsg(2) and recvmsg(2) that are used again: to make one costs more than to send it.
 *
 * Those with fds are rare, and made anew each time. Invariant: a message is on the free list exactly
 * while the kernel knows nothing of it.
 */
import { Message } from "../../ffi/message.ts";

/** Free messages that are kept of each size. */
const FREE_MAX = 64;

/** The messages of one context. */
export class Messages {
  /** Free ones by the power of two of segments that they have room for. */
  readonly #free: Message[][] = [];

  /** An empty message with room for at least so many segments. */
  take(segments: number, fdsMax: number): Message {
    if (fdsMax !== 0) return new Message(segments, fdsMax);
    const size = sizeOf(segments);
    const message = this.#free[size]?.pop() ?? new Message(1 << size, 0);
    message.clear();
    return message;
  }

  /** Takes a message back once its request is complete. */
  giveBack(message: Message): void {
    if (message.fdsMax !== 0) return;
    const free = this.#free[sizeOf(message.segmentsMax)] ??= [];
    if (free.length < FREE_MAX) free.push(message);
  }
}

function sizeOf(segments: number): number {
  return 32 - Math.clz32(segments - 1);
}
