/**
 * Dispatch: runs the callbacks of ready handlers, one handler after the other.
 *
 * A run takes the whole ready list as its batch and empties it from the front: a handler that
 * becomes ready meanwhile waits for the next run, so none can keep an iteration for itself. A
 * nested poll draws from the same batch, so it finds what its callers had not come to yet, and
 * they find it done. A handler with a poll callback joins the
 * poll list here: activity is likely to go on. While its ioPollReady runs it must not be found by
 * a nested poll, which therefore hides it first; without nesting the list is left alone.
 */
import { AioError } from "../ffi/errno.ts";
import type { AioHandler } from "./aio_handler.ts";
import type { ReadyList } from "./fdmon.ts";
import type { HandlerRegistry } from "./handler_registry.ts";
import { IntrusiveList } from "./intrusive_list.ts";
import type { PollMode } from "./poll_mode.ts";
import type { Trace, TracedCallback } from "./trace.ts";

/** Runs callbacks of ready handlers. */
export class Dispatcher {
  /** Callbacks run, for stats(). */
  calls = 0;
  readonly #ready: ReadyList;
  readonly #handlers: HandlerRegistry;
  readonly #pollMode: PollMode;
  readonly #trace: Trace;
  readonly #report: (error: unknown) => void;
  /** Ready handlers that a run is about to dispatch. */
  readonly #batch = new IntrusiveList<AioHandler>();
  /** The handler whose ioPollReady is running, the innermost one. */
  #running: AioHandler | null = null;

  constructor(
    ready: ReadyList,
    handlers: HandlerRegistry,
    pollMode: PollMode,
    trace: Trace,
    report: (error: unknown) => void,
  ) {
    this.#ready = ready;
    this.#handlers = handlers;
    this.#pollMode = pollMode;
    this.#trace = trace;
    this.#report = report;
  }

  /** Ready handlers that have not been dispatched. */
  get pending(): number {
    return this.#ready.size + this.#batch.size;
  }

  /** An iteration begins: the handler whose ioPollReady called it, if any, must not be found. */
  hideRunning(): void {
    const running = this.#running;
    if (running === null || !running.listed) return;
    this.#pollMode.remove(running);
    this.#handlers.fdmon.unpolled(running);
  }

  /**
   * Dispatches what is ready now.
   *
   * @param stopped asked before each handler; true leaves the others alone
   * @returns true when a callback ran that is progress
   */
  run(stopped: () => boolean): boolean {
    let progress = false;
    if (this.#ready.size !== 0) this.#batch.takeAll(this.#ready);
    while (!stopped()) {
      const handler = this.#batch.shift();
      if (handler === null) break;
      progress = this.#dispatch(handler) || progress;
    }
    return progress;
  }

  #dispatch(handler: AioHandler): boolean {
    const { revents, pollReady, watchErrno } = handler;
    this.#handlers.forgetEvents(handler);
    if (watchErrno !== 0) {
      this.#report(new AioError(`Cannot watch fd ${handler.fd} any longer`, "poll", watchErrno));
      // Without its own fd the context is not woken by other threads, but does all the rest.
      if (!handler.isNotifier) this.#handlers.replace(handler, null);
      return true;
    }
    if (handler.hasPoll && !handler.listed && !handler.running) this.#list(handler, revents);
    if (!this.#mayRun(handler)) return false;
    let ran = false;
    if ((revents & handler.readEvents) !== 0) {
      ran = this.#call(handler, "ioRead", handler.ioRead!);
    } else if (pollReady) {
      ran = this.#callPollReady(handler);
    }
    if ((revents & handler.writeEvents) !== 0 && this.#mayRun(handler)) {
      ran = this.#call(handler, "ioWrite", handler.ioWrite!);
    }
    return ran && !handler.isNotifier;
  }

  /** Whatever has been called for it meanwhile may have deleted or silenced it. */
  #mayRun(handler: AioHandler): boolean {
    return !handler.deleted && !this.#handlers.isSilenced(handler);
  }

  #list(handler: AioHandler, revents: number): void {
    if (this.#trace.wants("poll_add")) {
      this.#trace.emit("poll_add", { handler: handler.id, fd: handler.fd, revents });
      // A listener may have deleted it, or polled and so listed it.
      if (handler.deleted || handler.listed) return;
    }
    this.#pollMode.add(handler);
  }

  /** Returns false where listeners of the trace have seen to it that the callback must not run. */
  #call(handler: AioHandler, kind: TracedCallback, callback: () => void): boolean {
    const traced = this.#trace.active;
    if (traced) this.#trace.beginCallback(handler.isNotifier ? "notifier" : kind, handler);
    const runs = !traced || this.#mayRun(handler);
    try {
      if (runs) {
        this.calls++;
        callback();
      }
    } catch (error) {
      this.#report(error);
    }
    if (traced) this.#trace.endCallback(handler.isNotifier ? "notifier" : kind, handler);
    return runs;
  }

  #callPollReady(handler: AioHandler): boolean {
    const outer = this.#running;
    this.#running = handler;
    handler.running = true;
    const ran = this.#call(handler, "ioPollReady", handler.ioPollReady!);
    handler.running = false;
    this.#running = outer;
    if (!handler.listed && this.#mayRun(handler)) {
      // A nested poll took it off the list; what came meanwhile is looked for here.
      this.#pollMode.add(handler);
      this.#pollMode.pollOnce(handler);
    }
    return ran;
  }
}
