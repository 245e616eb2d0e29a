/**
 * Disks for virtual machines: a vhost-user-blk back end on AioContext.
 *
 * @module
 */
export { VhostUserBlk, type VhostUserBlkOptions, type VhostUserEvent } from "./vhost_user_blk.ts";
export type { QueueCounts } from "./device_queue.ts";
export type {
  BlockDevice,
  BlockExtent,
  BlockWriteOptions,
  BlockZeroOptions,
} from "../block/block_device.ts";
