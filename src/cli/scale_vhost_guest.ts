/**
 * The virtual machine of `scale --vhost`, as a process of its own: drivers of all disks, of which one
 * is busy.
 *
 * It is a process because each queue takes two files on either side, and 200 disks of 32 queues would
 * not fit into one. Each idle queue makes one request, as a guest does that looks for partitions. Then
 * the busy one reads random blocks and spins for them, as a processor of a guest does from the
 * device's point of view, until the board says stop or whoever measures has gone.
 */
import { AioContext } from "../../mod.ts";
import { BlkRequestType, BlkStatus } from "../virtio/virtio_blk.ts";
import { CommandError } from "./exit.ts";
import { GuestBoard } from "./scale_board.ts";
import { VhostDriver } from "./vhost_driver.ts";
import type { DriverQueue } from "./vhost_driver_queue.ts";
import { VhostFrontEnd } from "./vhost_front_end.ts";

/** What the process is told, as JSON. */
export interface VhostGuestOrder {
  /** Path of the board. */
  readonly board: string;
  /** Idle disks, and how many queues each has. */
  readonly idle: readonly { readonly socket: string; readonly queues: number }[];
  readonly busySocket: string;
  readonly depth: number;
  readonly blockSize: number;
}

const SECTOR = 512;
/** Entries of a queue, as those of QEMU's disks. */
const IDLE_QUEUE_SIZE = 128, BUSY_QUEUE_SIZE = 256;
/** Looks for a completion between two looks for who measures. */
const SPINS_PER_LOOK = 100_000;

/** Reads random blocks with `depth` requests in flight until the board says stop. */
function readBlocks(
  { now }: { now: () => number },
  queue: DriverQueue,
  board: GuestBoard,
  { depth, blockSize }: VhostGuestOrder,
): void {
  const parent = Deno.ppid;
  const sectorsPerBlock = blockSize / SECTOR;
  const blocks = Math.floor(queue.driver.sectors / sectorsPerBlock);
  const postedNs = new Float64Array(depth);
  let state = 1, inFlight = 0, spins = 0;
  const post = (slot: number, atNs: number) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    queue.post(slot, Math.floor(state / 2 ** 32 * blocks) * sectorsPerBlock);
    postedNs[slot] = atNs;
    inFlight++;
  };
  for (let slot = 0; slot < depth; slot++) {
    queue.describe(slot, BlkRequestType.in, blockSize);
    post(slot, now());
  }
  queue.refuseCalls();
  queue.publish();
  board.begin();
  while (inFlight !== 0) {
    if (!queue.takeUsed()) {
      if (++spins % SPINS_PER_LOOK === 0 && Deno.ppid !== parent) return;
      continue;
    }
    const atNs = now();
    const stopped = board.isStopped;
    do {
      if (queue.usedStatus !== BlkStatus.ok) throw new CommandError("Cannot read: the disk fails");
      inFlight--;
      board.countRequest(atNs - postedNs[queue.usedSlot]);
      if (!stopped) post(queue.usedSlot, atNs);
    } while (queue.takeUsed());
    if (!stopped && queue.publish()) board.setKicks(queue.kicks);
  }
}

/** Attaches the disks, has idle queues make their request, and reads. */
async function runGuest(order: VhostGuestOrder): Promise<void> {
  const { idle, blockSize } = order;
  using ctx = new AioContext();
  using board = GuestBoard.open(order.board);
  await ctx.run(async () => {
    await using stack = new AsyncDisposableStack();
    const attach = async (socket: string, queues: number, slotBytes: number, queueSize: number) => {
      const driver = stack.use(
        new VhostDriver(ctx, { queues, slotBytes, queueSize, errors: false }),
      );
      const frontEnd = stack.use(new VhostFrontEnd(await ctx.connect({ path: socket })));
      await driver.attach(frontEnd);
      return driver.queues;
    };
    for (const { socket, queues } of idle) {
      for (const queue of await attach(socket, queues, SECTOR, IDLE_QUEUE_SIZE)) {
        await queue.request(BlkRequestType.in, 0, SECTOR);
        queue.refuseCalls();
      }
    }
    const [busy] = await attach(order.busySocket, 1, blockSize, BUSY_QUEUE_SIZE);
    readBlocks({ now: () => ctx.now() }, busy, board, order);
  });
}

if (import.meta.main) {
  try {
    await runGuest(JSON.parse(Deno.args[0]));
  } catch (error) {
    console.error(`error: ${error instanceof Error ? error.message : String(error)}`);
    Deno.exit(1);
  }
}
