/**
 * Drivers that never ask for anything, attached to as many disks as there are sockets, by a process of
 * their own: a process can have 20,000 files open, and each queue of a driver has two.
 */
import { AioContext } from "../mod.ts";
import { VhostDriver } from "../src/cli/vhost_driver.ts";
import { VhostFrontEnd } from "../src/cli/vhost_front_end.ts";

const ATTACHED = "attached\n";

/** The process; its drivers go when it is disposed. */
export class IdleDrivers implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;

  private constructor(child: Deno.ChildProcess) {
    this.#child = child;
  }

  /** Starts it; all queues are started when this resolves. */
  static async attach(sockets: readonly string[], queues: number): Promise<IdleDrivers> {
    const args = ["run", "-A", new URL(import.meta.url).pathname, `${queues}`, ...sockets];
    const command = new Deno.Command(Deno.execPath(), { args, stdin: "piped", stdout: "piped" });
    const child = command.spawn();
    const reader = child.stdout.getReader();
    const { done } = await reader.read();
    if (done) throw new Error("the idle drivers could not be attached");
    reader.releaseLock();
    return new IdleDrivers(child);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#child.stdin.close();
    await this.#child.stdout.cancel();
    await this.#child.status;
  }
}

if (import.meta.main) {
  const [queues, ...sockets] = Deno.args;
  using ctx = new AioContext();
  await ctx.run(async () => {
    await using stack = new AsyncDisposableStack();
    for (const path of sockets) {
      const options = { queues: Number(queues), slotBytes: 4096, errors: false };
      const driver = stack.use(new VhostDriver(ctx, options));
      const frontEnd = stack.use(new VhostFrontEnd(await ctx.connect({ path })));
      await driver.attach(frontEnd);
    }
    await Deno.stdout.write(new TextEncoder().encode(ATTACHED));
    await Deno.stdin.read(new Uint8Array(1));
  });
}
