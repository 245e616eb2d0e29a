/** `run`: what it returns and throws, who has a turn while it drives the context, and its end. */
import { assert, assertEquals, assertMatch, assertStrictEquals } from "@std/assert";
import { readFile } from "node:fs";
import { type AioContext, EventNotifier } from "../mod.ts";
import { findRunJobs } from "../src/host_loop.ts";
import { importLine, programWords, run } from "./child.ts";
import { eachFdmon, FDMONS, type MakeContext } from "./each_fdmon.ts";
import { openNew, rejection } from "./test_files.ts";

/** Registers a test that runs with Deno's way to run jobs, and without. */
function eachWay(name: string, test: (makeContext: MakeContext) => void | Promise<void>): void {
  eachFdmon(name, test);
  eachFdmon(`${name}, without Deno's internals`, (makeContext) =>
    test((options) => {
      const deno = Deno as unknown as { internal?: unknown };
      const { internal } = deno;
      delete deno.internal;
      try {
        assertEquals(findRunJobs(), null);
        return makeContext(options);
      } finally {
        deno.internal = internal;
      }
    }));
}

Deno.test("findRunJobs: null where Deno has none, or another one", () => {
  assert(findRunJobs() !== null);
  const internal = Symbol("internal");
  const others: readonly unknown[] = [
    {},
    { internal },
    { internal, [internal]: {} },
    { internal, [internal]: { core: {} } },
    { internal, [internal]: { core: { runNextTicks: 5 } } },
  ];
  for (const deno of others) assertEquals(findRunJobs(deno), null);
});

eachWay("run: returns and throws what the task does", async (makeContext) => {
  using ctx = makeContext();
  assertEquals(await ctx.run(() => 5), 5);
  assertEquals(await ctx.run(() => Promise.resolve("later")), "later");
  assertEquals(
    await ctx.run(() =>
      ({ then: (resolve: (value: number) => void) => resolve(7) }) as PromiseLike<number>
    ),
    7,
  );
  const error = new Error("thrown by the task");
  assertStrictEquals(
    await rejection(ctx.run(() => {
      throw error;
    })),
    error,
  );
  assertStrictEquals(await rejection(ctx.run(() => Promise.reject(error))), error);
  for (const bad of [null, 5, {}]) {
    assertMatch(
      (await rejection(ctx.run(bad as never))).message,
      /^Cannot run as .*not a function/,
    );
  }
  assertEquals(await ctx.run(() => ctx.run(() => ctx.run(() => 8))), 8);
});

eachWay("run: promise jobs run between the phases of requests, as many as there are", async (
  makeContext,
) => {
  using ctx = makeContext();
  await ctx.run(async () => {
    await using file = await openNew(ctx);
    let jobs = 0;
    for (let round = 0; round < 50; round++) {
      await file.write(new Uint8Array(8), round * 8);
      for (let job = 0; job < 20; job++) await Promise.resolve(jobs++);
    }
    assertEquals(jobs, 1000);
    assertEquals((await file.stat()).size, 400);
  });
});

eachFdmon("run: requests follow each other within one turn of Deno's loop", async (makeContext) => {
  using ctx = makeContext();
  await ctx.run(async () => {
    let turns = 0, counting = true;
    const count = () => void (counting && (turns++, setImmediate(count)));
    setImmediate(count);
    for (let round = 0; round < 1000; round++) {
      await new Promise((resolve) => ctx.addSqe((sqe) => sqe.nop(), resolve));
    }
    counting = false;
    // One turn each is what it takes without Deno's way to run jobs.
    assert(turns < 500, `${turns} turns`);
  });
});

eachWay("run: what a callback throws rejects all runs, and the context goes on", async (
  makeContext,
) => {
  using ctx = makeContext();
  const error = new Error("thrown by a callback");
  const never = () => new Promise<never>(() => {});
  const runs = [ctx.run(never), ctx.run(never)].map(rejection);
  ctx.scheduleOneshot(() => {
    throw error;
  });
  for (const thrown of await Promise.all(runs)) assertStrictEquals(thrown, error);
  assertEquals(await ctx.run(() => 5), 5);
});

eachWay("run: several at once, each for itself", async (makeContext) => {
  using ctx = makeContext();
  const delay = (ms: number) =>
    new Promise<void>((resolve) => ctx.timer(resolve).arm(ctx.now() + ms * 1e6));
  const order: number[] = [];
  const runs = [3, 1, 2].map((ms) => ctx.run(() => delay(ms).then(() => void order.push(ms))));
  await Promise.all(runs);
  assertEquals(order, [1, 2, 3]);
});

eachWay("run: a signal ends it, before, while idle and while busy", async (makeContext) => {
  using ctx = makeContext();
  using notifier = new EventNotifier();
  const reason = new Error("enough"), never = () => new Promise<never>(() => {});
  let called = false;
  const aborted = ctx.run(() => void (called = true), { signal: AbortSignal.abort(reason) });
  assertStrictEquals(await rejection(aborted), reason);
  assert(!called);
  for (const busy of [false, true]) {
    if (busy) ctx.setFdHandler(notifier.fd, { ioRead() {} });
    const controller = new AbortController();
    const result = rejection(ctx.run(never, controller));
    setTimeout(() => controller.abort(reason), 5);
    assertStrictEquals(await result, reason);
  }
  for (const options of [null, 5, { signal: 5 }, { signal: {} }]) {
    const error = await rejection(ctx.run(() => 5, options as never));
    assert(error instanceof TypeError);
    assertMatch(error.message, /^Cannot use the (options|signal)/);
  }
  ctx.setFdHandler(notifier.fd, null);
});

/** Everything of Deno's that needs its loop. */
async function denoHasItsTurn(): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, 1));
  await new Promise((resolve) => setImmediate(resolve));
  await new Promise<void>((resolve) => process.nextTick(resolve));
  const { port1, port2 } = new MessageChannel();
  await new Promise((resolve) => {
    port2.onmessage = resolve;
    port1.postMessage("hello");
  });
  port1.close();
  port2.close();
  await Deno.readTextFile("/proc/self/status");
  await new Promise((resolve) => readFile("/proc/self/status", resolve));
  const server = Deno.serve(
    { port: 0, hostname: "127.0.0.1", onListen() {} },
    () => new Response("served"),
  );
  const { port } = server.addr as Deno.NetAddr;
  assertEquals(await (await fetch(`http://127.0.0.1:${port}/`)).text(), "served");
  await server.shutdown();
}

/** Keeps a context busy in some way until it is told to stop. */
type KeepBusy = (ctx: AioContext) => () => void;

const LOADS: Readonly<Record<string, KeepBusy>> = {
  "idle": () => () => {},
  "with a silent handler": (ctx) => {
    const notifier = new EventNotifier();
    ctx.setFdHandler(notifier.fd, { ioRead() {} });
    return () => {
      ctx.setFdHandler(notifier.fd, null);
      notifier[Symbol.dispose]();
    };
  },
  "with a bottom half that schedules itself for ever": (ctx) => {
    const half = ctx.bottomHalf(() => half.schedule());
    half.schedule();
    return () => half.delete();
  },
  "with requests that follow each other for ever": (ctx) => {
    let stopped = false;
    const next = () => void (stopped || ctx.addSqe((sqe) => sqe.nop(), next));
    next();
    return () => stopped = true;
  },
  "with awaited reads for ever": (ctx) => {
    let stopped = false;
    const reading = (async () => {
      await using file = await openNew(ctx);
      const buffer = new Uint8Array(512);
      await file.write(buffer, 0);
      while (!stopped) assertEquals(await file.read(buffer, 0), 512);
    })();
    return () => {
      stopped = true;
      return reading;
    };
  },
};

for (const [load, keepBusy] of Object.entries(LOADS)) {
  eachWay(`run: Deno has its turn while the context is busy, ${load}`, async (makeContext) => {
    using ctx = makeContext();
    await ctx.run(async () => {
      const stop = keepBusy(ctx);
      await denoHasItsTurn();
      await stop();
    });
  });
}

Deno.test("run: a context disposed in its sleep leaves a promise that is reported", async () => {
  const text = `
    import { AioContext, EventNotifier } from ${
    JSON.stringify(new URL("../mod.ts", import.meta.url).href)
  };
    const ctx = new AioContext();
    const notifier = new EventNotifier();
    ctx.setFdHandler(notifier.fd, { ioRead() {} });
    setTimeout(() => ctx[Symbol.dispose](), 60);
    ctx.run(() => new Promise(() => {})).catch((error) => console.log(error.message.slice(0, 22)));`;
  const { code, stdout, stderr } = await run(programWords(text));
  assertEquals([code, stderr, stdout], [0, "", "Cannot go on running a\n"]);
});

eachWay("run: a parked context goes on with whatever is begun from Deno's side", async (
  makeContext,
) => {
  using ctx = makeContext();
  using notifier = new EventNotifier();
  const begins: ((done: () => void) => void)[] = [
    (done) => ctx.scheduleOneshot(done),
    (done) => ctx.timer(done).arm(ctx.now() + 1e6),
    (done) => void ctx.addSqe((sqe) => sqe.nop(), done),
    (done) => void ctx.openFile("/tmp").then((file) => file.close()).then(done),
    (done) => {
      notifier.set();
      ctx.setFdHandler(notifier.fd, {
        ioRead: () => (ctx.setFdHandler(notifier.fd, null), done()),
      });
    },
  ];
  for (const begin of begins) {
    await ctx.run(() => new Promise<void>((done) => setTimeout(() => begin(done), 2)));
  }
});

eachWay("run: a context that is disposed leaves its runs to Deno", async (makeContext) => {
  for (const shared of [false, true]) {
    const ctx = makeContext();
    if (shared) ctx.remote();
    const delayed = ctx.run(async () => {
      ctx[Symbol.dispose]();
      await new Promise((resolve) => setTimeout(resolve, 2));
      return 5;
    });
    assertEquals(await delayed, 5);
    assertMatch((await rejection(ctx.run(() => 5))).message, /context is disposed/);
  }
});

/** The output of a program that has a context `ctx`. */
function program(fdmon: string, text: string) {
  return run(programWords(`${importLine("AioContext, EventNotifier", "mod.ts")}
    using ctx = new AioContext({ fdmon: "${fdmon}" });
    ${text}`));
}

for (const fdmon of FDMONS) {
  Deno.test(`run: a deadlock rejects before Deno ends (${fdmon})`, async () => {
    const { code, stdout, stderr } = await program(
      fdmon,
      `ctx.run(() => new Promise(() => {})).catch((error) => console.log(error.message));`,
    );
    assertEquals([code, stderr], [0, ""]);
    assertMatch(stdout, /^Cannot go on running as nothing can ever settle the promise: /);
  });

  Deno.test(`run: Deno names the await that never ends (${fdmon})`, async () => {
    const { code, stderr } = await program(fdmon, `await ctx.run(() => new Promise(() => {}));`);
    assertEquals(code, 1);
    assertMatch(stderr, /Top-level await promise never resolved/);
  });

  Deno.test(`run: Ctrl-C ends a program that waits, or is busy (${fdmon})`, async () => {
    for (
      const busy of ["", "const half = ctx.bottomHalf(() => half.schedule()); half.schedule();"]
    ) {
      const words = programWords(`${importLine("AioContext, EventNotifier", "mod.ts")}
        using ctx = new AioContext({ fdmon: "${fdmon}" });
        using notifier = new EventNotifier();
        ctx.setFdHandler(notifier.fd, { ioRead() {} });
        ${busy}
        ctx.scheduleOneshot(() => console.log("runs"));
        await ctx.run(() => new Promise(() => {}));`);
      const child = new Deno.Command(words[0], { args: words.slice(1), stdout: "piped" }).spawn();
      const reader = child.stdout.getReader();
      await reader.read();
      child.kill("SIGINT");
      assertEquals((await child.status).signal, "SIGINT");
      await reader.cancel();
    }
  });

  Deno.test(`run: parked, or waiting for nothing, takes hardly any time (${fdmon})`, async () => {
    const setups = ["", "ctx.setFdHandler(new EventNotifier().fd, { ioRead() {} });"];
    await Promise.all(setups.map(async (setup) => {
      const { stdout, stderr } = await program(
        fdmon,
        `${setup}
        const polls = () => ctx.stats().polls;
        const before = polls(), { user, system } = process.cpuUsage();
        await ctx.run(() => new Promise((resolve) => setTimeout(resolve, 1000)));
        const after = process.cpuUsage();
        console.log(polls() - before, (after.user + after.system - user - system) / 1000);
        process.exit(0);`,
      );
      const [polls, busyMs] = stdout.split(" ").map(Number);
      assert(polls <= 200, `${polls} polls, ${stderr}`);
      assert(setup !== "" || polls === 0, `${polls} polls while parked`);
      assert(busyMs < 400, `${busyMs} ms of processor time in a second`);
    }));
  });
}
