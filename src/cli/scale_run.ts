/**
 * One measurement: a context with many idle handlers and one busy device driven by the guest.
 *
 * The order is that of the seed's scenario. Every idle queue gets one event, so that it joins the
 * poll list; the guest starts; the idle interval passes; then a window is measured. Both ends of the
 * window are timers of the loop under measurement, and counters are read at both, so nothing is
 * reset while it runs. The guest's thread has always ended when a measurement returns or throws.
 */
import type { Shim } from "../../ffi/shim_symbols.ts";
import { AioContext, type FdmonName } from "../../mod.ts";
import { CommandError } from "./exit.ts";
import { BlockReader, DeviceQueue } from "./scale_device.ts";
import type { BlockFile } from "./scale_file.ts";
import { type GuestCounts, GuestMemory } from "./scale_guest.ts";
import type { PollForm } from "./scale_options.ts";
import { type ProgressListener, WindowProgress } from "./scale_progress.ts";

/** What to measure. */
export interface RunPlan {
  readonly idleHandlers: number;
  readonly removal: boolean;
  readonly fdmon: FdmonName | undefined;
  readonly poll: PollForm;
  readonly depth: number;
  readonly blockSize: number;
  readonly seconds: number;
  readonly idleSeconds: number;
}

/** What was measured; the form in which `--json` prints it. */
export interface Run {
  readonly idleHandlers: number;
  readonly removal: boolean;
  readonly fdmon: FdmonName;
  readonly poll: PollForm;
  readonly iops: number;
  readonly usPerRequest: number;
  readonly p99Us: number;
  readonly kicksPerRequest: number;
  /**
   * System calls of the loop and of the device's notifier; the reads of data are not in it, but for
   * `--vhost`.
   */
  readonly syscallsPerRequest: number;
  /** Share of the time that the loop was in poll mode, its callbacks apart, from 0 to 1. */
  readonly pollShare: number;
}

/** Handlers are removed a little after the interval, by the poll run that follows it. */
const REMOVAL_SLACK_SECONDS = 0.25;
/** Without removal there is no interval to wait for, only code to be compiled. */
const WARM_UP_SECONDS = 1;

/** Counters at one end of a window. */
export interface Sample {
  readonly atNs: number;
  readonly guest: GuestCounts;
  readonly systemCalls: number;
  readonly pollModeNs: number;
}

/** Runs one measurement to its end. */
export async function measure(
  plan: RunPlan,
  shim: Shim,
  file: BlockFile,
  onProgress: ProgressListener | null,
): Promise<Run> {
  using scenario = new Scenario(plan, shim, file);
  return await scenario.measureWindow(warmUpSeconds(plan), plan.seconds, onProgress);
}

/** How long a measurement waits for its window. */
export function warmUpSeconds({ removal, idleSeconds }: RunPlan): number {
  return removal ? idleSeconds + REMOVAL_SLACK_SECONDS : Math.min(idleSeconds, WARM_UP_SECONDS);
}

/** A context with its idle queues and the busy one; can be measured more than once. */
export class Scenario implements Disposable {
  readonly #plan: RunPlan;
  readonly #shim: Shim;
  readonly #file: BlockFile;
  readonly #stack: DisposableStack;
  readonly #ctx: AioContext;
  readonly #memory: GuestMemory;
  readonly #busy: DeviceQueue;

  /** Adds all handlers and sees to it that each idle one has had its event. */
  constructor(plan: RunPlan, shim: Shim, file: BlockFile) {
    this.#plan = plan;
    this.#shim = shim;
    this.#file = file;
    using stack = new DisposableStack();
    this.#ctx = stack.use(new AioContext({ fdmon: plan.fdmon }));
    this.#ctx.setPollParams({ idleNs: plan.removal ? plan.idleSeconds * 1e9 : Infinity });
    this.#memory = new GuestMemory(plan.idleHandlers);
    addIdleQueues(this.#ctx, this.#memory, plan, stack);
    const reader = new BlockReader(shim, file.fd, plan.blockSize, plan.depth);
    const busy = new DeviceQueue(this.#memory, this.#memory.busyQueue, reader, plan.poll);
    this.#busy = addQueue(this.#ctx, busy, stack);
    this.#stack = stack.move();
  }

  /**
   * Runs the guest through a warm-up and measures the window after it.
   *
   * @throws {CommandError} when no request was completed
   */
  async measureWindow(
    warmUpSeconds: number,
    seconds: number,
    onProgress: ProgressListener | null,
  ): Promise<Run> {
    const guest = this.#memory.runGuest(this.#shim, {
      eventFd: this.#busy.notifier.fd,
      depth: this.#plan.depth,
      blocks: this.#file.blocks,
    });
    try {
      const [start, end] = this.#pollThroughWindow(warmUpSeconds, seconds, onProgress);
      return evaluate(this.#plan, this.#ctx.fdmon.name, start, end);
    } finally {
      this.#memory.stopGuest();
      await guest;
      // The next guest begins with an empty queue.
      while (this.#busy.pending !== 0) this.#ctx.poll(true);
    }
  }

  /** Deletes the handlers and closes everything. */
  [Symbol.dispose](): void {
    this.#stack[Symbol.dispose]();
  }

  #sample(): Sample {
    const { systemCalls, pollModeNs } = this.#ctx.stats();
    return {
      atNs: this.#ctx.now(),
      guest: this.#memory.countGuest(),
      systemCalls: systemCalls + this.#busy.drains,
      pollModeNs,
    };
  }

  /** Drives the loop; returns the samples of the window's two ends. */
  #pollThroughWindow(
    warmUpSeconds: number,
    seconds: number,
    onProgress: ProgressListener | null,
  ): [Sample, Sample] {
    const ctx = this.#ctx;
    const startNs = ctx.now() + warmUpSeconds * 1e9, windowNs = seconds * 1e9;
    let start: Sample | null = null, end: Sample | null = null;
    const endTimer = ctx.timer(() => end = this.#sample());
    using progress = new WindowProgress(ctx, startNs, onProgress);
    // The window is as long as asked for however late it begins.
    const startTimer = ctx.timer(() => {
      start = this.#sample();
      endTimer.arm(progress.endNs = start.atNs + windowNs);
    });
    startTimer.arm(startNs);
    while (start === null || end === null) ctx.poll(true);
    return [start, end];
  }
}

/** Sets the queue's handler; the stack deletes it before it closes the queue. */
function addQueue(ctx: AioContext, queue: DeviceQueue, stack: DisposableStack): DeviceQueue {
  stack.use(queue);
  ctx.setFdHandler(queue.notifier.fd, queue.handler());
  stack.defer(() => ctx.setFdHandler(queue.notifier.fd, null));
  return queue;
}

/** Adds the idle queues and sees to it that each has had its event. */
function addIdleQueues(
  ctx: AioContext,
  memory: GuestMemory,
  plan: RunPlan,
  stack: DisposableStack,
): void {
  const queues: DeviceQueue[] = [];
  for (let index = 0; index < plan.idleHandlers; index++) {
    const queue = new DeviceQueue(memory, memory.idleQueue(index), null, plan.poll);
    addQueue(ctx, queue, stack);
    queue.postEvent();
    queues.push(queue);
  }
  while (queues.some((queue) => queue.used === 0)) ctx.poll(true);
}

/** What the samples of a window say. */
export function evaluate(plan: RunPlan, fdmon: FdmonName, start: Sample, end: Sample): Run {
  const elapsedNs = end.atNs - start.atNs;
  const guest = end.guest.since(start.guest);
  const requests = guest.requests;
  if (requests === 0) {
    throw new CommandError(
      `Cannot measure as no request was completed in ${elapsedNs / 1e9} seconds`,
    );
  }
  return {
    idleHandlers: plan.idleHandlers,
    removal: plan.removal,
    fdmon,
    poll: plan.poll,
    iops: requests / elapsedNs * 1e9,
    usPerRequest: elapsedNs / 1e3 / requests,
    p99Us: guest.quantileNs(0.99) / 1e3,
    kicksPerRequest: guest.kicks / requests,
    syscallsPerRequest: (end.systemCalls - start.systemCalls) / requests,
    pollShare: (end.pollModeNs - start.pollModeNs) / elapsedNs,
  };
}
