/**
 * Messages of vhost-user: their numbers and what each has to consist of.
 *
 * A message is a header of three 32-bit words, a payload, and open files. Invariant: files that came
 * with a message belong to its object, which closes those that nobody took. How messages come and go
 * is in vhost_user_channel.ts.
 */
import { closeFd, EventNotifier } from "../../mod.ts";
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
export const PAYLOAD_MAX = 12 + CONFIG_BYTES_MAX;
/** Files with a message at most. */
export const FDS_MAX = TABLE_REGIONS_MAX;

/** Bytes of a request's payload, at least and at most, and files with it at most. */
interface Shape {
  readonly bytesMin: number;
  readonly bytesMax: number;
  readonly fdsMax: number;
}

function shape(bytesMin: number, bytesMax: number, fdsMax: number): Shape {
  return { bytesMin, bytesMax, fdsMax };
}

const STATE = shape(8, 8, 0), U64 = shape(8, 8, 0), NOTHING = shape(0, 0, 0), FILE = shape(8, 8, 1);
/** Front ends send struct VhostUserInflight as their compiler pads it. */
const INFLIGHT_BYTES_MIN = 20, INFLIGHT_BYTES_MAX = 24;

const SHAPES: Readonly<Record<VhostUserName, Shape>> = {
  getFeatures: NOTHING,
  setFeatures: U64,
  setOwner: NOTHING,
  resetOwner: NOTHING,
  setMemTable: shape(8, 8 + TABLE_REGIONS_MAX * 32, TABLE_REGIONS_MAX),
  setLogBase: shape(16, 16, 1),
  setLogFd: shape(0, 8, 1),
  setVringNum: STATE,
  setVringAddr: shape(40, 40, 0),
  setVringBase: STATE,
  getVringBase: STATE,
  setVringKick: FILE,
  setVringCall: FILE,
  setVringErr: FILE,
  getProtocolFeatures: NOTHING,
  setProtocolFeatures: U64,
  getQueueNum: NOTHING,
  setVringEnable: STATE,
  getConfig: shape(12, PAYLOAD_MAX, 0),
  setConfig: shape(12, PAYLOAD_MAX, 0),
  getInflightFd: shape(INFLIGHT_BYTES_MIN, INFLIGHT_BYTES_MAX, 0),
  setInflightFd: shape(INFLIGHT_BYTES_MIN, INFLIGHT_BYTES_MAX, 1),
  resetDevice: NOTHING,
  getMaxMemSlots: NOTHING,
  addMemReg: shape(40, 40, 1),
  // Older front ends send the file once more.
  remMemReg: shape(40, 40, 1),
  setStatus: U64,
  getStatus: NOTHING,
};

const NAMES: ReadonlyMap<number, VhostUserName> = new Map(
  (Object.keys(VhostUserRequest) as VhostUserName[]).map((name) => [VhostUserRequest[name], name]),
);

/** A message that came. */
export class VhostUserMessage implements Disposable {
  readonly name: VhostUserName;
  /** Where it lies in what was received, until the next message is received. */
  readonly payload: DataView<ArrayBuffer>;
  /** The front end wants to know how it ended. */
  readonly needsReply: boolean;
  readonly #fds: number[];

  /** @param fds become its own */
  constructor(
    name: VhostUserName,
    payload: DataView<ArrayBuffer>,
    needsReply: boolean,
    fds: number[],
  ) {
    this.name = name;
    this.payload = payload;
    this.needsReply = needsReply;
    this.#fds = fds;
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

  /** Bytes of the payload from a place on. */
  bytes(at: number): Uint8Array<ArrayBuffer> {
    const { buffer, byteOffset, byteLength } = this.payload;
    return new Uint8Array(buffer, byteOffset + at, byteLength - at);
  }

  /** Closes the files that nobody took. */
  [Symbol.dispose](): void {
    while (this.#fds.length !== 0) closeFd(this.#fds.pop()!);
  }
}

/** The request that a number stands for. @throws {VirtioError} where that is none */
export function requestName(number: number): VhostUserName {
  const name = NAMES.get(number);
  if (name === undefined) throw new VirtioError(`Cannot answer request ${number}: not known`);
  return name;
}

/** @throws {VirtioError} when a message cannot have such flags, or as long a payload */
export function requireShape(name: VhostUserName, flags: number, length: number): void {
  const { bytesMin, bytesMax } = SHAPES[name];
  if ((flags & MessageBit.versionMask) !== MessageBit.version) {
    throw new VirtioError(`Cannot use ${name}: version ${flags & MessageBit.versionMask}`);
  }
  if ((flags & MessageBit.reply) !== 0) throw new VirtioError(`Cannot use ${name}: it is a reply`);
  if (length < bytesMin || length > bytesMax) {
    throw new VirtioError(`Cannot use ${name}: a payload of ${length} bytes`);
  }
}

/** @throws {VirtioError} when a message cannot have as many files */
export function requireFdCount(name: VhostUserName, count: number): void {
  if (count > SHAPES[name].fdsMax) throw new VirtioError(`Cannot use ${name}: ${count} files`);
}
