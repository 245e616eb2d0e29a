/** Coroutines: when they are entered, by whom, in which order, and what refuses to be done. */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import type { AioContext, Coroutine } from "../mod.ts";
import { coEnter, coReschedule, coSchedule, coYield, EventNotifier } from "../mod.ts";
import { eachFdmon } from "./each_fdmon.ts";

/** Lets promise jobs run until there are none. */
function jobs(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** A coroutine that has yielded. */
async function yielded(ctx: AioContext, name = "sleeper"): Promise<Coroutine<void>> {
  const co = coSchedule(ctx, (co) => co.yield(), { name });
  ctx.poll(false);
  await jobs();
  assertEquals(co.state, "yielded");
  return co;
}

/** Lets coroutines that have yielded end. */
async function release(...sleepers: Coroutine<void>[]): Promise<void> {
  for (const co of sleepers) coEnter(co);
  await jobs();
  for (const co of sleepers) assertEquals(co.state, "ended");
}

eachFdmon("coSchedule: enters at poll, its code runs as a promise job after it", async (make) => {
  using ctx = make();
  let begun = false;
  const co = coSchedule(ctx, (self) => {
    begun = true;
    assert(self === co);
    return 7;
  });
  await jobs();
  assertEquals([begun, co.state, co.context === ctx], [false, "scheduled", true]);
  assertEquals([ctx.stats().bottomHalves, ctx.stats().coroutines], [1, 1]);
  assert(ctx.poll(true));
  assertEquals([begun, co.state], [false, "running"]);
  assertEquals(await co.join(), 7);
  assertEquals([begun, co.state, ctx.stats().coroutines], [true, "ended", 0]);
  assertEquals(await co.join(), 7);
  assert(!ctx.poll(false));
});

eachFdmon("coSchedule: first scheduled, first run, new ones and others alike", async (make) => {
  using ctx = make();
  const order: string[] = [];
  const sleeper = (name: string) =>
    coSchedule(ctx, async (co) => {
      await coYield(co);
      order.push(name);
    }, { name });
  const [b, d] = [sleeper("b"), sleeper("d")];
  ctx.poll(false);
  await jobs();
  coSchedule(ctx, () => order.push("a"));
  coSchedule(ctx, b);
  coSchedule(ctx, () => order.push("c"));
  assert(coSchedule(ctx, d) === d);
  coSchedule(ctx, () => order.push("e"));
  ctx.poll(false);
  await jobs();
  assertEquals(order, ["a", "b", "c", "d", "e"]);
});

eachFdmon("coSchedule: what is scheduled during a pass waits for the next one", async (make) => {
  using ctx = make();
  const entered: number[] = [];
  let second: Coroutine | null = null;
  const stop = ctx.trace.on("aio_co_schedule_bh_cb", ({ co }) => {
    entered.push(co);
    second ??= coSchedule(ctx, () => {});
  });
  const first = coSchedule(ctx, () => {});
  ctx.poll(false);
  assertEquals([entered, second!.state], [[first.id], "scheduled"]);
  ctx.poll(false);
  assertEquals(entered, [first.id, second!.id]);
  stop();
  await jobs();
});

eachFdmon("coSchedule: nested polls enter each one once, in order", async (make) => {
  using ctx = make();
  const order: number[] = [];
  const add = () => {
    const number = ctx.stats().coroutines;
    coSchedule(ctx, () => order.push(number));
  };
  for (let number = 0; number < 4; number++) add();
  const stop = ctx.trace.on("aio_co_schedule_bh_cb", () => {
    if (ctx.stats().coroutines < 8) add();
    ctx.poll(false);
  });
  ctx.poll(false);
  stop();
  while (ctx.poll(false));
  await jobs();
  assertEquals(order, [0, 1, 2, 3, 4, 5, 6, 7]);
});

eachFdmon("coEnter: from each kind of callback, under run", async (make) => {
  using notifier = new EventNotifier();
  using ctx = make();
  const entries = await ctx.run(async () => {
    let entries = 0;
    const co = coSchedule(ctx, async (self) => {
      for (; entries < 3; entries++) await self.yield();
      return entries;
    });
    await coSchedule(ctx, () => {}).join();
    ctx.scheduleOneshot(() => coEnter(co));
    while (entries < 1) await coSchedule(ctx, () => {}).join();
    ctx.timer(() => coEnter(co)).arm(ctx.now() + 1);
    while (entries < 2) await coSchedule(ctx, () => {}).join();
    ctx.setFdHandler(notifier.fd, { ioRead: () => (notifier.testAndClear(), coEnter(co)) });
    notifier.set();
    return await co.join();
  });
  ctx.setFdHandler(notifier.fd, null);
  assertEquals(entries, 3);
});

/** Frames on the stack. */
function depth(): number {
  const limit = Error.stackTraceLimit;
  Error.stackTraceLimit = Infinity;
  const { stack } = new Error();
  Error.stackTraceLimit = limit;
  return stack!.split("\n").length;
}

eachFdmon("coEnter: 25,000 mutual enters do not grow the stack", async (make) => {
  const ENTERS = 25_000;
  using ctx = make();
  const turns = { ping: 0, pong: 0 };
  let deepest = 0;
  const play = async (co: Coroutine, name: "ping" | "pong", other: () => Coroutine) => {
    while (turns[name] < ENTERS) {
      turns[name]++;
      if (turns[name] % 500 === 0) deepest = Math.max(deepest, depth());
      coEnter(other());
      await co.yield();
    }
  };
  await ctx.run(async () => {
    const pong: Coroutine = coSchedule(ctx, async (co) => {
      await co.yield();
      await play(co, "pong", () => ping);
    });
    const ping: Coroutine = coSchedule(ctx, async (co) => {
      await play(co, "ping", () => pong);
      coEnter(pong);
    });
    await ping.join();
    await pong.join();
  });
  assertEquals(turns, { ping: ENTERS, pong: ENTERS });
  assert(deepest > 0 && deepest < 20, `${deepest} frames`);
});

eachFdmon("coSchedule: scheduled twice is an error that names the first place", async (make) => {
  using ctx = make();
  using other = make();
  const co = await yielded(ctx, "worker");
  coSchedule(ctx, co);
  const first = /^Cannot schedule a coroutine as coSchedule has scheduled it already: worker$/;
  assertThrows(() => coSchedule(ctx, co), TypeError, first.source.slice(1, -1));
  assertThrows(() => coSchedule(other, co), TypeError, "as coSchedule has scheduled it already");
  assertThrows(() => coEnter(co), TypeError, "Cannot enter a coroutine as coSchedule has sch");
  // It is where it was, and entered once.
  assertEquals([co.context === ctx, other.poll(false), ctx.poll(false)], [true, false, true]);
  await jobs();
  assertEquals(co.state, "ended");

  const mover = coSchedule(ctx, (co) => coReschedule(other, co), { name: "mover" });
  ctx.poll(false);
  await jobs();
  assertThrows(() => coSchedule(ctx, mover), TypeError, "as coReschedule has scheduled it");
  other.poll(false);
  await jobs();

  // Finding the line costs more than a switch, so it is looked for where somebody watches.
  const stop = ctx.trace.on("aio_co_schedule", () => {});
  const traced = coSchedule(ctx, () => {});
  stop();
  const { message } = assertThrows(() => coSchedule(ctx, traced), TypeError);
  assert(/as coSchedule, at .*coroutine_test\.ts:\d+:\d+\)?, has scheduled/.test(message), message);
  ctx.poll(false);
  await traced.join();
});

eachFdmon("coEnter, coYield, coReschedule: refused in the wrong state", async (make) => {
  using ctx = make();
  const sleeper = await yielded(ctx);
  await assertRejects(() => sleeper.yield(), TypeError, "as it has yielded already: sleeper");
  await assertRejects(
    () => coReschedule(ctx, sleeper),
    TypeError,
    "as it has yielded already: sleeper",
  );
  coEnter(sleeper);
  // It is as good as running, although its job has not been done.
  assertThrows(() => coEnter(sleeper), TypeError, "as it has not yielded: sleeper");
  assertThrows(() => coSchedule(ctx, sleeper), TypeError, "as it has not yielded: sleeper");
  await sleeper.join();
  for (const attempt of [() => coEnter(sleeper), () => coSchedule(ctx, sleeper)]) {
    assertThrows(attempt, TypeError, "as it has ended: sleeper");
  }
  await assertRejects(() => coYield(sleeper), TypeError, "as it has ended: sleeper");
  await assertRejects(() => sleeper.reschedule(ctx), TypeError, "as it has ended: sleeper");
  assertEquals([ctx.poll(false), ctx.stats().coroutines], [false, 0]);
});

eachFdmon("coSchedule and others: bad arguments are refused, nothing is lost", async (make) => {
  using ctx = make();
  const gone = make();
  gone[Symbol.dispose]();
  const co = await yielded(ctx);
  for (const bad of [null, undefined, 7, {}, "context", Object.create(ctx)]) {
    const context = bad as AioContext;
    const message = `Cannot schedule a coroutine as its context is no AioContext: ${typeof bad}`;
    assertThrows(() => coSchedule(context, () => {}), TypeError, message);
    assertThrows(() => coSchedule(context, co), TypeError, message);
    if (bad === undefined) continue;
    assertThrows(() => coSchedule(ctx, bad as () => void), TypeError, "is not a function");
  }
  assertThrows(() => coSchedule(gone, () => {}), TypeError, "as the context is disposed");
  assertThrows(() => coSchedule(gone, co), TypeError, "as the context is disposed");
  for (const bad of [null, 7, {}]) {
    assertThrows(() => coEnter(bad as Coroutine), TypeError, "as it is none");
    await assertRejects(() => coYield(bad as Coroutine), TypeError, "as it is none");
    await assertRejects(() => coReschedule(ctx, bad as Coroutine), TypeError, "as it is none");
  }
  await ctx.run(async () => {
    const mover = coSchedule(ctx, async (self) => {
      await assertRejects(() => self.reschedule(gone), TypeError, "the context is disposed");
      await assertRejects(() => self.reschedule(7 as never), TypeError, "no AioContext: number");
      assertEquals([self.state, self.context === ctx], ["running", true]);
    });
    await mover.join();
  });
  assertEquals([co.state, ctx.stats().coroutines], ["yielded", 1]);
  await release(co);
});

eachFdmon("coReschedule: goes on in the other context, which is its home then", async (make) => {
  using first = make();
  using second = make();
  const seen: string[] = [];
  const at = (co: Coroutine) => seen.push(co.context === first ? "first" : "second");
  const co = coSchedule(first, async (co) => {
    at(co);
    await coReschedule(second, co);
    at(co);
    await co.yield();
    at(co);
  });
  first.poll(false);
  await jobs();
  assertEquals([first.stats().coroutines, second.stats().coroutines], [0, 1]);
  assert(!first.poll(false));
  await jobs();
  assertEquals(seen, ["first"]);
  assert(second.poll(false));
  await jobs();
  assertEquals([seen, co.state], [["first", "second"], "yielded"]);
  coSchedule(first, co);
  assert(!second.poll(false));
  assert(first.poll(false));
  await co.join();
  assertEquals(seen, ["first", "second", "first"]);
  assertEquals([first.stats().coroutines, second.stats().coroutines], [0, 0]);
});

eachFdmon("coReschedule: with its own context the loop has a turn", async (make) => {
  using ctx = make();
  const order: string[] = [];
  await ctx.run(async () => {
    const co = coSchedule(ctx, async (co) => {
      ctx.scheduleOneshot(() => order.push("bottom half"));
      ctx.timer(() => order.push("timer")).arm(0);
      await coReschedule(ctx, co);
      order.push("coroutine");
    });
    await co.join();
  });
  assertEquals(order, ["bottom half", "timer", "coroutine"]);
});

eachFdmon("trace: aio_co_schedule and aio_co_schedule_bh_cb, with number and name", (make) => {
  using ctx = make();
  const events: string[] = [];
  for (const name of ["aio_co_schedule", "aio_co_schedule_bh_cb"] as const) {
    ctx.trace.on(name, (event) => events.push(`${name} ${event.co} ${event.name}`));
  }
  const co = coSchedule(ctx, function work() {});
  const other = coSchedule(ctx, () => {}, { name: "other" });
  ctx.poll(false);
  assert(co.id !== other.id);
  assertEquals(events, [
    `aio_co_schedule ${co.id} work`,
    `aio_co_schedule ${other.id} other`,
    `aio_co_schedule_bh_cb ${co.id} work`,
    `aio_co_schedule_bh_cb ${other.id} other`,
  ]);
});
