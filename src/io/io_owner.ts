/**
 * An open fd with requests in flight: what files and sockets have in common.
 *
 * Its number must not be used once it is closed, as it may be somebody else's by then, and it must
 * not be closed while the kernel works on a request of it. So closing takes the number away at once,
 * ends the requests or waits for them, and only then closes.
 */
import { PollEvent } from "../../ffi/system.ts";
import type { IoRequests } from "./io_request.ts";
import type { IoRequest } from "./promised_request.ts";

/** What an fd is, and whether its requests have to be cancelled for it to be closed. */
export interface OwnerKind {
  /** As `"file"`; in errors. */
  readonly name: string;
  /** Its requests can take for ever, so closing cancels them; and closing itself never waits. */
  readonly cancels: boolean;
  /**
   * Its requests of one direction take turns. Where several wait for an fd the kernel serves the
   * last one first, and gives what comes meanwhile to whoever asks just then.
   */
  readonly takesTurns: boolean;
  /** It is a file past the page cache. */
  readonly direct?: boolean;
  /** What to do about EINVAL, where that has a usual reason. */
  readonly invalidAdvice?: string;
}

/** An fd that requests are made on. */
export class IoOwner {
  readonly io: IoRequests;
  readonly kind: OwnerKind;
  /** Requests in flight: a list through the requests themselves. */
  #first: IoRequest | null = null;
  /** Whose turn it is in each direction, and who comes after that. */
  #receiving: IoRequest | null = null;
  #sending: IoRequest | null = null;
  #toReceive: IoRequest[] | null = null;
  #toSend: IoRequest[] | null = null;
  #fd: number;
  #idle: (() => void) | null = null;
  #closed: Promise<void> | null = null;

  constructor(io: IoRequests, fd: number, kind: OwnerKind) {
    this.io = io;
    this.#fd = fd;
    this.kind = kind;
    io.system.own(fd);
  }

  /** The fd. @throws {TypeError} when it is closed */
  get fd(): number {
    if (this.#fd === -1) throw new TypeError(`Cannot use the ${this.kind.name} as it is closed`);
    return this.#fd;
  }

  /** Whether requests can still be made. */
  get isOpen(): boolean {
    return this.#fd !== -1;
  }

  /** Whether a request can be made now; otherwise it waits until `passTurn` returns it. */
  takeTurn(request: IoRequest): boolean {
    const { events } = request.operation;
    if (!this.kind.takesTurns || events === 0) return true;
    if (events === PollEvent.in) {
      if (this.#receiving === null) this.#receiving = request;
      else (this.#toReceive ??= []).push(request);
      return this.#receiving === request;
    }
    if (this.#sending === null) this.#sending = request;
    else (this.#toSend ??= []).push(request);
    return this.#sending === request;
  }

  /** A request that may be waiting for its turn waits no more; false where it does not. */
  giveUpTurn(request: IoRequest): boolean {
    const waiting = request.operation.events === PollEvent.in ? this.#toReceive : this.#toSend;
    const place = waiting === null ? -1 : waiting.indexOf(request);
    if (place !== -1) waiting!.splice(place, 1);
    return place !== -1;
  }

  /** A request has ended; returns the one whose turn it is now. */
  passTurn(request: IoRequest): IoRequest | null {
    if (request === this.#receiving) return this.#receiving = this.#toReceive?.shift() ?? null;
    if (request === this.#sending) return this.#sending = this.#toSend?.shift() ?? null;
    return null;
  }

  /** A request is in flight, or waits for its turn. */
  join(request: IoRequest): void {
    const first = this.#first;
    request.ownerNext = first;
    if (first !== null) first.ownerPrevious = request;
    this.#first = request;
  }

  /** A request has ended. */
  leave(request: IoRequest): void {
    const { ownerNext, ownerPrevious } = request;
    if (ownerPrevious === null) this.#first = ownerNext;
    else ownerPrevious.ownerNext = ownerNext;
    if (ownerNext !== null) ownerNext.ownerPrevious = ownerPrevious;
    request.ownerNext = request.ownerPrevious = null;
    if (this.#first === null) this.#idle?.();
  }

  /** Ends or waits for requests in flight, and closes. Closing again is harmless. */
  close(): Promise<void> {
    return this.#closed ??= this.#close();
  }

  async #close(): Promise<void> {
    const { fd } = this;
    this.#fd = -1;
    if (this.#first !== null) {
      if (this.kind.cancels) {
        for (let request: IoRequest | null = this.#first; request !== null;) {
          // Cancelling completes nothing at once, so the list stays as it is.
          this.io.cancel(request);
          request = request.ownerNext;
        }
      }
      await new Promise<void>((resolve) => this.#idle = resolve);
    }
    if (this.kind.cancels) this.io.closeNow(fd);
    else await this.io.close(fd);
  }
}
