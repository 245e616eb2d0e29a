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
  /** The clock has thrown, or told no time, since the iteration began. */
  failed = false;
  /** C may read the clock on the loop's behalf while it spins. */
  readonly native: boolean;
  readonly #clock: Clock;
  readonly #system: SystemClock | null;
  readonly #report: (error: unknown) => void;
  #lastNs = 0;

  /**
   * @param clock the context's clock
   * @param report receives what is wrong with the clock
   */
  constructor(clock: Clock, report: (error: unknown) => void) {
    this.#clock = clock;
    this.#report = report;
    this.#system = clock instanceof SystemClock ? clock : null;
    this.native = this.#system !== null;
  }

  /** An iteration begins that may not sleep yet; it takes no time where that is of no use. */
  begin(timed: boolean): void {
    if (timed) this.start();
    else this.startNs = 0;
    this.endNs = this.startNs;
    this.timeoutNs = 0;
  }

  /** Takes what has passed off the timeout. */
  shortenTimeout(): void {
    if (this.timeoutNs <= 0) return;
    this.timeoutNs = Math.max(0, this.timeoutNs - (this.endNs - this.startNs));
  }

  /** Notes the beginning. */
  start(): void {
    this.failed = false;
    const system = this.#system;
    if (system !== null) {
      system.sample();
      this.startNs = system.sampled[0];
    } else {
      this.startNs = this.#read();
    }
  }

  /** Notes the end. */
  end(): void {
    const system = this.#system;
    if (system !== null) {
      system.sample();
      this.endNs = system.sampled[0];
    } else {
      this.endNs = this.#read();
    }
  }

  /** Notes the end of a spin, whose clock C has read. */
  endOfSpin(spin: Spin<unknown>): void {
    if (this.native) this.endNs = spin.times[SpinTime.end];
    else this.endNs = this.#read();
  }

  /** Reads a caller's clock. One that fails stands still, and the iteration goes on. */
  #read(): number {
    try {
      const nowNs = this.#clock.now();
      if (Number.isFinite(nowNs)) return this.#lastNs = nowNs;
      throw new TypeError(
        `Cannot use the clock as now() is not a finite number: ${Deno.inspect(nowNs)}`,
      );
    } catch (error) {
      this.failed = true;
      this.#report(error);
      return this.#lastNs;
    }
  }
}
