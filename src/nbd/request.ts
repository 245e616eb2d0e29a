/**
 * One request of a client, from its header to its reply.
 *
 * Objects are used again, with the memory for a header and the functions that a device's promise
 * calls, so that a request makes nothing but what the device makes. Invariant: a request that has
 * been started replies once, and owns its payload and parts of receive buffers until then.
 */
import type { AioContext } from "../../mod.ts";
import type { BlockDevice } from "../block/block_device.ts";
import { describeExtents } from "./block_status.ts";
import { HEADER_ROOM, type NbdMemory, type Payload, type ReceiveBuffer } from "./memory.ts";
import {
  Command,
  CommandFlag,
  HeaderBytes,
  NbdErrno,
  nbdErrnoOf,
  REPLY_DONE,
  ReplyType,
} from "./protocol.ts";
import { chunkHeaderBytes, type ReplyForm, storeChunk, storeSimple, storeU64 } from "./reply.ts";
import { HOLES_MIN, readSparse } from "./sparse_read.ts";

/** Room for the longest header that stands alone, with an error and its message. */
const HEADER_BYTES = 128;
const OFFSET_BYTES = 8;

const FUA = { fua: true } as const;

/** Whose requests they are. */
export interface RequestOwner {
  readonly device: BlockDevice;
  readonly form: ReplyForm;
  /** The request has put its reply into `replies`. */
  reply(request: NbdRequest): void;
}

/** A request. */
export class NbdRequest {
  command = 0;
  flags = 0;
  cookieHigh = 0;
  cookieLow = 0;
  offsetHigh = 0;
  offsetLow = 0;
  offset = 0;
  length = 0;
  /** What it counts for among the memory in flight. */
  charge = 0;
  /** The error that it is answered with; 0 for none. */
  errno = 0;
  /** Bytes of data in its reply. */
  dataSent = 0;
  /** What is to be sent, in this order. */
  readonly replies: Uint8Array<ArrayBuffer>[] = [];
  /** The payload of a WRITE, in its parts. */
  readonly parts: Uint8Array<ArrayBuffer>[] = [];
  /** The receive buffers that the parts are in. */
  readonly #holds: ReceiveBuffer[] = [];
  readonly memory: NbdMemory;
  readonly #header: Uint8Array<ArrayBuffer>;
  readonly #headerView: DataView;
  /** The reply header that is sent most. */
  readonly #simple: Uint8Array<ArrayBuffer>;
  #owner: RequestOwner | null = null;
  payload: Payload | null = null;
  readonly #readDone = (): void => this.#replyData();
  readonly #done = (): void => this.#end(0);
  readonly #failed = (error: unknown): void => this.#end(nbdErrnoOf(error));

  constructor(ctx: AioContext, memory: NbdMemory) {
    this.memory = memory;
    this.#header = ctx.buffers.allocate(HEADER_BYTES);
    this.#headerView = new DataView(this.#header.buffer, this.#header.byteOffset, HEADER_BYTES);
    this.#simple = this.#header.subarray(0, HeaderBytes.simpleReply);
  }

  /** Whose it is, while it is in flight. */
  get owner(): RequestOwner {
    return this.#owner!;
  }

  /** It is in flight from now on. */
  begin(owner: RequestOwner): void {
    this.#owner = owner;
    this.errno = this.dataSent = 0;
  }

  /** Takes a part of the payload, in a receive buffer. */
  addPart(part: Uint8Array<ArrayBuffer>, buffer: ReceiveBuffer): void {
    this.parts.push(part);
    this.#holds.push(buffer);
    buffer.users++;
  }

  /** Memory for the payload, or for what is left of it. */
  takePayload(length: number): Uint8Array<ArrayBuffer> {
    this.payload = this.memory.takePayload(length);
    return this.payload.data(length);
  }

  /** Has the device do it, and replies when that is done. */
  start(): void {
    try {
      this.#run(this.#owner!.device);
    } catch (error) {
      // A device of somebody else's; its promise would have been the place for that.
      this.#failed(error);
    }
  }

  #run(device: BlockDevice): void {
    const { offset, length, flags } = this;
    const fua = (flags & CommandFlag.fua) !== 0;
    if (length === 0 && this.command !== Command.flush) return this.#end(0);
    switch (this.command) {
      case Command.read: {
        const sparse = length >= HOLES_MIN && device.sparse && this.#owner!.form !== "simple";
        if (sparse) return void readSparse(this).then(this.#done, this.#failed);
        this.payload = this.memory.takePayload(length);
        // The array of parts is there anyway.
        this.parts.push(this.payload.data(length));
        device.read(this.parts, offset).then(this.#readDone, this.#failed);
        return;
      }
      case Command.write:
        device.write(this.parts, offset, fua ? FUA : undefined).then(this.#done, this.#failed);
        return;
      case Command.flush:
        device.flush().then(this.#done, this.#failed);
        return;
      case Command.trim:
        device.trim(offset, length, { fua }).then(this.#done, this.#failed);
        return;
      case Command.cache:
        device.cache(offset, length).then(this.#done, this.#failed);
        return;
      case Command.writeZeroes: {
        const noHole = (flags & CommandFlag.noHole) !== 0;
        const fast = (flags & CommandFlag.fastZero) !== 0;
        device.zero(offset, length, { fua, noHole, fast }).then(this.#done, this.#failed);
        return;
      }
      case Command.blockStatus:
        describeExtents(this).then(this.#done, this.#failed);
        return;
      default:
        throw new Error("assertion failed: a command that was let through");
    }
  }

  /** Replies with an error, where nothing was started. */
  refuse(errno: number): void {
    this.#end(errno);
  }

  /** All of the data is in the payload: one chunk. */
  #replyData(): void {
    const { length, offset } = this, payload = this.payload!, { form } = this.#owner!;
    const { view } = payload;
    let at = HEADER_ROOM;
    if (form === "simple") {
      at -= HeaderBytes.simpleReply;
      storeSimple(view, at, this, 0);
    } else {
      at -= chunkHeaderBytes(form) + OFFSET_BYTES;
      storeChunk(view, at, form, this, REPLY_DONE, ReplyType.offsetData, length + OFFSET_BYTES);
      storeU64(view, HEADER_ROOM - OFFSET_BYTES, offset);
    }
    this.replies.push(payload.withHeader(HEADER_ROOM - at, length));
    this.dataSent = length;
    this.#owner!.reply(this);
  }

  /** Replies with an error or success; what is in `replies` already is the reply to that. */
  #end(errno: number): void {
    this.errno = errno;
    if (errno !== 0) this.replies.length = this.dataSent = 0;
    if (this.replies.length === 0) this.replies.push(this.#makeHeader(errno));
    this.#releaseData(errno !== 0);
    this.#owner!.reply(this);
  }

  #makeHeader(errno: number): Uint8Array<ArrayBuffer> {
    const { form } = this.#owner!;
    const view = this.#headerView;
    const chunks = this.command === Command.read || this.command === Command.blockStatus;
    if (form === "simple" || (form === "structured" && !chunks)) {
      storeSimple(view, 0, this, errno);
      return this.#simple;
    }
    const headerBytes = chunkHeaderBytes(form);
    if (errno === 0) {
      storeChunk(view, 0, form, this, REPLY_DONE, ReplyType.none, 0);
      return this.#header.subarray(0, headerBytes);
    }
    const message = MESSAGES.get(errno) ?? NO_MESSAGE;
    const length = 6 + message.length;
    storeChunk(view, 0, form, this, REPLY_DONE, ReplyType.error, length);
    view.setUint32(headerBytes, errno);
    view.setUint16(headerBytes + 4, message.length);
    this.#header.set(message, headerBytes + 6);
    return this.#header.subarray(0, headerBytes + length);
  }

  /** What was written is the device's no more; a payload that is to be sent stays. */
  #releaseData(all: boolean): void {
    for (const buffer of this.#holds) this.memory.release(buffer);
    this.#holds.length = this.parts.length = 0;
    if (this.payload === null || (this.command !== Command.write && !all)) return;
    this.memory.givePayload(this.payload);
    this.payload = null;
  }

  /** The reply has been sent, or nobody wants it. */
  finish(): void {
    this.#releaseData(true);
    this.replies.length = 0;
    this.#owner = null;
  }
}

const NO_MESSAGE = new Uint8Array(0);
const MESSAGES: ReadonlyMap<number, Uint8Array> = new Map(
  [
    [NbdErrno.EPERM, "the export is read-only"],
    [NbdErrno.EIO, "the device has failed"],
    [NbdErrno.EINVAL, "the request is not valid here"],
    [NbdErrno.ENOSPC, "there is no room for that"],
    [NbdErrno.EOVERFLOW, "too long to be sent unfragmented"],
    [NbdErrno.ENOTSUP, "not supported here"],
  ].map(([errno, text]) => [errno as number, new TextEncoder().encode(text as string)]),
);
