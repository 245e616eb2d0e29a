/**
 * AioContext: an event loop for file descriptors, as its users see it.
 *
 * Here arguments are checked, and what is asked for is passed on to the part that does it. How the
 * parts are put together stands in context_parts.ts, the control flow of an iteration in
 * iteration.ts. Callbacks may call anything here, `poll` included.
 *
 * Invariant: what callbacks throw is kept until the iteration is over, and each iteration sees its
 * errors alone.
 */
import type { SocketAddress } from "../ffi/socket_address.ts";
import { AioHandler, type FdHandler, readFdHandler, requireFreeWord } from "./aio_handler.ts";
import { type BottomHalf, type BottomHalfOptions, QueuedBottomHalf } from "./bottom_half.ts";
import type { CallbackErrors } from "./callback_errors.ts";
import { readRemote, type RemoteContext } from "./context_notifier.ts";
import { ContextDrivers } from "./context_drivers.ts";
import { ContextParts } from "./context_parts.ts";
import type { ContextRequests } from "./context_requests.ts";
import {
  type AioContextOptions,
  type AioStats,
  type FdmonInfo,
  readContextOptions,
  refusePosting,
  requireFunction,
} from "./context_types.ts";
import type { HandlerRegistry } from "./handler_registry.ts";
import { AioFile } from "./io/aio_file.ts";
import type { OpenFileOptions } from "./io/open_path.ts";
import type { AioBuffers } from "./io/buffers.ts";
import type { AioListener } from "./io/listener.ts";
import type { RequestOptions } from "./io/operation.ts";
import type { AioSocket } from "./io/socket.ts";
import type { ListenOptions, SocketOptions } from "./io/socket_maker.ts";
import type { Iteration } from "./iteration.ts";
import { mergePollParams, type PollParams } from "./polling_time.ts";
import type { RunOptions, RunScope } from "./runner.ts";
import type { AddedRequest, CompleteSqe, PrepareSqe } from "./sqe_request.ts";
import type { ExposedFunction } from "./threads/link_end.ts";
import { Peer } from "./threads/peer.ts";
import { ListedTimer, type Timer } from "./timer_list.ts";
import { contextMade, type Trace } from "./trace.ts";

/**
 * An event loop that belongs to the isolate that made it.
 *
 * @example
 * ```ts
 * import { AioContext, EventNotifier } from "@aio/context";
 * using ctx = new AioContext();
 * using notifier = new EventNotifier();
 * ctx.setFdHandler(notifier.fd, { ioRead: () => notifier.testAndClear() });
 * notifier.set();
 * console.log(ctx.fdmon.name, ctx.poll(true)); // io_uring true
 * ctx.setFdHandler(notifier.fd, null);
 * ```
 */
export class AioContext implements Disposable {
  /** The named trace events. */
  readonly trace: Trace;
  readonly #parts: ContextParts;
  // Those of its parts that are used most.
  readonly #errors: CallbackErrors;
  readonly #handlers: HandlerRegistry;
  readonly #requests: ContextRequests;
  readonly #iteration: Iteration;
  readonly #drivers: ContextDrivers;
  #polls = 0;

  /**
   * Makes a context; opens the libraries if this is the first one.
   *
   * @param options what to use; everything has a default
   * @throws {AioError} when a library or a backend asked for cannot be had; it says what to do
   * @throws {TypeError} for bad options, or a RangeError
   */
  constructor(options: AioContextOptions = {}) {
    const parts = new ContextParts(
      readContextOptions(options),
      () => this.#noteChange(),
      (verb) => this.#requireOpen(verb),
      () => this.#drivers.await(),
    );
    this.#parts = parts;
    this.trace = parts.trace;
    this.#errors = parts.errors;
    this.#handlers = parts.handlers;
    this.#requests = parts.requests;
    this.#iteration = parts.iteration;
    this.#drivers = new ContextDrivers(parts, this);
    parts.coroutines.giveTo(this);
    refusePosting(this);
    contextMade(this);
  }

  /** The backend in use and why. */
  get fdmon(): FdmonInfo {
    return { name: this.#handlers.fdmon.name, reason: this.#handlers.reason };
  }

  /** The context's time in ns; what timers are armed with. */
  now(): number {
    return this.#parts.clock.now();
  }

  /**
   * Sets, replaces or deletes the callbacks of an fd. Close the fd only after deleting them.
   *
   * @param fd an open file descriptor
   * @param callbacks the callbacks; null, or none of ioRead, ioWrite and ioPoll, deletes
   * @throws {TypeError} for bad arguments, or a RangeError
   * @throws {AioError} EBADF when the fd is not open; what the backend has to say otherwise
   */
  setFdHandler(fd: number, callbacks: FdHandler | null): void {
    this.#requireOpen("set an fd handler");
    const read = readFdHandler(fd, callbacks, this.#parts.notifier.fd);
    this.#requireOpen("set an fd handler"); // Getters may have disposed it.
    let old = this.#handlers.get(fd);
    // A request may just have ended whose fd is still watched for the next one.
    if (old?.isInternal && this.#requests.queue.device?.release(fd)) old = null;
    if (old?.isInternal) {
      throw new RangeError(`Cannot set an fd handler as requests wait for it: ${fd}`);
    }
    if (read === null) {
      if (old !== null) this.#handlers.replace(old, null);
    } else {
      requireFreeWord(fd, read, old);
      this.#parts.system.requireOpen(fd);
      this.#handlers.replace(old, new AioHandler(fd, read));
    }
    this.#errors.throwOutside();
  }

  /** Makes a bottom half: a callback that `schedule()` runs in the next iteration. */
  bottomHalf(callback: () => void, options: BottomHalfOptions = {}): BottomHalf {
    this.#requireOpen("make a bottom half");
    requireFunction(callback, "make a bottom half");
    const name = String(options?.name ?? (callback.name || "anonymous"));
    return new QueuedBottomHalf(this.#parts.bottomHalves, callback, name);
  }

  /** Runs a function once in the next iteration. */
  scheduleOneshot(callback: () => void): void {
    this.bottomHalf(callback).schedule();
  }

  /** Makes a timer, to be armed with an absolute deadline in ns of `now()`. */
  timer(callback: () => void): Timer {
    this.#requireOpen("make a timer");
    requireFunction(callback, "make a timer");
    return new ListedTimer(this.#parts.timers, callback);
  }

  /** Makes a blocking poll() return, or the next one not block. */
  notify(): void {
    this.#requireOpen("notify");
    this.#parts.notifier.notify();
    this.#noteChange();
  }

  /** A handle for other threads, to be given to any Worker: for `wakeContext` and `peer` there. */
  remote(): RemoteContext {
    this.#requireOpen("make a remote handle");
    this.#parts.share();
    return this.#parts.notifier.remote;
  }

  /**
   * Lets other contexts call functions of this one by name, through `peer`. They run in its dispatch
   * phase, in its thread.
   *
   * @param functions by name; what is exposed already stays
   * @returns what `remote` returns, with the types of the functions
   * @throws {TypeError} for what is no function, or a name that is taken
   */
  expose<Functions extends Readonly<Record<string, ExposedFunction>>>(
    functions: Functions,
  ): RemoteContext<Functions> {
    this.#requireOpen("expose functions");
    this.#parts.messages.expose(functions, this);
    return this.#parts.notifier.remote as RemoteContext<Functions>;
  }

  /**
   * Another context, of this thread or any other, to call what it exposes.
   *
   * @param remote what its `remote` or `expose` returned
   * @throws {TypeError} when that is no such handle; {AioError} where there are too many peers
   */
  peer<Functions>(remote: RemoteContext<Functions>): Peer<Functions> {
    this.#requireOpen("make a peer");
    const { messages, notifier } = this.#parts;
    return new Peer(messages, messages.connect(readRemote(remote, notifier.board, "make a peer")));
  }

  /**
   * Adds a request to the kernel. It goes out with the next iteration, together with all others, and
   * completes in the dispatch phase of one.
   *
   * @param prepare describes the request; called once, at once
   * @param complete called with the result: a count, or -errno
   * @throws what `prepare` throws
   * @throws {AioError} EOPNOTSUPP where the backend cannot carry it out
   */
  addSqe(prepare: PrepareSqe, complete: CompleteSqe): AddedRequest {
    this.#requireOpen("add a request");
    requireFunction(prepare, "add a request");
    requireFunction(complete, "add a request");
    return this.#requests.addSqe(prepare, complete);
  }

  /** Memory that requests use without a copy. */
  get buffers(): AioBuffers {
    return this.#requests.buffers;
  }

  /**
   * Opens a file, or takes over an fd that is open.
   *
   * @param path its path, a file: URL, or `{ fd }`, which is closed with the file
   * @param options how to open it, and a signal that cancels that
   * @throws {AioError} what openat(2) says, as ENOENT; {TypeError} or {RangeError} for bad arguments
   */
  openFile(
    path: string | URL | { readonly fd: number },
    options: OpenFileOptions & RequestOptions = {},
  ): Promise<AioFile> {
    return AioFile.open(this.#requests.io, path, options);
  }

  /**
   * Listens for connections.
   *
   * @param at an address, or `{ fd }` of a socket that listens already, as in socket activation
   * @param options backlog and the like
   * @throws {AioError} EADDRINUSE and the like
   */
  listen(at: SocketAddress | { readonly fd: number }, options: ListenOptions = {}): AioListener {
    this.#requireOpen("listen");
    return this.#requests.sockets.listen(at, options);
  }

  /**
   * Connects a socket.
   *
   * @param to where to; a host's name is looked up
   * @param options options of the socket, and a signal that cancels
   * @throws {AioError} ECONNREFUSED and the like
   */
  connect(to: SocketAddress, options: SocketOptions & RequestOptions = {}): Promise<AioSocket> {
    return this.#requests.sockets.connect(to, options);
  }

  /** Takes over the fd of a connected socket, which is closed with the object. */
  adoptSocket(fd: number): AioSocket {
    this.#requireOpen("adopt a socket");
    return this.#requests.sockets.adopt(fd);
  }

  /**
   * Calls a function and drives the context until the promise that it returns is settled. Promise
   * jobs run between iterations; Deno's own timers and I/O have their turn every millisecond, and
   * all the time where nothing happens in the context. Several runs may go on at once.
   *
   * @param task called at once
   * @param options a signal that ends the run; what the task has begun goes on until the context is
   *   disposed
   * @returns what the task returns
   * @throws what the task throws; what callbacks throw meanwhile; an Error where nothing can ever
   *   settle the promise and Deno would therefore end
   */
  async run<Result>(
    task: (scope: RunScope) => Result | PromiseLike<Result>,
    options: RunOptions = {},
  ): Promise<Result> {
    this.#requireOpen("run");
    requireFunction(task, "run");
    return await this.#drivers.runner.run(task, options);
  }

  /**
   * Lets the context live inside Deno's own event loop, with which it takes turns. Asleep it keeps the
   * process alive only with requests in flight, or after `ref`. What callbacks throw is uncaught.
   */
  attach(): void {
    this.#requireOpen("attach");
    this.#drivers.attach();
  }

  /** Takes the context out of Deno's loop: it is polled by hand again, or by `run`. */
  detach(): void {
    this.#drivers.detach();
  }

  /** Keeps the process alive while the context is attached. */
  ref(): void {
    this.#drivers.attachment.ref();
  }

  /** Takes `ref` back: the process may end while the attached context sleeps without requests. */
  unref(): void {
    this.#drivers.attachment.unref();
  }

  /** Keeps handlers marked isExternal from running until as many calls of `enableExternal`. */
  disableExternal(): void {
    this.#requireOpen("disable external handlers");
    this.#handlers.disableExternal();
    this.#errors.throwOutside();
  }

  /**
   * Takes one `disableExternal` back.
   *
   * @throws {RangeError} when there was none
   */
  enableExternal(): void {
    this.#requireOpen("enable external handlers");
    this.#handlers.enableExternal();
    this.#errors.throwOutside();
  }

  /**
   * Changes poll parameters and starts learning anew.
   *
   * @throws {RangeError} when one is not a whole number >= 0 (idleNs may be Infinity)
   */
  setPollParams(changes: Partial<PollParams>): void {
    this.#requireOpen("set poll parameters");
    this.#iteration.params = mergePollParams(this.#iteration.params, changes);
    this.#parts.requestPolling.reset();
    this.#handlers.resetPolling();
  }

  /** The poll parameters in force. */
  get pollParams(): Readonly<PollParams> {
    return { ...this.#iteration.params };
  }

  /** Counters and sizes, as they are now. */
  stats(): AioStats {
    return { polls: this.#polls, ...this.#parts.stats() };
  }

  /**
   * Runs one iteration. Can be called from inside callbacks.
   *
   * @param blocking whether to wait until something happens
   * @returns whether anything made progress; a blocking call can return false, as after notify()
   * @throws what a callback threw; an AggregateError where several did. The iteration is complete
   *   all the same.
   */
  poll(blocking: boolean): boolean {
    this.#requireOpen("poll");
    if (typeof blocking !== "boolean") {
      throw new TypeError(`Cannot poll as blocking is not a boolean: ${String(blocking)}`);
    }
    const outerErrors = this.#errors.begin();
    this.#polls++;
    let progress = false;
    try {
      progress = this.#iteration.run(blocking);
    } catch (error) {
      this.#errors.report(error);
    }
    if (this.trace.active) this.trace.endIteration(progress);
    if (this.#iteration.disposed && this.#handlers.walkDepth === 0) this.#parts.tearDown();
    this.#errors.end(outerErrors);
    return progress;
  }

  #requireOpen(verb: string): void {
    if (this.#iteration.disposed) throw new TypeError(`Cannot ${verb} as the context is disposed`);
  }

  /**
   * Deletes all handlers, with the ioPollEnd that is due, and gives everything back to the
   * system. Coroutines that have yielded or are scheduled have that `await` reject. Inside a callback this happens when the outermost poll() ends; no other callback runs
   * until then. Disposing twice is harmless.
   */
  [Symbol.dispose](): void {
    if (this.#iteration.disposed) return;
    this.#drivers.dispose();
    this.#iteration.disposed = true;
    this.#iteration.changed = true;
    this.#parts.timers.clear();
    this.#parts.coroutines.dispose();
    this.#parts.bottomHalves.clear();
    this.#handlers.deleteAll();
    this.#parts.endMessages();
    if (this.#handlers.walkDepth === 0) this.#parts.tearDown();
    this.#errors.throwOutside();
  }

  #noteChange(): void {
    this.#iteration.changed = true;
    this.#drivers.wake();
  }
}
