/**
 * Requests that a caller describes: what `addSqe` takes.
 *
 * The caller fills in an SQE through methods named after io_uring's operations, so that lengths and
 * addresses always come from one view of memory and nobody can have the kernel write elsewhere.
 * Memory has to be of the kind that cannot be detached. Invariant: an Sqe can be used only while its
 * `prepare` runs.
 */
import { SqeFlag, SqeOp, SqeWord, storeNumber } from "../ffi/sqe.ts";
import { Location, type RequestView } from "./io/buffers.ts";
import { AioRequest } from "./request.ts";
import type { RequestQueue } from "./request_queue.ts";

/** What describes a request: called once, before `addSqe` returns. */
export type PrepareSqe = (sqe: Sqe) => void;

/**
 * Called with the completion of a request, in the dispatch phase.
 *
 * @param result a count, or -errno
 */
export type CompleteSqe = (result: number) => void;

const FD_MAX = 0x7fff_ffff, TRANSFER_MAX = 0x7fff_f000, U32_MAX = 0xffff_ffff;
const FSYNC_DATASYNC = 1;
const MSG_NOSIGNAL = 0x4000;
/** Words of an SQE that callers fill in: all before the user data. */
const FILLED_WORDS = SqeWord.userData;

/**
 * The description of one request, to be filled in by the callback of `addSqe`: one operation, and
 * the flags it is to have. fds are numbers, offsets and lengths bytes.
 *
 * @example
 * ```ts
 * import { AioContext } from "@aio/context";
 * using ctx = new AioContext();
 * let done = false;
 * ctx.addSqe((sqe) => sqe.nop(), (result) => done = result === 0);
 * ctx.poll(true);
 * console.log(done); // true
 * ```
 */
export class Sqe {
  /** What has been filled in: the beginning of an SQE. */
  readonly #words = new Int32Array(FILLED_WORDS);
  readonly #location = new Location();
  #filling = false;
  #chosen = false;

  /** Does nothing, and completes with 0. */
  nop(): this {
    return this.#operation(SqeOp.nop, -1);
  }

  /** Reads like pread(2); with an offset of -1 from where the fd stands. */
  read(fd: number, buffer: RequestView, offset: number): this {
    return this.#operation(SqeOp.read, fd).#memory(buffer).#number(SqeWord.off, offset, -1);
  }

  /** Writes like pwrite(2); with an offset of -1 to where the fd stands. */
  write(fd: number, buffer: RequestView, offset: number): this {
    return this.#operation(SqeOp.write, fd).#memory(buffer).#number(SqeWord.off, offset, -1);
  }

  /** fsync(2), or fdatasync(2). */
  fsync(fd: number, dataOnly = false): this {
    return this.#operation(SqeOp.fsync, fd).#flags(dataOnly ? FSYNC_DATASYNC : 0);
  }

  /** fallocate(2). */
  fallocate(fd: number, mode: number, offset: number, length: number): this {
    return this.#operation(SqeOp.fallocate, fd).#number(SqeWord.off, offset)
      .#number(SqeWord.addr, length).#len(mode);
  }

  /** ftruncate(2); needs Linux 6.9. */
  ftruncate(fd: number, length: number): this {
    return this.#operation(SqeOp.ftruncate, fd).#number(SqeWord.off, length);
  }

  /** posix_fadvise(2). */
  fadvise(fd: number, offset: number, length: number, advice: number): this {
    return this.#operation(SqeOp.fadvise, fd).#number(SqeWord.off, offset).#len(length)
      .#flags(advice);
  }

  /** recv(2). */
  recv(fd: number, buffer: RequestView, flags = 0): this {
    return this.#operation(SqeOp.recv, fd).#memory(buffer).#flags(flags);
  }

  /** send(2); a peer that is gone is EPIPE and never a signal. */
  send(fd: number, buffer: RequestView, flags = 0): this {
    return this.#operation(SqeOp.send, fd).#memory(buffer).#flags(flags | MSG_NOSIGNAL);
  }

  /** accept4(2); the address of the peer is not asked for. Completes with the new fd. */
  accept(fd: number, flags = 0): this {
    return this.#operation(SqeOp.accept, fd).#flags(flags);
  }

  /** shutdown(2). */
  shutdown(fd: number, how: number): this {
    return this.#operation(SqeOp.shutdown, fd).#len(how);
  }

  /** close(2). */
  close(fd: number): this {
    return this.#operation(SqeOp.close, fd);
  }

  /** Waits once for events of an fd, bits of poll(2); completes with those that came. */
  pollAdd(fd: number, events: number): this {
    return this.#operation(SqeOp.pollAdd, fd).#flags(events);
  }

  /** The next request added starts when this one is complete, and is cancelled where it fails. */
  link(): this {
    return this.#flag(SqeFlag.ioLink);
  }

  /** The next request added starts when this one is complete, even where it fails. */
  hardlink(): this {
    return this.#flag(SqeFlag.ioHardlink);
  }

  /** Starts when everything submitted before is complete. */
  drain(): this {
    return this.#flag(SqeFlag.ioDrain);
  }

  /** Runs on a thread of the kernel from the beginning. */
  async(): this {
    return this.#flag(SqeFlag.async);
  }

  /**
   * Has a caller fill it in.
   *
   * @internal
   */
  fill(prepare: PrepareSqe): void {
    if (this.#filling) throw new TypeError("Cannot add a request while another one is filled in");
    this.#words.fill(0);
    this.#location.buffer = null;
    this.#chosen = false;
    this.#filling = true;
    try {
      prepare(this);
    } finally {
      this.#filling = false;
    }
    if (!this.#chosen) throw new TypeError("Cannot add a request as it has no operation");
  }

  /**
   * The words filled in.
   *
   * @internal
   */
  get words(): Int32Array<ArrayBuffer> {
    return this.#words;
  }

  /**
   * The memory named; null where there is none.
   *
   * @internal
   */
  get memory(): ArrayBufferLike | null {
    return this.#location.buffer;
  }

  #operation(opcode: number, fd: number): this {
    const words = this.#open();
    if (typeof fd !== "number") {
      throw new TypeError(`Cannot make a request as the fd is not a number: ${String(fd)}`);
    }
    if (!Number.isInteger(fd) || fd < (opcode === SqeOp.nop ? -1 : 0) || fd > FD_MAX) {
      throw new RangeError(`Cannot make a request as the fd is not a whole number >= 0: ${fd}`);
    }
    if (this.#chosen) throw new TypeError("Cannot make a request of two operations");
    this.#chosen = true;
    words[SqeWord.opcode] |= opcode;
    words[SqeWord.fd] = fd;
    return this;
  }

  #memory(view: RequestView): this {
    const words = this.#open();
    if (!this.#location.locate(view)) {
      throw new TypeError(
        "Cannot make a request as the buffer's memory could be transferred away meanwhile: use " +
          "ctx.buffers.allocate() or a SharedArrayBuffer",
      );
    }
    storeNumber(words, SqeWord.addr, this.#location.address);
    words[SqeWord.len] = Math.min(this.#location.byteLength, TRANSFER_MAX);
    return this;
  }

  #number(word: number, value: number, min = 0): this {
    if (!Number.isSafeInteger(value) || value < min) {
      throw new RangeError(
        `Cannot make a request as a number is not a whole one >= ${min}: ${String(value)}`,
      );
    }
    storeNumber(this.#open(), word, value);
    return this;
  }

  #len(value: number): this {
    return this.#u32(SqeWord.len, value);
  }

  #flags(value: number): this {
    return this.#u32(SqeWord.opFlags, value);
  }

  #u32(word: number, value: number): this {
    if (!Number.isInteger(value) || value < 0 || value > U32_MAX) {
      throw new RangeError(
        `Cannot make a request as a number is not a whole one up to ${U32_MAX}: ${String(value)}`,
      );
    }
    this.#open()[word] = value;
    return this;
  }

  #flag(flag: number): this {
    this.#open()[SqeWord.opcode] |= flag;
    return this;
  }

  #open(): Int32Array {
    if (this.#filling) return this.#words;
    throw new TypeError("Cannot use the SQE any more: it is filled in by the callback of addSqe");
  }
}

/** A request that was added, for `cancel`. */
export interface AddedRequest {
  /** Whether its completion has not come yet. */
  readonly inFlight: boolean;
  /** Asks for it to end soon. It completes all the same, with -ECANCELED where that came in time. */
  cancel(): void;
}

/** A request of `addSqe`. */
export class SqeRequest extends AioRequest implements AddedRequest {
  readonly #queue: RequestQueue;
  readonly #complete: CompleteSqe;
  /** The words filled in: those of the Sqe, which others use too, until the request has to wait. */
  #words: Int32Array<ArrayBuffer>;
  #held: unknown;
  readonly #accepts: boolean;
  readonly #links: boolean;

  /** @param sqe filled in for this request */
  constructor(queue: RequestQueue, sqe: Sqe, complete: CompleteSqe) {
    super();
    this.#queue = queue;
    this.#words = sqe.words;
    this.#held = sqe.memory;
    const opcode = sqe.words[SqeWord.opcode];
    this.#accepts = (opcode & 0xff) === SqeOp.accept;
    this.#links = (opcode & (SqeFlag.ioLink | SqeFlag.ioHardlink)) !== 0;
    this.#complete = complete;
  }

  get inFlight(): boolean {
    return this.slot !== 0 || this.waiting;
  }

  cancel(): void {
    this.#queue.cancel(this);
  }

  override get continuesChain(): boolean {
    return true;
  }

  override get links(): boolean {
    return this.#links;
  }

  get held(): unknown {
    return this.#held;
  }

  override wait(): void {
    this.#words = this.#words.slice();
  }

  prepare(sqes: Int32Array, at: number): void {
    const words = this.#words;
    for (let index = 0; index < FILLED_WORDS; index++) sqes[at + index] = words[index];
  }

  complete(result: number): void {
    this.#held = null;
    this.#complete(result);
  }

  abandon(result: number | null): void {
    this.#held = null;
    // Nobody else is going to know of the connection.
    if (this.#accepts && result !== null && result >= 0) this.#queue.close(result);
  }
}
