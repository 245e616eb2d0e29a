/** qemu-storage-daemon, the peer that vhost-user-blk is compared with. */

/** The daemon at work; it is killed when disposed. */
export class StorageDaemon implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;

  private constructor(child: Deno.ChildProcess) {
    this.#child = child;
  }

  /**
   * Starts it.
   *
   * @param sockets it listens at all of them when this resolves
   * @throws {Error} when it ends before
   */
  static async start(
    args: readonly string[],
    sockets: readonly string[],
  ): Promise<StorageDaemon> {
    const command = new Deno.Command("qemu-storage-daemon", { args: [...args], stdin: "null" });
    const child = command.spawn();
    let ended = false;
    child.status.then(() => ended = true);
    while (!sockets.every(isThere)) {
      if (ended) throw new Error("qemu-storage-daemon has ended");
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    return new StorageDaemon(child);
  }

  get pid(): number {
    return this.#child.pid;
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
