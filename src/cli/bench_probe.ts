/**
 * Where the figures of the command `bench` come from: processes that can be asked again and again.
 *
 * Ours are children that stay (bench_child.ts); the floors are C programs, compiled from the folder
 * bench/ of a checkout, that run anew each time, or stay where they have connections. A package from a registry has no such folder, and
 * a machine may have no compiler: then there are no floors, and the reason is kept for the table.
 */
import type { Figures } from "./bench_child.ts";
import { CommandError } from "./exit.ts";

/** Something that can be measured more than once. */
export interface Probe extends AsyncDisposable {
  measure(): Promise<Figures>;
}

/** A child process that stays: it says "ready", then a line of JSON for each line it gets. */
export class ChildProbe implements Probe {
  readonly #process: Deno.ChildProcess;
  readonly #writer: WritableStreamDefaultWriter<Uint8Array<ArrayBuffer>>;
  readonly #lines: ReadableStreamDefaultReader<string>;
  readonly #errors: Promise<string>;
  #rest = "";

  private constructor(program: string, args: readonly string[]) {
    this.#process = new Deno.Command(program, {
      args: [...args],
      // A line of what it says may end up in the table.
      env: { NO_COLOR: "1" },
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    this.#writer = this.#process.stdin.getWriter();
    this.#lines = this.#process.stdout.pipeThrough(new TextDecoderStream()).getReader();
    this.#errors = new Response(this.#process.stderr).text();
  }

  /** Starts a measurement of bench_child.ts and waits until it is set up. */
  static start(...args: string[]): Promise<ChildProbe> {
    const words = ["run", "-A", "--v8-flags=--expose-gc", CHILD, ...args];
    return ChildProbe.startProgram(Deno.execPath(), ...words);
  }

  /** Starts another program of this kind. */
  static async startProgram(program: string, ...args: string[]): Promise<ChildProbe> {
    const probe = new ChildProbe(program, args);
    await probe.#line();
    return probe;
  }

  async measure(): Promise<Figures> {
    // One that has ended says why on its standard error.
    await this.#writer.write(new TextEncoder().encode("\n")).catch(() => {});
    return JSON.parse(await this.#line());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#writer.close().catch(() => {});
    await this.#lines.cancel();
    await this.#errors;
    await this.#process.status;
  }

  async #line(): Promise<string> {
    while (!this.#rest.includes("\n")) {
      const { value, done } = await this.#lines.read();
      if (done) throw new CommandError(`Cannot measure as ${reasonIn(await this.#errors)}`);
      this.#rest += value;
    }
    const end = this.#rest.indexOf("\n");
    const line = this.#rest.slice(0, end);
    this.#rest = this.#rest.slice(end + 1);
    return line;
  }
}

/** A program that prints its figures as JSON, or whose whole time is the figure, in ms. */
export class ProgramProbe implements Probe {
  readonly #words: readonly string[];
  readonly #timed: boolean;

  constructor(words: readonly string[], timed = false) {
    this.#words = words;
    this.#timed = timed;
  }

  async measure(): Promise<Figures> {
    const [program, ...args] = this.#words;
    const startMs = performance.now();
    const { success, stdout, stderr } = await new Deno.Command(program, { args }).output();
    const value = performance.now() - startMs;
    const decoder = new TextDecoder();
    if (!success) throw new CommandError(`Cannot measure as ${reasonIn(decoder.decode(stderr))}`);
    return this.#timed ? { value } : JSON.parse(decoder.decode(stdout));
  }

  async [Symbol.asyncDispose](): Promise<void> {}
}

const CHILD = new URL("bench_child.ts", import.meta.url).href;

/** The folder of the C floors; null outside a checkout. */
function floorFolder(): string | null {
  if (!import.meta.url.startsWith("file:")) return null;
  const folder = new URL("../../bench/", import.meta.url).pathname;
  try {
    return Deno.statSync(`${folder}floor.c`).isFile ? folder : null;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
}

/**
 * Compiles C files of the folder bench/.
 *
 * @param output name of what comes out
 * @param libraries options that link libraries, which have to come last
 * @throws {CommandError} where there is no checkout, no compiler or not the header of a library
 */
export async function compileFloor(
  output: string,
  sources: readonly string[],
  flags: readonly string[] = [],
  libraries: readonly string[] = [],
): Promise<string> {
  const folder = floorFolder();
  if (folder === null) {
    throw new CommandError("the C floors are in a checkout of the project and not in the package");
  }
  await Deno.mkdir(`${folder}build`, { recursive: true });
  const path = `${folder}build/${output}`;
  const files = sources.map((source) => folder + source);
  const args = [
    "-O2",
    "-Wall",
    "-Wextra",
    "-pthread",
    ...flags,
    "-o",
    path,
    ...files,
    ...libraries,
  ];
  try {
    const { success, stderr } = await new Deno.Command("cc", { args }).output();
    if (success) return path;
    const errors = new TextDecoder().decode(stderr);
    if (errors.includes("liburing.h: No such file")) throw new CommandError(missing("liburing.h"));
    throw new CommandError(reasonIn(errors));
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    throw new CommandError(missing("C compiler"));
  }
}

/** Says what is not there, and how to get it. */
export function missing(what: string): string {
  return `there is no ${what}: run the command setup --for bench`;
}

/** The line of a failed program's errors that says what happened. */
export function reasonIn(errors: string): string {
  const lines = errors.split("\n").map((line) => line.trim()).filter((line) => line !== "");
  return lines.find((line) => /error/i.test(line)) ?? lines[0] ?? "a process of it has ended";
}
