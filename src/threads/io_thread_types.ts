/** What an IOThread is made of: the function of its module, and the options it is started with. */
import type { AioContext } from "../aio_context.ts";
import type { RunScope } from "../runner.ts";
import type { ThreadContextOptions } from "./io_thread_protocol.ts";
import type { ExposedFunction } from "./link_end.ts";

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
