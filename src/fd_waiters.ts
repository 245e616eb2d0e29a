/**
 * Requests that wait for one fd to become ready, in the order they came.
 *
 * A handler watches the fd for as long as somebody waits, and a little longer: a server asks for more
 * as soon as it has something, so the handler is taken away only when the fd is ready and nobody
 * wants it. Invariant: the handler watches for every event that a waiting request wants.
 */
import { AioError } from "../ffi/errno.ts";
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
  #watchesIn = false;
  #watchesOut = false;

  constructor(fd: number, handlers: HandlerRegistry, requests: WaitingRequests) {
    this.#fd = fd;
    this.#handlers = handlers;
    this.#requests = requests;
  }

  /** Nobody waits. */
  get empty(): boolean {
    return this.#readers.length === 0 && this.#writers.length === 0;
  }

  /** Whether somebody waits for one of these events. */
  hasWaiting(events: number): boolean {
    return this.#queueOf(events).length !== 0;
  }

  /** Waits for the fd. @throws {AioError} when it cannot be watched */
  add(slot: number, events: number): void {
    const { in: input, out: output } = PollEvent;
    this.#watch(
      this.#watchesIn || (events & input) !== 0,
      this.#watchesOut || (events & output) !== 0,
    );
    this.#queueOf(events).push({ slot, events });
  }

  /** Waits no more; false where it did not. */
  remove(slot: number): boolean {
    for (const queue of [this.#readers, this.#writers]) {
      const place = queue.findIndex((waiting) => waiting.slot === slot);
      if (place === -1) continue;
      queue.splice(place, 1);
      return true;
    }
    return false;
  }

  /** Watches the fd no more. */
  stop(): void {
    this.#watch(false, false);
  }

  /** A poll for both kinds of events waits with the readers. */
  #queueOf(events: number): Waiting[] {
    return (events & PollEvent.out) !== 0 && (events & PollEvent.in) === 0
      ? this.#writers
      : this.#readers;
  }

  #watch(read: boolean, write: boolean): void {
    if (read === this.#watchesIn && write === this.#watchesOut) return;
    this.#handlers.watch(this.#fd, {
      ioRead: read ? () => this.#readable() : null,
      ioWrite: write ? () => this.#writable() : null,
    });
    this.#watchesIn = read;
    this.#watchesOut = write;
  }

  #readable(): void {
    if (this.#readers.length === 0) this.#watch(false, this.#watchesOut);
    else this.#retry(this.#readers);
  }

  #writable(): void {
    const wanted = this.#readers.some(({ events }) => (events & PollEvent.out) !== 0);
    if (this.#writers.length === 0 && !wanted) return this.#watch(this.#watchesIn, false);
    this.#retry(this.#writers);
    if (wanted) this.#retry(this.#readers);
  }

  /** Lets as many go on, in order, as the fd has something for. */
  #retry(queue: Waiting[]): void {
    while (queue.length !== 0) {
      const { slot, events } = queue[0];
      try {
        if (!this.#requests.retry(slot, events)) return;
      } catch (error) {
        if (!(error instanceof AioError)) throw error;
        this.#requests.fail(slot, error.errno);
      }
      queue.shift();
    }
  }
}
