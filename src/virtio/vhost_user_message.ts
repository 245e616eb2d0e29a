/**
 * Messages of vhost-user: their numbers, what each has to consist of, and how they come and go.
 *
 * A message is a header of three 32-bit words, a payload, and open files that arrive with the first
 * byte. What is malformed is a VirtioError, after which the connection is of no use: nobody can know
 * where the next message begins. Invariant: files that came with a message belong to the object that
 * `receive` returns, which closes those that nobody took.
 */
import { type AioSocket, closeFd, EventNotifier } from "../../mod.ts";
import { VirtioError } from "./guest_memory.ts";

/** Numbers of the requests that are known. */
export const VhostUserRequest = {
  getFeatures: 1,
  setFeatures: 2,
  setOwner: 3,
  resetOwner: 4,
  setMemTable: 5,
  setLogBase: 6,
  setLogFd: 7,
  setVringNum: 8,
  setVringAddr: 9,
  setVringBase: 10,
  getVringBase: 11,
  setVringKick: 12,
  setVringCall: 13,
  setVringErr: 14,
  getProtocolFeatures: 15,
  setProtocolFeatures: 16,
  getQueueNum: 17,
  setVringEnable: 18,
  getConfig: 24,
  setConfig: 25,
  getInflightFd: 31,
  setInflightFd: 32,
  resetDevice: 34,
  getMaxMemSlots: 36,
  addMemReg: 37,
  remMemReg: 38,
  setStatus: 39,
  getStatus: 40,
} as const;

/** The name of a request. */
export type VhostUserName = keyof typeof VhostUserRequest;

/** Bits of a message's flags. */
export const MessageBit = { version: 1, versionMask: 3, reply: 4, needReply: 8 } as const;

/** Bytes of a header. */
export const HEADER_BYTES = 12;
/** Regions in one SET_MEM_TABLE at most, and so files with one message. */
export const TABLE_REGIONS_MAX = 8;
/** Bytes of the configuration space that can be asked for. */
export const CONFIG_BYTES_MAX = 256;
/** Longest payload of all: a configuration space with its header. */
const PAYLOAD_MAX = 12 + CONFIG_BYTES_MAX;
/** Files at most; more are closed by the socket. */
const FDS_MAX = TABLE_REGIONS_MAX;

/** Bytes of a request's payload, at least and at most, and files with it at most. */
type Shape = readonly [bytesMin: number, bytesMax: number, fdsMax: number];

const STATE: Shape = [8, 8, 0], U64: Shape = [8, 8, 0], NOTHING: Shape = [0, 0, 0];
const FILE: Shape = [8, 8, 1];
/** Front ends send struct VhostUserInflight as their compiler pads it. */
const INFLIGHT_BYTES_MIN = 20, INFLIGHT_BYTES_MAX = 24;

const SHAPES: Readonly<Record<VhostUserName, Shape>> = {
  getFeatures: NOTHING,
  setFeatures: U64,
  setOwner: NOTHING,
  resetOwner: NOTHING,
  setMemTable: [8, 8 + TABLE_REGIONS_MAX * 32, TABLE_REGIONS_MAX],
  setLogBase: [16, 16, 1],
  setLogFd: [0, 8, 1],
  setVringNum: STATE,
  setVringAddr: [40, 40, 0],
  setVringBase: STATE,
  getVringBase: STATE,
  setVringKick: FILE,
  setVringCall: FILE,
  setVringErr: FILE,
  getProtocolFeatures: NOTHING,
  setProtocolFeatures: U64,
  getQueueNum: NOTHING,
  setVringEnable: STATE,
  getConfig: [12, PAYLOAD_MAX, 0],
  setConfig: [12, PAYLOAD_MAX, 0],
  getInflightFd: [INFLIGHT_BYTES_MIN, INFLIGHT_BYTES_MAX, 0],
  setInflightFd: [INFLIGHT_BYTES_MIN, INFLIGHT_BYTES_MAX, 1],
  resetDevice: NOTHING,
  getMaxMemSlots: NOTHING,
  addMemReg: [40, 40, 1],
  // Older front ends send the file once more.
  remMemReg: [40, 40, 1],
  setStatus: U64,
  getStatus: NOTHING,
};

const NAMES: ReadonlyMap<number, VhostUserName> = new Map(
  (Object.keys(VhostUserRequest) as VhostUserName[]).map((name) => [VhostUserRequest[name], name]),
);

/** A message that came. */
export class VhostUserMessage implements Disposable {
  readonly name: VhostUserName;
  readonly payload: DataView<ArrayBuffer>;
  /** The front end wants to know how it ended. */
  readonly needsReply: boolean;
  readonly #fds: number[];

  constructor(
    name: VhostUserName,
    payload: DataView<ArrayBuffer>,
    needsReply: boolean,
    fds: readonly number[],
  ) {
    this.name = name;
    this.payload = payload;
    this.needsReply = needsReply;
    this.#fds = [...fds];
  }

  /** Files that came with it and were not taken. */
  get fds(): readonly number[] {
    return this.#fds;
  }

  /** The 64-bit number at a place, which may be any. */
  u64(at: number): bigint {
    return this.payload.getBigUint64(at, true);
  }

  /** The 64-bit number at a place, of an address or a size; what is too large stays so. */
  number(at: number): number {
    return Number(this.u64(at));
  }

  u32(at: number): number {
    return this.payload.getUint32(at, true);
  }

  /**
   * Takes the only file, an eventfd.
   *
   * @throws {AioError} when it is none
   */
  takeNotifier(): EventNotifier {
    const notifier = new EventNotifier({ fd: this.#fds[0] });
    this.#fds.shift();
    return notifier;
  }

  /** Closes the files that nobody took. */
  [Symbol.dispose](): void {
    for (const fd of this.#fds.splice(0)) closeFd(fd);
  }
}

/** One end of a connection, at the back end. */
export class VhostUserChannel {
  readonly #socket: AioSocket;
  readonly #header = new DataView(new ArrayBuffer(HEADER_BYTES));

  constructor(socket: AioSocket) {
    this.#socket = socket;
  }

  /**
   * Waits for the next message.
   *
   * @returns null at the end of the connection
   * @throws {VirtioError} when it is malformed
   * @throws {AioError} when the connection is broken
   */
  async receive(): Promise<VhostUserMessage | null> {
    const header = this.#header;
    const bytes = new Uint8Array(header.buffer);
    const first = await this.#socket.recvMessage([bytes], { fdsMax: FDS_MAX });
    let fds = first.fds;
    try {
      if (first.fdsTruncated) throw new VirtioError(`Cannot take more than ${FDS_MAX} files`);
      if (first.byteLength === 0) return null;
      await this.#fill(bytes, first.byteLength);
      const number = header.getUint32(0, true), flags = header.getUint32(4, true);
      const length = header.getUint32(8, true);
      const name = NAMES.get(number);
      if (name === undefined) throw new VirtioError(`Cannot answer request ${number}: not known`);
      requireShape(name, flags, length, fds.length);
      const payload = new Uint8Array(length);
      await this.#fill(payload, 0);
      const needsReply = (flags & MessageBit.needReply) !== 0;
      const message = new VhostUserMessage(name, new DataView(payload.buffer), needsReply, fds);
      fds = [];
      return message;
    } finally {
      for (const fd of fds) closeFd(fd);
    }
  }

  /** Answers a request. */
  async reply(
    name: VhostUserName,
    payload: Uint8Array,
    fds: readonly number[] = [],
  ): Promise<void> {
    const bytes = new Uint8Array(HEADER_BYTES + payload.length);
    const header = new DataView(bytes.buffer);
    header.setUint32(0, VhostUserRequest[name], true);
    header.setUint32(4, MessageBit.version | MessageBit.reply, true);
    header.setUint32(8, payload.length, true);
    bytes.set(payload, HEADER_BYTES);
    const sent = await this.#socket.sendMessage([bytes], fds);
    if (sent < bytes.length) await this.#socket.sendAll(bytes.subarray(sent));
  }

  /** Receives the rest of a part. Files come with the first byte of a message only. */
  async #fill(bytes: Uint8Array, done: number): Promise<void> {
    while (done < bytes.length) {
      const { byteLength, fdsTruncated } = await this.#socket.recvMessage([bytes.subarray(done)]);
      if (byteLength === 0) throw new VirtioError("Cannot receive a message: the end is amid it");
      if (fdsTruncated) throw new VirtioError("Cannot take files that come amid a message");
      done += byteLength;
    }
  }
}

function requireShape(name: VhostUserName, flags: number, length: number, fds: number): void {
  const [bytesMin, bytesMax, fdsMax] = SHAPES[name];
  if ((flags & MessageBit.versionMask) !== MessageBit.version) {
    throw new VirtioError(`Cannot use ${name}: version ${flags & MessageBit.versionMask}`);
  }
  if ((flags & MessageBit.reply) !== 0) throw new VirtioError(`Cannot use ${name}: it is a reply`);
  if (length < bytesMin || length > bytesMax) {
    throw new VirtioError(`Cannot use ${name}: a payload of ${length} bytes`);
  }
  if (fds > fdsMax) throw new VirtioError(`Cannot use ${name}: ${fds} files`);
}
