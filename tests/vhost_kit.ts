/** A back end and its front end on one context, connected; and queues without either. */
import { type AioContext, AioError } from "../mod.ts";
import { USER_BASE, VhostDriver, type VhostDriverOptions } from "../src/cli/vhost_driver.ts";
import { type DriverQueue, GUEST_BASE } from "../src/cli/vhost_driver_queue.ts";
import { VhostFrontEnd } from "../src/cli/vhost_front_end.ts";
import { GuestMemory } from "../src/virtio/guest_memory.ts";
import {
  type BlockDevice,
  VhostUserBlk,
  type VhostUserBlkOptions,
  type VhostUserEvent,
} from "../src/virtio/mod.ts";
import type { VirtqueuePlace } from "../src/virtio/virtqueue.ts";
import { TestDevice } from "./memory_device.ts";
import { adoptedPair } from "./test_sockets.ts";

/** Every way in which rings can be agreed on. */
export const RINGS = [true, false].flatMap((eventIndex) =>
  [true, false].map((indirect) => ({ eventIndex, indirect }))
);

/** A disk on which no two sectors are alike. */
export function makeDevice(size = 1 << 20): TestDevice {
  const device = new TestDevice(size);
  for (let at = 0; at < size; at++) device.bytes[at] = at / 512 * 7 + at;
  return device;
}

/** A connection under test. */
export class Connection implements AsyncDisposable {
  readonly frontEnd: VhostFrontEnd;
  /** Why it ended, once it has. */
  readonly ended: Promise<string>;

  constructor(ctx: AioContext, disk: VhostUserBlk) {
    const [near, far] = adoptedPair(ctx);
    this.frontEnd = new VhostFrontEnd(near);
    this.ended = disk.serveSocket(far);
    this.ended.catch(() => {});
  }

  /** The front end goes away; settles when the back end is done with it. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.frontEnd[Symbol.asyncDispose]();
    await this.ended;
  }
}

/** A disk with what has happened to its connections. */
export class TestDisk implements AsyncDisposable {
  readonly disk: VhostUserBlk;
  readonly events: VhostUserEvent[] = [];
  readonly #ctx: AioContext;

  constructor(ctx: AioContext, device: BlockDevice, options: VhostUserBlkOptions = {}) {
    this.#ctx = ctx;
    this.disk = new VhostUserBlk(ctx, device, {
      onEvent: (event) => this.events.push(event),
      ...options,
    });
  }

  connect(): Connection {
    return new Connection(this.#ctx, this.disk);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.disk.close();
  }
}

/** Runs a test with a driver attached to a disk. */
export async function withDriver(
  ctx: AioContext,
  device: BlockDevice,
  options: VhostUserBlkOptions & VhostDriverOptions,
  test: (driver: VhostDriver, connection: Connection, disk: TestDisk) => Promise<void>,
): Promise<void> {
  await using disk = new TestDisk(ctx, device, options);
  using driver = new VhostDriver(ctx, { ...options, queues: options.numQueues ?? 1 });
  await using connection = disk.connect();
  await driver.attach(connection.frontEnd);
  await test(driver, connection, disk);
}

/** Where a queue of a driver is. */
export function placeOf(guest: DriverQueue): VirtqueuePlace {
  return {
    size: guest.size,
    descriptors: USER_BASE + guest.descriptorsAt,
    avail: USER_BASE + guest.availAt,
    used: USER_BASE + guest.usedAt,
  };
}

/** The memory of a driver, mapped as a back end has it. */
export function mapMemory(driver: VhostDriver): GuestMemory {
  const memory = new GuestMemory();
  const region = {
    guestAddress: GUEST_BASE,
    userAddress: USER_BASE,
    size: driver.memory.byteLength,
    offset: 0,
  };
  memory.add(region, driver.file.fd);
  return memory;
}

/** Ignores that the other end has gone away; whatever else happens is an error. */
export async function unlessGone(promise: Promise<unknown>): Promise<void> {
  try {
    await promise;
  } catch (error) {
    const gone = error instanceof AioError && ["EPIPE", "ECONNRESET"].includes(error.code);
    if (!gone && !String(error).includes("has dropped us")) throw error;
  }
}
