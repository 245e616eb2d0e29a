/**
 * A measurement of `scale --vhost`: the seed's scenario with what it was made for, disks served to a
 * virtual machine over vhost-user.
 *
 * One context serves all disks, as `vhost-user-blk` does. The machine is scale_vhost_guest.ts in a
 * process of its own, whose counters are on a board that both map. The window is as in scale_run.ts:
 * timers of the loop under measurement, and counters read at both ends. The guest has always ended
 * when a measurement returns or throws, and nothing is left in the filesystem.
 */
import { AioContext, type RunScope } from "../../mod.ts";
import { FileBlockDevice } from "../block/mod.ts";
import { VhostUserBlk } from "../virtio/mod.ts";
import { CommandError } from "./exit.ts";
import { GuestBoard } from "./scale_board.ts";
import type { BlockFile } from "./scale_file.ts";
import { type ProgressListener, WindowProgress } from "./scale_progress.ts";
import { evaluate, type Run, type RunPlan, type Sample, warmUpSeconds } from "./scale_run.ts";
import type { VhostGuestOrder } from "./scale_vhost_guest.ts";

/** What to measure. */
export interface VhostRunPlan extends RunPlan {
  /** Queues of an idle disk. */
  readonly queues: number;
}

/** Files that a queue takes in a process: what the guest kicks and what it is called with. */
const FILES_PER_QUEUE = 2;
/** Those of a disk: socket, listener, connection, and in the guest its memory. */
const FILES_PER_DISK = 4;
const BUSY_LOOK_NS = 1e6;

/** Idle queues that so many open files allow. */
export function idleQueuesMax(openFiles: number, queues: number): number {
  return Math.floor(openFiles / (FILES_PER_QUEUE + FILES_PER_DISK / queues));
}

/** Runs one measurement to its end. */
export async function measureVhost(
  plan: VhostRunPlan,
  file: BlockFile,
  onProgress: ProgressListener | null,
): Promise<Run> {
  using ctx = new AioContext({
    fdmon: plan.fdmon,
    pollParams: { idleNs: plan.removal ? plan.idleSeconds * 1e9 : Infinity },
  });
  return await ctx.run(async ({ host }) => {
    await using disks = await Disks.open(ctx, host, plan, file);
    await using guest = new Guest(host, disks.order(plan));
    return await guest.outliving(async () => {
      while (!guest.board.isRunning) await pass(ctx, BUSY_LOOK_NS);
      const [start, end] = await takeWindow(ctx, plan, () => sample(ctx, disks, guest), onProgress);
      return evaluate(plan, ctx.fdmon.name, start, end);
    });
  }, { ownsThread: true });
}

/** The idle disks and the busy one, which is the last. */
class Disks implements AsyncDisposable {
  readonly #stack: AsyncDisposableStack;
  readonly #disks: { readonly socket: string; readonly queues: number; disk: VhostUserBlk }[] = [];

  private constructor(stack: AsyncDisposableStack) {
    this.#stack = stack;
  }

  /** Opens the file and listens for all of them. */
  static async open(
    ctx: AioContext,
    host: RunScope["host"],
    { idleHandlers, queues }: VhostRunPlan,
    file: BlockFile,
  ): Promise<Disks> {
    await using stack = new AsyncDisposableStack();
    const folder = Deno.makeTempDirSync({ prefix: "aio_scale_" });
    stack.defer(() => Deno.removeSync(folder, { recursive: true }));
    // The file need not have a name any more.
    const path = `/proc/self/fd/${file.fd}`;
    const device = await host(FileBlockDevice.open(ctx, path, { readOnly: true }));
    stack.defer(() => device.close());
    const disks = new Disks(stack.move());
    try {
      for (let left = idleHandlers; left > 0; left -= queues) {
        disks.#add(ctx, device, folder, Math.min(left, queues));
      }
      disks.#add(ctx, device, folder, 1);
    } catch (error) {
      await disks[Symbol.asyncDispose]();
      throw error;
    }
    return disks;
  }

  #add(ctx: AioContext, device: FileBlockDevice, folder: string, queues: number): void {
    const socket = `${folder}/${this.#disks.length}`;
    const disk = new VhostUserBlk(ctx, device, { numQueues: queues });
    const listener = ctx.listen({ path: socket });
    const serving = disk.serve(listener);
    this.#disks.push({ socket, queues, disk });
    this.#stack.defer(async () => {
      await listener.close();
      await disk.close();
      await serving;
    });
  }

  /** What the guest is told; its board comes with it. */
  order({ depth, blockSize }: VhostRunPlan): Omit<VhostGuestOrder, "board"> {
    const disks = this.#disks.map(({ socket, queues }) => ({ socket, queues }));
    const { socket: busySocket } = disks.pop()!;
    return { idle: disks, busySocket, depth, blockSize };
  }

  /** System calls for kicks and calls of the busy disk, which are not the loop's. */
  get notifierCalls(): number {
    const { kicks, calls } = this.#disks[this.#disks.length - 1].disk.counts;
    return kicks + calls;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
  }
}

/** The process of the guest. */
class Guest implements AsyncDisposable {
  readonly board: GuestBoard = GuestBoard.make();
  readonly #child: Deno.ChildProcess;
  readonly #host: RunScope["host"];

  constructor(host: RunScope["host"], order: Omit<VhostGuestOrder, "board">) {
    const module = new URL("./scale_vhost_guest.ts", import.meta.url).href;
    const whole: VhostGuestOrder = { ...order, board: this.board.path };
    this.#host = host;
    this.#child = new Deno.Command(Deno.execPath(), {
      args: ["run", "--quiet", "-A", module, JSON.stringify(whole)],
      stdin: "null",
      stdout: "null",
    }).spawn();
  }

  /** Does what needs the guest; @throws {CommandError} when that ends before. */
  async outliving<Result>(action: () => Promise<Result>): Promise<Result> {
    const gone = this.#child.status.then(() => {
      throw new CommandError("Cannot measure as the guest's process has ended");
    });
    return await Promise.race([action(), gone]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.board.stop();
    await this.#host(this.#child.status);
    this.board[Symbol.dispose]();
  }
}

function sample(ctx: AioContext, disks: Disks, { board }: Guest): Sample {
  const { systemCalls, pollModeNs } = ctx.stats();
  return {
    atNs: ctx.now(),
    guest: board.count(),
    systemCalls: systemCalls + disks.notifierCalls,
    pollModeNs,
  };
}

/** Samples at both ends of the window, after the warm-up. */
async function takeWindow(
  ctx: AioContext,
  plan: VhostRunPlan,
  sample: () => Sample,
  onProgress: ProgressListener | null,
): Promise<[Sample, Sample]> {
  const warmUpNs = warmUpSeconds(plan) * 1e9, windowNs = plan.seconds * 1e9;
  using progress = new WindowProgress(ctx, ctx.now() + warmUpNs, onProgress);
  await pass(ctx, warmUpNs);
  const start = sample();
  progress.endNs = start.atNs + windowNs;
  await pass(ctx, windowNs);
  return [start, sample()];
}

/** Waits on the loop. */
function pass(ctx: AioContext, ns: number): Promise<void> {
  return new Promise((resolve) => ctx.timer(resolve).arm(ctx.now() + ns));
}
