/**
 * The system calls of the shim, with their failures turned into errors and their number counted.
 *
 * One System belongs to one context, so `calls` is what that cost, or to all notifiers. Calls whose
 * errno the caller has to tell apart return it; the others throw.
 */
import { AioError, check, Errno } from "./errno.ts";
import { FdOwners } from "./fd_owners.ts";
import { allocateNative, type NativeMemory } from "./memory.ts";
import type { Shim } from "./shim_symbols.ts";
import { Fcntl, SocketFlag } from "./socket.ts";

/** `op` of epoll_ctl(2). */
export const EpollOp = { add: 1, delete: 2, modify: 3 } as const;

/** Event bits shared by poll(2), epoll(7) and io_uring's POLL_ADD. */
export const PollEvent = { in: 0x1, out: 0x4, error: 0x8, hangUp: 0x10, invalid: 0x20 } as const;

/** Bytes that the shim says what a file is with, beyond the mode that it returns. */
const FILE_STATUS_BYTES = 16;
/** Bits of a file's mode that say what it is; none of them is set for an eventfd. */
const KIND_OF_FILE = 0o170000;

/** The shim's system calls, counted. */
export class System {
  /** System calls made through this object, and by the ring that counts here too. */
  calls = 0;
  /**
   * Its one element bounds the next epollWait or ppoll, in ns; negative waits for ever. An array,
   * as V8 may allocate for a double that is passed to a function.
   */
  readonly timeoutNs: Float64Array<ArrayBuffer>;
  readonly #timeout = allocateNative(8);
  #status: NativeMemory | null = null;
  readonly #shim: Shim;
  readonly #owners: FdOwners;

  constructor(shim: Shim) {
    this.#shim = shim;
    this.#owners = FdOwners.of(shim);
    this.timeoutNs = this.#timeout.f64;
  }

  /** CLOCK_MONOTONIC in nanoseconds; no system call. */
  now(): number {
    return this.#shim.aio_now();
  }

  /** A new non-blocking eventfd. */
  eventfd(): number {
    this.calls++;
    const fd = check(this.#shim.aio_eventfd(), "Cannot make an event notifier", "eventfd");
    this.own(fd);
    return fd;
  }

  /** Takes an eventfd over that somebody else has opened, and has it not block. @returns the fd */
  adoptEventfd(fd: number): number {
    this.calls += 3;
    const what = `Cannot take over event notifier fd ${fd}`;
    this.#status ??= allocateNative(FILE_STATUS_BYTES);
    const mode = check(this.#shim.aio_fd_status(fd, this.#status.pointer), what, "fstat");
    if ((mode & KIND_OF_FILE) !== 0) throw new AioError(what, "fstat", Errno.EINVAL, "no eventfd");
    const flags = check(this.#shim.aio_fcntl_int(fd, Fcntl.getfl, 0), what, "fcntl");
    check(this.#shim.aio_fcntl_int(fd, Fcntl.setfl, flags | SocketFlag.nonblock), what, "fcntl");
    this.own(fd);
    return fd;
  }

  /** An object of this thread closes an fd. */
  own(fd: number): void {
    this.#owners.own(fd);
  }

  /** It is not this thread's to close any more; to be called before it is closed by others. */
  disown(fd: number): void {
    this.#owners.disown(fd);
  }

  /** Adds one to an eventfd. */
  signal(fd: number): void {
    this.calls++;
    const result = this.#shim.aio_eventfd_signal(fd);
    // EAGAIN: the counter is full, so the fd is readable already, which is all a signal wants.
    if (result < 0 && result !== -Errno.EAGAIN) {
      throw new AioError(`Cannot signal event notifier fd ${fd}`, "write", -result);
    }
  }

  /** Zeroes an eventfd; true when it was not zero. */
  drain(fd: number): boolean {
    this.calls++;
    const result = this.#shim.aio_eventfd_drain(fd);
    return check(result, `Cannot clear event notifier fd ${fd}`, "read") === 1;
  }

  /** Closes an fd this project opened. */
  close(fd: number): void {
    this.calls++;
    this.disown(fd);
    const result = this.#shim.aio_close(fd);
    // Linux has released the fd when close() reports EINTR.
    if (result < 0 && result !== -Errno.EINTR) {
      throw new AioError(`Cannot close fd ${fd}`, "close", -result);
    }
  }

  /** Throws when the fd is not open. */
  requireOpen(fd: number): void {
    this.calls++;
    const result = this.#shim.aio_fd_check(fd);
    if (result < 0) {
      throw new AioError(
        `Cannot watch fd ${fd}`,
        "fcntl",
        -result,
        "the file descriptor is not open",
      );
    }
  }

  /** A new epoll instance. */
  epollCreate(): number {
    this.calls++;
    const what = "Cannot make an epoll instance";
    const fd = check(this.#shim.aio_epoll_create(), what, "epoll_create1");
    this.own(fd);
    return fd;
  }

  /** epoll_ctl(2); 0 or -errno. `data` comes back with the events. */
  epollControl(epollFd: number, op: number, fd: number, events: number, data: number): number {
    this.calls++;
    return this.#shim.aio_epoll_ctl(epollFd, op, fd, events, data);
  }

  /** epoll_pwait2(2), bounded by `timeoutNs`; the number of events or -errno. */
  epollWait(epollFd: number, events: NativeMemory, capacity: number): number {
    this.calls++;
    return this.#shim.aio_epoll_wait(epollFd, events.pointer, capacity, this.#timeout.pointer);
  }

  /** ppoll(2), bounded by `timeoutNs`; the number of ready fds or -errno. */
  ppoll(fds: NativeMemory, count: number): number {
    this.calls++;
    return this.#shim.aio_ppoll(fds.pointer, count, this.#timeout.pointer);
  }
}
