/**
 * An open fd with requests in flight: what files and sockets have in common.
 *
 * Its number must not be used once it is closed, as it may be somebody else's by then, and it must
 * not be closed while the kernel works on a request of it. So closing takes the number away at once,
 * ends the requests or waits for them, and only then closes.
 */
import type { IoRequest, IoRequests } from "./io_request.ts";

/** What an fd is, and whether its requests have to be cancelled for it to be closed. */
export interface OwnerKind {
  /** As `"file"`; in errors. */
  readonly name: string;
  /** Its requests can take for ever, so closing cancels them; and closing itself never waits. */
  readonly cancels: boolean;
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
  #fd: number;
  #idle: (() => void) | null = null;
  #closed: Promise<void> | null = null;

  constructor(io: IoRequests, fd: number, kind: OwnerKind) {
    this.io = io;
    this.#fd = fd;
    this.kind = kind;
  }

  /** The fd. @throws {TypeError} when it is closed */
  get fd(): number {
    if (this.#fd === -1) throw new TypeError(`Cannot use the ${this.kind.name} as it is closed`);
    return this.#fd;
  }

  /** A request is in flight. */
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
