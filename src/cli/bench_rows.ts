/**
 * What the command `bench` measures: one question a row, with what the project asks of the answer.
 *
 * A row names the figure of ours and, where there is one, the figure beside it: a C floor, or the
 * same of ours under other circumstances. Rows that ask for the same process share it.
 */
import { IO_ROWS } from "./bench_io_rows.ts";
import { THREAD_ROWS } from "./bench_thread_rows.ts";
import { ChildProbe, compileFloor, type Probe, ProgramProbe } from "./bench_probe.ts";
import type { RunPlan } from "./scale_run.ts";

/** One question. */
export interface BenchRow {
  readonly name: string;
  readonly what: string;
  readonly unit: string;
  readonly ours: Figure;
  /** What ours is compared with. */
  readonly beside?: Figure;
  /** What the bounds are for: by default the ratio, where ours is compared with something. */
  readonly judged?: "ours";
  /** Whether the bounds are upper or lower ones. */
  readonly better: "less" | "more";
  readonly must: number;
  /** null where reaching more than `must` is no aim. */
  readonly aim: number | null;
}

/** A figure of a process. */
export interface Figure {
  readonly source: Source;
  /** Name of the figure; `value` where there is one only. */
  readonly name: string;
}

/** A process that rows can share, and how to start it. */
export interface Source {
  readonly label: string;
  readonly start: (file: string) => Promise<Probe>;
}

const PLAN: RunPlan = {
  idleHandlers: 0,
  removal: true,
  fdmon: undefined,
  poll: "function",
  depth: 1,
  blockSize: 4096,
  seconds: 0,
  idleSeconds: 1,
};

const FLOOR_SOURCES = ["floor.c", "../shim/guest.c", "../shim/spin.c", "../shim/system.c"];
const FLOOR_SECONDS = "0.25";

function scale(label: string, changes: Partial<RunPlan>): Source {
  const plan = JSON.stringify({ ...PLAN, ...changes });
  return { label, start: (file) => ChildProbe.start("scale", plan, file) };
}

function part(name: string, ...args: string[]): Figure {
  const label = [name, ...args].join(" ");
  return { source: { label, start: () => ChildProbe.start(name, ...args) }, name: "value" };
}

const ALONE = scale("0 idle handlers", {});
const IDLE_3200 = scale("3,200 idle handlers, removal on", { idleHandlers: 3200 });
const IDLE_3200_KEPT = scale("3,200 idle handlers, removal off", {
  idleHandlers: 3200,
  removal: false,
});
const IDLE_16000 = scale("16,000 idle handlers, removal on", { idleHandlers: 16_000 });

const REQUEST_FLOOR: Source = {
  label: "C loop",
  async start(file) {
    const program = await compileFloor("floor", FLOOR_SOURCES);
    return new ProgramProbe([program, "--file", file, "--seconds", FLOOR_SECONDS]);
  },
};

const WAKE_UP_FLOOR: Source = {
  label: "C loop with epoll_wait",
  start: async () => new ProgramProbe([await compileFloor("wake_up", ["wake_up.c"])]),
};

function wakeUp(fdmon: string): Figure {
  const label = `wake-up ${fdmon}`;
  const start = async () => {
    const library = await compileFloor("wake_up.so", ["wake_up.c"], ["-shared", "-fPIC"]);
    return await ChildProbe.start("wake-up", fdmon, library);
  };
  return { source: { label, start }, name: "value" };
}

/** A whole process of Deno that runs a text. */
function coldProcess(label: string, text: string): Figure {
  const start = async () => {
    const path = await Deno.makeTempFile({ prefix: "aio_bench_", suffix: ".ts" });
    await Deno.writeTextFile(path, text);
    const probe = new ProgramProbe([Deno.execPath(), "run", "-A", path], true);
    // The first run compiles and caches the modules.
    await probe.measure();
    return {
      measure: () => probe.measure(),
      [Symbol.asyncDispose]: () => Deno.remove(path),
    };
  };
  return { source: { label, start }, name: "value" };
}

const FIRST_POLL = `import { AioContext } from ${
  JSON.stringify(new URL("../../mod.ts", import.meta.url).href)
};\nusing ctx = new AioContext();\nctx.poll(false);\n`;

/** All rows, in the order of the table. */
export const BENCH_ROWS: readonly BenchRow[] = [
  {
    name: "request",
    what: "a request beside 0 idle handlers / C loop",
    unit: "µs",
    ours: { source: ALONE, name: "usPerRequest" },
    beside: { source: REQUEST_FLOOR, name: "usPerRequest" },
    better: "less",
    must: 1.2,
    aim: 1.05,
  },
  {
    name: "idle-3200",
    what: "requests beside 3,200 idle handlers / beside 0",
    unit: "1/s",
    ours: { source: IDLE_3200, name: "iops" },
    beside: { source: ALONE, name: "iops" },
    better: "more",
    must: 0.95,
    aim: 0.99,
  },
  {
    name: "idle-16000",
    what: "requests beside 16,000 idle handlers / beside 0",
    unit: "1/s",
    ours: { source: IDLE_16000, name: "iops" },
    beside: { source: ALONE, name: "iops" },
    better: "more",
    must: 0.93,
    aim: 0.98,
  },
  {
    name: "removal",
    what: "requests beside 3,200, removal on / off",
    unit: "1/s",
    ours: { source: IDLE_3200, name: "iops" },
    beside: { source: IDLE_3200_KEPT, name: "iops" },
    better: "more",
    must: 4,
    aim: null,
  },
  {
    name: "kicks",
    what: "kicks per request beside 3,200 idle handlers",
    unit: "1",
    ours: { source: IDLE_3200, name: "kicksPerRequest" },
    better: "less",
    must: 0.01,
    aim: 0,
  },
  {
    name: "poll-function",
    what: "one of 3,200 idle functions in one polling pass",
    unit: "ns",
    ours: part("poll-pass", "function"),
    better: "less",
    must: 8,
    aim: 4,
  },
  {
    name: "poll-word",
    what: "one of 3,200 idle words in one polling pass",
    unit: "ns",
    ours: part("poll-pass", "word"),
    better: "less",
    must: 1,
    aim: 0.5,
  },
  {
    name: "wake-up",
    what: "answer of a sleeping loop, io_uring / C loop",
    unit: "ns",
    ours: wakeUp("io_uring"),
    beside: { source: WAKE_UP_FLOOR, name: "value" },
    better: "less",
    must: 1.3,
    aim: 1.1,
  },
  {
    name: "wake-up-epoll",
    what: "answer of a sleeping loop, epoll / C loop",
    unit: "ns",
    ours: wakeUp("epoll"),
    beside: { source: WAKE_UP_FLOOR, name: "value" },
    better: "less",
    must: 1.3,
    aim: 1.1,
  },
  {
    name: "poll-nothing",
    what: "poll(false) with nothing to do, 3,200 handlers",
    unit: "ns",
    ours: part("poll-nothing"),
    better: "less",
    must: 500,
    aim: 150,
  },
  {
    name: "bottom-half",
    what: "a bottom half scheduled and run",
    unit: "ns",
    ours: part("bottom-half"),
    better: "less",
    must: 100,
    aim: 40,
  },
  {
    name: "coroutine",
    what: "a switch of coroutines: enter and yield",
    unit: "ns",
    ours: part("coroutine"),
    better: "less",
    must: 400,
    aim: 200,
  },
  {
    name: "timer",
    what: "a timer armed and fired among 100,000",
    unit: "ns",
    ours: part("timer"),
    better: "less",
    must: 1000,
    aim: 400,
  },
  {
    name: "handler-memory",
    what: "memory of a registered idle handler",
    unit: "B",
    ours: part("handler-memory"),
    better: "less",
    must: 600,
    aim: 250,
  },
  {
    name: "handler-changes",
    what: "handlers deleted and set, beside 10,000, io_uring",
    unit: "1/s",
    ours: part("handler-changes"),
    better: "more",
    must: 300_000,
    aim: 1_000_000,
  },
  {
    name: "allocation",
    what: "heap allocated by an iteration that serves an event",
    unit: "B",
    ours: part("allocation"),
    better: "less",
    must: 0,
    aim: 0,
  },
  {
    name: "cold-start",
    what: "a process of Deno up to its first poll, beside an empty one",
    unit: "ms",
    ours: coldProcess("first poll", FIRST_POLL),
    beside: coldProcess("an empty module", "export {};\n"),
    judged: "ours",
    better: "less",
    must: 150,
    aim: 80,
  },
  ...IO_ROWS,
  ...THREAD_ROWS,
];
