/**
 * Requests whose completion settles a promise.
 *
 * The kernel is given addresses of memory that cannot be detached; for any other the request works
 * on a copy, see buffers.ts. Request objects are used again and again, so that a request allocates
 * its promise and nothing else. An fd in non-blocking mode answers EAGAIN where the request ought to
 * wait: then its readiness is waited for, and the request made again. Invariant: an object is on the
 * free list exactly while nobody waits for its promise and the kernel does not know it.
 */
import { AioError, Errno } from "../../ffi/errno.ts";
import { SqeOp, SqeWord, storeNumber } from "../../ffi/sqe.ts";
import { AioRequest } from "../request.ts";
import type { RequestQueue } from "../request_queue.ts";
import type { System } from "../../ffi/system.ts";
import type { IoOwner } from "./io_owner.ts";
import {
  type AioBuffers,
  bytesOf,
  COPY_BYTES_MAX,
  copyBack,
  Location,
  type RequestView,
} from "./buffers.ts";
import {
  FileOperation,
  type Operation,
  type RequestOptions,
  type RequestWords,
} from "./operation.ts";
import type { CachedReads, CacheHistory } from "./cached_reads.ts";
import { heedSignal, ignoreSignal, isAborted, readSignal } from "./request_signal.ts";

/** Bytes that one request transfers at most, which is the kernel's own limit. */
const TRANSFER_MAX = 0x7fff_f000;

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
  /** Waits for the fd to become ready before the request is made again. */
  polling = false;
  /** Keeps the memory at `address` alive. */
  memory: unknown = null;
  /** The caller's view where the request works on a copy. */
  view: RequestView | null = null;
  copy: Uint8Array<ArrayBuffer> | null = null;
  signal: AbortSignal | null = null;
  resolve: (result: number) => void = nobody;
  reject: (error: unknown) => void = nobody;
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
    sqes[at + SqeWord.opcode] = this.operation.opcode;
    storeNumber(sqes, at + SqeWord.off, this.off);
    storeNumber(sqes, at + SqeWord.addr, this.address);
    sqes[at + SqeWord.len] = this.len;
    sqes[at + SqeWord.opFlags] = this.opFlags;
  }

  complete(result: number, _flags: number): void {
    const waits = this.operation.events !== 0;
    const again = this.polling ? result >= 0 : waits && result === -Errno.EAGAIN;
    if (again && !this.aborted) {
      this.polling = !this.polling;
      return this.#io.again(this);
    }
    // That the fd is ready says nothing of bytes transferred.
    this.#io.settle(this, again ? -Errno.ECANCELED : result);
  }

  get held(): unknown {
    return this.memory;
  }

  /** Its signal was aborted. */
  get aborted(): boolean {
    return this.signal !== null && isAborted(this.signal);
  }

  abandon(result: number | null): void {
    this.#io.abandon(this, result);
  }
}

function nobody(): void {}

/** Operations that result in an fd. */
const OPENING: readonly number[] = [SqeOp.openat, SqeOp.accept];

/** Errors with which a cancelled request ends. */
const CANCELLED: readonly number[] = [Errno.ECANCELED, Errno.EAGAIN, Errno.EINTR];

function failure({ operation, subject, fd, owner }: IoRequest, errno: number): AioError {
  const what = `Cannot ${operation.verb} ${subject === "" ? `fd ${fd}` : subject}`;
  const transfers = operation.events !== 0;
  const advice = errno === Errno.EINVAL && transfers ? owner?.kind.invalidAdvice : undefined;
  return new AioError(what, operation.syscall, errno, advice);
}

/** Makes requests with promises, for the files and sockets of one context. */
export class IoRequests {
  readonly buffers: AioBuffers;
  readonly #queue: RequestQueue;
  /** Throws where the context is disposed. */
  readonly requireOpen: (verb: string) => void;
  readonly #system: System;
  readonly #cached: CachedReads;
  readonly #free: IoRequest[] = [];
  readonly #location = new Location();
  #current: IoRequest | null = null;
  readonly #executor = (
    resolve: (result: number) => void,
    reject: (error: unknown) => void,
  ): void => {
    this.#current!.resolve = resolve;
    this.#current!.reject = reject;
  };

  /** @param requireOpen throws where the context is disposed */
  constructor(
    system: System,
    queue: RequestQueue,
    buffers: AioBuffers,
    cached: CachedReads,
    requireOpen: (verb: string) => void,
  ) {
    this.#system = system;
    this.#queue = queue;
    this.#cached = cached;
    this.buffers = buffers;
    this.requireOpen = requireOpen;
  }

  /**
   * Transfers data between an fd and memory.
   *
   * @param view the memory
   * @param off offset in the file, in bytes; -1: where the fd stands
   * @returns bytes transferred; fewer than the view has where the kernel transferred fewer
   */
  transfer(
    operation: Operation,
    owner: IoOwner,
    view: RequestView,
    off: number,
    opFlags: number,
    options?: RequestOptions,
  ): Promise<number> {
    try {
      return this.#transfer(operation, owner, view, off, opFlags, readSignal(options));
    } catch (error) {
      return Promise.reject(error);
    }
  }

  #transfer(
    operation: Operation,
    owner: IoOwner,
    view: RequestView,
    off: number,
    opFlags: number,
    signal: AbortSignal | null,
  ): Promise<number> {
    const location = this.#location;
    const direct = location.locate(view);
    if (!direct && location.byteLength > COPY_BYTES_MAX) {
      return this.#transferInParts(operation, owner, view, off, opFlags, signal);
    }
    const request = this.#take(operation, owner);
    request.len = Math.min(location.byteLength, TRANSFER_MAX);
    if (direct) {
      request.address = location.address;
      request.memory = location.buffer;
    } else if (location.byteLength !== 0) {
      this.#copyOf(request, view, operation.fills);
    }
    request.off = off;
    request.opFlags = opFlags;
    return this.#add(request, signal);
  }

  /**
   * Reads from a file: what is cached at once, all else with a request.
   *
   * @param history of the file; null where its cache is not to be asked
   */
  read(
    owner: IoOwner,
    history: CacheHistory | null,
    view: RequestView,
    off: number,
    options?: RequestOptions,
  ): Promise<number> {
    try {
      const { fd } = owner;
      if (history !== null && options === undefined) {
        this.requireOpen("read");
        this.#location.locate(view);
        const { byteLength } = this.#location;
        if (byteLength <= TRANSFER_MAX && this.#cached.read(history, fd, view, byteLength, off)) {
          return Promise.resolve(byteLength);
        }
      }
    } catch (error) {
      return Promise.reject(error);
    }
    return this.transfer(FileOperation.read, owner, view, off, 0, options);
  }

  /**
   * Makes a request that transfers nothing to or from a single buffer of a caller.
   *
   * @throws what cannot be used
   */
  request(
    operation: Operation,
    owner: IoOwner | null,
    words: RequestWords,
    options?: RequestOptions,
  ): Promise<number> {
    const signal = readSignal(options);
    const request = this.#take(operation, owner);
    if (words.fd !== undefined) request.fd = words.fd;
    request.off = words.off ?? 0;
    request.address = words.address ?? 0;
    request.len = words.len ?? 0;
    request.opFlags = words.opFlags ?? 0;
    request.memory = words.memory ?? null;
    request.subject = words.subject ?? "";
    return this.#add(request, signal);
  }

  /** Closes an fd, also when the context is disposed. */
  async close(fd: number): Promise<void> {
    try {
      this.requireOpen("close");
    } catch {
      return this.#queue.close(fd);
    }
    await this.request(FileOperation.close, null, { fd });
  }

  /** Closes an fd without waiting; no request of it is in flight. */
  closeNow(fd: number): void {
    this.#queue.device?.forget(fd);
    this.#system.close(fd);
  }

  /** The address of memory of the pool. */
  addressOf(memory: Uint8Array<ArrayBuffer>): number {
    this.#location.locate(memory);
    return this.#location.address;
  }

  /** A request's signal was aborted. */
  cancel(request: IoRequest): void {
    this.#queue.cancel(request);
  }

  /** Makes a request once more. */
  again(request: IoRequest): void {
    try {
      this.#queue.add(request);
    } catch (error) {
      const { reject } = request;
      this.#finish(request);
      reject(error);
    }
  }

  /** Settles the promise of a request and takes the object back. */
  settle(request: IoRequest, result: number): void {
    const { resolve, reject, operation, view, copy } = request;
    if (result >= 0) {
      const lost = copy !== null && result > 0 && operation.fills && !copyBack(view!, copy, result);
      this.#finish(request);
      if (!lost) return resolve(result);
      reject(new TypeError(`Cannot ${operation.verb} as the buffer has been transferred away`));
    } else {
      const error = request.aborted && CANCELLED.includes(-result)
        ? request.signal!.reason
        : failure(request, -result);
      this.#finish(request);
      reject(error);
    }
  }

  /**
   * The context is disposed before the promise of a request could be settled in its own time.
   *
   * @param result see `AioRequest.abandon`
   */
  abandon(request: IoRequest, result: number | null): void {
    const { operation, fd, polling } = request;
    if (operation.opcode === SqeOp.close && result !== null) {
      if (result === -Errno.ECANCELED) this.#queue.close(fd);
      return this.settle(request, 0);
    }
    if (OPENING.includes(operation.opcode) && !polling && result !== null && result >= 0) {
      this.#queue.close(result);
    }
    this.settle(request, -Errno.ECANCELED);
  }

  /** Lets go of all that a request refers to. */
  #finish(request: IoRequest): void {
    if (request.copy !== null) this.buffers.giveBack(request.copy);
    if (request.signal !== null) {
      ignoreSignal(request.signal, request.onAbort!);
      request.signal = null;
    }
    request.memory = request.view = request.copy = null;
    request.resolve = request.reject = nobody;
    request.polling = false;
    request.subject = "";
    const { owner } = request;
    request.owner = null;
    this.#free.push(request);
    if (owner !== null) owner.leave(request);
  }

  #take(operation: Operation, owner: IoOwner | null): IoRequest {
    this.requireOpen(operation.verb);
    const fd = owner === null ? -1 : owner.fd;
    const request = this.#free.pop() ?? new IoRequest(this);
    request.operation = operation;
    request.owner = owner;
    request.fd = fd;
    request.disk = operation.disk;
    request.direct = owner !== null && owner.kind.direct === true;
    if (owner !== null) owner.join(request);
    return request;
  }

  #copyOf(request: IoRequest, view: RequestView, fills: boolean): void {
    let copy: Uint8Array<ArrayBuffer>;
    try {
      copy = this.buffers.borrow(request.len);
    } catch (error) {
      this.#finish(request);
      throw error;
    }
    request.copy = copy;
    request.address = this.addressOf(copy);
    request.memory = copy.buffer;
    request.view = view;
    if (!fills) copy.set(bytesOf(view));
  }

  #add(request: IoRequest, signal: AbortSignal | null): Promise<number> {
    this.#current = request;
    const promise = new Promise<number>(this.#executor);
    if (signal !== null) {
      request.signal = signal;
      request.onAbort ??= () => this.cancel(request);
      heedSignal(signal, request.onAbort);
    }
    this.again(request);
    return promise;
  }

  async #transferInParts(
    operation: Operation,
    owner: IoOwner,
    view: RequestView,
    off: number,
    opFlags: number,
    signal: AbortSignal | null,
  ): Promise<number> {
    const bytes = bytesOf(view);
    let done = 0;
    while (done < bytes.byteLength) {
      const part = bytes.subarray(done, done + COPY_BYTES_MAX);
      const at = off < 0 ? off : off + done;
      let count = 0;
      try {
        if (signal !== null && isAborted(signal)) throw signal.reason;
        count = await this.#transfer(operation, owner, part, at, opFlags, signal);
      } catch (error) {
        // What is transferred is to be told; the next request meets the error again.
        if (done === 0) throw error;
      }
      done += count;
      if (count < part.byteLength) break;
    }
    return done;
  }
}
