/**
 * Who drives a context between calls of poll(): `run`, or Deno's own loop to which it is attached.
 *
 * Both leave the thread to Deno by the same sleep, so only one of them drives at a time: while the
 * context is attached, runs wait. Whatever changes the context is told to whoever has left the thread.
 */
import type { AioContext } from "./aio_context.ts";
import { Attachment } from "./attachment.ts";
import type { ContextParts } from "./context_parts.ts";
import { DelegatedSleep } from "./delegated_sleep.ts";
import { findRunJobs } from "./host_loop.ts";
import { Runner } from "./runner.ts";

/** The drivers of one context. */
export class ContextDrivers {
  readonly runner: Runner;
  readonly attachment: Attachment;
  readonly #sleep: DelegatedSleep;

  constructor(parts: ContextParts, context: AioContext) {
    const { iteration, system, requests } = parts;
    this.#sleep = new DelegatedSleep(parts);
    const poll = () => context.poll(true);
    const driver = { iteration, system, runJobs: findRunJobs(), poll, sleep: this.#sleep };
    const isAwaited = () => requests.queue.inFlight + parts.outstandingCalls !== 0;
    this.attachment = new Attachment({ ...driver, isAwaited });
    this.runner = new Runner({
      ...driver,
      isDriven: () => this.attachment.attached,
      isBusy: () => !iteration.disposed && parts.busy,
    });
  }

  /** Deno's loop drives from now on. */
  attach(): void {
    this.attachment.attach();
    this.runner.wake(); // It finds somebody else driving.
  }

  /** It does not any more. */
  detach(): void {
    this.attachment.detach();
    if (this.runner.resting) this.runner.wake();
  }

  /** The context has been changed. */
  wake(): void {
    if (this.attachment.attached) this.attachment.wake();
    else if (this.runner.resting) this.runner.wake();
  }

  /** Another context is to answer: somebody has to be there for it. */
  await(): void {
    this.attachment.keepAlive();
    if (this.runner.parked) this.runner.wake();
  }

  /** Nobody drives any more. */
  dispose(): void {
    this.detach();
    this.#sleep.dispose();
  }
}
