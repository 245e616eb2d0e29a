/**
 * The handlers of one context: who is registered for which fd, who is deleted and not yet
 * released, whom external-disable silences, and which backend watches them.
 *
 * A handler is replaced, never changed. Deleting one takes effect at once for every observer; its
 * callbacks are let go of when the outermost iteration ends, as one of them may be running.
 * Invariants: a live handler is on `#all` and in `#byFd`; the backend watches exactly the live
 * ones that are not silenced, and the notifier.
 */
import { AioError, Errno } from "../ffi/errno.ts";
import { AioHandler, type FdHandler, readFdHandler } from "./aio_handler.ts";
import type { Fdmon, FdmonName, FdmonParts } from "./fdmon.ts";
import { fallBackToPoll, type FdmonChoice, selectFdmon } from "./fdmon_select.ts";
import { IntrusiveList } from "./intrusive_list.ts";
import type { PollMode } from "./poll_mode.ts";

/** Registered handlers and the backend that watches them. */
export class HandlerRegistry {
  /** Above 0 while an iteration runs that may hold on to a handler. */
  walkDepth = 0;
  /** Live handlers with a poll callback. */
  pollable = 0;
  readonly #parts: FdmonParts;
  readonly #pollMode: PollMode;
  readonly #changed: () => void;
  readonly #report: (error: unknown) => void;
  /**
   * Indexed by fd. The kernel gives out the lowest number that is free, so there are few gaps; and a
   * Map would keep a trace of every deletion, which the next ones of the same number walk through.
   */
  readonly #byFd: (AioHandler | null)[] = [];
  readonly #all = new IntrusiveList<AioHandler>();
  readonly #deleted = new IntrusiveList<AioHandler>();
  #choice: FdmonChoice;
  #externalDisabled = 0;
  #internal = 0;

  /**
   * @param name the backend to use; undefined: the best
   * @param changed called when the loop must not sleep on what it knew before
   * @param report receives what concerns no caller
   * @throws {AioError} when the backend cannot be had
   */
  constructor(
    name: FdmonName | undefined,
    parts: FdmonParts,
    pollMode: PollMode,
    changed: () => void,
    report: (error: unknown) => void,
  ) {
    this.#parts = parts;
    this.#pollMode = pollMode;
    this.#changed = changed;
    this.#report = report;
    this.#choice = selectFdmon(name, parts);
  }

  get fdmon(): Fdmon {
    return this.#choice.fdmon;
  }

  /** Why this backend. */
  get reason(): string {
    return this.#choice.reason;
  }

  /** Live handlers, but those of the loop itself. */
  get size(): number {
    return this.#all.size - this.#internal;
  }

  /** Deleted handlers that are not released yet. */
  get deletedSize(): number {
    return this.#deleted.size;
  }

  /** The live handler of an fd, or null. */
  get(fd: number): AioHandler | null {
    return this.#byFd[fd] ?? null;
  }

  /** Whether external-disable keeps the handler from running. */
  isSilenced(handler: AioHandler): boolean {
    return handler.isExternal && this.#externalDisabled !== 0;
  }

  /**
   * Puts `replacement` in the place of `old`; either can be null.
   *
   * @throws {AioError} when the backend refuses; nothing has changed then
   */
  replace(old: AioHandler | null, replacement: AioHandler | null): void {
    const watched = old !== null && old.watched ? old : null;
    const toWatch = replacement === null || this.isSilenced(replacement) ? null : replacement;
    if (watched !== null || toWatch !== null) this.#updateFdmon(watched, toWatch);
    this.#changed();
    if (old !== null) this.#unregister(old);
    if (replacement !== null) {
      // Filled up rather than assigned beyond its end, which would make the array a slow one.
      while (this.#byFd.length <= replacement.fd) this.#byFd.push(null);
      this.#byFd[replacement.fd] = replacement;
      this.#all.append(replacement.allLink);
      if (replacement.hasPoll) this.pollable++;
      if (replacement.pollWord !== null) replacement.pollWord.owner = replacement;
    }
    if (old !== null) this.#retire(old);
  }

  /**
   * Watches an fd for the loop's own purposes, or no more where there are no callbacks.
   *
   * @throws {AioError} EBUSY where somebody else does; what the backend has to say
   */
  watch(fd: number, callbacks: Pick<FdHandler, "ioRead" | "ioWrite">): void {
    const old = this.get(fd);
    if (old !== null && !old.isInternal) {
      throw new AioError(`Cannot wait for fd ${fd}`, "poll", Errno.EBUSY, "it has an fd handler");
    }
    const read = readFdHandler(fd, callbacks, -1);
    if (read === null && old === null) return;
    const handler = read === null ? null : new AioHandler(fd, read);
    if (handler !== null) handler.isInternal = true;
    this.replace(old, handler);
    this.#internal += (handler === null ? 0 : 1) - (old === null ? 0 : 1);
  }

  /** From here on no callback of the handler runs, but the ioPollEnd that is due. */
  #unregister(handler: AioHandler): void {
    handler.deleted = true;
    this.#byFd[handler.fd] = null;
    this.#all.remove(handler.allLink);
    if (handler.hasPoll) this.pollable--;
    this.forgetEvents(handler);
    if (handler.pollWord !== null) handler.pollWord.owner = null;
  }

  /** Calls the ioPollEnd that is due, which may set other handlers: so everything else is done. */
  #retire(handler: AioHandler): void {
    this.#pollMode.remove(handler);
    if (this.walkDepth === 0) handler.release();
    else this.#deleted.append(handler.allLink);
  }

  /** Takes a handler off the ready list with all that it was there for. */
  forgetEvents(handler: AioHandler): void {
    if (handler.ready) handler.readyLink.list!.remove(handler.readyLink);
    handler.revents = handler.watchErrno = 0;
    handler.pollReady = handler.adjusted = false;
  }

  /** Lets go of what was deleted; called when no iteration runs any more. */
  releaseDeleted(): void {
    for (let handler = this.#deleted.shift(); handler !== null; handler = this.#deleted.shift()) {
      handler.release();
    }
  }

  /** Zeroes the polling time of all handlers and forgets their idle deadlines. */
  resetPolling(): void {
    this.#pollMode.budget.reset(this.#parts.notifier);
    for (let link = this.#all.first; link !== null; link = link.next) {
      this.#pollMode.budget.reset(link.member);
    }
    this.#pollMode.disarm();
    this.#changed();
  }

  /** Silences external handlers; counts. */
  disableExternal(): void {
    if (this.#externalDisabled++ !== 0) return;
    const handlers = this.#externalHandlers();
    for (const handler of handlers) {
      if (handler.watched) this.fdmon.update(handler, null);
      this.forgetEvents(handler);
      if (handler.listed) this.#pollMode.unlist(handler);
    }
    // These call ioPollEnd, which may poll: by now none of them can be found any more.
    for (const handler of handlers) this.#pollMode.finish(handler);
  }

  /**
   * Takes one `disableExternal` back; with the last, the handlers hear of what came meanwhile. One
   * that cannot be watched any more is deleted, and the reason reported.
   */
  enableExternal(): void {
    if (this.#externalDisabled === 0) {
      throw new RangeError("Cannot enable external handlers as they are not disabled");
    }
    if (--this.#externalDisabled !== 0) return;
    this.#changed();
    for (const handler of this.#externalHandlers()) {
      if (handler.deleted || handler.watched || this.#externalDisabled !== 0) continue;
      try {
        this.#updateFdmon(null, handler);
      } catch (error) {
        // Its fd was closed meanwhile, or the like: no reason to leave the others silent.
        this.#report(error);
        this.replace(handler, null);
        continue;
      }
      // What came while nobody polled was perhaps not signalled either.
      this.#pollMode.pollOnce(handler);
    }
  }

  /** The external handlers now: callbacks run while they are walked and may change the list. */
  #externalHandlers(): AioHandler[] {
    const handlers: AioHandler[] = [];
    for (let link = this.#all.first; link !== null; link = link.next) {
      if (link.member.isExternal) handlers.push(link.member);
    }
    return handlers;
  }

  /** Tells the backend; epoll is given up for poll when it refuses an fd for its kind. */
  #updateFdmon(old: AioHandler | null, replacement: AioHandler | null): void {
    try {
      this.fdmon.update(old, replacement);
    } catch (error) {
      const refused = error instanceof AioError && error.errno === Errno.EPERM;
      if (!refused || this.fdmon.name !== "epoll" || replacement === null) throw error;
      this.fdmon.dispose();
      this.#choice = fallBackToPoll(this.#parts, this.#choice, replacement.fd);
      for (let link = this.#all.first; link !== null; link = link.next) {
        if (link.member.watched && link.member !== old) this.fdmon.update(null, link.member);
      }
      this.fdmon.update(null, replacement);
    }
  }

  /** Deletes all handlers, with the ioPollEnd that is due. */
  deleteAll(): void {
    this.#internal = 0;
    for (let link = this.#all.first; link !== null; link = this.#all.first) {
      this.#unregister(link.member);
      this.#retire(link.member);
    }
  }

  /** Gives the backend back; all handlers are deleted and no iteration runs. */
  dispose(): void {
    this.releaseDeleted();
    this.fdmon.dispose();
  }
}
