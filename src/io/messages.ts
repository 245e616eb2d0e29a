/**
 * Messages for sendmsg(2) and recvmsg(2) that are used again: to make one costs more than to send it.
 *
 * Invariant: a message is on the free list exactly while the kernel knows nothing of it.
 */
import { FDS_MAX, Message } from "../../ffi/message.ts";
import { Location } from "./buffers.ts";

/** Free messages that are kept of each size. */
const FREE_MAX = 64;
/** Without fds, and with as many powers of two as it takes to `FDS_MAX`. */
const FDS_KINDS = 2 + sizeOf(FDS_MAX);

/** The messages of one context. */
export class Messages {
  /** For whoever describes memory in a message; of no meaning once others have had a turn. */
  readonly location: Location = new Location();
  /** Free ones by the powers of two of segments and fds that they have room for. */
  readonly #free: Message[][] = [];

  /** An empty message with room for at least so many segments and fds. */
  take(segments: number, fds: number): Message {
    const message = this.#free[kindOf(segments, fds)]?.pop() ?? makeMessage(segments, fds);
    message.clear();
    return message;
  }

  /** Takes a message back once its request is complete. */
  giveBack(message: Message): void {
    const free = this.#free[kindOf(message.segmentsMax, message.fdsMax)] ??= [];
    if (free.length < FREE_MAX) free.push(message);
  }
}

/** Room is made for a power of two of segments, and of fds where there are any. */
function makeMessage(segments: number, fds: number): Message {
  const fdsMax = fds === 0 ? 0 : Math.min(1 << sizeOf(fds), FDS_MAX);
  return new Message(1 << sizeOf(segments), fdsMax);
}

/** Which free list messages with such room are on. */
function kindOf(segments: number, fds: number): number {
  return sizeOf(segments) * FDS_KINDS + (fds === 0 ? 0 : 1 + sizeOf(fds));
}

function sizeOf(count: number): number {
  return 32 - Math.clz32(count - 1);
}
