/**
 * A vhost-user-blk back end: a BlockDevice as a disk of a virtual machine.
 *
 * It listens where the machine's front end connects, and serves one front end after the other, as
 * machines and back ends are restarted independently of each other. What belongs to a connection is
 * in vhost_user.ts, what the guest's requests mean in virtio_blk.ts.
 */
import { AioContext, type AioListener, type AioSocket } from "../../mod.ts";
import type { BlockDevice } from "../block/block_device.ts";
import type { DeviceQueue, QueueCounts } from "./device_queue.ts";
import { VhostUserSession } from "./vhost_user.ts";
import { BlkDevice, BlkRequest } from "./virtio_blk.ts";

/** Rings that a number with an eventfd can name. */
const QUEUES_MAX = 256;
const SERIAL_BYTES_MAX = 20;

/** How a disk is served. */
export interface VhostUserBlkOptions {
  /** Queues that the guest may use, 1 to 256; 1 where not given. */
  readonly numQueues?: number;
  /** The guest cannot write, also where the device could. */
  readonly readOnly?: boolean;
  /** What the guest sees as the disk's serial number, at most 20 bytes of ASCII. */
  readonly serial?: string;
  /**
   * Whether guests begin with write-back, in which only what is flushed survives; true where not
   * given. Guests that do not flush, or choose so, have write-through all the same.
   */
  readonly writeCache?: boolean;
  /** Told why a connection has ended, and what a guest did that broke its device. */
  readonly onEvent?: (event: VhostUserEvent) => void;
}

/** What has happened to a connection. */
export interface VhostUserEvent {
  /** A front end has connected; it has gone, or was dropped; its guest has broken the device. */
  readonly kind: "connected" | "disconnected" | "broken";
  /** Why, in a sentence; "" where it has connected. */
  readonly reason: string;
}

/**
 * A block device as a disk of virtual machines.
 *
 * @example
 * ```ts
 * import { AioContext } from "@aio/context";
 * import { FileBlockDevice } from "@aio/context/block";
 * import { VhostUserBlk } from "@aio/context/virtio";
 *
 * export async function serve(file: string, path: string): Promise<void> {
 *   using ctx = new AioContext();
 *   await ctx.run(async () => {
 *     const device = await FileBlockDevice.open(ctx, file);
 *     await using disk = new VhostUserBlk(ctx, device, { numQueues: 4 });
 *     // qemu-system-x86_64 -chardev socket,id=c,path=... -device vhost-user-blk-pci,chardev=c
 *     await using listener = ctx.listen({ path });
 *     await disk.serve(listener);
 *   });
 * }
 * ```
 */
export class VhostUserBlk implements AsyncDisposable {
  readonly #ctx: AioContext;
  readonly #device: BlockDevice;
  readonly #options: Required<Omit<VhostUserBlkOptions, "serial" | "onEvent">>;
  readonly #serial: Uint8Array;
  readonly #onEvent: (event: VhostUserEvent) => void;
  readonly #counts: QueueCounts = { kicks: 0, requests: 0, calls: 0 };
  /** Connections that are served, each until its requests in flight have ended. */
  readonly #serving = new Map<AioSocket, Promise<string>>();
  #closed = false;

  /**
   * Prepares to serve a device; `serve` begins.
   *
   * @param ctx the loop that it is served on
   * @param device what is served; it stays the caller's
   * @param options what guests see of it
   * @throws {TypeError} or {RangeError} for bad options
   */
  constructor(ctx: AioContext, device: BlockDevice, options: VhostUserBlkOptions = {}) {
    if (!(ctx instanceof AioContext)) {
      throw new TypeError("Cannot serve a disk as the context is no AioContext");
    }
    if (typeof device !== "object" || device === null) {
      throw new TypeError(`Cannot serve a disk as the device is no object: ${String(device)}`);
    }
    if (typeof options !== "object" || options === null) {
      throw new TypeError(`Cannot serve a disk as the options are no object: ${String(options)}`);
    }
    const { numQueues = 1, readOnly = false, serial = "", writeCache = true } = options;
    const { onEvent = () => {} } = options;
    if (!Number.isInteger(numQueues) || numQueues < 1 || numQueues > QUEUES_MAX) {
      throw new RangeError(
        `Cannot serve a disk as \`numQueues\` is not 1 to ${QUEUES_MAX}: ${
          Deno.inspect(numQueues)
        }`,
      );
    }
    requireBoolean("readOnly", readOnly);
    requireBoolean("writeCache", writeCache);
    if (typeof onEvent !== "function") {
      throw new TypeError(`Cannot serve a disk as \`onEvent\` is no function: ${typeof onEvent}`);
    }
    this.#ctx = ctx;
    this.#device = device;
    this.#options = { numQueues, readOnly, writeCache };
    this.#serial = readSerial(serial);
    this.#onEvent = onEvent;
  }

  /** Counters of all connections, since the beginning. */
  get counts(): Readonly<QueueCounts> {
    return { ...this.#counts };
  }

  /**
   * Serves whoever connects, one front end after the other, until the listener or this is closed.
   *
   * @throws {AioError} when no more connections can be accepted
   */
  async serve(listener: AioListener): Promise<void> {
    for await (const socket of listener) {
      if (this.#closed) return void await socket.close();
      await this.serveSocket(socket);
      if (this.#closed) return;
    }
  }

  /**
   * Serves the front end at the other end of a socket, and closes it.
   *
   * @returns why the connection ended
   * @throws {TypeError} when this is closed
   */
  async serveSocket(socket: AioSocket): Promise<string> {
    if (this.#closed) throw new TypeError("Cannot serve a disk as it is closed");
    const serving = this.#serve(socket);
    this.#serving.set(socket, serving);
    try {
      return await serving;
    } finally {
      this.#serving.delete(socket);
    }
  }

  async #serve(socket: AioSocket): Promise<string> {
    const { numQueues: queues, readOnly, writeCache } = this.#options;
    const blk = new BlkDevice(this.#device, { queues, readOnly, writeCache, serial: this.#serial });
    const device = {
      queues,
      features: blk.features,
      accept: (features: bigint) => blk.accept(features),
      reset: () => blk.reset(),
      readConfig: () => blk.readConfig(),
      writeConfig: (offset: number, bytes: Uint8Array) => blk.writeConfig(offset, bytes),
      makeRequest: (queue: DeviceQueue, head: number) => new BlkRequest(blk, queue, head),
    };
    const session = new VhostUserSession(this.#ctx, socket, device, this.#counts, (error) => {
      this.#onEvent({ kind: "broken", reason: error.message });
    });
    this.#onEvent({ kind: "connected", reason: "" });
    let reason = "";
    try {
      reason = await session.serve();
    } finally {
      await socket.close();
    }
    this.#onEvent({ kind: "disconnected", reason });
    return reason;
  }

  /**
   * Drops the front ends and waits for requests in flight. Close the listener before, or nobody
   * accepts what comes. Closing again is harmless.
   */
  async close(): Promise<void> {
    this.#closed = true;
    const serving = [...this.#serving];
    for (const [socket] of serving) socket.shutdown();
    await Promise.allSettled(serving.map(([, promise]) => promise));
  }

  /** Closes. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

function requireBoolean(name: string, value: unknown): void {
  if (typeof value === "boolean") return;
  throw new TypeError(
    `Cannot serve a disk as \`${name}\` is no boolean: ${Deno.inspect(value)}`,
  );
}

function readSerial(serial: string): Uint8Array {
  if (typeof serial !== "string") {
    throw new TypeError(`Cannot serve a disk as its serial is no string: ${typeof serial}`);
  }
  if (serial.length > SERIAL_BYTES_MAX || !/^[\x20-\x7e]*$/.test(serial)) {
    throw new RangeError(
      `Cannot serve a disk as its serial is not up to ${SERIAL_BYTES_MAX} characters of ASCII: ${
        JSON.stringify(serial)
      }`,
    );
  }
  return new TextEncoder().encode(serial);
}
