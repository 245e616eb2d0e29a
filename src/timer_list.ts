/**
 * Timers in a binary heap, ordered by deadline; equal deadlines fire in the order of arming.
 *
 * Each timer knows its place, so cancelling is as cheap as arming. A run takes one clock sample,
 * moves everything due to a list and fires from there: a callback that arms its timer again for
 * the past fires in the next run, not for ever in this one, and a nested run fires the outer
 * one's leftovers.
 */
import { IntrusiveList, ListLink } from "./intrusive_list.ts";
import type { Trace } from "./trace.ts";

/** Fires a callback once its deadline has passed; made by `ctx.timer`. */
export interface Timer {
  /** Absolute deadline in ns of the context's clock, of the last `arm`. */
  readonly deadlineNs: number;
  /** Whether it waits for its deadline or its turn. */
  readonly armed: boolean;
  /**
   * Sets the deadline, in place of an earlier one.
   *
   * @param deadlineNs absolute, in ns of `ctx.now()`; one in the past fires in the next iteration
   * @throws {RangeError} when it is not a finite number >= 0
   */
  arm(deadlineNs: number): void;
  /** Disarms it; it will not fire. */
  cancel(): void;
}

/** A timer on the list of its context. */
export class ListedTimer implements Timer {
  /** Owned by the list: the deadline; place in the heap, -1 when not there; order of arming. */
  dueNs = 0;
  heapIndex = -1;
  sequence = 0;
  readonly dueLink: ListLink<ListedTimer> = new ListLink<ListedTimer>(this);
  /** Owned by the list: what to call. */
  readonly callback: () => void;
  readonly #list: TimerList;

  constructor(list: TimerList, callback: () => void) {
    this.#list = list;
    this.callback = callback;
  }

  get deadlineNs(): number {
    return this.dueNs;
  }

  get armed(): boolean {
    return this.heapIndex !== -1 || this.dueLink.list !== null;
  }

  arm(deadlineNs: number): void {
    if (typeof deadlineNs !== "number" || !(deadlineNs >= 0) || !Number.isFinite(deadlineNs)) {
      throw new RangeError(
        `Cannot arm a timer as its deadline is not a time in ns: ${String(deadlineNs)}`,
      );
    }
    this.cancel();
    this.#list.insert(this, deadlineNs);
  }

  cancel(): void {
    this.#list.remove(this);
  }
}

/** The timers of one context. */
export class TimerList {
  /** The next deadline in ns; 0 when one is due already, Infinity when there is none. */
  soonestNs = Infinity;
  readonly #heap: ListedTimer[] = [];
  readonly #due = new IntrusiveList<ListedTimer>();
  readonly #changed: () => void;
  readonly #trace: Trace;
  readonly #report: (error: unknown) => void;
  #sequence = 0;

  /**
   * @param changed called when the loop may have to wake earlier
   * @param report receives what callbacks throw
   */
  constructor(changed: () => void, trace: Trace, report: (error: unknown) => void) {
    this.#changed = changed;
    this.#trace = trace;
    this.#report = report;
  }

  /** Armed timers. */
  get size(): number {
    return this.#heap.length + this.#due.size;
  }

  insert(timer: ListedTimer, deadlineNs: number): void {
    timer.dueNs = deadlineNs;
    timer.sequence = this.#sequence++;
    timer.heapIndex = this.#heap.push(timer) - 1;
    this.#siftUp(timer);
    if (timer.heapIndex !== 0) return;
    this.#noteSoonest();
    this.#changed();
  }

  remove(timer: ListedTimer): void {
    if (timer.dueLink.list !== null) this.#due.remove(timer.dueLink);
    if (timer.heapIndex !== -1) this.#removeAt(timer.heapIndex);
    this.#noteSoonest();
  }

  /**
   * Fires what is due.
   *
   * @param nowNs the one clock sample of this run
   * @param stopped asked after each one; true ends the run
   * @returns true when a timer fired
   */
  run(nowNs: number, stopped: () => boolean): boolean {
    while (this.#heap.length !== 0 && this.#heap[0].dueNs <= nowNs) {
      const timer = this.#heap[0];
      this.#removeAt(0);
      this.#due.append(timer.dueLink);
    }
    let progress = false;
    for (let timer = this.#due.shift(); timer !== null; timer = this.#due.shift()) {
      progress = true;
      this.#noteSoonest();
      const traced = this.#trace.active;
      if (traced) this.#trace.beginCallback("timer", null);
      try {
        if (!traced || !stopped()) timer.callback();
      } catch (error) {
        this.#report(error);
      }
      if (traced) this.#trace.endCallback("timer", null);
      if (stopped()) break;
    }
    return progress;
  }

  /** Disarms all. */
  clear(): void {
    for (const timer of this.#heap) timer.heapIndex = -1;
    this.#heap.length = 0;
    while (this.#due.shift() !== null);
    this.#noteSoonest();
  }

  #noteSoonest(): void {
    if (this.#due.size !== 0) this.soonestNs = 0;
    else this.soonestNs = this.#heap.length === 0 ? Infinity : this.#heap[0].dueNs;
  }

  #removeAt(index: number): void {
    const heap = this.#heap;
    heap[index].heapIndex = -1;
    const last = heap.pop()!;
    if (index === heap.length) return;
    heap[index] = last;
    last.heapIndex = index;
    this.#siftUp(last);
    this.#siftDown(last);
  }

  #siftUp(timer: ListedTimer): void {
    const heap = this.#heap;
    let index = timer.heapIndex;
    while (index > 0) {
      const parent = heap[(index - 1) >> 1];
      if (!isBefore(timer, parent)) break;
      heap[index] = parent;
      const parentIndex = parent.heapIndex;
      parent.heapIndex = index;
      index = parentIndex;
    }
    heap[index] = timer;
    timer.heapIndex = index;
  }

  #siftDown(timer: ListedTimer): void {
    const heap = this.#heap;
    let index = timer.heapIndex;
    for (;;) {
      let child = index * 2 + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && isBefore(heap[child + 1], heap[child])) child++;
      const other = heap[child];
      if (!isBefore(other, timer)) break;
      heap[index] = other;
      other.heapIndex = index;
      index = child;
    }
    heap[index] = timer;
    timer.heapIndex = index;
  }
}

function isBefore(a: ListedTimer, b: ListedTimer): boolean {
  return a.dueNs < b.dueNs ||
    (a.dueNs === b.dueNs && a.sequence < b.sequence);
}
