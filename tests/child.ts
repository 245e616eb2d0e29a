/**
 * Runs programs in processes of their own: what a test does to permissions, environment and limits
 * of a child never touches the process that tests.
 */

/** How a program ended and what it said. */
export interface Result {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Environment variables; to the project an empty one is as good as unset. */
export type Environment = Readonly<Record<string, string>>;

/** A folder for the files of the tests in this process, removed when it ends. */
export const FOLDER = Deno.makeTempDirSync({ prefix: "aio_test_" });
globalThis.addEventListener("unload", () => Deno.removeSync(FOLDER, { recursive: true }));

/** What takes longer hangs; it ends with code 124. */
const TIME_LIMIT_S = 60;

const ROOT = new URL("../", import.meta.url);

// A child with another home or cache folder still has to find what Deno has cached.
const { DENO_DIR, XDG_CACHE_HOME, HOME } = Deno.env.toObject();
const DENO_FOLDER = DENO_DIR || `${XDG_CACHE_HOME || `${HOME}/.cache`}/deno`;

/** A new folder inside `FOLDER`. */
export function newFolder(): string {
  return Deno.makeTempDirSync({ dir: FOLDER });
}

/** Runs a program in the folder of the project, without a terminal. */
export async function run(words: readonly string[], env: Environment = {}): Promise<Result> {
  const command = new Deno.Command("timeout", {
    args: [`${TIME_LIMIT_S}`, ...words],
    cwd: ROOT,
    stdin: "null",
    env: {
      NO_COLOR: "1",
      DENO_NO_UPDATE_CHECK: "1",
      DENO_DIR: DENO_FOLDER,
      AIO_CONTEXT_SHIM: "",
      AIO_CONTEXT_LIBURING: "",
      ...env,
    },
  });
  const { code, stdout, stderr } = await command.output();
  const decoder = new TextDecoder();
  return { code, stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) };
}

/** The words that run the command line interface. */
export function cliWords(args: readonly string[], permissions: readonly string[] = ["-A"]) {
  return [Deno.execPath(), "run", "--no-prompt", ...permissions, "src/cli/main.ts", ...args];
}

/** The words that run a program text. */
export function programWords(text: string, permissions: readonly string[] = ["-A"]): string[] {
  const path = Deno.makeTempFileSync({ dir: FOLDER, suffix: ".ts" });
  Deno.writeTextFileSync(path, text);
  return [Deno.execPath(), "run", "--no-prompt", "--config", "deno.json", ...permissions, path];
}

/** The line of a program text that imports from a module of the project. */
export function importLine(names: string, path: string): string {
  return `import { ${names} } from ${JSON.stringify(new URL(path, ROOT).href)};\n`;
}

/** The words that run a program after a shell command, such as `"ulimit -n 100"`. */
export function after(command: string, words: readonly string[]): string[] {
  return ["sh", "-c", `${command} && exec "$0" "$@"`, ...words];
}
