/**
 * How long the loop may poll before it sleeps, learned per handler from how long the loop was
 * blocked: the rule of semantics as pure arithmetic.
 *
 * Sleeping longer than the limit means polling would have been wasted: shrink. Sleeping less, but
 * longer than was polled, means a little more polling would have caught the event: grow.
 */

/** Parameters of polling. All times in ns. */
export interface PollParams {
  /** Longest time to poll before sleeping; 0 switches polling off. */
  maxNs: number;
  /** Factor by which the time grows; 0 stands for 2. */
  grow: number;
  /** Divisor by which it shrinks; 0 starts again from 0. */
  shrink: number;
  /** A handler idle for this long leaves the poll list; Infinity keeps it for ever. */
  idleNs: number;
}

/** Parameters of a new context. */
export const DEFAULT_POLL_PARAMS: Readonly<PollParams> = {
  maxNs: 32_768,
  grow: 0,
  shrink: 0,
  idleNs: 7e9,
};

/** First polling time of a handler that was not polled before. */
export const POLL_START_NS = 4_000;
const DEFAULT_GROW = 2;

/**
 * The next polling time of a handler that became ready.
 *
 * @param currentNs its polling time
 * @param blockNs how long the loop polled and slept before the event
 * @param params the context's parameters
 * @returns the new polling time, in ns
 */
export function nextPollNs(currentNs: number, blockNs: number, params: PollParams): number {
  const { maxNs, grow, shrink } = params;
  if (blockNs <= currentNs) return currentNs;
  if (blockNs > maxNs) return shrink === 0 ? 0 : Math.floor(currentNs / shrink);
  if (currentNs >= maxNs || blockNs >= maxNs) return currentNs;
  const grown = currentNs === 0 ? POLL_START_NS : currentNs * (grow === 0 ? DEFAULT_GROW : grow);
  return Math.min(grown, maxNs);
}

/** Merges new parameters into the current ones. @throws {RangeError} naming the bad one */
export function mergePollParams(current: PollParams, changes: Partial<PollParams>): PollParams {
  if (typeof changes !== "object" || changes === null) {
    throw new TypeError(`Cannot set poll parameters as they are not an object: ${String(changes)}`);
  }
  const merged: PollParams = { ...current };
  for (const name of ["maxNs", "grow", "shrink", "idleNs"] as const) {
    const value = changes[name];
    if (value === undefined) continue;
    const forever = name === "idleNs" && value === Infinity;
    if (!forever && (!Number.isSafeInteger(value) || value < 0)) {
      throw new RangeError(
        `Cannot set poll parameter ${name} as it is not a whole number >= 0: ${String(value)}`,
      );
    }
    merged[name] = value;
  }
  if (merged.grow === 1) {
    throw new RangeError("Cannot set poll parameter grow as a factor of 1 never grows: 1");
  }
  return merged;
}
