/**
 * The coroutines of one context: who lives there, who is about to be entered, whose error is still
 * to be told.
 *
 * One bottom half of the context enters what was scheduled before its pass, first scheduled first
 * entered; what is scheduled meanwhile waits for the next pass. Being entered only makes a promise
 * job due, so no coroutine runs inside the pass. Invariant: a coroutine that has not ended is a
 * member of exactly one home, unless that was disposed.
 */
import type { AioContext } from "./aio_context.ts";
import { type BottomHalfQueue, QueuedBottomHalf } from "./bottom_half.ts";
import type { CallbackErrors } from "./callback_errors.ts";
import { IntrusiveList, type ListLink } from "./intrusive_list.ts";
import type { Trace } from "./trace.ts";

/** What a home does with its members. */
export interface HomedCoroutine {
  /** Names it in trace events. */
  readonly id: number;
  /** Shown in trace events. */
  readonly name: string;
  /** Continues it, as it was scheduled. */
  enterScheduled(): void;
  /** Ends it where it has yielded or is scheduled, as its home is disposed. */
  abandon(): void;
}

/** The coroutines of one context. */
export class CoroutineHome {
  disposed = false;
  readonly trace: Trace;
  #context: AioContext | null = null;
  readonly #errors: CallbackErrors;
  readonly #half: QueuedBottomHalf;
  readonly #members = new IntrusiveList<HomedCoroutine>();
  readonly #scheduled = new IntrusiveList<HomedCoroutine>();
  /** Those that a pass is about to enter. */
  readonly #batch = new IntrusiveList<HomedCoroutine>();
  /** Errors that poll() is to throw. */
  readonly #failures: unknown[] = [];

  /** @param errors receives what coroutines throw that nobody has joined */
  constructor(bottomHalves: BottomHalfQueue, trace: Trace, errors: CallbackErrors) {
    this.trace = trace;
    this.#errors = errors;
    this.#half = new QueuedBottomHalf(bottomHalves, () => this.#run(), "coroutines");
  }

  /** The context whose home it is. */
  get context(): AioContext {
    return this.#context!;
  }

  /** Says whose home it is, from when on it is found. */
  giveTo(context: AioContext): void {
    this.#context = context;
    homes.set(context, this);
  }

  /** Coroutines that live here and have not ended. */
  get size(): number {
    return this.#members.size;
  }

  /** A coroutine lives here from now on. */
  add(member: ListLink<HomedCoroutine>): void {
    this.#members.append(member);
  }

  /** Has a coroutine entered in the next iteration. */
  schedule(place: ListLink<HomedCoroutine>): void {
    this.#scheduled.append(place);
    this.#half.schedule();
    if (!this.trace.wants("aio_co_schedule")) return;
    const { id, name } = place.member;
    this.trace.emit("aio_co_schedule", { co: id, name });
    // The coroutine is scheduled all the same; what its listener throws is poll()'s to tell.
    try {
      this.#errors.throwOutside();
    } catch (error) {
      this.fail(error);
    }
  }

  /**
   * Something has failed that nobody waits for: the next poll() is to throw the error. Where none is
   * to come any more, it becomes an unhandled rejection.
   */
  fail(error: unknown): void {
    if (this.disposed) return void Promise.reject(error);
    this.#failures.push(error);
    this.#half.schedule();
  }

  #run(): void {
    this.#reportFailures();
    this.#batch.takeAll(this.#scheduled);
    for (let next = this.#batch.shift(); next !== null; next = this.#batch.shift()) {
      // Before the trace is told: a listener that polls would have others entered first.
      next.enterScheduled();
      if (this.trace.wants("aio_co_schedule_bh_cb")) {
        this.trace.emit("aio_co_schedule_bh_cb", { co: next.id, name: next.name });
      }
    }
  }

  #reportFailures(): void {
    for (const error of this.#failures.splice(0)) this.#errors.report(error);
  }

  /** Ends those that have yielded or are scheduled; the others find out when they next yield. */
  dispose(): void {
    this.disposed = true;
    this.#reportFailures();
    for (let next = this.#members.shift(); next !== null; next = this.#members.shift()) {
      next.abandon();
    }
  }
}

/** Keyed by context, so that nothing else can pass for one. */
const homes = new WeakMap<object, CoroutineHome>();

/** The home of a context's coroutines; undefined for what is no context. */
export function findHome(context: unknown): CoroutineHome | undefined {
  return homes.get(context as object);
}
