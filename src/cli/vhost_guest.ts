/**
 * A guest in a Worker: connects to a vhost-user-blk back end, starts all queues of its disk and reads
 * random blocks through the first one as fast as that goes. The other queues stay idle.
 *
 * It spins for completions and never sleeps, as a processor of a guest does from the device's point
 * of view, so what is counted is the back end's work. On one thread of its own, as a back end on the
 * same one would have no time to answer.
 */
import { AioContext } from "../../mod.ts";
import { BlkRequestType, BlkStatus } from "../virtio/virtio_blk.ts";
import { VhostDriver } from "./vhost_driver.ts";
import type { DriverQueue } from "./vhost_driver_queue.ts";
import { VhostFrontEnd } from "./vhost_front_end.ts";

/** What the Worker is told. */
export interface GuestOrder {
  /** Path of the back end's socket. */
  readonly path: string;
  readonly queues: number;
  readonly queueSize: number;
  /** Requests in flight. */
  readonly depth: number;
  readonly blockSize: number;
  /** So long it reads before it counts; 0 where not given. */
  readonly warmUpMs?: number;
  /** It ends after so much time, or so many requests. */
  readonly durationMs: number;
  readonly requests: number;
  readonly eventIndex: boolean;
}

/** What it found. */
export interface GuestResult {
  readonly requests: number;
  readonly kicks: number;
  readonly elapsedMs: number;
  /** Requests that failed. */
  readonly failures: number;
}

/** Requests between two looks at the clock. */
const REQUESTS_PER_LOOK = 64;
/** Looks for a completion between two looks at the clock. */
const SPINS_PER_LOOK = 100_000;

/** Reads random blocks with `depth` requests in flight. */
export function readBlocks(queue: DriverQueue, order: GuestOrder): GuestResult {
  const { depth, blockSize, durationMs, requests: most } = order;
  const sectorsPerBlock = blockSize / 512;
  const blocks = Math.floor(queue.driver.sectors / sectorsPerBlock);
  const kicksBefore = queue.kicks;
  let state = 1, requests = 0, failures = 0, inFlight = 0, elapsedMs = 0, spins = 0;
  const post = (slot: number) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    queue.post(slot, Math.floor(state / 2 ** 32 * blocks) * sectorsPerBlock);
    inFlight++;
  };
  const startMs = performance.now();
  queue.refuseCalls();
  for (let slot = 0; slot < depth; slot++) {
    queue.describe(slot, BlkRequestType.in, blockSize);
    post(slot);
  }
  queue.publish();
  while (inFlight !== 0) {
    let back = false;
    while (queue.takeUsed()) {
      inFlight--;
      requests++;
      if (queue.usedStatus !== BlkStatus.ok) failures++;
      if (requests % REQUESTS_PER_LOOK === 0) elapsedMs = performance.now() - startMs;
      if (elapsedMs < durationMs && requests + inFlight < most) {
        post(queue.usedSlot);
        back = true;
      }
    }
    if (back) queue.publish();
    else if (++spins % SPINS_PER_LOOK === 0) elapsedMs = performance.now() - startMs;
  }
  elapsedMs = performance.now() - startMs;
  return { requests, failures, kicks: queue.kicks - kicksBefore, elapsedMs };
}

/** Carries out an order on this thread. */
export async function runGuest(order: GuestOrder): Promise<GuestResult> {
  const { queues, queueSize, eventIndex, blockSize } = order;
  using ctx = new AioContext();
  return await ctx.run(async () => {
    using driver = new VhostDriver(ctx, { queues, queueSize, eventIndex, slotBytes: blockSize });
    await using frontEnd = new VhostFrontEnd(await ctx.connect({ path: order.path }));
    await driver.attach(frontEnd);
    const [queue] = driver.queues;
    const { warmUpMs: durationMs = 0 } = order;
    if (durationMs !== 0) readBlocks(queue, { ...order, durationMs, requests: Infinity });
    return readBlocks(queue, order);
  });
}

/** What a Worker has that a window has not; the types of the two do not go together. */
interface WorkerScope {
  onmessage: (event: MessageEvent<GuestOrder>) => void;
  postMessage(message: { result: GuestResult } | { error: string }): void;
}

if (!("window" in globalThis) && "WorkerGlobalScope" in globalThis) {
  const scope = globalThis as unknown as WorkerScope;
  scope.onmessage = async ({ data }) => {
    try {
      scope.postMessage({ result: await runGuest(data) });
    } catch (error) {
      scope.postMessage({ error: String(error) });
    }
  };
}

/** Runs a guest in a Worker. */
export async function startGuest(order: GuestOrder): Promise<GuestResult> {
  const worker = new Worker(new URL("./vhost_guest.ts", import.meta.url), { type: "module" });
  try {
    const { promise, resolve, reject } = Promise.withResolvers<GuestResult>();
    worker.onmessage = ({ data }) =>
      "result" in data ? resolve(data.result) : reject(new Error(data.error));
    worker.onerror = (event) => reject(new Error(event.message));
    worker.postMessage(order);
    return await promise;
  } finally {
    worker.terminate();
  }
}
