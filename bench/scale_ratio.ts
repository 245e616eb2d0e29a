/**
 * How far is the loop from what the machine gives, and what do idle handlers cost it?
 *
 * Builds the C floor and sets up the scenarios of `scale` in a process each, then measures short
 * windows of all of them in turn: a slow second of the machine falls on all alike. Each ratio is
 * taken within one round; the median of the rounds is compared with what the project asks for.
 *
 * Run with: deno run -A bench/scale_ratio.ts [--rounds 25] [--seconds 0.25] [--json]
 */
import { parseArgs } from "node:util";
import Table from "cli-table3";
import { describeMachine, machineLine } from "../src/cli/scale_report.ts";
import type { Run, RunPlan } from "../src/cli/scale_run.ts";

type Figures = Pick<Run, "iops" | "usPerRequest" | "p99Us" | "kicksPerRequest">;

/** Names of what is measured, in this order in every round. */
const NAMES = ["floor", "alone", "aloneWord", "idle3200", "idle3200Kept", "idle16000"] as const;
type Name = typeof NAMES[number];
type Round = Readonly<Record<Name, Figures>>;

/** One line of the result. */
interface Criterion {
  readonly what: string;
  readonly measured: number;
  readonly must: number;
  readonly aim: number | null;
  readonly met: boolean;
}

const ROOT = new URL("../", import.meta.url);
const FILE_BYTES = 256 * 1024 * 1024;
const RANDOM_BYTES_MAX = 65_536;
const FLOOR_SOURCES = ["bench/floor.c", "shim/guest.c", "shim/spin.c", "shim/system.c"];

const PLAN: RunPlan = {
  idleHandlers: 0,
  removal: true,
  fdmon: "io_uring",
  poll: "function",
  depth: 1,
  blockSize: 4096,
  seconds: 0,
  idleSeconds: 1,
};

const PLANS: Readonly<Record<Exclude<Name, "floor">, RunPlan>> = {
  alone: PLAN,
  aloneWord: { ...PLAN, poll: "word" },
  idle3200: { ...PLAN, idleHandlers: 3200 },
  idle3200Kept: { ...PLAN, idleHandlers: 3200, removal: false },
  idle16000: { ...PLAN, idleHandlers: 16_000 },
};

const LABELS: Readonly<Record<Name, string>> = {
  floor: "C floor",
  alone: "0 idle handlers",
  aloneWord: "0 idle handlers, polled by word",
  idle3200: "3,200 idle handlers, removal on",
  idle3200Kept: "3,200 idle handlers, removal off",
  idle16000: "16,000 idle handlers, removal on",
};

/** A process that runs one scenario; see bench/scale_child.ts. */
class Child {
  readonly #process: Deno.ChildProcess;
  readonly #writer: WritableStreamDefaultWriter<Uint8Array<ArrayBuffer>>;
  readonly #lines: ReadableStreamDefaultReader<string>;
  #rest = "";

  constructor(plan: RunPlan, file: string) {
    const script = new URL("scale_child.ts", import.meta.url).pathname;
    this.#process = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", script, JSON.stringify(plan), file],
      stdin: "piped",
      stdout: "piped",
    }).spawn();
    this.#writer = this.#process.stdin.getWriter();
    this.#lines = this.#process.stdout.pipeThrough(new TextDecoderStream()).getReader();
  }

  /** The next line of its output. */
  async line(): Promise<string> {
    while (!this.#rest.includes("\n")) {
      const { value, done } = await this.#lines.read();
      if (done) throw new Error("Cannot measure as a scenario's process has ended");
      this.#rest += value;
    }
    const [line] = this.#rest.split("\n", 1);
    this.#rest = this.#rest.slice(line.length + 1);
    return line;
  }

  async measure(seconds: string): Promise<Figures> {
    await this.#writer.write(new TextEncoder().encode(`${seconds}\n`));
    return JSON.parse(await this.line());
  }

  async end(): Promise<void> {
    await this.#writer.close();
    await this.#process.status;
  }
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      rounds: { type: "string", default: "25" },
      seconds: { type: "string", default: "0.25" },
      json: { type: "boolean", default: false },
    },
  });
  const rounds = Number(values.rounds);
  if (!Number.isInteger(rounds) || rounds < 1 || !(Number(values.seconds) > 0)) {
    console.error("error: Cannot use --rounds and --seconds as they are not numbers above 0");
    Deno.exit(2);
  }
  const floor = await buildFloor();
  const file = await makeFile();
  try {
    const results = await measureRounds(floor, file, rounds, values.seconds);
    const criteria = judge(results);
    if (values.json) {
      console.log(JSON.stringify({ machine: describeMachine(), criteria, rounds: results }));
    } else {
      printTables(results, criteria);
    }
  } finally {
    await Deno.remove(file);
  }
}

async function buildFloor(): Promise<string> {
  await Deno.mkdir(new URL("bench/build/", ROOT), { recursive: true });
  const output = "bench/build/floor";
  await run("cc", ["-O2", "-Wall", "-Wextra", "-pthread", "-o", output, ...FLOOR_SOURCES]);
  return new URL(output, ROOT).pathname;
}

/** A file that all measurements share, just written and so in the page cache. */
async function makeFile(): Promise<string> {
  const path = await Deno.makeTempFile({ prefix: "scale_ratio_", suffix: ".img" });
  using file = await Deno.open(path, { write: true });
  const chunk = new Uint8Array(16 * RANDOM_BYTES_MAX);
  for (let written = 0; written < FILE_BYTES; written += chunk.length) {
    for (let at = 0; at < chunk.length; at += RANDOM_BYTES_MAX) {
      crypto.getRandomValues(chunk.subarray(at, at + RANDOM_BYTES_MAX));
    }
    for (let at = 0; at < chunk.length;) at += await file.write(chunk.subarray(at));
  }
  return path;
}

async function measureRounds(
  floor: string,
  file: string,
  rounds: number,
  seconds: string,
): Promise<Round[]> {
  const children = new Map<Name, Child>();
  for (const [name, plan] of Object.entries(PLANS)) {
    console.error(`setting up: ${LABELS[name as Name]}`);
    const child = new Child(plan, file);
    // One after the other: a busy setup would disturb the learning of the others.
    await child.line();
    children.set(name as Name, child);
  }
  console.error(`measuring ${rounds} rounds of ${NAMES.length} windows of ${seconds} s`);
  const results: Round[] = [];
  for (let round = 0; round < rounds; round++) {
    const figures: Partial<Record<Name, Figures>> = {};
    figures.floor = JSON.parse(await run(floor, ["--file", file, "--seconds", seconds]));
    for (const [name, child] of children) figures[name] = await child.measure(seconds);
    results.push(figures as Round);
  }
  for (const child of children.values()) await child.end();
  return results;
}

/** Runs a program in the project's folder; returns its output. */
async function run(program: string, args: readonly string[]): Promise<string> {
  const command = new Deno.Command(program, { args: [...args], cwd: ROOT, stderr: "piped" });
  const { success, stdout, stderr } = await command.output();
  const decoder = new TextDecoder();
  if (success) return decoder.decode(stdout);
  throw new Error(`Cannot run ${program}: ${decoder.decode(stderr)}`);
}

function judge(rounds: readonly Round[]): Criterion[] {
  const of = (ratio: (round: Round) => number) => median(rounds.map(ratio));
  return [
    atLeast("IOPS at 3,200 idle / at 0, removal on", of((r) => r.idle3200.iops / r.alone.iops), {
      must: 0.95,
      aim: 0.99,
    }),
    atLeast("IOPS at 16,000 idle / at 0, removal on", of((r) => r.idle16000.iops / r.alone.iops), {
      must: 0.93,
      aim: 0.98,
    }),
    atLeast(
      "IOPS removal on / off at 3,200, functions",
      of((r) => r.idle3200.iops / r.idle3200Kept.iops),
      { must: 4, aim: null },
    ),
    atMost(
      "µs per request at 0 idle / C floor",
      of((r) => r.alone.usPerRequest / r.floor.usPerRequest),
      { must: 1.3, aim: 1.1 },
    ),
    atMost("kicks per request at 0 idle", of((r) => r.alone.kicksPerRequest), {
      must: 0.01,
      aim: 0,
    }),
    atMost("kicks per request at 3,200 idle", of((r) => r.idle3200.kicksPerRequest), {
      must: 0.01,
      aim: 0,
    }),
  ];
}

type Bounds = Pick<Criterion, "must" | "aim">;

function atLeast(what: string, measured: number, bounds: Bounds): Criterion {
  return { what, measured, ...bounds, met: measured >= bounds.must };
}

function atMost(what: string, measured: number, bounds: Bounds): Criterion {
  return { what, measured, ...bounds, met: measured <= bounds.must };
}

function median(values: number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

function printTables(rounds: readonly Round[], criteria: readonly Criterion[]): void {
  const style = { head: [], border: [], compact: true };
  const runs = new Table({
    head: ["", "IOPS", "µs per request", "p99 µs", "kicks per request"],
    colAligns: ["left", "right", "right", "right", "right"],
    style,
  });
  for (const name of NAMES) {
    const of = (figure: keyof Figures) => median(rounds.map((round) => round[name][figure]));
    runs.push([
      LABELS[name],
      Math.round(of("iops")).toLocaleString("en-US"),
      of("usPerRequest").toFixed(2),
      of("p99Us").toFixed(1),
      of("kicksPerRequest").toFixed(4),
    ]);
  }
  const verdict = new Table({
    head: ["", "measured", "must", "aim", "met"],
    colAligns: ["left", "right", "right", "right", "left"],
    style,
  });
  for (const { what, measured, must, aim, met } of criteria) {
    verdict.push([what, measured.toPrecision(3), must, aim ?? "", met ? "yes" : "no"]);
  }
  console.log(machineLine(describeMachine()));
  console.log(`Medians of ${rounds.length} rounds\n${runs.toString()}\n${verdict.toString()}`);
}

await main();
