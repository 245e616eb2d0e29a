/**
 * Makes sockets and listeners of a context: new ones, and from fds that are given.
 *
 * A ring waits by itself for sockets that block, with one request less than for those that do not,
 * so its sockets do; on the other backends they never may. An fd that was made elsewhere is taken as
 * it is on a ring.
 */
import { AioError, Errno } from "../../ffi/errno.ts";
import {
  SocketFlag,
  SocketLevel,
  SocketOption,
  type Sockets,
  SocketType,
  TcpOption,
} from "../../ffi/socket.ts";
import { encodeSocketAddress, type SocketAddress, SocketDomain } from "../../ffi/socket_address.ts";
import { IoOwner, type OwnerKind } from "./io_owner.ts";
import type { IoRequests } from "./io_request.ts";
import { AioListener } from "./listener.ts";
import { type RequestOptions, SocketOperation } from "./operation.ts";
import { AioSocket } from "./socket.ts";

/** Options of TCP sockets. */
export interface SocketOptions {
  /** Sends small pieces at once (TCP_NODELAY); true where not given. */
  noDelay?: boolean;
}

/** How to listen. */
export interface ListenOptions extends SocketOptions {
  /** Connections that may wait to be accepted; 511 where not given. */
  backlog?: number;
  /** Several sockets may listen at one address, and connections are spread (SO_REUSEPORT). */
  reusePort?: boolean;
}

const SOCKET: OwnerKind = { name: "socket", cancels: true, takesTurns: true };
const LISTENER: OwnerKind = { name: "listener", cancels: true, takesTurns: false };

const BACKLOG = 511, BACKLOG_MAX = 0x7fff_ffff;
/** How long to wait before trying again to connect to a unix socket whose backlog is full. */
const BACKLOG_FULL_MS = 1;

/** Makes sockets. */
export class SocketMaker {
  readonly #io: IoRequests;
  readonly #sockets: Sockets;
  /** Sockets may block. */
  readonly #blocking: boolean;

  /** @param ring the backend is one */
  constructor(io: IoRequests, sockets: Sockets, ring: boolean) {
    this.#io = io;
    this.#sockets = sockets;
    this.#blocking = ring;
  }

  /** Listens at an address, or on an fd that does already. */
  listen(at: SocketAddress | { readonly fd: number }, options: ListenOptions): AioListener {
    const adopted = "fd" in at;
    const fd = adopted ? this.#take(at.fd) : this.#bind(at, options);
    const noDelay = options.noDelay !== false && this.#isTcp(fd);
    const flags = SocketFlag.cloexec | (this.#blocking ? 0 : SocketFlag.nonblock);
    const owner = new IoOwner(this.#io, fd, LISTENER);
    return new AioListener(owner, this.#sockets, flags, (accepted) => {
      if (noDelay) this.#setNoDelay(accepted);
      return this.#socketOf(accepted);
    });
  }

  /** A connected socket, from its fd. */
  adopt(fd: number): AioSocket {
    return this.#socketOf(this.#take(fd));
  }

  /** Connects to an address. */
  async connect(
    to: SocketAddress,
    options: SocketOptions & RequestOptions,
  ): Promise<AioSocket> {
    const address = encodeSocketAddress(await resolve(to));
    const domain = address[0] | address[1] << 8;
    const fd = this.#sockets.open(domain, SocketType.stream, 0, this.#blocking);
    const owner = new IoOwner(this.#io, fd, SOCKET);
    try {
      if (domain !== SocketDomain.unix && options.noDelay !== false) this.#setNoDelay(fd);
      while (!await this.#connect(owner, address, to, options)) {
        await new Promise((resolve) => setTimeout(resolve, BACKLOG_FULL_MS));
      }
    } catch (error) {
      await owner.close();
      throw error;
    }
    return new AioSocket(owner, this.#sockets);
  }

  /** Tries once; false where that has to be tried again. */
  async #connect(
    owner: IoOwner,
    address: Uint8Array,
    to: SocketAddress,
    options: RequestOptions,
  ): Promise<boolean> {
    const memory = this.#io.buffers.borrow(address.length);
    memory.set(address);
    const subject = "path" in to ? JSON.stringify(to.path) : `${to.hostname}:${to.port}`;
    const words = {
      address: this.#io.addressOf(memory),
      off: address.length,
      memory,
      subject,
    };
    try {
      await this.#io.request(SocketOperation.connect, owner, words, options);
      return true;
    } catch (error) {
      // A unix socket with a full backlog, for which nobody can wait.
      if (error instanceof AioError && error.errno === Errno.EAGAIN) return false;
      throw error;
    } finally {
      this.#io.buffers.giveBack(memory);
    }
  }

  #bind(at: SocketAddress, options: ListenOptions): number {
    const backlog = options.backlog ?? BACKLOG;
    if (!Number.isInteger(backlog) || backlog < 0 || backlog > BACKLOG_MAX) {
      throw new RangeError(
        `Cannot listen as the backlog is no whole number >= 0: ${String(backlog)}`,
      );
    }
    const address = localhost(at);
    const bytes = encodeSocketAddress(address);
    const domain = bytes[0] | bytes[1] << 8;
    const sockets = this.#sockets;
    const fd = sockets.open(domain, SocketType.stream, 0, this.#blocking);
    try {
      if (domain !== SocketDomain.unix) {
        sockets.setOption(fd, SocketLevel.socket, SocketOption.reuseaddr, 1);
      }
      if (options.reusePort === true) {
        sockets.setOption(fd, SocketLevel.socket, SocketOption.reuseport, 1);
      }
      sockets.bind(fd, address);
      sockets.listen(fd, backlog);
    } catch (error) {
      this.#io.closeNow(fd);
      throw error;
    }
    return fd;
  }

  #take(fd: number): number {
    if (!Number.isInteger(fd) || fd < 0 || fd > 0x7fff_ffff) {
      throw new RangeError(`Cannot use an fd as it is not a whole number >= 0: ${String(fd)}`);
    }
    // Tells whether it is a socket at all.
    this.#sockets.localAddress(fd);
    if (!this.#blocking) this.#sockets.setNonBlocking(fd);
    return fd;
  }

  #socketOf(fd: number): AioSocket {
    return new AioSocket(new IoOwner(this.#io, fd, SOCKET), this.#sockets);
  }

  #isTcp(fd: number): boolean {
    const domain = this.#sockets.getOption(fd, SocketLevel.socket, SocketOption.domain);
    return domain !== SocketDomain.unix;
  }

  #setNoDelay(fd: number): void {
    this.#sockets.setOption(fd, SocketLevel.tcp, TcpOption.nodelay, 1);
  }
}

function localhost(address: SocketAddress): SocketAddress {
  if (typeof address !== "object" || address === null || "path" in address) return address;
  return address.hostname === "localhost" ? { ...address, hostname: "127.0.0.1" } : address;
}

/** An address whose host is a literal; names are looked up as the system does. */
async function resolve(address: SocketAddress): Promise<SocketAddress> {
  if (typeof address !== "object" || address === null || "path" in address) return address;
  const { hostname } = address;
  if (typeof hostname !== "string" || hostname.includes(":") || /^[\d.]+$/.test(hostname)) {
    return address;
  }
  const { lookup } = await import("node:dns/promises");
  const found = await lookup(hostname);
  return { hostname: found.address, port: address.port };
}
