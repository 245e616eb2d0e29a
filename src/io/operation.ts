/**
 * The operations that requests with promises make, as tables, and what goes with each request.
 */
import { Errno } from "../../ffi/errno.ts";
import { SqeOp } from "../../ffi/sqe.ts";
import { PollEvent } from "../../ffi/system.ts";

const RWF_DSYNC = 2;

/** Options of a single request. */
export interface RequestOptions {
  /** Cancels the request: it rejects with the signal's reason, unless it is complete before. */
  signal?: AbortSignal;
}

/** Options of a request that writes to a file. */
export interface WriteOptions extends RequestOptions {
  /** It is complete once the data is on the disk, as after `fdatasync` (RWF_DSYNC). */
  dataSync?: boolean;
}

/** What an operation is called in errors, and what it waits for where its fd does not block. */
export interface Operation {
  readonly opcode: number;
  /** The same with memory that the ring knows; -1 where there is none. */
  readonly fixedOpcode: number;
  /** The system call, as `"pread"`. */
  readonly syscall: string;
  /** What cannot be done, as `"read"`. */
  readonly verb: string;
  /** Events that end an EAGAIN; 0 where that is an error like others. */
  readonly events: number;
  /** The kernel writes to the memory. */
  readonly fills: boolean;
  /** It may have to wait for a disk. */
  readonly disk: boolean;
  /** It goes on until all is transferred. */
  readonly all: boolean;
}

/** Words of an SQE, and what goes with them. */
export interface RequestWords {
  /** The owner's, where not given. */
  fd?: number;
  off?: number;
  address?: number;
  len?: number;
  opFlags?: number;
  /** Keeps the memory alive that `address`, or something else here, points into. */
  memory?: unknown;
  /** What the request is about, in errors; its fd where not given. */
  subject?: string;
}

/** Operations on files. */
export const FileOperation = {
  read: {
    ...operation(SqeOp.read, "read", "read", PollEvent.in, true),
    fixedOpcode: SqeOp.readFixed,
  },
  write: {
    ...operation(SqeOp.write, "write", "write", PollEvent.out),
    fixedOpcode: SqeOp.writeFixed,
  },
  readv: operation(SqeOp.readv, "readv", "read", PollEvent.in, true),
  writev: operation(SqeOp.writev, "writev", "write", PollEvent.out),
  fsync: operation(SqeOp.fsync, "fsync", "sync"),
  fallocate: operation(SqeOp.fallocate, "fallocate", "allocate room in"),
  ftruncate: operation(SqeOp.ftruncate, "ftruncate", "truncate"),
  statx: operation(SqeOp.statx, "statx", "stat"),
  extents: operation(SqeOp.extents, "lseek", "find extents of"),
  openat: operation(SqeOp.openat, "openat", "open"),
  close: operation(SqeOp.close, "close", "close"),
} as const;

/** Operations on sockets. A peer that is gone is EPIPE; no signal comes of it. */
export const SocketOperation = {
  recv: operation(SqeOp.recv, "recv", "receive from", PollEvent.in, true, false),
  send: operation(SqeOp.send, "send", "send to", PollEvent.out, false, false),
  sendAll: operation(SqeOp.send, "send", "send to", PollEvent.out, false, false, true),
  recvmsg: operation(SqeOp.recvmsg, "recvmsg", "receive from", PollEvent.in, true, false),
  sendmsg: operation(SqeOp.sendmsg, "sendmsg", "send to", PollEvent.out, false, false),
  accept: operation(SqeOp.accept, "accept4", "accept a connection on", PollEvent.in, false, false),
  connect: operation(SqeOp.connect, "connect", "connect to", 0, false, false),
} as const;

/** Bytes that one request transfers at most, which is the kernel's own limit. */
export const TRANSFER_MAX = 0x7fff_f000;

/** Opcodes that result in an fd. */
export const OPENING: readonly number[] = [SqeOp.openat, SqeOp.accept];

/** Errors with which a cancelled request ends. */
export const CANCELLED: readonly number[] = [Errno.ECANCELED, Errno.EAGAIN, Errno.EINTR];

/** Describes an operation. */
export function operation(
  opcode: number,
  syscall: string,
  verb: string,
  events = 0,
  fills = false,
  disk = true,
  all = false,
): Operation {
  return { opcode, fixedOpcode: -1, syscall, verb, events, fills, disk, all };
}

/** Flags of a write, or what is wrong with its options. */
export function readWriteFlags(options: WriteOptions | undefined): unknown {
  try {
    const dataSync = options?.dataSync ?? false;
    if (typeof dataSync === "boolean") return dataSync ? RWF_DSYNC : 0;
    return new TypeError(`Cannot write as \`dataSync\` is not a boolean: ${typeof dataSync}`);
  } catch (error) {
    return error;
  }
}
