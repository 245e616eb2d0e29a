/**
 * How long the loop may poll before it sleeps, learned per handler, and for all requests in flight
 * together, from how long the loop was blocked: two rules as pure arithmetic, and the parameters
 * they have.
 *
 * Without a weight, QEMU's rule: sleeping longer than the limit means polling would have been
 * wasted: shrink. Sleeping less, but longer than was polled, means a little more polling would have
 * caught the event: grow. With a weight, the mean time between a handler's events is kept and
 * polled for a multiple of: one pause changes little, and a handler that falls silent is noticed.
 */

/** Parameters of polling. All times in ns. */
export interface PollParams {
  /** Longest time to poll before sleeping; 0 switches polling off. */
  maxNs: number;
  /** Factor by which the time grows, or the mean is multiplied; 0 stands for 2. */
  grow: number;
  /** Divisor by which it shrinks; 0 starts again from 0. Of no use with a weight. */
  shrink: number;
  /** A handler idle for this long leaves the poll list; Infinity keeps it for ever. */
  idleNs: number;
  /**
   * How slowly the mean time between events follows: each event counts one part in 2 to the power
   * of this, 1 to 16. 0 keeps no mean but grows and shrinks.
   */
  weight: number;
}

/**
 * Parameters of a new context.
 *
 * @param processors how many this process may run on; with one, whoever is to make an event cannot
 *   while the loop polls for it, so polling is off
 */
export function defaultPollParams(processors = navigator.hardwareConcurrency): PollParams {
  return { maxNs: processors > 1 ? 32_768 : 0, grow: 0, shrink: 0, idleNs: 7e9, weight: 2 };
}

const WEIGHT_MAX = 16;
/**
 * A handler that is not polled for is again when its mean is at most maxNs; one that is polled for
 * is not any more above this many times maxNs. The mean of a sleeping loop includes what a wake-up
 * takes, 25 us in some virtual machines, so a lower bound could keep the loop asleep for ever.
 */
const GIVE_UP_FACTOR = 1.25;
/** A polling time is kept until one below this part of it would do. */
const KEEP_DIVISOR = 4;
/** Longer times between events count as this many times maxNs, so that a pause is soon forgotten. */
const INTERVAL_CAP = 2;

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

/**
 * The mean time between a handler's events after one more.
 *
 * @param averageNs the mean so far; 0: there is none
 * @param intervalNs how long the loop was blocked since the handler's event before, in ns
 * @param params the context's parameters, with a weight
 * @returns the new mean, in whole ns
 */
export function nextAverageNs(averageNs: number, intervalNs: number, params: PollParams): number {
  const cappedNs = Math.min(intervalNs, params.maxNs * INTERVAL_CAP);
  if (averageNs === 0) return Math.ceil(cappedNs);
  return Math.ceil(averageNs + (cappedNs - averageNs) / (1 << params.weight));
}

/**
 * The polling time of a handler with this mean time between events: a multiple of the mean, as
 * events do not come evenly, rounded up to a doubling of the shortest. It stays until the mean has
 * changed a good deal, as each change may let the loop look for the longest polling time anew.
 *
 * @param currentNs its polling time so far
 * @returns the new polling time, in ns; 0 where the mean is too long to poll for
 */
export function weightedPollNs(currentNs: number, averageNs: number, params: PollParams): number {
  const { maxNs, grow } = params;
  if (averageNs > (currentNs === 0 ? maxNs : maxNs * GIVE_UP_FACTOR)) return 0;
  const wantedNs = Math.min(averageNs * (grow === 0 ? DEFAULT_GROW : grow), maxNs);
  if (wantedNs <= currentNs && wantedNs > currentNs / KEEP_DIVISOR) return currentNs;
  let pollNs = POLL_START_NS;
  while (pollNs < wantedNs) pollNs *= 2;
  return Math.min(pollNs, maxNs);
}

/** Merges new parameters into the current ones. @throws {RangeError} naming the bad one */
export function mergePollParams(current: PollParams, changes: Partial<PollParams>): PollParams {
  if (typeof changes !== "object" || changes === null) {
    throw new TypeError(`Cannot set poll parameters as they are not an object: ${String(changes)}`);
  }
  const merged: PollParams = { ...current };
  for (const name of ["maxNs", "grow", "shrink", "idleNs", "weight"] as const) {
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
  if (merged.weight > WEIGHT_MAX) {
    throw new RangeError(
      `Cannot set poll parameter weight as it is above ${WEIGHT_MAX}: ${merged.weight}`,
    );
  }
  if (merged.grow === 1) {
    throw new RangeError("Cannot set poll parameter grow as a factor of 1 never grows: 1");
  }
  return merged;
}
