/**
 * Measures the heap that a switch of coroutines uses, beside that of the bare promise it needs, and
 * what is left of coroutines that have ended; prints it as JSON. Run by coroutine_allocation_test.ts
 * with room for so many new objects that none is collected between two looks.
 */
import { AioContext, coEnter, type Coroutine, coSchedule } from "../mod.ts";

declare const gc: () => void;

const SWITCHES = 20_000, ROUNDS = 15, ENDED = 20_000;

/** Least heap used for each step, of several rounds: code that is not compiled yet uses more. */
async function measure(steps: number, run: () => Promise<void>): Promise<number> {
  let least = Infinity;
  for (let round = 0; round < ROUNDS; round++) {
    gc();
    const before = Deno.memoryUsage().heapUsed;
    await run();
    least = Math.min(least, (Deno.memoryUsage().heapUsed - before) / steps);
  }
  return least;
}

/** What cannot be done without: a promise, its resolve function, and an await. */
async function bareSwitches(): Promise<void> {
  let resume!: () => void;
  const keep = (resolve: () => void) => {
    resume = resolve;
  };
  const sleeper = (async () => {
    for (let time = 0; time < SWITCHES / 2; time++) await new Promise<void>(keep);
  })();
  let other!: () => void;
  const keepOther = (resolve: () => void) => {
    other = resolve;
  };
  for (let time = 0; time < SWITCHES / 2; time++) {
    const waiting = new Promise<void>(keepOther);
    resume();
    other();
    await waiting;
  }
  await sleeper;
}

async function switches(ctx: AioContext): Promise<void> {
  const pong = coSchedule(ctx, async (co) => {
    for (let time = 0; time < SWITCHES / 2; time++) {
      await co.yield();
      coEnter(ping);
    }
  });
  const ping: Coroutine = coSchedule(ctx, async (co) => {
    for (let time = 0; time < SWITCHES / 2; time++) {
      coEnter(pong);
      await co.yield();
    }
  });
  ctx.poll(false);
  await ping.join();
}

/** Bytes left of each coroutine that has ended, by itself or with its context. */
async function left(): Promise<number> {
  const one = async () => {
    const ctx = new AioContext();
    for (let number = 0; number < ENDED; number++) {
      coSchedule(ctx, (co) => number % 2 === 0 ? undefined : co.yield());
    }
    ctx.poll(false);
    await new Promise((resolve) => setImmediate(resolve));
    ctx[Symbol.dispose]();
    await new Promise((resolve) => setImmediate(resolve));
  };
  await one();
  gc();
  const before = Deno.memoryUsage().heapUsed;
  await one();
  gc();
  return (Deno.memoryUsage().heapUsed - before) / ENDED;
}

using ctx = new AioContext();
console.log(JSON.stringify({
  bare: await measure(SWITCHES, bareSwitches),
  coroutine: await measure(SWITCHES, () => switches(ctx)),
  left: await left(),
}));
