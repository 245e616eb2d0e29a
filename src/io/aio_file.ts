/**
 * Files: every operation is a request on the context's loop, and its promise settles there; but what
 * the page cache has may be read at once, and `tryRead` has no promise at all.
 *
 * Promises make progress while the context is polled, by `run` or by hand. Requests of one file run
 * concurrently and complete in any order; closing waits for those that are in flight. Invariant:
 * once `close` has been called no request is made with the number of the fd.
 */
import { type RequestView, typedArrayBytes } from "./buffers.ts";
import { CacheHistory } from "./cached_reads.ts";
import { IoOwner, type OwnerKind } from "./io_owner.ts";
import type { IoRequests } from "./io_request.ts";
import {
  FileOperation,
  type Operation,
  readWriteFlags,
  type RequestOptions,
  type RequestWords,
  type WriteOptions,
} from "./operation.ts";
import { type OpenFileOptions, openPath, readOpenOptions } from "./open_path.ts";
import { EXTENTS_MAX, type FileExtent, findExtents } from "./extents.ts";
import { type FileStatus, readStatx, STATX_BYTES, STATX_MASK } from "./statx.ts";
import { transferVector } from "./vector.ts";

/** What `fallocate` does with a range. */
export type FallocateMode = "allocate" | "keep-size" | "punch-hole" | "zero-range";

const AT_EMPTY_PATH = 0x1000;
const FSYNC_DATASYNC = 1;
const FALLOCATE_MODES: Readonly<Record<FallocateMode, number>> = {
  allocate: 0,
  "keep-size": 1,
  "punch-hole": 2 | 1,
  "zero-range": 16,
};
/** fds are of type int. */
const FD_MAX = 0x7fff_ffff;

const FILE: OwnerKind = { name: "file", cancels: false, takesTurns: false };
const DIRECT_FILE: OwnerKind = {
  ...FILE,
  direct: true,
  invalidAdvice: "with `direct` the buffer's address, its length and the offset have to be " +
    "multiples of the disk's block size: use ctx.buffers.allocate() and multiples of 4096",
};

/**
 * An open file.
 *
 * @example
 * ```ts
 * import { AioContext } from "@aio/context";
 * using ctx = new AioContext();
 * const text = await ctx.run(async () => {
 *   await using file = await ctx.openFile("README.md");
 *   const buffer = new Uint8Array(20);
 *   const count = await file.read(buffer, 0);
 *   return new TextDecoder().decode(buffer.subarray(0, count));
 * });
 * console.log(text);
 * ```
 */
export class AioFile implements AsyncDisposable {
  readonly #owner: IoOwner;
  /** Past the page cache there is no use in asking it. */
  readonly #history: CacheHistory | null;

  private constructor(owner: IoOwner) {
    this.#owner = owner;
    this.#history = owner.kind === DIRECT_FILE ? null : new CacheHistory();
  }

  /**
   * For `AioContext.openFile`.
   *
   * @internal
   */
  static async open(
    io: IoRequests,
    path: string | URL | { readonly fd: number },
    options: OpenFileOptions & RequestOptions,
  ): Promise<AioFile> {
    const read = readOpenOptions(options);
    const kind = read.direct ? DIRECT_FILE : FILE;
    if (typeof path === "object" && path !== null && "fd" in path) {
      const { fd } = path;
      io.requireOpen("open a file");
      return new AioFile(new IoOwner(io, requireWhole("fd", fd, FD_MAX), kind));
    }
    const fd = await openPath(io, path, read);
    return new AioFile(new IoOwner(io, fd, kind));
  }

  /**
   * The file descriptor.
   *
   * @throws {TypeError} when the file is closed
   */
  get fd(): number {
    return this.#owner.fd;
  }

  /**
   * Reads into a buffer.
   *
   * @param buffer memory to read into; from `ctx.buffers` or shared, it is read into without a copy
   * @param offset where in the file, in bytes
   * @param options a signal that cancels
   * @returns bytes read: fewer than the buffer has only at the end of the file, or where the kernel
   *   was interrupted; 0 at the end
   * @throws {AioError} what read(2) says; {TypeError} or {RangeError} for bad arguments
   */
  read(buffer: RequestView, offset: number, options?: RequestOptions): Promise<number> {
    const owner = this.#owner;
    if (!isOffset(offset)) return Promise.reject(badWhole("offset", offset));
    return owner.io.read(owner, this.#history, buffer, offset, options);
  }

  /**
   * Reads at once what the page cache has, without waiting for a disk; `read` has to follow where it
   * has not. After a miss it does not ask again before more of those have been made, twice as many
   * after each. A caller that reads much has to give others their turn.
   *
   * @param memory any memory; it is used during the call alone
   * @param start where in the memory, in bytes
   * @param length bytes to be read
   * @param offset where in the file, in bytes
   * @returns true when all of it has been read; false when it is not cached, the file is open past
   *   the cache, or the filesystem cannot tell
   * @throws {TypeError} or {RangeError} for bad arguments, or when the file is closed
   */
  tryRead(memory: Uint8Array, start: number, length: number, offset: number): boolean {
    const owner = this.#owner, history = this.#history;
    if (!isOffset(offset)) throw badWhole("offset", offset);
    const byteLength = typedArrayBytes(memory);
    if (!isOffset(start) || !isOffset(length) || start + length > byteLength) {
      throw new RangeError(
        `Cannot read to ${String(start)}, ${String(length)} bytes, as there are ${byteLength}`,
      );
    }
    const { fd, io } = owner;
    io.requireOpen("read");
    if (history === null || !history.isPromising) return false;
    return io.cached.read(history, fd, memory, start, length, offset);
  }

  /**
   * Writes a buffer, which must not be changed before that is complete.
   *
   * @param buffer what to write; not copied where it is from `ctx.buffers` or shared
   * @param offset where in the file, in bytes
   * @param options a signal that cancels, and whether the data is to be on the disk
   * @returns bytes written, which may be fewer than the buffer has, as where the disk is full
   * @throws {AioError} what write(2) says, as ENOSPC
   */
  write(buffer: RequestView, offset: number, options?: WriteOptions): Promise<number> {
    const owner = this.#owner;
    if (!isOffset(offset)) return Promise.reject(badWhole("offset", offset));
    const flags = readWriteFlags(options);
    if (typeof flags !== "number") return Promise.reject(flags);
    return owner.io.transfer(FileOperation.write, owner, buffer, offset, flags, options);
  }

  /** Reads into several buffers, one after the other, with one request. See `read`. */
  readv(
    buffers: readonly RequestView[],
    offset: number,
    options?: RequestOptions,
  ): Promise<number> {
    if (!isOffset(offset)) return Promise.reject(badWhole("offset", offset));
    return transferVector(FileOperation.readv, this.#owner, buffers, offset, 0, options);
  }

  /** Writes several buffers, one after the other, with one request. See `write`. */
  writev(
    buffers: readonly RequestView[],
    offset: number,
    options?: WriteOptions,
  ): Promise<number> {
    if (!isOffset(offset)) return Promise.reject(badWhole("offset", offset));
    const flags = readWriteFlags(options);
    if (typeof flags !== "number") return Promise.reject(flags);
    return transferVector(FileOperation.writev, this.#owner, buffers, offset, flags, options);
  }

  /** Has all that was written, and metadata, on the disk when it resolves. */
  async fsync(options?: RequestOptions): Promise<void> {
    await this.#request(FileOperation.fsync, {}, options);
  }

  /** Like `fsync` without metadata that reading the data back does not need. */
  async fdatasync(options?: RequestOptions): Promise<void> {
    await this.#request(FileOperation.fsync, { opFlags: FSYNC_DATASYNC }, options);
  }

  /**
   * Allocates a range, with or without making the file larger; or frees it or zeroes it.
   *
   * @param mode what to do
   * @param offset beginning of the range, in bytes
   * @param length its length, in bytes; above 0
   * @throws {AioError} EOPNOTSUPP where the filesystem cannot
   */
  async fallocate(
    mode: FallocateMode,
    offset: number,
    length: number,
    options?: RequestOptions,
  ): Promise<void> {
    if (!Object.hasOwn(FALLOCATE_MODES, mode)) {
      const names = Object.keys(FALLOCATE_MODES).join(", ");
      const given = typeof mode === "string" ? mode : typeof mode;
      throw new TypeError(`Cannot allocate as the mode is not one of ${names}: ${given}`);
    }
    const words = {
      off: requireWhole("offset", offset),
      address: requireWhole("length", length),
      len: FALLOCATE_MODES[mode],
    };
    await this.#request(FileOperation.fallocate, words, options);
  }

  /** Makes the file this many bytes long; what is added reads as zeroes. */
  async truncate(length: number, options?: RequestOptions): Promise<void> {
    const off = requireWhole("length", length);
    await this.#request(FileOperation.ftruncate, { off }, options);
  }

  /**
   * Finds out which parts of a range hold data; what is beyond the end of the file does not.
   *
   * @param offset beginning of the range, in bytes
   * @param length its length, in bytes
   * @param countMax most extents wanted, from 1 on; 4096 are the most at once
   * @returns extents from the offset on, as many as there are or are wanted
   * @throws {AioError} EINVAL where it is no file that can tell, as a block device
   */
  async extents(
    offset: number,
    length: number,
    countMax: number = EXTENTS_MAX,
    options?: RequestOptions,
  ): Promise<FileExtent[]> {
    requireWhole("end", requireWhole("offset", offset) + requireWhole("length", length));
    if (requireWhole("count", countMax) === 0 || length === 0) return [];
    return await findExtents(this.#owner, offset, length, countMax, options);
  }

  /** What statx(2) says of the file. */
  async stat(options?: RequestOptions): Promise<FileStatus> {
    const { io } = this.#owner;
    const memory = io.buffers.borrow(STATX_BYTES + 1);
    // An empty path behind the answer: the fd itself is meant.
    memory[STATX_BYTES] = 0;
    const off = io.addressOf(memory), address = off + STATX_BYTES;
    const words = { off, address, len: STATX_MASK, opFlags: AT_EMPTY_PATH, memory };
    try {
      await this.#request(FileOperation.statx, words, options);
      return readStatx(memory);
    } finally {
      io.buffers.giveBack(memory);
    }
  }

  /** Waits for requests in flight and closes. Closing again is harmless. */
  close(): Promise<void> {
    return this.#owner.close();
  }

  /** Closes. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #request(
    operation: Operation,
    words: RequestWords,
    options: RequestOptions | undefined,
  ): Promise<number> {
    return this.#owner.io.request(operation, this.#owner, words, options);
  }
}

function isOffset(offset: number): boolean {
  return Number.isSafeInteger(offset) && offset >= 0;
}

function requireWhole(name: string, value: number, max = Number.MAX_SAFE_INTEGER): number {
  if (isOffset(value) && value <= max) return value;
  throw badWhole(name, value, max);
}

function badWhole(name: string, value: unknown, max = Number.MAX_SAFE_INTEGER): Error {
  return typeof value === "number"
    ? new RangeError(
      `Cannot use the ${name} as it is not a whole number from 0 to ${max}: ${value}`,
    )
    : new TypeError(`Cannot use the ${name} as it is not a number: ${typeof value}`);
}
