/**
 * Block devices: what the servers of this package serve.
 *
 * @example
 * ```ts
 * import { AioContext } from "@aio/context";
 * import { FileBlockDevice } from "@aio/context/block";
 * using ctx = new AioContext();
 * const path = await Deno.makeTempFile();
 * await Deno.truncate(path, 1 << 20);
 * await ctx.run(async () => {
 *   const device = await FileBlockDevice.open(ctx, path);
 *   await device.write([new TextEncoder().encode("hello")], 4096, { fua: true });
 *   console.log(device.size, await device.extents(0, device.size, 10));
 *   await device.close();
 * });
 * await Deno.remove(path);
 * ```
 *
 * @module
 */
export type {
  BlockDevice,
  BlockExtent,
  BlockWriteOptions,
  BlockZeroOptions,
} from "./block_device.ts";
export { FileBlockDevice } from "./file_block_device.ts";
export type { FileBlockDeviceOptions, FileCache } from "./file_options.ts";
export { MemoryBlockDevice, type MemoryBlockDeviceOptions } from "./memory_block_device.ts";
