/**
 * Does our NBD server keep up with qemu-nbd and nbdkit?
 *
 * All servers are started first on the same file, which is in the page cache, and then asked in
 * turn, round after round, each round beginning with another one, so that a slow second of the
 * machine falls on all alike. What a row is compared with is the peer with the better median; the
 * ratio is taken within each round, and its median shown. A peer that is not installed is left out,
 * and the table says how to get it.
 *
 * Run with: deno run -A bench/nbd_compare.ts [--rounds 5] [--runtime 2] [--only depth-1,copy] [--json]
 */
import { parseArgs, styleText } from "node:util";
import Table from "cli-table3";
import { CommandError, ExitCode, UsageError } from "../src/cli/exit.ts";
import { describeMachine, machineLine, ProgressLine } from "../src/cli/scale_report.ts";
import {
  copyGBps,
  fioIops,
  type FioLoad,
  nbdkit,
  ours,
  qemuNbd,
  RunningServer,
  type ServerKind,
} from "./nbd_servers.ts";
import { median } from "../src/cli/median.ts";

const FILE_BYTES = 2 ** 30, IDLE = 1000, MB = 1e6;
const ROUNDS_MAX = 1000, RUNTIME_MAX_S = 3600;

const OURS = ours("ours"), OURS_DIRECT = ours("ours, direct", "--direct");
const OURS_THREADS = ours("ours, 2 threads", "--threads", "2");
const OURS_IDLE = ours("ours, beside 1,000 idle connections");
const QEMU = qemuNbd("qemu-nbd", "writeback"), QEMU_DIRECT = qemuNbd("qemu-nbd, direct", "none");
const NBDKIT = nbdkit("nbdkit");

/** Servers that have idle connections all the time. */
const WITH_IDLE: ReadonlySet<ServerKind> = new Set([OURS_IDLE]);

type Measure = (server: RunningServer, runtimeMs: number) => Promise<number>;

/** A line of the table. */
interface Row {
  readonly name: string;
  readonly what: string;
  readonly unit: string;
  readonly ours: ServerKind;
  /** What it is compared with; where there is nothing it is judged by itself. */
  readonly peers: readonly ServerKind[];
  readonly measure: Measure;
  readonly better: "more" | "less";
  readonly must: number;
  readonly aim: number;
}

const reads = (load: Pick<FioLoad, "depth" | "jobs">): Measure => (server, runtimeMs) =>
  fioIops(server, { ...load, runtimeMs, fileBytes: FILE_BYTES });

const CACHED = [QEMU, NBDKIT];
const IOPS = { unit: "IOPS", better: "more" } as const;

const ROWS: readonly Row[] = [
  {
    ...IOPS,
    name: "depth-1",
    what: "4 KiB random reads one by one",
    ours: OURS,
    peers: CACHED,
    measure: reads({ depth: 1, jobs: 1 }),
    must: 1,
    aim: 1.3,
  },
  {
    ...IOPS,
    name: "depth-32",
    what: "32 in flight on a connection",
    ours: OURS,
    peers: CACHED,
    measure: reads({ depth: 32, jobs: 1 }),
    must: 0.9,
    aim: 1.2,
  },
  {
    ...IOPS,
    name: "connections",
    what: "4 connections of 32, ours with 2 threads",
    ours: OURS_THREADS,
    peers: CACHED,
    measure: reads({ depth: 32, jobs: 4 }),
    must: 0.9,
    aim: 1.2,
  },
  {
    name: "copy",
    what: "nbdcopy of 1 GiB out, ours with 2 threads",
    unit: "GB/s",
    better: "more",
    ours: OURS_THREADS,
    peers: CACHED,
    measure: (server) => copyGBps(server, FILE_BYTES),
    must: 0.9,
    aim: 1.1,
  },
  {
    ...IOPS,
    name: "direct-1",
    what: "past the page cache, one by one",
    ours: OURS_DIRECT,
    peers: [QEMU_DIRECT],
    measure: reads({ depth: 1, jobs: 1 }),
    must: 1,
    aim: 1.2,
  },
  {
    ...IOPS,
    name: "direct-32",
    what: "past the page cache, 32 in flight",
    ours: OURS_DIRECT,
    peers: [QEMU_DIRECT],
    measure: reads({ depth: 32, jobs: 1 }),
    must: 1,
    aim: 1.2,
  },
  {
    ...IOPS,
    name: "idle",
    what: "one by one beside 1,000 idle connections / without",
    ours: OURS_IDLE,
    peers: [OURS],
    measure: reads({ depth: 1, jobs: 1 }),
    must: 0.95,
    aim: 1,
  },
  {
    name: "memory",
    what: "resident with 1,000 idle connections",
    unit: "MB",
    better: "less",
    ours: OURS_IDLE,
    peers: [],
    measure: (server) => Promise.resolve(server.residentBytes() / MB),
    must: 200,
    aim: 120,
  },
];

const NAMES = ROWS.map(({ name }) => name);

/** What was found out of a server in a row: a figure of each round, or why there is none. */
type Found = number[] | string;

/** A measured row; the form in which `--json` prints it. */
interface Result {
  readonly name: string;
  readonly unit: string;
  readonly ours: number | null;
  /** Medians by name. */
  readonly peers: Readonly<Record<string, number | null>>;
  /** To the better of the peers. */
  readonly ratio: number | null;
  readonly must: number;
  readonly aim: number;
  /** null where it could not be measured. */
  readonly met: boolean | null;
  readonly aimMet: boolean | null;
  /** Why figures are missing. */
  readonly reasons: readonly string[];
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      rounds: { type: "string", default: "5" },
      runtime: { type: "string", default: "2" },
      only: { type: "string" },
      json: { type: "boolean" },
    },
  });
  const rounds = parseNumber("rounds", values.rounds, /^\d+$/, 1, ROUNDS_MAX);
  const runtime = parseNumber("runtime", values.runtime, /^\d+(\.\d+)?$/, 0.1, RUNTIME_MAX_S);
  const rows = selectRows(values.only);
  const found = await measureRows(rows, rounds, runtime * 1000);
  const results = rows.map((row) => evaluate(row, found.get(row)!));
  if (values.json) {
    console.log(JSON.stringify({ machine: describeMachine(), rounds, rows: results }, null, 2));
    return;
  }
  console.log(`${machineLine(describeMachine())}\nMedians of ${rounds} rounds of ${runtime} s`);
  console.log(table(rows, results));
  for (const reason of new Set(results.flatMap(({ reasons }) => reasons))) console.log(reason);
}

function parseNumber(name: string, text: string, form: RegExp, min: number, max: number): number {
  const value = Number(text);
  if (form.test(text) && value >= min && value <= max) return value;
  throw new UsageError(`Cannot use --${name} ${text} as it is not a number from ${min} to ${max}`);
}

function selectRows(only: string | undefined): readonly Row[] {
  if (only === undefined) return ROWS;
  const names = only.split(",").map((name) => name.trim());
  const unknown = names.find((name) => !NAMES.includes(name));
  if (unknown === undefined) return ROWS.filter(({ name }) => names.includes(name));
  throw new UsageError(
    `Cannot use --only ${only} as "${unknown}" is not one of ${NAMES.join(", ")}`,
  );
}

async function measureRows(
  rows: readonly Row[],
  rounds: number,
  runtimeMs: number,
): Promise<Map<Row, Map<ServerKind, Found>>> {
  await using stack = new AsyncDisposableStack();
  const progress = new ProgressLine();
  stack.defer(() => progress.end());
  progress.show("writing a file of 1 GiB");
  const folder = Deno.makeTempDirSync({ prefix: "nbd_compare_" });
  stack.defer(() => Deno.remove(folder, { recursive: true }));
  const path = `${folder}/disk.img`;
  writeFile(path);
  const servers = new Map<ServerKind, RunningServer | string>();
  for (const kind of new Set(rows.flatMap((row) => [row.ours, ...row.peers]))) {
    progress.show(`starting ${kind.name}`);
    servers.set(kind, await startServer(kind, path, stack));
  }
  const found = new Map(rows.map((row) => [row, new Map<ServerKind, Found>()]));
  for (let round = 0; round < rounds; round++) {
    for (const row of rows) {
      progress.show(`round ${round + 1} of ${rounds}: ${row.name}`);
      const kinds = [row.ours, ...row.peers];
      // The one that begins differs from round to round.
      const turn = kinds.map((_, index) => kinds[(index + round) % kinds.length]);
      for (const kind of turn) {
        await measureOnce(row, kind, servers.get(kind)!, found.get(row)!, runtimeMs);
      }
    }
  }
  return found;
}

/** Not sparse, in the page cache and on the disk, so that nothing is written back later. */
function writeFile(path: string): void {
  using file = Deno.openSync(path, { write: true, createNew: true });
  const part = new Uint8Array(2 ** 20);
  for (let at = 0; at < part.length; at += 65_536) {
    crypto.getRandomValues(part.subarray(at, at + 65_536));
  }
  for (let done = 0; done < FILE_BYTES;) done += file.writeSync(part);
  file.syncSync();
}

/** Starts one and has it compile its code; says why where that is not possible. */
async function startServer(
  kind: ServerKind,
  path: string,
  stack: AsyncDisposableStack,
): Promise<RunningServer | string> {
  try {
    const server = stack.use(await RunningServer.start(kind, path));
    if (WITH_IDLE.has(kind)) stack.use(await server.connectIdle(IDLE));
    await fioIops(server, { depth: 4, jobs: 2, runtimeMs: 1000, fileBytes: FILE_BYTES });
    return server;
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    return error.message;
  }
}

async function measureOnce(
  row: Row,
  kind: ServerKind,
  server: RunningServer | string,
  found: Map<ServerKind, Found>,
  runtimeMs: number,
): Promise<void> {
  const before = found.get(kind) ?? [];
  if (typeof before === "string") return;
  try {
    if (typeof server === "string") throw new CommandError(server);
    before.push(await row.measure(server, runtimeMs));
    found.set(kind, before);
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    found.set(kind, error.message);
  }
}

function evaluate(row: Row, found: ReadonlyMap<ServerKind, Found>): Result {
  const figuresOf = (kind: ServerKind) => {
    const figures = found.get(kind)!;
    return typeof figures === "string" ? null : figures;
  };
  const ours = figuresOf(row.ours);
  const peers = row.peers.map((kind) => ({ kind, figures: figuresOf(kind) }));
  const best = peers.reduce<readonly number[] | null>(
    (best, { figures }) => (median(figures) ?? 0) > (median(best) ?? 0) ? figures : best,
    null,
  );
  const ratios = ours === null || best === null
    ? null
    : ours.map((figure, round) => figure / best[round]);
  const ratio = median(ratios);
  const judged = row.peers.length === 0 ? median(ours) : ratio;
  const reaches = (limit: number) =>
    judged === null ? null : row.better === "less" ? judged <= limit : judged >= limit;
  return {
    name: row.name,
    unit: row.unit,
    ours: median(ours),
    peers: Object.fromEntries(peers.map(({ kind, figures }) => [kind.name, median(figures)])),
    ratio,
    must: row.must,
    aim: row.aim,
    met: reaches(row.must),
    aimMet: reaches(row.aim),
    reasons: [...found.values()].filter((one) => typeof one === "string"),
  };
}

function table(rows: readonly Row[], results: readonly Result[]): string {
  const shown = new Table({
    head: ["", "", "ours", "qemu-nbd", "nbdkit", "unit", "ratio", "must", "aim", "met"],
    colAligns: [
      ...["left", "left", "right", "right", "right", "left", "right", "right", "right", "left"],
    ] as Table.HorizontalAlignment[],
    style: { head: [], border: [], compact: true },
  });
  for (const [index, result] of results.entries()) {
    const { what, better } = rows[index];
    const { name, ours, peers, unit, ratio, must, aim, met } = result;
    shown.push([
      name,
      what,
      show(ours),
      show(peers[QEMU.name] ?? peers[QEMU_DIRECT.name] ?? null),
      show(peers[NBDKIT.name] ?? null),
      unit,
      show(ratio),
      `${better === "less" ? "≤" : "≥"} ${must}`,
      String(aim),
      met === null ? "?" : met ? result.aimMet ? "yes, aim too" : "yes" : paint("no"),
    ]);
  }
  return shown.toString();
}

/** Three digits, or all of a large number. */
function show(value: number | null): string {
  if (value === null) return "";
  if (value >= 1000) return Math.round(value).toLocaleString("en-US");
  return String(Number(value.toPrecision(3)));
}

function paint(text: string): string {
  return Deno.stdout.isTerminal() && !Deno.noColor ? styleText("red", text) : text;
}

try {
  await main();
  Deno.exit(ExitCode.ok);
} catch (error) {
  const usage = error instanceof UsageError || error instanceof TypeError && "code" in error;
  if (!usage && !(error instanceof CommandError)) throw error;
  console.error(`error: ${(error as Error).message}`);
  Deno.exit(usage ? ExitCode.usage : ExitCode.failure);
}
