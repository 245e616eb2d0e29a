/**
 * A ring as a vhost-user front end describes it, message by message, until it can be started.
 *
 * A ring runs once it has a kick and is enabled. Whatever changes while it runs, it is stopped, the
 * requests in flight are waited for, and it goes on where it was. Invariant: its eventfds are open as
 * long as they are its fields, and the queue that runs uses those.
 */
import type { AioContext, EventNotifier } from "../../mod.ts";
import { DeviceQueue, type QueueCounts, type VirtioRequest } from "./device_queue.ts";
import type { DirtyLog } from "./dirty_log.ts";
import { type GuestMemory, VirtioError } from "./guest_memory.ts";
import type { InflightQueue } from "./inflight.ts";
import { Virtqueue, type VirtqueueFeatures, type VirtqueuePlace } from "./virtqueue.ts";

/** What all rings of a connection have in common; what of it changes is given to `start`. */
export interface RingOwner {
  readonly ctx: AioContext;
  readonly memory: GuestMemory;
  readonly counts: QueueCounts;
  readonly makeRequest: (queue: DeviceQueue, head: number) => VirtioRequest;
  /** A ring turned out to be nonsense, and has stopped. */
  readonly reportBroken: (error: Error) => void;
}

/** What was agreed on by the time a ring is started. */
export interface RingSettings extends VirtqueueFeatures {
  readonly inflight: InflightQueue | null;
  /** Where writes are to be logged; null where they are not. */
  readonly log: DirtyLog | null;
}

/** Where the parts of a ring are, in addresses of the front end. */
export interface RingAddresses extends Omit<VirtqueuePlace, "size"> {
  /** Where the used ring is for the log; null where that is not logged. */
  readonly usedLogAddress: number | null;
}

/** One ring of a connection. */
export class VhostUserRing {
  readonly #owner: RingOwner;
  readonly index: number;
  size = 0;
  base = 0;
  addresses: RingAddresses | null = null;
  enabled = false;
  #kick: EventNotifier | null = null;
  #call: EventNotifier | null = null;
  #error: EventNotifier | null = null;
  #queue: DeviceQueue | null = null;

  constructor(owner: RingOwner, index: number) {
    this.#owner = owner;
    this.index = index;
  }

  /** It has a kick, so the front end has started it. */
  get hasKick(): boolean {
    return this.#kick !== null;
  }

  /** Requests are taken, or were until it broke. */
  get isStarted(): boolean {
    return this.#queue !== null;
  }

  /**
   * Starts it, where it has what that takes and does not run.
   *
   * @throws {VirtioError} when what it has is nonsense
   * @throws {AioError} when the kick cannot be watched
   */
  start(settings: RingSettings): void {
    if (this.#queue !== null || this.#kick === null || !this.enabled) return;
    if (this.addresses === null || this.size === 0) {
      throw new VirtioError(`Cannot start ring ${this.index} as it lacks its size or addresses`);
    }
    const { ctx, memory, counts, makeRequest, reportBroken } = this.#owner;
    const place = { ...this.addresses, size: this.size };
    const virtqueue = new Virtqueue(memory, place, settings, this.base, settings.inflight);
    const queue = new DeviceQueue({
      ctx,
      virtqueue,
      kick: this.#kick,
      call: this.#call,
      counts,
      log: settings.log,
      usedLogAddress: this.addresses.usedLogAddress,
      makeRequest,
      reportBroken,
    });
    this.#queue = queue;
    queue.start();
  }

  /**
   * Stops it and waits for requests in flight; it can be started again and goes on where it was.
   *
   * @param answers whether the guest hears of those requests
   */
  async stop(answers = true): Promise<void> {
    const queue = this.#queue;
    if (queue === null) return;
    await queue.stop(answers);
    this.base = queue.base;
    this.#queue = null;
  }

  /** The device is broken: takes no more requests, and tells the front end. */
  fail(error: Error): void {
    this.#queue?.fail(error);
    try {
      this.#error?.set();
    } catch {
      // It need not listen.
    }
  }

  /** Sets what the guest kicks; it must be stopped. */
  setKick(kick: EventNotifier | null): void {
    this.#kick?.[Symbol.dispose]();
    this.#kick = kick;
  }

  /** Sets what the guest is called with. */
  setCall(call: EventNotifier | null): void {
    this.#call?.[Symbol.dispose]();
    this.#call = call;
    if (this.#queue !== null) this.#queue.parts.call = call;
    // Calls that were due before had nowhere to go; one too many does no harm.
    if (this.#queue !== null) this.#queue.callOnce();
  }

  /** Sets what the front end is told of errors with. */
  setError(error: EventNotifier | null): void {
    this.#error?.[Symbol.dispose]();
    this.#error = error;
  }

  /** The front end has stopped it for good. */
  forget(): void {
    this.setKick(null);
    this.setCall(null);
  }

  /** Everything is as at the beginning; it must be stopped. */
  reset(): void {
    this.forget();
    this.setError(null);
    this.enabled = false;
    this.size = this.base = 0;
    this.addresses = null;
  }
}
