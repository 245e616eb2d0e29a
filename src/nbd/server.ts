/**
 * An NBD server on a context: listeners, connections, and how all of it ends.
 */
import type {
  AioContext,
  AioListener,
  AioSocket,
  ListenOptions,
  SocketAddress,
} from "../../mod.ts";
import { type ConnectionParts, NbdConnection } from "./connection.ts";
import { type NbdExport, NbdExports } from "./exports.ts";
import { NbdMemory } from "./memory.ts";
import { NbdCounters, type NbdStats } from "./stats.ts";

/** Limits of a server. */
export interface NbdServerOptions {
  /** Connections at a time: more wait to be accepted. 0, and no limit, where not given. */
  readonly connectionsMax?: number;
  /** Requests of one connection that are carried out at a time; 128 where not given. */
  readonly requestsMax?: number;
  /**
   * Bytes of memory that those of one connection may take; 2 MiB where not given. A request that is
   * alone may take what it needs, up to 32 MiB.
   */
  readonly bytesMax?: number;
  /** How long `close` waits for clients to take their replies, in ns; 10 seconds where not given. */
  readonly graceNs?: number;
  /**
   * Told why a connection has ended, where that was not for its client to end it in good order: a
   * `ProtocolViolation`, or what the system says, as ECONNRESET. The server goes on all the same.
   */
  readonly onConnectionError?: (error: unknown) => void;
}

const REQUESTS_MAX = 128, GRACE_NS = 10e9;
/**
 * What is read is sent while it is in the processor's caches: a copy of a cached disk takes half the
 * time it takes with 64 MiB.
 */
const BYTES_MAX = 2 << 20;

/**
 * Serves block devices to NBD clients.
 *
 * @example
 * ```ts
 * import { AioContext } from "@aio/context";
 * import { MemoryBlockDevice } from "@aio/context/block";
 * import { NbdServer } from "@aio/context/nbd";
 * using ctx = new AioContext();
 * await ctx.run(async () => {
 *   await using server = new NbdServer(ctx, [{ name: "scratch", device: new MemoryBlockDevice(1e9) }]);
 *   const address = server.listen({ hostname: "127.0.0.1", port: 0 });
 *   console.log(address); // nbd://127.0.0.1:PORT/scratch
 * });
 * ```
 */
export class NbdServer implements AsyncDisposable {
  readonly #ctx: AioContext;
  readonly #exports: NbdExports;
  readonly #counters = new NbdCounters();
  readonly #memory: NbdMemory;
  readonly #parts: ConnectionParts;
  readonly #connectionsMax: number;
  readonly #graceNs: number;
  readonly #listeners = new Set<AioListener>();
  readonly #accepting = new Set<Promise<void>>();
  /** Paths of unix sockets that were made here. */
  readonly #paths: string[] = [];
  readonly #connections = new Map<NbdConnection, Promise<void>>();
  /** Wait for a connection to end. */
  readonly #placeWanted: (() => void)[] = [];
  #closed: Promise<void> | null = null;
  #failure: unknown = null;

  /**
   * Makes a server, which serves once it listens or is given connections.
   *
   * @param ctx has to be driven for anything to happen, by `run` or otherwise
   * @param exports what is served
   * @param options limits
   * @throws {TypeError} or {RangeError} for what cannot be served, and for bad options
   */
  constructor(ctx: AioContext, exports: readonly NbdExport[], options: NbdServerOptions = {}) {
    const limits = readOptions(options);
    this.#ctx = ctx;
    this.#exports = new NbdExports(exports);
    this.#memory = new NbdMemory(ctx);
    this.#connectionsMax = limits.connectionsMax;
    this.#graceNs = limits.graceNs;
    this.#parts = {
      ctx,
      exports: this.#exports,
      memory: this.#memory,
      counters: this.#counters,
      freeRequests: [],
      requestsMax: limits.requestsMax,
      bytesMax: limits.bytesMax,
      report: limits.onConnectionError,
    };
  }

  /**
   * Listens, and serves whoever connects. May be called for several addresses.
   *
   * @param at an address, or `{ fd }` of a socket that listens already
   * @returns the address, in which a port of 0 has become a real one
   * @throws {AioError} EADDRINUSE and the like; {TypeError} when the server is closed
   */
  listen(at: SocketAddress | { readonly fd: number }, options?: ListenOptions): SocketAddress {
    this.#requireOpen("listen");
    const listener = this.#ctx.listen(at, options);
    const { address } = listener;
    if (!("fd" in at) && "path" in address && !address.path.startsWith("\0")) {
      this.#paths.push(address.path);
    }
    this.#listeners.add(listener);
    const accepting = this.#accept(listener).catch((error) => this.#failure ??= error);
    this.#accepting.add(accepting);
    return address;
  }

  /**
   * Serves a connection that was accepted elsewhere, and closes it.
   *
   * @returns when the connection has ended
   * @throws {TypeError} when the server is closed
   */
  async serve(socket: AioSocket): Promise<void> {
    this.#requireOpen("serve");
    if (this.#isFull) {
      this.#counters.refused++;
      return await socket.close();
    }
    await this.#begin(socket);
  }

  /** Counters, as they are now. */
  stats(): NbdStats {
    return this.#counters.read();
  }

  /**
   * Ends: nobody is accepted any more, requests in flight are carried out and replied to, and the
   * devices are flushed. Closing again is harmless.
   *
   * @throws what a flush, accepting connections or `onConnectionError` has thrown
   */
  close(): Promise<void> {
    return this.#closed ??= this.#close();
  }

  /** Closes. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  get #isFull(): boolean {
    return this.#connectionsMax !== 0 && this.#connections.size >= this.#connectionsMax;
  }

  async #accept(listener: AioListener): Promise<void> {
    for await (const socket of listener) {
      await this.#waitForPlace();
      if (this.#closed !== null) return await socket.close();
      this.#begin(socket).catch((error) => this.#failure ??= error);
    }
  }

  async #waitForPlace(): Promise<void> {
    while (this.#isFull && this.#closed === null) {
      await new Promise<void>((resolve) => this.#placeWanted.push(resolve));
    }
  }

  #begin(socket: AioSocket): Promise<void> {
    const counters = this.#counters;
    counters.accepted++;
    counters.connections++;
    const connection = new NbdConnection(this.#parts, socket);
    const ended = connection.run().finally(() => {
      counters.connections--;
      this.#connections.delete(connection);
      this.#placeWanted.shift()?.();
    });
    this.#connections.set(connection, ended);
    return ended;
  }

  async #close(): Promise<void> {
    for (const goOn of this.#placeWanted.splice(0)) goOn();
    await Promise.all([...this.#listeners].map((listener) => listener.close()));
    await Promise.all(this.#accepting);
    for (const path of this.#paths) await Deno.remove(path).catch(() => {});
    const connections = [...this.#connections];
    for (const [connection] of connections) connection.stop();
    const impatience = this.#ctx.timer(() => {
      for (const [connection] of connections) connection.abort();
    });
    impatience.arm(this.#ctx.now() + this.#graceNs);
    await Promise.allSettled(connections.map(([, ended]) => ended));
    impatience.cancel();
    this.#memory.close();
    const writable = this.#exports.devices.filter(({ readOnly }) => !readOnly);
    await Promise.all(writable.map((device) => device.flush()));
    if (this.#failure !== null) throw this.#failure;
  }

  #requireOpen(verb: string): void {
    if (this.#closed !== null) throw new TypeError(`Cannot ${verb} as the server is closed`);
  }
}

function readOptions(options: NbdServerOptions): Required<NbdServerOptions> {
  if (typeof options !== "object" || options === null) {
    throw new TypeError(`Cannot serve as the options are no object: ${String(options)}`);
  }
  const {
    connectionsMax = 0,
    requestsMax = REQUESTS_MAX,
    bytesMax = BYTES_MAX,
    graceNs = GRACE_NS,
    onConnectionError = () => {},
  } = options;
  if (typeof onConnectionError !== "function") {
    throw new TypeError(
      `Cannot serve as onConnectionError is no function: ${typeof onConnectionError}`,
    );
  }
  const read = { connectionsMax, requestsMax, bytesMax, graceNs };
  for (const [name, value] of Object.entries(read)) {
    const least = name === "requestsMax" ? 1 : 0;
    if (typeof value !== "number") {
      throw new TypeError(`Cannot serve as ${name} is not a number: ${typeof value}`);
    }
    if (Number.isSafeInteger(value) && value >= least) continue;
    throw new RangeError(`Cannot serve as ${name} is no whole number >= ${least}: ${value}`);
  }
  return { ...read, onConnectionError };
}
