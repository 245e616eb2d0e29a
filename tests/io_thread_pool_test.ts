/** IOThreadPool: who gets what, and what becomes of threads that fail or end. */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { getAffinity } from "../ffi/affinity.ts";
import { loadShim } from "../ffi/library.ts";
import { IOThreadPool, type IOThreadPoolOptions } from "../mod.ts";
import type main from "./io_thread_pool_module.ts";
import type { PoolData } from "./io_thread_pool_module.ts";
import { rejection } from "./peer_kit.ts";

const MODULE = new URL("./io_thread_pool_module.ts", import.meta.url);

function start(options: IOThreadPoolOptions<PoolData> = {}) {
  return IOThreadPool.start<typeof main>(MODULE, { name: "t", threads: 3, ...options });
}

Deno.test("IOThreadPool: each in turn, past those that have ended", async () => {
  const pool = await start({ policy: "roundRobin" });
  const who = async (calls: number) => {
    const names: string[] = [];
    for (let call = 0; call < calls; call++) names.push(await pool.call("who"));
    return names.join(" ");
  };
  assertEquals(await who(7), "t0 t1 t2 t0 t1 t2 t0");
  assertEquals([pool.assign(), pool.assign()].map(({ thread }) => thread.name), ["t1", "t2"]);
  await pool.threads[1].stop();
  assert(["t0 t2 t0 t2", "t2 t0 t2 t0"].includes(await who(4)));
  await pool.stop();
  await assertRejects(
    () => pool.call("who"),
    TypeError,
    "Cannot use a pool as its threads have ended",
  );
  assertThrows(() => pool.assign(), TypeError, "as its threads have ended");
  await pool.stop();
});

Deno.test("IOThreadPool: the least loaded, by what is assigned and what is called", async () => {
  await using pool = await start();
  assertEquals(pool.loads, [0, 0, 0]);
  const devices = Array.from({ length: 6 }, () => pool.assign());
  assertEquals(devices.map(({ thread }) => thread.name), ["t0", "t1", "t2", "t0", "t1", "t2"]);
  assertEquals(pool.loads, [2, 2, 2]);
  devices[1][Symbol.dispose]();
  devices[1][Symbol.dispose]();
  assertEquals(pool.loads, [2, 1, 2], "released once");
  assertEquals(await pool.call("who"), "t1");
  const held = [pool.call("hold"), pool.call("hold"), pool.call("hold")];
  assertEquals(pool.loads, [3, 3, 2], "calls without a result count");
  assertEquals(pool.assign().thread.name, "t2");
  for (const thread of pool.threads) await thread.call("free");
  assertEquals(await Promise.all(held), ["t1", "t0", "t1"]);
  assertEquals(pool.loads, [2, 1, 3]);
  // One that ends is not picked, however little it has to do.
  await pool.threads[1].stop();
  assertEquals([pool.assign(), pool.assign()].map(({ thread }) => thread.name), ["t0", "t0"]);
});

Deno.test("IOThreadPool: as many threads as processors, each on its own", async () => {
  const processors = getAffinity(loadShim());
  await using pool = await start({ threads: undefined, pin: true });
  assertEquals(pool.threads.length, processors.length);
  const allowed = await Promise.all(pool.threads.map((thread) => thread.call("allowed")));
  assertEquals(allowed, processors.map(String));
  const stats = await pool.stats();
  assert(stats.every(({ polls }) => polls > 0));
});

Deno.test("IOThreadPool.start: one that fails to start leaves none", async () => {
  const before = [...Deno.readDirSync("/proc/self/task")].length;
  const started = new Int32Array(new SharedArrayBuffer(4));
  const error = await rejection(start({ data: { failing: "t1", started } }));
  assert(error instanceof RangeError && error.message === "t1 cannot start");
  assertEquals(started[0], 2);
  assertEquals([...Deno.readDirSync("/proc/self/task")].length, before);
  const aborted = AbortSignal.abort(new RangeError("enough"));
  await assertRejects(() => start({ signal: aborted }), RangeError, "enough");
});

Deno.test("IOThreadPool.start: bad options say so", async () => {
  for (const threads of [0, -1, 1.5, 257, NaN, "2"] as number[]) {
    await assertRejects(() => start({ threads }), RangeError, `is not 1 to 256: ${threads}`);
  }
  await assertRejects(() => start({ policy: "best" as never }), TypeError, "no such policy: best");
  await assertRejects(() => IOThreadPool.start("no url"), TypeError, "Invalid URL");
});

Deno.test("IOThreadPool.stop: ends all, and tells of those that have failed", async () => {
  const pool = await start();
  for (const thread of pool.threads.slice(0, 2)) thread.send("end");
  const joins = await Promise.allSettled(pool.threads.slice(0, 2).map((thread) => thread.join()));
  assertEquals(joins.map(({ status }) => status), ["rejected", "rejected"]);
  const error = await rejection(pool.stop());
  assert(error instanceof AggregateError, `${error}`);
  assertEquals(
    error.errors.map(({ message }) => message),
    [0, 1].map((number) => `The IOThread ended itself: t${number}`),
  );
  assertEquals(pool.threads.map(({ running }) => running), [false, false, false]);
  await assertRejects(() => pool.terminate(), AggregateError, "2 threads of a pool failed");
});
