/** A virtqueue with the driver's side of it, for tests. */
import { AioContext } from "../mod.ts";
import { VhostDriver, type VhostDriverOptions } from "../src/cli/vhost_driver.ts";
import { type DriverQueue, GUEST_BASE, writeDescriptor } from "../src/cli/vhost_driver_queue.ts";
import type { GuestRuns } from "../src/virtio/guest_memory.ts";
import type { InflightQueue } from "../src/virtio/inflight.ts";
import { DescriptorChain, Virtqueue } from "../src/virtio/virtqueue.ts";
import { mapMemory, placeOf } from "./vhost_kit.ts";

export const SIZE = 16;

/** Both sides of a queue. */
export class Sides implements Disposable {
  readonly ctx = new AioContext();
  readonly driver: VhostDriver;
  readonly guest: DriverQueue;
  readonly memory;
  readonly chain = new DescriptorChain();
  queue: Virtqueue;

  constructor(options: VhostDriverOptions = {}) {
    this.driver = new VhostDriver(this.ctx, { queueSize: SIZE, ...options });
    this.memory = mapMemory(this.driver);
    this.guest = this.driver.queues[0];
    this.queue = this.makeQueue();
  }

  makeQueue(inflight: InflightQueue | null = null, base = 0): Virtqueue {
    const { memory, driver } = this;
    return new Virtqueue(memory, placeOf(this.guest), driver.options, base, inflight);
  }

  /** Writes a descriptor whose buffer is a part of the data. */
  describe(index: number, flags: number, next = 0, length = 512, at = 0): void {
    const address = GUEST_BASE + this.guest.dataAt + at;
    writeDescriptor(this.guest.descriptors, index, address, length, flags, next);
  }

  /** Offers a chain, and has it read. */
  readOffered(head: number): void {
    this.guest.offer(head);
    this.guest.publish();
    const taken = this.queue.take();
    if (taken !== -1) this.queue.read(taken, this.chain);
  }

  [Symbol.dispose](): void {
    this.memory.clear();
    this.driver[Symbol.dispose]();
    this.ctx[Symbol.dispose]();
  }
}

export function runsOf({ count, offsets, lengths }: GuestRuns): [number, number][] {
  return Array.from({ length: count }, (_, index) => [offsets[index], lengths[index]]);
}
