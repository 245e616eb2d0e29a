/** Trace events of IOThreads, as they arrive at a context of whoever listens. */
import type { AioContext } from "../aio_context.ts";
import type { RemoteContext } from "../context_notifier.ts";
import type { TraceName } from "../trace.ts";
import type { TraceReceiver } from "./io_thread_protocol.ts";

/** Called with each event that arrives. */
type Listener = (name: TraceName, event: unknown, dropped: number) => void;

const receivers = new WeakMap<AioContext, Receiver>();

/** Those who listen through one context. */
class Receiver {
  readonly remote: RemoteContext<TraceReceiver>;
  readonly listeners = new Map<number, Listener>();
  last = 0;

  constructor(context: AioContext) {
    this.remote = context.expose({
      "IOThread.event": (id: number, name: TraceName, event: unknown, dropped: number) =>
        this.listeners.get(id)?.(name, event, dropped),
    });
  }
}

/** Has a listener called with the events that are sent to `remote` under `id`, until `stop`. */
export function receiveTrace(
  context: AioContext,
  listener: Listener,
): { remote: RemoteContext<TraceReceiver>; id: number; stop: () => void } {
  if (typeof listener !== "function") {
    throw new TypeError(`Cannot trace an IOThread as the listener is not a function`);
  }
  let receiver = receivers.get(context);
  if (receiver === undefined) receivers.set(context, receiver = new Receiver(context));
  const { remote, listeners } = receiver;
  const id = ++receiver.last;
  listeners.set(id, listener);
  return { remote, id, stop: () => listeners.delete(id) };
}
