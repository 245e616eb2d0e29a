/** The command `vhost-user-blk` in a process of its own, for tests and benchmarks. */
import { cliWords } from "./child.ts";

/** The command at work, until it is told to end. */
export class VhostCommand implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #lines: AsyncIterator<string>;
  readonly #stderr: Promise<string>;

  /** @param secondsMax it is killed after so long */
  constructor(args: readonly string[], secondsMax = 30) {
    const words = cliWords(["vhost-user-blk", "--json", ...args]);
    this.#child = new Deno.Command("timeout", {
      args: ["-k", "1", `${secondsMax}`, ...words],
      cwd: new URL("..", import.meta.url),
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
      env: { NO_COLOR: "1" },
    }).spawn();
    this.#lines = lines(this.#child.stdout);
    this.#stderr = new Response(this.#child.stderr).text();
  }

  /** The next line of JSON. */
  async next() {
    const { value, done } = await this.#lines.next();
    if (done) throw new Error(`the command has ended: ${await this.#stderr}`);
    return JSON.parse(value);
  }

  /** Waits for the end. */
  async end(): Promise<{ code: number; stderr: string }> {
    while (!(await this.#lines.next()).done);
    const { code } = await this.#child.status;
    return { code, stderr: await this.#stderr };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#child.kill("SIGTERM");
    } catch {
      // It has ended.
    }
    await this.end();
  }
}

async function* lines(stream: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  let text = "";
  for await (const chunk of stream) {
    text += new TextDecoder().decode(chunk);
    const whole = text.split("\n");
    text = whole.pop()!;
    yield* whole;
  }
}
