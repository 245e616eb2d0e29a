/**
 * The times of the iteration that runs.
 *
 * They are fields of an object all parts of the loop share, because V8 boxes a double that crosses
 * a call, and an iteration allocates nothing once warm. For the same reason the system's clock is
 * read into memory here and not returned. A nested iteration overwrites them with later ones; the
 * context sees to it that the outer one does not sleep on those.
 */
import { type Spin, SpinTime } from "../ffi/spin.ts";
import { type Clock, SystemClock } from "./clock.ts";

/** In ns of the context's clock. */
export class IterationTimes {
  /** Beginning, before anything was polled; 0 with no timers, and where nothing may block. */
  startNs = 0;
  /** End of polling, or of the wait; 0 as above. */
  endNs = 0;
  /** How long it may still sleep; negative: for ever. */
  timeoutNs = 0;
  /** C may read the clock on the loop's behalf while it spins. */
  readonly native: boolean;
  readonly #clock: Clock;
  readonly #system: SystemClock | null;

  /** @param clock the context's clock */
  constructor(clock: Clock) {
    this.#clock = clock;
    this.#system = clock instanceof SystemClock ? clock : null;
    this.native = this.#system !== null;
  }

  /** Notes the beginning. */
  start(): void {
    const system = this.#system;
    if (system !== null) {
      system.sample();
      this.startNs = system.sampled[0];
    } else {
      this.startNs = this.#clock.now();
    }
  }

  /** Notes the end. */
  end(): void {
    const system = this.#system;
    if (system !== null) {
      system.sample();
      this.endNs = system.sampled[0];
    } else {
      this.endNs = this.#clock.now();
    }
  }

  /** Notes the end of a spin, whose clock C has read. */
  endOfSpin(spin: Spin<unknown>): void {
    if (this.native) this.endNs = spin.times[SpinTime.end];
    else this.endNs = this.#clock.now();
  }
}
