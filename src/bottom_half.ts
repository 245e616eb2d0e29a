/**
 * Bottom halves: callbacks that run once in the next iteration, first scheduled first run.
 *
 * A pass takes everything scheduled before it began; what is scheduled meanwhile waits for the
 * next pass, so a bottom half that schedules itself runs once per poll(). A nested pass runs the
 * outer one's leftovers first: both draw from the same batch.
 */
import { IntrusiveList, ListLink } from "./intrusive_list.ts";
import type { Trace } from "./trace.ts";

/** How long the loop sleeps at most while idle bottom halves wait. */
export const IDLE_BOTTOM_HALF_NS = 10e6;

/** Options of a bottom half. */
export interface BottomHalfOptions {
  /** Shown in error messages. */
  name?: string;
}

/** A callback that can be scheduled; made by `ctx.bottomHalf`. */
export interface BottomHalf {
  /** Shown in error messages. */
  readonly name: string;
  /** Whether it waits to be run. */
  readonly scheduled: boolean;
  /**
   * Has it run in the next iteration, once however often that is asked before.
   *
   * @throws {TypeError} when it was deleted
   */
  schedule(): void;
  /** As `schedule`, but it does not count as progress and the loop may sleep for 10 ms before. */
  scheduleIdle(): void;
  /** Takes a schedule back. */
  cancel(): void;
  /** Takes a schedule back and allows no other. */
  delete(): void;
}

/** A bottom half on the queue of its context. */
export class QueuedBottomHalf implements BottomHalf {
  readonly name: string;
  readonly #queue: BottomHalfQueue;
  readonly #callback: () => void;
  readonly #link = new ListLink<QueuedBottomHalf>(this);
  #idle = false;
  #deleted = false;

  constructor(queue: BottomHalfQueue, callback: () => void, name: string) {
    this.#queue = queue;
    this.#callback = callback;
    this.name = name;
  }

  get scheduled(): boolean {
    return this.#link.list !== null;
  }

  schedule(): void {
    this.#add(false);
  }

  scheduleIdle(): void {
    this.#add(true);
  }

  cancel(): void {
    if (this.#link.list === null) return;
    this.#link.list.remove(this.#link);
    this.#queue.removed(this.#idle);
  }

  delete(): void {
    this.cancel();
    this.#deleted = true;
  }

  /**
   * Runs it; called by the queue with the link already taken off. True when it is progress.
   *
   * @param stopped asked once the listeners of the trace, who may end everything, have been told
   */
  run(trace: Trace, stopped: () => boolean): boolean {
    const idle = this.#idle;
    this.#queue.removed(idle);
    if (trace.active) return this.#runTraced(trace, stopped) && !idle;
    this.#callback();
    return !idle;
  }

  #runTraced(trace: Trace, stopped: () => boolean): boolean {
    trace.beginCallback("bottomHalf", null, this.name);
    try {
      if (this.#deleted || stopped()) return false;
      this.#callback();
      return true;
    } finally {
      trace.endCallback("bottomHalf", null, this.name);
    }
  }

  #add(idle: boolean): void {
    if (this.#deleted) {
      throw new TypeError(`Cannot schedule bottom half as it was deleted: ${this.name}`);
    }
    if (this.scheduled) {
      // Urgent wins over idle, whichever came first.
      if (idle || !this.#idle) return;
      this.cancel();
    }
    this.#idle = idle;
    this.#queue.added(this.#link, idle);
  }
}

/** The bottom halves of one context. */
export class BottomHalfQueue {
  /** Scheduled ones that are not idle. */
  urgentCount = 0;
  /** Scheduled idle ones. */
  idleCount = 0;
  readonly #scheduled = new IntrusiveList<QueuedBottomHalf>();
  readonly #batch = new IntrusiveList<QueuedBottomHalf>();
  readonly #changed: () => void;
  readonly #trace: Trace;
  readonly #report: (error: unknown) => void;

  /**
   * @param changed called when the loop must not sleep any more
   * @param report receives what bottom halves throw
   */
  constructor(changed: () => void, trace: Trace, report: (error: unknown) => void) {
    this.#changed = changed;
    this.#trace = trace;
    this.#report = report;
  }

  added(link: ListLink<QueuedBottomHalf>, idle: boolean): void {
    this.#scheduled.append(link);
    if (idle) this.idleCount++;
    else this.urgentCount++;
    this.#changed();
  }

  removed(idle: boolean): void {
    if (idle) this.idleCount--;
    else this.urgentCount--;
  }

  /**
   * Runs what was scheduled before.
   *
   * @param stopped asked before each one; true ends the pass
   * @returns true when one that is not idle ran
   */
  run(stopped: () => boolean): boolean {
    if (this.urgentCount + this.idleCount === 0) return false;
    let progress = false;
    this.#batch.takeAll(this.#scheduled);
    for (let half = this.#batch.shift(); half !== null; half = this.#batch.shift()) {
      try {
        progress = half.run(this.#trace, stopped) || progress;
      } catch (error) {
        progress = true;
        this.#report(error);
      }
      if (stopped()) break;
    }
    return progress;
  }

  /** Cancels everything. */
  clear(): void {
    this.#batch.takeAll(this.#scheduled);
    for (let link = this.#batch.first; link !== null; link = this.#batch.first) {
      link.member.cancel();
    }
  }
}
