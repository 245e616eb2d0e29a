/**
 * The process that measures one part of ours for the command `bench`, as often as it is asked to.
 *
 * Each measurement has a process of its own, so that no other one's code and garbage are in its
 * way, and it sleeps between two measurements, so that several of these can be asked in turn. Its
 * arguments are the name of the measurement and what that needs. On the standard output it says
 * "ready" once all is set up, and then a line of JSON for each line on the standard input.
 */
import { createInterface } from "node:readline";
import process from "node:process";
import { loadShim } from "../../ffi/library.ts";
import {
  AioContext,
  coEnter,
  type Coroutine,
  coSchedule,
  EventNotifier,
  type FdmonName,
  PollWord,
} from "../../mod.ts";
import { measureDenoReads, serveDenoEcho } from "./bench_deno.ts";
import { measureReadAllocation, measureReads, measureSqes } from "./bench_io.ts";
import { openBlockFile } from "./scale_file.ts";
import { serveEcho } from "./bench_sockets.ts";
import {
  measureAttachedIdle,
  measureAttachedReads,
  measureMessages,
  measurePostRoundTrip,
  measureRoundTrip,
  measureScaling,
  measureServe,
} from "./bench_threads.ts";
import { type RunPlan, Scenario } from "./scale_run.ts";

/** Figures by name; a measurement of one figure calls it `value`. */
export type Figures = Readonly<Record<string, number>>;
/** Measures once. */
export type Measure = () => Figures | Promise<Figures>;

declare const gc: () => void;

const IDLE_HANDLERS = 3200, MANY_HANDLERS = 10_000, TIMERS = 100_000;
/** A window of `scale`, before which the guest's thread has to be up and polling be learned. */
const WINDOW_SECONDS = 0.25, WINDOW_WARM_UP_SECONDS = 0.05, FIRST_WARM_UP_SECONDS = 1;
const FAR_NS = 1e15;

const MEASUREMENTS: Readonly<Record<string, (...args: string[]) => Measure | Promise<Measure>>> = {
  scale: measureScale,
  "poll-pass": measurePollPass,
  "poll-nothing": measurePollNothing,
  "bottom-half": measureBottomHalf,
  coroutine: measureCoroutine,
  timer: measureTimer,
  "handler-memory": measureHandlerMemory,
  "handler-changes": measureHandlerChanges,
  allocation: measureAllocation,
  "wake-up": measureWakeUp,
  read: (depth, from, path) => measureReads(depth, from as "cached" | "direct", path),
  sqe: measureSqes,
  "read-allocation": measureReadAllocation,
  echo: serveEcho,
  "read-deno": measureDenoReads,
  "echo-deno": serveDenoEcho,
  "round-trip": measureRoundTrip,
  "post-round-trip": measurePostRoundTrip,
  messages: measureMessages,
  scaling: measureScaling,
  "attached-reads": measureAttachedReads,
  "attached-idle": measureAttachedIdle,
  serve: measureServe,
};

/** Runs a step many times; the time of one in ns. */
function timeOf(times: number, step: (time: number) => void): number {
  const startMs = performance.now();
  for (let time = 0; time < times; time++) step(time);
  return (performance.now() - startMs) * 1e6 / times;
}

/** A measurement of the time of a step, once its code is compiled. */
function measureStep(times: number, step: (time: number) => void): Measure {
  for (let round = 0; round < 10; round++) timeOf(times, step);
  return () => ({ value: timeOf(times, step) });
}

async function measureScale(planJson: string, path: string): Promise<Measure> {
  const plan: RunPlan = JSON.parse(planJson);
  const file = openBlockFile(path, plan.blockSize);
  const scenario = new Scenario(plan, loadShim(), file);
  // All idle handlers are removed before the first window, where they are removed at all.
  await scenario.measureWindow(plan.idleSeconds + FIRST_WARM_UP_SECONDS, 0.1, null);
  return async () => {
    const run = await scenario.measureWindow(WINDOW_WARM_UP_SECONDS, WINDOW_SECONDS, null);
    return { ...run } as unknown as Figures;
  };
}

/** One device whose guest is the measurement, and idle ones that are polled with it. */
function polledDevices(poll: string, idle: number): () => void {
  const ctx = new AioContext({ pollParams: { idleNs: Infinity } });
  const posted = new Int32Array(new SharedArrayBuffer((idle + 1) * 4));
  let quiet = false, busy: EventNotifier | null = null;
  for (let index = 0; index <= idle; index++) {
    const notifier = busy = new EventNotifier();
    let seen = 0;
    const word = poll === "word" ? new PollWord(posted.buffer, index * 4, 32) : null;
    const handle = () => {
      seen = posted[index];
      if (word !== null) word.seen = seen;
    };
    ctx.setFdHandler(notifier.fd, {
      ioRead: () => (notifier.testAndClear(), handle()),
      ioPoll: word ?? (() => posted[index] !== seen),
      ioPollReady: handle,
      ioPollBegin: () => quiet = true,
      ioPollEnd: () => quiet = false,
    });
    posted[index]++;
    notifier.set();
  }
  const request = () => {
    posted[idle]++;
    if (!quiet) busy!.set();
    ctx.poll(true);
  };
  for (let round = 0; round < 10; round++) request();
  return request;
}

function measurePollPass(poll: string): Measure {
  const alone = measureStep(20_000, polledDevices(poll, 0));
  const beside = measureStep(1_000, polledDevices(poll, IDLE_HANDLERS));
  return async () => {
    const [{ value: without }, { value }] = [await alone(), await beside()];
    return { value: (value - without) / IDLE_HANDLERS };
  };
}

/** A context with handlers of one fd each; the fds are returned. */
function watchedContext(count: number): { ctx: AioContext; fds: number[] } {
  const ctx = new AioContext();
  const fds = Array.from({ length: count }, () => new EventNotifier().fd);
  for (const fd of fds) ctx.setFdHandler(fd, { ioRead() {} });
  ctx.poll(false);
  return { ctx, fds };
}

function measurePollNothing(): Measure {
  const { ctx } = watchedContext(IDLE_HANDLERS);
  return measureStep(100_000, () => ctx.poll(false));
}

function measureBottomHalf(): Measure {
  const ctx = new AioContext();
  const half = ctx.bottomHalf(() => {});
  return measureStep(100_000, () => {
    half.schedule();
    ctx.poll(false);
  });
}

/** Two coroutines that enter each other by turns, driven by `run`. */
async function measureCoroutine(): Promise<Measure> {
  const SWITCHES = 200_000;
  const ctx = new AioContext();
  const measure = () =>
    ctx.run(async () => {
      let startMs = 0;
      const first = coSchedule(ctx, async (co) => {
        for (let time = 0; time < SWITCHES / 2; time++) {
          await co.yield();
          coEnter(second);
        }
      });
      const second: Coroutine = coSchedule(ctx, async (co) => {
        startMs = performance.now();
        for (let time = 0; time < SWITCHES / 2; time++) {
          coEnter(first);
          await co.yield();
        }
      });
      await second.join();
      return { value: (performance.now() - startMs) * 1e6 / SWITCHES };
    });
  for (let round = 0; round < 10; round++) await measure();
  return measure;
}

function measureTimer(): Measure {
  const ctx = new AioContext();
  for (let index = 0; index < TIMERS; index++) ctx.timer(() => {}).arm(FAR_NS + index);
  const timer = ctx.timer(() => {});
  return measureStep(50_000, () => {
    timer.arm(1);
    ctx.poll(false);
  });
}

/** Bytes of V8's heap and of the memory it knows of, for each of many watched handlers. */
function measureHandlerMemory(): Measure {
  const notifiers = Array.from({ length: MANY_HANDLERS }, () => new EventNotifier());
  const callbacks = { ioRead() {} };
  const used = () => {
    gc();
    const { heapUsed, external } = Deno.memoryUsage();
    return heapUsed + external;
  };
  return () => {
    using ctx = new AioContext();
    const before = used();
    for (const { fd } of notifiers) ctx.setFdHandler(fd, callbacks);
    ctx.poll(false);
    return { value: (used() - before) / MANY_HANDLERS };
  };
}

/** Pairs of deleting and setting a handler, in a second, among many that are armed. */
function measureHandlerChanges(): Measure {
  const { ctx, fds } = watchedContext(MANY_HANDLERS);
  const callbacks = { ioRead() {} };
  const pair = (time: number) => {
    const fd = fds[time * 7919 % MANY_HANDLERS];
    ctx.setFdHandler(fd, null);
    ctx.setFdHandler(fd, callbacks);
    if (time % 100 === 0) ctx.poll(false);
  };
  const measure = measureStep(20_000, pair);
  return async () => ({ value: 1e9 / (await measure()).value });
}

/** Bytes of heap for each iteration that polls for an event and handles it. */
function measureAllocation(): Measure {
  const request = polledDevices("function", 0);
  for (let round = 0; round < 50; round++) timeOf(10_000, request);
  return () => {
    gc();
    const before = Deno.memoryUsage().heapUsed;
    timeOf(10_000, request);
    const grownBytes = Deno.memoryUsage().heapUsed - before;
    // What the measurement itself makes is a few thousand bytes; a late collection takes some away.
    return { value: Math.max(0, Math.floor(grownBytes / 10_000)) };
  };
}

/** A C thread wakes the sleeping loop again and again; half of the answers take no longer. */
function measureWakeUp(fdmon: string, library: string): Measure {
  const WAKE_UPS = 500;
  const { symbols } = Deno.dlopen(library, {
    wake_up_run: { parameters: ["buffer", "i32", "u32"], result: "f64", nonblocking: true },
  });
  const words = new Int32Array(new SharedArrayBuffer(128));
  const notifier = new EventNotifier();
  const ctx = new AioContext({ fdmon: fdmon as FdmonName, pollParams: { maxNs: 0 } });
  ctx.setFdHandler(notifier.fd, {
    ioRead: () => {
      notifier.testAndClear();
      Atomics.store(words, 16, Atomics.load(words, 0));
    },
  });
  return async () => {
    words.fill(0);
    const bytes = new Uint8Array(words.buffer) as unknown as Uint8Array<ArrayBuffer>;
    const medianNs = symbols.wake_up_run(bytes, notifier.fd, WAKE_UPS);
    while (Atomics.load(words, 16) !== WAKE_UPS) ctx.poll(true);
    return { value: await medianNs };
  };
}

if (import.meta.main) {
  const [name, ...args] = Deno.args;
  const measure = await MEASUREMENTS[name](...args);
  console.log("ready");
  for await (const _ of createInterface({ input: process.stdin })) {
    console.log(JSON.stringify(await measure()));
  }
  Deno.exit(0);
}
