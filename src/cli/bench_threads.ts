/**
 * What `bench` measures of threads, and of a context that lives in Deno's loop.
 *
 * Messages go from a context that has its thread to another, as between two IOThreads. Each window is
 * short, and so are the pauses of the two that are compared in one process, so that both see the
 * same machine.
 */
import process from "node:process";
import { AioContext, type AioFile, IOThread } from "../../mod.ts";
import type { Figures, Measure } from "./bench_child.ts";
import type benchThread from "./bench_thread.ts";
import {
  blocksToRead,
  fillPageCache,
  RandomOffsets,
  READ_SECONDS,
  READ_SIZE,
  RequestWindow,
} from "./bench_window.ts";

const ROUND_TRIPS = 5_000, WARM_UP_ROUNDS = 5;
const MESSAGES = 1_000_000;
/** Longer than any round trip, so that nobody falls asleep meanwhile. */
const SPIN_NS = 1e6;
const IDLE_MS = 1_000;
const CONNECTIONS = 16, SERVE_MS = 100, SERVE_WINDOWS = 8;

const MODULE = new URL("bench_thread.ts", import.meta.url);

function startThread(path: string, maxNs: number, context?: AioContext) {
  const options = { data: path, pollParams: { maxNs }, context };
  return IOThread.start<typeof benchThread>(MODULE, options);
}

function medianOf(times: Float64Array): number {
  return times.toSorted()[times.length >> 1];
}

/** A call of a thread and its result, in us; with both contexts blocked or both spinning meanwhile. */
export async function measureRoundTrip(mode: string, path: string): Promise<Measure> {
  const maxNs = mode === "spinning" ? SPIN_NS : 0;
  const ctx = new AioContext({ pollParams: { maxNs } });
  const thread = await ctx.run(() => startThread(path, maxNs, ctx));
  const times = new Float64Array(ROUND_TRIPS);
  const measure = async () => {
    await ctx.run(async () => {
      for (let number = 0; number < ROUND_TRIPS; number++) {
        const startMs = performance.now();
        await thread.call("echo", number);
        times[number] = performance.now() - startMs;
      }
    }, { ownsThread: true });
    return { value: medianOf(times) * 1e3 };
  };
  for (let round = 0; round < WARM_UP_ROUNDS; round++) await measure();
  return measure;
}

/** The same between two Workers of Deno, by postMessage. */
export async function measurePostRoundTrip(): Promise<Measure> {
  const worker = new Worker(new URL("bench_post_worker.ts", import.meta.url), { type: "module" });
  let answered = (_value: unknown) => {};
  worker.onmessage = ({ data }) => answered(data);
  const times = new Float64Array(ROUND_TRIPS);
  const measure = async () => {
    for (let number = 0; number < ROUND_TRIPS; number++) {
      const startMs = performance.now();
      const answer = new Promise((resolve) => answered = resolve);
      worker.postMessage(number);
      await answer;
      times[number] = performance.now() - startMs;
    }
    return { value: medianOf(times) * 1e3 };
  };
  await measure();
  return measure;
}

/** One-way messages in a second, as many as go. */
export async function measureMessages(path: string): Promise<Measure> {
  const ctx = new AioContext();
  const thread = await ctx.run(() => startThread(path, 0, ctx));
  const measure = async () => {
    const startMs = performance.now();
    await ctx.run(async () => {
      for (let sent = 0; sent < MESSAGES; sent++) {
        while (!thread.send("put")) await thread.drained();
      }
      const count = await thread.call("takeCount");
      if (count !== MESSAGES) throw new Error(`error: ${count} of ${MESSAGES} messages arrived`);
    });
    return { value: MESSAGES / (performance.now() - startMs) * 1e3 };
  };
  for (let round = 0; round < WARM_UP_ROUNDS; round++) await measure();
  return measure;
}

/** Reads from the page cache in a second by one thread, and by two at once. */
export async function measureScaling(path: string): Promise<Measure> {
  fillPageCache(path);
  const threads = await Promise.all([startThread(path, 0), startThread(path, 0)]);
  const measure = async () => {
    const two = await Promise.all(threads.map((thread) => thread.call("reads", READ_SECONDS)));
    const one = await threads[0].call("reads", READ_SECONDS);
    return { one, two: two[0] + two[1] };
  };
  for (let round = 0; round < WARM_UP_ROUNDS; round++) await measure();
  return measure;
}

/** What a read from the page cache takes in an attached context, and by `run`, in us. */
export async function measureAttachedReads(path: string): Promise<Measure> {
  const ctx = new AioContext();
  const file = await ctx.run(() => ctx.openFile(path));
  fillPageCache(path);
  const offsets = new RandomOffsets(blocksToRead(path));
  const buffer = ctx.buffers.allocate(READ_SIZE);
  const measure = async () => {
    const run = await ctx.run(() => readFor(file, buffer, offsets));
    ctx.attach();
    const attached = await readFor(file, buffer, offsets);
    ctx.detach();
    return { added: attached.usPerRequest - run.usPerRequest };
  };
  for (let round = 0; round < WARM_UP_ROUNDS; round++) await measure();
  return measure;
}

async function readFor(
  file: AioFile,
  buffer: Uint8Array,
  offsets: RandomOffsets,
): Promise<Figures> {
  const window = new RequestWindow(READ_SECONDS);
  while (!window.over) {
    await file.read(buffer, offsets.next());
    window.count();
  }
  return window.figures();
}

/** Share of a processor that an attached context takes that has nothing to do, in percent. */
export async function measureAttachedIdle(): Promise<Measure> {
  const ctx = new AioContext();
  ctx.remote(); // Anybody might wake it.
  ctx.attach();
  await pause(IDLE_MS);
  return async () => {
    const alone = await cpuPercent(() => ctx.detach(), () => ctx.attach());
    const attached = await cpuPercent(() => {}, () => {});
    return { value: Math.max(0, attached - alone), attached };
  };
}

async function cpuPercent(before: () => void, after: () => void): Promise<number> {
  before();
  await pause(IDLE_MS / 10);
  const start = process.cpuUsage(), startMs = performance.now();
  await pause(IDLE_MS);
  const { user, system } = process.cpuUsage(start);
  const elapsedMs = performance.now() - startMs;
  after();
  return (user + system) / 1e3 / elapsedMs * 100;
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Requests in a second that Deno.serve answers with an attached context idle beside it, and without. */
export async function measureServe(): Promise<Measure> {
  const server = Deno.serve(
    { port: 0, hostname: "127.0.0.1", onListen() {} },
    () => new Response("ok"),
  );
  const client = new Worker(new URL("bench_http_worker.ts", import.meta.url), { type: "module" });
  const requests = (ms: number) =>
    new Promise<number>((resolve) => {
      client.onmessage = ({ data }) => resolve(data);
      client.postMessage({ port: server.addr.port, connections: CONNECTIONS, ms });
    });
  const ctx = new AioContext();
  ctx.remote();
  const measure = async () => {
    let alone = 0, beside = 0;
    for (let window = 0; window < SERVE_WINDOWS; window++) {
      // In turn first and second, as a machine that slows down would judge one of them.
      for (const attached of window % 2 === 0 ? [true, false] : [false, true]) {
        if (attached) ctx.attach();
        const answered = await requests(SERVE_MS);
        ctx.detach();
        if (attached) beside += answered;
        else alone += answered;
      }
    }
    const windows = SERVE_WINDOWS * SERVE_MS / 1e3;
    return { beside: beside / windows, alone: alone / windows };
  };
  await measure();
  return measure;
}
