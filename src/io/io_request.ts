/**
 * Requests whose completion settles a promise.
 *
 * The kernel is given addresses of memory that cannot be detached; for any other the request works
 * on a copy, see buffers.ts. Request objects are used again and again, so that a request allocates
 * its promise and nothing else. Invariant: an object is on the free list exactly while nobody waits
 * for its promise and the kernel does not know it.
 */
import { Errno } from "../../ffi/errno.ts";
import { SqeOp } from "../../ffi/sqe.ts";
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
  CANCELLED,
  FileOperation,
  OPENING,
  type Operation,
  type RequestOptions,
  type RequestWords,
  TRANSFER_MAX,
} from "./operation.ts";
import { Messages } from "./messages.ts";
import { FixedBuffers } from "./fixed_buffers.ts";
import type { CachedReads, CacheHistory } from "./cached_reads.ts";
import type { DirectSends } from "./direct_sends.ts";
import { IoRequest, unsettled } from "./promised_request.ts";
import { heedSignal, ignoreSignal, isAborted, readSignal } from "./request_signal.ts";

/** What requests are made with. */
export interface IoParts {
  readonly system: System;
  readonly queue: RequestQueue;
  readonly buffers: AioBuffers;
  readonly cached: CachedReads;
  readonly sends: Pick<DirectSends, "isWorthwhile" | "send">;
  /** Throws where the context is disposed. */
  readonly requireOpen: (verb: string) => void;
}

/** Makes requests with promises, for the files and sockets of one context. */
export class IoRequests {
  readonly system: System;
  readonly buffers: AioBuffers;
  readonly cached: CachedReads;
  readonly messages: Messages = new Messages();
  readonly requireOpen: (verb: string) => void;
  readonly #queue: RequestQueue;
  readonly #sends: IoParts["sends"];
  readonly #free: IoRequest[] = [];
  readonly #location = new Location();
  readonly #fixed = new FixedBuffers();
  /** Requests whose turn has come: more than one only where one fails. */
  readonly #due: IoRequest[] = [];

  constructor({ system, queue, buffers, cached, sends, requireOpen }: IoParts) {
    this.system = system;
    this.#queue = queue;
    this.cached = cached;
    this.#sends = sends;
    this.buffers = buffers;
    this.requireOpen = requireOpen;
  }

  /**
   * Transfers data between an fd and memory.
   *
   * @param view the memory
   * @param off offset in the file, in bytes; -1: where the fd stands
   * @returns bytes transferred; fewer than the view has where the kernel transferred fewer, or where
   *   it is a stream and there is no room for a longer copy
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
    // Parts of a stream would wait for what may never come, and let others in between.
    if (!direct && location.byteLength > COPY_BYTES_MAX && operation.disk) {
      return this.#transferInParts(operation, owner, view, off, opFlags, signal);
    }
    const request = this.#take(operation, owner);
    request.len = Math.min(location.byteLength, direct ? TRANSFER_MAX : COPY_BYTES_MAX);
    if (operation.all) request.total = location.byteLength;
    if (direct) {
      request.address = location.address;
      request.memory = location.buffer;
      if (operation.fixedOpcode !== -1) {
        request.fixedIndex = this.#fixed.indexOf(location.buffer!, this.#queue.device);
      }
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
      if (history !== null && options === undefined && this.cached.isWorthwhile(history)) {
        this.requireOpen("read");
        this.#location.locate(view);
        const { byteLength } = this.#location;
        if (this.cached.read(history, fd, view, 0, byteLength, off)) {
          this.cached.count(history, true);
          return Promise.resolve(byteLength);
        }
      } else if (history !== null) this.cached.count(history, false);
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
    this.system.disown(fd);
    try {
      this.requireOpen("close");
    } catch {
      return this.#queue.close(fd);
    }
    await this.request(FileOperation.close, null, { fd });
  }

  /** Closes an fd without waiting; no request of it is in flight. */
  closeNow(fd: number): void {
    this.forget(fd);
    this.system.close(fd);
  }

  /** Nothing that is known of an fd of this number holds any more. */
  forget(fd: number): void {
    this.#queue.device?.forget(fd);
  }

  /** The address of memory of the pool. */
  addressOf(memory: Uint8Array<ArrayBuffer>): number {
    this.#location.locate(memory);
    return this.#location.address;
  }

  /** Asks for a request to end soon; nothing completes at once. */
  cancel(request: IoRequest): void {
    if (request.owner?.giveUpTurn(request)) this.#queue.endUnstarted(request);
    else this.#queue.cancel(request);
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

  /** Makes a request for the rest of what has to be transferred. */
  more(request: IoRequest, count: number): void {
    request.done += count;
    const left = request.total - request.done;
    if (request.copy === null || count < request.len) {
      request.address += count;
      request.len = request.copy === null ? Math.min(left, TRANSFER_MAX) : request.len - count;
      return this.again(request);
    }
    const { copy, view, done, reject } = request;
    request.len = Math.min(left, COPY_BYTES_MAX);
    request.address = this.addressOf(copy);
    try {
      copy.set(bytesOf(view!).subarray(done, done + request.len));
    } catch {
      this.#finish(request);
      return reject(new TypeError("Cannot send the rest as the buffer has been transferred away"));
    }
    this.again(request);
  }

  /** Settles the promise of a request and takes the object back. */
  settle(request: IoRequest, result: number): void {
    const { resolve, reject, operation, view, copy, done } = request;
    if (result >= 0) {
      const lost = copy !== null && result > 0 && operation.fills && !copyBack(view!, copy, result);
      this.#finish(request);
      if (!lost) return resolve(done + result);
      reject(new TypeError(`Cannot ${operation.verb} as the buffer has been transferred away`));
    } else {
      const cancelled = request.unwanted && CANCELLED.includes(-result);
      const error = cancelled && request.aborted
        ? request.signal!.reason
        : request.failure(cancelled ? Errno.ECANCELED : -result);
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
    // What was received may be fds, which are somebody's to close.
    const received = operation.fills && !operation.disk && !polling && result !== null;
    this.settle(request, received ? result : -Errno.ECANCELED);
  }

  /** Lets go of all that a request refers to. */
  #finish(request: IoRequest): void {
    if (request.copy !== null) this.buffers.giveBack(request.copy);
    if (request.signal !== null) {
      ignoreSignal(request.signal, request.onAbort!);
      request.signal = null;
    }
    request.memory = request.view = request.copy = null;
    request.resolve = request.reject = unsettled;
    request.polling = false;
    request.fixedIndex = -1;
    request.subject = "";
    request.address = request.total = request.done = 0;
    const { owner } = request;
    if (owner !== null) {
      const next = owner.passTurn(request);
      owner.leave(request);
      request.owner = null;
      if (next !== null) this.#start(next);
    }
    this.#free.push(request);
  }

  /** Makes a request whose turn has come; where that fails the next one's has. */
  #start(request: IoRequest): void {
    this.#due.push(request);
    if (this.#due.length > 1) return;
    while (this.#due.length !== 0) {
      const [due] = this.#due;
      if (this.#isDisposed()) this.settle(due, -Errno.ECANCELED);
      else this.again(due);
      this.#due.shift();
    }
  }

  #isDisposed(): boolean {
    try {
      this.requireOpen("go on");
      return false;
    } catch {
      return true;
    }
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
    if (!fills) copy.set(bytesOf(view).subarray(0, request.len));
  }

  #add(request: IoRequest, signal: AbortSignal | null): Promise<number> {
    const promise = new Promise<number>((resolve, reject) => {
      request.resolve = resolve;
      request.reject = reject;
    });
    if (signal !== null) {
      request.signal = signal;
      request.onAbort ??= () => this.cancel(request);
      heedSignal(signal, request.onAbort);
    }
    if (request.owner?.takeTurn(request) ?? true) {
      const sent = signal === null && this.#sends.isWorthwhile(request)
        ? this.#sends.send(request)
        : -1;
      if (sent < 0) this.again(request);
      else request.complete(sent, 0);
    }
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
