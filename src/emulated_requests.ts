/**
 * Requests on backends without a ring: the same SQEs, carried out with plain system calls.
 *
 * Sockets are tried at once and, where they would block, again when the fd is ready. Files, which
 * are always ready and may block all the same, are given to worker threads of the shim, which report
 * through an eventfd; so the loop never waits for a disk. Reads and writes of pipes and the like go
 * to a thread too, once the fd is ready and one at a time, as the second might block for ever.
 * Chains and drains are refused. Invariant: a request in flight is either with the pool, or waits
 * for the pool to have room, or for its fd in the queue of exactly one FdWaiters.
 */
import { AioError, Errno } from "../ffi/errno.ts";
import { allocateNative, type NativeMemory } from "../ffi/memory.ts";
import type { Shim } from "../ffi/shim_symbols.ts";
import {
  CqeWord,
  loadNumber,
  SQE_WORDS,
  SqeFlag,
  SqeOp,
  SqeWord,
  storeNumber,
} from "../ffi/sqe.ts";
import { PollEvent, type System } from "../ffi/system.ts";
import { WorkerPool } from "../ffi/worker_pool.ts";
import { FdWaiters, type WaitingRequests } from "./fd_waiters.ts";
import type { HandlerRegistry } from "./handler_registry.ts";
import type { AioRequest, RequestDevice } from "./request.ts";
import type { RequestQueue } from "./request_queue.ts";
import type { Trace } from "./trace.ts";

/** Threads for files: as many disks' worth of waiting as is sensible on few processors. */
const THREADS = 4;
/** Requests that the pool holds; the others wait here. */
const POOL_CAPACITY = 1024;
/** How long disposing waits for requests that threads are working on. */
const QUIESCE_NS = 2e9;

const IN = PollEvent.in, OUT = PollEvent.out;

const AT_EMPTY_PATH = 0x1000, STATX_TYPE = 1;
/** Bytes of struct statx, and the half word of it that has the type. */
const STATX_BYTES = 256, STATX_MODE = 28 / 2;
const S_IFMT = 0o170000, S_IFREG = 0o100000, S_IFBLK = 0o060000;

/** Opcodes that are tried on the loop's own thread, and the events they wait for. */
const TRIED: ReadonlyMap<number, number> = new Map([
  [SqeOp.nop, 0],
  [SqeOp.recv, IN],
  [SqeOp.recvmsg, IN],
  [SqeOp.accept, IN],
  [SqeOp.send, OUT],
  [SqeOp.sendmsg, OUT],
  [SqeOp.connect, OUT],
  [SqeOp.shutdown, 0],
]);

/** Those of them that have flags of messages. */
const MESSAGING: ReadonlySet<number> = new Set([
  SqeOp.recv,
  SqeOp.recvmsg,
  SqeOp.send,
  SqeOp.sendmsg,
]);
const MSG_DONTWAIT = 0x40;

/** Opcodes for which the fd has to be ready before a thread may block on them. */
const TRANSFERS: ReadonlyMap<number, number> = new Map([
  [SqeOp.read, IN],
  [SqeOp.readv, IN],
  [SqeOp.write, OUT],
  [SqeOp.writev, OUT],
]);

/** Other opcodes for the threads. */
const FOR_THREADS: ReadonlySet<number> = new Set([
  SqeOp.fsync,
  SqeOp.syncFileRange,
  SqeOp.fallocate,
  SqeOp.openat,
  SqeOp.close,
  SqeOp.statx,
  SqeOp.fadvise,
  SqeOp.ftruncate,
  SqeOp.extents,
]);

/** What the requests are carried out with. */
export interface EmulationParts {
  readonly shim: Shim;
  readonly system: System;
  readonly handlers: HandlerRegistry;
  readonly queue: RequestQueue;
  readonly trace: Trace;
  /** Keeps the address of the thread pool where it is found when this thread is dropped. */
  readonly keepPool: (address: bigint) => void;
}

/** Carries requests out by readiness and on threads. */
export class EmulatedRequests implements RequestDevice, WaitingRequests {
  readonly batches = false;
  readonly #parts: EmulationParts;
  /** The SQE that is looked at. */
  readonly #sqe = allocateNative(SQE_WORDS * 4);
  /** One struct pollfd. */
  readonly #pollFd = allocateNative(8);
  readonly #noTime = allocateNative(8);
  /** The answer of statx(2), behind it an empty path, and the request for it. */
  readonly #status = allocateNative(STATX_BYTES + 8);
  readonly #statusMode = new Uint16Array(this.#status.buffer);
  readonly #statusSqe = allocateNative(SQE_WORDS * 4);
  /** SQEs of requests that wait, by slot. */
  #saved: NativeMemory = allocateNative(64 * SQE_WORDS * 4);
  readonly #waiters = new Map<number, FdWaiters>();
  /** The fd each waiting request waits for, by slot. */
  readonly #waitingFor: FdWaiters[] = [];
  /** The fd each transfer that a thread carries out is of, by slot; not those of files. */
  readonly #transferring: (FdWaiters | null)[] = [];
  #pool: WorkerPool | null = null;
  /** Slots for which the pool has no room. */
  readonly #overflow: number[] = [];

  constructor(parts: EmulationParts) {
    this.#parts = parts;
    const words = this.#statusSqe.i32, address = Number(this.#status.address);
    words[SqeWord.opcode] = SqeOp.statx;
    storeNumber(words, SqeWord.off, address);
    storeNumber(words, SqeWord.addr, address + STATX_BYTES);
    words[SqeWord.len] = STATX_TYPE;
    words[SqeWord.opFlags] = AT_EMPTY_PATH;
  }

  registerBuffer(): number {
    return -1;
  }

  start(request: AioRequest): void {
    const { slot } = request;
    const words = this.#sqe.i32;
    words.fill(0);
    request.prepare(words, 0);
    words[SqeWord.userData] = slot;
    if ((words[SqeWord.opcode] & ~(0xff | SqeFlag.async)) !== 0) {
      throw new AioError("Cannot link or drain requests", "io_uring_enter", Errno.EOPNOTSUPP);
    }
    words[SqeWord.opcode] &= 0xff;
    const opcode = words[SqeWord.opcode], fd = words[SqeWord.fd];
    this.#begin(request, opcode, fd);
    const { trace } = this.#parts;
    if (trace.wants("fdmon_io_uring_add_sqe")) {
      const off = loadNumber(words, SqeWord.off);
      trace.emit("fdmon_io_uring_add_sqe", { opcode, fd, off });
    }
  }

  #begin(request: AioRequest, opcode: number, fd: number): void {
    const { slot } = request;
    const isPoll = opcode === SqeOp.pollAdd;
    const events = isPoll
      ? this.#sqe.i32[SqeWord.opFlags]
      : TRIED.get(opcode) ?? TRANSFERS.get(opcode);
    if (isPoll && ((events! & (IN | OUT)) === 0 || (events! & ~(IN | OUT)) !== 0)) {
      const what = `Cannot wait for the events ${events} of fd ${fd}`;
      throw new AioError(what, "poll", Errno.EOPNOTSUPP, "only POLLIN and POLLOUT without a ring");
    }
    if (events === undefined) {
      if (!FOR_THREADS.has(opcode)) {
        throw new AioError("Cannot make a request", "io_uring_enter", Errno.EOPNOTSUPP);
      }
      if (opcode === SqeOp.close) this.forget(fd);
      return this.#submit(slot);
    }
    if (TRANSFERS.has(opcode) && this.#hasPositions(fd)) return this.#submit(slot);
    // Behind those that wait, as otherwise bytes would be read or sent out of turn.
    const busy = events !== 0 && !isPoll && this.#waiters.get(fd)?.isBusy(events) === true;
    if (!busy && this.#attempt(slot, opcode, fd, events)) return;
    if (this.#neverWaits(opcode)) return this.#parts.queue.completed(slot, -Errno.EAGAIN, 0);
    this.#save(slot);
    const waiters = this.#waitingFor[slot] = this.#waitersOf(fd);
    waiters.add(slot, events, isPoll, request.tellsClosing);
  }

  /** The request in `#sqe` is one of a socket that is to be made now or not at all. */
  #neverWaits(opcode: number): boolean {
    return MESSAGING.has(opcode) && (this.#sqe.i32[SqeWord.opFlags] & MSG_DONTWAIT) !== 0;
  }

  /** It is a file or a disk, which are always ready and of which any part can be had. */
  #hasPositions(fd: number): boolean {
    const { shim, system } = this.#parts;
    this.#statusSqe.i32[SqeWord.fd] = fd;
    system.calls++;
    if (shim.aio_execute(this.#statusSqe.pointer) < 0) return false;
    const type = this.#statusMode[STATX_MODE] & S_IFMT;
    return type === S_IFREG || type === S_IFBLK;
  }

  #waitersOf(fd: number): FdWaiters {
    let waiters = this.#waiters.get(fd);
    if (waiters === undefined) {
      waiters = new FdWaiters(fd, this.#parts.handlers, this);
      this.#waiters.set(fd, waiters);
    }
    return waiters;
  }

  /** Carries the request in `#sqe` out, or hands it to a thread; false where its fd is not ready. */
  #attempt(slot: number, opcode: number, fd: number, events: number): boolean {
    const { shim, queue, system } = this.#parts;
    // What might block although it is tried is asked for first; so is what a thread would wait for.
    const asks = opcode === SqeOp.accept || opcode === SqeOp.pollAdd || TRANSFERS.has(opcode);
    if (asks) {
      const revents = this.#ready(fd, events);
      if (revents === 0) return false;
      if (revents < 0 || opcode === SqeOp.pollAdd) {
        queue.completed(slot, revents, 0);
        return true;
      }
      if (opcode !== SqeOp.accept) return this.#transfer(slot, fd, events);
    }
    system.calls++;
    const result = shim.aio_execute(this.#sqe.pointer);
    if (opcode === SqeOp.connect) {
      // EAGAIN tells of a unix socket whose backlog is full: no event tells when it is not.
      if (result === -Errno.EINPROGRESS || result === -Errno.EALREADY) return false;
      // The second call tells that the first one has succeeded meanwhile.
      queue.completed(slot, result === -Errno.EISCONN ? 0 : result, 0);
    } else if (events !== 0 && result === -Errno.EAGAIN) return false;
    else queue.completed(slot, result, 0);
    return true;
  }

  /** The events of an fd now; -EBADF where it is not open. */
  #ready(fd: number, events: number): number {
    const { shim, system } = this.#parts;
    this.#pollFd.i32[0] = fd;
    this.#pollFd.i32[1] = events;
    system.calls++;
    const count = shim.aio_ppoll(this.#pollFd.pointer, 1, this.#noTime.pointer);
    if (count <= 0) return count === -Errno.EINTR ? 0 : count;
    const revents = this.#pollFd.i32[1] >>> 16;
    return (revents & PollEvent.invalid) !== 0 ? -Errno.EBADF : revents;
  }

  /** Has a thread carry out a transfer that will not block. */
  #transfer(slot: number, fd: number, events: number): true {
    this.#submit(slot);
    const waiters = this.#waitersOf(fd);
    this.#transferring[slot] = waiters;
    waiters.begin(slot, events);
    return true;
  }

  #save(slot: number): void {
    while (this.#saved.i32.length < (slot + 1) * SQE_WORDS) {
      const larger = allocateNative(this.#saved.buffer.byteLength * 2);
      larger.i32.set(this.#saved.i32);
      this.#saved = larger;
    }
    this.#saved.i32.set(this.#sqe.i32, slot * SQE_WORDS);
  }

  #load(slot: number): void {
    const at = slot * SQE_WORDS;
    for (let word = 0; word < SQE_WORDS; word++) {
      this.#sqe.i32[word] = this.#saved.i32[at + word];
    }
  }

  /** A waiting request's fd is ready: tries it again. */
  retry(slot: number, events: number): boolean {
    this.#load(slot);
    const words = this.#sqe.i32;
    return this.#attempt(slot, words[SqeWord.opcode], words[SqeWord.fd], events);
  }

  /** The fd of waiting requests cannot be watched. */
  fail(slot: number, errno: number): void {
    this.#parts.queue.completed(slot, -errno, 0);
  }

  /** A thread has ended with a request, or is not going to begin. */
  #ended(slot: number, result: number): void {
    this.#parts.queue.completed(slot, result, 0);
    const waiters = this.#transferring[slot] ?? null;
    if (waiters === null) return;
    this.#transferring[slot] = null;
    waiters.end(slot);
  }

  /** The fd is about to be closed: nobody watches it any more, and who waits for it is cancelled. */
  forget(fd: number): void {
    const waiters = this.#waiters.get(fd);
    if (waiters === undefined) return;
    this.#waiters.delete(fd);
    waiters.stop();
  }

  release(fd: number): boolean {
    const waiters = this.#waiters.get(fd);
    if (waiters === undefined || !waiters.empty) return false;
    this.forget(fd);
    return true;
  }

  #submit(slot: number): void {
    const pool = this.#pool ??= this.#openPool();
    if (!pool.full && this.#overflow.length === 0) return pool.submit(this.#sqe.i32, 0);
    this.#save(slot);
    this.#overflow.push(slot);
  }

  #openPool(): WorkerPool {
    const { shim, system, handlers, keepPool: keep } = this.#parts;
    const pool = new WorkerPool(shim, system, { threads: THREADS, capacity: POOL_CAPACITY, keep });
    try {
      handlers.watch(pool.fd, { ioRead: () => this.#reap() });
    } catch (error) {
      pool.dispose();
      throw error;
    }
    return pool;
  }

  #reap(): void {
    const pool = this.#pool!;
    const count = pool.reap();
    for (let number = 0; number < count; number++) {
      const at = pool.cqeIndex(number);
      this.#ended(pool.cqes[at + CqeWord.userData], pool.cqes[at + CqeWord.res]);
    }
    let next = 0;
    for (; next < this.#overflow.length && !pool.full; next++) {
      this.#load(this.#overflow[next]);
      pool.submit(this.#sqe.i32, 0);
    }
    this.#overflow.splice(0, next);
  }

  cancel({ slot }: AioRequest): void {
    const { queue } = this.#parts;
    const place = this.#overflow.indexOf(slot);
    if (place !== -1) {
      this.#overflow.splice(place, 1);
      this.#ended(slot, -Errno.ECANCELED);
    } else if (this.#waitingFor[slot]?.remove(slot) === true) {
      queue.completed(slot, -Errno.ECANCELED, 0);
    } else {
      // Where a thread is working on it, it completes in its own time.
      this.#pool?.cancel(slot);
    }
  }

  quiesce(requests: readonly AioRequest[]): void {
    for (const request of requests) this.cancel(request);
    const { system, shim } = this.#parts;
    const untilNs = system.now() + QUIESCE_NS;
    const left = allocateNative(8);
    while (this.#pool !== null && this.#pool.inFlight > 0) {
      left.f64[0] = untilNs - system.now();
      if (left.f64[0] <= 0) return;
      this.#pollFd.i32[0] = this.#pool.fd;
      this.#pollFd.i32[1] = IN;
      system.calls++;
      shim.aio_ppoll(this.#pollFd.pointer, 1, left.pointer);
      this.#reap();
    }
  }

  dispose(): void {
    this.#waiters.clear();
    // A thread that is stuck in the kernel keeps what it uses: there is no way to end it.
    if (this.#pool?.inFlight === 0) this.#pool.dispose();
    this.#pool = null;
  }
}
