/**
 * An eventfd that one side sets and the other watches with setFdHandler.
 *
 * It owns its fd. Once disposed it refuses every use, as the number may belong to somebody else.
 */
import { AioError, check, Errno } from "../ffi/errno.ts";
import { loadShim } from "../ffi/library.ts";
import { allocateNative } from "../ffi/memory.ts";
import { Fcntl, SocketFlag } from "../ffi/socket.ts";
import type { Shim } from "../ffi/shim_symbols.ts";
import { System } from "../ffi/system.ts";

const FD_MAX = 0x7fff_ffff;
/** Bits of a file's mode that say what it is; none of them is set for an eventfd. */
const KIND_OF_FILE = 0o170000;

/** That of all notifiers: a device with thousands of queues has thousands of them. */
let shared: System | null = null;

/**
 * A counter behind an fd: readable while set.
 *
 * @example
 * ```ts
 * import { AioContext, EventNotifier } from "@aio/context";
 * using ctx = new AioContext();
 * using notifier = new EventNotifier();
 * ctx.setFdHandler(notifier.fd, { ioRead: () => console.log(notifier.testAndClear()) });
 * notifier.set();
 * ctx.poll(true); // prints true
 * ctx.setFdHandler(notifier.fd, null);
 * ```
 */
export class EventNotifier implements Disposable {
  readonly #system: System;
  #fd: number;

  /**
   * Makes an eventfd, or takes over one that came from somebody else, as with a message.
   *
   * @param source `{ fd }`, an open eventfd, which is closed with the object and does not block any
   * more; where not given one is made
   * @throws {TypeError} when that is none; {RangeError} when it cannot be an fd
   * @throws {AioError} when there is no fd to be had; EBADF when it is not open; EINVAL when it is
   * a file, a socket or a pipe. It stays the caller's then.
   */
  constructor(source?: { readonly fd: number }) {
    const shim = loadShim();
    this.#system = shared ??= new System(shim);
    this.#fd = source === undefined ? this.#system.eventfd() : adopt(shim, source);
    this.#system.own(this.#fd);
  }

  /**
   * The file descriptor.
   *
   * @throws {TypeError} when the notifier is disposed
   */
  get fd(): number {
    if (this.#fd === -1) throw new TypeError("Cannot use event notifier as it is disposed");
    return this.#fd;
  }

  /** Makes the fd readable. Setting it again before it is cleared changes nothing. */
  set(): void {
    this.#system.signal(this.fd);
  }

  /** Makes the fd unreadable. @returns whether it was set */
  testAndClear(): boolean {
    return this.#system.drain(this.fd);
  }

  /** Closes the fd; delete its handler before. Disposing twice is harmless. */
  [Symbol.dispose](): void {
    if (this.#fd === -1) return;
    const fd = this.#fd;
    this.#fd = -1;
    this.#system.close(fd);
  }
}

function adopt(shim: Shim, source: { readonly fd: number }): number {
  if (typeof source !== "object" || source === null) {
    throw new TypeError(`Cannot take over an event notifier as it is no object: ${typeof source}`);
  }
  const { fd } = source;
  if (typeof fd !== "number") {
    throw new TypeError(
      `Cannot take over an event notifier as the fd is not a number: ${typeof fd}`,
    );
  }
  if (!Number.isInteger(fd) || fd < 0 || fd > FD_MAX) {
    throw new RangeError(
      `Cannot take over an event notifier as the fd is not a whole number >= 0: ${fd}`,
    );
  }
  const what = `Cannot take over event notifier fd ${fd}`;
  const mode = check(shim.aio_fd_status(fd, allocateNative(16).pointer), what, "fstat");
  if ((mode & KIND_OF_FILE) !== 0) throw new AioError(what, "fstat", Errno.EINVAL, "no eventfd");
  const flags = check(shim.aio_fcntl_int(fd, Fcntl.getfl, 0), what, "fcntl");
  check(shim.aio_fcntl_int(fd, Fcntl.setfl, flags | SocketFlag.nonblock), what, "fcntl");
  return fd;
}
