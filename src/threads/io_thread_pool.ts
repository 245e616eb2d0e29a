/**
 * Several IOThreads that do the same, and who gets what: devices or connections are spread over
 * them, each to stay with one, and single calls go to whoever the policy says.
 *
 * The load of a thread is what is assigned to it, plus the calls made through the pool's process that
 * have no result yet. Invariant: an assignment counts until it is released, once.
 */
import { getAffinity } from "../../ffi/affinity.ts";
import { loadShim } from "../../ffi/library.ts";
import type { AioStats } from "../context_types.ts";
import { IOThread } from "./io_thread.ts";
import type { FunctionsOf, IOThreadMain, IOThreadOptions } from "./io_thread_types.ts";
import type { ExposedFunction } from "./link_end.ts";
import type { FunctionName, ResultOf, ValuesOf } from "./peer.ts";

/** Most threads of a pool. */
const THREADS_MAX = 256;

/** Who is next: each in turn, or the one with the least load, the first of those. */
export type PoolPolicy = "roundRobin" | "leastLoaded";

/** Options of a pool. */
export interface IOThreadPoolOptions<Data = unknown>
  extends Omit<IOThreadOptions<Data>, "processors" | "transfer"> {
  /** How many threads; as many as this thread may use processors where not given. */
  readonly threads?: number;
  /** `"leastLoaded"` where not given. */
  readonly policy?: PoolPolicy;
  /** Puts each thread on a processor of its own, as far as there are enough. */
  readonly pin?: boolean;
}

/** A thread that something was assigned to, until it is released. */
export class PoolAssignment<Functions> implements Disposable {
  /** The thread. */
  readonly thread: IOThread<Functions>;
  #member: Member<Functions> | null;

  /** @internal For the pool. */
  constructor(member: Member<Functions>) {
    this.thread = member.thread;
    this.#member = member;
    member.assigned++;
  }

  /** It does not count any more. Doing that twice is harmless. */
  [Symbol.dispose](): void {
    if (this.#member !== null) this.#member.assigned--;
    this.#member = null;
  }
}

/** A thread and what was assigned to it. */
interface Member<Functions> {
  readonly thread: IOThread<Functions>;
  assigned: number;
}

/**
 * Several IOThreads that do the same.
 *
 * @typeParam Functions what each can do
 *
 * @example
 * ```ts
 * import { IOThreadPool } from "@aio/context";
 * const module = "data:text/javascript,export default ({ name }) => ({ who: () => name })";
 * await using pool = await IOThreadPool.start(module, { threads: 2, policy: "roundRobin" });
 * console.log(await Promise.all([pool.call("who"), pool.call("who")]));
 * // [ "IOThread0", "IOThread1" ]
 * ```
 */
export class IOThreadPool<Functions = Readonly<Record<string, ExposedFunction>>>
  implements AsyncDisposable {
  readonly #members: readonly Member<Functions>[];
  readonly #policy: PoolPolicy;
  #next = 0;

  private constructor(threads: readonly IOThread<Functions>[], policy: PoolPolicy) {
    this.#members = threads.map((thread) => ({ thread, assigned: 0 }));
    this.#policy = policy;
  }

  /**
   * Starts the threads; if one of them fails to, none is left.
   *
   * @param module as of `IOThread.start`
   * @param options how many, the policy, and what each is started with; their number is added to
   *   the name
   */
  static async start<Main extends IOThreadMain>(
    module: string | URL,
    options: IOThreadPoolOptions<Parameters<Main>[1]> = {},
  ): Promise<IOThreadPool<FunctionsOf<Main>>> {
    const { threads, policy = "leastLoaded", pin = false, name = "IOThread", ...others } = options;
    const processors = getAffinity(loadShim({ shim: options.shim }));
    const count = threads ?? processors.length;
    if (!Number.isInteger(count) || count < 1 || count > THREADS_MAX) {
      throw new RangeError(
        `Cannot start a pool as its number of threads is not 1 to ${THREADS_MAX}: ${count}`,
      );
    }
    if (policy !== "roundRobin" && policy !== "leastLoaded") {
      throw new TypeError(`Cannot start a pool as there is no such policy: ${String(policy)}`);
    }
    const started = await Promise.allSettled(
      Array.from({ length: count }, (_, index) =>
        IOThread.start<Main>(module, {
          ...others,
          name: `${name}${index}`,
          processors: pin ? [processors[index % processors.length]] : [],
        })),
    );
    const running = started.flatMap((one) => one.status === "fulfilled" ? [one.value] : []);
    const failed = started.find((one) => one.status === "rejected");
    if (failed !== undefined) {
      await Promise.allSettled(running.map((thread) => thread.terminate()));
      throw failed.reason;
    }
    return new IOThreadPool(running, policy);
  }

  /** Its threads. */
  get threads(): IOThread<Functions>[] {
    return this.#members.map(({ thread }) => thread);
  }

  /** What each has to do: assignments and calls without a result. */
  get loads(): number[] {
    return this.#members.map(loadOf);
  }

  /** Assigns something that stays, as a device or a connection, to a thread. */
  assign(): PoolAssignment<Functions> {
    return new PoolAssignment(this.#pick());
  }

  /** Calls a function of whichever thread is next. */
  call<Name extends FunctionName<Functions>>(
    name: Name,
    ...values: ValuesOf<Functions[Name]>
  ): Promise<ResultOf<Functions[Name]>> {
    try {
      return this.#pick().thread.call(name, ...values);
    } catch (error) {
      return Promise.reject(error);
    }
  }

  /** Counters of each thread's context. */
  stats(): Promise<AioStats[]> {
    return Promise.all(this.#members.map(({ thread }) => thread.stats()));
  }

  /** Ends all in good order. */
  async stop(): Promise<void> {
    await this.#endAll((thread) => thread.stop());
  }

  /** Ends all at once. */
  async terminate(): Promise<void> {
    await this.#endAll((thread) => thread.terminate());
  }

  /** Stops all. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  /** Waits for all, also where one has failed. */
  async #endAll(end: (thread: IOThread<Functions>) => Promise<void>): Promise<void> {
    const ends = await Promise.allSettled(this.#members.map(({ thread }) => end(thread)));
    const errors = ends.flatMap((one) => one.status === "rejected" ? [one.reason] : []);
    if (errors.length === 1) throw errors[0];
    if (errors.length > 1) {
      throw new AggregateError(errors, `${errors.length} threads of a pool failed`);
    }
  }

  /** The member that is next; one that has ended never is. */
  #pick(): Member<Functions> {
    const running = this.#members.filter(({ thread }) => thread.running);
    if (running.length === 0) throw new TypeError("Cannot use a pool as its threads have ended");
    if (this.#policy === "leastLoaded") {
      return running.reduce((best, member) => loadOf(member) < loadOf(best) ? member : best);
    }
    return running[this.#next++ % running.length];
  }
}

function loadOf<Functions>({ thread, assigned }: Member<Functions>): number {
  return assigned + thread.outstanding;
}
