/**
 * Memory for requests: what the kernel can be given an address of, and for how long.
 *
 * The kernel reads and writes at raw addresses while JavaScript runs on. An ordinary ArrayBuffer can
 * be transferred away and freed meanwhile, which nobody can forbid or notice in time, so its
 * address is never given out: such a request goes through memory of the pool and is copied. Shared
 * memory cannot be detached, nor can that of a WebAssembly.Memory which nobody else knows; the pool
 * is made of those. Their pages are aligned as O_DIRECT wants it, and garbage collection frees them
 * once nobody refers to any view of them. Invariant: an address that `locate` finds stays good for
 * as long as the buffer is referenced.
 */
/** Bytes of a WebAssembly page, by which its memory is made. */
const WASM_PAGE = 65_536;
/** Small allocations share memory of this size. */
const SLAB_BYTES = 1 << 20;
const PAGE = 4096;
/** Smallest alignment: a cache line, so that neighbours are not written to in turn. */
const LINE = 64;
/** Most that one allocation can have; what a WebAssembly.Memory can. */
const ALLOCATION_MAX = 2 ** 32 - WASM_PAGE;

/** Copies that requests are served through have sizes of powers of two, from this one on. */
const COPY_BYTES_MIN = PAGE;
/** Longest copy; longer transfers take several requests. */
export const COPY_BYTES_MAX = 1 << 20;

/** Options of an allocation. */
export interface AllocateOptions {
  /** Alignment of its address in bytes, a power of two; a page, or a cache line for less than one. */
  alignment?: number;
}

/** A view of memory that requests can use: what the caller passed, read once. */
export type RequestView = ArrayBufferView<ArrayBufferLike>;

const addresses = new WeakMap<ArrayBufferLike, number>();
/** Memory that many allocations share. */
const slabs = new WeakSet<ArrayBufferLike>();

/** The address of memory that many allocations of a pool share; 0 for any other. */
export function slabOf(buffer: ArrayBufferLike): number {
  return slabs.has(buffer) ? addresses.get(buffer)! : 0;
}

// The getters of the engine: a caller's object can answer differently each time, or lie.
const typedArray = Object.getPrototypeOf(Uint8Array.prototype);
const getterOf = (prototype: object, name: PropertyKey) =>
  Object.getOwnPropertyDescriptor(prototype, name)!.get!;
const bufferOf = getterOf(typedArray, "buffer");
const byteOffsetOf = getterOf(typedArray, "byteOffset");
const byteLengthOf = getterOf(typedArray, "byteLength");
const tagOf = getterOf(typedArray, Symbol.toStringTag);
const viewBufferOf = getterOf(DataView.prototype, "buffer");
const viewOffsetOf = getterOf(DataView.prototype, "byteOffset");
const viewLengthOf = getterOf(DataView.prototype, "byteLength");
const resizableOf = getterOf(ArrayBuffer.prototype, "resizable");
const detachedOf = getterOf(ArrayBuffer.prototype, "detached");
const sharedLengthOf = getterOf(SharedArrayBuffer.prototype, "byteLength");

/** Memory for the requests of a context. */
export class AioBuffers {
  #slab = new Uint8Array(0);
  #used = 0;
  /** Free copies by size: a page first, then twice as much each. */
  readonly #copies: Uint8Array<ArrayBuffer>[][] = [];
  readonly #location = new Location();

  /**
   * Memory that the kernel reads and writes without a copy, zeroed, at a page's beginning where it
   * is as large as one. It is freed when nobody refers to it any more.
   *
   * @param byteLength its size in bytes, 1 to 4 GiB - 64 KiB
   * @param options its alignment
   * @throws {RangeError} for a size that cannot be had, or an alignment that is no power of two
   */
  allocate(byteLength: number, options: AllocateOptions = {}): Uint8Array<ArrayBuffer> {
    if (!Number.isInteger(byteLength) || byteLength < 1 || byteLength > ALLOCATION_MAX) {
      throw new RangeError(
        `Cannot allocate a buffer as its size is not a whole number from 1 to ${ALLOCATION_MAX}: ${
          String(byteLength)
        }`,
      );
    }
    const alignment = options?.alignment ?? (byteLength < PAGE ? LINE : PAGE);
    if (
      !Number.isInteger(alignment) || alignment < 1 || alignment > WASM_PAGE ||
      (alignment & (alignment - 1)) !== 0
    ) {
      throw new RangeError(
        `Cannot allocate a buffer as its alignment is not a power of two up to ${WASM_PAGE}: ${
          String(alignment)
        }`,
      );
    }
    if (byteLength > SLAB_BYTES / 4) return makeMemory(byteLength);
    let start = Math.ceil(this.#used / alignment) * alignment;
    if (start + byteLength > this.#slab.length) {
      this.#slab = makeMemory(SLAB_BYTES);
      slabs.add(this.#slab.buffer);
      start = 0;
    }
    this.#used = start + byteLength;
    return this.#slab.subarray(start, this.#used);
  }

  /**
   * Whether the kernel finds a view's bytes at such an alignment, as a file opened with `direct`
   * wants it. It does where the memory is copied anyway.
   *
   * @param view memory for a request
   * @param alignment in bytes
   */
  isAligned(view: RequestView, alignment: number): boolean {
    return !this.#location.locate(view) || this.#location.address % alignment === 0;
  }

  /** Memory of at least this size, up to `COPY_BYTES_MAX`, to be given back with `giveBack`. */
  borrow(byteLength: number): Uint8Array<ArrayBuffer> {
    const free = this.#copies[sizeClass(byteLength)];
    return free?.pop() ?? this.allocate(COPY_BYTES_MIN << sizeClass(byteLength));
  }

  /** Takes borrowed memory back, once the kernel is done with it. */
  giveBack(copy: Uint8Array<ArrayBuffer>): void {
    (this.#copies[sizeClass(copy.byteLength)] ??= []).push(copy);
  }
}

/** The address that a view begins at. */
export class Location {
  /** Address in bytes; good for as long as `buffer` is referenced. */
  address = 0;
  byteLength = 0;
  buffer: ArrayBufferLike | null = null;
  #base = 0;

  /**
   * Finds out where a view's memory is.
   *
   * @param view what a caller passed
   * @returns whether the kernel may be given the address; where not, only `byteLength` is set
   * @throws {TypeError} when it is no view of memory that can be used
   */
  locate(view: RequestView): boolean {
    let array: RequestView = view, buffer: ArrayBufferLike;
    try {
      buffer = bufferOf.call(view);
    } catch {
      // No typed array.
      array = arrayOfView(view);
      buffer = bufferOf.call(array);
    }
    this.byteLength = byteLengthOf.call(array);
    if (buffer !== this.buffer) {
      const base = addresses.get(buffer) ?? learnAddress(buffer);
      if (base === 0) return false;
      this.buffer = buffer;
      this.#base = base;
    }
    this.address = this.#base + byteOffsetOf.call(array);
    return true;
  }
}

function arrayOfView(view: unknown): Uint8Array {
  if (ArrayBuffer.isView(view)) return arrayOf(view);
  throw new TypeError(`Cannot use the buffer as it is no view of memory: ${typeof view}`);
}

function arrayOf(view: ArrayBufferView): Uint8Array {
  return new Uint8Array(
    viewBufferOf.call(view),
    viewOffsetOf.call(view),
    viewLengthOf.call(view),
  );
}

/**
 * The length of a typed array as the engine knows it.
 *
 * @throws {TypeError} when it is none
 */
export function typedArrayBytes(array: unknown): number {
  try {
    return byteLengthOf.call(array);
  } catch {
    throw new TypeError(`Cannot use the memory as it is no typed array: ${typeof array}`);
  }
}

/** All bytes of a view that `locate` has accepted. */
export function bytesOf(view: RequestView): Uint8Array {
  if (tagOf.call(view) === undefined) return arrayOf(view);
  return new Uint8Array(bufferOf.call(view), byteOffsetOf.call(view), byteLengthOf.call(view));
}

/** Copies the first bytes of a copy back; false where the view's memory is gone. */
export function copyBack(view: RequestView, copy: Uint8Array, byteLength: number): boolean {
  let bytes: Uint8Array;
  try {
    bytes = bytesOf(view);
  } catch {
    // Views of memory that has been transferred away cannot be made.
    return false;
  }
  if (bytes.byteLength < byteLength) return false;
  bytes.set(byteLength === copy.byteLength ? copy : copy.subarray(0, byteLength));
  return true;
}

function learnAddress(buffer: ArrayBufferLike): number {
  if (buffer instanceof SharedArrayBuffer) {
    if (sharedLengthOf.call(buffer) === 0) return 0;
    return rememberAddress(buffer);
  }
  if (detachedOf.call(buffer)) {
    throw new TypeError("Cannot use the buffer as its memory has been transferred away");
  }
  if (resizableOf.call(buffer)) {
    throw new TypeError("Cannot use the buffer as its memory is resizable");
  }
  return 0;
}

function rememberAddress(buffer: ArrayBufferLike): number {
  const pointer = Deno.UnsafePointer.of(bytesFrom(buffer));
  const address = Number(Deno.UnsafePointer.value(pointer));
  addresses.set(buffer, address);
  return address;
}

/** Memory that nobody can detach, which begins at a multiple of `WASM_PAGE`. */
function makeMemory(byteLength: number): Uint8Array<ArrayBuffer> {
  const pages = Math.ceil(byteLength / WASM_PAGE);
  try {
    const { buffer } = new WebAssembly.Memory({ initial: pages, maximum: pages });
    rememberAddress(buffer);
    return bytesFrom(buffer, 0, byteLength);
  } catch (error) {
    // Each takes gigabytes of address space, which may run out: shared memory takes no more than
    // its size, but not everybody accepts it.
    if (!(error instanceof RangeError)) throw error;
  }
  // It begins anywhere.
  const buffer = new SharedArrayBuffer(byteLength + WASM_PAGE);
  const start = -rememberAddress(buffer) & (WASM_PAGE - 1);
  return bytesFrom(buffer, start, byteLength);
}

function bytesFrom(buffer: ArrayBufferLike, start = 0, length?: number): Uint8Array<ArrayBuffer> {
  return new Uint8Array(buffer as ArrayBuffer, start, length);
}

function sizeClass(byteLength: number): number {
  return 32 - Math.clz32((byteLength - 1) >>> 12);
}
