/** The vhost-user-blk back ends that are compared, each a process: ours and qemu-storage-daemon. */
import { VhostCommand } from "../tests/vhost_command.ts";

/** A file as a disk. */
export interface ServedDisk {
  readonly file: string;
  readonly socket: string;
  readonly numQueues: number;
}

/** A process that serves disks until it is disposed. */
export interface BackEnd extends AsyncDisposable {
  readonly pid: number;
}

/** This project's command, as users start it. */
export class OurBackEnd implements BackEnd {
  readonly pid: number;
  readonly #command: VhostCommand;

  private constructor(command: VhostCommand, pid: number) {
    this.#command = command;
    this.pid = pid;
  }

  /**
   * Starts it; it listens when this resolves.
   *
   * @param config a file that is written
   * @param options of the command
   */
  static async start(
    disks: readonly ServedDisk[],
    config: string,
    options: readonly string[],
    secondsMax: number,
  ): Promise<OurBackEnd> {
    const devices = disks.map(({ file, socket, numQueues }) => {
      return { file, socket, "num-queues": numQueues };
    });
    Deno.writeTextFileSync(config, JSON.stringify({ devices }));
    const args = ["--config", config, "--read-only", ...options];
    const command = new VhostCommand(args, secondsMax);
    const { pid } = await command.next();
    return new OurBackEnd(command, pid);
  }

  /** Ends it. @returns the kicks and requests of each disk */
  async end(): Promise<{ kicks: number; requests: number }[]> {
    Deno.kill(this.pid, "SIGTERM");
    return (await this.#command.next()).devices;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#command[Symbol.asyncDispose]();
  }
}

/** qemu-storage-daemon, the peer. */
export class StorageDaemon implements BackEnd {
  readonly #child: Deno.ChildProcess;

  private constructor(child: Deno.ChildProcess) {
    this.#child = child;
  }

  get pid(): number {
    return this.#child.pid;
  }

  /**
   * Starts it; it listens when this resolves.
   *
   * @param polling serves in an iothread that polls
   * @throws {Error} when it ends before
   */
  static async start(disks: readonly ServedDisk[], polling = false): Promise<StorageDaemon> {
    const args = polling ? ["--object", "iothread,id=t0,poll-max-ns=32768"] : [];
    const files = [...new Set(disks.map(({ file }) => file))];
    for (const [index, file] of files.entries()) {
      const options = "aio=io_uring,read-only=on";
      args.push("--blockdev", `driver=file,node-name=f${index},filename=${file},${options}`);
    }
    for (const [index, { file, socket, numQueues }] of disks.entries()) {
      const node = `node-name=f${files.indexOf(file)}`;
      const place = `addr.type=unix,addr.path=${socket},num-queues=${numQueues}`;
      const thread = polling ? ",iothread=t0" : "";
      args.push("--export", `type=vhost-user-blk,id=e${index},${node},${place}${thread}`);
    }
    const child = new Deno.Command("qemu-storage-daemon", { args, stdin: "null" }).spawn();
    let ended = false;
    child.status.then(() => ended = true);
    while (!disks.every(({ socket }) => isThere(socket))) {
      if (ended) throw new Error("qemu-storage-daemon has ended");
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    return new StorageDaemon(child);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.#child.status;
  }
}

function isThere(path: string): boolean {
  try {
    Deno.lstatSync(path);
    return true;
  } catch {
    return false;
  }
}
