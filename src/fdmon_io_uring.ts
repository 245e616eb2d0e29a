/**
 * Monitoring with io_uring: one-shot POLL_ADD requests, armed again after each event, which makes
 * them level-triggered.
 *
 * The point of this backend is what it does not do. While a handler is polled in userspace its
 * fd need not be watched, so its re-arm is held back until the loop is about to block (`#held`):
 * an event never leaves an unsubmitted SQE behind that would keep the loop from polling right
 * after it. Re-arms of handlers nobody polls (`#pending`) go out before polling begins. Re-arms,
 * cancellations and the wait share one enter.
 *
 * Requests share the ring and the enter. Cancellations are held back until then too: a caller's
 * chain of linked requests must not have an SQE of the loop in its middle, which would cut it.
 *
 * Who asked for a completion is told by its user_data. A slot number, never a pointer, is the lower
 * half of it, and the upper half says whose slots are meant: handlers' or requests'. A slot is reused
 * only when no request of it is in flight; slot 0 is nobody. Invariant: a handler is in `#pending` or
 * `#held` exactly when its armState says so, and `#slots[handler.slot]` is the handler while it has
 * a slot.
 */
import { AioError, Errno } from "../ffi/errno.ts";
import type { Liburing } from "../ffi/liburing_symbols.ts";
import { allocateNative, type NativeMemory, pollFdsOf } from "../ffi/memory.ts";
import { Ring, SqFlag } from "../ffi/ring.ts";
import type { Spin } from "../ffi/spin.ts";
import { CqeWord, loadNumber, SqeOp, SqeWord, storeNumber } from "../ffi/sqe.ts";
import type { System } from "../ffi/system.ts";
import { EpollMirror } from "./epoll_mirror.ts";
import type { AioHandler } from "./aio_handler.ts";
import { type Fdmon, type FdmonParts, markFailed, markReady, type ReadyList } from "./fdmon.ts";
import type { IterationTimes } from "./iteration_times.ts";
import type { AioRequest, RequestDevice } from "./request.ts";
import { REQUEST, RingCancels } from "./ring_cancels.ts";
import type { RequestQueue } from "./request_queue.ts";
import type { Trace } from "./trace.ts";

/** armState of a handler. */
const Arm = { idle: 0, pending: 1, held: 2, inFlight: 3, cancelling: 4 } as const;

/** How often an enter is tried again that the kernel cannot serve for lack of resources. */
const BUSY_RETRIES_MAX = 1000;

/** SQEs of a chain, which one enter has to submit together. */
const CHAIN_MAX = 64;
/**
 * Requests past the page cache that go out together. Eleven at a time, as completions bring them
 * about at a depth of 32, were a fifth slower than one to four; one at a time costs more calls.
 */
const DIRECT_BATCH = 2;
/** How long disposing waits for cancelled requests; only a disk that hangs takes as long. */
const QUIESCE_NS = 2e9;
/** After this time it cancels again: what follows in a chain is known only then. */
const CANCEL_AGAIN_NS = 1e6;

/** The io_uring backend. */
export class FdmonIoUring implements Fdmon, RequestDevice {
  readonly name = "io_uring";
  readonly supportsPolling = true;
  readonly showsCompletions = true;
  readonly requests: RequestDevice = this;
  readonly batches = true;
  readonly #system: System;
  readonly #ring: Ring;
  readonly #spins: readonly Spin<unknown>[];
  readonly #ready: ReadyList;
  readonly #times: IterationTimes;
  readonly #queue: RequestQueue;
  readonly #trace: Trace;
  /** SQEs of the chain that is being made. */
  #chainLength = 0;
  /** Where another thread has ever waited in the loop's place. */
  #mirror: EpollMirror | null = null;
  readonly #slots: (AioHandler | null)[] = [null];
  readonly #freeSlots: number[] = [];
  /** To be armed by the next enter. */
  readonly #pending: AioHandler[] = [];
  /** Polled in userspace, to be armed before the loop blocks. */
  readonly #held: AioHandler[] = [];
  readonly #cancels: RingCancels;
  /** A struct __kernel_timespec of a nanosecond. */
  readonly #instant = allocateNative(16);

  /** @throws {AioError} when the ring cannot be set up */
  constructor(liburing: Liburing, parts: FdmonParts) {
    this.#queue = parts.requests;
    this.#trace = parts.trace;
    this.#system = parts.system;
    this.#ring = new Ring(liburing, parts.system, parts.ringMemory);
    this.#cancels = new RingCancels(this.#ring, () => this.#nextSqe());
    this.#instant.i32[2] = 1;
    this.#spins = [parts.spin, parts.ringSpin];
    this.#ready = parts.ready;
    this.#times = parts.times;
    const { cqHead, cqTail, sqFlags } = this.#ring.addresses;
    for (const spin of this.#spins) {
      spin.watchRing(cqHead, cqTail, sqFlags, SqFlag.taskrun | SqFlag.cqOverflow);
    }
  }

  update(old: AioHandler | null, replacement: AioHandler | null): void {
    if (old !== null) this.#unwatch(old);
    if (replacement !== null) this.#watch(replacement);
  }

  unpolled(handler: AioHandler): void {
    if (handler.armState !== Arm.held) return;
    this.#leave(this.#held, handler);
    this.#join(this.#pending, handler, Arm.pending);
  }

  beforePolling(listed: boolean): void {
    if (!this.hasChanges && (listed || this.#held.length === 0)) return;
    this.#cancels.submit();
    this.#arm(this.#pending);
    if (!listed) this.#arm(this.#held);
    this.#enter(0);
  }

  needWait(): boolean {
    return this.#ring.hasCompletions || this.hasChanges;
  }

  /** Something waits for an enter, and not only for one that sleeps. */
  get hasChanges(): boolean {
    return this.#pending.length !== 0 || !this.#cancels.empty ||
      this.#ring.unsubmitted !== 0;
  }

  get mayMissEvents(): boolean {
    return this.#held.length !== 0;
  }

  wait(block: boolean, polled: boolean): void {
    this.#cancels.submit();
    this.#arm(this.#pending);
    if (block || !polled) this.#arm(this.#held);
    const ring = this.#ring;
    // Completions that are there already are not to be slept over.
    const sleep = block && ring.completions() === 0;
    if (sleep) ring.timeoutNs[0] = this.#times.timeoutNs;
    ring.waitsForDisk = this.#queue.diskInFlight !== 0;
    if (sleep || ring.unsubmitted !== 0 || ring.needsEnter) this.#enter(sleep ? 1 : 0);
    this.#reap();
    // A full CQ ring made the kernel keep completions back: it posts them as room appears. And one
    // enter brings in only so many, which may all be ends of requests that nobody waits for.
    while (ring.overflowed || (ring.needsEnter && this.#collected() === 0)) {
      this.#enter(0);
      if (this.#reap() === 0 && ring.needsEnter && !ring.overflowed) return this.#clearTaskrun();
    }
  }

  /**
   * Has the kernel clear its flag that says there is work to be done by an enter, where an enter has
   * found none. It sets the flag after it has added the work, which may be done by then; it clears it
   * when work is done. So a timeout that is over at once is made for it to do.
   */
  #clearTaskrun(): void {
    const at = this.#nextSqe();
    const words = this.#ring.sqes;
    words[at + SqeWord.opcode] = SqeOp.timeout;
    words[at + SqeWord.fd] = -1;
    storeNumber(words, at + SqeWord.addr, Number(this.#instant.address));
    words[at + SqeWord.len] = 1;
    this.#ring.push();
    this.#ring.timeoutNs[0] = -1;
    this.#enter(1);
    this.#reap();
  }

  registerBuffer(address: number, byteLength: number): number {
    return this.#ring.registered.registerBuffer(address, byteLength);
  }

  start(request: AioRequest): void {
    const ring = this.#ring;
    const chained = ring.chained;
    const continues = chained && request.continuesChain;
    if (!continues) {
      if (chained) ring.endChain();
      this.#chainLength = 0;
      // One of them may mean the last request that had this slot.
      this.#cancels.submit();
    } else if (this.#chainLength === CHAIN_MAX) {
      throw new RangeError(`Cannot link more than ${CHAIN_MAX} requests`);
    }
    if (continues) this.#cancels.dropRequest(request.slot);
    // A chain must not be cut by a full ring, so there has to be room for all of it.
    if (ring.room < (continues ? 1 : CHAIN_MAX)) this.#enter(0);
    const at = ring.nextSqe();
    const words = ring.sqes;
    request.prepare(words, at);
    words[at + SqeWord.userData] = request.slot;
    words[at + SqeWord.userData + 1] = REQUEST;
    const opcode = words[at + SqeWord.opcode] & 0xff;
    if (!ring.supports(opcode)) {
      throw new AioError("Cannot make a request", "io_uring_enter", Errno.EOPNOTSUPP);
    }
    ring.push();
    this.#chainLength++;
    if (request.direct && ring.unsubmitted >= DIRECT_BATCH) this.#enter(0);
    if (this.#trace.wants("fdmon_io_uring_add_sqe")) {
      const off = loadNumber(words, at + SqeWord.off);
      this.#trace.emit("fdmon_io_uring_add_sqe", { opcode, fd: words[at + SqeWord.fd], off });
    }
  }

  forget(): void {
    // The ring knows files, not numbers.
  }

  release(): boolean {
    return true; // It watches for handlers alone.
  }

  cancel(request: AioRequest): void {
    this.#cancels.addRequest(request.slot);
  }

  quiesce(requests: readonly AioRequest[]): void {
    const untilNs = this.#system.now() + QUIESCE_NS;
    while (this.#queue.running > 0 && this.#system.now() < untilNs) {
      for (const request of requests) this.cancel(request);
      this.#cancels.submit();
      const againNs = this.#system.now() + CANCEL_AGAIN_NS;
      for (let leftNs = CANCEL_AGAIN_NS; leftNs > 0; leftNs = againNs - this.#system.now()) {
        this.#ring.timeoutNs[0] = leftNs;
        this.#enter(1);
        this.#reap();
        if (this.#queue.running === 0) return;
      }
    }
  }

  /** Ready handlers and completed requests. */
  #collected(): number {
    return this.#ready.size + this.#queue.completedCount;
  }

  delegateWait(): { readonly fds: NativeMemory; readonly count: number } {
    if (this.#mirror === null) {
      this.#mirror = new EpollMirror(this.#system);
      for (const handler of this.#slots) if (handler?.watched) this.#mirror.watch(handler);
    }
    return { fds: pollFdsOf(this.#ring.signalCompletions(), this.#mirror.fd), count: 2 };
  }

  endDelegation(): void {
    this.#ring.stopSignalling();
  }

  dispose(): void {
    for (const spin of this.#spins) spin.unwatchRing();
    this.#mirror?.dispose();
    this.#mirror = null;
    this.#ring.dispose();
    this.#slots.length =
      this.#pending.length =
      this.#held.length =
        0;
    this.#cancels.clear();
  }

  #watch(handler: AioHandler): void {
    handler.watched = true;
    this.#mirror?.watch(handler);
    // A cancellation still under way ends with a completion, which arms the handler again.
    if (handler.armState !== Arm.idle) return;
    if (handler.slot === 0) {
      handler.slot = this.#freeSlots.pop() ?? this.#slots.length;
      this.#slots[handler.slot] = handler;
    }
    this.#join(this.#pending, handler, Arm.pending);
  }

  #unwatch(handler: AioHandler): void {
    handler.watched = false;
    this.#mirror?.unwatch(handler);
    if (handler.armState === Arm.pending) this.#leave(this.#pending, handler);
    else if (handler.armState === Arm.held) this.#leave(this.#held, handler);
    else if (handler.armState === Arm.inFlight) this.#cancel(handler);
    if (handler.armState === Arm.idle) this.#freeSlot(handler);
  }

  #freeSlot(handler: AioHandler): void {
    this.#slots[handler.slot] = null;
    this.#freeSlots.push(handler.slot);
    handler.slot = 0;
  }

  #cancel(handler: AioHandler): void {
    this.#cancels.addHandler(handler.slot);
    handler.armState = Arm.cancelling;
  }

  #arm(handlers: AioHandler[]): void {
    while (handlers.length !== 0) {
      // This may throw, so nobody is taken off the list before.
      const at = this.#nextSqe();
      const handler = handlers.pop()!;
      const words = this.#ring.sqes;
      words[at + SqeWord.opcode] = SqeOp.pollAdd;
      words[at + SqeWord.fd] = handler.fd;
      words[at + SqeWord.opFlags] = handler.events;
      words[at + SqeWord.userData] = handler.slot;
      this.#ring.push();
      handler.armState = Arm.inFlight;
      handler.armIndex = -1;
    }
  }

  /** Sees to it that an SQE can be had; a full ring is submitted midway. */
  #makeRoom(): void {
    if (this.#ring.room === 0) this.#enter(0);
  }

  /** An SQE of the backend itself, which belongs to nobody's chain. */
  #nextSqe(): number {
    this.#makeRoom();
    this.#ring.endChain();
    return this.#ring.nextSqe();
  }

  /**
   * Enters the kernel until all SQEs are taken and the wait is over. Completions stay in the ring
   * unless the kernel needs the room.
   */
  #enter(minComplete: number): void {
    const ring = this.#ring;
    for (let retries = 0;; retries++) {
      const result = ring.enter(minComplete);
      // A signal or the time ends a wait; what could not be submitted has to be, all the same.
      const ended = result === -Errno.ETIME || result === -Errno.EINTR;
      if ((result >= 0 || ended) && ring.unsubmitted === 0) return;
      const transient = result >= 0 || ended || result === -Errno.EBUSY ||
        result === -Errno.EAGAIN || result === -Errno.ENOMEM;
      if (!transient || retries === BUSY_RETRIES_MAX) {
        const errno = result < 0 ? -result : Errno.EBUSY;
        throw new AioError("Cannot wait for events", "io_uring_enter", errno);
      }
      // Only attempts in a row are counted that took nothing.
      if (result > 0) retries = 0;
      // Room in the CQ ring may be what the kernel lacks; with events in hand nobody has to wait.
      if (ended || (result < 0 ? this.#reap() : ring.completions()) > 0) minComplete = 0;
    }
  }

  /** Takes all completions out of the ring; returns how many there were. */
  #reap(): number {
    const ring = this.#ring;
    const count = ring.completions();
    if (count === 0) return 0;
    const cqes = ring.cqes;
    for (let number = 0; number < count; number++) {
      const at = ring.cqeIndex(number);
      const slot = cqes[at + CqeWord.userData], result = cqes[at + CqeWord.res];
      if (cqes[at + CqeWord.userData + 1] === REQUEST) {
        this.#queue.completed(slot, result, cqes[at + CqeWord.flags]);
      } else {
        const handler = this.#slots[slot];
        if (handler !== null) this.#complete(handler, result);
      }
    }
    ring.consume(count);
    return count;
  }

  #complete(handler: AioHandler, result: number): void {
    handler.armState = Arm.idle;
    if (!handler.watched) return this.#freeSlot(handler);
    if (result < 0 && result !== -Errno.ECANCELED) return markFailed(this.#ready, handler, -result);
    // A handler with a poll callback is listed when it is dispatched, and polled from then on; one
    // that has been cancelled and wanted back meanwhile is not dispatched.
    if (handler.hasPoll && (result > 0 || handler.listed)) {
      this.#join(this.#held, handler, Arm.held);
    } else this.#join(this.#pending, handler, Arm.pending);
    if (result > 0) markReady(this.#ready, handler, result);
  }

  #join(list: AioHandler[], handler: AioHandler, state: number): void {
    handler.armState = state;
    handler.armIndex = list.push(handler) - 1;
  }

  #leave(list: AioHandler[], handler: AioHandler): void {
    const last = list.pop()!;
    if (last !== handler) {
      list[handler.armIndex] = last;
      last.armIndex = handler.armIndex;
    }
    handler.armIndex = -1;
    handler.armState = Arm.idle;
  }
}
