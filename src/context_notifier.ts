/**
 * Waking a context from any thread: the announcement protocol and the handle other threads hold.
 *
 * Four shared words. `notified` is set by any waker and cleared by the loop; `notifyMe` is set by
 * the loop while it is about to sleep or asleep, and by nobody else; `users` counts threads inside
 * a wake-up and carries the CLOSED bit once the context is disposed; `fd` is the eventfd again, so
 * that a handle put together by hand is told from a real one.
 *
 * Waker: notified = 1, then read notifyMe, and write the eventfd only if it is set. Loop:
 * notifyMe = 1, then read notified, and sleep only if it is clear. Each side stores before it
 * loads, and its load may not overtake its store: then at least one of the two sees the other, so
 * no wake-up is lost, and a loop that is awake costs its wakers no system call. Release and acquire
 * do not order a store with a later load; sequential consistency does, which Atomics have. On
 * x86-64, whose store buffer lets loads overtake, the store is an xchg (or mov and mfence), a full
 * barrier, and the load a plain mov. On arm64 the store is an stlr and the load an ldar, which may
 * not pass an earlier stlr; plain accesses take a dmb ish between them. tests/waker.c is the waker
 * in C; shim/selftest.c counts what is lost with and without the ordering.
 *
 * Clearing `notified` reads it in the same step: the loop then has what was posted before the
 * newest wake-up it clears, even where it looks at that with plain loads.
 */
import { loadShim } from "../ffi/library.ts";
import { System } from "../ffi/system.ts";

const NOTIFIED = 0;
const NOTIFY_ME = 1;
const USERS = 2;
const FD = 3;
const WORDS = 4;

/** Sign bit of `users`: the eventfd is closed or about to be. */
const CLOSED = 0x8000_0000 | 0;

/**
 * How long dispose() waits for threads inside a wake-up. Each needs a system call's time; one that
 * was terminated there never leaves.
 */
const USERS_GONE_NS = 1e9;

/** What `ctx.remote()` returns: can be posted to any Worker, for `wakeContext` there. */
export interface RemoteContext {
  /** The shared words of the notifier. */
  readonly words: Int32Array<SharedArrayBuffer>;
  /** The eventfd of the context; only `wakeContext` may use it. */
  readonly fd: number;
}

/** The loop's own end. */
export class ContextNotifier {
  readonly fd: number;
  readonly words = new Int32Array(new SharedArrayBuffer(WORDS * 4));
  readonly #system: System;

  constructor(system: System) {
    this.#system = system;
    this.fd = system.eventfd();
    this.words[FD] = this.fd;
  }

  /** Somebody called notify since the last `accept`. */
  get notified(): boolean {
    return Atomics.load(this.words, NOTIFIED) !== 0;
  }

  /** Sets `notified`; on the loop's own thread the loop is awake, so there is no fd to write. */
  notify(): void {
    Atomics.store(this.words, NOTIFIED, 1);
  }

  /** Announces the sleep; `notified` has to be looked at afterwards, never before. */
  announce(): void {
    Atomics.store(this.words, NOTIFY_ME, 1);
  }

  /** The loop is awake again. */
  withdraw(): void {
    // Nothing depends on when wakers see it: until then they write the eventfd in vain.
    this.words[NOTIFY_ME] = 0;
  }

  /** Clears `notified`, before the work it may stand for is looked for. */
  accept(): void {
    // A plain load is a tenth of an atomic one. A wake-up it comes too early for is accepted by the
    // next iteration, which does not sleep before.
    if (this.words[NOTIFIED] !== 0) Atomics.exchange(this.words, NOTIFIED, 0);
  }

  /** Empties the eventfd. */
  drain(): void {
    this.#system.drain(this.fd);
  }

  /**
   * Waits for wakers that are inside `wakeContext`, and closes. Where one never leaves, the eventfd
   * stays open: its number must not become somebody else's while that one may still write to it.
   */
  dispose(): void {
    let users = Atomics.or(this.words, USERS, CLOSED);
    const untilNs = this.#system.now() + USERS_GONE_NS;
    while ((users & ~CLOSED) !== 0) {
      if (this.#system.now() > untilNs) return;
      users = Atomics.load(this.words, USERS);
    }
    this.#system.close(this.fd);
  }
}

let wakeSystem: System | null = null;

/**
 * Wakes a context, from any thread: a blocking poll() returns, or the next one does not block.
 * Costs a system call only if the context sleeps.
 *
 * A handle is checked for being whole, not for being genuine: whoever makes up both its parts can
 * have eight bytes written to any fd of this process, as whoever may call C can anyway.
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
  const words = remote?.words, fd = remote?.fd;
  if (!isWords(words) || !Number.isInteger(fd) || fd < 0 || words[FD] !== fd) {
    throw new TypeError("Cannot wake a context as the handle is not one of ctx.remote()");
  }
  wakeSystem ??= new System(loadShim());
  // While `users` counts this thread the eventfd stays open; its partner is dispose().
  const users = Atomics.add(words, USERS, 1);
  try {
    if ((users & CLOSED) !== 0) return false;
    Atomics.store(words, NOTIFIED, 1);
    if (Atomics.load(words, NOTIFY_ME) !== 0) wakeSystem.signal(fd);
    return true;
  } finally {
    Atomics.sub(words, USERS, 1);
  }
}

// The getters of the engine, which nobody can forge as they can a prototype.
const typedArray = Object.getPrototypeOf(Int32Array.prototype);
const tagOf = Object.getOwnPropertyDescriptor(typedArray, Symbol.toStringTag)!.get!;
const bufferOf = Object.getOwnPropertyDescriptor(typedArray, "buffer")!.get!;
const lengthOf = Object.getOwnPropertyDescriptor(typedArray, "length")!.get!;

function isWords(words: unknown): words is Int32Array<SharedArrayBuffer> {
  return tagOf.call(words) === "Int32Array" && lengthOf.call(words) === WORDS &&
    bufferOf.call(words) instanceof SharedArrayBuffer;
}
