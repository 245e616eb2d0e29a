/**
 * Sockets and fds as far as they need no waiting: made, named, set up, asked. What transfers data
 * or waits is left to requests.
 *
 * Everything made here closes on exec and does not block. Failures are errors that say which
 * address or fd was meant; a connect that is under way is none. Fds and numbers come from inside
 * the project and are not checked again.
 */
import { AioError, check, Errno } from "./errno.ts";
import { allocateNative } from "./memory.ts";
import type { Shim } from "./shim_symbols.ts";
import {
  ADDRESS_BYTES_MAX,
  decodeSocketAddress,
  describeSocketAddress,
  encodeSocketAddress,
  type SocketAddress,
} from "./socket_address.ts";

/** What kind of socket, to be combined with `SocketFlag`. */
export const SocketType = { stream: 1, dgram: 2, seqpacket: 5 } as const;

/** Bits of a socket's type that are flags; a pipe and a timerfd have the same. */
export const SocketFlag = { cloexec: 0o2000000, nonblock: 0o4000 } as const;

/** Levels of socket options. */
export const SocketLevel = { socket: 1, tcp: 6, ipv6: 41 } as const;

/** Options of the level `socket`. */
export const SocketOption = {
  reuseaddr: 2,
  error: 4,
  reuseport: 15,
  acceptconn: 30,
  domain: 39,
} as const;

/** Options of the level `tcp`. */
export const TcpOption = { nodelay: 1 } as const;

/** Which half of a connection to shut down. */
export const Shutdown = { rd: 0, wr: 1, rdwr: 2 } as const;

/** Commands of fcntl(2). */
export const Fcntl = {
  getfl: 3,
  setfl: 4,
  dupfdCloexec: 1030,
  addSeals: 1033,
  getSeals: 1034,
} as const;

/** The shim's calls for sockets. */
export class Sockets {
  readonly #shim: Shim;
  readonly #address = allocateNative(ADDRESS_BYTES_MAX);
  readonly #addressBytes = new Uint8Array(this.#address.buffer);
  readonly #value = allocateNative(4);

  constructor(shim: Shim) {
    this.#shim = shim;
  }

  /** A new socket, non-blocking unless told otherwise; `type` is a `SocketType`. */
  open(domain: number, type: number, protocol = 0, blocking = false): number {
    const flags = SocketFlag.cloexec | (blocking ? 0 : SocketFlag.nonblock);
    const fd = this.#shim.aio_socket(domain, type | flags, protocol);
    return check(fd, "Cannot make a socket", "socket");
  }

  /** Gives a socket its own address. */
  bind(fd: number, address: SocketAddress): void {
    const result = this.#shim.aio_bind(fd, this.#address.pointer, this.#store(address));
    this.#check(result, () => `Cannot bind fd ${fd} to ${describeSocketAddress(address)}`, "bind");
  }

  /** Lets others connect; the kernel cuts the backlog to net.core.somaxconn. */
  listen(fd: number, backlog: number): void {
    this.#check(this.#shim.aio_listen(fd, backlog), () => `Cannot listen on fd ${fd}`, "listen");
  }

  /**
   * Begins to connect.
   *
   * @returns true when it is done; false when the fd becomes writable once it is decided, and
   * `takeError` then tells how
   */
  connect(fd: number, address: SocketAddress): boolean {
    const result = this.#shim.aio_connect(fd, this.#address.pointer, this.#store(address));
    if (result === -Errno.EINPROGRESS) return false;
    this.#check(
      result,
      () => `Cannot connect fd ${fd} to ${describeSocketAddress(address)}`,
      "connect",
    );
    return true;
  }

  /** The errno that is pending, 0 if none, and no longer pending afterwards. */
  takeError(fd: number): number {
    return this.getOption(fd, SocketLevel.socket, SocketOption.error);
  }

  /** Ends one direction or both; `how` is of `Shutdown`. */
  shutdown(fd: number, how: number): void {
    const result = this.#shim.aio_shutdown(fd, how);
    this.#check(result, () => `Cannot shut down fd ${fd}`, "shutdown");
  }

  /** Sets an option that is an int. */
  setOption(fd: number, level: number, name: number, value: number): void {
    const result = this.#shim.aio_setsockopt_int(fd, level, name, value);
    const what = () => `Cannot set option ${name} of level ${level} of fd ${fd} to ${value}`;
    this.#check(result, what, "setsockopt");
  }

  /** Reads an option that is an int. */
  getOption(fd: number, level: number, name: number): number {
    const result = this.#shim.aio_getsockopt_int(fd, level, name, this.#value.pointer);
    this.#check(
      result,
      () => `Cannot get option ${name} of level ${level} of fd ${fd}`,
      "getsockopt",
    );
    return this.#value.i32[0];
  }

  /** Where a socket is; a port that was 0 is the one it got. */
  localAddress(fd: number): SocketAddress {
    const length = this.#shim.aio_getsockname(fd, this.#address.pointer, ADDRESS_BYTES_MAX);
    this.#check(length, () => `Cannot get the address of fd ${fd}`, "getsockname");
    return decodeSocketAddress(this.#addressBytes, length);
  }

  /** Whom a socket is connected to. */
  peerAddress(fd: number): SocketAddress {
    const length = this.#shim.aio_getpeername(fd, this.#address.pointer, ADDRESS_BYTES_MAX);
    this.#check(length, () => `Cannot get the peer of fd ${fd}`, "getpeername");
    return decodeSocketAddress(this.#addressBytes, length);
  }

  /** Makes an fd that came from elsewhere non-blocking, for all who share its open file. */
  setNonBlocking(fd: number): void {
    const what = () => `Cannot make fd ${fd} non-blocking`;
    const flags = this.#shim.aio_fcntl_int(fd, Fcntl.getfl, 0);
    this.#check(flags, what, "fcntl");
    if ((flags & SocketFlag.nonblock) !== 0) return;
    const result = this.#shim.aio_fcntl_int(fd, Fcntl.setfl, flags | SocketFlag.nonblock);
    this.#check(result, what, "fcntl");
  }

  /** Another fd of the same open file, which closes on exec. */
  duplicate(fd: number): number {
    const result = this.#shim.aio_fcntl_int(fd, Fcntl.dupfdCloexec, 0);
    this.#check(result, () => `Cannot duplicate fd ${fd}`, "fcntl");
    return result;
  }

  /** Puts an address where C finds it. @returns its length */
  #store(address: SocketAddress): number {
    const bytes = encodeSocketAddress(address);
    this.#addressBytes.set(bytes);
    return bytes.length;
  }

  /** Words an error only if there is one. */
  #check(result: number, what: () => string, syscall: string): void {
    if (result >= 0) return;
    // The usual advice is for handlers.
    const advice = result === -Errno.EBADF ? "the file descriptor is not open" : undefined;
    throw new AioError(what(), syscall, -result, advice);
  }
}
