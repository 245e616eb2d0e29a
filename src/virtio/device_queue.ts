/**
 * A virtqueue at work on the loop: from the guest's kick to its call.
 *
 * The kick's fd is a handler of the context and the available index its PollWord. While the loop
 * polls, the guest is told not to kick (ioPollBegin), and before it sleeps to kick again
 * (ioPollEnd); the loop's last look at the word comes after that. Outside of poll mode a kick is
 * answered in the same way: kicks off, requests taken until there are none, kicks on, one more look.
 * With one exception: a guest that has several requests at once, and has been called for some and not
 * come yet, gains little from an answer at once. For it kicks stay off, and a timer looks again soon:
 * each kick that is saved so is a way out of the guest and a wake-up here.
 *
 * Completed requests go into the used ring at once, so a guest that polls sees them, and it is
 * called once for all that complete together: those that are answered at once as they are taken from
 * the ring; else when the promise jobs that were due with the first of them have run, or nothing is
 * in flight any more. Invariant: a request object belongs to the device from `start` to `complete`.
 */
import {
  type AioContext,
  AioError,
  type BottomHalf,
  type EventNotifier,
  type Timer,
} from "../../mod.ts";
import type { DirtyLog } from "./dirty_log.ts";
import { VirtioError } from "./guest_memory.ts";
import { DescriptorChain, type Virtqueue } from "./virtqueue.ts";

/** A request of the guest, as a device sees it. Objects are used again, one for each head. */
export abstract class VirtioRequest {
  readonly queue: DeviceQueue;
  readonly chain: DescriptorChain = new DescriptorChain();
  /** Descriptor that the chain begins with. */
  readonly head: number;

  constructor(queue: DeviceQueue, head: number) {
    this.queue = queue;
    this.head = head;
  }

  /**
   * Begins to carry it out; ends with a call of `queue.complete`, now or later.
   *
   * @throws {VirtioError} when it is not sound enough to be answered
   */
  abstract start(): void;
}

/** Counters of a queue, or of several. */
export interface QueueCounts {
  /** Times the guest has kicked. */
  kicks: number;
  /** Requests taken. */
  requests: number;
  /** Times the guest was called. */
  calls: number;
}

/** What a queue is made of. */
export interface DeviceQueueParts {
  readonly ctx: AioContext;
  readonly virtqueue: Virtqueue;
  /** What the guest kicks. */
  readonly kick: EventNotifier;
  /** What the guest is called with; null while it wants no calls. */
  call: EventNotifier | null;
  readonly counts: QueueCounts;
  /** Notes what is written to the guest's memory; null while nobody wants to know. */
  log: DirtyLog | null;
  /** Where the used ring is for the log; null where that is not logged. */
  readonly usedLogAddress: number | null;
  readonly makeRequest: (queue: DeviceQueue, head: number) => VirtioRequest;
  /** The queue is broken and has stopped; called once. */
  readonly reportBroken: (error: Error) => void;
}

/** Requests taken from a queue before others have their turn: each may be a read of the cache. */
const TAKEN_MAX = 128;

/** From the last request to the next look, for a guest that has several at once. */
const PAUSE_NS = 30_000;
/** Answers without a call after which a guest is one that looks itself, rather than late. */
const LATE_MAX = 64;
/** Answers after which a guest that was late is no longer held to have several requests at once. */
const CONCURRENT_MAX = 32;

const settled = Promise.resolve();

/** A started queue. */
export class DeviceQueue {
  readonly parts: DeviceQueueParts;
  readonly #virtqueue: Virtqueue;
  readonly #requests: VirtioRequest[] = [];
  readonly #word;
  // Most queues of a guest are idle: what only busy ones need is made when they do.
  #more: BottomHalf | null = null;
  /** Looks again after a pause. */
  #pause: Timer | null = null;
  #callIfDue: (() => void) | null = null;
  #inFlight = 0;
  #running = false;
  /** Requests are being taken from the ring. */
  #taking = false;
  #polling = false;
  #broken = false;
  #callDue = false;
  /** Answers since the last call, up to `LATE_MAX`. */
  #uncalled = LATE_MAX;
  /** Answers for which the guest is held to have several requests at once. */
  #concurrent = 0;
  /** Completions are told to the guest. */
  #answers = true;
  #idle: (() => void) | null = null;

  constructor(parts: DeviceQueueParts) {
    this.parts = parts;
    this.#virtqueue = parts.virtqueue;
    this.#word = parts.virtqueue.pollWord();
  }

  /** Where to go on in the available ring, once it is stopped. */
  get base(): number {
    return this.#virtqueue.nextAvail;
  }

  /** The ring turned out to be nonsense. */
  get isBroken(): boolean {
    return this.#broken;
  }

  /**
   * Begins to serve the guest, with what it has asked for already.
   *
   * @throws {AioError} when the kick's fd cannot be watched
   * @throws {VirtioError} when the record of what was in flight is nonsense
   */
  start(): void {
    const { ctx, kick } = this.parts;
    const heads = this.#virtqueue.recover();
    ctx.setFdHandler(kick.fd, {
      ioRead: () => this.#acceptKick(),
      ioPoll: this.#word,
      ioPollReady: () => this.#continue(),
      ioPollBegin: () => this.#beginPolling(),
      ioPollEnd: () => this.#endPolling(),
    });
    this.#running = true;
    this.#guard(() => {
      for (const head of heads) this.#begin(head);
    });
    this.#continue();
  }

  /**
   * Takes no more requests, and waits for those that the device has.
   *
   * @param answers whether the guest hears of these
   */
  async stop(answers = true): Promise<void> {
    this.#answers = answers;
    this.#halt();
    if (this.#inFlight !== 0) {
      await new Promise<void>((resolve) => this.#idle = resolve);
    }
    this.#more?.delete();
  }

  /**
   * A request is carried out.
   *
   * @param written bytes written to the beginning of what the device may write
   */
  complete(request: VirtioRequest, written: number): void {
    this.#inFlight--;
    if (this.#answers) this.#answer(request, written);
    // Those that are answered as they are taken are told together.
    if (this.#taking) this.#callDue = true;
    // Nothing else can complete together with the last one.
    else if (this.#inFlight === 0) this.#callGuest();
    else if (!this.#callDue) {
      this.#callDue = true;
      settled.then(this.#callIfDue ?? this.#makeCall());
    }
  }

  /** Calls the guest, whether or not it has a reason to look. */
  callOnce(): void {
    const { call } = this.parts;
    if (call !== null) this.#signal(call);
  }

  /** Takes no more requests, as this queue or another of the device is nonsense. */
  fail(error: Error): void {
    if (this.#broken) return;
    this.#broken = true;
    this.#halt();
    this.parts.reportBroken(error);
  }

  #answer(request: VirtioRequest, written: number): void {
    const { log } = this.parts;
    if (log !== null) this.#logData(log, request);
    this.#virtqueue.put(request.head, written);
    if (this.#uncalled < LATE_MAX) this.#uncalled++;
    if (this.#concurrent !== 0) this.#concurrent--;
    if (log !== null) this.#logUsed(log);
  }

  #logData(log: DirtyLog, { chain }: VirtioRequest): void {
    this.#guard(() => log.markRuns(chain.writable));
  }

  #logUsed(log: DirtyLog): void {
    const { usedLogAddress } = this.parts;
    if (usedLogAddress === null) return;
    this.#guard(() => log.mark(usedLogAddress, this.#virtqueue.usedBytes));
  }

  #signal(call: EventNotifier): void {
    try {
      signal(call);
    } catch (error) {
      this.#takeError(error);
    }
  }

  #halt(): void {
    if (!this.#running) return;
    this.#running = false;
    this.#more?.cancel();
    this.#pause?.cancel();
    try {
      this.parts.ctx.setFdHandler(this.parts.kick.fd, null);
    } catch (error) {
      // A context that is disposed has no handlers.
      if (!(error instanceof TypeError)) throw error;
    }
  }

  #acceptKick(): void {
    this.parts.counts.kicks++;
    try {
      this.parts.kick.testAndClear();
    } catch (error) {
      return this.fail(error as Error);
    }
    this.#continue();
  }

  #beginPolling(): void {
    this.#polling = true;
    this.#virtqueue.disableKicks();
  }

  #endPolling(): void {
    this.#polling = false;
    this.#virtqueue.enableKicks();
  }

  /**
   * Serves the guest. A hit of the last look before sleeping is dispatched outside of poll mode too,
   * so here is decided who notices the next request.
   */
  #continue(): void {
    if (!this.#running || this.#polling) return void this.#process();
    this.#virtqueue.disableKicks();
    const taken = this.#process();
    if (!this.#running) return;
    // There may be more than fit into a turn: others have theirs, and no pause.
    if (taken === TAKEN_MAX) this.#lookSoon();
    else if (taken !== 0 && this.#concurrent !== 0) this.#lookAfterPause();
    else if (this.#virtqueue.enableKicks()) this.#lookSoon();
  }

  /** By a bottom half: others have their turn before. */
  #lookSoon(): void {
    this.#more ??= this.parts.ctx.bottomHalf(this.#makeContinue(), { name: "virtqueue" });
    this.#more.schedule();
  }

  #lookAfterPause(): void {
    const { ctx } = this.parts;
    this.#pause ??= ctx.timer(this.#makeContinue());
    this.#pause.arm(ctx.now() + PAUSE_NS);
  }

  // A function that makes closures allocates whenever it is entered: these do nothing else.

  #makeContinue(): () => void {
    return () => this.#continue();
  }

  #makeCall(): () => void {
    return this.#callIfDue = () => {
      if (this.#callDue) this.#callGuest();
    };
  }

  /**
   * Takes what the guest has asked for, `TAKEN_MAX` requests at most. What is left is seen by
   * whoever looks next: the word in poll mode, and else `#lookSoon`.
   *
   * @returns how many it has taken
   */
  #process(): number {
    if (!this.#running) return 0;
    const queue = this.#virtqueue;
    let taken = 0;
    this.#taking = true;
    try {
      // Others have their turn: a guest that is fast could keep the loop here for ever.
      for (; taken < TAKEN_MAX; taken++) {
        const head = queue.take();
        if (head === -1) break;
        this.#begin(head);
      }
    } catch (error) {
      this.#takeError(error);
    } finally {
      this.#taking = false;
    }
    this.#word.seen = queue.nextAvail;
    if (this.#callDue) this.#callGuest();
    return taken;
  }

  #begin(head: number): void {
    const request = this.#requests[head] ??= this.parts.makeRequest(this, head);
    this.parts.counts.requests++;
    this.#virtqueue.read(head, request.chain);
    this.#inFlight++;
    try {
      request.start();
    } catch (error) {
      this.#inFlight--;
      throw error;
    }
  }

  #guard(action: () => void): void {
    try {
      action();
    } catch (error) {
      this.#takeError(error);
    }
  }

  #takeError(error: unknown): void {
    if (!(error instanceof VirtioError)) throw error;
    this.fail(error);
  }

  /** Nobody could catch what it throws. A closure here would allocate for each request. */
  #callGuest(): void {
    this.#callDue = false;
    const { call, counts } = this.parts;
    if (this.#answers && call !== null) {
      if (this.#virtqueue.wantsCall()) {
        this.#uncalled = 0;
        counts.calls++;
        this.#signal(call);
        // It was called, and has not come: then it would have wanted another call.
      } else if (this.#uncalled < LATE_MAX) this.#concurrent = CONCURRENT_MAX;
    }
    if (this.#inFlight !== 0 || this.#idle === null) return;
    this.#idle();
    this.#idle = null;
  }
}

/** @throws {VirtioError} when the fd cannot be written to */
function signal(notifier: EventNotifier): void {
  try {
    notifier.set();
  } catch (error) {
    if (!(error instanceof AioError)) throw error;
    throw new VirtioError(error.message);
  }
}
