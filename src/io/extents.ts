/**
 * Which parts of a file hold data: lseek(2) with SEEK_DATA and SEEK_HOLE.
 *
 * That may have to read a disk and no ring knows it, so it is a request that a thread of the shim
 * carries out on every backend: one for many extents.
 */
import { loadNumber, storeNumber } from "../../ffi/sqe.ts";
import type { IoOwner } from "./io_owner.ts";
import { FileOperation, type RequestOptions } from "./operation.ts";

/** Extents that one request finds at most. */
export const EXTENTS_MAX = 4096;

/** Bytes of struct aio_extent: its length, and whether it is a hole. */
const EXTENT_BYTES = 16;

/** A part of a file. */
export interface FileExtent {
  /** Its length in bytes; it begins where the one before ends. */
  readonly length: number;
  /** It reads as zeros and takes no space. */
  readonly hole: boolean;
}

/** Finds extents, for `AioFile.extents`. */
export async function findExtents(
  owner: IoOwner,
  off: number,
  length: number,
  countMax: number,
  options: RequestOptions | undefined,
): Promise<FileExtent[]> {
  const { io } = owner;
  const len = Math.min(countMax, EXTENTS_MAX);
  const memory = io.buffers.borrow(len * EXTENT_BYTES);
  const words = new Int32Array(memory.buffer, memory.byteOffset, len * EXTENT_BYTES / 4);
  storeNumber(words, 0, length);
  const request = { off, address: io.addressOf(memory), len, memory };
  try {
    const count = await io.request(FileOperation.extents, owner, request, options);
    return Array.from({ length: count }, (_, index) => ({
      length: loadNumber(words, index * 4),
      hole: words[index * 4 + 2] !== 0,
    }));
  } finally {
    io.buffers.giveBack(memory);
  }
}
