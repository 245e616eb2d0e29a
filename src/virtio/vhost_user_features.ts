/**
 * What front end and back end agree on before anything else: feature bits.
 */
import { VirtioError } from "./guest_memory.ts";

/** Feature bits that belong to rings and to the protocol. */
export const RingFeature = {
  logAll: 1n << 26n,
  indirect: 1n << 28n,
  eventIndex: 1n << 29n,
  protocolFeatures: 1n << 30n,
  version1: 1n << 32n,
} as const;

/** Feature bits of the protocol that are offered. */
export const ProtocolFeature = {
  multiQueue: 1n << 0n,
  logShmFd: 1n << 1n,
  replyAck: 1n << 3n,
  config: 1n << 9n,
  inflightShmFd: 1n << 12n,
  resetDevice: 1n << 13n,
  configureMemSlots: 1n << 15n,
  status: 1n << 16n,
} as const;

const allBits = (bits: Readonly<Record<string, bigint>>): bigint =>
  Object.values(bits).reduce((all, bit) => all | bit, 0n);
/** All of them. */
export const RING_FEATURES: bigint = allBits(RingFeature);
/** All of them. */
export const PROTOCOL_FEATURES: bigint = allBits(ProtocolFeature);

/** @throws {VirtioError} when a front end agrees to what was not offered */
export function requireOffered(features: bigint, offered: bigint): void {
  const unknown = features & ~offered;
  if (unknown !== 0n) {
    throw new VirtioError(`Cannot agree to features 0x${unknown.toString(16)}: not offered`);
  }
}
