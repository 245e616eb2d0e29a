/**
 * Promises that wait in a line, as in front of a lock: the one that came first is served first.
 *
 * Whoever serves one takes it out of the line and settles it, so nobody who comes later can get in
 * between. A signal takes its waiter out wherever it stands; once it is served, its signal says
 * nothing any more. Invariant: a waiter is in the line, or it is settled or about to be.
 */
import type { RequestOptions } from "./io/operation.ts";
import { IntrusiveList, ListLink } from "./intrusive_list.ts";

/** One that waits, and what it has brought. */
class Waiter<Value, Cargo> {
  readonly cargo: Cargo;
  readonly resolve: (value: Value) => void;
  readonly reject: (error: unknown) => void;
  readonly link: ListLink<Waiter<Value, Cargo>> = new ListLink<Waiter<Value, Cargo>>(this);
  readonly #signal: AbortSignal | null;

  constructor(
    cargo: Cargo,
    signal: AbortSignal | null,
    resolve: (value: Value) => void,
    reject: (error: unknown) => void,
  ) {
    this.cargo = cargo;
    this.resolve = resolve;
    this.reject = reject;
    this.#signal = signal;
    signal?.addEventListener("abort", this.#leave);
  }

  readonly #leave = (): void => {
    this.link.list?.remove(this.link);
    this.reject(this.#signal!.reason);
  };

  /** It is served. */
  forgetSignal(): void {
    this.#signal?.removeEventListener("abort", this.#leave);
  }
}

/** A line. `Value` is what is waited for, `Cargo` what those who wait bring. */
export class WaitList<Value, Cargo = undefined> {
  readonly #line = new IntrusiveList<Waiter<Value, Cargo>>();

  /** How many wait. */
  get size(): number {
    return this.#line.size;
  }

  /** Waits, in the last place; `signal` has not been aborted. */
  wait(cargo: Cargo, signal: AbortSignal | null): Promise<Value> {
    return new Promise<Value>((resolve, reject) => {
      this.#line.append(new Waiter<Value, Cargo>(cargo, signal, resolve, reject).link);
    });
  }

  /** Takes out the first one, who is then to be settled; null where nobody waits. */
  shift(): Pick<Waiter<Value, Cargo>, "cargo" | "resolve" | "reject"> | null {
    const waiter = this.#line.shift();
    waiter?.forgetSignal();
    return waiter;
  }
}

/**
 * The signal of some options, null where there is none.
 *
 * @throws {TypeError} for what is no signal, or the reason of one that was aborted
 */
export function readSignal(verb: string, options: RequestOptions | undefined): AbortSignal | null {
  const signal = options?.signal;
  if (signal === undefined) return null;
  if (!(signal instanceof AbortSignal)) {
    throw new TypeError(`Cannot ${verb} as the signal is no AbortSignal: ${typeof signal}`);
  }
  signal.throwIfAborted();
  return signal;
}
