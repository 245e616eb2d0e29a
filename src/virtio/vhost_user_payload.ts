/**
 * What is inside the payloads of vhost-user messages, beyond single numbers; what makes no sense is a
 * VirtioError.
 */
import type { EventNotifier } from "../../mod.ts";
import { type MemoryRegion, VirtioError } from "./guest_memory.ts";
import { CONFIG_BYTES_MAX, type VhostUserMessage } from "./vhost_user_message.ts";

/** In the number with a ring's eventfd: which ring, and that there is none. */
const RING_MASK = 0xffn, NO_FD = 0x100n;

/** The number of the ring that an eventfd is for. */
export function ringNumber(message: VhostUserMessage): number {
  return Number(message.u64(0) & RING_MASK);
}

/** The eventfd that came with a message; null where it says that there is none. */
export function takeNotifier(message: VhostUserMessage): EventNotifier | null {
  const none = (message.u64(0) & NO_FD) !== 0n;
  if (message.fds.length !== (none ? 0 : 1)) {
    throw new VirtioError(`Cannot use ${message.name} with ${message.fds.length} files`);
  }
  return none ? null : message.takeNotifier();
}

/** A region of memory, as SET_MEM_TABLE and the messages for single ones describe it. */
export function readRegion(message: VhostUserMessage, at: number): MemoryRegion {
  return {
    guestAddress: message.number(at),
    size: message.number(at + 8),
    userAddress: message.number(at + 16),
    offset: message.number(at + 24),
  };
}

/** Which part of the configuration space is meant. */
export function readConfigRange(message: VhostUserMessage): { offset: number; length: number } {
  const offset = message.u32(0), length = message.u32(4);
  if (offset + length > CONFIG_BYTES_MAX || length !== message.payload.byteLength - 12) {
    throw new VirtioError(`Cannot use the configuration at ${offset}, ${length} bytes`);
  }
  return { offset, length };
}

/** A payload of one number. */
export function u64(value: bigint): Uint8Array {
  const view = new DataView(new ArrayBuffer(8));
  view.setBigUint64(0, value, true);
  return new Uint8Array(view.buffer);
}
