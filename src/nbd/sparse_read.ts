/**
 * READ of what may have holes: data in chunks of its own, and of the holes only where they are.
 *
 * The payload has the layout of the range. A chunk's header stands right before its data, which is
 * where the hole before it would be, and a hole's header where the hole is; so nothing is moved.
 */
import type { BlockExtent } from "../block/block_device.ts";
import { HEADER_ROOM } from "./memory.ts";
import { CommandFlag, REPLY_DONE, ReplyType } from "./protocol.ts";
import { chunkHeaderBytes, storeChunk, storeU64 } from "./reply.ts";
import type { NbdRequest } from "./request.ts";

/** Shortest read for which the device is asked: below, asking costs more than sending zeros. */
export const HOLES_MIN = 32_768;
/** A hole that is shorter is sent as data; two headers have to fit in. */
const HOLE_MIN = 512;
/** Extents that are asked for; behind them all is sent as data. */
const EXTENTS_MAX = 64;
const OFFSET_BYTES = 8, HOLE_BYTES = 12;

/** A part of the range that is sent as one chunk. */
interface Part {
  readonly start: number;
  end: number;
  readonly hole: boolean;
}

/** Reads a request's range, and makes its reply. */
export async function readSparse(request: NbdRequest): Promise<void> {
  const { offset, length, owner } = request;
  const { device, form } = owner;
  const extents = await device.extents(offset, length, EXTENTS_MAX);
  let parts = partsOf(extents, length);
  // Not to be fragmented: a hole if it is nothing else.
  const df = (request.flags & CommandFlag.df) !== 0;
  if (df && parts.length !== 1) parts = [{ start: 0, end: length, hole: false }];
  const payload = request.payload = request.memory.takePayload(length);
  const { bytes, view } = payload;
  const headerBytes = chunkHeaderBytes(form);
  const reads: Promise<void>[] = [];
  for (const [index, { start, end, hole }] of parts.entries()) {
    const flags = index === parts.length - 1 ? REPLY_DONE : 0;
    const dataAt = HEADER_ROOM + start;
    const at = hole ? dataAt : dataAt - headerBytes - OFFSET_BYTES;
    const type = hole ? ReplyType.offsetHole : ReplyType.offsetData;
    const bodyBytes = hole ? HOLE_BYTES : OFFSET_BYTES + end - start;
    storeChunk(view, at, form, request, flags, type, bodyBytes);
    storeU64(view, at + headerBytes, offset + start);
    if (hole) view.setUint32(at + headerBytes + OFFSET_BYTES, end - start);
    else {
      const data = bytes.subarray(dataAt, HEADER_ROOM + end);
      reads.push(device.read([data], offset + start));
      request.dataSent += data.length;
    }
    request.replies.push(bytes.subarray(at, at + headerBytes + bodyBytes));
  }
  // All of them, as a read that goes on would write to memory of somebody else.
  const failed = (await Promise.allSettled(reads)).find(({ status }) => status === "rejected");
  if (failed !== undefined) throw (failed as PromiseRejectedResult).reason;
}

/** Parts of a range, from its beginning on: data and holes in turn. */
function partsOf(extents: readonly BlockExtent[], length: number): Part[] {
  const parts: Part[] = [];
  const add = (start: number, end: number, hole: boolean): void => {
    const last = parts.at(-1);
    if (last?.hole === hole) last.end = end;
    else parts.push({ start, end, hole });
  };
  let at = 0;
  for (const extent of extents) {
    if (at >= length) break;
    const end = Math.min(length, at + extent.length);
    add(at, end, extent.zero && end - at >= HOLE_MIN);
    at = end;
  }
  if (at < length) add(at, length, false);
  return parts;
}
