/**
 * The command `trace`: runs `scale`, or a user's module, and records what its contexts do.
 *
 * A module is imported, once every context that it makes here is sure to be observed. It may go on
 * for as long as it likes, so what there is to say is said when the process ends: at its own end,
 * by Deno.exit, or by an error. Results go to the standard output, all else to the standard error.
 */
import { pathToFileURL } from "node:url";
import { ExitCode, UsageError } from "./exit.ts";
import { whole } from "./scale_report.ts";
import { Recorder, type RecordingPlan } from "./trace_recorder.ts";
import { contexts, summaryTable } from "./trace_summary.ts";

/** Options as the user typed them. */
export interface TraceArguments {
  readonly output: string;
  readonly after: string;
  readonly seconds?: string;
  readonly summary?: boolean;
  readonly json?: boolean;
}

/** Longest recording, and longest time before it; the file is full long before. */
const SECONDS_MAX = 86_400;

/** Specifiers that are none of a file here. */
const REMOTE = /^(file|https?|jsr|npm|data):/;

/**
 * Runs the command.
 *
 * @param words what to trace, and the arguments for it
 * @param runScale runs the command `scale`
 * @returns the exit code; null where a module goes on
 */
export async function trace(
  args: TraceArguments,
  words: readonly string[],
  runScale: (args: readonly string[]) => Promise<number>,
): Promise<number | null> {
  const plan = readPlan(args, words);
  const [target, ...rest] = words;
  const module = target === "scale" ? null : findModule(target);
  const recorder = new Recorder(plan);
  const { log } = console;
  // The standard output is the summary's alone; programs read it.
  if (args.json === true) console.log = console.error;
  const end = () => {
    recorder.end();
    console.log = log;
  };
  if (module !== null) {
    await start(module, rest, recorder, () => {
      end();
      return tell(recorder, plan, args);
    });
    return null;
  }
  let exitCode: number;
  try {
    exitCode = await runScale(rest);
  } finally {
    end();
  }
  return exitCode === ExitCode.ok ? tell(recorder, plan, args) : exitCode;
}

/** Runs a module with arguments of its own; `finish` is called when the process ends. */
async function start(
  module: string,
  args: readonly string[],
  recorder: Recorder,
  finish: () => number,
): Promise<void> {
  Object.defineProperty(Deno, "args", { value: Object.freeze(args) });
  globalThis.addEventListener("unload", () => {
    // Whatever exit code the module has chosen stays, but for success.
    const exitCode = finish();
    if (exitCode !== ExitCode.ok) Deno.exitCode ||= exitCode;
  });
  // An end by error is heard of here alone; it is reported as it would be without us. Or the module
  // handles it and goes on, so this need not be the end.
  for (const name of ["error", "unhandledrejection"]) {
    globalThis.addEventListener(name, () => recorder.save());
  }
  await import(module);
}

function readPlan(args: TraceArguments, words: readonly string[]): RecordingPlan {
  requireFileName(args.output);
  return {
    path: args.output,
    program: words.join(" "),
    afterSeconds: seconds("--after", args.after),
    seconds: args.seconds === undefined ? Infinity : seconds("--seconds", args.seconds),
  };
}

function requireFileName(path: string): void {
  const slash = path.lastIndexOf("/");
  if (slash === path.length - 1) {
    throw new UsageError(`Cannot use --output "${path}" as it is not the name of a file`);
  }
  const folder = slash === -1 ? "." : path.slice(0, slash + 1);
  if (!isKind(folder, "isDirectory")) {
    throw new UsageError(`Cannot use --output ${path} as its folder does not exist`);
  }
  if (isKind(path, "isDirectory")) {
    throw new UsageError(`Cannot use --output ${path} as it is a folder`);
  }
}

function seconds(option: string, text: string): number {
  const value = /^(\d+\.?\d*|\.\d+)$/.test(text) ? Number(text) : NaN;
  if (value <= SECONDS_MAX) return value;
  throw new UsageError(
    `Cannot use ${option} ${text} as it is not a number of seconds up to ${SECONDS_MAX}`,
  );
}

/** The specifier of a module that the user has named by its path or as Deno does. */
function findModule(name: string): string {
  if (REMOTE.test(name)) return name;
  if (!isKind(name, "isFile")) {
    throw new UsageError(`Cannot trace ${name || '""'} as it is neither scale nor a file`);
  }
  return pathToFileURL(name).href;
}

function isKind(path: string, kind: "isFile" | "isDirectory"): boolean {
  try {
    return Deno.statSync(path)[kind];
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    if (error instanceof Deno.errors.NotADirectory) return false;
    throw error;
  }
}

/** Says what was recorded, and why it is less than all where it is; returns the exit code. */
function tell(recorder: Recorder, plan: RecordingPlan, args: TraceArguments): number {
  const { summary, events, failure, fullAfterSeconds } = recorder;
  if (failure !== null) {
    const reason = failure instanceof Error ? failure.message : String(failure);
    console.error(`error: Cannot write --output ${plan.path} as ${reason}`);
    return ExitCode.failure;
  }
  const report = summary.report();
  if (report.contexts === 0) {
    console.error(
      "Nothing was recorded as no AioContext was made: only those that are made in this thread, " +
        "from the library this command belongs to, can be traced.",
    );
    return ExitCode.failure;
  }
  if (fullAfterSeconds !== null) {
    console.error(
      `The trace ends after ${fullAfterSeconds.toFixed(3)} s as no more than ${whole(events)} ` +
        "events are kept: --after and --seconds choose others. The summary counts all.",
    );
  }
  if (args.json === true) {
    const limitReached = fullAfterSeconds !== null;
    console.log(JSON.stringify({ file: plan.path, events, limitReached, ...report }));
    return ExitCode.ok;
  }
  if (args.summary === true) console.log(summaryTable(report));
  console.log(
    `Trace: ${plan.path}, ${whole(events)} events of ${contexts(report)}; ` +
      "https://ui.perfetto.dev opens it.",
  );
  return ExitCode.ok;
}
