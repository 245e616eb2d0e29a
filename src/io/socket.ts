/**
 * Connected sockets: every operation is a request on the context's loop.
 *
 * Requests of one direction complete in the order they were made; the two directions are independent
 * of each other. Closing cancels what is in flight. Data, and fds beside it, go through recvmsg and
 * sendmsg where one buffer is not enough. Invariant: fds that were received are the caller's, or are
 * closed here: none is lost.
 */
import { FDS_MAX, type Message, SEGMENTS_MAX } from "../../ffi/message.ts";
import { Shutdown, type Sockets } from "../../ffi/socket.ts";
import type { SocketAddress } from "../../ffi/socket_address.ts";
import { bytesOf, COPY_BYTES_MAX, copyBack, type RequestView } from "./buffers.ts";
import type { IoOwner } from "./io_owner.ts";
import type { IoRequests } from "./io_request.ts";
import { type RequestOptions, SocketOperation } from "./operation.ts";
import { readableOf, writableOf } from "./socket_streams.ts";

const MSG_NOSIGNAL = 0x4000, MSG_CMSG_CLOEXEC = 0x4000_0000;
const FD_MAX = 0x7fff_ffff;
const NO_FDS: readonly number[] = [];

/** What a message carries. */
export interface ReceivedMessage {
  /** Bytes received; 0 at the end. */
  readonly byteLength: number;
  /** Open files that came with them, which belong to the caller from now on. */
  readonly fds: readonly number[];
  /** More fds came than there was room for; those are closed. */
  readonly fdsTruncated: boolean;
}

/** Options of a message to be received. */
export interface ReceiveOptions extends RequestOptions {
  /** Room for fds, up to 253; 0 where not given, and what comes all the same is closed. */
  fdsMax?: number;
}

/** Which directions to shut down. */
export type ShutdownHow = "read" | "write" | "both";

/**
 * A connected socket.
 *
 * @example
 * ```ts
 * import { AioContext } from "@aio/context";
 * using ctx = new AioContext();
 * await ctx.run(async () => {
 *   await using listener = ctx.listen({ hostname: "127.0.0.1", port: 0 });
 *   await using client = await ctx.connect(listener.address);
 *   await using server = await listener.accept();
 *   await client.sendAll(new TextEncoder().encode("hello"));
 *   const buffer = new Uint8Array(16);
 *   const count = await server.recv(buffer);
 *   console.log(new TextDecoder().decode(buffer.subarray(0, count))); // hello
 * });
 * ```
 */
export class AioSocket implements AsyncDisposable {
  readonly #owner: IoOwner;
  readonly #sockets: Sockets;
  #readable: ReadableStream<Uint8Array<ArrayBuffer>> | null = null;
  #writable: WritableStream<Uint8Array> | null = null;

  /**
   * For `AioContext.connect` and the like.
   *
   * @internal
   */
  constructor(owner: IoOwner, sockets: Sockets) {
    this.#owner = owner;
    this.#sockets = sockets;
  }

  /**
   * The file descriptor.
   *
   * @throws {TypeError} when the socket is closed
   */
  get fd(): number {
    return this.#owner.fd;
  }

  /** Where the socket is. */
  get localAddress(): SocketAddress {
    return this.#sockets.localAddress(this.fd);
  }

  /** Whom it is connected to. */
  get peerAddress(): SocketAddress {
    return this.#sockets.peerAddress(this.fd);
  }

  /**
   * Receives what is there, or waits for something.
   *
   * @param buffer memory to receive into; from `ctx.buffers` or shared, without a copy
   * @param options a signal that cancels
   * @returns bytes received; 0 when the peer has ended its direction
   * @throws {AioError} ECONNRESET and the like; ECANCELED when the socket is closed meanwhile
   */
  recv(buffer: RequestView, options?: RequestOptions): Promise<number> {
    return this.#owner.io.transfer(SocketOperation.recv, this.#owner, buffer, 0, 0, options);
  }

  /**
   * Sends, once there is room for some of it.
   *
   * @param buffer what to send, which must not be changed before that is complete
   * @param options a signal that cancels
   * @returns bytes sent, which may be fewer than the buffer has
   * @throws {AioError} EPIPE or ECONNRESET when the peer is gone
   */
  send(buffer: RequestView, options?: RequestOptions): Promise<number> {
    const { io } = this.#owner;
    return io.transfer(SocketOperation.send, this.#owner, buffer, 0, MSG_NOSIGNAL, options);
  }

  /**
   * Sends all of a buffer, in as many requests as that takes, with nothing of other sends in between.
   *
   * @param buffer what to send; see `send`
   * @param options a signal that cancels; some of it may be sent by then
   */
  async sendAll(buffer: RequestView, options?: RequestOptions): Promise<void> {
    const { io } = this.#owner;
    await io.transfer(SocketOperation.sendAll, this.#owner, buffer, 0, MSG_NOSIGNAL, options);
  }

  /** Receives into several buffers, one after the other, with one request. See `recv`. */
  async readv(buffers: readonly RequestView[], options?: RequestOptions): Promise<number> {
    return (await this.#receive(buffers, 0, options)).byteLength;
  }

  /** Sends several buffers, one after the other, with one request. See `send`. */
  writev(buffers: readonly RequestView[], options?: RequestOptions): Promise<number> {
    return this.#send(buffers, NO_FDS, options);
  }

  /**
   * Sends data, and open files with its first byte (SCM_RIGHTS), over a unix socket.
   *
   * @param buffers the data, at least one byte where there are fds
   * @param fds open fds, up to 253, which stay the caller's
   * @returns bytes sent; where these are fewer than there are, the rest must go without the fds
   */
  sendMessage(
    buffers: readonly RequestView[],
    fds: readonly number[] = [],
    options?: RequestOptions,
  ): Promise<number> {
    return this.#send(buffers, fds, options);
  }

  /** Receives data and open files. Files for which there is no room are closed. */
  async recvMessage(
    buffers: readonly RequestView[],
    options: ReceiveOptions = {},
  ): Promise<ReceivedMessage> {
    return await this.#receive(buffers, options?.fdsMax ?? 0, options);
  }

  /** Ends one direction or both; the peer receives what was sent, and then the end. */
  shutdown(how: ShutdownHow = "both"): void {
    const hows = { read: Shutdown.rd, write: Shutdown.wr, both: Shutdown.rdwr };
    if (typeof how !== "string" || !Object.hasOwn(hows, how)) {
      const given = typeof how === "string" ? how : typeof how;
      throw new TypeError(`Cannot shut down as the direction is not read, write or both: ${given}`);
    }
    this.#sockets.shutdown(this.fd, hows[how]);
  }

  /** What is received, as a stream, for Deno's own APIs. Ends with the peer's direction. */
  get readable(): ReadableStream<Uint8Array<ArrayBuffer>> {
    return this.#readable ??= readableOf(this);
  }

  /** A stream whose chunks are sent; closing it ends this direction. */
  get writable(): WritableStream<Uint8Array> {
    return this.#writable ??= writableOf(this);
  }

  /** Cancels requests in flight and closes. Closing again is harmless. */
  close(): Promise<void> {
    return this.#owner.close();
  }

  /** Closes. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #send(
    views: readonly RequestView[],
    fds: readonly number[],
    options: RequestOptions | undefined,
  ): Promise<number> {
    const ownFds = fds === NO_FDS ? NO_FDS : readFds(fds);
    const { io } = this.#owner;
    const segments = new Segments(views, io);
    if (ownFds.length !== 0 && segments.byteLength === 0) {
      segments.giveBack();
      throw new RangeError("Cannot send fds without data, as they would be dropped");
    }
    try {
      const message = segments.describe(ownFds.length);
      if (ownFds.length !== 0) message.setFds(ownFds);
      if (segments.copy !== null) segments.gather();
      const words = {
        address: message.address,
        len: 1,
        opFlags: MSG_NOSIGNAL,
        memory: [message, segments],
      };
      return await io.request(SocketOperation.sendmsg, this.#owner, words, options);
    } finally {
      segments.giveBack();
    }
  }

  async #receive(
    views: readonly RequestView[],
    fdsMax: number,
    options: RequestOptions | undefined,
  ): Promise<ReceivedMessage> {
    if (!Number.isInteger(fdsMax) || fdsMax < 0 || fdsMax > FDS_MAX) {
      const given = typeof fdsMax === "number" ? fdsMax : typeof fdsMax;
      throw new RangeError(`Cannot receive as fdsMax is not 0 to ${FDS_MAX}: ${given}`);
    }
    const { io } = this.#owner;
    const segments = new Segments(views, io);
    let fds: number[] = [];
    try {
      const message = segments.describe(fdsMax);
      if (fdsMax !== 0) message.expectFds(fdsMax);
      const words = {
        address: message.address,
        len: 1,
        opFlags: MSG_CMSG_CLOEXEC,
        memory: [message, segments],
      };
      const byteLength = await io.request(SocketOperation.recvmsg, this.#owner, words, options);
      if (fdsMax !== 0) fds = message.takeFds();
      segments.scatter(byteLength);
      const received = { byteLength, fds, fdsTruncated: message.fdsTruncated };
      fds = [];
      return received;
    } finally {
      // Left over only where something threw after the fds had come.
      for (const fd of fds) io.closeNow(fd);
      segments.giveBack();
    }
  }
}

/** The buffers of a message, and the copy that stands in for them where one is needed. */
class Segments {
  readonly copy: Uint8Array<ArrayBuffer> | null;
  readonly #io: IoRequests;
  readonly #views: readonly RequestView[];
  /** All of the views, where a copy stands in for them. */
  readonly #bytes: readonly Uint8Array[];
  /** Bytes that can be transferred. */
  readonly byteLength: number;
  #message: Message | null = null;

  constructor(views: readonly RequestView[], io: IoRequests) {
    this.#io = io;
    this.#views = readArray(views, SEGMENTS_MAX, "buffers");
    const { location } = io.messages;
    let direct = true, byteLength = 0;
    for (const view of this.#views) {
      direct = location.locate(view) && direct;
      byteLength += location.byteLength;
    }
    this.#bytes = direct ? [] : this.#views.map(bytesOf);
    this.byteLength = direct ? byteLength : Math.min(byteLength, COPY_BYTES_MAX);
    this.copy = direct || byteLength === 0 ? null : io.buffers.borrow(this.byteLength);
  }

  /** A message with these segments and room for fds. */
  describe(fdsMax: number): Message {
    const { location } = this.#io.messages;
    const message = this.#io.messages.take(Math.max(1, this.#views.length), fdsMax);
    this.#message = message;
    if (this.copy !== null) {
      location.locate(this.copy);
      message.addSegment(location.address, this.byteLength);
    } else {
      for (const view of this.#views) {
        if (!location.locate(view)) continue; // Empty.
        message.addSegment(location.address, location.byteLength);
      }
    }
    return message;
  }

  /** Gives the copy and the message back. */
  giveBack(): void {
    if (this.copy !== null) this.#io.buffers.giveBack(this.copy);
    if (this.#message !== null) this.#io.messages.giveBack(this.#message);
  }

  /** Copies what is to be sent. */
  gather(): void {
    let at = 0;
    for (const bytes of this.#bytes) {
      const part = bytes.subarray(0, this.byteLength - at);
      this.copy!.set(part, at);
      at += part.byteLength;
    }
  }

  /** Copies what was received to where it belongs. */
  scatter(byteLength: number): void {
    if (this.copy === null) return;
    let at = 0;
    for (const [index, bytes] of this.#bytes.entries()) {
      if (at >= byteLength) return;
      const length = Math.min(bytes.byteLength, byteLength - at);
      if (!copyBack(this.#views[index], this.copy.subarray(at, at + length), length)) {
        throw new TypeError(
          "Cannot receive from the socket as the buffer has been transferred away",
        );
      }
      at += length;
    }
  }
}

/** Reads an array of a caller once, as it may change, or be none. */
function readArray<Value>(values: readonly Value[], max: number, what: string): Value[] {
  if (!Array.isArray(values)) {
    throw new TypeError(`Cannot transfer a message as its ${what} are no array: ${typeof values}`);
  }
  const { length } = values;
  if (length > max) {
    throw new RangeError(
      `Cannot transfer a message as it has more than ${max} ${what}: ${length}`,
    );
  }
  const own: Value[] = [];
  for (let index = 0; index < length; index++) own.push(values[index]);
  return own;
}

function readFds(fds: readonly number[]): number[] {
  const own = readArray(fds, FDS_MAX, "fds");
  for (const fd of own) {
    if (typeof fd !== "number") {
      throw new TypeError(`Cannot send an fd as it is not a number: ${typeof fd}`);
    }
    if (!Number.isInteger(fd) || fd < 0 || fd > FD_MAX) {
      throw new RangeError(`Cannot send an fd as it is not a whole number >= 0: ${fd}`);
    }
  }
  return own;
}
