/**
 * Five contexts on five threads, with calls, bottom halves and coroutines hopping between them at random:
 * nothing is lost, and nothing runs twice. AIO_SOAK=1 has it go on for ten seconds.
 */
import { assert, assertEquals } from "@std/assert";
import { IOThread, type IOThreadOptions } from "../mod.ts";
import { FDMONS } from "./each_fdmon.ts";
import type main from "./hop_module.ts";
import type { HopCounts, HopData } from "./hop_module.ts";
import { SEED } from "./peer_kit.ts";

const THREADS = 5, CALLED = 30, WANDERING = 20, HOPS = 40;
const SECONDS = Deno.env.get("AIO_SOAK") ? 10 : 1.2;

Deno.test("IOThread: calls, bottom halves and coroutines hop between five threads", async () => {
  const hops = new Int32Array(new SharedArrayBuffer((CALLED + WANDERING) * 4));
  const control = new Int32Array(new SharedArrayBuffer(8));
  const module = new URL("./hop_module.ts", import.meta.url);
  const threads = await Promise.all(Array.from({ length: THREADS }, (_, index) => {
    const data: HopData = { seed: SEED + index, hops, control };
    const options: IOThreadOptions<HopData> = {
      name: `hop${index}`,
      fdmon: FDMONS[index % 3],
      data,
    };
    return IOThread.start<typeof main>(module, options);
  }));
  await Promise.all(
    threads.map((thread) =>
      thread.call("connect", threads.filter((one) => one !== thread).map(({ remote }) => remote))
    ),
  );
  for (let token = CALLED; token < CALLED + WANDERING; token++) {
    threads[token % THREADS].send("wander", token, 0);
  }
  const endMs = performance.now() + SECONDS * 1000;
  const text = "carried along ".repeat(20);
  let called = 0;
  await Promise.all(Array.from({ length: CALLED }, async (_, token) => {
    while (performance.now() < endMs) {
      const first = hops[token];
      const last = await threads[token % THREADS].call("hop", token, first, HOPS, text);
      assertEquals(last, first + HOPS, `AIO_TEST_SEED=${SEED}`);
      called += HOPS + 1;
    }
  }));
  Atomics.store(control, 0, 1);
  const lostMs = performance.now() + 20_000;
  while (Atomics.load(control, 1) !== WANDERING) {
    assert(performance.now() < lostMs, `a message was lost; AIO_TEST_SEED=${SEED}`);
    await Promise.all(threads.map((thread) => thread.call("counts")));
  }
  const counts = await Promise.all(threads.map((thread) => thread.call("counts")));
  const sum = (key: keyof HopCounts) => counts.reduce((sum, one) => sum + one[key], 0);
  assertEquals(sum("run"), hops.reduce((sum, one) => sum + one, 0), `AIO_TEST_SEED=${SEED}`);
  assertEquals(called, hops.subarray(0, CALLED).reduce((sum, one) => sum + one, 0));
  for (const one of counts) {
    assertEquals(one.halvesRun, one.halvesScheduled);
    assertEquals(one.guarded, one.locked, "the mutex let two in");
    assertEquals([one.bottomHalves, one.coroutines], [0, 0]);
  }
  assert(sum("locked") > 100 && sum("halvesRun") > 100, `${sum("run")} hops alone`);
  if (Deno.env.get("AIO_SOAK")) console.log(`${sum("run")} hops, AIO_TEST_SEED=${SEED}`);
  await Promise.all(threads.map((thread) => thread.stop()));
});
