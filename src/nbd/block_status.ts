/**
 * BLOCK_STATUS: what is allocated, for the context base:allocation.
 */
import type { BlockExtent } from "../block/block_device.ts";
import { HEADER_ROOM } from "./memory.ts";
import {
  AllocationFlag,
  BASE_ALLOCATION_ID,
  CommandFlag,
  REPLY_DONE,
  ReplyType,
} from "./protocol.ts";
import { chunkHeaderBytes, storeChunk, storeU64 } from "./reply.ts";
import type { NbdRequest } from "./request.ts";

/** Extents of one reply at most; who wants more asks from there on. */
export const STATUS_EXTENTS_MAX = 2048;

/** Asks the device, and makes the reply. */
export async function describeExtents(request: NbdRequest): Promise<void> {
  const { offset, length, owner } = request;
  const { device, form } = owner;
  const one = (request.flags & CommandFlag.reqOne) !== 0;
  const countMax = one ? 1 : STATUS_EXTENTS_MAX;
  const found = await device.extents(offset, length, countMax);
  const extents = merge(found.slice(0, countMax), length);
  const extended = form === "extended";
  const entryBytes = extended ? 16 : 8, headBytes = extended ? 8 : 4;
  const payload = request.payload = request.memory.takePayload(extents.length * entryBytes);
  const { view } = payload;
  const bodyBytes = headBytes + extents.length * entryBytes;
  const headerBytes = chunkHeaderBytes(form);
  const start = HEADER_ROOM - headBytes - headerBytes;
  const type = extended ? ReplyType.blockStatusExt : ReplyType.blockStatus;
  storeChunk(view, start, form, request, REPLY_DONE, type, bodyBytes);
  view.setUint32(HEADER_ROOM - headBytes, BASE_ALLOCATION_ID);
  if (extended) view.setUint32(HEADER_ROOM - 4, extents.length);
  let at = HEADER_ROOM;
  for (const { length, flags } of extents) {
    if (extended) {
      storeU64(view, at, length);
      storeU64(view, at + 8, flags);
    } else {
      view.setUint32(at, length);
      view.setUint32(at + 4, flags);
    }
    at += entryBytes;
  }
  request.replies.push(payload.withHeader(headBytes + headerBytes, extents.length * entryBytes));
}

/** Extents with their flags, none like the one before, and cut where the range ends. */
function merge(
  found: readonly BlockExtent[],
  length: number,
): { length: number; readonly flags: number }[] {
  const extents: { length: number; readonly flags: number }[] = [];
  let left = length;
  for (const extent of found) {
    const part = Math.min(left, extent.length);
    if (part === 0) continue;
    left -= part;
    const flags = (extent.hole ? AllocationFlag.hole : 0) | (extent.zero ? AllocationFlag.zero : 0);
    const last = extents.at(-1);
    if (last?.flags === flags) last.length += part;
    else extents.push({ length: part, flags });
  }
  // A device has to say something; what it says nothing of is data.
  if (extents.length === 0) extents.push({ length, flags: 0 });
  return extents;
}
