/**
 * Files mapped into memory (mmap(2)): memory of another process, a guest's above all.
 *
 * A view of mapped memory that outlives the mapping would end the process when it is read, and
 * nobody can forbid JavaScript to keep or to give away a view. So the file is mapped over the pages
 * of a SharedArrayBuffer that is JavaScript's own: unmapping puts empty pages there, and the address
 * space goes back to the system once nobody refers to the buffer any more. As it is shared memory
 * it cannot be detached, requests use views of it without a copy, and a PollWord can be in it.
 *
 * The file may be cut short while it is mapped: what is gone then reads as zeros from the pages
 * that are touched, and what is written there is lost, where the system would end the process
 * (SIGBUS, see shim/map.c). A system call that meets such a page fails with EFAULT instead, and
 * with huge pages nothing can be put in their place. Seals rule all that out: `requireSealed`.
 *
 * Invariant: while a file is mapped somebody refers to the buffer, so that its pages are not given
 * to anybody else with the file still in them.
 */
import { AioError, Errno } from "../../ffi/errno.ts";
import { loadShim } from "../../ffi/library.ts";
import { addressOfShared, allocateNative } from "../../ffi/memory.ts";
import { Fcntl } from "../../ffi/socket.ts";
import type { Shim } from "../../ffi/shim_symbols.ts";
import { Seal } from "./mem_fd.ts";

/** Bytes of a WebAssembly page, by which its memory is made, and to which it is aligned. */
const WASM_PAGE = 65_536;
/** Smallest page of a system. Files tell larger ones, as those of hugetlbfs, as their block size. */
const PAGE = 4096;
/** Largest page, 1 GiB: a file that tells a larger block size is no hugetlbfs. */
const PAGE_MAX = 2 ** 30;
const FD_MAX = 0x7fff_ffff;

/** Most that one mapping can have: with the largest page still a WebAssembly.Memory. */
export const MAPPING_MAX: number = 2 ** 31;

/** Which part of a file to map. */
export interface MapOptions {
  /** Where in the file it begins, in bytes; 0 where not given. Need not be at a page's beginning. */
  readonly offset?: number;
  /** Its length in bytes, 1 to 2 GiB; up to the end of the file where not given. */
  readonly length?: number;
  /** Refuses a file that could be cut short: one that is not sealed against it. */
  readonly requireSealed?: boolean;
}

/** Mapped memory that is not disposed yet. */
const mapped = new Set<SharedArrayBuffer>();

/**
 * A file mapped into memory, shared with everybody else who has it mapped.
 *
 * @example
 * ```ts
 * import { MappedMemory, MemFd } from "@aio/context";
 * using file = new MemFd("shared", { size: 8192 });
 * using one = new MappedMemory(file.fd), other = new MappedMemory(file.fd, { offset: 4096 });
 * one.bytes[4096] = 7;
 * console.log(other.bytes[0]); // 7
 * ```
 */
export class MappedMemory implements Disposable {
  /** The memory; the mapping is a part of it. */
  readonly buffer: SharedArrayBuffer;
  /** Where the mapping begins in `buffer`, in bytes. */
  readonly byteOffset: number;
  /** Bytes mapped. */
  readonly byteLength: number;
  /** What is mapped. Once disposed it reads as zeros. */
  readonly bytes: Uint8Array<SharedArrayBuffer>;
  readonly #shim: Shim;
  readonly #pointer: Deno.PointerValue;
  /** Bytes in whole pages. */
  readonly #pagesLength: number;

  /**
   * Maps a part of a file for reading and writing.
   *
   * @param fd an open file, only used during the call: the mapping lasts when it is closed
   * @param options which part of it
   * @throws {TypeError} when an argument is of another type
   * @throws {RangeError} when the part is not inside the file, or longer than 2 GiB
   * @throws {AioError} EACCES where the fd is not open for both; EPERM where a seal is missing, or
   * forbids writing; ENODEV for what cannot be mapped; ENOMEM
   */
  constructor(fd: number, options: MapOptions = {}) {
    requireFd(fd);
    const shim = loadShim();
    const { size, page } = readStatus(shim, fd);
    const { offset, length, sealed } = readOptions(options, size);
    if (sealed) requireShrinkSeal(shim, fd);
    const first = Math.floor(offset / page) * page;
    const pagesLength = Math.ceil((offset - first + length) / page) * page;
    const buffer = reserve(pagesLength + (page > WASM_PAGE ? page : 0), fd);
    const base = addressOfShared(buffer);
    const skipped = Number(-base & BigInt(page - 1));
    const pointer = Deno.UnsafePointer.create(base + BigInt(skipped));
    const result = shim.aio_map(pointer, pagesLength, fd, first);
    if (result < 0) throw mapError(fd, -result);
    mapped.add(buffer);
    this.#shim = shim;
    this.#pointer = pointer;
    this.#pagesLength = pagesLength;
    this.buffer = buffer;
    this.byteOffset = skipped + offset - first;
    this.byteLength = length;
    this.bytes = new Uint8Array(buffer, this.byteOffset, length);
  }

  /** Whether the file is still mapped. */
  get isMapped(): boolean {
    return mapped.has(this.buffer);
  }

  /**
   * Unmaps the file: all views read as zeros from now on, also those that others have. Requests in
   * flight would read and write zeros too, so wait for them before. Disposing twice is harmless.
   *
   * @throws {AioError} ENOMEM when the system cannot give memory in its place; it stays mapped
   */
  [Symbol.dispose](): void {
    if (!mapped.has(this.buffer)) return;
    const result = this.#shim.aio_unmap(this.#pointer, this.#pagesLength);
    if (result < 0) throw new AioError("Cannot unmap memory", "mmap", -result);
    mapped.delete(this.buffer);
  }
}

function requireFd(fd: number): void {
  if (typeof fd !== "number") {
    throw new TypeError(`Cannot map memory as the fd is not a number: ${typeof fd}`);
  }
  if (!Number.isInteger(fd) || fd < 0 || fd > FD_MAX) {
    throw new RangeError(`Cannot map memory as the fd is not a whole number >= 0: ${fd}`);
  }
}

function readStatus(shim: Shim, fd: number): { size: number; page: number } {
  const status = allocateNative(16);
  const result = shim.aio_fd_status(fd, status.pointer);
  if (result < 0) throw mapError(fd, -result);
  const [size, block] = status.f64;
  // Where it is none of a page's sizes it is no page.
  const isPage = block >= PAGE && block <= PAGE_MAX && Number.isInteger(Math.log2(block));
  return { size, page: isPage ? block : PAGE };
}

function readOptions(options: MapOptions, size: number) {
  if (typeof options !== "object" || options === null) {
    throw new TypeError(`Cannot map memory as the options are no object: ${String(options)}`);
  }
  const { offset = 0, requireSealed: sealed = false } = options;
  if (typeof sealed !== "boolean") {
    throw new TypeError(
      `Cannot map memory as \`requireSealed\` is no boolean: ${Deno.inspect(sealed)}`,
    );
  }
  if (typeof offset !== "number" || !Number.isSafeInteger(offset) || offset < 0) {
    throw new RangeError(
      `Cannot map memory as the offset is not a whole number >= 0: ${Deno.inspect(offset)}`,
    );
  }
  const { length = size - offset } = options;
  if (!Number.isSafeInteger(length) || length < 1 || length > MAPPING_MAX) {
    throw new RangeError(
      `Cannot map memory as the length is not a whole number from 1 to ${MAPPING_MAX}: ${
        Deno.inspect(length)
      }`,
    );
  }
  if (offset + length > size) {
    throw new RangeError(
      `Cannot map memory as the file ends before, at ${size} bytes: ${offset + length}`,
    );
  }
  return { offset, length, sealed };
}

function requireShrinkSeal(shim: Shim, fd: number): void {
  const seals = shim.aio_fcntl_int(fd, Fcntl.getSeals, 0);
  if (seals >= 0 && (seals & Seal.shrink) !== 0) return;
  const errno = seals < 0 ? -seals : Errno.EPERM;
  throw new AioError(
    `Cannot map fd ${fd}`,
    "fcntl",
    errno,
    "it is not sealed against being cut short",
  );
}

/** Address space that nobody else uses. It takes no memory before it is touched. */
function reserve(byteLength: number, fd: number): SharedArrayBuffer {
  const pages = Math.ceil(byteLength / WASM_PAGE);
  try {
    // Unlike a plain SharedArrayBuffer its pages are never a part of somebody else's block.
    const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
    return memory.buffer as unknown as SharedArrayBuffer;
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new AioError(`Cannot map fd ${fd}`, "mmap", Errno.ENOMEM, "address space has run out");
  }
}

function mapError(fd: number, errno: number): AioError {
  const advice: Record<number, string> = {
    [Errno.EACCES]: "it is not open for reading and writing",
    [Errno.EPERM]: "a seal forbids writing",
    [Errno.EINVAL]: "its pages are of another size",
    [Errno.ENOSPC]: "more than 8,192 mappings",
  };
  return new AioError(`Cannot map fd ${fd}`, "mmap", errno, advice[errno]);
}
