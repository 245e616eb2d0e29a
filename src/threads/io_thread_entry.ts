/**
 * The thread of an IOThread: the module that its Worker begins with.
 *
 * One message says what to do: which module's default function to run, and how to make the context.
 * From then on the context has the thread, and everything goes through links; what is told to Deno at
 * the end is how it ended. Invariant: the context is disposed before that is told, whatever happened,
 * so that whoever waits for the end finds nothing left.
 */
import { setAffinity } from "../../ffi/affinity.ts";
import { loadShim } from "../../ffi/library.ts";
import { AioContext } from "../aio_context.ts";
import type { RemoteContext } from "../context_notifier.ts";
import type { RunScope } from "../runner.ts";
import type { TraceName } from "../trace.ts";
import { callsSettled } from "./context_messages.ts";
import type { IOThreadMain, ThreadFunctions } from "./io_thread_types.ts";
import type {
  ThreadControls,
  ThreadEnding,
  ThreadOrder,
  ThreadReport,
  TraceReceiver,
} from "./io_thread_protocol.ts";
import type { ExposedFunction } from "./link_end.ts";
import { MessageEncoder, textOf } from "./message_encoder.ts";
import type { Peer } from "./peer.ts";

const worker = globalThis as unknown as {
  onmessage: ((event: MessageEvent) => void) | null;
  postMessage(report: ThreadReport): void;
  close(): void;
};
const closeWorker = worker.close.bind(worker);

/** How the thread is to end: with an error, or with null where it was asked to stop. */
const ending = Promise.withResolvers<{ readonly error: unknown } | null>();
/** Nothing is waited for any more. */
const terminated = Promise.withResolvers<void>();
let isTerminated = false;
let ctx: AioContext | null = null;
let failure: { readonly error: unknown } | null = null;

worker.onmessage = ({ data }: MessageEvent<ThreadOrder>) => {
  worker.onmessage = ({ data: how }: MessageEvent<ThreadEnding>) => {
    if (how === "terminate") terminate();
    else ending.resolve(null);
  };
  begin(data);
};

// What nobody catches ends the thread in good order, instead of leaving Deno to drop it.
globalThis.addEventListener("error", (event) => {
  event.preventDefault();
  ending.resolve({ error: event.error ?? new Error(event.message) });
});
globalThis.addEventListener("unhandledrejection", (event) => {
  event.preventDefault();
  ending.resolve({ error: event.reason });
});

async function begin(order: ThreadOrder): Promise<void> {
  const endedItself = () => new Error(`The IOThread ended itself: ${order.name}`);
  worker.close = () => ending.resolve({ error: endedItself() });
  // Deno.exit() goes on to end the thread whatever is done here.
  globalThis.addEventListener("unload", () => {
    failure ??= { error: endedItself() };
    end();
  });
  try {
    await Promise.race([live(order), terminated.promise]);
  } catch (error) {
    if (!isTerminated) failure ??= { error };
  }
  end();
}

/** Ends at once; inside a callback the loop ends with it, and a nested poll() too. */
function terminate(): void {
  isTerminated = true;
  terminated.resolve();
  disposeContext();
}

function disposeContext(): void {
  try {
    ctx?.[Symbol.dispose]();
  } catch (error) {
    failure ??= { error };
  }
}

/** Says how it has ended, once. */
function end(): void {
  disposeContext();
  if (failure === null) worker.postMessage({ state: "ended" });
  else worker.postMessage({ state: "ended", error: encoded(failure.error) });
  closeWorker();
}

function encoded(error: unknown): Uint8Array {
  const encoder = new MessageEncoder();
  try {
    return encoder.encode([error]);
  } catch {
    // What was thrown cannot be copied; its text can.
    return encoder.encode([new Error(textOf(error))]);
  }
}

async function live(order: ThreadOrder): Promise<void> {
  const shim = loadShim({ shim: order.context.shim });
  worker.postMessage({ state: "born", thread: shim.aio_thread_id() });
  if (order.processors.length !== 0) setAffinity(shim, order.processors);
  // A module may take its time, or fail in what it has begun.
  const loaded = import(order.module).then(({ default: main }) => ({ main }));
  const first = await Promise.race([loaded, ending.promise]);
  if (first === null || "error" in first) return throwFailure(first);
  const { main } = first;
  if (typeof main !== "function") {
    throw new TypeError(
      `Cannot start an IOThread as its module has no default function: ${order.module}`,
    );
  }
  if (isTerminated) return;
  const context = ctx = new AioContext(order.context);
  await context.run((scope) => serve(context, scope, main as IOThreadMain, order), {
    ownsThread: true,
  });
}

async function serve(
  context: AioContext,
  { host }: RunScope,
  main: IOThreadMain,
  order: ThreadOrder,
): Promise<void> {
  worker.postMessage({ state: "begun", remote: context.expose(controlsOf(context)) });
  const started = (async () => await main({ ctx: context, name: order.name, host }, order.data))();
  const first = host(started).then((functions) => ({ functions }));
  // It may be stopped, or fail, before it has started.
  const begun = await Promise.race([first, ending.promise]);
  if (begun === null || "error" in begun) return throwFailure(begun);
  const functions = begun.functions as ThreadFunctions | undefined ?? {};
  context.expose(functions);
  worker.postMessage({ state: "started" });
  throwFailure(await ending.promise);
  await callsSettled(context);
  await disposeOf(functions, host);
}

function throwFailure(how: { readonly error: unknown } | null): void {
  if (how !== null) throw how.error;
}

/** Ends what the module's function has begun, where it says how. */
async function disposeOf(functions: object, host: RunScope["host"]): Promise<void> {
  const { [Symbol.asyncDispose]: end, [Symbol.dispose]: endNow } = functions as
    & Partial<AsyncDisposable>
    & Partial<Disposable>;
  if (typeof end === "function") await host(Reflect.apply(end, functions, []));
  else if (typeof endNow === "function") Reflect.apply(endNow, functions, []);
}

function controlsOf(context: AioContext): ThreadControls & Record<string, ExposedFunction> {
  const traces = new Map<number, () => void>();
  return {
    "IOThread.stop": () => ending.resolve(null),
    "IOThread.terminate": terminate,
    "IOThread.stats": () => context.stats(),
    "IOThread.setPollParams": (changes) => context.setPollParams(changes),
    "IOThread.trace": (to, id, names) => {
      traces.set(id, forwardTrace(context, to as RemoteContext<TraceReceiver>, id, names));
    },
    "IOThread.untrace": (id) => {
      traces.get(id)?.();
      traces.delete(id);
    },
  };
}

/** Sends trace events to whoever wants them; those there is no room for are counted. */
function forwardTrace(
  context: AioContext,
  to: RemoteContext<TraceReceiver>,
  id: number,
  names: readonly TraceName[],
): () => void {
  const peer: Peer<TraceReceiver> = context.peer(to);
  let dropped = 0;
  const stops: (() => void)[] = [];
  const stop = () => {
    for (const end of stops.splice(0)) end();
    peer[Symbol.dispose]();
  };
  const forward = (name: TraceName, event: unknown) => {
    try {
      if (peer.send("IOThread.event", id, name, event, dropped)) dropped = 0;
      else dropped++;
    } catch {
      stop(); // Whoever wanted them is gone.
    }
  };
  try {
    for (const name of names) {
      stops.push(context.trace.on(name, (event) => forward(name, event)));
    }
  } catch (error) {
    stop();
    throw error;
  }
  return stop;
}
