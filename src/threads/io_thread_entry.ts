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
import type { IOThreadMain, ThreadFunctions } from "./io_thread.ts";
import type {
  ThreadControls,
  ThreadOrder,
  ThreadReport,
  TraceReceiver,
} from "./io_thread_protocol.ts";
import type { ExposedFunction } from "./link_end.ts";
import type { Peer } from "./peer.ts";

const worker = globalThis as unknown as {
  onmessage: ((event: MessageEvent<ThreadOrder>) => void) | null;
  postMessage(report: ThreadReport): void;
  close(): void;
};

/** The end was asked for, without waiting for anybody. */
const TERMINATED = Symbol("terminated");
/** It came before the start was over. */
const ENDING = Symbol("ending");

/** Ends the thread: with an error, with TERMINATED, or with undefined where all is well. */
const ending = Promise.withResolvers<unknown>();
let ctx: AioContext | null = null;

worker.onmessage = async ({ data: order }) => {
  worker.onmessage = null;
  const report: { state: "ended"; error?: unknown } = { state: "ended" };
  try {
    await live(order);
  } catch (error) {
    report.error = error;
  }
  try {
    ctx?.[Symbol.dispose]();
  } catch (error) {
    report.error ??= error;
  }
  try {
    worker.postMessage(report);
  } catch {
    // What was thrown cannot be copied; its text can.
    worker.postMessage({ state: "ended", error: new Error(String(report.error)) });
  }
  worker.close();
};

// What nobody catches ends the thread in good order, instead of leaving Deno to drop it.
globalThis.addEventListener("error", (event) => {
  event.preventDefault();
  ending.resolve(event.error ?? new Error(event.message));
});
globalThis.addEventListener("unhandledrejection", (event) => {
  event.preventDefault();
  ending.resolve(event.reason ?? new Error("a promise was rejected with nothing"));
});

async function live(order: ThreadOrder): Promise<void> {
  const shim = loadShim({ shim: order.context.shim });
  if (order.processors.length !== 0) setAffinity(shim, order.processors);
  const { default: main } = await import(order.module) as { default?: IOThreadMain };
  if (typeof main !== "function") {
    throw new TypeError(
      `Cannot start an IOThread as its module has no default function: ${order.module}`,
    );
  }
  const context = ctx = new AioContext(order.context);
  await context.run((scope) => serve(context, scope, main, order), { ownsThread: true });
}

async function serve(
  context: AioContext,
  { host }: RunScope,
  main: IOThreadMain,
  order: ThreadOrder,
): Promise<void> {
  const remote = context.expose(controlsOf(context));
  const thread = loadShim({ shim: order.context.shim }).aio_thread_id();
  worker.postMessage({ state: "begun", remote, thread });
  const started = (async () => await main({ ctx: context, name: order.name, host }, order.data))();
  // It may be stopped, or fail, before it has started.
  const first = await Promise.race([host(started), ending.promise.then(() => ENDING)]);
  if (first === ENDING) return throwUnlessStopped(await ending.promise);
  const functions = first as ThreadFunctions | undefined ?? {};
  context.expose(functions);
  worker.postMessage({ state: "started" });
  const how = await ending.promise;
  if (how === TERMINATED) return;
  await callsSettled(context);
  await disposeOf(functions, host);
  throwUnlessStopped(how);
}

function throwUnlessStopped(how: unknown): void {
  if (how !== undefined && how !== TERMINATED) throw how;
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
    "IOThread.stop": () => ending.resolve(undefined),
    "IOThread.terminate": () => ending.resolve(TERMINATED),
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
  for (const name of names) {
    stops.push(context.trace.on(name, (event) => {
      try {
        if (peer.send("IOThread.event", id, name, event, dropped)) dropped = 0;
        else dropped++;
      } catch {
        stop(); // Whoever wanted them is gone.
      }
    }));
  }
  return stop;
}
