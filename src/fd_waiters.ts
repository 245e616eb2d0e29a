/**
 * Requests that wait for one fd to become ready, in the order they came.
 *
 * A handler watches the fd for as long as somebody waits, and a little longer: a server asks for more
 * as soon as it has something, so the handler is taken away only when the fd is ready and nobody
 * wants it. Invariant: the handler watches for every event that a waiting request wants.
 */
import { AioError, Errno } from "../ffi/errno.ts";
import { PollEvent } from "../ffi/system.ts";
import type { HandlerRegistry } from "./handler_registry.ts";

/** Whose requests wait. */
export interface WaitingRequests {
  /** Tries a request again; false where its fd is not ready after all. */
  retry(slot: number, events: number): boolean;
  /** The request cannot be waited for. */
  fail(slot: number, errno: number): void;
}

/** A request that waits. */
interface Waiting {
  readonly slot: number;
  readonly events: number;
}

/** Those that wait for one fd. */
export class FdWaiters {
  readonly #fd: number;
  readonly #handlers: HandlerRegistry;
  readonly #requests: WaitingRequests;
  readonly #readers: Waiting[] = [];
  readonly #writers: Waiting[] = [];
  /** These only ask, so they need not wait behind each other. */
  readonly #polls: Waiting[] = [];
  #watchesIn = false;
  #watchesOut = false;

  constructor(fd: number, handlers: HandlerRegistry, requests: WaitingRequests) {
    this.#fd = fd;
    this.#handlers = handlers;
    this.#requests = requests;
  }

  /** Nobody waits. */
  get empty(): boolean {
    return this.#readers.length + this.#writers.length + this.#polls.length === 0;
  }

  /** Whether a transfer waits for one of these events. */
  hasWaiting(events: number): boolean {
    return this.#queueOf(events).length !== 0;
  }

  /** Waits for the fd. @throws {AioError} when it cannot be watched */
  add(slot: number, events: number, isPoll: boolean): void {
    const { in: input, out: output } = PollEvent;
    this.#watch(
      this.#watchesIn || (events & input) !== 0,
      this.#watchesOut || (events & output) !== 0,
    );
    (isPoll ? this.#polls : this.#queueOf(events)).push({ slot, events });
  }

  /** Waits no more; false where it did not. */
  remove(slot: number): boolean {
    for (const queue of [this.#readers, this.#writers, this.#polls]) {
      const place = queue.findIndex((waiting) => waiting.slot === slot);
      if (place === -1) continue;
      queue.splice(place, 1);
      return true;
    }
    return false;
  }

  /** Watches the fd no more; who waits is cancelled. */
  stop(): void {
    for (const queue of [this.#readers, this.#writers, this.#polls]) {
      for (const { slot } of queue.splice(0)) this.#requests.fail(slot, Errno.ECANCELED);
    }
    this.#watch(false, false);
  }

  #queueOf(events: number): Waiting[] {
    return (events & PollEvent.in) !== 0 ? this.#readers : this.#writers;
  }

  #watch(read: boolean, write: boolean): void {
    if (read === this.#watchesIn && write === this.#watchesOut) return;
    this.#handlers.watch(this.#fd, {
      ioRead: read ? () => this.#ready(PollEvent.in, this.#readers) : null,
      ioWrite: write ? () => this.#ready(PollEvent.out, this.#writers) : null,
    });
    this.#watchesIn = read;
    this.#watchesOut = write;
  }

  /** The fd is ready, if only for an error or its end. */
  #ready(event: number, queue: Waiting[]): void {
    const polls = this.#polls.filter(({ events }) => (events & event) !== 0);
    if (queue.length === 0 && polls.length === 0) {
      const read = event !== PollEvent.in && this.#watchesIn;
      const write = event !== PollEvent.out && this.#watchesOut;
      return this.#watch(read, write);
    }
    // Polls first: what they are told is to be there still.
    for (const poll of polls) {
      if (this.#retry(poll)) this.#polls.splice(this.#polls.indexOf(poll), 1);
    }
    // As many go on, in order, as the fd has something for.
    while (queue.length !== 0 && this.#retry(queue[0])) queue.shift();
  }

  /** Whether a request waits no more. */
  #retry({ slot, events }: Waiting): boolean {
    try {
      return this.#requests.retry(slot, events);
    } catch (error) {
      if (!(error instanceof AioError)) throw error;
      this.#requests.fail(slot, error.errno);
      return true;
    }
  }
}
