/**
 * Listening sockets.
 */
import { AioError, Errno } from "../../ffi/errno.ts";
import type { Sockets } from "../../ffi/socket.ts";
import type { SocketAddress } from "../../ffi/socket_address.ts";
import type { IoOwner } from "./io_owner.ts";
import { type RequestOptions, SocketOperation } from "./operation.ts";
import type { AioSocket } from "./socket.ts";

/** How long an iteration over connections waits when fds or memory have run out. */
const EXHAUSTED_WAIT_MS = 50;
const EXHAUSTED: readonly number[] = [Errno.EMFILE, Errno.ENFILE, Errno.ENOBUFS, Errno.ENOMEM];

/**
 * A socket that others connect to. Iterating over it accepts one connection after the other.
 *
 * @example
 * ```ts
 * import { AioContext } from "@aio/context";
 * using ctx = new AioContext();
 * await ctx.run(async () => {
 *   await using listener = ctx.listen({ hostname: "127.0.0.1", port: 0 });
 *   await using client = await ctx.connect(listener.address);
 *   for await (const socket of listener) {
 *     await socket.close();
 *     break;
 *   }
 *   console.log(await client.recv(new Uint8Array(1))); // 0
 * });
 * ```
 */
export class AioListener implements AsyncDisposable {
  readonly #owner: IoOwner;
  readonly #sockets: Sockets;
  readonly #acceptFlags: number;
  readonly #adopt: (fd: number) => AioSocket;
  #closed = false;

  /**
   * For `AioContext.listen`.
   *
   * @internal
   */
  constructor(
    owner: IoOwner,
    sockets: Sockets,
    acceptFlags: number,
    adopt: (fd: number) => AioSocket,
  ) {
    this.#owner = owner;
    this.#sockets = sockets;
    this.#acceptFlags = acceptFlags;
    this.#adopt = adopt;
  }

  /**
   * The file descriptor.
   *
   * @throws {TypeError} when the listener is closed
   */
  get fd(): number {
    return this.#owner.fd;
  }

  /** Where others connect to; a port of 0 has become a real one. */
  get address(): SocketAddress {
    return this.#sockets.localAddress(this.fd);
  }

  /**
   * Waits for a connection.
   *
   * @param options a signal that cancels
   * @throws {AioError} EMFILE when there is no fd left: the connection stays in the backlog, and
   *   trying again is only of use once some fd is closed
   */
  async accept(options?: RequestOptions): Promise<AioSocket> {
    const words = { opFlags: this.#acceptFlags };
    const fd = await this.#owner.io.request(SocketOperation.accept, this.#owner, words, options);
    try {
      return this.#adopt(fd);
    } catch (error) {
      this.#owner.io.closeNow(fd);
      throw error;
    }
  }

  /** Accepts connections until the listener is closed; waits where fds have run out. */
  async *[Symbol.asyncIterator](): AsyncIterableIterator<AioSocket> {
    while (!this.#closed) {
      let socket: AioSocket;
      try {
        socket = await this.accept();
      } catch (error) {
        if (this.#closed) return;
        if (!(error instanceof AioError)) throw error;
        // Whoever was first in the backlog has gone away.
        if (error.errno === Errno.ECONNABORTED) continue;
        if (!EXHAUSTED.includes(error.errno)) throw error;
        await new Promise((resolve) => setTimeout(resolve, EXHAUSTED_WAIT_MS));
        continue;
      }
      yield socket;
    }
  }

  /** Cancels what waits for connections and closes. The path of a unix socket stays. */
  close(): Promise<void> {
    this.#closed = true;
    return this.#owner.close();
  }

  /** Closes. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
