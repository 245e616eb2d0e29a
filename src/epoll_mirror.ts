/**
 * An epoll instance with the fds that a ring watches, for another thread to wait on.
 *
 * A ring tells of completions elsewhere through an eventfd, but the kernel puts that off for some ten
 * milliseconds where the event is itself the write of an eventfd, as every wake-up of a context is.
 * So what is watched for handlers is waited for directly. Invariant: it has the fds of the handlers
 * that the ring watches, but for those that epoll refuses, which the ring finds ready at once.
 */
import { check, Errno } from "../ffi/errno.ts";
import { EpollOp, type System } from "../ffi/system.ts";
import type { AioHandler } from "./aio_handler.ts";

/** Watches fds for somebody else. */
export class EpollMirror {
  /** Readable while one of the fds is ready. */
  readonly fd: number;
  readonly #system: System;

  /** @throws {AioError} when there is no epoll instance to be had */
  constructor(system: System) {
    this.#system = system;
    this.fd = system.epollCreate();
  }

  /** Watches a handler's fd. */
  watch({ fd, events }: AioHandler): void {
    const added = this.#system.epollControl(this.fd, EpollOp.add, fd, events, fd);
    // Epoll refuses regular files, which are always ready.
    if (added === 0 || added === -Errno.EPERM) return;
    // The number is known where it was closed and is open again through another number's file.
    const result = added === -Errno.EEXIST
      ? this.#system.epollControl(this.fd, EpollOp.modify, fd, events, fd)
      : added;
    check(result, `Cannot watch fd ${fd}`, "epoll_ctl");
  }

  /** Watches it no more. */
  unwatch({ fd }: AioHandler): void {
    // Where that fails the fd was closed and has left by itself.
    this.#system.epollControl(this.fd, EpollOp.delete, fd, 0, 0);
  }

  /** Gives it back. */
  dispose(): void {
    this.#system.close(this.fd);
  }
}
