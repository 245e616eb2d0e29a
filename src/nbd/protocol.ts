/**
 * The words of the NBD protocol (proto.md of NetworkBlockDevice, fixed newstyle): magic numbers,
 * flags, types, and errors as they go over the wire. All numbers there are big-endian.
 */
import { AioError } from "../../mod.ts";

/** Magic numbers; those with 64 bits as two halves. */
export const Magic = {
  nbd: [0x4e42444d, 0x41474943],
  option: [0x49484156, 0x454f5054],
  optionReply: [0x0003e889, 0x045565a9],
  request: 0x25609513,
  extendedRequest: 0x21e41c71,
  simpleReply: 0x67446698,
  structuredReply: 0x668e33ef,
  extendedReply: 0x6e8a278c,
} as const;

/** Bytes of headers. */
export const HeaderBytes = {
  greeting: 18,
  option: 16,
  optionReply: 20,
  request: 28,
  extendedRequest: 32,
  simpleReply: 16,
  structuredReply: 20,
  extendedReply: 32,
} as const;

/** Flags that server and client tell each other first. */
export const HandshakeFlag = { fixedNewstyle: 1, noZeroes: 2 } as const;

/** What an export can do. */
export const TransmissionFlag = {
  hasFlags: 1 << 0,
  readOnly: 1 << 1,
  sendFlush: 1 << 2,
  sendFua: 1 << 3,
  rotational: 1 << 4,
  sendTrim: 1 << 5,
  sendWriteZeroes: 1 << 6,
  sendDf: 1 << 7,
  canMultiConn: 1 << 8,
  sendCache: 1 << 10,
  sendFastZero: 1 << 11,
  blockStatusPayload: 1 << 12,
} as const;

/** Options that a client may ask for. */
export const Option = {
  exportName: 1,
  abort: 2,
  list: 3,
  starttls: 5,
  info: 6,
  go: 7,
  structuredReply: 8,
  listMetaContext: 9,
  setMetaContext: 10,
  extendedHeaders: 11,
} as const;

const ERROR = 0x8000_0000;

/** Answers to options. */
export const OptionReply = {
  ack: 1,
  server: 2,
  info: 3,
  metaContext: 4,
  unsupported: ERROR + 1,
  policy: ERROR + 2,
  invalid: ERROR + 3,
  unknown: ERROR + 6,
  shutdown: ERROR + 7,
  tooBig: ERROR + 9,
  extHeaderRequired: ERROR + 10,
} as const;

/** What is told of an export. */
export const Info = { export: 0, name: 1, description: 2, blockSize: 3 } as const;

/** Commands. */
export const Command = {
  read: 0,
  write: 1,
  disconnect: 2,
  flush: 3,
  trim: 4,
  cache: 5,
  writeZeroes: 6,
  blockStatus: 7,
} as const;

/** Names of the commands, by their numbers. */
export const COMMAND_NAMES: readonly string[] = Object.keys(Command);

/** Flags of commands. */
export const CommandFlag = {
  fua: 1 << 0,
  noHole: 1 << 1,
  df: 1 << 2,
  reqOne: 1 << 3,
  fastZero: 1 << 4,
  payloadLen: 1 << 5,
} as const;

/** This part of a reply is the last. */
export const REPLY_DONE = 1;

/** Types of the parts of a reply. */
export const ReplyType = {
  none: 0,
  offsetData: 1,
  offsetHole: 2,
  blockStatus: 5,
  blockStatusExt: 6,
  error: 0x8001,
} as const;

/** The one metadata context that this server has, and its number. */
export const BASE_ALLOCATION = "base:allocation";
export const BASE_ALLOCATION_ID = 1;

/** What it says of a range. */
export const AllocationFlag = { hole: 1, zero: 2 } as const;

/** Errors, with the numbers of Linux. */
export const NbdErrno = {
  EPERM: 1,
  EIO: 5,
  ENOMEM: 12,
  EINVAL: 22,
  ENOSPC: 28,
  EOVERFLOW: 75,
  ENOTSUP: 95,
  ESHUTDOWN: 108,
} as const;

const KNOWN: readonly number[] = Object.values(NbdErrno);
const EACCES = 13, EFBIG = 27, EROFS = 30, EDQUOT = 122;

/** The error of the protocol for what a device has thrown. */
export function nbdErrnoOf(error: unknown): number {
  // Memory that the engine does not get is a RangeError of its own.
  if (!(error instanceof AioError)) {
    return error instanceof RangeError ? NbdErrno.ENOMEM : NbdErrno.EIO;
  }
  const { errno } = error;
  if (KNOWN.includes(errno)) return errno;
  if (errno === EROFS || errno === EACCES) return NbdErrno.EPERM;
  if (errno === EFBIG || errno === EDQUOT) return NbdErrno.ENOSPC;
  return NbdErrno.EIO;
}

/** A string's most bytes. */
export const STRING_MAX = 4096;

/** Longest payload of a READ or WRITE, which clients are told. */
export const PAYLOAD_MAX = 32 << 20;
