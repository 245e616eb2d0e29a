/**
 * Disks that are served on one context, by the `vhost-user-blk` command: files opened, sockets
 * listened on, and all of it undone again.
 *
 * The default function is that of an IOThread, whose disks then live in it from the first message to
 * the last; without threads the command calls it with its own context. Invariant: a socket's path is
 * removed when its disk ends, unless somebody else has taken it meanwhile.
 */
import {
  type AioContext,
  AioError,
  type AioListener,
  type IOThreadScope,
  type RunScope,
} from "../../mod.ts";
import { FileBlockDevice } from "../block/mod.ts";
import { type QueueCounts, VhostUserBlk, type VhostUserEvent } from "../virtio/mod.ts";
import { CommandError } from "./exit.ts";
import type { DiskPlan } from "./vhost_options.ts";

/** What was served of a disk. */
export interface DiskReport extends QueueCounts {
  readonly socket: string;
  /** Front ends that have connected. */
  readonly connections: number;
}

/** A disk that listens for front ends. */
class ServedDisk implements AsyncDisposable {
  readonly size: number;
  readonly #socket: string;
  readonly #stack: AsyncDisposableStack;
  readonly #disk: VhostUserBlk;
  #connections = 0;

  private constructor(
    ctx: AioContext,
    plan: DiskPlan,
    device: FileBlockDevice,
    stack: AsyncDisposableStack,
  ) {
    this.size = device.size;
    this.#socket = plan.socket;
    this.#stack = stack;
    const { numQueues, readOnly, serial, cache } = plan;
    this.#disk = new VhostUserBlk(ctx, device, {
      numQueues,
      readOnly,
      serial,
      writeCache: cache !== "writethrough",
      onEvent: (event) => this.#tell(event),
    });
  }

  /**
   * Opens a file and listens.
   *
   * @param fail told why no more connections can be accepted, where that happens
   */
  static async open(
    { ctx, host }: RunScope & { ctx: AioContext },
    plan: DiskPlan,
    fail: (error: unknown) => void,
  ): Promise<ServedDisk> {
    await using stack = new AsyncDisposableStack();
    const { file, readOnly, direct, cache, discard, socket } = plan;
    const device = await host(
      FileBlockDevice.open(ctx, file, { readOnly, direct, cache, discard }),
    );
    stack.defer(() => device.close());
    const listener = stack.use(await listenAt(ctx, socket));
    const inode = inodeOf(socket);
    stack.defer(() => {
      if (inodeOf(socket) === inode) Deno.removeSync(socket);
    });
    const parts = new AsyncDisposableStack();
    const disk = new ServedDisk(ctx, plan, device, parts);
    const serving = disk.#disk.serve(listener).catch(fail);
    parts.use(stack.move());
    parts.defer(async () => {
      await listener.close();
      await disk.#disk.close();
      await serving;
    });
    return disk;
  }

  get report(): DiskReport {
    return { socket: this.#socket, connections: this.#connections, ...this.#disk.counts };
  }

  /** Drops whoever is connected, once requests in flight have ended. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
  }

  #tell({ kind, reason }: VhostUserEvent): void {
    if (kind === "connected") this.#connections++;
    console.error(`${this.#socket}: ${kind}${reason === "" ? "" : ` as ${reason}`}`);
  }
}

/** The disks of a context. */
export class DiskSet implements AsyncDisposable {
  /** Rejects when one of them can accept no more connections. */
  readonly failed: Promise<never>;
  readonly #scope: RunScope & { ctx: AioContext };
  readonly #fail: (error: unknown) => void;
  readonly #disks: ServedDisk[] = [];

  constructor(scope: RunScope & { ctx: AioContext }) {
    const { promise, reject } = Promise.withResolvers<never>();
    this.failed = promise;
    this.#fail = reject;
    this.#scope = scope;
  }

  /** Serves one more. @returns the size that its guests see */
  async serve(plan: DiskPlan): Promise<number> {
    const disk = await ServedDisk.open(this.#scope, plan, this.#fail);
    this.#disks.push(disk);
    return disk.size;
  }

  /** What was served of each. */
  get reports(): DiskReport[] {
    return this.#disks.map(({ report }) => report);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#disks.splice(0).map((disk) => disk[Symbol.asyncDispose]()));
  }
}

/** What a thread of disks can do; it ends when one of them fails. */
export default function serveDisks(scope: IOThreadScope) {
  const disks = new DiskSet(scope);
  return {
    serve: (plan: DiskPlan): Promise<number> => disks.serve(plan),
    reports: (): DiskReport[] => disks.reports,
    [Symbol.asyncDispose]: () => disks[Symbol.asyncDispose](),
  };
}

/** Listens at a path, also where somebody who was killed has left a socket there. */
async function listenAt(ctx: AioContext, path: string): Promise<AioListener> {
  try {
    return ctx.listen({ path });
  } catch (error) {
    if (!(error instanceof AioError) || error.code !== "EADDRINUSE") throw error;
  }
  if (!Deno.lstatSync(path).isSocket) {
    throw new CommandError(`Cannot listen on ${path} as there is something that is no socket`);
  }
  if (await isListening(ctx, path)) {
    throw new CommandError(`Cannot listen on ${path} as another process does`);
  }
  Deno.removeSync(path);
  return ctx.listen({ path });
}

async function isListening(ctx: AioContext, path: string): Promise<boolean> {
  try {
    await (await ctx.connect({ path })).close();
    return true;
  } catch (error) {
    if (error instanceof AioError && error.code === "ECONNREFUSED") return false;
    throw error;
  }
}

/** The number of what a path names now; null where that is nothing. */
function inodeOf(path: string): number | null {
  try {
    return Deno.lstatSync(path).ino;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
}
