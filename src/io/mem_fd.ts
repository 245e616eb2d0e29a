/**
 * Memory behind an fd (memfd_create(2)): a file without a path, to be mapped and handed to other
 * processes, as the memory of a guest is.
 *
 * It is all zeros and takes no memory where nothing was written. Seals promise whoever gets the fd
 * what can no longer happen to it.
 */
import { AioError, check, Errno } from "../../ffi/errno.ts";
import { loadShim } from "../../ffi/library.ts";
import { allocateNative } from "../../ffi/memory.ts";
import { Fcntl } from "../../ffi/socket.ts";
import type { Shim } from "../../ffi/shim_symbols.ts";
import { OwnedFd } from "./owned_fd.ts";

/** The kernel's limit, without the prefix and the NUL that it counts. */
const NAME_BYTES_MAX = 249;

/** Flags of memfd_create(2). */
export const MemFdFlag = { cloexec: 1, allowSealing: 2 } as const;

/** How a piece of memory is made. */
export interface MemFdOptions {
  /** Its first size in bytes; 0 where not given. */
  readonly size?: number;
  /** Whether it can be sealed; no where not given. */
  readonly sealable?: boolean;
}

/**
 * What is ruled out from now on, for everybody: further seals, shrinking, growing, writing, or
 * writing other than through mappings that exist.
 */
export type MemFdSeal = "seal" | "shrink" | "grow" | "write" | "futureWrite";

/** Bits of the seals. */
export const Seal = {
  seal: 1,
  shrink: 2,
  grow: 4,
  write: 8,
  futureWrite: 16,
} as const satisfies Record<MemFdSeal, number>;

/**
 * A piece of memory behind an fd.
 *
 * @example
 * ```ts
 * import { MemFd } from "@aio/context";
 * using memory = new MemFd("guest-ram", { size: 1 << 20, sealable: true });
 * memory.seal("shrink", "grow", "seal");
 * console.log(Deno.statSync(`/proc/self/fd/${memory.fd}`).size); // 1048576
 * ```
 */
export class MemFd implements Disposable {
  readonly #shim: Shim;
  readonly #owned: OwnedFd;

  /**
   * Makes a piece of memory.
   *
   * @param name what it is called in /proc, for people who look for it; it need not be unique
   * @throws {TypeError} when the name is no string or contains a NUL
   * @throws {RangeError} when the name is longer than 249 bytes, or the size is none
   * @throws {AioError} when there is no fd to be had
   */
  constructor(name: string, options: MemFdOptions = {}) {
    const bytes = encodeName(name);
    if (typeof options !== "object" || options === null) {
      throw new TypeError(`Cannot make memory as the options are no object: ${String(options)}`);
    }
    const { size = 0, sealable = false } = options;
    requireSize(size);
    if (typeof sealable !== "boolean") {
      throw new TypeError(
        `Cannot make memory as \`sealable\` is no boolean: ${Deno.inspect(sealable)}`,
      );
    }
    this.#shim = loadShim();
    // A zero follows it, as there is a byte more.
    const text = allocateNative(bytes.length + 1);
    new Uint8Array(text.buffer).set(bytes);
    const flags = MemFdFlag.cloexec | (sealable ? MemFdFlag.allowSealing : 0);
    const fd = this.#shim.aio_memfd_create(text.pointer, flags);
    this.#owned = new OwnedFd(
      this.#shim,
      "memory",
      check(fd, "Cannot make memory", "memfd_create"),
    );
    try {
      if (size !== 0) this.truncate(size);
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
  }

  /**
   * The file descriptor.
   *
   * @throws {TypeError} when it is disposed
   */
  get fd(): number {
    return this.#owned.fd;
  }

  /**
   * Sets the size: what is beyond it is gone, what is new is zero.
   *
   * @param size in bytes
   * @throws {RangeError} when it is not a whole number >= 0
   * @throws {AioError} EPERM when a seal forbids it; EFBIG beyond the limit of sizes (ulimit -f)
   */
  truncate(size: number): void {
    requireSize(size);
    const fd = this.fd;
    const result = this.#shim.aio_ftruncate(fd, size);
    if (result >= 0) return;
    const advice = result === -Errno.EPERM ? "a seal forbids it" : undefined;
    throw new AioError(`Cannot set memory fd ${fd} to ${size} bytes`, "ftruncate", -result, advice);
  }

  /**
   * Rules things out for good.
   *
   * @throws {TypeError} when one of them is no seal
   * @throws {AioError} EPERM when it is not sealable or its seals are sealed; EBUSY to rule out
   * writing while somebody has it mapped for that
   */
  seal(...seals: MemFdSeal[]): void {
    let bits = 0;
    for (const name of seals) {
      if (typeof name !== "string" || !Object.hasOwn(Seal, name)) {
        throw new TypeError(`Cannot seal memory as there is no such seal: ${Deno.inspect(name)}`);
      }
      bits |= Seal[name];
    }
    const fd = this.fd;
    const result = this.#shim.aio_fcntl_int(fd, Fcntl.addSeals, bits);
    if (result >= 0) return;
    const advice = result === -Errno.EPERM
      ? "it was made without `sealable`, or `seal` rules it out"
      : undefined;
    throw new AioError(`Cannot seal memory fd ${fd}`, "fcntl", -result, advice);
  }

  /** Closes the fd; memory that others hold or have mapped stays. Disposing twice is harmless. */
  [Symbol.dispose](): void {
    this.#owned[Symbol.dispose]();
  }
}

function encodeName(name: string): Uint8Array {
  if (typeof name !== "string" || name.includes("\0") || !name.isWellFormed()) {
    throw new TypeError(`Cannot make memory as its name is not a name: ${Deno.inspect(name)}`);
  }
  const bytes = new TextEncoder().encode(name);
  if (bytes.length > NAME_BYTES_MAX) {
    throw new RangeError(
      `Cannot make memory as its name is longer than ${NAME_BYTES_MAX} bytes: ${bytes.length}`,
    );
  }
  return bytes;
}

function requireSize(size: number): void {
  if (typeof size !== "number" || !Number.isSafeInteger(size) || size < 0) {
    throw new RangeError(
      `Cannot set the size of memory as it is not a whole number >= 0: ${Deno.inspect(size)}`,
    );
  }
}
