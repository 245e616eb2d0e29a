/** How far a measurement is, told every quarter of a second while it runs. */
import type { AioContext, Timer } from "../../mod.ts";

/** Reports how far a measurement is: what it does and the seconds left. */
export type ProgressListener = (phase: "idle interval" | "measuring", secondsLeft: number) => void;

const PROGRESS_NS = 250e6;

/** Tells, until it is disposed, how long it is to the window and then to its end. */
export class WindowProgress implements Disposable {
  /** When the window ends; null before it has begun. */
  endNs: number | null = null;
  readonly #timer: Timer | null = null;

  /**
   * @param startNs when the window is to begin; what is late has no time left
   * @param onProgress null where nobody wants to know
   */
  constructor(ctx: AioContext, startNs: number, onProgress: ProgressListener | null) {
    if (onProgress === null) return;
    const timer = ctx.timer(() => {
      const nowNs = ctx.now(), dueNs = this.endNs ?? startNs;
      const phase = this.endNs === null ? "idle interval" : "measuring";
      onProgress(phase, Math.max(0, dueNs - nowNs) / 1e9);
      timer.arm(nowNs + PROGRESS_NS);
    });
    timer.arm(ctx.now());
    this.#timer = timer;
  }

  [Symbol.dispose](): void {
    this.#timer?.cancel();
  }
}
