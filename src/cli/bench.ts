/**
 * The command `bench`: what does the loop cost on this machine, and is that what it should be?
 *
 * All processes are set up first and then measured in turn, round after round, so that a slow
 * second of the machine falls on all alike. A ratio is taken within each round; what is shown is
 * the median of the rounds. A row that cannot be measured here says why and does not end the others.
 */
import { styleText } from "node:util";
import Table from "cli-table3";
import { BENCH_ROWS, type BenchRow, type Figure, type Source } from "./bench_rows.ts";
import type { Figures } from "./bench_child.ts";
import type { Probe } from "./bench_probe.ts";
import { CommandError, ExitCode, UsageError } from "./exit.ts";
import { openBlockFile } from "./scale_file.ts";
import { describeMachine, machineLine, ProgressLine } from "./scale_report.ts";
import { median } from "./median.ts";

const ROUNDS_MAX = 1000;
/** Bytes of a request; see PLAN in bench_rows.ts. */
const BLOCK_SIZE = 4096;

/** Options as the user typed them. */
export interface BenchArguments {
  readonly only?: string;
  readonly rounds: string;
  readonly file?: string;
  readonly json?: boolean;
}

/** A measured row; the form in which `--json` prints it. */
export interface BenchResult {
  readonly name: string;
  readonly unit: string;
  readonly ours: number | null;
  /** What ours is compared with. */
  readonly floor: number | null;
  readonly ratio: number | null;
  readonly must: number;
  readonly aim: number | null;
  /** null where it could not be measured. */
  readonly met: boolean | null;
}

/** Names that `--only` takes. */
export const BENCH_NAMES: readonly string[] = BENCH_ROWS.map(({ name }) => name);

/** What was found out: figures of each source round by round, or why there are none. */
type Measured = Map<Source, Figures[] | string>;

/** Runs the command; returns the exit code. */
export async function bench(args: BenchArguments): Promise<number> {
  const rows = selectRows(args.only);
  const rounds = parseRounds(args.rounds);
  const measured = await measureRows(rows, rounds, args.file);
  const results = rows.map((row) => evaluate(row, measured));
  const machine = describeMachine();
  if (args.json === true) {
    console.log(JSON.stringify({ machine, rows: results }, null, 2));
  } else {
    console.log(`${machineLine(machine)}\nMedians of ${rounds} rounds`);
    console.log(table(rows, results));
    for (const reason of reasons(rows, measured)) console.log(reason);
  }
  return ExitCode.ok;
}

function selectRows(only: string | undefined): readonly BenchRow[] {
  if (only === undefined) return BENCH_ROWS;
  const names = only.split(",").map((name) => name.trim());
  for (const name of names) {
    if (BENCH_NAMES.includes(name)) continue;
    throw new UsageError(
      `Cannot use --only ${only} as "${name}" is not one of ${BENCH_NAMES.join(", ")}`,
    );
  }
  return BENCH_ROWS.filter(({ name }) => names.includes(name));
}

function parseRounds(text: string): number {
  const rounds = Number(text);
  if (/^\d+$/.test(text) && rounds >= 1 && rounds <= ROUNDS_MAX) return rounds;
  throw new UsageError(
    `Cannot use --rounds ${text} as it is not a whole number from 1 to ${ROUNDS_MAX}`,
  );
}

async function measureRows(
  rows: readonly BenchRow[],
  rounds: number,
  given: string | undefined,
): Promise<Measured> {
  const sources = new Set(
    rows.flatMap(({ ours, beside }) => beside === undefined ? [ours] : [beside, ours])
      .map(({ source }) => source),
  );
  const progress = new ProgressLine();
  const measured: Measured = new Map();
  await using stack = new AsyncDisposableStack();
  stack.defer(() => progress.end());
  const file = stack.use(openBlockFile(given, BLOCK_SIZE));
  // A temporary file has no name any more; the other processes find it with its owner.
  const path = `/proc/${Deno.pid}/fd/${file.fd}`;
  const probes = new Map<Source, Probe>();
  for (const source of sources) {
    progress.show(`setting up: ${source.label}`);
    try {
      probes.set(source, stack.use(await source.start(path)));
      measured.set(source, []);
    } catch (error) {
      if (!(error instanceof CommandError)) throw error;
      measured.set(source, error.message);
    }
  }
  for (let round = 1; round <= rounds; round++) {
    progress.show(`round ${round} of ${rounds}`);
    for (const [source, probe] of probes) {
      progress.update(`round ${round} of ${rounds}: ${source.label}`);
      try {
        (measured.get(source) as Figures[]).push(await probe.measure());
      } catch (error) {
        if (!(error instanceof CommandError)) throw error;
        measured.set(source, error.message);
        probes.delete(source);
      }
    }
  }
  return measured;
}

function evaluate(row: BenchRow, measured: Measured): BenchResult {
  const { name, unit, better, must, aim } = row;
  const ours = figuresOf(row.ours, measured);
  const beside = row.beside === undefined ? null : figuresOf(row.beside, measured);
  const ratios = ours === null || beside === null
    ? null
    : ours.map((one, round) => one / beside[round]);
  const judged = row.beside === undefined || row.judged === "ours" ? ours : ratios;
  const figure = median(judged);
  return {
    name,
    unit,
    ours: median(ours),
    floor: median(beside),
    ratio: median(ratios),
    must,
    aim,
    met: figure === null ? null : better === "less" ? figure <= must : figure >= must,
  };
}

function figuresOf({ source, name }: Figure, measured: Measured): number[] | null {
  const figures = measured.get(source)!;
  return typeof figures === "string" ? null : figures.map((figure) => figure[name]);
}

/** Why rows have no figures, each reason once. */
function reasons(rows: readonly BenchRow[], measured: Measured): Set<string> {
  const found = new Set<string>();
  for (const { name, ours, beside } of rows) {
    for (const figure of beside === undefined ? [ours] : [ours, beside]) {
      const figures = measured.get(figure.source)!;
      if (typeof figures === "string") found.add(`${name}: ${figures}`);
    }
  }
  return found;
}

function table(rows: readonly BenchRow[], results: readonly BenchResult[]): string {
  const shown = new Table({
    head: ["", "", "ours", "beside", "unit", "ratio", "must", "aim", "met"],
    colAligns: ["left", "left", "right", "right", "left", "right", "right", "right", "left"],
    style: { head: [], border: [], compact: true },
  });
  for (const [index, { name, ours, floor, unit, ratio, must, aim, met }] of results.entries()) {
    const { what, better } = rows[index];
    const sign = better === "less" ? "≤" : "≥";
    shown.push([
      name,
      what,
      show(ours),
      show(floor),
      unit,
      show(ratio),
      `${sign} ${must.toLocaleString("en-US")}`,
      aim?.toLocaleString("en-US") ?? "",
      met === null ? "?" : met ? "yes" : paint("no"),
    ]);
  }
  return shown.toString();
}

/** Three digits, or all of a large number. */
function show(value: number | null): string {
  if (value === null) return "";
  if (Math.abs(value) >= 1000) return Math.round(value).toLocaleString("en-US");
  return String(Number(value.toPrecision(3)));
}

function paint(text: string): string {
  return Deno.stdout.isTerminal() && !Deno.noColor ? styleText("red", text) : text;
}
