/**
 * A file, or a disk of the system, as a block device.
 *
 * Everything is a request on the context's loop, but for what the page cache has. What a filesystem cannot do is found out once and
 * done in another way from then on: zeros by freeing the range, by marking it, or by writing them.
 * Past the page cache (`direct`) ranges are whole blocks, as the device says; memory that is not
 * aligned as the disk wants it goes through a copy. Invariant: a promise that resolves has
 * transferred everything; who reads what the file has lost meanwhile gets EIO.
 */
import {
  type AioContext,
  AioError,
  type AioFile,
  type FallocateMode,
  type FileExtent,
} from "../../mod.ts";
import type {
  BlockDevice,
  BlockExtent,
  BlockWriteOptions,
  BlockZeroOptions,
} from "./block_device.ts";
import { gather, scatter, without } from "./buffer_parts.ts";
import { canPunchHoles, findDirectAlignment, findSize, isRotational } from "./file_facts.ts";
import { type FileBlockDeviceOptions, isDirect, readOptions } from "./file_options.ts";

const PREFERRED_BYTES = 4096;
/** Memory of zeros, or of a copy. */
const CHUNK_BYTES = 1 << 20;
/** Buffers of one request at most, the kernel's limit. */
const BUFFERS_MAX = 1024;
/** Range of one fadvise(2), whose length has 32 bits. */
const ADVICE_MAX = 0x4000_0000;
const POSIX_FADV_WILLNEED = 3;
const EIO = 5, EINVAL = 22, EOPNOTSUPP = 95, ESPIPE = 29;
const DATA_SYNC = { dataSync: true };

/**
 * A file as a device.
 *
 * @example
 * ```ts
 * import { AioContext } from "@aio/context";
 * import { FileBlockDevice } from "@aio/context/block";
 * using ctx = new AioContext();
 * await ctx.run(async () => {
 *   const device = await FileBlockDevice.open(ctx, "README.md", { readOnly: true });
 *   const bytes = ctx.buffers.allocate(4);
 *   await device.read([bytes], 0);
 *   await device.close();
 * });
 * ```
 */
export class FileBlockDevice implements BlockDevice {
  /** Its size in bytes: that of the file when it was opened, in whole blocks. */
  readonly size: number;
  /** 1, or what `direct` wants. */
  readonly blockSize: number;
  /** A page, or a block where that is larger. */
  readonly preferredBlockSize: number;
  /** Nothing can be changed. */
  readonly readOnly: boolean;
  /** The system says that its disk rotates. */
  readonly rotational: boolean;
  readonly #ctx: AioContext;
  readonly #file: AioFile;
  readonly #direct: boolean;
  readonly #discard: boolean;
  readonly #writethrough: boolean;
  readonly #unsafe: boolean;
  /** What the filesystem is not known to be unable to do. */
  #canPunch: boolean;
  #canZeroRange: boolean;
  #canTellExtents = true;
  #sparse = false;
  #zeros: Uint8Array | null = null;

  private constructor(
    ctx: AioContext,
    file: AioFile,
    options: FileBlockDeviceOptions,
    facts: { size: number; blockSize: number; rotational: boolean; canPunch: boolean },
  ) {
    this.#ctx = ctx;
    this.#file = file;
    this.size = Math.floor(facts.size / facts.blockSize) * facts.blockSize;
    this.blockSize = facts.blockSize;
    this.preferredBlockSize = Math.max(PREFERRED_BYTES, facts.blockSize);
    this.rotational = facts.rotational;
    this.readOnly = options.readOnly === true;
    this.#direct = isDirect(options);
    this.#discard = options.discard !== false;
    this.#writethrough = options.cache === "writethrough";
    this.#unsafe = options.cache === "unsafe";
    this.#canPunch = facts.canPunch;
    this.#canZeroRange = !this.readOnly;
  }

  /**
   * Opens a file or a block device.
   *
   * @param path its path, or a file: URL
   * @throws {AioError} what the system says, as ENOENT; {TypeError} for bad options
   */
  static async open(
    ctx: AioContext,
    path: string | URL,
    options: FileBlockDeviceOptions = {},
  ): Promise<FileBlockDevice> {
    const read = readOptions(options);
    const file = await ctx.openFile(path, {
      read: true,
      write: read.readOnly !== true,
      direct: isDirect(read),
      sync: read.cache === "writethrough" && read.readOnly !== true ? "data" : false,
    });
    try {
      const status = await file.stat();
      if (!status.isFile && !status.isBlockDevice) {
        throw new AioError(`Cannot serve ${path}`, "statx", EINVAL, "no file and no block device");
      }
      const blockSize = isDirect(read) ? await findDirectAlignment(ctx, file, status) : 1;
      const size = status.isFile ? status.size : await findSize(path);
      const canPunch = read.readOnly !== true && await canPunchHoles(file, status.isFile, size);
      const facts = { size, blockSize, canPunch, rotational: await isRotational(path, status) };
      const device = new FileBlockDevice(ctx, file, read, facts);
      const extents = await device.extents(0, device.size, 2);
      device.#sparse = extents.some(({ hole }) => hole);
      return device;
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  /** `trim` frees space. */
  get canTrim(): boolean {
    return this.#discard && this.#canPunch;
  }

  /** Zeros can be had without writing them. */
  get canZeroFast(): boolean {
    return this.#canPunch;
  }

  /** The file had holes when it was opened, or may have got some. */
  get sparse(): boolean {
    return this.#sparse;
  }

  /** Fills buffers from an offset on. */
  async read(buffers: readonly Uint8Array[], offset: number): Promise<void> {
    if (buffers.length !== 1) return await this.#transfer(buffers, offset, false, false);
    const [buffer] = buffers;
    if (this.#direct && !this.#isAligned(buffer)) {
      return await this.#transfer(buffers, offset, false, false);
    }
    const count = await this.#file.read(buffer, offset);
    if (count === buffer.length) return;
    await this.#transfer([buffer.subarray(count)], offset + count, false, false);
  }

  /** Fills memory from an offset on if the page cache has all of it. */
  tryRead(memory: Uint8Array, start: number, length: number, offset: number): boolean {
    return this.#file.tryRead(memory, start, length, offset);
  }

  /** Writes buffers from an offset on. */
  async write(
    buffers: readonly Uint8Array[],
    offset: number,
    options?: BlockWriteOptions,
  ): Promise<void> {
    const fua = options?.fua === true && !this.#writethrough && !this.#unsafe;
    if (buffers.length !== 1 || (this.#direct && !this.#isAligned(buffers[0]))) {
      return await this.#transfer(buffers, offset, true, fua);
    }
    const [buffer] = buffers;
    const count = await this.#file.write(buffer, offset, fua ? DATA_SYNC : undefined);
    if (count === buffer.length) return;
    await this.#transfer([buffer.subarray(count)], offset + count, true, fua);
  }

  /** Transfers all of the buffers, with as many requests as that takes. */
  async #transfer(
    buffers: readonly Uint8Array[],
    offset: number,
    writes: boolean,
    fua: boolean,
  ): Promise<void> {
    if (this.#direct && !buffers.every((buffer) => this.#isAligned(buffer))) {
      return await this.#transferCopy(buffers, offset, writes, fua);
    }
    let left = buffers.filter(({ length }) => length !== 0), at = offset;
    while (left.length !== 0) {
      const now = left.length > BUFFERS_MAX ? left.slice(0, BUFFERS_MAX) : left;
      const count = writes
        ? await this.#file.writev(now, at, fua ? DATA_SYNC : undefined)
        : await this.#file.readv(now, at);
      if (count === 0) throw ended(writes ? "write" : "read", at);
      at += count;
      left = without(left, count);
    }
  }

  /** Transfers by way of memory that is aligned. */
  async #transferCopy(
    buffers: readonly Uint8Array[],
    offset: number,
    writes: boolean,
    fua: boolean,
  ): Promise<void> {
    const length = buffers.reduce((sum, buffer) => sum + buffer.length, 0);
    const copy = this.#ctx.buffers.allocate(Math.min(length, CHUNK_BYTES));
    let left: Uint8Array[] = [...buffers];
    for (let done = 0; done < length;) {
      const part = copy.subarray(0, Math.min(copy.length, length - done));
      if (writes) gather(left, part);
      await this.#transfer([part], offset + done, writes, fua);
      if (!writes) scatter(part, left);
      done += part.length;
      left = without(left, part.length);
    }
  }

  #isAligned(buffer: Uint8Array): boolean {
    return buffer.length % this.blockSize === 0 &&
      this.#ctx.buffers.isAligned(buffer, this.blockSize);
  }

  /** Puts everything on the disk that has been written. */
  async flush(): Promise<void> {
    if (this.#unsafe) return;
    await this.#file.fdatasync();
  }

  /** Frees a range. */
  async trim(offset: number, length: number, options?: BlockWriteOptions): Promise<void> {
    this.#sparse = true;
    if (this.#canPunch) await this.#allocate("punch-hole", offset, length);
    if (options?.fua || this.#writethrough) await this.flush();
  }

  /** Makes a range read as zeros. */
  async zero(offset: number, length: number, options?: BlockZeroOptions): Promise<void> {
    if (!await this.#zeroWithoutWriting(offset, length, options?.noHole === true)) {
      if (options?.fast) {
        throw new AioError("Cannot zero without writing zeros", "fallocate", EOPNOTSUPP);
      }
      await this.#writeZeros(offset, length);
    }
    if (options?.fua || this.#writethrough) await this.flush();
  }

  async #zeroWithoutWriting(offset: number, length: number, noHole: boolean): Promise<boolean> {
    if (this.#canPunch && this.#discard && !noHole) {
      this.#sparse = true;
      if (await this.#allocate("punch-hole", offset, length)) return true;
    }
    return this.#canZeroRange && await this.#allocate("zero-range", offset, length);
  }

  /** Has the filesystem do it; false where it cannot. */
  async #allocate(mode: FallocateMode, offset: number, length: number): Promise<boolean> {
    try {
      await this.#file.fallocate(mode, offset, length);
      return true;
    } catch (error) {
      if (!(error instanceof AioError)) throw error;
      // A disk says that to a range that is not of its own blocks; another one may do.
      if (error.errno === EINVAL) return false;
      if (error.errno !== EOPNOTSUPP) throw error;
      if (mode === "punch-hole") this.#canPunch = false;
      else this.#canZeroRange = false;
      return false;
    }
  }

  async #writeZeros(offset: number, length: number): Promise<void> {
    this.#zeros ??= this.#ctx.buffers.allocate(CHUNK_BYTES);
    for (let done = 0; done < length;) {
      const part = this.#zeros.subarray(0, Math.min(CHUNK_BYTES, length - done));
      await this.write([part], offset + done);
      done += part.length;
    }
  }

  /** Asks the filesystem what is data; all of it is, where that cannot tell. */
  async extents(offset: number, length: number, countMax: number): Promise<BlockExtent[]> {
    if (this.#canTellExtents && length !== 0) {
      try {
        const found = await this.#file.extents(offset, length, Math.max(1, countMax));
        return inBlocks(found, offset, this.blockSize);
      } catch (error) {
        const cannot = error instanceof AioError &&
          (error.errno === EINVAL || error.errno === EOPNOTSUPP || error.errno === ESPIPE);
        if (!cannot) throw error;
        this.#canTellExtents = false;
      }
    }
    return [{ length, hole: false, zero: false }];
  }

  /** Has a range read ahead; past the page cache there is nothing to be done. */
  async cache(offset: number, length: number): Promise<void> {
    if (this.#direct) return;
    for (let done = 0; done < length; done += ADVICE_MAX) {
      const part = Math.min(ADVICE_MAX, length - done);
      const result = await new Promise<number>((resolve) => {
        const { fd } = this.#file;
        this.#ctx.addSqe(
          (sqe) => sqe.fadvise(fd, offset + done, part, POSIX_FADV_WILLNEED),
          resolve,
        );
      });
      if (result < 0) throw new AioError("Cannot read ahead", "posix_fadvise", -result);
    }
  }

  /** Waits for requests in flight, and closes the file. */
  async close(): Promise<void> {
    await this.#file.close();
  }
}

/** Extents of whole blocks: where data and hole meet within one it is data. */
function inBlocks(found: readonly FileExtent[], offset: number, blockSize: number): BlockExtent[] {
  const extents: BlockExtent[] = [];
  let end = offset, at = offset;
  for (const { length, hole } of found) {
    end += length;
    const last = (hole ? Math.floor(end / blockSize) : Math.ceil(end / blockSize)) * blockSize;
    if (last > at) extents.push({ length: last - at, hole, zero: hole });
    at = Math.max(at, last);
  }
  return extents;
}

/** The file has become shorter, or takes no more. */
function ended(verb: string, offset: number): AioError {
  return new AioError(`Cannot ${verb} at ${offset}`, verb, EIO, "the file ends there");
}
