/** The command `nbd` in a process of its own, for tests with clients of all kinds. */
import { assert } from "@std/assert";
import { AioContext } from "../mod.ts";
import { cliWords, FOLDER, type Result } from "./child.ts";
import { type Form, NbdClient } from "./nbd_client.ts";
import { newPath } from "./test_files.ts";

const ROOT = new URL("../", import.meta.url);
const TIME_LIMIT_MS = 60_000;

/** What the command says once it listens. */
export interface Listening {
  readonly pid: number;
  readonly uris: readonly string[];
  readonly exports: readonly Record<string, unknown>[];
  readonly fdmon: string;
  readonly threads: number;
}

let sockets = 0;

/** A path for a socket, short enough for one. */
export const newSocketPath = (): string => `${FOLDER}/nbd_${sockets++}.sock`;

/** Words before those of the command, such as a launcher. */
export interface StartOptions {
  readonly before?: readonly string[];
}

/** A server that listens. */
export class NbdProcess implements AsyncDisposable {
  readonly listening: Listening;
  readonly #child: Deno.ChildProcess;
  readonly #lines: AsyncIterator<string>;
  readonly #stderr: Promise<string>;
  #ended: Promise<Result> | null = null;

  private constructor(
    listening: Listening,
    child: Deno.ChildProcess,
    lines: AsyncIterator<string>,
    stderr: Promise<string>,
  ) {
    this.listening = listening;
    this.#child = child;
    this.#lines = lines;
    this.#stderr = stderr;
  }

  /** Starts the command with `--json`, and waits until it listens. */
  static async start(args: readonly string[], options: StartOptions = {}): Promise<NbdProcess> {
    const { before = [] } = options;
    const [program, ...words] = [...before, ...cliWords(["nbd", "--json", ...args])];
    // With nothing in between, it does not outlive a test that fails: Deno ends its children.
    const child = new Deno.Command(program, {
      args: words,
      cwd: ROOT,
      env: { NO_COLOR: "1", DENO_NO_UPDATE_CHECK: "1" },
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const limit = setTimeout(() => child.kill("SIGKILL"), TIME_LIMIT_MS);
    child.status.finally(() => clearTimeout(limit));
    const stderr = new Response(child.stderr).text();
    const lines = linesOf(child.stdout);
    const { value, done } = await lines.next();
    if (done) {
      await child.status;
      throw new Error(`nbd has not begun to listen: ${await stderr}`);
    }
    return new NbdProcess(JSON.parse(value), child, lines, stderr);
  }

  /** Where its first socket is. */
  get uri(): string {
    return this.listening.uris[0];
  }

  kill(signal: Deno.Signal): void {
    Deno.kill(this.listening.pid, signal);
  }

  /** The next line of JSON; null where there is none any more. */
  async line(): Promise<Record<string, unknown> | null> {
    const { value, done } = await this.#lines.next();
    return done ? null : JSON.parse(value);
  }

  /** Has it tell its counters. */
  async stats(): Promise<Record<string, unknown>> {
    this.kill("SIGUSR1");
    return (await this.line())!;
  }

  /** Waits for the end. */
  ended(): Promise<Result> {
    return this.#ended ??= (async () => {
      const rest: string[] = [];
      for (let line; (line = await this.#lines.next(), !line.done);) rest.push(line.value);
      const [{ code }, stderr] = [await this.#child.status, await this.#stderr];
      return { code, stdout: rest.join("\n"), stderr };
    })();
  }

  /** Ends it in good order. */
  stop(signal: Deno.Signal = "SIGTERM"): Promise<Result> {
    if (this.#ended === null) this.kill(signal);
    return this.ended();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }
}

/** Runs a function with a client's context. */
export async function withContext(task: (ctx: AioContext) => Promise<void>): Promise<void> {
  using ctx = new AioContext();
  await ctx.run(() => task(ctx));
}

/** Connects to a server's first socket, which is a unix one. */
export function openClient(
  ctx: AioContext,
  { uri }: NbdProcess,
  name = "",
  form: Form = "structured",
): Promise<NbdClient> {
  const path = new URL(uri).searchParams.get("socket");
  assert(path !== null, uri);
  return NbdClient.open(ctx, { path }, form, name);
}

async function* linesOf(stream: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  let text = "";
  for await (const chunk of stream.pipeThrough(new TextDecoderStream() as never)) {
    const lines = (text + chunk).split("\n");
    text = lines.pop()!;
    yield* lines;
  }
}

/** A new file that is all hole. */
export function newImage(bytes = 1 << 20): string {
  const path = newPath();
  Deno.writeFileSync(path, new Uint8Array());
  Deno.truncateSync(path, bytes);
  return path;
}

/** Whether something has that name. */
export const isThere = (path: string): boolean => {
  try {
    Deno.lstatSync(path);
    return true;
  } catch {
    return false;
  }
};

/** Registers a test that needs programs of libnbd, or the system's Python. */
export function testWith(program: string, name: string, test: () => Promise<void>): void {
  const found = new Deno.Command("sh", { args: ["-c", `command -v ${program}`], stdout: "null" });
  const ignore = !found.outputSync().success;
  Deno.test({ name: ignore ? `${name} (skipped: no ${program})` : name, ignore, fn: test });
}
