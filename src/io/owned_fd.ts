/**
 * An fd that one object owns: handed out while it is open, closed once.
 *
 * Once closed it refuses every use, as the number may belong to somebody else.
 */
import { loadShim } from "../../ffi/library.ts";
import { System } from "../../ffi/system.ts";
import type { Shim } from "../../ffi/shim_symbols.ts";

const CLOSED = -1;
const FD_MAX = 0x7fff_ffff;

/** The fd of a timer, a process, a piece of memory. */
export class OwnedFd implements Disposable {
  readonly #system: System;
  readonly #thing: string;
  #fd: number;

  /**
   * Takes an fd over.
   *
   * @param thing what it is, in the words of an error
   * @param ofThread whether it is closed with the thread; else the process may go on using it
   */
  constructor(shim: Shim, thing: string, fd: number, ofThread: boolean = true) {
    this.#system = new System(shim);
    if (ofThread) this.#system.own(fd);
    this.#thing = thing;
    this.#fd = fd;
  }

  /** Whether it is still open. */
  get isOpen(): boolean {
    return this.#fd !== CLOSED;
  }

  /**
   * The file descriptor.
   *
   * @throws {TypeError} when it is closed
   */
  get fd(): number {
    if (this.#fd === CLOSED) throw new TypeError(`Cannot use ${this.#thing} as it is disposed`);
    return this.#fd;
  }

  /** Closes it, the first time. */
  [Symbol.dispose](): void {
    if (this.#fd === CLOSED) return;
    const fd = this.#fd;
    this.#fd = CLOSED;
    this.#system.close(fd);
  }
}

/**
 * Closes an fd that belongs to no object, such as one that came with a message.
 *
 * @throws {TypeError} when it is no number; {RangeError} when it cannot be an fd
 * @throws {AioError} EBADF when it is not open
 */
export function closeFd(fd: number): void {
  if (typeof fd !== "number") {
    throw new TypeError(`Cannot close an fd as it is not a number: ${typeof fd}`);
  }
  if (!Number.isInteger(fd) || fd < 0 || fd > FD_MAX) {
    throw new RangeError(`Cannot close an fd as it is not a whole number >= 0: ${fd}`);
  }
  new System(loadShim()).close(fd);
}
