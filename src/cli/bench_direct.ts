/**
 * Reads around the page cache: whether they can be measured here, and fio, which they have to match.
 *
 * On a file system in memory O_DIRECT is refused, or taken and without effect, depending on the
 * kernel: neither measures a device. fio is a program of its own that runs anew for each window.
 */
import { closeSync, constants, fsyncSync, openSync, statfsSync } from "node:fs";
import { blocksToRead, DIRECT_SECONDS, READ_SIZE } from "./bench_window.ts";
import type { Figures } from "./bench_child.ts";
import { missing, type Probe, reasonIn } from "./bench_probe.ts";
import { CommandError } from "./exit.ts";

/** File systems that keep their files in memory, by the magic number of statfs(2). */
const IN_MEMORY: Readonly<Record<number, string>> = { 0x01021994: "tmpfs", 0x858458f6: "ramfs" };
const ANOTHER_FILE = "give a --file on a disk, or set TMPDIR to a folder there";
/** Long enough to find out whether fio can do it. */
const TRIAL_SECONDS = 0.05;

/**
 * Checks that the file can be read around the page cache, and writes back what is only there.
 *
 * @throws {CommandError} where it cannot
 */
export function requireDirect(path: string): void {
  const inMemory = IN_MEMORY[statfsSync(path).type];
  if (inMemory !== undefined) throw refusal(`it is in memory (${inMemory})`);
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_DIRECT);
  } catch (error) {
    if (!(error instanceof Error && "code" in error && error.code === "EINVAL")) throw error;
    throw refusal("its file system refuses O_DIRECT");
  }
  fsyncSync(fd);
  closeSync(fd);
}

function refusal(reason: string): CommandError {
  return new CommandError(
    `Cannot read the file around the page cache as ${reason}: ${ANOTHER_FILE}`,
  );
}

/** Random reads by fio with io_uring. */
export class FioProbe implements Probe {
  readonly #args: readonly string[];

  private constructor(path: string, depth: number) {
    this.#args = [
      "--name=reads",
      `--filename=${path}`,
      `--size=${blocksToRead(path) * READ_SIZE}`,
      "--ioengine=io_uring",
      "--rw=randread",
      // A block may come twice, as in ours.
      "--norandommap",
      `--bs=${READ_SIZE}`,
      `--iodepth=${depth}`,
      "--direct=1",
      "--readonly",
      // The other rows read the same file from the page cache.
      "--invalidate=0",
      "--time_based",
      "--output-format=json",
    ];
  }

  /**
   * Finds out whether fio can do it.
   *
   * @throws {CommandError} where it cannot, or is not there
   */
  static async start(path: string, depth: number): Promise<FioProbe> {
    requireDirect(path);
    const probe = new FioProbe(path, depth);
    await probe.#run(TRIAL_SECONDS);
    return probe;
  }

  measure(): Promise<Figures> {
    return this.#run(DIRECT_SECONDS);
  }

  async [Symbol.asyncDispose](): Promise<void> {}

  async #run(seconds: number): Promise<Figures> {
    const args = [...this.#args, `--runtime=${seconds * 1e3}ms`];
    let output: Deno.CommandOutput;
    try {
      output = await new Deno.Command("fio", { args }).output();
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
      throw new CommandError(missing("fio"));
    }
    const decoder = new TextDecoder();
    const text = decoder.decode(output.stdout);
    // What fio has to remark comes before, and errors on either output.
    const start = text.indexOf("{\n");
    if (!output.success || start < 0) {
      throw new CommandError(`Cannot measure as ${reasonIn(decoder.decode(output.stderr) + text)}`);
    }
    const { iops } = JSON.parse(text.slice(start)).jobs[0].read;
    return { iops, usPerRequest: 1e6 / iops };
  }
}
