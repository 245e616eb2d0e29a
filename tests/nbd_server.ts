/** A server for tests, and the devices that it serves. */
import type { AioContext, SocketAddress } from "../mod.ts";
import { type BlockDevice, FileBlockDevice, MemoryBlockDevice } from "../src/block/mod.ts";
import { type NbdExport, NbdServer, type NbdServerOptions } from "../src/nbd/mod.ts";
import { newPath } from "./test_files.ts";
import { abstractName, eachLoop } from "./test_sockets.ts";

export const MIB = 1 << 20;

/** What a test has: a server that listens. */
export interface Served {
  readonly ctx: AioContext;
  readonly server: NbdServer;
  readonly at: SocketAddress;
}

/** Registers a test with a server on each backend. */
export function eachServer(
  name: string,
  makeExports: (ctx: AioContext) => readonly NbdExport[] | Promise<readonly NbdExport[]>,
  test: (served: Served) => Promise<void>,
  options?: NbdServerOptions,
): void {
  eachLoop(name, async (ctx) => {
    const exports = await makeExports(ctx);
    const server = new NbdServer(ctx, exports, options);
    const at = server.listen(abstractName());
    try {
      await test({ ctx, server, at });
    } finally {
      // What it throws is the test's to look at.
      await server.close().catch(() => {});
      for (const { device } of exports) await device.close();
    }
  });
}

/** An export of 16 MiB of memory without a name. */
export const memory = (): NbdExport[] => [{ name: "", device: new MemoryBlockDevice(16 * MIB) }];

/** A file of that size, all hole, as a device. */
export async function newFileDevice(ctx: AioContext, size = 16 * MIB): Promise<FileBlockDevice> {
  const path = newPath();
  await Deno.writeFile(path, new Uint8Array());
  await Deno.truncate(path, size);
  return await FileBlockDevice.open(ctx, path);
}

/** A device of which some things are different. */
export function changed(device: BlockDevice, changes: Partial<BlockDevice>): BlockDevice {
  return new Proxy(device, {
    get(target, name) {
      if (Object.hasOwn(changes, name)) return changes[name as keyof BlockDevice];
      const value = target[name as keyof BlockDevice];
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}
