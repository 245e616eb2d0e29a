/**
 * The `vhost-user-blk` command: serves files as disks of virtual machines until it is told to end.
 *
 * Its context waits for signals and, without `--threads`, serves the disks as well; with them, each
 * disk lives in one of several IOThreads. What is opened and listened on is in vhost_disks.ts. The
 * standard output has JSON or nothing, the standard error what happens.
 */
import { AioContext, type AioStats, IOThreadPool, type RunScope } from "../../mod.ts";
import { CommandError, ExitCode } from "./exit.ts";
import { whole } from "./scale_report.ts";
import { heedSignals, writePidFile } from "./service.ts";
import { type default as serveDisks, type DiskReport, DiskSet } from "./vhost_disks.ts";
import {
  type DiskPlan,
  parseVhostOptions,
  type VhostArguments,
  type VhostOptions,
} from "./vhost_options.ts";

/** Where the disks live. */
interface DiskHome extends AsyncDisposable {
  /** Serves a disk; its size. */
  serve(plan: DiskPlan): Promise<number>;
  reports(): Promise<DiskReport[]>;
  stats(): Promise<AioStats[]>;
  /** Rejects where a disk cannot be served any more; never resolves while they are. */
  readonly ended: Promise<unknown>;
}

/** Serves; returns the exit code once it has ended. */
export async function vhostUserBlk(args: VhostArguments, file?: string): Promise<number> {
  const options = parseVhostOptions(args, file);
  using ctx = new AioContext(options.context);
  await ctx.run((scope) => serve(ctx, scope, options), {
    // Threads tell of their end by Deno's own messages.
    ownsThread: options.threads === 1,
  });
  return ExitCode.ok;
}

async function serve(ctx: AioContext, scope: RunScope, options: VhostOptions): Promise<void> {
  const { disks, json, threads, pidFile } = options;
  const told = Promise.withResolvers<void>();
  let home: DiskHome | null = null;
  const tell = async (event: "stats" | "ended") => {
    // While it begins there is nothing to be told.
    if (home === null) return;
    const [reports, stats] = await Promise.all([home.reports(), home.stats()]);
    if (json) print({ event, devices: reports, contexts: stats });
    else for (const report of reports) console.error(describeReport(report));
  };
  using _signals = heedSignals(ctx, {
    end: told.resolve,
    tell: () => tell("stats"),
  });
  await using opened = threads === 1 ? openHere(ctx, scope) : await openThreads(ctx, options);
  const devices = [];
  for (const plan of disks) devices.push({ ...plan, size: await opened.serve(plan) });
  using _pidFile = writePidFile(pidFile);
  home = opened;
  if (json) {
    const { name } = ctx.fdmon;
    print({ event: "listening", pid: Deno.pid, fdmon: name, threads, devices });
  } else for (const device of devices) console.error(describe(device));
  await Promise.race([told.promise, opened.ended]);
  await tell("ended");
}

/** All disks on the context of the command. */
function openHere(ctx: AioContext, scope: RunScope): DiskHome {
  const disks = new DiskSet({ ctx, ...scope });
  return {
    serve: (plan) => disks.serve(plan),
    reports: () => Promise.resolve(disks.reports),
    stats: () => Promise.resolve([ctx.stats()]),
    ended: disks.failed,
    [Symbol.asyncDispose]: () => disks[Symbol.asyncDispose](),
  };
}

/** Each disk in the thread that has least. */
async function openThreads(ctx: AioContext, options: VhostOptions): Promise<DiskHome> {
  const module = new URL("./vhost_disks.ts", import.meta.url);
  const pool = await IOThreadPool.start<typeof serveDisks>(module, {
    ...options.context,
    threads: options.threads,
    name: "disks",
    context: ctx,
  });
  return {
    // The assignment lasts as long as the thread.
    serve: (plan) => pool.assign().thread.call("serve", plan).catch(throwForUser),
    reports: async () =>
      (await Promise.all(pool.threads.map((thread) => thread.call("reports")))).flat(),
    stats: () => pool.stats(),
    ended: Promise.race(pool.threads.map((thread) => thread.join())),
    [Symbol.asyncDispose]: () => pool.stop(),
  };
}

/** An error that comes from another thread has its name, but not its class. */
function throwForUser(error: unknown): never {
  const isForUsers = error instanceof Error && ["CommandError", "NotCapable"].includes(error.name);
  throw isForUsers ? new CommandError(error.message) : error;
}

function print(value: unknown): void {
  console.log(JSON.stringify(value));
}

function describe(disk: DiskPlan & { readonly size: number }): string {
  const { socket, file, size, numQueues, readOnly } = disk;
  return `${socket}: listening for ${file}, ${whole(size)} bytes, ${numQueues} queues` +
    (readOnly ? ", read-only" : "");
}

function describeReport({ socket, connections, requests, kicks, calls }: DiskReport): string {
  return `${socket}: ${whole(connections)} connections, ${whole(requests)} requests, ` +
    `${whole(kicks)} kicks, ${whole(calls)} calls`;
}
