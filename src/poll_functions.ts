/**
 * The poll functions of listed handlers, and one pass over them.
 *
 * A pass over thousands costs what memory costs, so the functions stand in an array of their own:
 * a handler is touched only when its function has found work. The array is walked from its end
 * while user code runs: a removal moves a visited entry down, so nobody is skipped.
 */
import type { AioHandler } from "./aio_handler.ts";

/** Functions polled now. */
export class PollFunctions {
  readonly #functions: (() => boolean)[] = [];
  readonly #handlers: AioHandler[] = [];
  readonly #found: (handler: AioHandler) => void;
  readonly #report: (error: unknown) => void;

  /**
   * @param found receives each handler whose function has found work
   * @param report receives what functions throw
   */
  constructor(found: (handler: AioHandler) => void, report: (error: unknown) => void) {
    this.#found = found;
    this.#report = report;
  }

  get size(): number {
    return this.#functions.length;
  }

  /** Adds a handler that has a poll function. */
  add(handler: AioHandler): void {
    handler.functionIndex = this.#handlers.push(handler) - 1;
    this.#functions.push(handler.pollFunction!);
  }

  /** Removes an added handler; the last one takes its place. */
  remove(handler: AioHandler): void {
    const index = handler.functionIndex;
    const last = this.#handlers.pop()!, lastFunction = this.#functions.pop()!;
    handler.functionIndex = -1;
    if (last === handler) return;
    this.#handlers[index] = last;
    this.#functions[index] = lastFunction;
    last.functionIndex = index;
  }

  /** Asks every function once; true when one of them found work or threw. */
  poll(): boolean {
    const functions = this.#functions, handlers = this.#handlers;
    let hit = false;
    for (let index = functions.length - 1; index >= 0; index--) {
      try {
        for (; index >= 0; index--) {
          // A function may remove handlers, its own too: then the answer is for nobody, or for
          // one that has moved here and has the same function.
          const poll = functions[index];
          if (poll === undefined || poll() !== true || functions[index] !== poll) continue;
          hit = true;
          this.#found(handlers[index]);
        }
      } catch (error) {
        hit = true;
        this.#report(error);
      }
    }
    return hit;
  }
}
