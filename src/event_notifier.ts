/**
 * An eventfd that one side sets and the other watches with setFdHandler.
 *
 * It owns its fd. Once disposed it refuses every use, as the number may belong to somebody else.
 */
import { loadShim } from "../ffi/library.ts";
import { System } from "../ffi/system.ts";

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

  /** @throws {AioError} when there is no fd to be had */
  constructor() {
    this.#system = new System(loadShim());
    this.#fd = this.#system.eventfd();
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
