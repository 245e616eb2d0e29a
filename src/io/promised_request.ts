/**
 * One request whose completion settles a promise, and what it does with its completions.
 *
 * An fd in non-blocking mode answers EAGAIN where the request ought to wait: then its readiness is
 * waited for, and the request made again. One that has to transfer all there is goes on after each
 * part. Neither happens once nobody wants the result: what is made again then, nobody would cancel.
 */
import { AioError, Errno } from "../../ffi/errno.ts";
import { SqeOp, SqeWord, storeNumber } from "../../ffi/sqe.ts";
import { AioRequest } from "../request.ts";
import type { RequestView } from "./buffers.ts";
import type { IoOwner } from "./io_owner.ts";
import type { IoRequests } from "./io_request.ts";
import { FileOperation, type Operation } from "./operation.ts";
import { isAborted } from "./request_signal.ts";

/** One request with its promise. */
export class IoRequest extends AioRequest {
  operation: Operation = FileOperation.read;
  /** Whose request it is; null for one that has no fd, or closes it. */
  owner: IoOwner | null = null;
  /** Neighbours among the requests of its owner. */
  ownerNext: IoRequest | null = null;
  ownerPrevious: IoRequest | null = null;
  fd = -1;
  /** What it is about, in errors, where that is not its fd. */
  subject = "";
  off = 0;
  address = 0;
  len = 0;
  opFlags = 0;
  /** Bytes to be transferred with as many requests as that takes; 0 where one is enough. */
  total = 0;
  /** Bytes of those that are transferred. */
  done = 0;
  /** Waits for the fd to become ready before the request is made again. */
  polling = false;
  /** Number of the memory at `address`, where the ring knows it; else -1. */
  fixedIndex = -1;
  /** Keeps the memory at `address` alive. */
  memory: unknown = null;
  /** The caller's view where the request works on a copy. */
  view: RequestView | null = null;
  copy: Uint8Array<ArrayBuffer> | null = null;
  signal: AbortSignal | null = null;
  resolve: (result: number) => void = unsettled;
  reject: (error: unknown) => void = unsettled;
  /** Made with the first signal, as most requests have none. */
  onAbort: (() => void) | null = null;
  readonly #io: IoRequests;

  constructor(io: IoRequests) {
    super();
    this.#io = io;
  }

  prepare(sqes: Int32Array, at: number): void {
    sqes[at + SqeWord.fd] = this.fd;
    if (this.polling) {
      sqes[at + SqeWord.opcode] = SqeOp.pollAdd;
      sqes[at + SqeWord.opFlags] = this.operation.events;
      return;
    }
    if (this.fixedIndex === -1) sqes[at + SqeWord.opcode] = this.operation.opcode;
    else {
      sqes[at + SqeWord.opcode] = this.operation.fixedOpcode;
      sqes[at + SqeWord.bufIndex] = this.fixedIndex;
    }
    storeNumber(sqes, at + SqeWord.off, this.off);
    storeNumber(sqes, at + SqeWord.addr, this.address);
    sqes[at + SqeWord.len] = this.len;
    sqes[at + SqeWord.opFlags] = this.opFlags;
  }

  complete(result: number, _flags: number): void {
    const waits = this.operation.events !== 0;
    const again = this.polling ? result >= 0 : waits && result === -Errno.EAGAIN;
    const more = !again && result > 0 && this.done + result < this.total;
    if (!again && !more) return this.#io.settle(this, result);
    // That the fd is ready says nothing of bytes transferred.
    if (this.unwanted) return this.#io.settle(this, -Errno.ECANCELED);
    if (more) return this.#io.more(this, result);
    this.polling = !this.polling;
    this.#io.again(this);
  }

  override get tellsClosing(): boolean {
    return true;
  }

  get held(): unknown {
    return this.memory;
  }

  /** Its error, for somebody to read. */
  failure(errno: number): AioError {
    const { operation, subject, fd, owner } = this;
    const what = `Cannot ${operation.verb} ${subject === "" ? `fd ${fd}` : subject}`;
    const transfers = operation.events !== 0;
    const advice = errno === Errno.EINVAL && transfers ? owner?.kind.invalidAdvice : undefined;
    return new AioError(what, operation.syscall, errno, advice);
  }

  /** Its signal was aborted. */
  get aborted(): boolean {
    return this.signal !== null && isAborted(this.signal);
  }

  /** Nobody wants the result any more: its signal was aborted, or its fd is being closed. */
  get unwanted(): boolean {
    return this.aborted || (this.owner !== null && !this.owner.isOpen && this.owner.kind.cancels);
  }

  abandon(result: number | null): void {
    this.#io.abandon(this, result);
  }
}

/** What settles the promise of a request that has none. */
export function unsettled(): void {}
