/**
 * How messages of vhost-user come and go.
 *
 * What is there is received in one go: a header with its payload, and the messages behind it where the
 * front end does not wait for an answer. Files belong to the message that was begun last in what they came
 * with: a front end sends each message by itself, and the kernel ends what it hands out behind data
 * that has files.
 *
 * What is malformed is a VirtioError, after which the connection is of no use: nobody can know where
 * the next message begins.
 */
import { type AioContext, type AioSocket, closeFd } from "../../mod.ts";
import { VirtioError } from "./guest_memory.ts";
import {
  FDS_MAX,
  HEADER_BYTES,
  MessageBit,
  PAYLOAD_MAX,
  requestName,
  requireFdCount,
  requireShape,
  VhostUserMessage,
  type VhostUserName,
  VhostUserRequest,
} from "./vhost_user_message.ts";

/** Room for what is received in one go: three of the longest messages, or fifty short ones. */
const INPUT_BYTES = 1024;

// Where the 32-bit words of a header are, in bytes.
const NUMBER = 0, FLAGS = 4, LENGTH = 8;

const RECEIVE_OPTIONS = { fdsMax: FDS_MAX };

/**
 * One end of a connection, at the back end.
 *
 * Invariant: `input` holds, from `start` to `end`, what has come and was not asked for yet; a
 * message begins at `start`. `fds` came with the message that begins at `fdsAt`, and are the
 * channel's until that is handed out.
 */
export class VhostUserChannel implements Disposable {
  readonly #socket: AioSocket;
  readonly #input: Uint8Array<ArrayBuffer>;
  readonly #view: DataView<ArrayBuffer>;
  #start = 0;
  #end = 0;
  #fds: number[] = [];
  #fdsAt = 0;
  readonly #output: Uint8Array<ArrayBuffer>;
  readonly #outputView: DataView<ArrayBuffer>;

  constructor(ctx: AioContext, socket: AioSocket) {
    this.#socket = socket;
    this.#input = ctx.buffers.allocate(INPUT_BYTES);
    this.#view = viewOf(this.#input);
    this.#output = ctx.buffers.allocate(HEADER_BYTES + PAYLOAD_MAX);
    this.#outputView = viewOf(this.#output);
  }

  /**
   * Waits for the next message. The one before is not to be used any more.
   *
   * @returns null at the end of the connection
   * @throws {VirtioError} when it is malformed
   * @throws {AioError} when the connection is broken
   */
  async receive(): Promise<VhostUserMessage | null> {
    if (this.#start === this.#end) {
      this.#start = this.#end = 0;
      if (await this.#receiveUpTo(INPUT_BYTES) === 0) return null;
    }
    while (!this.#has(HEADER_BYTES)) await this.#receiveRest(HEADER_BYTES);
    const name = requestName(this.#word(NUMBER)), flags = this.#word(FLAGS);
    const length = this.#word(LENGTH);
    requireShape(name, flags, length);
    const whole = HEADER_BYTES + length;
    while (!this.#has(whole)) await this.#receiveRest(whole);
    const hasFds = this.#fdsAt === this.#start;
    requireFdCount(name, hasFds ? this.#fds.length : 0);
    const fds = hasFds ? this.#fds.splice(0) : [];
    const { buffer, byteOffset } = this.#input;
    const payload = new DataView(buffer, byteOffset + this.#start + HEADER_BYTES, length);
    this.#start += whole;
    return new VhostUserMessage(name, payload, (flags & MessageBit.needReply) !== 0, fds);
  }

  /** Answers a request; one answer after the other. */
  async reply(
    name: VhostUserName,
    payload: Uint8Array,
    fds: readonly number[] = [],
  ): Promise<void> {
    const view = this.#outputView;
    view.setUint32(NUMBER, VhostUserRequest[name], true);
    view.setUint32(FLAGS, MessageBit.version | MessageBit.reply, true);
    view.setUint32(LENGTH, payload.length, true);
    this.#output.set(payload, HEADER_BYTES);
    const bytes = this.#output.subarray(0, HEADER_BYTES + payload.length);
    if (fds.length === 0) return await this.#socket.sendAll(bytes);
    const sent = await this.#socket.sendMessage([bytes], fds);
    if (sent < bytes.length) await this.#socket.sendAll(bytes.subarray(sent));
  }

  /** Closes files of messages that were not handed out. */
  [Symbol.dispose](): void {
    for (const fd of this.#fds) closeFd(fd);
    this.#fds = [];
  }

  #has(bytes: number): boolean {
    return this.#end - this.#start >= bytes;
  }

  #word(at: number): number {
    return this.#view.getUint32(this.#start + at, true);
  }

  /** Receives the rest of the message at `start`, which has so many bytes, and nothing behind it. */
  async #receiveRest(bytes: number): Promise<void> {
    if (this.#start + bytes > INPUT_BYTES) {
      this.#input.copyWithin(0, this.#start, this.#end);
      this.#fdsAt -= this.#start;
      this.#end -= this.#start;
      this.#start = 0;
    }
    if (await this.#receiveUpTo(this.#start + bytes) === 0) {
      throw new VirtioError("Cannot receive a message: the end is amid it");
    }
  }

  /** @returns bytes received, 0 at the end of the connection */
  async #receiveUpTo(place: number): Promise<number> {
    const room = this.#input.subarray(this.#end, place);
    const received = await this.#socket.recvMessage([room], RECEIVE_OPTIONS);
    const { byteLength, fds, fdsTruncated } = received;
    this.#end += byteLength;
    if (fds.length !== 0) {
      this.#fdsAt = this.#lastBegun();
      this.#fds.push(...fds);
    }
    if (fdsTruncated || this.#fds.length > FDS_MAX) {
      throw new VirtioError(`Cannot take more than ${FDS_MAX} files`);
    }
    return byteLength;
  }

  /** Where the message begins that was begun last. */
  #lastBegun(): number {
    let at = this.#start;
    while (at + HEADER_BYTES <= this.#end) {
      const next = at + HEADER_BYTES + this.#view.getUint32(at + LENGTH, true);
      if (next >= this.#end) break;
      at = next;
    }
    return at;
  }
}

function viewOf({ buffer, byteOffset, byteLength }: Uint8Array<ArrayBuffer>) {
  return new DataView(buffer, byteOffset, byteLength);
}
