/**
 * The msghdr of sendmsg(2) and recvmsg(2) with all it points to: segments of data, which stay where
 * they are, and open files that travel along (SCM_RIGHTS).
 *
 * One piece of memory is made for a number of segments and fds and used again for each message,
 * by the shim or by an SQE. Invariant: fds that the kernel has put into this process are given to
 * the caller once, by `takeFds`, and nobody else closes them; that holds for a truncated message
 * too. Keeping the data alive until the call has ended is the caller's business.
 */
import { SocketLayout } from "./layout.ts";
import { allocateNative, type NativeMemory } from "./memory.ts";
import { SocketLevel } from "./socket.ts";
import { loadNumber, storeNumber } from "./sqe.ts";

const MSGHDR = SocketLayout.msghdr, IOVEC = SocketLayout.iovec, CMSGHDR = SocketLayout.cmsghdr;

/** Flags of the calls, and of what they report. */
export const MessageFlag = {
  /** Reported: fds were dropped, as there was no room for them. */
  ctrunc: 0x8,
  /** Reported: the end of a datagram was dropped. */
  trunc: 0x20,
  dontwait: 0x40,
  nosignal: 0x4000,
  cmsgCloexec: 0x40000000,
} as const;

/** What every send and receive here wants; each call ignores the flags of the other. */
export const MESSAGE_FLAGS = MessageFlag.dontwait | MessageFlag.nosignal | MessageFlag.cmsgCloexec;

/** Type of the control message that carries fds. */
const SCM_RIGHTS = 1;

/** The kernel's limit of segments in a message (UIO_MAXIOV). */
export const SEGMENTS_MAX = 1024;

/** The kernel's limit of fds in a message (SCM_MAX_FD). */
export const FDS_MAX = 253;

const FD_BYTES = 4;

/** A message to send or to receive. */
export class Message {
  /** Where the msghdr is, for the shim. */
  readonly pointer: Deno.PointerValue;
  /** Where the msghdr is, for an SQE. */
  readonly address: number;
  readonly #memory: NativeMemory;
  /** Room for segments. */
  readonly segmentsMax: number;
  /** Room for fds. */
  readonly fdsMax: number;
  /** Offset of the control data, behind the segments. */
  readonly #control: number;
  #segments = 0;

  /**
   * Makes an empty message.
   *
   * @param segmentsMax room for segments of data
   * @param fdsMax room for fds, to be sent or received
   */
  constructor(segmentsMax: number, fdsMax: number) {
    assert(segmentsMax >= 1 && segmentsMax <= SEGMENTS_MAX, "the kernel takes so many segments");
    assert(fdsMax >= 0 && fdsMax <= FDS_MAX, "the kernel takes so many fds");
    this.segmentsMax = segmentsMax;
    this.fdsMax = fdsMax;
    this.#control = MSGHDR.sizeof + segmentsMax * IOVEC.sizeof;
    this.#memory = allocateNative(this.#control + CMSGHDR.sizeof + fdsMax * FD_BYTES);
    this.pointer = this.#memory.pointer;
    this.address = Number(this.#memory.address);
    this.#storeNumber(MSGHDR.msg_iov, this.address + MSGHDR.sizeof);
  }

  /** Takes out the data and the fds; fds that were received and not taken are lost. */
  clear(): void {
    this.#segments = 0;
    this.#storeNumber(MSGHDR.msg_iovlen, 0);
    this.#setControlLength(0);
    this.#memory.i32[MSGHDR.msg_flags / 4] = 0;
  }

  /** Adds memory that data is sent from or received into. */
  addSegment(address: number, length: number): void {
    assert(this.#segments < this.segmentsMax, "there is no room for one more segment");
    const at = MSGHDR.sizeof + this.#segments++ * IOVEC.sizeof;
    this.#storeNumber(at + IOVEC.iov_base, address);
    this.#storeNumber(at + IOVEC.iov_len, length);
    this.#storeNumber(MSGHDR.msg_iovlen, this.#segments);
  }

  /**
   * Sends these fds along; they stay the sender's, who may close them once the call has ended.
   *
   * They go with the first byte: after a partial send the rest must be sent without them, and
   * without any data a stream drops them silently.
   */
  setFds(fds: readonly number[]): void {
    assert(fds.length <= this.fdsMax, "there is no room for so many fds");
    const { i32 } = this.#memory;
    const length = CMSGHDR.sizeof + fds.length * FD_BYTES;
    this.#storeNumber(this.#control + CMSGHDR.cmsg_len, length);
    i32[(this.#control + CMSGHDR.cmsg_level) / 4] = SocketLevel.socket;
    i32[(this.#control + CMSGHDR.cmsg_type) / 4] = SCM_RIGHTS;
    i32.set(fds, (this.#control + CMSGHDR.sizeof) / 4);
    this.#setControlLength(length);
  }

  /** Has up to so many fds be received, before each receive. */
  expectFds(count: number): void {
    assert(count <= this.fdsMax, "there is room for so many fds");
    this.#storeNumber(this.#control + CMSGHDR.cmsg_len, 0);
    // Without the padding, into which the kernel would put one more.
    this.#setControlLength(CMSGHDR.sizeof + count * FD_BYTES);
  }

  /**
   * The fds that came with what was received last, which are the caller's from now on; none the
   * second time, or when receiving failed.
   */
  takeFds(): number[] {
    const { i32 } = this.#memory;
    const end = this.#control + loadNumber(i32, MSGHDR.msg_controllen / 4);
    const fds: number[] = [];
    for (let at = this.#control; at + CMSGHDR.sizeof <= end;) {
      const length = loadNumber(i32, (at + CMSGHDR.cmsg_len) / 4);
      // As expectFds left it: nothing was received.
      if (length === 0) break;
      assert(length >= CMSGHDR.sizeof && at + length <= end, "a control message has its length");
      const level = i32[(at + CMSGHDR.cmsg_level) / 4];
      if (level === SocketLevel.socket && i32[(at + CMSGHDR.cmsg_type) / 4] === SCM_RIGHTS) {
        fds.push(...i32.subarray((at + CMSGHDR.sizeof) / 4, (at + length) / 4));
      }
      at += Math.ceil(length / 8) * 8;
    }
    this.#setControlLength(0);
    return fds;
  }

  /** Whether fds were dropped on receipt; those that had room are there all the same. */
  get fdsTruncated(): boolean {
    return (this.#memory.i32[MSGHDR.msg_flags / 4] & MessageFlag.ctrunc) !== 0;
  }

  /** Whether the end of a datagram was dropped on receipt. */
  get dataTruncated(): boolean {
    return (this.#memory.i32[MSGHDR.msg_flags / 4] & MessageFlag.trunc) !== 0;
  }

  #setControlLength(length: number): void {
    this.#storeNumber(MSGHDR.msg_control, length === 0 ? 0 : this.address + this.#control);
    this.#storeNumber(MSGHDR.msg_controllen, length);
  }

  #storeNumber(at: number, value: number): void {
    storeNumber(this.#memory.i32, at / 4, value);
  }
}

function assert(condition: boolean, what: string): void {
  if (!condition) throw new Error(`assertion failed: ${what}`);
}
