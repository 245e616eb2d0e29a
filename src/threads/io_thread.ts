/**
 * IOThread: a thread with a context of its own, as QEMU has them for its devices.
 *
 * It owns a Worker (io_thread_entry.ts runs in it) and a peer of its context. What the thread can do is
 * what the default function of a module returns; it is called by name from any context of the process.
 * Deno's own messages are used to begin and to learn of the end alone.
 *
 * Invariant: once `join` settles the thread is gone, with all fds and memory its context had.
 */
import { loadShim } from "../../ffi/library.ts";
import type { Shim } from "../../ffi/shim_symbols.ts";
import { AioContext } from "../aio_context.ts";
import type { RemoteContext } from "../context_notifier.ts";
import type { AioStats } from "../context_types.ts";
import type { PollParams } from "../polling_time.ts";
import type { RunScope } from "../runner.ts";
import type { TraceEvents, TraceName } from "../trace.ts";
import { acquireHomeContext, releaseHomeContext } from "./home_context.ts";
import type {
  ThreadContextOptions,
  ThreadControls,
  ThreadOrder,
  ThreadReport,
} from "./io_thread_protocol.ts";
import type { ExposedFunction } from "./link_end.ts";
import type { FunctionName, Peer, ResultOf, ValuesOf } from "./peer.ts";
import { reapThread } from "./thread_remains.ts";
import { receiveTrace } from "./trace_receiver.ts";

/** How long a thread that was told to end may take for it. */
const GRACE_MS = 1_000;
/** How often it is looked whether a thread is gone that has to be, and one that should not be. */
const GONE_MS = 1, ALIVE_MS = 200;

/** What the function of a thread is given: its context, name, and `host` of `ctx.run`. */
export interface IOThreadScope extends RunScope {
  /** The context that has the thread. */
  readonly ctx: AioContext;
  /** The name that the thread was given. */
  readonly name: string;
}

/** What a thread can do, by name; with Symbol.asyncDispose, how it ends what it has begun. */
export type ThreadFunctions =
  & Readonly<Record<string, ExposedFunction>>
  & Partial<AsyncDisposable>
  & Partial<Disposable>;

/** The default function of a thread's module. */
// deno-lint-ignore no-explicit-any
export type IOThreadMain<Data = any, Functions = any> = (
  scope: IOThreadScope,
  data: Data,
) => Functions | Promise<Functions>;

/** What the main function of a thread returns. */
export type FunctionsOf<Main extends IOThreadMain> = Awaited<ReturnType<Main>>;

/** Options of an IOThread. */
export interface IOThreadOptions<Data = unknown> extends ThreadContextOptions {
  /** Shown in errors and by debuggers; "IOThread" where not given. */
  readonly name?: string;
  /** Handed to the module's function, as postMessage would: shared memory is shared. */
  readonly data?: Data;
  /** What of the data is transferred instead of copied. */
  readonly transfer?: Transferable[];
  /** Numbers of the processors it runs on; any that this thread may use where not given. */
  readonly processors?: readonly number[];
  /** The context that calls it; where not given, one that is attached to Deno's loop. */
  readonly context?: AioContext;
  /** Ends the thread while it starts. */
  readonly signal?: AbortSignal;
}

/**
 * A thread with a context of its own.
 *
 * @typeParam Functions what it can do
 *
 * @example
 * ```ts
 * import { IOThread, type IOThreadScope } from "@aio/context";
 *
 * // The module of the thread; in life it is a file of its own.
 * const main = ({ name }: IOThreadScope, greeting: string) => ({
 *   greet: (whom: string) => `${greeting}, ${whom}, from ${name}`,
 * });
 * const module = `data:text/javascript,export default ${encodeURIComponent(main.toString())}`;
 *
 * await using thread = await IOThread.start<typeof main>(module, { name: "io0", data: "Hello" });
 * console.log(await thread.call("greet", "disk")); // Hello, disk, from io0
 * ```
 */
export class IOThread<Functions = Readonly<Record<string, ExposedFunction>>>
  implements AsyncDisposable {
  /** As it was given. */
  readonly name: string;
  readonly #shim: Shim;
  readonly #worker: Worker;
  readonly #context: AioContext;
  readonly #ownContext: boolean;
  readonly #begun = Promise.withResolvers<void>();
  readonly #started = Promise.withResolvers<void>();
  readonly #joined = Promise.withResolvers<void>();
  #remote: RemoteContext<Functions> | null = null;
  #peer: Peer<Functions & ThreadControls> | null = null;
  #thread = 0;
  #state: "starting" | "running" | "ending" | "ended" = "starting";
  #grace: ReturnType<typeof setTimeout> | null = null;
  #watch: ReturnType<typeof setInterval> | null = null;
  #seenGone = false;

  private constructor(module: string, options: IOThreadOptions) {
    const { name, context, data, transfer = [], fdmon, pollParams, shim, liburing } = options;
    this.name = String(name ?? "IOThread");
    const processors = [...options.processors ?? []];
    const order: ThreadOrder = {
      module,
      name: this.name,
      data,
      context: { fdmon, pollParams, shim, liburing },
      processors,
    };
    this.#shim = loadShim({ shim });
    const entry = new URL("./io_thread_entry.ts", import.meta.url);
    this.#worker = new Worker(entry, { type: "module", name: this.name });
    this.#worker.onmessage = ({ data }) => this.#report(data);
    this.#worker.onerror = (event) => {
      event.preventDefault();
      // It had no time to give anything back.
      this.#end(event.error ?? new Error(event.message), true);
    };
    this.#ownContext = context === undefined;
    this.#context = context ?? acquireHomeContext();
    // What goes wrong is told by `join` as well.
    for (const { promise } of [this.#begun, this.#started]) promise.catch(() => {});
    try {
      this.#worker.postMessage(order, transfer);
    } catch (error) {
      this.#worker.terminate();
      if (this.#ownContext) releaseHomeContext();
      throw error;
    }
  }

  /**
   * Starts a thread.
   *
   * @param module the module whose default function says what it does; relative to nothing, so best
   *   `new URL("./disk.ts", import.meta.url)`
   * @param options its name, data and context
   * @returns once that function has returned, or what it returned has settled
   * @throws what that throws; the signal's reason; {TypeError} for what is no such module
   */
  static async start<Main extends IOThreadMain>(
    module: string | URL,
    options: IOThreadOptions<Parameters<Main>[1]> = {},
  ): Promise<IOThread<FunctionsOf<Main>>> {
    const { signal, context } = options;
    signal?.throwIfAborted();
    if (context !== undefined && !(context instanceof AioContext)) {
      throw new TypeError("Cannot start an IOThread as its context is no AioContext");
    }
    const thread = new IOThread<FunctionsOf<Main>>(new URL(module).href, options);
    const abort = () => thread.terminate();
    signal?.addEventListener("abort", abort);
    try {
      await thread.#started.promise;
    } catch (error) {
      await thread.#joined.promise.catch(() => {});
      throw signal?.aborted ? signal.reason : error;
    } finally {
      signal?.removeEventListener("abort", abort);
    }
    return thread;
  }

  /** Its context, to be given to any thread for `ctx.peer` and `wakeContext` there. */
  get remote(): RemoteContext<Functions> {
    return this.#remote!;
  }

  /** Whether it can be called. */
  get running(): boolean {
    return this.#state === "running";
  }

  /** Number of calls made here that have no result yet. */
  get outstanding(): number {
    return this.#peer?.outstanding ?? 0;
  }

  /** Calls one of its functions; see `Peer.call`. */
  call<Name extends FunctionName<Functions>>(
    name: Name,
    ...values: ValuesOf<Functions[Name]>
  ): Promise<ResultOf<Functions[Name]>> {
    try {
      return this.#requireRunning("call").call(name, ...values);
    } catch (error) {
      return Promise.reject(error);
    }
  }

  /** Sends it a message that nobody answers; see `Peer.send`. */
  send<Name extends FunctionName<Functions>>(
    name: Name,
    ...values: ValuesOf<Functions[Name]>
  ): boolean {
    return this.#requireRunning("send a message to").send(name, ...values);
  }

  /** Settles when no message waits for room any more. */
  drained(): Promise<void> {
    return this.#peer?.drained() ?? Promise.resolve();
  }

  /** Counters of its context. */
  stats(): Promise<AioStats> {
    return this.#control("tell the counters of", "IOThread.stats");
  }

  /** Changes the poll parameters of its context. */
  setPollParams(changes: Partial<PollParams>): Promise<void> {
    return this.#control("set the poll parameters of", "IOThread.setPollParams", changes);
  }

  /**
   * Listens to trace events of its context, here.
   *
   * @param names of the events
   * @param listener called with each; `dropped` is how many were lost before it, for want of room
   * @returns a function that stops it
   */
  async trace<Name extends TraceName>(
    names: readonly Name[],
    listener: (name: Name, event: TraceEvents[Name], dropped: number) => void,
  ): Promise<() => void> {
    const { remote, id, stop } = receiveTrace(this.#context, listener as never);
    try {
      await this.#control("trace", "IOThread.trace", remote, id, names);
    } catch (error) {
      stop();
      throw error;
    }
    return () => {
      stop();
      if (this.running) this.#controls.send("IOThread.untrace", id);
    };
  }

  /**
   * Ends it in good order: calls that have begun are settled, then what its function has returned is
   * disposed of, then its context.
   *
   * @returns as `join`
   */
  stop(): Promise<void> {
    if (this.#state === "running") {
      this.#state = "ending";
      this.#controls.send("IOThread.stop");
    }
    return this.join();
  }

  /**
   * Ends it at once: calls without a result fail, requests in flight are cancelled.
   *
   * @returns as `join`; rejects when the thread does not return to its loop within a second, as from
   *   an endless one: nothing can end that but the process. What it has is given back if it returns.
   */
  terminate(): Promise<void> {
    if (this.#state === "ended" || this.#grace !== null) return this.join();
    const starting = this.#state === "starting";
    this.#state = "ending";
    this.#grace = setTimeout(() => {
      const error = new Error(
        `Cannot end an IOThread as its function does not return to the loop: ${this.name}`,
      );
      this.#end(error, true);
    }, GRACE_MS);
    if (!starting || this.#peer !== null) this.#controls.send("IOThread.terminate");
    else this.#begun.promise.then(() => this.#controls.send("IOThread.terminate"), () => {});
    return this.join();
  }

  /**
   * Waits for its end. An error of a thread that nobody has waited for by then is an unhandled
   * rejection here.
   *
   * @throws what was thrown in it and caught by nobody
   */
  join(): Promise<void> {
    return this.#joined.promise;
  }

  /** Stops it. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  get #controls(): Peer<ThreadControls> {
    return this.#peer as unknown as Peer<ThreadControls>;
  }

  #control<Name extends keyof ThreadControls & string>(
    verb: string,
    name: Name,
    ...values: unknown[]
  ): Promise<ResultOf<ThreadControls[Name]>> {
    try {
      this.#requireRunning(verb);
      return this.#controls.call(name, ...values as ValuesOf<ThreadControls[Name]>);
    } catch (error) {
      return Promise.reject(error);
    }
  }

  #requireRunning(verb: string): Peer<Functions> {
    if (this.#state === "running") return this.#peer as unknown as Peer<Functions>;
    throw new TypeError(`Cannot ${verb} an IOThread as it is ${this.#state}: ${this.name}`);
  }

  #report(report: ThreadReport): void {
    if (report.state === "begun") {
      this.#thread = report.thread;
      this.#watch = setInterval(() => this.#requireAlive(), ALIVE_MS);
      Deno.unrefTimer(this.#watch as unknown as number);
      this.#remote = report.remote as RemoteContext<Functions>;
      this.#peer = this.#context.peer(report.remote) as unknown as Peer<Functions & ThreadControls>;
      this.#begun.resolve();
    } else if (report.state === "started") {
      if (this.#state === "starting") this.#state = "running";
      this.#started.resolve();
    } else if ("error" in report) this.#end(report.error, false);
    else this.#end(null, false);
  }

  /** Notices that it ended itself, by Deno.exit or close(). */
  #requireAlive(): void {
    if (this.#shim.aio_thread_lives(this.#thread) === 1) return;
    // One that ends in good order says so before; Deno delivers that by the next time at the latest.
    if (!this.#seenGone) return void (this.#seenGone = true);
    this.#end(new Error(`The IOThread ended itself: ${this.name}`), true);
  }

  /** It has ended, or has to. */
  async #end(error: unknown, dropped: boolean): Promise<void> {
    if (this.#state === "ended") return;
    this.#state = "ended";
    if (this.#grace !== null) clearTimeout(this.#grace);
    if (this.#watch !== null) clearInterval(this.#watch);
    if (dropped) this.#worker.terminate();
    const ended = new TypeError(`Cannot start an IOThread as it was ended: ${this.name}`);
    this.#begun.reject(error ?? ended);
    this.#started.reject(error ?? ended);
    if (!await this.#gone()) this.#reapLater();
    else if (dropped) reapThread(this.#shim, this.#thread);
    this.#peer?.[Symbol.dispose]();
    if (this.#ownContext) releaseHomeContext();
    if (error === null) this.#joined.resolve();
    else this.#joined.reject(error);
  }

  /** Waits for the system's thread to end; false where it does not. */
  async #gone(): Promise<boolean> {
    const untilMs = performance.now() + GRACE_MS;
    while (this.#thread !== 0 && this.#shim.aio_thread_lives(this.#thread) === 1) {
      if (performance.now() > untilMs) return false;
      await new Promise((resolve) => setTimeout(resolve, GONE_MS));
    }
    return true;
  }

  /** Gives back what a thread has once it ends after all; keeps no process alive. */
  #reapLater(): void {
    const timer = setInterval(() => {
      if (this.#shim.aio_thread_lives(this.#thread) === 1) return;
      clearInterval(timer);
      reapThread(this.#shim, this.#thread);
    }, ALIVE_MS);
    Deno.unrefTimer(timer as unknown as number);
  }
}
