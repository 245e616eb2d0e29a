/** IOThreads that end, in every state: what is waited for, and that nothing is left of them. */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { loadShim } from "../ffi/library.ts";
import { type Link, Links, LinkSide } from "../ffi/link.ts";
import { AioContext, AioError } from "../mod.ts";
import { FDMONS } from "./each_fdmon.ts";
import {
  assertNothingMore,
  FILE,
  held,
  leavingNothing,
  start,
  threads,
  warmUp,
} from "./io_thread_kit.ts";
import { rejection } from "./peer_kit.ts";

/** How threads end, in which state; each is to be gone within the grace of a second, with all it had. */
const ENDINGS: Record<string, (thread: Awaited<ReturnType<typeof start>>) => unknown> = {
  "blocked": () => {},
  "spinning": (thread) => thread.setPollParams({ maxNs: 1e9 }),
  "busy in calls": (thread) => {
    for (let calls = 0; calls < 5000; calls++) void thread.call("add", 1, calls).catch(() => {});
  },
  "behind a backlog of messages": (thread) => {
    while (thread.send("echo", "x".repeat(1000)));
  },
  "with long messages on their way": (thread) => {
    for (let calls = 0; calls < 5; calls++) {
      void thread.call("echo", new Uint8Array(1 << 20)).catch(() => {});
    }
  },
  "with requests in flight": (thread) => thread.call("hold", FILE),
  "in Deno's loop": (thread) => void thread.call("fetch").catch(() => {}),
};

for (const [state, enter] of Object.entries(ENDINGS)) {
  for (const how of ["stop", "terminate"] as const) {
    Deno.test(
      `IOThread.${how}: ${state}`,
      leavingNothing(async () => {
        for (const fdmon of FDMONS) {
          const counter = new Int32Array(new SharedArrayBuffer(8));
          const thread = await start({ fdmon, data: { counter } });
          const number = await thread.call("ownThread");
          assert(threads().includes(number));
          await enter(thread);
          const ends = [thread[how](), thread[how](), thread.join(), thread.stop()];
          assertEquals(thread.running, false);
          await Promise.all(ends);
          assertEquals(threads().includes(number), false, "the thread is gone");
          assertEquals(counter[1], how === "stop" ? 1 : 0, "what the function returned is ended");
          assertEquals(thread.outstanding, 0);
        }
      }),
    );
  }
}

Deno.test(
  "IOThread.terminate: in a nested poll, and after a stop that waits for a call that never ends",
  leavingNothing(async () => {
    for (const state of ["nested", "never"] as const) {
      for (const stopFirst of [false, true]) {
        const thread = await start();
        const call = rejection(thread.call(state));
        await thread.call("add", 1, 1); // In an iteration inside the nested call.
        const stopped = stopFirst ? thread.stop() : null;
        await thread.terminate();
        await stopped;
        assert(await call instanceof TypeError);
      }
    }
  }),
);

Deno.test("IOThread.stop: waits for calls that have begun, and then disposes of what it does", async () => {
  const counter = new Int32Array(new SharedArrayBuffer(8));
  const thread = await start({ data: { counter } });
  const call = thread.call("fetch"), late = thread.call("failLater", "none");
  await thread.stop();
  assertEquals([await call, await late, counter[1]], ["fetched", undefined, 1]);
});

Deno.test(
  "IOThread: the caller's context disposed first, it can be stopped and terminated all the same",
  leavingNothing(async () => {
    for (const how of ["stop", "terminate"] as const) {
      const context = new AioContext();
      context.attach();
      const thread = await start({ context });
      const call = rejection(thread.call("never"));
      if (how === "stop") await thread.call("add", 1, 1);
      context[Symbol.dispose]();
      assert(await call instanceof TypeError);
      await assertRejects(() => thread.call("add", 1, 2), TypeError, "is closed");
      if (how === "terminate") await thread.terminate();
      else {
        // The server finds the link closed, and its call never ends.
        const stop = thread.stop();
        await thread.terminate();
        await stop;
      }
      const disposed = rejection(start({ context }));
      assert((await disposed).message.includes("as the context is disposed"));
    }
  }),
);

Deno.test(
  "IOThread.terminate: says so where a function does not return, and takes what is left once it does",
  async () => {
    await warmUp();
    const before = held();
    const counter = new Int32Array(new SharedArrayBuffer(8));
    const thread = await start({ name: "t", data: { counter } });
    await thread.call("hold", FILE);
    const number = await thread.call("ownThread");
    const call = rejection(thread.call("spin"));
    const error = await rejection(thread.terminate());
    const message = "Cannot end an IOThread as its function does not return to the loop: t";
    assertEquals(error.message, message);
    assert(await call instanceof TypeError);
    assertEquals((await rejection(thread.join())).message, message);
    assert(threads().includes(number));
    Atomics.store(counter, 0, 1);
    const lostMs = performance.now() + 10_000;
    const isLeft = () =>
      Object.entries(held()).some(([kind, count]) => count > (before[kind] ?? 0));
    while (threads().includes(number) || isLeft()) {
      assert(performance.now() < lostMs, Deno.inspect(held()));
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  },
);

Deno.test(
  "IOThread.start: no link left to call it by is an error, and leaves no thread",
  leavingNothing(async () => {
    const links = new Links(loadShim()), taken: Link[] = [];
    const place = { place: 0, generation: 0 };
    const context = new AioContext();
    assertThrows(() => {
      for (;;) taken.push(links.claim(place, place));
    }, AioError);
    const error = await rejection(start({ context }));
    assert(error instanceof AioError && error.code === "ENOSPC", `${error}`);
    for (const link of taken) {
      for (const side of [LinkSide.client, LinkSide.server]) links.release(link, side, link.number);
    }
    const thread = await start({ context });
    await thread.stop();
    context[Symbol.dispose]();
  }),
);

const SOAK = Number(Deno.env.get("AIO_SOAK") ?? 0);

Deno.test(`IOThread: ${SOAK > 0 ? 1000 : 30} started and joined leave nothing`, async () => {
  const many = SOAK > 0 ? 1000 : 30;
  for (let warm = 0; warm < 3; warm++) await cycle(warm);
  const before = held(), threadsBefore = threads().length, startMs = performance.now();
  const residentBefore = Deno.memoryUsage().rss, mappings = mappingCount();
  for (let count = 0; count < many; count++) await cycle(count);
  const eachMs = (performance.now() - startMs) / many;
  const grownKiB = Math.round((Deno.memoryUsage().rss - residentBefore) / 1024 / many);
  const figures = `${eachMs.toFixed(1)} ms each, ${grownKiB} KiB of resident memory each, ` +
    `${mappingCount() - mappings} mappings more`;
  if (SOAK > 0) console.log(figures);
  assertNothingMore(before);
  assert(threads().length <= threadsBefore, figures);
  // V8 and the allocator keep some for the next; what leaks is at least a heap of 2 MiB each.
  assert(grownKiB < 512, figures);
  assert(mappingCount() - mappings < many, figures);
});

async function cycle(count: number): Promise<void> {
  const thread = await start({ fdmon: FDMONS[count % 3] });
  assertEquals(await thread.call("add", count, 1), count + 1);
  if (count % 2 === 0) await thread.stop();
  else await thread.terminate();
}

function mappingCount(): number {
  return Deno.readTextFileSync("/proc/self/maps").split("\n").length;
}
