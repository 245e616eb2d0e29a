/**
 * The command `scale`, the project's main job: what does one busy device lose to idle ones?
 *
 * This file plans the measurements, runs them one after the other and hands the results on. The
 * options are checked in scale_options.ts, one measurement is made in scale_run.ts, and the table
 * and the chart are in scale_report.ts and scale_chart.ts. Results go to the standard output,
 * progress to the standard error.
 */
import { loadShim } from "../../ffi/library.ts";
import { CommandError, ExitCode, UsageError } from "./exit.ts";
import type { ChartKind } from "./scale_chart.ts";
import { openBlockFile } from "./scale_file.ts";
import { parseScaleOptions, type ScaleArguments, type ScaleOptions } from "./scale_options.ts";
import {
  conclusion,
  describeMachine,
  machineLine,
  Progress,
  type Report,
  table,
  workloadLine,
} from "./scale_report.ts";
import { measure, type Run } from "./scale_run.ts";
import { idleQueuesMax, measureVhost, type VhostRunPlan } from "./scale_vhost.ts";

/** Idle handlers of a sweep; one more step is as many as the limit allows. */
const SWEEP = [0, 100, 1000, 3200, 10_000];
const SWEEP_MAX = 100_000;
/** Files that are open beside the idle queues: ours, Deno's own and the backend's. */
const OPEN_FILES_MARGIN = 100;

/** Runs the command; returns the exit code. */
export async function scale(args: ScaleArguments): Promise<number> {
  const options = parseScaleOptions(args);
  const plans = planRuns(options, openFileLimit());
  if (options.svg !== undefined) requireFolderOf(options.svg);
  using file = openBlockFile(options.file, options.blockSize);
  const shim = loadShim();
  const progress = new Progress(plans.length);
  const runs: Run[] = [];
  for (const plan of plans) {
    const listener = progress.begin(plan);
    runs.push(
      options.vhost
        ? await measureVhost(plan, file, listener)
        : await measure(plan, shim, file, listener),
    );
  }
  progress.end();
  const report: Report = { machine: describeMachine(), runs };
  const heading = `${machineLine(report.machine)}\n${workloadLine(report, options)}`;
  if (options.json) console.log(JSON.stringify(report, null, 2));
  else console.log(`${heading}\n${table(report, options)}\n\n${conclusion(report)}`);
  if (options.svg !== undefined) {
    await writeChart(
      options.svg,
      report,
      options.idleHandlers === null ? "sweep" : "runs",
      heading,
    );
    if (!options.json) console.log(`Chart: ${options.svg}`);
  }
  return ExitCode.ok;
}

/** Each number of idle handlers with each kind of removal; fails when the limit is too low. */
function planRuns(options: ScaleOptions, openFiles: number): VhostRunPlan[] {
  const files = openFiles - OPEN_FILES_MARGIN;
  const most = options.vhost ? idleQueuesMax(files, options.queues) : files;
  const { idleHandlers } = options;
  if (idleHandlers !== null && idleHandlers > most) {
    throw new CommandError(
      `Cannot add ${idleHandlers} idle handlers as the limit of open files allows ${most}: ` +
        `${openFiles} (ulimit -n raises it)`,
    );
  }
  const counts = idleHandlers !== null ? [idleHandlers] : sweepCounts(openFiles, most);
  return counts.flatMap((idleHandlers) =>
    options.removals.map((removal) => ({ ...options, idleHandlers, removal }))
  );
}

function sweepCounts(openFiles: number, most: number): number[] {
  if (most < SWEEP_MAX) {
    console.error(
      `The sweep ends at ${Math.max(most, 0)} idle handlers instead of ${SWEEP_MAX}, ` +
        `as no more than ${openFiles} files can be open.`,
    );
  }
  const last = Math.max(Math.min(most, SWEEP_MAX), 0);
  return [...SWEEP.filter((count) => count < last), last];
}

/** The soft limit of open files. */
function openFileLimit(): number {
  const limits = Deno.readTextFileSync("/proc/self/limits");
  const limit = /^Max open files\s+(\S+)/m.exec(limits)?.[1];
  return limit === "unlimited" ? Infinity : Number(limit);
}

/** The chart is written last, so a folder that is not there has to be found out first. */
function requireFolderOf(path: string): void {
  const slash = path.lastIndexOf("/");
  const folder = slash === -1 ? "." : path.slice(0, slash + 1);
  try {
    if (Deno.statSync(folder).isDirectory) return;
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
  throw new UsageError(`Cannot use --svg ${path} as its folder does not exist`);
}

async function writeChart(
  path: string,
  report: Report,
  kind: ChartKind,
  subtitle: string,
): Promise<void> {
  const { drawChart } = await import("./scale_chart.ts");
  try {
    Deno.writeTextFileSync(path, drawChart(report, kind, subtitle));
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new CommandError(`Cannot write --svg ${path} as ${reason}`);
  }
}
