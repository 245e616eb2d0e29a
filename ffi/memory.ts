/**
 * Addresses of JavaScript memory, for C to read and write.
 *
 * Typed arrays here are off-heap and do not move, so an address stays good for as long as the
 * buffer is referenced. Whoever hands one to C keeps the buffer in a field until C is done with
 * it. Nothing outside ffi/ sees an address.
 */

/** Memory that C may use: the views over one buffer and the pointer to its first byte. */
export interface NativeMemory {
  readonly buffer: ArrayBuffer;
  readonly i32: Int32Array<ArrayBuffer>;
  readonly u32: Uint32Array<ArrayBuffer>;
  readonly f64: Float64Array<ArrayBuffer>;
  readonly pointer: Deno.PointerValue;
  readonly address: bigint;
}

/** Zeroed memory of at least `byteLength` bytes, rounded up to whole doubles. */
export function allocateNative(byteLength: number): NativeMemory {
  const buffer = new ArrayBuffer(Math.max(8, Math.ceil(byteLength / 8) * 8));
  const pointer = Deno.UnsafePointer.of(new Uint8Array(buffer));
  return {
    buffer,
    i32: new Int32Array(buffer),
    u32: new Uint32Array(buffer),
    f64: new Float64Array(buffer),
    pointer,
    address: Deno.UnsafePointer.value(pointer),
  };
}

const POLLIN = 1;

/** An array of struct pollfd that asks whether fds are readable. */
export function pollFdsOf(...fds: number[]): NativeMemory {
  const memory = allocateNative(fds.length * 8);
  for (const [index, fd] of fds.entries()) {
    memory.i32[index * 2] = fd;
    memory.i32[index * 2 + 1] = POLLIN;
  }
  return memory;
}

const sharedAddresses = new WeakMap<SharedArrayBuffer, bigint>();

/** The address of shared memory, which can neither move, shrink nor be detached. */
export function addressOfShared(buffer: SharedArrayBuffer): bigint {
  let address = sharedAddresses.get(buffer);
  if (address === undefined) {
    address = Deno.UnsafePointer.value(Deno.UnsafePointer.of(new Uint8Array(buffer)));
    sharedAddresses.set(buffer, address);
  }
  return address;
}

/** Stores a 64-bit value as two halves, which is ten times cheaper than a BigInt store. */
export function storeU64(words: Uint32Array, index: number, value: bigint): void {
  words[index] = Number(value & 0xffff_ffffn);
  words[index + 1] = Number(value >> 32n);
}

/** Memory that C owns, as 32-bit words. Reading it after C has freed it crashes. */
export function mapWords(address: bigint, words: number): Int32Array<ArrayBuffer> {
  const pointer = Deno.UnsafePointer.create(address);
  if (pointer === null) throw new Error("assertion failed: mapped memory at address 0");
  return new Int32Array(Deno.UnsafePointerView.getArrayBuffer(pointer, words * 4));
}
