/**
 * An eventfd that one side sets and the other watches with setFdHandler.
 *
 * It owns its fd. Once disposed it refuses every use, as the number may belong to somebody else.
 */
import { loadShim } from "../ffi/library.ts";
import { System } from "../ffi/system.ts";

const FD_MAX = 0x7fff_ffff;

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
    const system = this.#system = shared ??= new System(loadShim());
    this.#fd = source === undefined ? system.eventfd() : system.adoptEventfd(readFd(source));
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

function readFd(source: { readonly fd: number }): number {
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
  return fd;
}
