/**
 * Records when events come, for bench/polling_rule.ts.
 *
 * Polls a word without end and notes how long each event let it wait. Four sources: a guest that
 * posts its next request at once, the same with a millisecond of thought after every sixteenth, and
 * threads that read 64 KiB from the page cache and 4 KiB from the disk.
 *
 * Run with: deno run -A bench/record_arrivals.ts > bench/arrivals.json
 */
import { loadShim } from "../ffi/library.ts";
import { EventNotifier } from "../mod.ts";
import { GuestMemory } from "../src/cli/scale_guest.ts";
import type { ArrivalOrder } from "./arrival_worker.ts";

const EVENTS = 1000, WARM_UP_EVENTS = 2000;
const FILE_BYTES = 64 * 1024 * 1024;
const BURST = 16, THOUGHT_NS = 1e6;

/** Watches the word until enough events came; `answer` is called for each. Returns the waits. */
function record(
  words: Int32Array<SharedArrayBuffer>,
  word: number,
  answer: (value: number) => void,
): number[] {
  const { aio_now: now } = loadShim();
  const blockedNs: number[] = [];
  let seen = 0;
  let freeNs = now();
  while (blockedNs.length < EVENTS + WARM_UP_EVENTS) {
    const value = Atomics.load(words, word);
    if (value === seen) continue;
    blockedNs.push(Math.round(now() - freeNs));
    seen = value;
    answer(value);
    freeNs = now();
  }
  return blockedNs.slice(WARM_UP_EVENTS);
}

async function fromGuest(burst: boolean): Promise<number[]> {
  const memory = new GuestMemory(0);
  const { avail, used } = memory.busyQueue;
  const { words } = memory;
  using notifier = new EventNotifier();
  Atomics.store(words, memory.busyQueue.notificationsOff, 1);
  const load = { eventFd: notifier.fd, depth: 1, blocks: 1 };
  const guest = memory.runGuest(loadShim(), load);
  const blockedNs = record(words, avail, (value) => Atomics.store(words, used, value));
  memory.stopGuest();
  await guest;
  if (!burst) return blockedNs;
  return blockedNs.map((ns, event) => event % BURST === 0 ? ns + THOUGHT_NS : ns);
}

async function fromReads(path: string, direct: boolean, readBytes: number): Promise<number[]> {
  const words = new Int32Array(new SharedArrayBuffer(8));
  const url = new URL("arrival_worker.ts", import.meta.url);
  const worker = new Worker(url, { type: "module" });
  const message = () => new Promise((resolve) => worker.onmessage = resolve);
  await message();
  const done = message();
  const events = EVENTS + WARM_UP_EVENTS;
  const order = { words, path, direct, readBytes, fileBytes: FILE_BYTES, events };
  worker.postMessage(order satisfies ArrivalOrder);
  const blockedNs = record(words, 0, (value) => Atomics.store(words, 1, value));
  await done;
  worker.terminate();
  return blockedNs;
}

// Beside the project and not in a temporary folder, which may be memory and knows no O_DIRECT.
const path = new URL("../arrivals.img", import.meta.url).pathname;
const chunk = new Uint8Array(65_536);
using file = Deno.openSync(path, { create: true, write: true });
try {
  for (let written = 0; written < FILE_BYTES; written += chunk.length) {
    file.writeSync(crypto.getRandomValues(chunk));
  }
  file.syncSync();
  console.log(JSON.stringify({
    "guest at depth 1": await fromGuest(false),
    "guest in bursts": await fromGuest(true),
    "64 KiB cached reads": await fromReads(path, false, 65_536),
    "4 KiB disk reads": await fromReads(path, true, 4096),
  }));
} finally {
  Deno.removeSync(path);
}
