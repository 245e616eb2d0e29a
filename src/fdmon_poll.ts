/**
 * Monitoring with ppoll: works everywhere and for every kind of fd; a wait costs as much as there
 * are handlers.
 *
 * The pollfd table is dense and kept up to date handler by handler, so that a wait only reads it.
 * What was said of polling in userspace for epoll holds here too.
 */
import { AioError, check, Errno } from "../ffi/errno.ts";
import { SystemLayout } from "../ffi/layout.ts";
import { allocateNative, type NativeMemory } from "../ffi/memory.ts";
import { PollEvent, type System } from "../ffi/system.ts";
import type { AioHandler } from "./aio_handler.ts";
import { type Fdmon, markFailed, markReady, type ReadyList } from "./fdmon.ts";
import type { IterationTimes } from "./iteration_times.ts";

const { pollfd: POLLFD } = SystemLayout;
const POLLFD_WORDS = POLLFD.sizeof / 4;
const FD_WORD = POLLFD.fd / 4, EVENTS_WORD = POLLFD.events / 4;
/** revents is the upper half of the word that begins with events. */
const REVENTS_SHIFT = (POLLFD.revents - POLLFD.events) * 8;
const FIRST_CAPACITY = 64;

/** The poll backend. */
export class FdmonPoll implements Fdmon {
  readonly name = "poll";
  readonly supportsPolling = false;
  readonly showsCompletions = false;
  readonly hasChanges = false;
  readonly requests = null;
  readonly mayMissEvents = true;
  readonly #system: System;
  readonly #ready: ReadyList;
  readonly #times: IterationTimes;
  readonly #handlers: AioHandler[] = [];
  #table = allocateNative(FIRST_CAPACITY * POLLFD_WORDS * 4);
  #withoutPoll = 0;

  constructor(system: System, ready: ReadyList, times: IterationTimes) {
    this.#system = system;
    this.#ready = ready;
    this.#times = times;
  }

  update(old: AioHandler | null, replacement: AioHandler | null): void {
    if (old !== null) this.#remove(old);
    if (replacement !== null) this.#add(replacement);
  }

  #add(handler: AioHandler): void {
    const index = this.#handlers.push(handler) - 1;
    const words = index * POLLFD_WORDS;
    if (words === this.#table.i32.length) {
      const larger = allocateNative(this.#table.buffer.byteLength * 2);
      larger.i32.set(this.#table.i32);
      this.#table = larger;
    }
    handler.watched = true;
    if (!handler.hasPoll) this.#withoutPoll++;
    this.#describe(handler, index);
  }

  #remove(handler: AioHandler): void {
    const index = handler.slot;
    const last = this.#handlers.pop()!;
    if (last !== handler) {
      this.#handlers[index] = last;
      this.#describe(last, index);
    }
    handler.watched = false;
    if (!handler.hasPoll) this.#withoutPoll--;
  }

  #describe(handler: AioHandler, index: number): void {
    handler.slot = index;
    this.#table.i32[index * POLLFD_WORDS + FD_WORD] = handler.fd;
    this.#table.i32[index * POLLFD_WORDS + EVENTS_WORD] = handler.events;
  }

  unpolled(): void {}

  beforePolling(): void {}

  needWait(): boolean {
    return this.#withoutPoll !== 0;
  }

  wait(block: boolean): void {
    this.#system.timeoutNs[0] = block ? this.#times.timeoutNs : 0;
    const result = this.#system.ppoll(this.#table, this.#handlers.length);
    // A signal ended the wait: to the loop that is a wait without events.
    if (result === -Errno.EINTR) return;
    if (result === -Errno.EINVAL) {
      throw new AioError(
        "Cannot wait for events",
        "ppoll",
        Errno.EINVAL,
        `${this.#handlers.length} fds are more than the limit of open files allows`,
      );
    }
    let left = check(result, "Cannot wait for events", "ppoll");
    const words = this.#table.u32;
    for (let index = 0; left > 0; index++) {
      const revents = words[index * POLLFD_WORDS + EVENTS_WORD] >>> REVENTS_SHIFT;
      if (revents === 0) continue;
      left--;
      const handler = this.#handlers[index];
      if (revents & PollEvent.invalid) markFailed(this.#ready, handler, Errno.EBADF);
      else markReady(this.#ready, handler, revents);
    }
  }

  delegateWait(): { readonly fds: NativeMemory; readonly count: number } {
    return { fds: this.#table, count: this.#handlers.length };
  }

  endDelegation(): void {}

  dispose(): void {
    this.#handlers.length = 0;
  }
}
