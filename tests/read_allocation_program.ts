/**
 * Measures heap use per awaited read and prints it as JSON; run by read_allocation_test.ts. The
 * least of many rounds counts, as in allocation_program.ts.
 */
import { AioContext, type AioFile, type FdmonName } from "../mod.ts";

declare const gc: () => void;

const [fdmon, path] = Deno.args;
const WARM_UP = 50_000, READS = 10_000, ROUNDS_MAX = 10;

async function measure(step: () => Promise<unknown>): Promise<number> {
  for (let read = 0; read < WARM_UP; read++) await step();
  let least = Infinity;
  for (let round = 0; round < ROUNDS_MAX; round++) {
    gc();
    const before = Deno.memoryUsage().heapUsed;
    for (let read = 0; read < READS; read++) await step();
    // A collection meanwhile makes it less than none.
    const used = (Deno.memoryUsage().heapUsed - before) / READS;
    if (used > 0) least = Math.min(least, used);
  }
  return least;
}

using ctx = new AioContext({ fdmon: fdmon as FdmonName });
await ctx.run(async () => {
  await using file: AioFile = await ctx.openFile(path, { read: true, write: true, create: true });
  await file.write(new Uint8Array(65_536), 0);
  const plain = new Uint8Array(4096), pooled = ctx.buffers.allocate(4096);
  const none = {};
  console.log(JSON.stringify({
    "cached, plain memory": await measure(() => file.read(plain, 4096)),
    "cached, memory of the pool": await measure(() => file.read(pooled, 8192)),
    // Threads need a wake-up a read, which takes too long for so many.
    ...(fdmon === "io_uring"
      ? { "requested, memory of the pool": await measure(() => file.read(pooled, 8192, none)) }
      : {}),
  }));
});
