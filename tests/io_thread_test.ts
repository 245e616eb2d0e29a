/** IOThreads: what they can be asked, how they begin and end in every state, what is left of them. */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import {
  AioContext,
  AioError,
  coEnter,
  coSchedule,
  IOThread,
  type IOThreadOptions,
  type RemoteContext,
  wakeContext,
} from "../mod.ts";
import { newFolder } from "./child.ts";
import { eachFdmon, FDMONS } from "./each_fdmon.ts";
import type main from "./io_thread_module.ts";
import type { ThreadData } from "./io_thread_module.ts";
import { ringMappings } from "./open_files.ts";
import { rejection } from "./peer_kit.ts";

const MODULE = new URL("./io_thread_module.ts", import.meta.url);
const FILE = `${newFolder()}/file`;
Deno.writeFileSync(FILE, new Uint8Array(1 << 16));

function start(options: IOThreadOptions<ThreadData> = {}) {
  return IOThread.start<typeof main>(MODULE, options);
}

/** A module of that text. */
function moduleOf(text: string): string {
  return `data:text/javascript,${encodeURIComponent(text)}`;
}

let isWarm = false;

/** Lets Deno's own threads be there, which live on, before anything is counted. */
async function warmUp(): Promise<void> {
  if (isWarm) return;
  isWarm = true;
  await using thread = await start();
  await thread.call("add", 1, 2);
}

/** Numbers of the threads of this process. */
function threads(): number[] {
  return Array.from(Deno.readDirSync("/proc/self/task"), ({ name }) => Number(name));
}

/** What grows where something is left behind: open fds by kind, and mappings of rings. */
function held(): Record<string, number> {
  const kinds: Record<string, number> = { "mappings of rings": ringMappings() };
  for (const { name } of Deno.readDirSync("/proc/self/fd")) {
    try {
      const kind = Deno.readLinkSync(`/proc/self/fd/${name}`).replace(/\d+/g, "");
      kinds[kind] = (kinds[kind] ?? 0) + 1;
    } catch {
      // The fd that reads the folder is gone by now.
    }
  }
  return kinds;
}

/** Of no kind are there more than before; Deno may have closed some of its own meanwhile. */
function assertNothingMore(before: Record<string, number>): void {
  const after = held();
  for (const kind of Object.keys(after)) {
    after[kind] = Math.max(0, after[kind] - (before[kind] ?? 0));
  }
  assertEquals(Object.entries(after).filter(([, more]) => more !== 0), []);
}

/** Runs a test of which nothing may be left. */
function leavingNothing(test: () => Promise<void>): () => Promise<void> {
  return async () => {
    await warmUp();
    const before = held();
    await test();
    assertNothingMore(before);
  };
}

for (const fdmon of FDMONS) {
  Deno.test(`IOThread: calls, messages, data, name and counters (${fdmon})`, async () => {
    const counter = new Int32Array(new SharedArrayBuffer(8)), bytes = new Uint8Array([1, 2, 3]);
    const thread = await start({
      name: "io7",
      fdmon,
      data: { counter, bytes },
      transfer: [bytes.buffer],
      pollParams: { maxNs: 1000 },
    });
    assertEquals(bytes.length, 0, "transferred");
    assertEquals([thread.name, thread.running, thread.outstanding], ["io7", true, 0]);
    assertEquals(await thread.call("add", 1, 2), 3);
    assertEquals(await thread.call("name"), "io7");
    assertEquals(await thread.call("bytes"), new Uint8Array([1, 2, 3]));
    assertEquals(await thread.call("backend"), fdmon);
    for (let count = 0; count < 100; count++) assert(thread.send("count"));
    assertEquals(await thread.call("count"), 101);
    assertEquals(counter[0], 101, "shared memory is shared");
    assertEquals(await thread.call("fetch"), "fetched");
    assertEquals((await thread.call("pollParams")).maxNs, 1000);
    await thread.setPollParams({ maxNs: 2000 });
    assertEquals((await thread.call("pollParams")).maxNs, 2000);
    await assertRejects(() => thread.setPollParams({ maxNs: -1 }), RangeError);
    const before = await thread.stats();
    await thread.call("add", 1, 2);
    assert(before.polls > 0 && (await thread.stats()).polls >= before.polls);
    assert(wakeContext(thread.remote));
    const never = rejection(thread.call("never"));
    assertEquals(thread.outstanding, 1);
    await thread.terminate();
    assert(await never instanceof TypeError);
    assertEquals([thread.running, wakeContext(thread.remote)], [false, false]);
    await thread.join();
    await assertRejects(() => thread.call("add", 1, 2), TypeError, "as it is ended: io7");
    assertThrows(() => thread.send("count"), TypeError, "as it is ended: io7");
    await assertRejects(() => thread.stats(), TypeError, "as it is ended: io7");
    await assertRejects(() => thread.trace(["poll_add"], () => {}), TypeError, "as it is ended");
  });
}

Deno.test("IOThread: its thread runs on the processors it was given, and is another", async () => {
  const own = Number(Deno.readLinkSync("/proc/thread-self").split("/").at(-1));
  await using thread = await start({ processors: [0] });
  assertEquals(await thread.call("allowed"), "0");
  assert(await thread.call("ownThread") !== own);
  const message = "Cannot run on a processor as it has no such number: -1";
  await assertRejects(() => start({ processors: [-1] }), RangeError, message);
  const error = await rejection(start({ processors: [8000] }));
  assert(error instanceof AioError);
  assertEquals([error.code, error.syscall], ["EINVAL", "sched_setaffinity"]);
});

Deno.test("IOThread.trace: events of the thread arrive, until it is stopped", async () => {
  await using thread = await start();
  const events: string[] = [];
  const stop = await thread.trace(["poll_begin", "poll_end"] as never, () => {}).catch((e) => e);
  assert(stop instanceof Error, "there is no such event");
  const stopTrace = await thread.trace(["fdmon_io_uring_add_sqe"], (name, event, dropped) => {
    events.push(name);
    assert(typeof event.opcode === "number" && dropped === 0);
  });
  await thread.call("hold", FILE);
  assert(events.length >= 8, `${events.length}`);
  stopTrace();
  stopTrace();
  await thread.call("add", 1, 2);
  const seen = events.length;
  await thread.call("hold", FILE);
  assertEquals(events.length, seen);
  await assertRejects(() => thread.trace(["poll_add"], null as never), TypeError, "not a function");
});

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

/** Errors of each place: what begins it, and what is to be told. */
const FAILURES: readonly (readonly [name: string, begin: ThreadData["begin"] | string, RegExp])[] =
  [
    ["the module is missing", "file:///nowhere/at/all.ts", /Module not found.*nowhere/],
    ["its text is no program", moduleOf("export default {{"), /SyntaxError|expected|Unexpected/i],
    [
      "the module throws",
      moduleOf("throw new RangeError('of a module')"),
      /^RangeError: of a module/,
    ],
    ["no default function", moduleOf("export const a = 1"), /^TypeError: .*no default function/],
    [
      "its default is no function",
      moduleOf("export default 5"),
      /^TypeError: .*no default function/,
    ],
    [
      "the module exports error",
      moduleOf("export const error = 1"),
      /^TypeError: .*no default function/,
    ],
    [
      "what it exposes is no function",
      moduleOf("export default () => ({ a: 1 })"),
      /Cannot expose a as/,
    ],
    [
      "what it exposes is taken",
      moduleOf("export default () => ({ 'IOThread.stop'() {} })"),
      /already/,
    ],
    ["its function throws", "throw", /^RangeError: thrown in the thread/],
    ["its function rejects", "reject", /^RangeError: rejected in the thread/],
    ["an AioError", "aioError", /^AioError: Cannot begin as open failed: ENOENT/],
    ["it throws what cannot be copied", moduleOf("export default () => { throw () => 7 }"), /7/],
    ["it throws nothing", moduleOf("export default () => { throw undefined }"), /undefined/],
    [
      "a promise is rejected at its beginning",
      moduleOf("Promise.reject(new RangeError('r')); await new Promise(() => {})"),
      /^RangeError: r/,
    ],
    [
      "an error is uncaught meanwhile",
      moduleOf(`export default () => {
    queueMicrotask(() => { throw new RangeError("u") });
    return new Promise(() => {});
  }`),
      /^RangeError: u/,
    ],
    ["it closes itself", moduleOf("self.close(); await new Promise(() => {})"), /ended itself: t/],
    ["it exits", moduleOf("Deno.exit(1)"), /ended itself: t/],
    [
      "it closes itself later",
      moduleOf(`export default () => {
    self.close();
    return new Promise(() => {});
  }`),
      /ended itself: t/,
    ],
    ["it exits later", moduleOf("export default () => { Deno.exit(1) }"), /ended itself: t/],
  ];

for (const [name, begin, told] of FAILURES) {
  Deno.test(
    `IOThread.start: rejects as ${name}`,
    leavingNothing(async () => {
      const isModule = begin!.includes(":");
      const module = isModule ? begin! : MODULE;
      const data = isModule ? undefined : { begin };
      const error = await rejection(IOThread.start(module, { name: "t", data }));
      assert(told.test(String(error)), Deno.inspect(error));
      if (begin === "aioError") assertEquals((error as AioError).code, "ENOENT");
    }),
  );
}

/** What fails in a thread that runs, and where that is told. */
for (const how of ["throw", "uncaught", "unhandled", "exit", "close"]) {
  for (const call of ["call", "send", "later"] as const) {
    Deno.test(
      `IOThread.join: rejects after ${how} in a function (${call})`,
      leavingNothing(async () => {
        const thread = await start({ name: "t" });
        const never = rejection(thread.call("never"));
        const ended = rejection(thread.join());
        if (call === "send") thread.send("fail", how);
        else if (call === "later") thread.send("failLater", how);
        else {
          const result = thread.call("fail", how).catch((error) => error);
          if (how === "throw") {
            // Errors of calls are the callers'; the thread goes on.
            assertEquals(`${await result}`, "RangeError: thrown in the thread");
            assertEquals(await thread.call("add", 1, 2), 3);
            await assertRejects(() => thread.call("failLater", how), RangeError, "thrown");
            thread.send("fail", how);
          } else await result;
        }
        const error = await ended;
        const itself = how === "exit" || how === "close";
        assert(
          itself
            ? error.message === "The IOThread ended itself: t"
            : error instanceof RangeError && error.message.endsWith("in the thread"),
          `${error}`,
        );
        assert(await never instanceof TypeError);
        await assertRejects(() => thread.stop(), Error, error.message);
        await assertRejects(() => thread.terminate(), Error, error.message);
        assertEquals(thread.running, false);
      }),
    );
  }
}

Deno.test(
  "IOThread.start: a signal ends it in every state of its beginning",
  leavingNothing(async () => {
    const pending = moduleOf("await new Promise(() => {}); export default () => ({})");
    const reason = new RangeError("enough");
    for (const how of ["before", "at once", "imported", "pending import", "pending"] as const) {
      const controller = new AbortController();
      if (how === "before") controller.abort(reason);
      const module = how === "pending import" ? pending : MODULE;
      const data: ThreadData = how === "pending" ? { begin: "never" } : {};
      const started = IOThread.start(module, { signal: controller.signal, data });
      if (how === "imported") await new Promise((resolve) => setTimeout(resolve, 15));
      if (how === "pending" || how === "pending import") {
        // Far enough for a thread to wait for what never comes.
        await new Promise((resolve) => setTimeout(resolve, 200));
      }
      controller.abort(reason);
      assertEquals(await rejection(started), reason);
    }
    // Later it ends nothing.
    const controller = new AbortController();
    const thread = await start({ signal: controller.signal });
    controller.abort(reason);
    assertEquals(await thread.call("add", 1, 2), 3);
    await thread.stop();
  }),
);

Deno.test("IOThread.start: bad options say so, and leave no thread", async () => {
  await warmUp();
  const before = threads().length;
  const wrong: readonly [unknown, IOThreadOptions, string][] = [
    ["no url", {}, "Invalid URL"],
    [MODULE, { context: {} as never }, "as its context is no AioContext"],
    [MODULE, { data: () => {} }, "could not be cloned"],
    [MODULE, { data: coEnter as never }, "could not be cloned"],
    [MODULE, { processors: 1 as never }, "iterable"],
    [MODULE, { pollParams: { maxNs: -1 } }, "maxNs"],
    [MODULE, { fdmon: "select" as never }, "select"],
    [MODULE, { shim: "/nowhere.so" }, "/nowhere.so"],
  ];
  for (const [module, options, message] of wrong) {
    const error = await rejection(IOThread.start(module as string, options))
      .catch(() => new Error(`started with ${Deno.inspect(options)}`));
    assert(error.message.includes(message), error.message);
  }
  assert(threads().length <= before, `${threads().length} threads, ${before} before`);
});

Deno.test("IOThread: called from another thread that was given its remote, by either way", async () => {
  await using worker = await start({ name: "worker" });
  await using device = await start({ name: "device" });
  // By a message.
  await worker.call("connect", device.remote as RemoteContext as never);
  assert(Number.isNaN(await worker.call("callBack", 1)), "1 and undefined, added there");
  // By postMessage, into a plain Worker.
  const url = new URL("./io_thread_caller_worker.ts", import.meta.url);
  const plain = new Worker(url, { type: "module" });
  const told = () => new Promise((resolve) => plain.onmessage = ({ data }) => resolve(data));
  await told();
  plain.postMessage(device.remote);
  assertEquals(await told(), [3, "device"]);
  plain.terminate();
});

eachFdmon("IOThread: called by, and calling, a context of the caller's own", async (make) => {
  const context = make();
  let sum = 0;
  const remote = context.expose({ add: (one: number) => sum += one });
  const thread = await start({ context });
  await context.run(async () => {
    assertEquals(await thread.call("add", 2, 3), 5);
    await thread.call("connect", remote);
    assertEquals(await thread.call("callBack", 7), 7);
    await thread.call("sendBack", 20_000);
    assertEquals(await thread.call("callBack", 0), 20_007);
  });
  await thread.stop();
  context[Symbol.dispose]();
});

Deno.test("Coroutine: cannot be posted, and says so", async () => {
  using ctx = new AioContext();
  await using thread = await start();
  const co = coSchedule(ctx, (co) => co.yield());
  const message = "Symbol(a Coroutine, which belongs to the thread that made it,) could not be";
  const { port1, port2 } = new MessageChannel();
  assertThrows(() => port1.postMessage({ co }), Error, message);
  port1.close();
  port2.close();
  await assertRejects(
    () => thread.call("echo", co),
    TypeError,
    "Cannot send a Coroutine to another",
  );
  await assertRejects(() => thread.call("echo", ctx), TypeError, "Cannot send a AioContext to");
});

const SOAK = Number(Deno.env.get("AIO_SOAK") ?? 0);

Deno.test(`IOThread: ${SOAK > 0 ? 1000 : 40} started and joined leave nothing`, async () => {
  const many = SOAK > 0 ? 1000 : 40;
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
