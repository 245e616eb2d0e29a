/**
 * Monitoring with epoll: the kernel keeps the fds, a wait costs as much as there are ready ones.
 *
 * What is ready is known only by asking, so the loop has to wait once in a while even when
 * polling succeeds, and polling is off while a handler without a poll callback is watched. The
 * handler's slot number travels in epoll's data word; slot 0 is nobody.
 */
import { AioError, check, Errno } from "../ffi/errno.ts";
import { SystemLayout } from "../ffi/layout.ts";
import { allocateNative, type NativeMemory, pollFdsOf } from "../ffi/memory.ts";
import { EpollOp, type System } from "../ffi/system.ts";
import type { AioHandler } from "./aio_handler.ts";
import { type Fdmon, markReady, type ReadyList } from "./fdmon.ts";
import type { IterationTimes } from "./iteration_times.ts";

/** Events fetched by one wait; the others are still there at the next. */
const EVENTS_MAX = 128;
const { epoll_event: EVENT } = SystemLayout;
const EVENT_WORDS = EVENT.sizeof / 4;
const EVENTS_WORD = EVENT.events / 4, DATA_WORD = EVENT.data / 4;

/** The epoll backend. */
export class FdmonEpoll implements Fdmon {
  readonly name = "epoll";
  readonly supportsPolling = false;
  readonly showsCompletions = false;
  readonly hasChanges = false;
  readonly requests = null;
  readonly mayMissEvents = true;
  readonly #system: System;
  readonly #ready: ReadyList;
  readonly #times: IterationTimes;
  readonly #fd: number;
  readonly #events = allocateNative(EVENTS_MAX * EVENT_WORDS * 4);
  readonly #slots: (AioHandler | null)[] = [null];
  readonly #freeSlots: number[] = [];
  #withoutPoll = 0;

  /** @throws {AioError} when there is no epoll instance to be had */
  constructor(system: System, ready: ReadyList, times: IterationTimes) {
    this.#system = system;
    this.#ready = ready;
    this.#times = times;
    this.#fd = system.epollCreate();
  }

  update(old: AioHandler | null, replacement: AioHandler | null): void {
    if (replacement !== null) {
      this.#watch(replacement, old === null ? EpollOp.add : EpollOp.modify);
    } else if (old !== null) {
      const result = this.#system.epollControl(this.#fd, EpollOp.delete, old.fd, 0, 0);
      // A closed fd has left the epoll instance by itself; its number may be a regular file's now.
      if (result !== -Errno.ENOENT && result !== -Errno.EBADF && result !== -Errno.EPERM) {
        check(result, `Cannot stop watching fd ${old.fd}`, "epoll_ctl");
      }
    }
    if (old !== null) this.#forget(old);
  }

  #watch(handler: AioHandler, op: number): void {
    const slot = this.#freeSlots.pop() ?? this.#slots.length;
    this.#slots[slot] = null;
    const { fd, events } = handler;
    let result = this.#system.epollControl(this.#fd, op, fd, events, slot);
    // The number may belong to a new file since (ENOENT), or a duplicate of the closed one may
    // still be registered under it (EEXIST).
    if (result === -Errno.ENOENT || result === -Errno.EEXIST) {
      const other = result === -Errno.ENOENT ? EpollOp.add : EpollOp.modify;
      result = this.#system.epollControl(this.#fd, other, fd, events, slot);
    }
    if (result < 0) {
      this.#freeSlots.push(slot);
      throw new AioError(`Cannot watch fd ${fd}`, "epoll_ctl", -result);
    }
    this.#slots[slot] = handler;
    handler.slot = slot;
    handler.watched = true;
    if (!handler.hasPoll) this.#withoutPoll++;
  }

  #forget(handler: AioHandler): void {
    this.#slots[handler.slot] = null;
    this.#freeSlots.push(handler.slot);
    handler.slot = 0;
    handler.watched = false;
    if (!handler.hasPoll) this.#withoutPoll--;
  }

  unpolled(): void {}

  beforePolling(): void {}

  needWait(): boolean {
    return this.#withoutPoll !== 0;
  }

  wait(block: boolean): void {
    this.#system.timeoutNs[0] = block ? this.#times.timeoutNs : 0;
    const result = this.#system.epollWait(this.#fd, this.#events, EVENTS_MAX);
    // A signal ended the wait: to the loop that is a wait without events.
    if (result === -Errno.EINTR) return;
    const count = check(result, "Cannot wait for events", "epoll_wait");
    const words = this.#events.u32;
    for (let number = 0; number < count; number++) {
      const at = number * EVENT_WORDS;
      const handler = this.#slots[words[at + DATA_WORD]];
      if (handler) markReady(this.#ready, handler, words[at + EVENTS_WORD]);
    }
  }

  delegateWait(): { readonly fds: NativeMemory; readonly count: number } {
    return { fds: pollFdsOf(this.#fd), count: 1 };
  }

  endDelegation(): void {}

  dispose(): void {
    this.#system.close(this.#fd);
    this.#slots.length = 0;
  }
}
