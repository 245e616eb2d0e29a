/**
 * Waking a context from any thread: the announcement protocol and the handle other threads hold.
 *
 * Three words of the context's place on the board (ffi/board.ts). `notified` is set by any waker and
 * cleared by the loop; `notifyMe` is set by the loop while it is about to sleep or asleep, and by
 * nobody else; `users` counts threads inside a wake-up and carries a bit that says that the context
 * is disposed.
 *
 * Waker: notified = 1, then read notifyMe, and write the eventfd only if it is set. Loop:
 * notifyMe = 1, then read notified, and sleep only if it is clear. Each side stores before it
 * loads, and its load may not overtake its store: then at least one of the two sees the other, so
 * no wake-up is lost, and a loop that is awake costs its wakers no system call. Release and acquire
 * do not order a store with a later load; sequential consistency does, which Atomics have. On
 * x86-64, whose store buffer lets loads overtake, the store is an xchg (or mov and mfence), a full
 * barrier, and the load a plain mov. On arm64 the store is an stlr and the load an ldar, which may
 * not pass an earlier stlr; plain accesses take a dmb ish between them. tests/waker.c is the waker
 * in C; shim/selftest_ordering.c counts what is lost with and without the ordering.
 *
 * Clearing `notified` reads it in the same step: the loop then has what was posted before the
 * newest wake-up it clears, even where it looks at that with plain loads.
 */
import { Board, PlaceWord } from "../ffi/board.ts";
import { loadShim } from "../ffi/library.ts";
import type { Shim } from "../ffi/shim_symbols.ts";
import { System } from "../ffi/system.ts";

/**
 * A context as other threads know it: `ctx.remote()` returns it. It is made of numbers alone and can
 * be given to any Worker, for `wakeContext` and `ctx.peer` there.
 *
 * @typeParam Functions what the context exposes, for `peer`
 */
export interface RemoteContext<Functions = unknown> {
  /** Tells contexts of one copy of this library from those of another. */
  readonly board: number;
  /** Its place among the contexts of the process. */
  readonly place: number;
  /** Tells it from others that have had the place. */
  readonly generation: number;
  /** Never there: carries the type alone. */
  readonly functions?: Functions;
}

/** The loop's own end. */
export class ContextNotifier {
  readonly fd: number;
  readonly board: Board;
  /** Index of its place on the board. */
  readonly place: number;
  /** Called when a wake-up is accepted, from within an iteration; throws nothing. */
  accepted: (() => void) | null = null;
  readonly #words: Int32Array<ArrayBuffer>;
  readonly #notified: number;
  readonly #notifyMe: number;
  readonly #system: System;

  constructor(system: System, shim: Shim) {
    this.#system = system;
    this.fd = system.eventfd();
    this.board = Board.of(shim);
    try {
      this.place = this.board.claim(this.fd);
    } catch (error) {
      system.close(this.fd);
      throw error;
    }
    this.#words = this.board.words;
    this.#notified = this.place + PlaceWord.notified;
    this.#notifyMe = this.place + PlaceWord.notifyMe;
  }

  /** What other threads know it by. */
  get remote(): RemoteContext {
    const { board, place } = this;
    return { board: board.id, place, generation: board.generation(place) };
  }

  /** Address of the word that says whether it is notified. */
  get notifiedAddress(): bigint {
    return this.board.notifiedAddress(this.place);
  }

  /** Somebody called notify since the last `accept`. */
  get notified(): boolean {
    return Atomics.load(this.#words, this.#notified) !== 0;
  }

  /** Sets `notified`; on the loop's own thread the loop is awake, so there is no fd to write. */
  notify(): void {
    Atomics.store(this.#words, this.#notified, 1);
  }

  /** Something is new at a link of the context. */
  get hasNews(): boolean {
    return Atomics.load(this.#words, this.place + PlaceWord.groups) !== 0;
  }

  /** Announces the sleep; `notified` has to be looked at afterwards, never before. */
  announce(): void {
    Atomics.store(this.#words, this.#notifyMe, 1);
  }

  /** The loop is awake again. */
  withdraw(): void {
    // Nothing depends on when wakers see it: until then they write the eventfd in vain.
    this.#words[this.#notifyMe] = 0;
  }

  /** Clears `notified`, before the work it may stand for is looked for. */
  accept(): void {
    // A plain load is a tenth of an atomic one. A wake-up it comes too early for is accepted by the
    // next iteration, which does not sleep before.
    if (this.#words[this.#notified] === 0) return;
    Atomics.exchange(this.#words, this.#notified, 0);
    this.accepted?.();
  }

  /** Empties the eventfd. */
  drain(): void {
    this.#system.drain(this.fd);
  }

  /** Has further wake-ups learn that the context is gone, once those that have begun are over. */
  close(): void {
    this.board.close(this.place);
  }

  /** Gives all back. */
  dispose(): void {
    this.close();
    if (this.board.release(this.place)) this.#system.close(this.fd);
    else this.#system.disown(this.fd);
  }
}

/** What wakes contexts from this isolate. */
class Waker {
  readonly board: Board;
  readonly #system: System;
  readonly signal = (fd: number): void => this.#system.signal(fd);

  constructor(shim: Shim) {
    this.board = Board.of(shim);
    this.#system = new System(shim);
  }
}

let waker: Waker | null = null;

/**
 * Wakes a context, from any thread: a blocking poll() returns, or the next one does not block.
 * Costs a system call only if the context sleeps.
 *
 * @param remote what `ctx.remote()` returned
 * @returns false when the context is disposed
 * @throws {TypeError} when it is no such handle
 *
 * @example
 * ```ts
 * import { AioContext, wakeContext } from "@aio/context";
 * using ctx = new AioContext();
 * const remote = ctx.remote(); // postMessage this to a Worker
 * wakeContext(remote);
 * ctx.poll(true); // returns at once
 * ```
 */
export function wakeContext(remote: RemoteContext): boolean {
  waker ??= new Waker(loadShim());
  const { place, generation } = readRemote(remote, waker.board, "wake a context");
  return waker.board.wake(place, generation, waker.signal);
}

/**
 * Reads a handle, whose parts may be getters.
 *
 * @param what what it is for
 * @throws {TypeError} when it is none
 */
export function readRemote(remote: RemoteContext, ours: Board, what: string): RemoteContext {
  const { board, place, generation } = remote ?? {};
  // No context has had generation 0, which is that of a place not used yet.
  if (
    !ours.isPlace(place) || !Number.isInteger(generation) || generation === 0 ||
    typeof board !== "number"
  ) {
    throw new TypeError(`Cannot ${what} as the handle is not one of ctx.remote()`);
  }
  if (board !== ours.id) {
    throw new TypeError(
      `Cannot ${what} as the handle is of another process, or of another copy of this library`,
    );
  }
  return { board, place, generation };
}
