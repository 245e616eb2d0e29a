/**
 * A virtio-blk driver without a guest around it: owns the rings, in a memfd, and drives a back end as
 * the kernel of a virtual machine would.
 *
 * The memory has addresses of its own for guest and front end, so that nothing works by accident. It
 * lasts when a connection ends, and can be attached to the next one. What a queue does is in
 * vhost_driver_queue.ts.
 */
import { type AioContext, closeFd, MappedMemory, MemFd } from "../../mod.ts";
import { BlkFeature, CONFIG_BYTES } from "../virtio/virtio_blk.ts";
import { ProtocolFeature, RingFeature } from "../virtio/vhost_user_features.ts";
import { DriverQueue, GUEST_BASE } from "./vhost_driver_queue.ts";
import { payloadOf, type VhostFrontEnd } from "./vhost_front_end.ts";

/** Where the front end has the memory. */
export const USER_BASE = 0x7f12_3450_0000;
const PAGE = 4096;

/** What a driver has and wants. */
export interface VhostDriverOptions {
  readonly queues?: number;
  readonly queueSize?: number;
  /** Room for data in each slot, in whole pages. */
  readonly slotBytes?: number;
  readonly eventIndex?: boolean;
  readonly indirect?: boolean;
  /** Agrees to send FLUSH. */
  readonly flush?: boolean;
  /** Wants to be told of errors, which takes an fd more for each queue on both sides. */
  readonly errors?: boolean;
}

/** A driver with its memory, which outlives connections. */
export class VhostDriver implements Disposable {
  readonly ctx: AioContext;
  readonly options: Required<VhostDriverOptions>;
  readonly file: MemFd;
  readonly memory: MappedMemory;
  readonly queues: readonly DriverQueue[];
  /** Configuration space, once attached. */
  config: DataView<ArrayBuffer> = new DataView(new ArrayBuffer(CONFIG_BYTES));
  /** Features agreed on. */
  features = 0n;
  #inflightFd = -1;
  #inflight: Uint8Array = new Uint8Array(0);

  constructor(ctx: AioContext, options: VhostDriverOptions = {}) {
    this.ctx = ctx;
    this.options = {
      queues: 1,
      queueSize: 128,
      slotBytes: PAGE,
      eventIndex: true,
      indirect: true,
      flush: true,
      errors: true,
      ...options,
    };
    const stride = DriverQueue.bytes(this.options);
    const size = stride * this.options.queues;
    this.file = new MemFd("guest memory", { size, sealable: true });
    this.file.seal("shrink", "grow", "seal");
    this.memory = new MappedMemory(this.file.fd);
    this.queues = Array.from(
      { length: this.options.queues },
      (_, index) => new DriverQueue(this, index, index * stride),
    );
  }

  /** Capacity in sectors of 512 bytes, once attached. */
  get sectors(): number {
    return Number(this.config.getBigUint64(0, true));
  }

  /** File of the record of requests in flight; -1 before `attach`. */
  get inflightFd(): number {
    return this.#inflightFd;
  }

  /** Negotiates with a back end and starts all queues. */
  async attach(frontEnd: VhostFrontEnd): Promise<void> {
    await this.negotiate(frontEnd);
    await frontEnd.tell("setMemTable", this.memoryTable(), [this.file.fd]);
    await this.#shareInflight(frontEnd);
    for (const queue of this.queues) await this.startQueue(frontEnd, queue);
  }

  /** Agrees on features, and reads the configuration space. */
  async negotiate(frontEnd: VhostFrontEnd): Promise<void> {
    const { eventIndex, indirect, flush } = this.options;
    const offered = await frontEnd.askNumber("getFeatures");
    const protocol = await frontEnd.askNumber("getProtocolFeatures");
    let wanted = offered & ~RingFeature.logAll;
    if (!eventIndex) wanted &= ~RingFeature.eventIndex;
    if (!indirect) wanted &= ~RingFeature.indirect;
    if (!flush) wanted &= ~BlkFeature.flush;
    const { replyAck, config, inflightShmFd, multiQueue } = ProtocolFeature;
    const agreed = protocol & (replyAck | config | inflightShmFd | multiQueue);
    await frontEnd.tell("setProtocolFeatures", payloadOf(agreed));
    frontEnd.acknowledged = (agreed & replyAck) !== 0n;
    await frontEnd.tell("setOwner");
    await frontEnd.tell("setFeatures", payloadOf(wanted));
    this.features = wanted;
    const asked = new Uint8Array(12 + CONFIG_BYTES);
    asked.set(payloadOf(0, CONFIG_BYTES, 0));
    const { payload } = await frontEnd.ask("getConfig", asked);
    this.config = new DataView(payload.buffer, 12);
  }

  /** The payload of SET_MEM_TABLE. */
  memoryTable(): Uint8Array<ArrayBuffer> {
    const size = BigInt(this.memory.byteLength);
    return payloadOf(1, 0, BigInt(GUEST_BASE), size, BigInt(USER_BASE), 0n);
  }

  /** Starts a queue. */
  async startQueue(frontEnd: VhostFrontEnd, queue: DriverQueue, base = 0): Promise<void> {
    const { index } = queue;
    await frontEnd.tell("setVringNum", payloadOf(index, queue.size));
    await frontEnd.tell("setVringBase", payloadOf(index, base));
    await frontEnd.tell("setVringAddr", this.ringAddresses(queue));
    if (queue.error !== null) {
      await frontEnd.tell("setVringErr", payloadOf(BigInt(index)), [queue.error.fd]);
    }
    await frontEnd.tell("setVringCall", payloadOf(BigInt(index)), [queue.call.fd]);
    await frontEnd.tell("setVringKick", payloadOf(BigInt(index)), [queue.kick.fd]);
    if ((this.features & RingFeature.protocolFeatures) !== 0n) {
      await frontEnd.tell("setVringEnable", payloadOf(index, 1));
    }
  }

  /** Stops a queue. @returns where to go on */
  async stopQueue(frontEnd: VhostFrontEnd, queue: DriverQueue): Promise<number> {
    const { payload } = await frontEnd.ask("getVringBase", payloadOf(queue.index, 0));
    return payload.getUint32(4, true);
  }

  /** The payload of SET_VRING_ADDR. */
  ringAddresses(queue: DriverQueue, flags = 0): Uint8Array<ArrayBuffer> {
    const user = (at: number) => BigInt(USER_BASE + at);
    const { index, descriptorsAt, usedAt, availAt } = queue;
    const log = BigInt(GUEST_BASE + usedAt);
    return payloadOf(index, flags, user(descriptorsAt), user(usedAt), user(availAt), log);
  }

  [Symbol.dispose](): void {
    for (const queue of this.queues) queue[Symbol.dispose]();
    if (this.#inflightFd !== -1) closeFd(this.#inflightFd);
    this.#inflightFd = -1;
    this.memory[Symbol.dispose]();
    this.file[Symbol.dispose]();
  }

  /** Gets a record of requests in flight at first, and brings it back each time. */
  async #shareInflight(frontEnd: VhostFrontEnd): Promise<void> {
    const { queues, queueSize } = this.options;
    if (this.#inflightFd === -1) {
      const sizes = queues | queueSize << 16;
      const { payload, fds } = await frontEnd.ask("getInflightFd", payloadOf(0n, 0n, sizes, 0));
      this.#inflightFd = fds[0];
      this.#inflight = new Uint8Array(payload.buffer);
    }
    await frontEnd.tell("setInflightFd", this.#inflight, [this.#inflightFd]);
  }
}
