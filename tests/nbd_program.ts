/**
 * The command `nbd` as a process, and other people's programs that are its clients.
 *
 * Those come from Debian's packages, which `setup --for test` gets: one that is not there is a
 * failure with that word, and not a skip. Invariant: a server is asked to end with SIGTERM and has
 * to end with 0, unless the test has killed it.
 */
import { assert, assertEquals } from "@std/assert";
import type { FdmonName } from "../mod.ts";
import { cliWords, FOLDER, run } from "./child.ts";
import { newPath, pattern } from "./test_files.ts";

export const KIB = 1024, MIB = 1024 ** 2;

/** The python that has libnbd's module: another one may come first in PATH. */
const PYTHON = "/usr/bin/python3";
const START_MS = 20_000, END_MS = 20_000, LOOK_MS = 5;

let servers = 0;

/** A process that serves at a unix socket. */
export class NbdProgram implements AsyncDisposable {
  readonly socketPath: string;
  readonly pid: number;
  readonly #process: Deno.ChildProcess;
  readonly #errors: Promise<string>;
  #ended: Promise<void> | null = null;

  private constructor(words: (socketPath: string) => readonly string[]) {
    this.socketPath = `${FOLDER}/nbd${++servers}`;
    const [program, ...args] = words(this.socketPath);
    const options = { args, cwd: new URL("../", import.meta.url), env: { NO_COLOR: "1" } };
    this.#process = new Deno.Command(program, {
      ...options,
      ...{ stdin: "null", stdout: "null", stderr: "piped" },
    }).spawn();
    this.pid = this.#process.pid;
    this.#errors = new Response(this.#process.stderr).text();
  }

  /** Serves files, with options of the command `nbd` among them. */
  static start(fdmon: FdmonName, ...args: readonly string[]): Promise<NbdProgram> {
    return NbdProgram.startProgram((socketPath) =>
      cliWords(["nbd", "--fdmon", fdmon, "--socket", socketPath, ...args])
    );
  }

  /** Starts another program that serves at a socket. */
  static async startProgram(words: (socketPath: string) => readonly string[]): Promise<NbdProgram> {
    const server = new NbdProgram(words);
    try {
      await server.#listening();
      return server;
    } catch (error) {
      await server.kill();
      throw error;
    }
  }

  async #listening(): Promise<void> {
    let ended = false;
    void this.#process.status.then(() => ended = true);
    const endMs = performance.now() + START_MS;
    while (!await this.#takesConnections()) {
      assert(!ended, `a server has ended at once: ${ended ? await this.#errors : ""}`);
      assert(performance.now() < endMs, "a server does not listen");
      await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
    }
  }

  async #takesConnections(): Promise<boolean> {
    try {
      (await this.connect()).close();
      return true;
    } catch (error) {
      const notYet = error instanceof Deno.errors.NotFound ||
        error instanceof Deno.errors.ConnectionRefused;
      if (!notYet) throw error;
      return false;
    }
  }

  /** A connection on which nothing has been said. */
  connect(): Promise<Deno.UnixConn> {
    return Deno.connect({ transport: "unix", path: this.socketPath });
  }

  /** The URI of an export; of the default one where there is no name. */
  uri(name = ""): string {
    return `nbd+unix:///${encodeURIComponent(name)}?socket=${this.socketPath}`;
  }

  /** Fds that it has open. */
  countFds(): number {
    return [...Deno.readDirSync(`/proc/${this.pid}/fd`)].length;
  }

  /** Bytes of memory that it has in the machine. */
  residentBytes(): number {
    const status = Deno.readTextFileSync(`/proc/${this.pid}/status`);
    return Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)![1]) * KIB;
  }

  /** Ends it as a user would; it has to end well. */
  stop(): Promise<void> {
    return this.#ended ??= this.#stop();
  }

  async #stop(): Promise<void> {
    this.#process.kill("SIGTERM");
    const watchdog = setTimeout(() => this.#process.kill("SIGKILL"), END_MS);
    const { code, signal } = await this.#process.status;
    clearTimeout(watchdog);
    const errors = await this.#errors;
    assertEquals({ code, signal }, { code: 0, signal: null }, `a server has said:\n${errors}`);
  }

  /** Ends it without asking. */
  kill(): Promise<void> {
    return this.#ended ??= this.#kill();
  }

  async #kill(): Promise<void> {
    try {
      this.#process.kill("SIGKILL");
    } catch {
      // It has ended already.
    }
    await this.#process.status;
    await this.#errors;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }
}

/** Runs a client; returns what it has printed. */
export async function client(...words: readonly string[]): Promise<string> {
  const { code, stdout, stderr } = await run(words);
  assert(code !== 127, `there is no ${words[0]}: run the command setup --for test\n${stderr}`);
  // A word that is a whole program says too little for its length.
  const shown = words.map((word) => word.length < 200 ? word : "...").join(" ");
  assertEquals(code, 0, `${shown}\n${stdout}${stderr}`);
  return stdout;
}

/** What every program of python begins with. */
const PRELUDE = `
import errno, json, os, sys
try:
    import nbd
except ImportError as error:
    sys.exit("there is no python3-libnbd: run the command setup --for test: %s" % error)

uri = sys.argv[1]
args = sys.argv[2:]

def connect(structured=True, to=uri):
    h = nbd.NBD()
    h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
    h.set_request_structured_replies(structured)
    # What the client would refuse by itself is what the server is to refuse.
    h.set_strict_mode(0)
    h.connect_uri(to)
    assert h.get_structured_replies_negotiated() == structured
    return h

def same(found, expected, what=""):
    if found != expected:
        raise AssertionError("%s: %r and not %r" % (what, found, expected))

def fails(name, call, *rest):
    try:
        call(*rest)
    except nbd.Error as error:
        same(error.errno, name, call.__name__)
    else:
        raise AssertionError("%s%r has not failed with %s" % (call.__name__, rest, name))
`;

/** The words that run a program that uses libnbd; it finds the URI in \`uri\`, the rest in \`args\`. */
export function libnbdWords(text: string, uri: string, ...args: readonly string[]): string[] {
  return [PYTHON, "-c", PRELUDE + text, uri, ...args];
}

/** Runs one. */
export function libnbd(text: string, uri: string, ...args: readonly string[]): Promise<string> {
  return client(...libnbdWords(text, uri, ...args));
}

/** A new file of that size, all hole. */
export async function newSparse(size: number): Promise<string> {
  const path = newPath();
  await Deno.writeFile(path, new Uint8Array());
  await Deno.truncate(path, size);
  return path;
}

/** A new file whose bytes all differ from their neighbours. */
export async function newFull(size: number, seed = 1): Promise<string> {
  const path = newPath();
  await Deno.writeFile(path, pattern(size, seed));
  return path;
}

/** Fails where two files differ. */
export async function assertSameFile(path: string, expected: string): Promise<void> {
  const [bytes, wanted] = await Promise.all([Deno.readFile(path), Deno.readFile(expected)]);
  assertSameBytes(bytes, wanted);
}

/** The same of bytes; says where, and does not print millions of them. */
export function assertSameBytes(bytes: Uint8Array, wanted: Uint8Array): void {
  assertEquals(bytes.length, wanted.length, "length");
  const at = bytes.findIndex((byte, index) => byte !== wanted[index]);
  assertEquals(at, -1, `byte ${at} is ${bytes[at]} and not ${wanted[at]}`);
}

/** Bytes of the disk that a file has. */
export async function allocatedBytes(path: string): Promise<number> {
  return (await Deno.stat(path)).blocks! * 512;
}
