/**
 * Headers of replies, in the three forms that a connection can have agreed on.
 *
 * Simple replies are a header and, for READ, the data. Structured ones come in chunks, of which only
 * READ and BLOCK_STATUS need more than one; extended ones have the same chunks behind a header that
 * is longer, and nothing else.
 */
import { HeaderBytes, Magic } from "./protocol.ts";

/** Form of the replies. */
export type ReplyForm = "simple" | "structured" | "extended";

/** The words of a request by which its client knows it. */
export interface RequestIdentity {
  readonly cookieHigh: number;
  readonly cookieLow: number;
  /** As it came, which may be none that there is. */
  readonly offsetHigh: number;
  readonly offsetLow: number;
}

const TWO_32 = 2 ** 32;

/** Stores a whole number of up to 53 bits. */
export function storeU64(view: DataView, at: number, value: number): void {
  view.setUint32(at, Math.floor(value / TWO_32));
  view.setUint32(at + 4, value % TWO_32);
}

/** Bytes of the header of a chunk. */
export function chunkHeaderBytes(form: ReplyForm): number {
  return form === "extended" ? HeaderBytes.extendedReply : HeaderBytes.structuredReply;
}

/** Stores a simple reply's header. */
export function storeSimple(
  view: DataView,
  at: number,
  { cookieHigh, cookieLow }: RequestIdentity,
  errno: number,
): void {
  view.setUint32(at, Magic.simpleReply);
  view.setUint32(at + 4, errno);
  view.setUint32(at + 8, cookieHigh);
  view.setUint32(at + 12, cookieLow);
}

/** Stores the header of a chunk with `length` bytes behind it. */
export function storeChunk(
  view: DataView,
  at: number,
  form: ReplyForm,
  { cookieHigh, cookieLow, offsetHigh, offsetLow }: RequestIdentity,
  flags: number,
  type: number,
  length: number,
): void {
  const extended = form === "extended";
  view.setUint32(at, extended ? Magic.extendedReply : Magic.structuredReply);
  view.setUint16(at + 4, flags);
  view.setUint16(at + 6, type);
  view.setUint32(at + 8, cookieHigh);
  view.setUint32(at + 12, cookieLow);
  if (!extended) return view.setUint32(at + 16, length);
  view.setUint32(at + 16, offsetHigh);
  view.setUint32(at + 20, offsetLow);
  storeU64(view, at + 24, length);
}
