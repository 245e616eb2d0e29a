/** Wake-ups from other threads: none lost, whether the loop sleeps, polls or is about to sleep. */
import { assert, assertEquals } from "@std/assert";
import { EventNotifier, PollWord, wakeContext } from "../mod.ts";
import { eachFdmon } from "./each_fdmon.ts";
import type { WakeUpOrder } from "./wake_up_worker.ts";

const WORKERS = 3, WAKE_UPS = 100_000;
/** Only a lost wake-up lets the loop sleep for this long. */
const LOST_NS = 30e9;

/** The next message of a worker. */
function message(worker: Worker): Promise<string> {
  return new Promise((resolve, reject) => {
    worker.onmessage = ({ data }) => resolve(data);
    worker.onerror = (event) => reject(event.error ?? new Error(event.message));
  });
}

async function startWorkers(): Promise<Worker[]> {
  const url = new URL("wake_up_worker.ts", import.meta.url);
  const workers = Array.from({ length: WORKERS }, () => new Worker(url, { type: "module" }));
  assertEquals(await Promise.all(workers.map(message)), Array(WORKERS).fill("ready"));
  return workers;
}

for (const mode of ["blocked", "spinning"] as const) {
  eachFdmon(`wakeContext: none lost from ${WORKERS} Workers, ${mode}`, async (makeContext) => {
    const seed = Math.floor(Math.random() * 2 ** 32);
    const words = new Int32Array(new SharedArrayBuffer(WORKERS * 8));
    const workers = await startWorkers();
    const done = workers.map(message);
    using ctx = makeContext({ pollParams: { maxNs: mode === "blocked" ? 0 : 100_000 } });
    using notifier = new EventNotifier();
    // A word that nobody changes: the loop spins on it and on its own notifier.
    const callbacks = {
      ioRead: () => notifier.testAndClear(),
      ioPoll: new PollWord(new SharedArrayBuffer(4), 0, 32),
      ioPollReady: () => {},
    };
    ctx.setFdHandler(notifier.fd, callbacks);
    let lost = false;
    const watchdog = ctx.timer(() => lost = true);
    workers.forEach((worker, index) => {
      const order = { words, worker: index, wakeUps: WAKE_UPS, remote: ctx.remote() };
      worker.postMessage({ ...order, seed: seed + index } satisfies WakeUpOrder);
    });
    for (let left = WORKERS; left > 0;) {
      watchdog.arm(ctx.now() + LOST_NS);
      ctx.poll(true);
      assert(!lost, `a wake-up was lost, seed ${seed}, words ${words.join(" ")}`);
      left = 0;
      for (let worker = 0; worker < WORKERS; worker++) {
        const posted = Atomics.load(words, worker * 2);
        Atomics.store(words, worker * 2 + 1, posted);
        Atomics.notify(words, worker * 2 + 1);
        if (posted !== WAKE_UPS) left++;
      }
    }
    assertEquals(await Promise.all(done), Array(WORKERS).fill("done"), `seed ${seed}`);
    workers.forEach((worker) => worker.terminate());
    ctx.setFdHandler(notifier.fd, null);
  });
}

eachFdmon(
  "wakeContext: false once the context is disposed, also while it is",
  async (makeContext) => {
    const workers = await startWorkers();
    const done = workers.map(message);
    const words = new Int32Array(new SharedArrayBuffer(WORKERS * 8));
    const ctx = makeContext();
    const remote = ctx.remote();
    workers.forEach((worker, index) => {
      const order = { words, worker: index, wakeUps: 2 ** 31 - 1, remote, seed: 1 };
      worker.postMessage(order satisfies WakeUpOrder);
    });
    while (Atomics.load(words, 0) === 0 || Atomics.load(words, 2) === 0) {
      ctx.poll(true);
      for (let worker = 0; worker < WORKERS; worker++) {
        Atomics.store(words, worker * 2 + 1, Atomics.load(words, worker * 2));
        Atomics.notify(words, worker * 2 + 1);
      }
    }
    ctx[Symbol.dispose]();
    assertEquals(wakeContext(remote), false);
    // Those that wait to be seen are let go, and find the context disposed at their next post.
    const ended = Promise.all(done);
    let settled = false;
    ended.finally(() => settled = true);
    while (!settled) {
      for (let worker = 0; worker < WORKERS; worker++) {
        Atomics.store(words, worker * 2 + 1, Atomics.load(words, worker * 2));
        Atomics.notify(words, worker * 2 + 1);
      }
      await new Promise((resolve) => setImmediate(resolve));
    }
    assertEquals(await ended, Array(WORKERS).fill("the context is disposed"));
    workers.forEach((worker) => worker.terminate());
  },
);
