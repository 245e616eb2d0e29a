/**
 * Another context, as seen from this one: what it exposes can be called here by name.
 *
 * It owns one link, through which messages go without the help of Deno or the kernel; only a
 * context that sleeps is woken by a system call. Invariant: a call that was accepted is settled, with
 * an error at the latest when one of the two contexts ends or the peer is closed.
 */
import type { ContextMessages } from "./context_messages.ts";
import type { ClientEnd, ExposedFunction } from "./link_end.ts";
import { VALUES_MAX } from "./message_outlet.ts";

/** The names of the functions among what is exposed. */
export type FunctionName<Functions> =
  & {
    [Name in keyof Functions]: Functions[Name] extends ExposedFunction ? Name : never;
  }[keyof Functions]
  & string;

/** What a function is called with. */
export type ValuesOf<Exposed> = Exposed extends (...values: infer Values) => unknown ? Values
  : unknown[];

/** What a call of a function comes to. */
export type ResultOf<Exposed> = Exposed extends (...values: never[]) => infer Result
  ? Awaited<Result>
  : unknown;

/**
 * Another context, made by `ctx.peer`.
 *
 * @typeParam Functions what the other context exposes
 *
 * @example
 * ```ts
 * import { AioContext } from "@aio/context";
 * using ctx = new AioContext();
 * using other = new AioContext(); // In life it belongs to another thread.
 * other.attach();
 * const remote = other.expose({ add: (a: number, b: number) => a + b });
 * using peer = ctx.peer(remote);
 * console.log(await ctx.run(() => peer.call("add", 1, 2))); // 3
 * ```
 */
export class Peer<Functions = Readonly<Record<string, ExposedFunction>>> implements Disposable {
  readonly #messages: ContextMessages;
  readonly #end: ClientEnd;

  /** @internal For `ctx.peer`. */
  constructor(messages: ContextMessages, end: ClientEnd) {
    this.#messages = messages;
    this.#end = end;
  }

  /** Number of calls that have no result yet. */
  get outstanding(): number {
    return this.#end.outstanding;
  }

  /**
   * Calls a function of the other context, in its dispatch phase, as a bottom half: one-way.
   * Messages arrive in the order in which they are sent. What the function throws comes out of the
   * other context's poll().
   *
   * @param name under which it is exposed
   * @param values copied as by structuredClone, but no shared memory; numbers alone are fastest
   * @returns false where others wait for room, and this one is not sent: see `drained`
   * @throws {TypeError} when the other context is gone, or a value cannot be copied
   * @throws {RangeError} when the message is longer than 16 MiB
   */
  send<Name extends FunctionName<Functions>>(
    name: Name,
    ...values: ValuesOf<Functions[Name]>
  ): boolean {
    this.#check("send a message to", name, values);
    return this.#end.send(name, values);
  }

  /**
   * Calls a function of the other context, in its dispatch phase, and hands on what it returns, or
   * what the promise it returns comes to.
   *
   * @param name under which it is exposed
   * @param values copied as by structuredClone, but no shared memory; numbers alone are fastest
   * @throws what the function throws; TypeError when one of the contexts ends before; what `send`
   *   throws; {RangeError} when 65,536 calls have no result yet
   */
  call<Name extends FunctionName<Functions>>(
    name: Name,
    ...values: ValuesOf<Functions[Name]>
  ): Promise<ResultOf<Functions[Name]>> {
    try {
      this.#check("call a function of", name, values);
      const result = this.#end.call(name, values);
      this.#messages.called();
      return result as Promise<ResultOf<Functions[Name]>>;
    } catch (error) {
      return Promise.reject(error);
    }
  }

  /** Settles when nothing waits for room any more. */
  drained(): Promise<void> {
    return this.#end.outlet.drained();
  }

  /** Ends it: calls whose results have not come yet fail. */
  [Symbol.dispose](): void {
    this.#messages.close(this.#end);
  }

  #check(verb: string, name: unknown, values: readonly unknown[]): void {
    if (this.#end.ended) {
      throw new TypeError(`Cannot ${verb} the peer as it is closed, or its context disposed`);
    }
    if (typeof name !== "string") {
      throw new TypeError(`Cannot ${verb} the peer as the name is no string: ${typeof name}`);
    }
    if (values.length > VALUES_MAX) {
      throw new RangeError(`Cannot ${verb} the peer with more than ${VALUES_MAX} values`);
    }
  }
}
