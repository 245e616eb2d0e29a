/**
 * Transfers between an fd and several buffers: readv(2) and writev(2) as one request, where the
 * kernel may be given the addresses of all of them, else one request a buffer.
 */
import { storeNumber } from "../../ffi/sqe.ts";
import { Location, type RequestView } from "./buffers.ts";
import type { IoOwner } from "./io_owner.ts";
import { FileOperation, type Operation, type RequestOptions } from "./operation.ts";

/** Buffers of one call at most; the kernel's UIO_MAXIOV. */
const BUFFERS_MAX = 1024;
/** Bytes of struct iovec. */
const IOVEC_BYTES = 16;

/**
 * Transfers to or from buffers, one after the other.
 *
 * @returns bytes transferred in all; fewer than there is room for where the kernel stopped
 */
export async function transferVector(
  operation: Operation,
  owner: IoOwner,
  views: readonly RequestView[],
  off: number,
  opFlags: number,
  options: RequestOptions | undefined,
): Promise<number> {
  if (!Array.isArray(views)) {
    throw new TypeError(`Cannot ${operation.verb} as the buffers are no array: ${typeof views}`);
  }
  const { length } = views;
  if (length > BUFFERS_MAX) {
    throw new RangeError(
      `Cannot ${operation.verb} as there are more than ${BUFFERS_MAX} buffers: ${length}`,
    );
  }
  // A caller's array may change while the kernel works on it, and have any iterator.
  const own = Array.from({ length }, (_, index) => views[index]);
  const { io } = owner;
  const memory = io.buffers.borrow(Math.max(1, own.length) * IOVEC_BYTES);
  try {
    if (!describe(own, memory)) {
      return await oneByOne(operation, owner, own, off, opFlags, options);
    }
    const address = io.addressOf(memory);
    const words = { off, address, len: own.length, opFlags, memory: [memory, own] };
    return await io.request(operation, owner, words, options);
  } finally {
    io.buffers.giveBack(memory);
  }
}

/** Writes struct iovec for each view; false where the kernel must not be given an address. */
function describe(views: readonly RequestView[], memory: Uint8Array<ArrayBuffer>): boolean {
  const words = new Int32Array(memory.buffer, memory.byteOffset, memory.byteLength / 4);
  const location = new Location();
  let direct = true;
  for (const [index, view] of views.entries()) {
    if (!location.locate(view)) direct = false;
    storeNumber(words, index * 4, location.address);
    storeNumber(words, index * 4 + 2, location.byteLength);
  }
  return direct;
}

async function oneByOne(
  operation: Operation,
  owner: IoOwner,
  views: readonly RequestView[],
  off: number,
  opFlags: number,
  options: RequestOptions | undefined,
): Promise<number> {
  const single = operation === FileOperation.readv ? FileOperation.read : FileOperation.write;
  const location = new Location();
  let done = 0;
  for (const view of views) {
    try {
      const at = off < 0 ? off : off + done;
      location.locate(view);
      const { byteLength } = location;
      const count = await owner.io.transfer(single, owner, view, at, opFlags, options);
      done += count;
      if (count < byteLength) break;
    } catch (error) {
      if (done === 0) throw error;
      break;
    }
  }
  return done;
}
