/** Which processors a thread runs on: sched_setaffinity(2) and sched_getaffinity(2). */
import { AioError, check } from "./errno.ts";
import type { Shim } from "./shim_symbols.ts";

/** Room for as many processors as Linux can have. */
const MASK_BYTES = 1024;

/**
 * Puts this thread on some processors.
 *
 * @param processors their numbers, at least one
 * @throws {RangeError} for what is no number of a processor
 * @throws {AioError} EINVAL when the thread may use none of them
 */
export function setAffinity(shim: Shim, processors: readonly number[]): void {
  const mask = new Uint8Array(MASK_BYTES);
  for (const processor of processors) {
    if (!Number.isInteger(processor) || processor < 0 || processor >= MASK_BYTES * 8) {
      throw new RangeError(`Cannot run on a processor as it has no such number: ${processor}`);
    }
    mask[processor >> 3] |= 1 << (processor & 7);
  }
  const result = shim.aio_set_affinity(mask, MASK_BYTES);
  if (result >= 0) return;
  throw new AioError(
    `Cannot run on processors ${processors.join(", ")}`,
    "sched_setaffinity",
    -result,
    `this thread may run on ${getAffinity(shim).join(", ")}`,
  );
}

/** The processors this thread may run on. */
export function getAffinity(shim: Shim): number[] {
  const mask = new Uint8Array(MASK_BYTES);
  const what = "Cannot tell the processors of a thread";
  const bytes = check(shim.aio_get_affinity(mask, MASK_BYTES), what, "sched_getaffinity");
  const processors: number[] = [];
  for (let number = 0; number < bytes * 8; number++) {
    if (mask[number >> 3] & 1 << (number & 7)) processors.push(number);
  }
  return processors;
}
