/**
 * The 64 bytes by which a request is described: opcodes, flags and words of an SQE, and of the CQE
 * that answers it.
 *
 * The names are those of io_uring_enter(2). On backends without a ring the shim reads the same
 * bytes. SQEs are filled with 32-bit stores, ten times cheaper than BigInt ones; numbers with more
 * bits are split here. Invariant: an SQE is zeroed before anybody fills it in.
 */
import { RingLayout } from "./layout.ts";

const SQE = RingLayout.io_uring_sqe, CQE = RingLayout.io_uring_cqe;

/** Opcodes this project uses. */
export const SqeOp = {
  nop: 0,
  readv: 1,
  writev: 2,
  fsync: 3,
  readFixed: 4,
  writeFixed: 5,
  pollAdd: 6,
  pollRemove: 7,
  syncFileRange: 8,
  sendmsg: 9,
  recvmsg: 10,
  timeout: 11,
  accept: 13,
  asyncCancel: 14,
  connect: 16,
  fallocate: 17,
  openat: 18,
  close: 19,
  statx: 21,
  read: 22,
  write: 23,
  fadvise: 24,
  send: 26,
  recv: 27,
  shutdown: 34,
  ftruncate: 55,
  /** The shim's own, see shim/execute.c; a ring refuses it. */
  extents: 200,
} as const;

/** Flags of an SQE, as they stand in its first word behind the opcode. */
export const SqeFlag = {
  ioDrain: 1 << 9,
  ioLink: 1 << 10,
  ioHardlink: 1 << 11,
  async: 1 << 12,
} as const;

/** Words of an SQE; those with 64 bits have their upper half in the next word. */
export const SqeWord = {
  /** Shared with the flags, see `SqeFlag`, and with ioprio in the upper half. */
  opcode: SQE.opcode / 4,
  fd: SQE.fd / 4,
  /** Also addr2. */
  off: SQE.off / 4,
  addr: SQE.addr / 4,
  len: SQE.len / 4,
  /** What the opcode has for flags; the events of a poll. */
  opFlags: SQE.poll32_events / 4,
  userData: SQE.user_data / 4,
  /** The number of a registered buffer, in the lower half. */
  bufIndex: SQE.buf_index / 4,
} as const;

/** Words of an SQE altogether. */
export const SQE_WORDS = SQE.sizeof / 4;

/** Words of a CQE. */
export const CqeWord = {
  userData: CQE.user_data / 4,
  res: CQE.res / 4,
  flags: CQE.flags / 4,
} as const;

/** Flags of a CQE. */
export const CqeFlag = { more: 1 << 1 } as const;

const TWO_32 = 2 ** 32;
/** Exact, as a power of two is, and faster than a division. */
const ONE_BY_TWO_32 = 2 ** -32;

/** Stores a whole number of up to 53 bits, which may be negative, in two words. */
export function storeNumber(words: Int32Array, at: number, value: number): void {
  words[at] = value;
  words[at + 1] = Math.floor(value * ONE_BY_TWO_32);
}

/** The number in two words. */
export function loadNumber(words: Int32Array, at: number): number {
  return words[at + 1] * TWO_32 + (words[at] >>> 0);
}
