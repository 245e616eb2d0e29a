/** How coroutines end: their errors, and the disposal of the context they live in. */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { coReschedule, type Coroutine, coSchedule } from "../mod.ts";
import { eachFdmon } from "./each_fdmon.ts";

function jobs(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

function fail(message = "fault"): never {
  throw new Error(message);
}

/** What nobody handles from now on. */
class Unhandled implements Disposable {
  readonly reasons: unknown[] = [];
  readonly #listen = (event: PromiseRejectionEvent) => {
    event.preventDefault();
    this.reasons.push(event.reason);
  };

  constructor() {
    addEventListener("unhandledrejection", this.#listen);
  }

  [Symbol.dispose](): void {
    removeEventListener("unhandledrejection", this.#listen);
  }
}

eachFdmon("poll: throws what a coroutine has thrown that nobody has joined", async (make) => {
  using ctx = make();
  coSchedule(ctx, () => fail("at once"));
  ctx.poll(false);
  await jobs();
  // A blocking poll would not sleep on it.
  assertEquals(ctx.stats().bottomHalves, 1);
  assertThrows(() => ctx.poll(false), Error, "at once");
  const co = coSchedule(ctx, async (co) => {
    await co.yield();
    fail("later");
  });
  ctx.poll(false);
  await jobs();
  coSchedule(ctx, co);
  coSchedule(ctx, () => fail("another"));
  let others = 0;
  coSchedule(ctx, () => others++);
  ctx.poll(false);
  await jobs();
  const { errors } = assertThrows(() => ctx.poll(false), AggregateError);
  assertEquals(errors.map((error: Error) => error.message).sort(), ["another", "later"]);
  assertEquals([others, ctx.poll(false), ctx.stats().coroutines], [1, false, 0]);
  // The error is there for who asks late.
  await assertRejects(() => co.join(), Error, "later");
});

eachFdmon("poll: throws undefined and null thrown by coroutines too", async (make) => {
  using ctx = make();
  for (const value of [undefined, null]) {
    coSchedule(ctx, () => {
      throw value;
    });
    ctx.poll(false);
    await jobs();
    let thrown: unknown = "nothing";
    try {
      ctx.poll(false);
    } catch (error) {
      thrown = error;
    }
    assertEquals(thrown, value);
  }
});

eachFdmon("join: takes the error over, and gives the result to all who join", async (make) => {
  using ctx = make();
  const failing = coSchedule(ctx, () => fail());
  const joined = failing.join();
  const working = coSchedule(ctx, () => 7);
  const results = [working.join(), working.join()];
  ctx.poll(false);
  await assertRejects(() => joined, Error, "fault");
  assertEquals(await Promise.all(results), [7, 7]);
  assert(!ctx.poll(false));
});

eachFdmon("run: rejects with what a coroutine throws that nobody has joined", async (make) => {
  using ctx = make();
  const running = ctx.run(() => {
    coSchedule(ctx, () => fail());
    return new Promise(() => {});
  });
  await assertRejects(() => running, Error, "fault");
});

eachFdmon("dispose: a coroutine that has not begun never does", async (make) => {
  const ctx = make();
  using unhandled = new Unhandled();
  let begun = false;
  const begin = () => {
    begun = true;
  };
  const silent = coSchedule(ctx, begin);
  const co = coSchedule(ctx, begin, { name: "late" });
  const joined = co.join();
  ctx[Symbol.dispose]();
  const message = "Cannot go on with a coroutine as its context is disposed: late";
  await assertRejects(() => joined, TypeError, message);
  await jobs();
  assertEquals([begun, silent.state, co.state], [false, "ended", "ended"]);
  assertEquals([ctx.stats().coroutines, unhandled.reasons], [0, []]);
});

eachFdmon("dispose: ends those that have yielded, and who runs at the next yield", async (make) => {
  const ctx = make();
  using unhandled = new Unhandled();
  const log: string[] = [];
  const { promise: file, resolve: read } = Promise.withResolvers<void>();
  const sleeper = coSchedule(ctx, async (co) => {
    try {
      await co.yield();
    } finally {
      log.push("sleeper cleans up");
    }
  });
  const reader = coSchedule(ctx, async (co) => {
    await file;
    log.push("reader goes on");
    await co.yield();
    log.push("never");
  }, { name: "reader" });
  const mover = coSchedule(ctx, async (co) => {
    await co.reschedule(ctx);
    log.push("never");
  });
  ctx.poll(false);
  await jobs();
  const states = () => [sleeper, reader, mover].map(({ state }) => state);
  assertEquals(states(), ["yielded", "running", "scheduled"]);
  ctx[Symbol.dispose]();
  await jobs();
  assertEquals(states(), ["ended", "running", "ended"]);
  read();
  const message = "Cannot yield a coroutine as its context is disposed: reader";
  await assertRejects(() => reader.join(), TypeError, message);
  assertEquals(log, ["sleeper cleans up", "reader goes on"]);
  assertEquals([ctx.stats().coroutines, unhandled.reasons], [0, []]);
});

eachFdmon("dispose: a coroutine may save itself to another context", async (make) => {
  const ctx = make();
  using other = make();
  const co: Coroutine<string> = coSchedule(ctx, async (co) => {
    await co.yield().catch(() => coReschedule(other, co));
    return "saved";
  });
  ctx.poll(false);
  await jobs();
  ctx[Symbol.dispose]();
  await jobs();
  assertEquals([co.state, co.context === other, other.stats().coroutines], ["scheduled", true, 1]);
  assertEquals(await other.run(() => co.join()), "saved");
});

eachFdmon("dispose: throws what poll() was to throw; later errors are unhandled", async (make) => {
  const ctx = make();
  using unhandled = new Unhandled();
  coSchedule(ctx, () => fail("before"));
  coSchedule(ctx, async (co) => {
    await co.yield().catch(() => fail("after"));
  });
  ctx.poll(false);
  await jobs();
  assertThrows(() => ctx[Symbol.dispose](), Error, "before");
  await jobs();
  assertEquals(unhandled.reasons.map((reason) => (reason as Error).message), ["after"]);
});

eachFdmon("dispose: by a listener of the trace, in the pass and outside", async (make) => {
  for (const name of ["aio_co_schedule", "aio_co_schedule_bh_cb"] as const) {
    const ctx = make();
    using unhandled = new Unhandled();
    let runs = 0;
    const first = coSchedule(ctx, () => runs++);
    ctx.trace.on(name, () => ctx[Symbol.dispose]());
    const entered = name === "aio_co_schedule_bh_cb";
    if (entered) coSchedule(ctx, () => runs++).join().catch(() => {});
    const second = coSchedule(ctx, () => runs++);
    if (entered) ctx.poll(false);
    await jobs();
    assertEquals([first.state, second.state], ["ended", "ended"]);
    // Who was entered before has its turn.
    assertEquals(runs, entered ? 1 : 0);
    assertEquals([ctx.stats().coroutines, unhandled.reasons], [0, []]);
  }
});

eachFdmon("trace: what listeners of coroutine events throw comes out of poll()", async (make) => {
  using ctx = make();
  const stops = [
    ctx.trace.on("aio_co_schedule", () => fail("scheduled")),
    ctx.trace.on("aio_co_schedule_bh_cb", () => fail("entered")),
  ];
  let runs = 0;
  const co = coSchedule(ctx, () => runs++);
  for (const stop of stops) stop();
  assertThrows(() => ctx.poll(true), Error, "scheduled");
  await jobs();
  assertEquals([runs, co.state, ctx.poll(false)], [1, "ended", false]);
  const stop = ctx.trace.on("aio_co_schedule_bh_cb", () => fail("entered"));
  coSchedule(ctx, () => runs++);
  assertThrows(() => ctx.poll(true), Error, "entered");
  stop();
  await jobs();
  assertEquals([runs, ctx.poll(false)], [2, false]);
});

eachFdmon("return: without waiting for the own yield, nothing is left behind", async (make) => {
  using ctx = make();
  for (const leave of ["yield", "reschedule"] as const) {
    const co = coSchedule(ctx, (co) => {
      void (leave === "yield" ? co.yield() : co.reschedule(ctx));
      return leave;
    });
    assertEquals(await ctx.run(() => co.join()), leave);
    while (ctx.poll(false));
    assertEquals([co.state, ctx.stats().coroutines], ["ended", 0]);
  }
});
