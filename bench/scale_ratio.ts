/**
 * How far is the loop from what the machine gives, and what do idle handlers cost it?
 *
 * Builds the C floor, then measures it and the command `scale` in turn, so that a slow minute of the
 * machine falls on all of them. Each ratio is taken within one round; the median of the rounds is
 * compared with what the project asks for.
 *
 * Run with: deno run -A bench/scale_ratio.ts [--rounds 5] [--json]
 */
import Table from "cli-table3";
import type { Run } from "../src/cli/scale_run.ts";

/** A round: the floor and the four runs of `scale` that the ratios need. */
interface Round {
  readonly floor: { readonly iops: number; readonly usPerRequest: number };
  readonly alone: Run;
  readonly idle3200: Run;
  readonly idle3200Kept: Run;
  readonly idle16000: Run;
}

/** One line of the result. */
interface Criterion {
  readonly what: string;
  readonly measured: number;
  readonly must: number;
  readonly aim: number | null;
  readonly met: boolean;
}

const ROOT = new URL("../", import.meta.url);
const SECONDS = "2", IDLE_SECONDS = "2";
const FILE_BYTES = 256 * 1024 * 1024;
const RANDOM_BYTES_MAX = 65_536;
const FLOOR_SOURCES = ["bench/floor.c", "shim/guest.c", "shim/spin.c", "shim/system.c"];

async function main(): Promise<void> {
  const json = Deno.args.includes("--json");
  const rounds = parseRounds(Deno.args);
  const floor = await buildFloor();
  const file = await makeFile();
  const results: Round[] = [];
  try {
    for (let round = 1; round <= rounds; round++) {
      console.error(`round ${round} of ${rounds}`);
      results.push(await measureRound(floor, file));
    }
  } finally {
    await Deno.remove(file);
  }
  const criteria = judge(results);
  if (json) console.log(JSON.stringify({ criteria, rounds: results }, null, 2));
  else printTables(results, criteria);
}

function parseRounds(args: readonly string[]): number {
  const at = args.indexOf("--rounds");
  const rounds = at === -1 ? 5 : Number(args[at + 1]);
  if (Number.isInteger(rounds) && rounds >= 1) return rounds;
  console.error(`error: Cannot use --rounds ${args[at + 1]} as it is not a whole number above 0`);
  Deno.exit(2);
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

async function measureRound(floor: string, file: string): Promise<Round> {
  return {
    floor: JSON.parse(await run(floor, ["--file", file, "--seconds", SECONDS])),
    alone: await scale(file, "0", "on"),
    idle3200: await scale(file, "100", "on"),
    idle3200Kept: await scale(file, "100", "off"),
    idle16000: await scale(file, "500", "on"),
  };
}

/** One run of the command, as a user would start it, with 32 queues a device. */
async function scale(file: string, devices: string, removal: "on" | "off"): Promise<Run> {
  const options = { devices, removal, file, seconds: SECONDS, "idle-seconds": IDLE_SECONDS };
  const args = Object.entries(options).flatMap(([name, value]) => [`--${name}`, value]);
  const script = ["run", "-A", "src/cli/main.ts", "scale", "--json", ...args];
  return JSON.parse(await run(Deno.execPath(), script)).runs[0];
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
    head: ["", "IOPS", "µs per request"],
    colAligns: ["left", "right", "right"],
    style,
  });
  for (const name of ["floor", "alone", "idle3200", "idle3200Kept", "idle16000"] as const) {
    const iops = median(rounds.map((round) => round[name].iops));
    const us = median(rounds.map((round) => round[name].usPerRequest));
    runs.push([LABELS[name], Math.round(iops).toLocaleString("en-US"), us.toFixed(3)]);
  }
  const verdict = new Table({
    head: ["", "measured", "must", "aim", "met"],
    colAligns: ["left", "right", "right", "right", "left"],
    style,
  });
  for (const { what, measured, must, aim, met } of criteria) {
    verdict.push([what, measured.toPrecision(3), must, aim ?? "", met ? "yes" : "no"]);
  }
  console.log(`Medians of ${rounds.length} rounds\n${runs.toString()}\n${verdict.toString()}`);
}

const LABELS: Readonly<Record<keyof Round, string>> = {
  floor: "C floor",
  alone: "0 idle handlers",
  idle3200: "3,200 idle handlers, removal on",
  idle3200Kept: "3,200 idle handlers, removal off",
  idle16000: "16,000 idle handlers, removal on",
};

await main();
