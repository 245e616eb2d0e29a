/**
 * An NBD server: network block devices for whoever speaks the protocol, as the kernel, qemu and
 * libnbd's tools do.
 *
 * @example
 * ```ts
 * import { AioContext } from "@aio/context";
 * import { MemoryBlockDevice } from "@aio/context/block";
 * import { NbdServer } from "@aio/context/nbd";
 * using ctx = new AioContext();
 * await ctx.run(async () => {
 *   await using server = new NbdServer(ctx, [{ name: "", device: new MemoryBlockDevice(1 << 30) }]);
 *   server.listen({ path: "\0an_abstract_name" });
 *   console.log(server.stats().connections); // 0
 * });
 * ```
 *
 * @module
 */
export type { NbdExport } from "./exports.ts";
export { ProtocolViolation } from "./negotiation.ts";
export { NbdServer, type NbdServerOptions } from "./server.ts";
export type { NbdStats } from "./stats.ts";
