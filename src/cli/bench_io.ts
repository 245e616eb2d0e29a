/**
 * What `bench` measures of files: reads that are awaited, and requests that call back.
 *
 * Whether in the page cache or around it, each request in flight has memory of its own that needs no
 * copy, as in the C floor. Nothing is allocated here for a request, so that what is measured is ours.
 */
import { openSync } from "node:fs";
import { AioContext, type AioFile, type PrepareSqe } from "../../mod.ts";
import type { Figures, Measure } from "./bench_child.ts";
import {
  blocksToRead,
  DIRECT_SECONDS,
  fillPageCache,
  RandomOffsets,
  READ_SECONDS,
  READ_SIZE,
  RequestWindow,
} from "./bench_window.ts";

/** Windows before those that count. */
const WARM_UP_WINDOWS = 5;
/** Requests between two looks at the heap: few enough that most pairs see no collection. */
const REQUESTS_PER_LOOK = 1000, LOOKS = 51;

declare const gc: () => void;

/** Reads whose promises are awaited, so many in flight; from the page cache or around it. */
export async function measureReads(
  depthText: string,
  from: "cached" | "direct",
  path: string,
): Promise<Measure> {
  const ctx = new AioContext();
  const direct = from === "direct";
  const file = await ctx.run(() => ctx.openFile(path, { direct }));
  if (!direct) fillPageCache(path);
  const offsets = new RandomOffsets(blocksToRead(path));
  const buffers = allocateBuffers(ctx, Number(depthText));
  const seconds = direct ? DIRECT_SECONDS : READ_SECONDS;
  const measure = () => ctx.run(() => readAll(file, buffers, offsets, seconds));
  // The first windows have the code compiled, which takes a million requests.
  for (let window = 0; window < WARM_UP_WINDOWS; window++) await measure();
  return measure;
}

function allocateBuffers(ctx: AioContext, count: number): Uint8Array[] {
  return Array.from({ length: count }, () => ctx.buffers.allocate(READ_SIZE));
}

async function readAll(
  file: AioFile,
  buffers: readonly Uint8Array[],
  offsets: RandomOffsets,
  seconds: number,
): Promise<Figures> {
  const window = new RequestWindow(seconds);
  await Promise.all(buffers.map(async (buffer) => {
    while (!window.over) {
      expectBlock(await file.read(buffer, offsets.next()));
      window.count();
    }
  }));
  return window.figures();
}

function expectBlock(result: number): void {
  if (result !== READ_SIZE) throw new Error(`error: a read of ${READ_SIZE} bytes gave ${result}`);
}

/** Reads from the page cache whose completions call back, so many in flight. */
export function measureSqes(depthText: string, path: string): Measure {
  const ctx = new AioContext();
  const fd = openSync(path, "r");
  fillPageCache(path);
  const offsets = new RandomOffsets(blocksToRead(path));
  let window = new RequestWindow(0), inFlight = 0;
  const starts = allocateBuffers(ctx, Number(depthText)).map((buffer) => {
    let offset = 0;
    const prepare: PrepareSqe = (sqe) => sqe.read(fd, buffer, offset);
    const complete = (result: number) => {
      inFlight--;
      expectBlock(result);
      window.count();
      if (!window.over) start();
    };
    const start = () => {
      inFlight++;
      offset = offsets.next();
      ctx.addSqe(prepare, complete);
    };
    return start;
  });
  const measure = () => {
    window = new RequestWindow(READ_SECONDS);
    for (const start of starts) start();
    while (inFlight !== 0) ctx.poll(true);
    return window.figures();
  };
  for (let window = 0; window < WARM_UP_WINDOWS; window++) measure();
  return measure;
}

/** Bytes of heap for each awaited read, once warm. */
export async function measureReadAllocation(path: string): Promise<Measure> {
  const ctx = new AioContext();
  const file = await ctx.run(() => ctx.openFile(path));
  fillPageCache(path);
  const offsets = new RandomOffsets(blocksToRead(path));
  const buffer = ctx.buffers.allocate(READ_SIZE);
  const look = async () => {
    const before = Deno.memoryUsage().heapUsed;
    for (let request = 0; request < REQUESTS_PER_LOOK; request++) {
      expectBlock(await file.read(buffer, offsets.next()));
    }
    return (Deno.memoryUsage().heapUsed - before) / REQUESTS_PER_LOOK;
  };
  const measure = async () => {
    gc();
    const grown: number[] = [];
    await ctx.run(async () => {
      while (grown.length < LOOKS) grown.push(await look());
    });
    // A collection makes a difference too small, or negative.
    return { value: grown.sort((a, b) => a - b)[LOOKS >> 1] };
  };
  await measure();
  return measure;
}
