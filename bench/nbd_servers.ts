/**
 * NBD servers as processes, ours and other people's, and the programs that ask them.
 *
 * A server listens on a unix socket in a folder that goes away with it, and is there when somebody
 * can connect. Invariant: what is started here is ended here, also when a measurement throws.
 */
import { CommandError } from "../src/cli/exit.ts";
import { Magic, Option, OptionReply } from "../src/nbd/protocol.ts";

/** How a server is started. */
export interface ServerKind {
  /** For the progress line and the table. */
  readonly name: string;
  words(socketPath: string, filePath: string): string[];
}

/** How long a server may take to listen. */
const START_MS = 20_000;
const LOOK_MS = 20;
/** Where `setup` gets everything from that is run here. */
const SETUP = "run the command setup --for test";
const CLI = new URL("../src/cli/main.ts", import.meta.url).pathname;

/** Ours, with the options of the command `nbd`. */
export function ours(name: string, ...options: string[]): ServerKind {
  const words = (socketPath: string, filePath: string) => [
    ...[Deno.execPath(), "run", "-A", CLI, "nbd", "--socket", socketPath, ...options],
    filePath,
  ];
  return { name, words };
}

/** qemu-nbd; `none` as its cache is O_DIRECT. */
export function qemuNbd(name: string, cache: "writeback" | "none"): ServerKind {
  const words = (socketPath: string, filePath: string) => [
    ...["qemu-nbd", "-k", socketPath, "-f", "raw", "-t", "-e", "16"],
    ...["--aio=io_uring", `--cache=${cache}`, "--discard=unmap", filePath],
  ];
  return { name, words };
}

/** nbdkit with its plugin for files. */
export function nbdkit(name: string): ServerKind {
  return {
    name,
    words: (socketPath, filePath) => ["nbdkit", "-f", "-U", socketPath, "file", filePath],
  };
}

/** A server that runs. */
export class RunningServer implements AsyncDisposable {
  readonly uri: string;
  readonly #path: string;
  readonly #folder: string;
  readonly #process: Deno.ChildProcess;
  readonly #errors: Promise<string>;

  private constructor(kind: ServerKind, filePath: string) {
    this.#folder = Deno.makeTempDirSync({ prefix: "nbd_" });
    this.#path = `${this.#folder}/socket`;
    this.uri = `nbd+unix:///?socket=${this.#path}`;
    const [program, ...args] = kind.words(this.#path, filePath);
    try {
      this.#process = new Deno.Command(program, { args, stdout: "null", stderr: "piped" }).spawn();
    } catch (error) {
      Deno.removeSync(this.#folder, { recursive: true });
      throw wasMissing(error, program);
    }
    this.#errors = new Response(this.#process.stderr).text();
  }

  /**
   * Starts a server, and waits until it takes connections.
   *
   * @throws {CommandError} where there is none of that kind, or it ends at once
   */
  static async start(kind: ServerKind, filePath: string): Promise<RunningServer> {
    const server = new RunningServer(kind, filePath);
    try {
      await server.#listening(kind);
      return server;
    } catch (error) {
      await server[Symbol.asyncDispose]();
      throw error;
    }
  }

  async #listening(kind: ServerKind): Promise<void> {
    let ended = false;
    void this.#process.status.then(() => ended = true);
    const endMs = performance.now() + START_MS;
    while (!ended && performance.now() < endMs) {
      try {
        return (await this.connect()).close();
      } catch (error) {
        const notYet = error instanceof Deno.errors.NotFound ||
          error instanceof Deno.errors.ConnectionRefused;
        if (!notYet) throw error;
      }
      await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
    }
    const reason = ended ? (await this.#errors).trim().split("\n")[0] : "it does not listen";
    throw new CommandError(`Cannot measure ${kind.name} as ${reason}`);
  }

  /** Connects, and leaves the rest to the caller. */
  connect(): Promise<Deno.UnixConn> {
    return Deno.connect({ transport: "unix", path: this.#path });
  }

  /** Opens connections that have shaken hands and read once, as guests that then do nothing. */
  async connectIdle(count: number): Promise<Disposable> {
    const connections = new DisposableStack();
    try {
      for (let number = 0; number < count; number++) {
        const connection = connections.use(await this.connect());
        await readOnce(connection);
      }
      return connections;
    } catch (error) {
      connections.dispose();
      throw error;
    }
  }

  /** Memory that it has in the machine, in bytes. */
  residentBytes(): number {
    const status = Deno.readTextFileSync(`/proc/${this.#process.pid}/status`);
    return Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)![1]) * 1024;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#process.kill("SIGTERM");
    } catch {
      // It has ended already.
    }
    await this.#process.status;
    await this.#errors;
    await Deno.remove(this.#folder, { recursive: true });
  }
}

/** Random reads of fio. */
export interface FioLoad {
  readonly depth: number;
  readonly jobs: number;
  readonly runtimeMs: number;
  readonly fileBytes: number;
}

/** IOPS of random reads of 4 KiB. */
export async function fioIops(server: RunningServer, load: FioLoad): Promise<number> {
  const { depth, jobs, runtimeMs, fileBytes } = load;
  const said = await runProgram([
    ...["fio", "--name=randread", "--ioengine=nbd", `--uri=${server.uri}`, "--rw=randread"],
    ...["--bs=4k", `--size=${fileBytes}`, `--iodepth=${depth}`, `--numjobs=${jobs}`],
    ...["--group_reporting", "--time_based", `--runtime=${runtimeMs}ms`, "--randrepeat=0"],
    ...["--norandommap", "--output-format=json"],
  ]);
  // It says first to whom it is connected.
  const report = JSON.parse(said.slice(said.indexOf("{")));
  return report.jobs[0].read.iops;
}

/** GB/s of nbdcopy to nowhere, with as many connections as it likes. */
export async function copyGBps(server: RunningServer, fileBytes: number): Promise<number> {
  const startMs = performance.now();
  await runProgram(["nbdcopy", server.uri, "null:"]);
  return fileBytes / (performance.now() - startMs) / 1e6;
}

async function runProgram([program, ...args]: string[]): Promise<string> {
  const decoder = new TextDecoder();
  try {
    const { success, stdout, stderr } = await new Deno.Command(program, { args }).output();
    if (success) return decoder.decode(stdout);
    const reason = decoder.decode(stderr).trim().split("\n")[0];
    throw new CommandError(`Cannot measure as ${program} has failed: ${reason}`);
  } catch (error) {
    throw wasMissing(error, program);
  }
}

/** Says how to get a program that is not there; other errors are returned as they are. */
function wasMissing(error: unknown, program: string): unknown {
  return error instanceof Deno.errors.NotFound
    ? new CommandError(`there is no ${program}: ${SETUP}`)
    : error;
}

/** Shakes hands for the default export, and reads its first block. */
async function readOnce(connection: Deno.UnixConn): Promise<void> {
  const reader = connection.readable.getReader({ mode: "byob" });
  const read = async (length: number) => {
    const { value } = await reader.read(new Uint8Array(length), { min: length });
    if (value?.length !== length) throw new CommandError("Cannot measure as a server has hung up");
    return new DataView(value.buffer);
  };
  await read(18);
  const hello = new DataView(new ArrayBuffer(4 + 16 + 6));
  hello.setUint32(0, 3);
  Magic.option.forEach((half, index) => hello.setUint32(4 + 4 * index, half));
  hello.setUint32(12, Option.go);
  hello.setUint32(16, 6);
  await write(connection, hello);
  for (let type = 0; type !== OptionReply.ack;) {
    const header = await read(20);
    type = header.getUint32(12);
    if (type >= 0x8000_0000) throw new CommandError("Cannot measure as a server refuses");
    const length = header.getUint32(16);
    if (length !== 0) await read(length);
  }
  const request = new DataView(new ArrayBuffer(28));
  request.setUint32(0, Magic.request);
  request.setUint32(24, 4096);
  await write(connection, request);
  await read(16 + 4096);
  reader.releaseLock();
}

async function write(connection: Deno.UnixConn, { buffer }: DataView<ArrayBuffer>): Promise<void> {
  const bytes = new Uint8Array(buffer);
  for (let done = 0; done < bytes.length;) done += await connection.write(bytes.subarray(done));
}
