/**
 * An open fd with requests in flight: what files and sockets have in common.
 *
 * Its number must not be used once it is closed, as it may be somebody else's by then, and it must
 * not be closed while the kernel works on a request of it. So closing takes the number away at once,
 * ends the requests or waits for them, and only then closes.
 */
import type { IoRequest, IoRequests } from "./io_request.ts";
import { FileOperation } from "./operation.ts";

/** What an fd is, and whether its requests have to be cancelled for it to be closed. */
export interface OwnerKind {
  /** As `"file"`; in errors. */
  readonly name: string;
  /** Its requests can take for ever, so closing cancels them; and closing itself never waits. */
  readonly cancels: boolean;
  /** What to do about EINVAL, where that has a usual reason. */
  readonly invalidAdvice?: string;
}

/** An fd that requests are made on. */
export class IoOwner {
  readonly io: IoRequests;
  readonly kind: OwnerKind;
  /** Requests in flight; each knows its index. */
  readonly requests: IoRequest[] = [];
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
    request.ownerIndex = this.requests.push(request) - 1;
  }

  /** A request has ended. */
  leave(request: IoRequest): void {
    const last = this.requests.pop()!;
    if (last !== request) {
      this.requests[request.ownerIndex] = last;
      last.ownerIndex = request.ownerIndex;
    }
    if (this.requests.length === 0) this.#idle?.();
  }

  /** Ends or waits for requests in flight, and closes. Closing again is harmless. */
  close(): Promise<void> {
    return this.#closed ??= this.#close();
  }

  async #close(): Promise<void> {
    const { fd } = this;
    this.#fd = -1;
    if (this.requests.length !== 0) {
      if (this.kind.cancels) { for (const request of this.requests) this.io.cancel(request); }
      await new Promise<void>((resolve) => this.#idle = resolve);
    }
    if (this.kind.cancels) this.io.closeNow(fd);
    else await this.io.request(FileOperation.close, null, { fd });
  }
}
