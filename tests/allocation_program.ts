/**
 * Measures heap use per iteration in several situations and prints it as JSON; run by
 * allocation_test.ts. The least of many rounds counts: code that is not compiled yet does allocate,
 * and when it is compiled is not for us to say.
 */
import { AioContext, EventNotifier, type FdmonName, PollWord } from "../mod.ts";

declare const gc: () => void;

const fdmon = Deno.args[0] as FdmonName;
const WARM_UP = 200_000, ITERATIONS = 10_000, ROUNDS_MAX = 60, NONE = 1;

function measure(step: () => void): number {
  const run = (iterations: number) => {
    for (let iteration = 0; iteration < iterations; iteration++) step();
  };
  for (let iterations = 0; iterations < WARM_UP; iterations += 2000) run(2000);
  let least = Infinity;
  for (let round = 0; round < ROUNDS_MAX && least >= NONE; round++) {
    gc();
    const before = Deno.memoryUsage().heapUsed;
    run(ITERATIONS);
    least = Math.min(least, (Deno.memoryUsage().heapUsed - before) / ITERATIONS);
  }
  return least;
}

/** One event of a polled device each iteration; the guest kicks when it has to. */
function polled(poll: "function" | "word", withTimer: boolean): number {
  using ctx = new AioContext({ fdmon });
  using notifier = new EventNotifier();
  const words = new Int32Array(new SharedArrayBuffer(4));
  const word = new PollWord(words.buffer, 0, 32);
  let handled = 0, quiet = false;
  const handle = () => word.seen = handled = words[0];
  ctx.setFdHandler(notifier.fd, {
    ioRead: () => (notifier.testAndClear(), handle()),
    ioPoll: poll === "word" ? word : () => words[0] !== handled,
    ioPollReady: handle,
    ioPollBegin: () => quiet = true,
    ioPollEnd: () => quiet = false,
  });
  if (withTimer) ctx.timer(() => {}).arm(ctx.now() + 1e15);
  return measure(() => {
    words[0]++;
    if (!quiet) notifier.set();
    ctx.poll(true);
  });
}

/** One event through the fd each iteration, without polling. */
function blocked(): number {
  using ctx = new AioContext({ fdmon, pollParams: { maxNs: 0 } });
  using notifier = new EventNotifier();
  ctx.setFdHandler(notifier.fd, { ioRead: () => notifier.testAndClear() });
  ctx.timer(() => {}).arm(ctx.now() + 1e15);
  return measure(() => {
    notifier.set();
    ctx.poll(true);
  });
}

console.log(JSON.stringify({
  "polled by function": polled("function", false),
  "polled by word": polled("word", false),
  "polled by function, a timer armed": polled("function", true),
  "polled by word, a timer armed": polled("word", true),
  "an fd event without polling, a timer armed": blocked(),
}));
