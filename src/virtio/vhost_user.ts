/**
 * One connection of a vhost-user front end: what it says changes rings, memory and device.
 *
 * Messages are answered one after the other. One that changes what running rings depend on stops
 * them, which takes as long as requests in flight do, and starts them again. A message that is
 * malformed, or asks for what cannot be, ends the connection with a reason; where the front end has
 * asked for a reply to a request that failed for want of something, it gets that instead.
 *
 * A guest whose rings are nonsense breaks its device: no ring takes requests any more, the front
 * end is told by the error eventfds and the status, and a reset makes it whole.
 */
import { type AioContext, AioError, type AioSocket, MappedMemory, type MemFd } from "../../mod.ts";
import type { DeviceQueue, QueueCounts, VirtioRequest } from "./device_queue.ts";
import { DirtyLog } from "./dirty_log.ts";
import { GuestMemory, REGIONS_MAX, VirtioError } from "./guest_memory.ts";
import {
  PROTOCOL_FEATURES,
  ProtocolFeature,
  requireOffered,
  RING_FEATURES,
  RingFeature,
} from "./vhost_user_features.ts";
import { InflightRecord, offerInflight } from "./vhost_user_inflight.ts";
import { VhostUserChannel } from "./vhost_user_channel.ts";
import type { VhostUserMessage, VhostUserName } from "./vhost_user_message.ts";
import {
  readConfigRange,
  readRegion,
  ringNumber,
  takeNotifier,
  u64,
} from "./vhost_user_payload.ts";
import { type RingSettings, VhostUserRing } from "./vhost_user_ring.ts";
import { requireQueueSize } from "./virtqueue.ts";

/** Bit of the status: the driver has to reset the device. */
const NEEDS_RESET = 64;
/** Flag of a ring's addresses: writes to the used ring are logged. */
const LOG_USED = 1;

/** A device that a front end is connected to. */
export interface VhostUserDevice {
  readonly queues: number;
  /** Feature bits of its kind. */
  readonly features: bigint;
  /** The guest has agreed to these. */
  accept(features: bigint): void;
  /** Is as before any guest. */
  reset(): void;
  /** Its configuration space. */
  readConfig(): Uint8Array;
  /** @throws {VirtioError} where it cannot be written */
  writeConfig(offset: number, bytes: Uint8Array): void;
  /** Makes a request object. */
  makeRequest(queue: DeviceQueue, head: number): VirtioRequest;
}

/** Payloads that acknowledge a request. */
const DONE = u64(0n), FAILED = u64(1n);

/** What a request is answered with; null where it has no answer of its own. */
type Answer = { payload: Uint8Array; file?: MemFd } | null;

/** Serves one front end. */
export class VhostUserSession {
  readonly #device: VhostUserDevice;
  readonly #channel: VhostUserChannel;
  readonly #memory = new GuestMemory();
  readonly #rings: VhostUserRing[];
  readonly #reportBroken: (error: Error) => void;
  /** Where what is in flight is recorded. */
  #inflight: InflightRecord | null = null;
  #log: DirtyLog | null = null;
  #features = 0n;
  #protocolFeatures = 0n;
  #status = 0;
  #broken = false;

  /** @param reportBroken told when a guest has broken its device */
  constructor(
    ctx: AioContext,
    socket: AioSocket,
    device: VhostUserDevice,
    counts: QueueCounts,
    reportBroken: (error: Error) => void,
  ) {
    this.#device = device;
    this.#channel = new VhostUserChannel(ctx, socket);
    this.#reportBroken = reportBroken;
    const owner = {
      ctx,
      memory: this.#memory,
      counts,
      makeRequest: (queue: DeviceQueue, head: number) => device.makeRequest(queue, head),
      reportBroken: (error: Error) => this.#break(error),
    };
    this.#rings = Array.from(
      { length: device.queues },
      (_, index) => new VhostUserRing(owner, index),
    );
  }

  /**
   * Answers messages until the connection ends, and waits for requests in flight.
   *
   * @returns why it ended
   */
  async serve(): Promise<string> {
    using channel = this.#channel;
    try {
      for (;;) {
        using message = await channel.receive();
        if (message === null) return "the front end has closed it";
        await this.#answer(message);
      }
    } catch (error) {
      if (!isExpected(error)) throw error;
      return error.message;
    } finally {
      await this.#end();
    }
  }

  async #answer(message: VhostUserMessage): Promise<void> {
    const { name } = message;
    let failed: Error | null = null;
    try {
      const answer = await this.#handlers[name](message);
      if (answer !== null) {
        using file = answer.file ?? null;
        return await this.#channel.reply(name, answer.payload, file === null ? [] : [file.fd]);
      }
    } catch (error) {
      if (!isExpected(error) || !this.#acknowledges(message)) throw error;
      failed = error;
    }
    if (!this.#acknowledges(message)) return;
    await this.#channel.reply(name, failed === null ? DONE : FAILED);
  }

  #acknowledges({ needsReply }: VhostUserMessage): boolean {
    return needsReply && (this.#protocolFeatures & ProtocolFeature.replyAck) !== 0n;
  }

  readonly #handlers: Readonly<
    Record<VhostUserName, (message: VhostUserMessage) => Answer | Promise<Answer>>
  > = {
    getFeatures: () => ({ payload: u64(RING_FEATURES | this.#device.features) }),
    setFeatures: (message) => this.#setFeatures(message.u64(0)),
    setOwner: () => null,
    resetOwner: () => this.#reset(),
    setMemTable: (message) => this.#setMemTable(message),
    setLogBase: (message) => this.#setLogBase(message),
    // It would tell of changes, which whoever migrates looks for anyway.
    setLogFd: () => null,
    setVringNum: (message) =>
      this.#change(message.u32(0), (ring) => {
        requireQueueSize(message.u32(4));
        ring.size = message.u32(4);
      }),
    setVringAddr: (message) => this.#setVringAddr(message),
    setVringBase: (message) =>
      this.#change(message.u32(0), (ring) => {
        if (message.u32(4) > 0xffff) throw new VirtioError("Cannot go on beyond 65,535 in a ring");
        ring.base = message.u32(4);
      }),
    getVringBase: (message) => this.#getVringBase(message),
    setVringKick: (message) => this.#setVringKick(message),
    setVringCall: (message) => {
      this.#ringOf(message).setCall(takeNotifier(message));
      return null;
    },
    setVringErr: (message) => {
      this.#ringOf(message).setError(takeNotifier(message));
      return null;
    },
    getProtocolFeatures: () => ({ payload: u64(PROTOCOL_FEATURES) }),
    setProtocolFeatures: (message) => {
      const features = message.u64(0);
      requireOffered(features, PROTOCOL_FEATURES);
      this.#protocolFeatures = features;
      return null;
    },
    getQueueNum: () => ({ payload: u64(BigInt(this.#device.queues)) }),
    setVringEnable: (message) =>
      this.#change(message.u32(0), (ring) => {
        if (message.u32(4) > 1) throw new VirtioError("Cannot enable a ring by other than 0 and 1");
        ring.enabled = message.u32(4) === 1;
      }),
    getConfig: (message) => this.#getConfig(message),
    setConfig: (message) => this.#setConfig(message),
    getInflightFd: (message) => this.#getInflightFd(message),
    setInflightFd: (message) => this.#setInflightFd(message),
    resetDevice: () => this.#reset(),
    getMaxMemSlots: () => ({ payload: u64(BigInt(REGIONS_MAX)) }),
    addMemReg: (message) => this.#addMemReg(message),
    remMemReg: (message) => this.#changeAll(() => this.#memory.remove(readRegion(message, 8))),
    setStatus: (message) => {
      const status = message.u64(0);
      if (status > 0xffn) throw new VirtioError("Cannot set a status beyond 255");
      this.#status = Number(status);
      return this.#status === 0 ? this.#reset() : null;
    },
    getStatus: () => ({ payload: u64(BigInt(this.#status | (this.#broken ? NEEDS_RESET : 0))) }),
  };

  #setFeatures(features: bigint): Promise<null> {
    requireOffered(features, RING_FEATURES | this.#device.features);
    return this.#changeAll(() => {
      this.#features = features;
      this.#device.accept(features);
      // Without the message that enables rings they are enabled by their kick.
      if ((features & RingFeature.protocolFeatures) !== 0n) return;
      for (const ring of this.#rings) ring.enabled = true;
    });
  }

  #setMemTable(message: VhostUserMessage): Promise<null> {
    const count = message.u32(0);
    if (message.payload.byteLength !== 8 + count * 32 || message.fds.length !== count) {
      throw new VirtioError(
        `Cannot use a memory table of ${count} regions with ${message.fds.length} files`,
      );
    }
    return this.#changeAll(() => {
      this.#memory.clear();
      for (const [index, fd] of message.fds.entries()) {
        this.#memory.add(readRegion(message, 8 + index * 32), fd);
      }
    });
  }

  #addMemReg(message: VhostUserMessage): null {
    if (message.fds.length !== 1) throw new VirtioError("Cannot add memory without its file");
    this.#memory.add(readRegion(message, 8), message.fds[0]);
    return null;
  }

  async #setLogBase(message: VhostUserMessage): Promise<Answer> {
    if (message.fds.length !== 1) throw new VirtioError("Cannot log without a file to log to");
    const [length, offset] = [message.number(0), message.number(8)];
    const log = new DirtyLog(new MappedMemory(message.fds[0], { offset, length }));
    await this.#changeAll(() => {
      this.#log?.[Symbol.dispose]();
      this.#log = log;
    });
    return { payload: DONE };
  }

  #setVringAddr(message: VhostUserMessage): Promise<null> {
    const addresses = {
      descriptors: message.number(8),
      used: message.number(16),
      avail: message.number(24),
      usedLogAddress: (message.u32(4) & LOG_USED) !== 0 ? message.number(32) : null,
    };
    return this.#change(message.u32(0), (ring) => ring.addresses = addresses);
  }

  async #getVringBase(message: VhostUserMessage): Promise<Answer> {
    const ring = this.#ring(message.u32(0));
    await ring.stop();
    ring.forget();
    // A front end that resets its device without saying so stops all rings.
    if (this.#rings.every(({ hasKick }) => !hasKick)) this.#broken = false;
    const payload = new DataView(new ArrayBuffer(8));
    payload.setUint32(0, ring.index, true);
    payload.setUint32(4, ring.base, true);
    return { payload: new Uint8Array(payload.buffer) };
  }

  #setVringKick(message: VhostUserMessage): Promise<null> {
    const { index } = this.#ringOf(message);
    const kick = takeNotifier(message);
    if (kick === null) throw new VirtioError("Cannot poll a ring that is never kicked");
    return this.#change(index, (ring) => ring.setKick(kick));
  }

  #getConfig(message: VhostUserMessage): Answer {
    const { offset, length } = readConfigRange(message);
    const bytes = message.bytes(0);
    // Front ends newer than this know of more; what there is not is zero.
    bytes.fill(0, 12);
    bytes.set(this.#device.readConfig().subarray(offset, offset + length), 12);
    return { payload: bytes };
  }

  #setConfig(message: VhostUserMessage): null {
    const { offset } = readConfigRange(message);
    this.#device.writeConfig(offset, message.bytes(12));
    return null;
  }

  #getInflightFd(message: VhostUserMessage): Answer {
    return offerInflight(message, this.#device.queues);
  }

  #setInflightFd(message: VhostUserMessage): Promise<null> {
    const record = InflightRecord.map(message, this.#device.queues);
    return this.#changeAll(() => {
      this.#inflight?.[Symbol.dispose]();
      this.#inflight = record;
    });
  }

  /** Stops a ring, changes it and starts it again where it can be. */
  async #change(index: number, change: (ring: VhostUserRing) => void): Promise<null> {
    const ring = this.#ring(index);
    await ring.stop();
    change(ring);
    this.#start(ring);
    return null;
  }

  /** The same with what all rings depend on. */
  async #changeAll(change: () => void): Promise<null> {
    for (const ring of this.#rings) await ring.stop();
    change();
    for (const ring of this.#rings) this.#start(ring);
    return null;
  }

  #start(ring: VhostUserRing): void {
    if (this.#broken) return;
    const settings: RingSettings = {
      eventIndex: (this.#features & RingFeature.eventIndex) !== 0n,
      indirect: (this.#features & RingFeature.indirect) !== 0n,
      inflight: ring.hasKick && ring.enabled ? this.#inflight?.queue(ring) ?? null : null,
      log: (this.#features & RingFeature.logAll) !== 0n ? this.#log : null,
    };
    ring.start(settings);
  }

  async #reset(): Promise<null> {
    for (const ring of this.#rings) await ring.stop();
    for (const ring of this.#rings) ring.reset();
    this.#status = 0;
    this.#broken = false;
    this.#device.reset();
    return null;
  }

  #break(error: Error): void {
    if (this.#broken) return;
    this.#broken = true;
    for (const ring of this.#rings) ring.fail(error);
    this.#reportBroken(error);
  }

  /** The connection is over; what is in flight is not. */
  async #end(): Promise<void> {
    // Without a record the front end does again what it has no answer to.
    for (const ring of this.#rings) await ring.stop(this.#inflight !== null);
    await this.#reset();
    this.#memory.clear();
    this.#inflight?.[Symbol.dispose]();
    this.#log?.[Symbol.dispose]();
  }

  #ring(index: number): VhostUserRing {
    const ring = this.#rings[index];
    if (ring === undefined) throw new VirtioError(`Cannot use ring ${index}: there is none`);
    return ring;
  }

  #ringOf(message: VhostUserMessage): VhostUserRing {
    return this.#ring(ringNumber(message));
  }
}

/** Whether an error is a front end's fault or the system's, and no bug of ours. */
function isExpected(error: unknown): error is Error {
  return error instanceof VirtioError || error instanceof AioError || error instanceof RangeError;
}
