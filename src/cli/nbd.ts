/**
 * The `nbd` command: serves files as network block devices until it is told to end.
 *
 * First everything is opened, then said on stderr where clients find it; a program waits for the line
 * of `--json`, or for the pid file. SIGTERM and SIGINT end it in good order, a second one at once.
 * Invariant: whichever way it ends, short of SIGKILL, no socket path, pid file or open file is left.
 */
import { AioContext, MemFd, type RunScope } from "../../mod.ts";
import { ExitCode } from "./exit.ts";
import { Acceptor } from "./nbd_acceptor.ts";
import { type NbdArguments, type NbdOptions, parseNbdOptions } from "./nbd_options.ts";
import type { DiskPlan } from "./nbd_plan.ts";
import { sayListening, sayStats } from "./nbd_report.ts";
import type { DiskOrder } from "./nbd_service.ts";
import { openServing } from "./nbd_serving.ts";
import { openDoors } from "./nbd_sockets.ts";
import { heedSignals, writePidFile } from "./service.ts";

/** Serves; returns the exit code once it has ended. */
export async function nbd(args: NbdArguments, files: readonly string[]): Promise<number> {
  const options = parseNbdOptions(args, files);
  using ctx = new AioContext(options.context);
  try {
    await ctx.run(({ host }) => serve(ctx, host, options), { ownsThread: true });
  } catch (error) {
    // What went wrong first says more than what went wrong on the way out.
    throw error instanceof SuppressedError ? error.suppressed : error;
  }
  return ExitCode.ok;
}

async function serve(
  ctx: AioContext,
  host: RunScope["host"],
  options: NbdOptions,
): Promise<void> {
  await using opened = new AsyncDisposableStack();
  const ended = Promise.withResolvers<void>();
  opened.use(heedSignals(ctx, {
    end: ended.resolve,
    tell: async () => sayStats("stats", await serving.stats(), options),
  }));
  const disks = options.disks.map((plan) => orderOf(plan, options, opened));
  const serving = await openServing(ctx, host, { disks, verbose: options.verbose }, options);
  let listening = false;
  opened.defer(async () => {
    const stats = await serving.close();
    if (listening) sayStats("ended", stats, options);
  });
  const acceptor = new Acceptor((socket) => serving.serve(socket), options.shared);
  opened.defer(() => acceptor.close());
  const doors = await openDoors(ctx, host, options);
  opened.defer(async () => {
    // Before anything is waited for, so that a second signal finds nothing left.
    for (const { remove } of doors) remove();
    for (const { listener } of doors) await listener.close();
  });
  opened.use(writePidFile(options.pidFile));
  for (const { listener } of doors) acceptor.accept(listener);
  sayListening(ctx.fdmon.name, doors, serving.facts, options);
  listening = true;
  await Promise.race([ended.promise, acceptor.failed, serving.failed]);
}

/** A disk in memory is a file without a name, which all threads can open. */
function orderOf(
  { name, description, source, readOnly, isDefault }: DiskPlan,
  { device }: NbdOptions,
  opened: AsyncDisposableStack,
): DiskOrder {
  const known = { name, description, isDefault };
  if (typeof source === "string") {
    return { ...known, path: source, device: { ...device, readOnly } };
  }
  const memory = opened.use(new MemFd(`nbd ${name}`.slice(0, 60), { size: source }));
  const path = `/proc/self/fd/${memory.fd}`;
  return { ...known, path, device: { readOnly, discard: device.discard } };
}
