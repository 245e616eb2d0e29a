/**
 * Time as a parameter: the loop reads a Clock and never the machine's clock itself.
 *
 * The system clock is CLOCK_MONOTONIC read through the shim. A ManualClock stands still until it
 * is moved, so that tests of intervals need no sleep.
 */
import { allocateNative } from "../ffi/memory.ts";
import type { Shim } from "../ffi/shim_symbols.ts";

/** A source of time in nanoseconds since an arbitrary start; never goes back. */
export interface Clock {
  /** The time now, in ns. */
  now(): number;
}

/** CLOCK_MONOTONIC. */
export class SystemClock implements Clock {
  /** The time of the last `sample`, in ns. */
  readonly sampled: Float64Array<ArrayBuffer>;
  readonly #pointer: Deno.PointerValue;
  readonly #now: () => number;
  readonly #nowInto: (nowNs: Deno.PointerValue) => void;

  constructor(shim: Shim) {
    const { f64, pointer } = allocateNative(8);
    this.sampled = f64;
    this.#pointer = pointer;
    this.#now = shim.aio_now;
    this.#nowInto = shim.aio_now_into;
  }

  /** Reads the clock without allocating the number that `now` returns. */
  sample(): void {
    this.#nowInto(this.#pointer);
  }

  now(): number {
    return this.#now();
  }
}

/**
 * A clock that moves only when told to, for tests.
 *
 * @example
 * ```ts
 * import { ManualClock } from "@aio/context";
 * const clock = new ManualClock();
 * clock.advance(7e9);
 * console.log(clock.now()); // 7000000000
 * ```
 */
export class ManualClock implements Clock {
  #nowNs: number;
  readonly #stepNs: number;

  /**
   * Makes a clock that stands still.
   *
   * @param startNs first reading
   * @param stepNs how far every reading moves it; above 0, so that a polling loop ends by itself
   * @throws {RangeError} when one of them is not a number of ns
   */
  constructor(startNs = 1e9, stepNs = 1) {
    requireNs(startNs, "start");
    requireNs(stepNs, "step");
    if (stepNs === 0) {
      throw new RangeError(`Cannot make a clock as its step is not > 0: ${stepNs}`);
    }
    this.#nowNs = startNs;
    this.#stepNs = stepNs;
  }

  /** The time now, in ns; moves it by one step. */
  now(): number {
    return this.#nowNs += this.#stepNs;
  }

  /** Moves the clock forward by this many ns. */
  advance(ns: number): void {
    requireNs(ns, "advance");
    this.#nowNs += ns;
  }
}

function requireNs(value: number, what: string): void {
  if (typeof value !== "number" || !(value >= 0) || !Number.isFinite(value)) {
    throw new RangeError(`Cannot set the clock as ${what} is not a time in ns: ${String(value)}`);
  }
}
