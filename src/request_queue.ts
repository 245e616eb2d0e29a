/**
 * The requests of one context: who is in flight in which slot, who waits for a slot, and which
 * completions are to be dispatched.
 *
 * A completion is noted while the loop collects and dispatched afterwards, so no user code runs
 * inside a wait. A slot is free again with the last completion of its request. Slots bound what is
 * in flight; requests beyond that wait in order and start as others end. What is linked to a request
 * that has started starts with it, as a chain cannot go out in parts. Invariant: a request has a
 * slot, or waits, or is its owner's business.
 */
import { AioError, Errno } from "../ffi/errno.ts";
import { CqeFlag } from "../ffi/sqe.ts";
import type { AioRequest, RequestDevice } from "./request.ts";
import type { Trace } from "./trace.ts";

/** Requests in flight, but for the rest of a chain: more than a process can have open files. */
const IN_FLIGHT_MAX = 65_536;

/**
 * Requests answered at once between two iterations at most, lest a program that makes them for ever
 * keeps the loop from everybody else.
 */
const ANSWERED_MAX = 32;

const FIRST_CAPACITY = 256;
/** Words of a completion: slot, result, flags. */
const COMPLETION_WORDS = 4;

/** Memory that the kernel may still write to although the context of its request is gone. */
const abandoned: unknown[] = [];

/** Slots, waiting requests and completions. */
export class RequestQueue {
  /** Carries the requests out. */
  device: RequestDevice | null = null;
  /** Requests in flight that are a matter for a disk. */
  diskInFlight = 0;
  /** Requests answered since the last iteration without being added: reads of the cache, and sends. */
  answered = 0;
  /** Completions that the last iteration found. */
  batch = 0;
  readonly #openDevice: () => RequestDevice;
  readonly #changed: () => void;
  readonly #trace: Trace;
  readonly #report: (error: unknown) => void;
  /** Closes an fd at once. */
  readonly close: (fd: number) => void;
  /** Slot 0 is nobody. */
  readonly #slots: (AioRequest | null)[] = [null];
  readonly #freeSlots: number[] = [];
  #firstWaiting: AioRequest | null = null;
  #lastWaiting: AioRequest | null = null;
  /** A ring of completions, its capacity a power of two. */
  #completions = new Int32Array(FIRST_CAPACITY * COMPLETION_WORDS);
  #head = 0;
  #tail = 0;
  /** Completions not dispatched that are the last of their requests. */
  #lastOnes = 0;
  /** What is added next is linked to what has been started. */
  #chained = false;

  /**
   * @param openDevice makes the device when the first request is added
   * @param changed called when the loop must not sleep on what it knew before
   * @param report receives what completions throw
   * @param close closes an fd at once, where no request can be made any more
   */
  constructor(
    openDevice: () => RequestDevice,
    changed: () => void,
    trace: Trace,
    report: (error: unknown) => void,
    close: (fd: number) => void,
  ) {
    this.close = close;
    this.#openDevice = openDevice;
    this.#changed = changed;
    this.#trace = trace;
    this.#report = report;
  }

  /** Requests in flight. */
  get inFlight(): number {
    return this.#slots.length - 1 - this.#freeSlots.length;
  }

  /** Requests in flight whose last completion has not come. */
  get running(): number {
    return this.inFlight - this.#lastOnes;
  }

  /** Completions that have not been dispatched. */
  get completedCount(): number {
    return this.#tail - this.#head;
  }

  /**
   * Adds a request, which must not be in flight: it goes out with the next iteration.
   *
   * @throws {AioError} when it cannot be carried out; the request is not added then
   */
  add(request: AioRequest): void {
    if (request.slot !== 0 || request.waiting) throw new Error("assertion failed: in flight");
    this.#changed();
    if (this.#firstWaiting === null && this.#hasRoom(request)) return this.#start(request);
    request.wait();
    if (this.#lastWaiting === null) this.#firstWaiting = request;
    else this.#lastWaiting.next = request;
    this.#lastWaiting = request;
    request.waiting = true;
  }

  #hasRoom(request: AioRequest): boolean {
    return this.inFlight < IN_FLIGHT_MAX || (this.#chained && request.continuesChain);
  }

  /** Asks for an added request to end soon; one that waits is never started. */
  cancel(request: AioRequest): void {
    if (request.waiting) {
      this.#stopWaiting(request);
      this.endUnstarted(request);
    } else if (request.slot !== 0) {
      this.#changed();
      this.device!.cancel(request);
    }
  }

  /** Ends a request that is not added: it completes in the next iteration, like any other. */
  endUnstarted(request: AioRequest): void {
    this.#changed();
    this.#takeSlot(request);
    this.completed(request.slot, -Errno.ECANCELED, 0);
  }

  /** Notes a completion, to be dispatched. */
  completed(slot: number, result: number, flags: number): void {
    const mask = this.#completions.length / COMPLETION_WORDS - 1;
    if (this.#tail - this.#head > mask) return this.#grow(slot, result, flags);
    if ((flags & CqeFlag.more) === 0) this.#lastOnes++;
    const at = (this.#tail++ & mask) * COMPLETION_WORDS;
    this.#completions[at] = slot;
    this.#completions[at + 1] = result;
    this.#completions[at + 2] = flags;
  }

  #grow(slot: number, result: number, flags: number): void {
    const old = this.#completions, words = old.length;
    const first = (this.#head * COMPLETION_WORDS) & (words - 1);
    this.#completions = new Int32Array(words * 2);
    this.#completions.set(old.subarray(first));
    this.#completions.set(old.subarray(0, first), words - first);
    this.#head = 0;
    this.#tail = words / COMPLETION_WORDS;
    this.completed(slot, result, flags);
  }

  /** Whether one more request may be answered at once, without being added. */
  get mayAnswer(): boolean {
    return this.answered < ANSWERED_MAX;
  }

  /**
   * Dispatches the completions that are there now.
   *
   * @param stopped asked before each one; true leaves the others alone
   * @returns true when there was one
   */
  run(stopped: () => boolean): boolean {
    this.answered = 0;
    let left = this.batch = this.#tail - this.#head;
    if (left === 0) return false;
    // A nested poll takes from the same ring, so there may be fewer than there were.
    for (; left > 0 && this.#head !== this.#tail && !stopped(); left--) {
      const completions = this.#completions;
      const at = (this.#head++ * COMPLETION_WORDS) & (completions.length - 1);
      this.#dispatch(completions[at], completions[at + 1], completions[at + 2]);
    }
    while (this.#firstWaiting !== null && this.#hasRoom(this.#firstWaiting) && !stopped()) {
      this.#startWaiting(this.#firstWaiting);
    }
    return true;
  }

  #dispatch(slot: number, result: number, flags: number): void {
    const request = this.#slots[slot]!;
    if ((flags & CqeFlag.more) === 0) {
      this.#lastOnes--;
      this.#freeSlot(request);
    }
    const trace = this.#trace;
    if (trace.wants("fdmon_io_uring_cqe_handler")) {
      trace.emit("fdmon_io_uring_cqe_handler", { res: result });
    }
    if (trace.active) trace.beginCallback("request", null);
    try {
      request.complete(result, flags);
    } catch (error) {
      this.#report(error);
    }
    if (trace.active) trace.endCallback("request", null);
  }

  #start(request: AioRequest): void {
    this.device ??= this.#openDevice();
    this.#takeSlot(request);
    try {
      this.device.start(request);
      this.#chained = request.links;
    } catch (error) {
      this.#freeSlot(request);
      throw error;
    }
  }

  #startWaiting(request: AioRequest): void {
    this.#stopWaiting(request);
    let errno: number = Errno.EINVAL;
    try {
      return this.#start(request);
    } catch (error) {
      // Nobody is there to catch it any more, so the request ends with it.
      if (error instanceof AioError) errno = error.errno;
      else this.#report(error);
    }
    this.#takeSlot(request);
    this.completed(request.slot, -errno, 0);
  }

  #stopWaiting(request: AioRequest): void {
    let previous: AioRequest | null = null;
    for (let other = this.#firstWaiting; other !== request; other = other!.next) previous = other;
    if (previous === null) this.#firstWaiting = request.next;
    else previous.next = request.next;
    if (this.#lastWaiting === request) this.#lastWaiting = previous;
    request.next = null;
    request.waiting = false;
  }

  #takeSlot(request: AioRequest): void {
    request.slot = this.#freeSlots.length === 0 ? this.#slots.length : this.#freeSlots.pop()!;
    this.#slots[request.slot] = request;
    if (request.disk) this.diskInFlight++;
  }

  #freeSlot(request: AioRequest): void {
    this.#slots[request.slot] = null;
    if (request.disk) this.diskInFlight--;
    this.#freeSlots.push(request.slot);
    request.slot = 0;
  }

  /**
   * Ends everything: what is in flight is cancelled and waited for, so that the kernel writes to
   * nobody's memory afterwards. Where it does not end, its memory is kept for ever.
   */
  dispose(): void {
    const { device } = this;
    while (this.#firstWaiting !== null) {
      const request = this.#firstWaiting;
      this.#stopWaiting(request);
      this.#abandon(request, -Errno.ECANCELED);
    }
    if (device === null) return;
    const inFlight = this.#slots.filter((request) => request !== null);
    try {
      if (inFlight.length !== 0) device.quiesce(inFlight);
    } catch (error) {
      this.#report(error);
    }
    while (this.#head !== this.#tail) {
      const at = (this.#head++ * COMPLETION_WORDS) & (this.#completions.length - 1);
      const request = this.#slots[this.#completions[at]];
      if (request === null || (this.#completions[at + 2] & CqeFlag.more) !== 0) continue;
      this.#freeSlot(request);
      this.#abandon(request, this.#completions[at + 1]);
    }
    for (const request of this.#slots) {
      if (request === null) continue;
      abandoned.push(request.held);
      // Whoever cancels it later finds that it is not in flight.
      this.#freeSlot(request);
      this.#abandon(request, null);
    }
    this.device = null;
    device.dispose();
  }

  #abandon(request: AioRequest, result: number | null): void {
    try {
      request.abandon(result);
    } catch (error) {
      this.#report(error);
    }
  }
}
