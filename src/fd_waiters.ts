/**
 * Requests that wait for one fd to become ready, in the order they came.
 *
 * Who transfers bytes has to wait for its turn, and for the thread that may be reading or writing
 * just now: of two that found a pipe readable, one could find it empty and block its thread for
 * ever. Polls take nothing away from anybody, so they go on whenever they can.
 *
 * A handler watches the fd for as long as somebody waits. Where the fd belongs to a file or socket
 * of this project it does so a little longer, until the fd is ready and nobody wants it: a server
 * asks for more as soon as it has something. Whoever else owns the fd may close it without telling.
 * Invariant: the handler watches for every event that a waiting request wants, but those of a
 * direction in which a thread is at work.
 */
import { AioError, Errno } from "../ffi/errno.ts";
import { PollEvent } from "../ffi/system.ts";
import type { HandlerRegistry } from "./handler_registry.ts";

const IN = PollEvent.in, OUT = PollEvent.out;

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
  readonly #polls: Waiting[] = [];
  /** The request that a thread is carrying out; 0: none. */
  #reading = 0;
  #writing = 0;
  #watchesIn = false;
  #watchesOut = false;
  /** Nobody closes the fd without `stop`. */
  #lasting = true;

  constructor(fd: number, handlers: HandlerRegistry, requests: WaitingRequests) {
    this.#fd = fd;
    this.#handlers = handlers;
    this.#requests = requests;
  }

  /** Nobody waits, and no thread is at work. */
  get empty(): boolean {
    const waiting = this.#readers.length + this.#writers.length + this.#polls.length;
    return waiting + this.#reading + this.#writing === 0;
  }

  /** Whether a transfer has to wait for its turn. */
  isBusy(events: number): boolean {
    return events === IN
      ? this.#reading !== 0 || this.#readers.length !== 0
      : this.#writing !== 0 || this.#writers.length !== 0;
  }

  /**
   * Waits for the fd.
   *
   * @param isPoll it only wants to know
   * @param lasting the fd is not closed without `stop`
   * @throws {AioError} when it cannot be watched
   */
  add(slot: number, events: number, isPoll: boolean, lasting: boolean): void {
    const queue = isPoll ? this.#polls : events === IN ? this.#readers : this.#writers;
    this.#lasting &&= lasting;
    queue.push({ slot, events });
    try {
      this.#watchWanted();
    } catch (error) {
      queue.pop();
      throw error;
    }
  }

  /** Waits no more; false where it did not. */
  remove(slot: number): boolean {
    for (const queue of [this.#readers, this.#writers, this.#polls]) {
      const place = queue.findIndex((waiting) => waiting.slot === slot);
      if (place === -1) continue;
      queue.splice(place, 1);
      this.#release();
      return true;
    }
    return false;
  }

  /** A thread begins to carry a transfer out. */
  begin(slot: number, events: number): void {
    if (events === IN) this.#reading = slot;
    else this.#writing = slot;
  }

  /** The thread has ended: it is the next one's turn. */
  end(slot: number): void {
    if (this.#reading === slot) {
      this.#reading = 0;
      this.#retry(this.#readers);
    } else if (this.#writing === slot) {
      this.#writing = 0;
      this.#retry(this.#writers);
    }
    try {
      this.#watchWanted();
    } catch (error) {
      if (!(error instanceof AioError)) throw error;
      this.#failAll(error.errno);
    }
  }

  /** The fd is closed: watches it no more, and ends those that wait. */
  stop(): void {
    this.#watch(false, false);
    this.#failAll(Errno.ECANCELED);
  }

  #failAll(errno: number): void {
    for (const queue of [this.#readers, this.#writers, this.#polls]) {
      for (const { slot } of queue.splice(0)) this.#requests.fail(slot, errno);
    }
  }

  #wants(event: number): boolean {
    const [queue, running] = event === IN
      ? [this.#readers, this.#reading]
      : [this.#writers, this.#writing];
    return (queue.length !== 0 && running === 0) ||
      this.#polls.some(({ events }) => (events & event) !== 0);
  }

  #watchWanted(): void {
    this.#watch(this.#watchesIn || this.#wants(IN), this.#watchesOut || this.#wants(OUT));
  }

  #watch(read: boolean, write: boolean): void {
    if (read === this.#watchesIn && write === this.#watchesOut) return;
    this.#handlers.watch(this.#fd, {
      ioRead: read ? () => this.#ready(IN) : null,
      ioWrite: write ? () => this.#ready(OUT) : null,
    });
    this.#watchesIn = read;
    this.#watchesOut = write;
  }

  #ready(event: number): void {
    if (!this.#wants(event)) {
      return this.#watch(this.#watchesIn && event !== IN, this.#watchesOut && event !== OUT);
    }
    for (const waiting of [...this.#polls]) {
      if (this.#goesOn(waiting)) this.#polls.splice(this.#polls.indexOf(waiting), 1);
    }
    this.#retry(event === IN ? this.#readers : this.#writers);
    this.#release();
  }

  /** Lets as many go on, in order, as the fd has something for. */
  #retry(queue: Waiting[]): void {
    while (queue.length !== 0) {
      const running = queue === this.#readers ? this.#reading : this.#writing;
      if (running !== 0 || !this.#goesOn(queue[0])) return;
      queue.shift();
    }
  }

  #goesOn({ slot, events }: Waiting): boolean {
    try {
      return this.#requests.retry(slot, events);
    } catch (error) {
      if (!(error instanceof AioError)) throw error;
      this.#requests.fail(slot, error.errno);
      return true;
    }
  }

  /** Watches no more where nobody waits and the fd may be closed without our knowing. */
  #release(): void {
    const waits = this.#readers.length + this.#writers.length + this.#polls.length !== 0;
    if (waits || this.#lasting) return;
    this.#lasting = true;
    this.#watch(false, false);
  }
}
