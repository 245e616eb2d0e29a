/**
 * IOThread: a thread with a context of its own, as QEMU has them for its devices.
 *
 * It owns a Worker (io_thread_entry.ts runs in it) and a peer of its context. What the thread can do is
 * what the default function of a module returns; it is called by name from any context of the process.
 * Deno's own messages are used to begin and to learn of the end alone.
 *
 * Invariant: once `join` settles the thread is gone, with all fds and memory its context had.
 */
import { Board } from "../../ffi/board.ts";
import { loadShim } from "../../ffi/library.ts";
import type { Shim } from "../../ffi/shim_symbols.ts";
import { System } from "../../ffi/system.ts";
import { AioContext } from "../aio_context.ts";
import type { RemoteContext } from "../context_notifier.ts";
import type { AioStats } from "../context_types.ts";
import type { PollParams } from "../polling_time.ts";
import type { TraceEvents, TraceName } from "../trace.ts";
import { acquireHomeContext, releaseHomeContext } from "./home_context.ts";
import type {
  ThreadControls,
  ThreadEnding,
  ThreadOrder,
  ThreadReport,
} from "./io_thread_protocol.ts";
import type { FunctionsOf, IOThreadMain, IOThreadOptions } from "./io_thread_types.ts";
import type { ExposedFunction } from "./link_end.ts";
import { MessageDecoder } from "./message_decoder.ts";
import type { FunctionName, Peer, ResultOf, ValuesOf } from "./peer.ts";
import { reapThread, type ThreadLibraries } from "./thread_remains.ts";
import { receiveTrace } from "./trace_receiver.ts";

/** The module that its Worker begins with. */
const ENTRY = new URL("./io_thread_entry.ts", import.meta.url);
/** How long a thread that was told to end may take for it. */
const GRACE_MS = 1_000;
/** How often it is looked whether a thread is gone that has to be, and one that should not be. */
const GONE_MS = 1, ALIVE_MS = 200;

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
  readonly #libraries: ThreadLibraries;
  readonly #worker: Worker;
  readonly #context: AioContext;
  readonly #ownContext: boolean;
  readonly #started = Promise.withResolvers<void>();
  readonly #joined = Promise.withResolvers<void>();
  #remote: RemoteContext<Functions> | null = null;
  #peer: Peer<Functions & ThreadControls> | null = null;
  #thread = 0;
  #state: "starting" | "running" | "ending" | "ended" = "starting";
  /** Why it is terminated, where that is not asked for. */
  #failure: { readonly error: unknown } | null = null;
  #grace: ReturnType<typeof setTimeout> | null = null;
  #watch: ReturnType<typeof setInterval> | null = null;

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
    this.#libraries = { shim: this.#shim, liburing };
    this.#ownContext = context === undefined;
    this.#context = context ?? acquireHomeContext();
    try {
      this.#worker = new Worker(ENTRY, { type: "module", name: this.name });
    } catch (error) {
      if (this.#ownContext) releaseHomeContext();
      throw error;
    }
    this.#worker.onmessage = ({ data }) => this.#report(data);
    this.#worker.onerror = (event) => {
      event.preventDefault();
      // It had no time to give anything back.
      this.#end({ error: event.error ?? new Error(event.message) }, true);
    };
    // What goes wrong is told by `join` as well.
    this.#started.promise.catch(() => {});
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
   * @param events their names
   * @param listener called with each; `dropped` is how many were lost before it, for want of room
   * @returns a function that stops it
   */
  async trace<Name extends TraceName>(
    events: readonly Name[],
    listener: (name: Name, event: TraceEvents[Name], dropped: number) => void,
  ): Promise<() => void> {
    this.#requireRunning("trace");
    const names = [...events];
    const { remote, id, stop } = receiveTrace(this.#context, listener as never);
    try {
      await this.#control("trace", "IOThread.trace", remote, id, names);
    } catch (error) {
      stop();
      throw error;
    }
    return () => {
      stop();
      // A thread that ends meanwhile sends nothing more either.
      this.#control("stop tracing", "IOThread.untrace", id).catch(() => {});
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
      this.#order("stop");
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
    this.#state = "ending";
    this.#grace = setTimeout(() => {
      const error = new Error(
        `Cannot end an IOThread as its function does not return to the loop: ${this.name}`,
      );
      this.#end({ error }, true);
    }, GRACE_MS);
    // Whichever it comes to first: Deno's messages, or a nested poll() that takes those of links.
    this.#post("terminate");
    this.#order("terminate");
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

  /** Says by the link how to end, behind what was sent before. */
  async #order(how: ThreadEnding): Promise<void> {
    try {
      while (this.#peer !== null && !this.#controls.send(`IOThread.${how}`)) {
        await this.drained();
      }
    } catch {
      this.#post(how); // The link is closed, as the caller's context is disposed.
    }
  }

  /** Says by Deno's messages how to end. */
  #post(how: ThreadEnding): void {
    this.#worker.postMessage(how);
    if (this.#remote === null) return;
    const { place, generation } = this.#remote;
    const system = new System(this.#shim);
    Board.of(this.#shim).wake(place, generation, (fd) => system.signal(fd));
  }

  #requireRunning(verb: string): Peer<Functions> {
    if (this.#state === "running") return this.#peer as unknown as Peer<Functions>;
    throw new TypeError(`Cannot ${verb} an IOThread as it is ${this.#state}: ${this.name}`);
  }

  #report(report: ThreadReport): void {
    if (report.state === "born") {
      this.#thread = report.thread;
      this.#watch = setInterval(() => this.#requireAlive(), ALIVE_MS);
      Deno.unrefTimer(this.#watch as unknown as number);
    } else if (report.state === "begun") {
      this.#remote = report.remote as RemoteContext<Functions>;
      try {
        const peer = this.#context.peer(report.remote);
        this.#peer = peer as unknown as Peer<Functions & ThreadControls>;
      } catch (error) {
        // The caller's context is disposed, or there are too many links.
        this.#failure ??= { error };
        this.terminate();
      }
    } else if (report.state === "started") {
      if (this.#state !== "starting") return;
      this.#state = "running";
      this.#started.resolve();
    } else if (report.error === undefined) this.#end(null, false);
    else this.#end({ error: new MessageDecoder().decode(report.error.slice(), 1)[0] }, false);
  }

  /** Notices that it is gone without a word, which Deno.exit() makes of it. */
  #requireAlive(): void {
    if (this.#shim.aio_thread_lives(this.#thread) === 1) return;
    // Its last word may still be on its way.
    const error = new Error(`The IOThread ended itself: ${this.name}`);
    const end = () => this.#end({ error }, true);
    clearInterval(this.#watch!);
    this.#watch = setTimeout(end, ALIVE_MS);
  }

  /** It has ended, or has to. */
  async #end(problem: { readonly error: unknown } | null, dropped: boolean): Promise<void> {
    if (this.#state === "ended") return;
    const failure = problem ?? this.#failure;
    this.#state = "ended";
    if (this.#grace !== null) clearTimeout(this.#grace);
    if (this.#watch !== null) clearInterval(this.#watch);
    if (dropped) this.#worker.terminate();
    const ended = new TypeError(`Cannot start an IOThread as it was ended: ${this.name}`);
    this.#started.reject(failure === null ? ended : failure.error);
    if (!await this.#gone()) this.#reapLater();
    else reapThread(this.#libraries, this.#thread);
    this.#peer?.[Symbol.dispose]();
    if (this.#ownContext) releaseHomeContext();
    if (failure === null) this.#joined.resolve();
    else this.#joined.reject(failure.error);
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
      reapThread(this.#libraries, this.#thread);
    }, ALIVE_MS);
    Deno.unrefTimer(timer as unknown as number);
  }
}
