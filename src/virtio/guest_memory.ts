/**
 * A guest's memory as its front end hands it over: regions, each an open file with the addresses
 * that the guest and the front end know it by.
 *
 * Descriptors hold guest addresses, vhost-user messages the front end's own ("user") addresses of
 * the rings. Both become places in mapped memory here, and only here: whatever number a guest
 * supplies, what comes out lies inside a region or is an error. Large regions are mapped in several
 * pieces, and a buffer may cross from one into the next, or into a region right behind, so a buffer
 * becomes one run of bytes or more.
 *
 * Regions change only while no request is in flight, which is the caller's business: memory that
 * is taken away reads as zeros for whoever still has a view (see MappedMemory), so a write to the
 * disk would store zeros.
 */
import { MappedMemory, MAPPING_MAX } from "../../mod.ts";
import { MemoryViews } from "./memory_views.ts";

/** Regions at most. A front end with memory slots plugged in one by one can have many. */
export const REGIONS_MAX = 509;

/** What a guest or a front end asked for cannot be: a broken device, or a dropped connection. */
export class VirtioError extends Error {
  /** `"VirtioError"`. */
  override readonly name = "VirtioError";
}

/** Where a region is, in bytes. */
export interface MemoryRegion {
  readonly guestAddress: number;
  readonly userAddress: number;
  readonly size: number;
  /** Where it begins in its file. */
  readonly offset: number;
}

/** A piece of a region that is mapped in one go; the views are of the whole buffer. */
export class GuestChunk extends MemoryViews {
  readonly guestStart: number;
  readonly guestEnd: number;
  readonly userStart: number;
  readonly region: MemoryRegion;
  /** Where the piece begins in `buffer`, in bytes. */
  readonly byteOffset: number;
  readonly #memory: MappedMemory;

  /** @param start where in the region the piece begins */
  constructor(region: MemoryRegion, start: number, fd: number) {
    const length = Math.min(region.size - start, MAPPING_MAX);
    const memory = new MappedMemory(fd, { offset: region.offset + start, length });
    super(memory.buffer);
    this.#memory = memory;
    this.region = region;
    this.guestStart = region.guestAddress + start;
    this.guestEnd = this.guestStart + length;
    this.userStart = region.userAddress + start;
    this.byteOffset = memory.byteOffset;
  }

  /** Takes the memory away. */
  unmap(): void {
    this.#memory[Symbol.dispose]();
  }
}

/** The mapped memory of one guest. */
export class GuestMemory {
  readonly #regions: MemoryRegion[] = [];
  /** In order of guest addresses. */
  #chunks: GuestChunk[] = [];
  #last: GuestChunk | null = null;

  /** Regions mapped now. */
  get regions(): readonly MemoryRegion[] {
    return this.#regions;
  }

  /**
   * Maps a region.
   *
   * @param fd its file, only used during the call
   * @throws {VirtioError} when it cannot be one, or overlaps another
   * @throws {RangeError} or {AioError} when it cannot be mapped
   */
  add(region: MemoryRegion, fd: number): void {
    if (this.#regions.length >= REGIONS_MAX) {
      throw new VirtioError(`Cannot add a memory region as there are ${REGIONS_MAX} already`);
    }
    requireRegion(region);
    for (const other of this.#regions) {
      if (overlaps(region, other, "guestAddress") || overlaps(region, other, "userAddress")) {
        throw new VirtioError(
          `Cannot add a memory region as it overlaps another: ${describe(region)}`,
        );
      }
    }
    const chunks: GuestChunk[] = [];
    try {
      for (let start = 0; start < region.size; start += MAPPING_MAX) {
        chunks.push(new GuestChunk(region, start, fd));
      }
    } catch (error) {
      for (const chunk of chunks) chunk.unmap();
      throw error;
    }
    this.#regions.push(region);
    this.#chunks.push(...chunks);
    this.#chunks.sort((one, other) => one.guestStart - other.guestStart);
  }

  /**
   * Unmaps the region that has these addresses and this size.
   *
   * @throws {VirtioError} when there is none
   */
  remove({ guestAddress, userAddress, size }: MemoryRegion): void {
    const index = this.#regions.findIndex((region) =>
      region.guestAddress === guestAddress && region.userAddress === userAddress &&
      region.size === size
    );
    if (index === -1) {
      const asked = describe({ guestAddress, userAddress, size, offset: 0 });
      throw new VirtioError(`Cannot remove a memory region as there is none: ${asked}`);
    }
    const [region] = this.#regions.splice(index, 1);
    for (const chunk of this.#chunks) if (chunk.region === region) chunk.unmap();
    this.#chunks = this.#chunks.filter((chunk) => chunk.region !== region);
    this.#last = null;
  }

  /** Unmaps everything. */
  clear(): void {
    for (const region of this.#regions.slice()) this.remove(region);
  }

  /** The piece that a guest address is in, or null. */
  find(address: number): GuestChunk | null {
    const last = this.#last;
    if (last !== null && address >= last.guestStart && address < last.guestEnd) return last;
    let low = 0, high = this.#chunks.length - 1;
    while (low <= high) {
      const middle = (low + high) >>> 1, chunk = this.#chunks[middle];
      if (address < chunk.guestStart) high = middle - 1;
      else if (address >= chunk.guestEnd) low = middle + 1;
      else return this.#last = chunk;
    }
    return null;
  }

  /**
   * Finds a range by the front end's addresses, which must be mapped in one piece.
   *
   * @returns the piece and where in its buffer the range begins
   * @throws {VirtioError} when it is not inside one
   */
  findUser(what: string, address: number, length: number): { chunk: GuestChunk; at: number } {
    for (const chunk of this.#chunks) {
      const start = address - chunk.userStart;
      if (start < 0 || start + length > chunk.guestEnd - chunk.guestStart) continue;
      return { chunk, at: chunk.byteOffset + start };
    }
    throw new VirtioError(`Cannot use the ${what} as it is not in memory: 0x${hex(address)}`);
  }
}

/** Runs of bytes of a guest, one after the other: a buffer. An object is used again and again. */
export class GuestRuns {
  /** Number of runs. */
  count = 0;
  byteLength = 0;
  readonly chunks: GuestChunk[] = [];
  /** Where each run begins in the buffer of its piece. */
  readonly offsets: number[] = [];
  readonly lengths: number[] = [];

  clear(): void {
    this.count = this.byteLength = 0;
  }

  /** Lets go of the memory. */
  release(): void {
    this.clear();
    this.chunks.length = this.offsets.length = this.lengths.length = 0;
  }

  /**
   * Appends a range of guest memory.
   *
   * @throws {VirtioError} when any of it is outside the regions
   */
  append(memory: GuestMemory, address: number, length: number): void {
    this.byteLength += length;
    while (length > 0) {
      const chunk = memory.find(address);
      if (chunk === null) {
        throw new VirtioError(`Cannot use a buffer as it is not in memory: 0x${hex(address)}`);
      }
      const part = Math.min(length, chunk.guestEnd - address);
      const index = this.count++;
      this.chunks[index] = chunk;
      this.offsets[index] = chunk.byteOffset + (address - chunk.guestStart);
      this.lengths[index] = part;
      address += part;
      length -= part;
    }
  }

  /**
   * Loads a 32-bit word, once.
   *
   * @param index of the word; the runs begin with word 0 and are long enough
   */
  word(index: number): number {
    const at = this.offsets[0] + index * 4;
    if (this.lengths[0] >= (index + 1) * 4 && at % 4 === 0) return this.chunks[0].words[at / 4];
    const bytes = new Uint8Array(4);
    this.copyTo(bytes, index * 4, 4);
    return new DataView(bytes.buffer).getUint32(0, true);
  }

  /** Copies bytes from `start` on; there are as many. */
  copyTo(target: Uint8Array, start: number, length: number): void {
    let skip = start, done = 0;
    for (let index = 0; index < this.count && done < length; index++) {
      const { bytes } = this.chunks[index];
      for (let at = skip; at < this.lengths[index] && done < length; at++) {
        target[done++] = bytes[this.offsets[index] + at];
      }
      skip = Math.max(0, skip - this.lengths[index]);
    }
  }

  /** Copies bytes into the runs, from their beginning on. */
  copyFrom(source: Uint8Array): void {
    let done = 0;
    for (let index = 0; index < this.count; index++) {
      const { bytes } = this.chunks[index];
      for (let at = 0; at < this.lengths[index] && done < source.length; at++) {
        bytes[this.offsets[index] + at] = source[done++];
      }
    }
  }

  /** Sets the last byte of all. */
  setLast(value: number): void {
    const index = this.count - 1;
    this.chunks[index].bytes[this.offsets[index] + this.lengths[index] - 1] = value;
  }

  /**
   * Views of a part, one for each run.
   *
   * @param views those of the time before, which are used again where they fit
   */
  view(start: number, length: number, views: Uint8Array[]): Uint8Array[] {
    let count = 0, skip = start, left = length;
    for (let index = 0; index < this.count && left > 0; index++) {
      const runLength = this.lengths[index];
      if (skip >= runLength) {
        skip -= runLength;
        continue;
      }
      const { buffer } = this.chunks[index];
      const at = this.offsets[index] + skip, part = Math.min(runLength - skip, left);
      const old = count < views.length ? views[count] : null;
      if (
        old === null || old.buffer !== buffer || old.byteOffset !== at || old.byteLength !== part
      ) views[count] = new Uint8Array(buffer, at, part);
      count++;
      left -= part;
      skip = 0;
    }
    views.length = count;
    return views;
  }
}

function requireRegion(region: MemoryRegion): void {
  for (const start of [region.guestAddress, region.userAddress, region.offset]) {
    const end = start + region.size;
    if (Number.isSafeInteger(start) && start >= 0 && Number.isSafeInteger(end)) continue;
    throw new VirtioError(`Cannot add a memory region as it is too far up: ${describe(region)}`);
  }
  if (region.size === 0) throw new VirtioError("Cannot add a memory region as it is empty");
}

function overlaps(
  one: MemoryRegion,
  other: MemoryRegion,
  address: "guestAddress" | "userAddress",
): boolean {
  return one[address] < other[address] + other.size && other[address] < one[address] + one.size;
}

function describe({ guestAddress, userAddress, size }: MemoryRegion): string {
  return `guest 0x${hex(guestAddress)}, user 0x${hex(userAddress)}, ${size} bytes`;
}

function hex(address: number): string {
  return address.toString(16);
}
