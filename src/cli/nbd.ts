/**
 * The `nbd` command: serves files as network block devices until it is told to end.
 */
import { AioContext, SignalFd, type SocketAddress } from "../../mod.ts";
import { FileBlockDevice } from "../block/mod.ts";
import { type NbdExport, NbdServer } from "../nbd/mod.ts";
import { ExitCode, UsageError } from "./exit.ts";

/** The options as the command line gives them. */
export interface NbdArguments {
  readonly socket?: string;
  readonly direct?: boolean;
  readonly readOnly?: boolean;
}

/** Serves; returns the exit code once it has ended. */
export async function nbd(args: NbdArguments, files: readonly string[]): Promise<number> {
  const { socket, direct = false, readOnly = false } = args;
  if (socket === undefined) throw new UsageError("Cannot serve as there is no --socket");
  using ctx = new AioContext();
  using signals = new SignalFd(["SIGTERM", "SIGINT"]);
  await ctx.run(async ({ host }) => {
    const exports: NbdExport[] = [];
    try {
      for (const file of files) {
        const device = await host(FileBlockDevice.open(ctx, file, { direct, readOnly }));
        const name = file.slice(file.lastIndexOf("/") + 1);
        exports.push({ name, device, default: exports.length === 0 });
      }
      const server = new NbdServer(ctx, exports);
      console.error(`listening on ${describe(server.listen({ path: socket }))}`);
      await new Promise<void>((resolve) =>
        ctx.setFdHandler(signals.fd, { ioRead: () => signals.read() !== null && resolve() })
      );
      ctx.setFdHandler(signals.fd, null);
      await host(server.close());
    } finally {
      for (const { device } of exports) await device.close();
    }
  }, { ownsThread: true });
  return ExitCode.ok;
}

function describe(address: SocketAddress): string {
  return "path" in address ? address.path : `${address.hostname}:${address.port}`;
}
