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
import {
  describeSocketAddress,
  encodeSocketAddress,
  type IpAddress,
  type SocketAddress,
  SocketDomain,
  type UnixAddress,
} from "../../ffi/socket_address.ts";
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
    const { backlog = BACKLOG, reusePort = false, noDelay = true } = requireObject(
      options,
      "listen",
    );
    requireBoolean(reusePort, "reusePort");
    requireBoolean(noDelay, "noDelay");
    requireBacklog(backlog);
    requireObject(at, "listen");
    const fd = "fd" in at ? this.#takeListening(at.fd) : this.#bind(at, backlog, reusePort);
    const smallAtOnce = noDelay && this.#isTcp(fd);
    const flags = SocketFlag.cloexec | (this.#blocking ? 0 : SocketFlag.nonblock);
    return new AioListener(this.#own(fd, LISTENER), this.#sockets, flags, (accepted) => {
      if (smallAtOnce) this.#setNoDelay(accepted);
      return this.#socketOf(accepted);
    });
  }

  /** A connected socket, from its fd. */
  adopt(fd: number): AioSocket {
    return this.#socketOf(this.#take(fd));
  }

  /** Connects to an address; to those of a name one after the other. */
  async connect(
    to: SocketAddress,
    options: SocketOptions & RequestOptions,
  ): Promise<AioSocket> {
    const { noDelay = true, signal } = requireObject(options, "connect");
    requireBoolean(noDelay, "noDelay");
    const [first, ...others] = await resolve(to);
    let failed: unknown;
    for (const address of [first, ...others]) {
      try {
        return await this.#connectTo(address, noDelay, { signal });
      } catch (error) {
        if (!(error instanceof AioError) || signal?.aborted) throw error;
        failed ??= error;
      }
    }
    throw failed;
  }

  async #connectTo(
    to: SocketAddress,
    noDelay: boolean,
    options: RequestOptions,
  ): Promise<AioSocket> {
    const address = encodeSocketAddress(to);
    const domain = address[0] | address[1] << 8;
    const fd = this.#sockets.open(domain, SocketType.stream, 0, this.#blocking);
    const owner = this.#own(fd, SOCKET);
    try {
      if (domain !== SocketDomain.unix && noDelay) this.#setNoDelay(fd);
      const subject = describeSocketAddress(to);
      while (!await this.#connect(owner, address, subject, options)) {
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
    subject: string,
    options: RequestOptions,
  ): Promise<boolean> {
    const memory = this.#io.buffers.borrow(address.length);
    memory.set(address);
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
      const isFull = error instanceof AioError && error.errno === Errno.EAGAIN;
      if (isFull && address[0] === SocketDomain.unix) return false;
      throw error;
    } finally {
      this.#io.buffers.giveBack(memory);
    }
  }

  #bind(at: SocketAddress, backlog: number, reusePort: boolean): number {
    const address = localhost(readAddress(at));
    const domain = encodeSocketAddress(address)[0];
    const sockets = this.#sockets;
    const fd = sockets.open(domain, SocketType.stream, 0, this.#blocking);
    try {
      if (domain !== SocketDomain.unix) {
        sockets.setOption(fd, SocketLevel.socket, SocketOption.reuseaddr, 1);
      }
      if (reusePort) sockets.setOption(fd, SocketLevel.socket, SocketOption.reuseport, 1);
      sockets.bind(fd, address);
      sockets.listen(fd, backlog);
    } catch (error) {
      this.#io.closeNow(fd);
      throw error;
    }
    return fd;
  }

  #takeListening(fd: number): number {
    this.#take(fd);
    if (this.#sockets.getOption(fd, SocketLevel.socket, SocketOption.acceptconn) === 0) {
      throw new TypeError(`Cannot listen on fd ${fd} as it is no listening socket`);
    }
    return fd;
  }

  #take(fd: number): number {
    if (typeof fd !== "number") {
      throw new TypeError(`Cannot use an fd as it is not a number: ${typeof fd}`);
    }
    if (!Number.isInteger(fd) || fd < 0 || fd > 0x7fff_ffff) {
      throw new RangeError(`Cannot use an fd as it is not a whole number >= 0: ${fd}`);
    }
    // Tells whether it is a socket at all.
    this.#sockets.localAddress(fd);
    if (!this.#blocking) this.#sockets.setNonBlocking(fd);
    return fd;
  }

  #socketOf(fd: number): AioSocket {
    return new AioSocket(this.#own(fd, SOCKET), this.#sockets);
  }

  /** The number may have been that of an fd that somebody closed without our knowing. */
  #own(fd: number, kind: OwnerKind): IoOwner {
    this.#io.forget(fd);
    return new IoOwner(this.#io, fd, kind);
  }

  #isTcp(fd: number): boolean {
    const domain = this.#sockets.getOption(fd, SocketLevel.socket, SocketOption.domain);
    return domain === SocketDomain.inet || domain === SocketDomain.inet6;
  }

  #setNoDelay(fd: number): void {
    this.#sockets.setOption(fd, SocketLevel.tcp, TcpOption.nodelay, 1);
  }
}

function requireObject<Value>(value: Value, verb: string): Value & object {
  if (typeof value === "object" && value !== null) return value;
  const kind = value === null ? "null" : typeof value;
  throw new TypeError(`Cannot ${verb} as an argument is no object: ${kind}`);
}

function requireBoolean(value: boolean, name: string): void {
  if (typeof value === "boolean") return;
  throw new TypeError(`Cannot use the options as ${name} is not a boolean: ${typeof value}`);
}

function requireBacklog(backlog: number): void {
  if (typeof backlog !== "number") {
    throw new TypeError(`Cannot listen as the backlog is not a number: ${typeof backlog}`);
  }
  if (Number.isInteger(backlog) && backlog >= 0 && backlog <= BACKLOG_MAX) return;
  throw new RangeError(`Cannot listen as the backlog is no whole number >= 0: ${backlog}`);
}

/** An address of a caller, each property read once, and checked by who encodes it. */
function readAddress(address: SocketAddress): SocketAddress {
  const { path, hostname, port } = requireObject(address, "use socket address") as Partial<
    UnixAddress & IpAddress
  >;
  return { path, hostname, port } as SocketAddress;
}

function localhost(address: SocketAddress): SocketAddress {
  const { hostname } = address as Partial<IpAddress>;
  return hostname === "localhost" ? { ...address, hostname: "127.0.0.1" } : address;
}

/** Addresses whose hosts are literals; names are looked up as the system does. */
async function resolve(to: SocketAddress): Promise<SocketAddress[]> {
  const address = readAddress(to);
  const { path, hostname, port } = address as Partial<UnixAddress & IpAddress>;
  if (path !== undefined || !isName(hostname)) return [address];
  // What is wrong with the port is to be told without asking anybody.
  encodeSocketAddress({ hostname: "0.0.0.0", port: port! });
  const { lookup } = await import("node:dns/promises");
  try {
    const found = await lookup(hostname, { all: true });
    if (found.length !== 0) return found.map((one) => ({ hostname: one.address, port: port! }));
  } catch (cause) {
    if (cause instanceof Deno.errors.NotCapable) throw cause;
    const { code } = cause as { code?: unknown };
    throw new Error(`Cannot look up ${JSON.stringify(hostname)}: ${String(code)}`, { cause });
  }
  throw new Error(`Cannot look up ${JSON.stringify(hostname)}: it has no address`);
}

/** Whether it is a host's name: neither an IPv4 nor an IPv6 literal, good or bad. */
function isName(hostname: unknown): hostname is string {
  return typeof hostname === "string" && hostname !== "" && !hostname.includes(":") &&
    !/^[\d.]+$/.test(hostname);
}
