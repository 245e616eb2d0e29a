/**
 * Measures heap use per request of a virtqueue, and of a device behind one, and that of a ring which
 * is idle, and prints it as JSON; run by virtqueue_allocation_test.ts. The least of many rounds
 * counts, as in allocation_program.ts.
 */
import { AioContext, EventNotifier } from "../mod.ts";
import { MemoryBlockDevice } from "../src/block/mod.ts";
import { VhostDriver } from "../src/cli/vhost_driver.ts";
import type { DriverQueue } from "../src/cli/vhost_driver_queue.ts";
import { DeviceQueue } from "../src/virtio/device_queue.ts";
import { inflightBytes, InflightQueue } from "../src/virtio/inflight.ts";
import { MemoryViews } from "../src/virtio/memory_views.ts";
import { VhostUserRing } from "../src/virtio/vhost_user_ring.ts";
import { BlkDevice, BlkRequest } from "../src/virtio/virtio_blk.ts";
import type { GuestMemory } from "../src/virtio/guest_memory.ts";
import { DescriptorChain, Virtqueue, type VirtqueuePlace } from "../src/virtio/virtqueue.ts";
import { mapMemory, placeOf } from "./vhost_kit.ts";

declare const gc: () => void;

const WARM_UP = 100_000, REQUESTS = 20_000, ROUNDS_MAX = 10, SIZE = 128;
const IDLE_RINGS = 1000;

using ctx = new AioContext();
const bytes: Record<string, number> = {};
for (const indirect of [true, false]) {
  using driver = new VhostDriver(ctx, { queueSize: SIZE, indirect });
  const [guest] = driver.queues;
  const memory = mapMemory(driver);
  const place = placeOf(guest);
  const record = new MemoryViews(new SharedArrayBuffer(inflightBytes(SIZE)));
  const inflight = new InflightQueue(record, 0, SIZE);
  const queue = new Virtqueue(memory, place, driver.options, 0, inflight);
  queue.recover();
  const chain = new DescriptorChain(), header = new Uint8Array(16), views: Uint8Array[] = [];
  const step = () => {
    guest.post(7, 5);
    guest.publish();
    const head = queue.take();
    queue.read(head, chain);
    chain.readable.copyTo(header, 0, 16);
    chain.writable.view(0, 4096, views);
    chain.writable.setLast(0);
    queue.put(head, 4097);
    queue.wantsCall();
    queue.disableKicks();
    guest.takeUsed();
  };
  bytes[indirect ? "indirect" : "direct"] = measure(step);
  bytes[`device, ${indirect ? "indirect" : "direct"}`] = measureDevice(
    guest,
    new Virtqueue(memory, place, driver.options, queue.nextAvail),
  );
  if (indirect) bytes["idle ring"] = await measureIdle(memory, place);
  memory.clear();
}
console.log(JSON.stringify(bytes));

/** A device on the loop, kicked for each request, that answers at once and calls. */
function measureDevice(guest: DriverQueue, virtqueue: Virtqueue): number {
  const options = { readOnly: false, queues: 1, serial: new Uint8Array(), writeCache: true };
  const blk = new BlkDevice(new MemoryBlockDevice(1 << 20), options);
  const counts = { kicks: 0, requests: 0, calls: 0 };
  const queue = new DeviceQueue({
    ctx,
    virtqueue,
    kick: guest.kick,
    call: guest.call,
    counts,
    log: null,
    usedLogAddress: null,
    makeRequest: (owner, head) => new BlkRequest(blk, owner, head),
    reportBroken: (error) => {
      throw error;
    },
  });
  queue.start();
  ctx.setPollParams({ maxNs: 0 });
  guest.wantCall();
  const least = measure(() => {
    guest.post(7, 5);
    guest.publish();
    while (!guest.takeUsed()) ctx.poll(false);
    guest.wantCall();
  });
  if (counts.calls < counts.requests / 2) throw new Error("the guest was not called");
  ctx.setFdHandler(guest.kick.fd, null);
  return least;
}

/** Bytes of heap of a ring that is started and has nothing to do, with its notifiers. */
async function measureIdle(memory: GuestMemory, place: VirtqueuePlace): Promise<number> {
  const owner = {
    ctx,
    memory,
    counts: { kicks: 0, requests: 0, calls: 0 },
    makeRequest: () => {
      throw new Error("nothing was asked for");
    },
    reportBroken: (error: Error) => {
      throw error;
    },
  };
  const record = new MemoryViews(new SharedArrayBuffer(inflightBytes(SIZE)));
  const start = (index: number) => {
    const ring = new VhostUserRing(owner, index);
    ring.size = SIZE;
    ring.addresses = { ...place, usedLogAddress: null };
    ring.enabled = true;
    ring.setKick(new EventNotifier());
    ring.setCall(new EventNotifier());
    const inflight = new InflightQueue(record, 0, SIZE);
    ring.start({ eventIndex: true, indirect: true, inflight, log: null });
    return ring;
  };
  const rings = [start(0)];
  gc();
  const before = Deno.memoryUsage().heapUsed;
  while (rings.length <= IDLE_RINGS) rings.push(start(rings.length));
  gc();
  const used = (Deno.memoryUsage().heapUsed - before) / IDLE_RINGS;
  for (const ring of rings) {
    await ring.stop();
    ring.forget();
  }
  return used;
}

/** Bytes of heap for each time that something is done. */
function measure(step: () => void): number {
  for (let request = 0; request < WARM_UP; request++) step();
  let least = Infinity;
  for (let round = 0; round < ROUNDS_MAX; round++) {
    gc();
    const before = Deno.memoryUsage().heapUsed;
    for (let request = 0; request < REQUESTS; request++) step();
    const used = (Deno.memoryUsage().heapUsed - before) / REQUESTS;
    // A collection meanwhile makes it less than none.
    if (used > 0) least = Math.min(least, used);
  }
  return least;
}
