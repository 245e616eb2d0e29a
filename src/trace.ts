/**
 * The loop's named trace events, the same names QEMU's users know.
 *
 * An event nobody listens to costs one null check where it would be emitted, and no allocation.
 * A listener that throws does not disturb the loop: its error is reported like a callback's.
 */

/** What each event carries. Times in ns, fds and handler ids as numbers. */
export interface TraceEvents {
  /** Poll mode runs: at most `maxNs`, with `timeoutNs` (-1: none) left for the whole wait. */
  run_poll_handlers_begin: { maxNs: number; timeoutNs: number };
  /** It ended; `progress` when work was found. */
  run_poll_handlers_end: { progress: boolean; timeoutNs: number };
  /** A handler's polling time shrank. */
  poll_shrink: { old: number; new: number };
  /** A handler's polling time grew. */
  poll_grow: { old: number; new: number };
  /** A handler joined the poll list when its fd reported `revents`. */
  poll_add: { handler: number; fd: number; revents: number };
  /** A handler was idle for too long and left the poll list. */
  poll_remove: { handler: number; fd: number };
}

/** Name of a trace event. */
export type TraceName = keyof TraceEvents;

/** Called with each event of one name. */
export type TraceListener<Name extends TraceName> = (event: TraceEvents[Name]) => void;

type Listeners = { [Name in TraceName]: TraceListener<Name>[] | null };

/** A context's trace events; `ctx.trace`. */
export class Trace {
  /** Null for an event nobody listens to. */
  readonly #listeners: Listeners = {
    run_poll_handlers_begin: null,
    run_poll_handlers_end: null,
    poll_shrink: null,
    poll_grow: null,
    poll_add: null,
    poll_remove: null,
  };
  readonly #report: (error: unknown) => void;

  /**
   * Made by the context.
   *
   * @param report receives what a listener throws
   */
  constructor(report: (error: unknown) => void) {
    this.#report = report;
    // The members of a prototype would be taken for lists.
    Object.setPrototypeOf(this.#listeners, null);
  }

  /**
   * Listens to one event.
   *
   * @returns a function that stops listening
   * @throws {TypeError} for an unknown name or when the listener is not a function
   */
  on<Name extends TraceName>(name: Name, listener: TraceListener<Name>): () => void {
    // A name that is an object could read as another one the next time.
    if (typeof name !== "string" || !Object.hasOwn(this.#listeners, name)) {
      throw new TypeError(`Cannot trace an event as it has no such name: ${String(name)}`);
    }
    if (typeof listener !== "function") {
      throw new TypeError(`Cannot trace ${name} as the listener is not a function`);
    }
    const listeners = this.#listeners as Record<TraceName, TraceListener<Name>[] | null>;
    listeners[name] = [...(listeners[name] ?? []), listener];
    return () => {
      const rest = (listeners[name] ?? []).filter((other) => other !== listener);
      listeners[name] = rest.length === 0 ? null : rest;
    };
  }

  /** True when somebody listens: only then is the event worth making. */
  wants(name: TraceName): boolean {
    return this.#listeners[name] !== null;
  }

  /** Hands an event to its listeners. */
  emit<Name extends TraceName>(name: Name, event: TraceEvents[Name]): void {
    for (const listener of this.#listeners[name] ?? []) {
      try {
        listener(event);
      } catch (error) {
        this.#report(error);
      }
    }
  }
}
