/**
 * One io_uring instance: liburing sets it up, enters it and tears it down; SQEs are written and
 * CQEs read here, in the mapped rings.
 *
 * How it is set up stands in ring_setup.ts. NO_IOWAIT is set where a loop waits for events, lest it
 * counts as one that waits for a disk. Registering the ring's fd makes an empty enter about 50 ns of
 * 270 shorter, which is nothing beside a wake-up.
 *
 * Invariant: between calls the SQ tail in shared memory covers every SQE pushed, so
 * `unsubmitted` is what the next enter takes. Only the thread that made the ring may use it. What
 * a completion means is the caller's business.
 */
import { AioError, Errno } from "./errno.ts";
import { RingLayout } from "./layout.ts";
import type { Liburing } from "./liburing_symbols.ts";
import { allocateNative, mapWords, storeU64 } from "./memory.ts";
import { RingRegistrations } from "./ring_registrations.ts";
import { NEEDED_OPS, REFUSAL_ADVICE, SETUP_CHOICES, SetupFlag } from "./ring_setup.ts";
import { SQE_WORDS, SqeFlag, SqeWord } from "./sqe.ts";
import type { System } from "./system.ts";

/** Bits of the SQ ring's flags word, written by the kernel. */
export const SqFlag = { cqOverflow: 2, taskrun: 4 } as const;

/** Bit of the CQ ring's flags word, written by us. */
const CQ_EVENTFD_DISABLED = 1;

const Feature = { noDrop: 1 << 1, extArg: 1 << 8, noIowait: 1 << 17 } as const;
const EnterFlag = { getEvents: 1, extArg: 1 << 3, noIowait: 1 << 7 } as const;

/** SQEs that can wait for one enter; when more are needed the ring is entered midway. */
const SQ_ENTRIES = 256;
/**
 * Completions that fit before the kernel has to keep an overflow list. The kernel also sizes by it
 * the hash table in which a cancellation searches: from this number on it has all 256 buckets.
 */
const CQ_ENTRIES = 8192;

const NS_PER_S = 1e9;
/** Longer waits are cut to this; the caller then simply waits again. */
const TIMEOUT_MAX_S = 0xffff_ffff;

const RING = RingLayout.io_uring, PARAMS = RingLayout.io_uring_params;
const CQE_WORDS = RingLayout.io_uring_cqe.sizeof / 4;
// Indexes of 64-bit words.
const SQ_KHEAD = RING["sq.khead"] / 8, SQ_KTAIL = RING["sq.ktail"] / 8;
const SQ_KFLAGS = RING["sq.kflags"] / 8, SQ_ARRAY = RING["sq.array"] / 8;
const SQ_SQES = RING["sq.sqes"] / 8, CQ_CQES = RING["cq.cqes"] / 8;
const CQ_KFLAGS = RING["cq.kflags"] / 8;
const CQ_KHEAD = RING["cq.khead"] / 8, CQ_KTAIL = RING["cq.ktail"] / 8;
// Indexes of 32-bit words.
const SQ_ENTRIES_WORD = RING["sq.ring_entries"] / 4, CQ_ENTRIES_WORD = RING["cq.ring_entries"] / 4;
const RING_FD_WORD = RING.ring_fd / 4;
const EXT_ARG_BYTES = BigInt(RingLayout.io_uring_getevents_arg.sizeof);
/** Bytes of the signal set that is not given. */
const SIGSET_BYTES = 8n;
const EXT_ARG_TS = RingLayout.io_uring_getevents_arg.ts / 4;
const TV_SEC = RingLayout.__kernel_timespec.tv_sec / 4;
const TV_NSEC = RingLayout.__kernel_timespec.tv_nsec / 4;

/** Words of an SQE that are written to: all up to the number of a buffer. */
const WRITTEN_WORDS = SqeWord.bufIndex + 1;
const LINK_FLAGS = SqeFlag.ioLink | SqeFlag.ioHardlink;

const PROBE_OPS = 256;
const PROBE_OP_BYTES = RingLayout.io_uring_probe_op.sizeof;
const PROBE_OPS_AT = RingLayout.io_uring_probe.ops;
const PROBE_FLAGS = RingLayout.io_uring_probe_op.flags;
const OP_SUPPORTED = 1;

/** Addresses the spin watches. */
export interface RingAddresses {
  readonly cqHead: bigint;
  readonly cqTail: bigint;
  readonly sqFlags: bigint;
}

/** A set-up io_uring. */
export class Ring {
  readonly addresses: RingAddresses;
  /** Flags it was set up with. */
  readonly setupFlags: number;
  /** Words of the CQEs; see `cqeIndex`. */
  cqes: Int32Array<ArrayBuffer>;
  /** Words of the SQEs; see `nextSqe`. */
  sqes: Int32Array<ArrayBuffer>;
  /**
   * Its one element bounds the next wait, in ns; negative waits for ever. An array, as V8 may
   * allocate for a double that is passed to a function.
   */
  readonly timeoutNs: Float64Array<ArrayBuffer> = new Float64Array(1);
  /**
   * The next waits are for a disk. Processors then sleep less deeply, which saves 5 to 20 us of a
   * read; any other wait would show up as the machine waiting for disks all the time.
   */
  waitsForDisk = false;
  readonly #liburing: Liburing;
  readonly #system: System;
  readonly #ring: BigUint64Array<ArrayBuffer>;
  /** What the kernel knows of beside it. */
  readonly registered: RingRegistrations;
  readonly #fd: number;
  readonly #noIowait: number;
  readonly #extArg = allocateNative(Number(EXT_ARG_BYTES));
  readonly #timespec = allocateNative(RingLayout.__kernel_timespec.sizeof);
  readonly #sqMask: number;
  readonly #cqMask: number;
  #sqHead: Int32Array<ArrayBuffer>;
  #sqTail: Int32Array<ArrayBuffer>;
  #sqFlags: Int32Array<ArrayBuffer>;
  #cqHead: Int32Array<ArrayBuffer>;
  #cqTail: Int32Array<ArrayBuffer>;
  #cqFlags: Int32Array<ArrayBuffer>;
  #signalling = false;
  #tail = 0;
  #head = 0;
  #open = true;
  /** By opcode: 1 where this kernel knows it. */
  readonly #supported = new Uint8Array(PROBE_OPS);
  /** Completions are posted by this thread alone, inside enter. */
  readonly #postsInside: boolean;

  /**
   * @param memory for liburing's description, zeros, where others are to find it; see `exitRing`
   * @throws {AioError} when the kernel refuses; its code says why (ENOSYS, EPERM, ENOMEM...)
   */
  constructor(
    liburing: Liburing,
    system: System,
    memory: BigUint64Array<ArrayBuffer> = new BigUint64Array(RING.sizeof / 8),
  ) {
    this.#liburing = liburing;
    this.#ring = memory;
    this.#system = system;
    this.registered = new RingRegistrations(liburing, system, this.#ring);
    const params = this.#setup();
    this.setupFlags = params[PARAMS.flags / 4];
    this.#postsInside = (this.setupFlags & SetupFlag.deferTaskrun) !== 0;
    const features = params[PARAMS.features / 4];
    const ring = this.#ring;
    const words = new Uint32Array(ring.buffer);
    this.#fd = words[RING_FD_WORD];
    this.#noIowait = features & Feature.noIowait ? EnterFlag.noIowait : 0;
    storeU64(this.#extArg.u32, EXT_ARG_TS, this.#timespec.address);
    const sqEntries = words[SQ_ENTRIES_WORD], cqEntries = words[CQ_ENTRIES_WORD];
    this.#sqMask = sqEntries - 1;
    this.#cqMask = cqEntries - 1;
    this.#sqHead = mapWords(ring[SQ_KHEAD], 1);
    this.#sqTail = mapWords(ring[SQ_KTAIL], 1);
    this.#sqFlags = mapWords(ring[SQ_KFLAGS], 1);
    this.#cqHead = mapWords(ring[CQ_KHEAD], 1);
    this.#cqTail = mapWords(ring[CQ_KTAIL], 1);
    this.#cqFlags = mapWords(ring[CQ_KFLAGS], 1);
    this.sqes = mapWords(ring[SQ_SQES], sqEntries * SQE_WORDS);
    this.cqes = mapWords(ring[CQ_CQES], cqEntries * CQE_WORDS);
    this.addresses = {
      cqHead: ring[CQ_KHEAD],
      cqTail: ring[CQ_KTAIL],
      sqFlags: ring[SQ_KFLAGS],
    };
    // SQEs are used in ring order, so the indirection array is written once.
    const array = mapWords(ring[SQ_ARRAY], sqEntries);
    for (let index = 0; index < sqEntries; index++) array[index] = index;
    try {
      this.#requireSupport(features);
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  #setup(): Uint32Array {
    let result = 0;
    for (const choice of SETUP_CHOICES) {
      const params = new Uint32Array(PARAMS.sizeof / 4);
      params[PARAMS.flags / 4] = choice | SetupFlag.cqSize | SetupFlag.clamp;
      params[PARAMS.cq_entries / 4] = CQ_ENTRIES;
      this.#system.calls++;
      result = this.#liburing.io_uring_queue_init_params(SQ_ENTRIES, this.#ring, params);
      if (result >= 0) return params;
      this.#ring.fill(0n);
      // EINVAL means that this kernel does not know a flag; fewer are asked for next.
      if (result !== -Errno.EINVAL) break;
    }
    throw refusal("Cannot set up io_uring", "io_uring_setup", result);
  }

  #requireSupport(features: number): void {
    if ((features & Feature.extArg) === 0 || (features & Feature.noDrop) === 0) {
      throw new AioError("Cannot use io_uring", "io_uring_setup", Errno.ENOSYS, "needs Linux 5.11");
    }
    const probe = new Uint8Array(PROBE_OPS_AT + PROBE_OPS * PROBE_OP_BYTES);
    this.#system.calls++;
    const probed = this.#liburing.io_uring_register_probe(this.#ring, probe, PROBE_OPS);
    if (probed < 0) throw refusal("Cannot probe io_uring", "io_uring_register", probed);
    for (let op = 0; op < PROBE_OPS; op++) {
      const flags = probe[PROBE_OPS_AT + op * PROBE_OP_BYTES + PROBE_FLAGS];
      if ((flags & OP_SUPPORTED) !== 0) this.#supported[op] = 1;
    }
    for (const [name, op] of Object.entries(NEEDED_OPS)) {
      if (this.supports(op)) continue;
      throw new AioError(`Cannot use io_uring for ${name}`, "io_uring_register", Errno.ENOSYS);
    }
    // A filter may refuse this call alone, which is better known now than in the first wait.
    const entered = this.enter(0);
    if (entered < 0) throw refusal("Cannot enter io_uring", "io_uring_enter", entered);
  }

  /** Whether this kernel knows the opcode. */
  supports(op: number): boolean {
    return this.#supported[op] === 1;
  }

  /** SQEs handed out that no enter has taken yet. */
  get unsubmitted(): number {
    return (this.#tail - this.#sqHead[0]) | 0;
  }

  /** SQEs that can be handed out before the next enter. */
  get room(): number {
    return this.#sqMask + 1 - this.unsubmitted;
  }

  /** True when a completion can be read, or could be after an enter. */
  get hasCompletions(): boolean {
    return this.#cqTail[0] !== this.#head || this.needsEnter;
  }

  /** True when the kernel holds completions back until it is entered. */
  get needsEnter(): boolean {
    return (this.#sqFlags[0] & (SqFlag.taskrun | SqFlag.cqOverflow)) !== 0;
  }

  /** True when completions were kept out of a full CQ ring; the next enter brings them in. */
  get overflowed(): boolean {
    return (this.#sqFlags[0] & SqFlag.cqOverflow) !== 0;
  }

  /**
   * The next SQE, zeroed, as an index into `sqes`; see `SqeWord`. There must be `room`. It is to be
   * filled in and given out by `push` before anything else is called.
   */
  nextSqe(): number {
    const at = (this.#tail & this.#sqMask) * SQE_WORDS;
    const words = this.sqes;
    // Half of what `fill` takes. Nobody ever writes to what stands behind.
    for (let word = at; word < at + WRITTEN_WORDS; word++) words[word] = 0;
    return at;
  }

  /** Gives the SQE out: it belongs to the kernel from the next enter on. */
  push(): void {
    this.#tail = (this.#tail + 1) | 0;
    // The kernel reads the tail inside enter, on this very thread: a plain store is enough.
    this.#sqTail[0] = this.#tail;
  }

  /** The newest SQE is linked to the one that is pushed next. */
  get chained(): boolean {
    return this.unsubmitted !== 0 && (this.sqes[this.#newest()] & LINK_FLAGS) !== 0;
  }

  /** Ends the chain: what is pushed next does not belong to it. */
  endChain(): void {
    if (this.unsubmitted !== 0) this.sqes[this.#newest()] &= ~LINK_FLAGS;
  }

  #newest(): number {
    return ((this.#tail - 1) & this.#sqMask) * SQE_WORDS + SqeWord.opcode;
  }

  /**
   * Submits what is unsubmitted, waits for `minComplete` completions for as long as `timeoutNs`
   * says, and has the kernel post the ones it holds back: one system call.
   *
   * @returns SQEs taken, or -errno (ETIME: the time was up)
   */
  enter(minComplete: number): number {
    const timeoutNs = this.timeoutNs[0];
    const timed = timeoutNs >= 0 && minComplete > 0;
    if (timed) {
      const seconds = Math.min(Math.floor(timeoutNs / NS_PER_S), TIMEOUT_MAX_S);
      this.#timespec.u32[TV_SEC] = seconds;
      this.#timespec.u32[TV_NSEC] = Math.min(timeoutNs - seconds * NS_PER_S, NS_PER_S - 1);
    }
    this.#system.calls++;
    return this.#liburing.io_uring_enter2(
      this.#fd,
      this.unsubmitted,
      minComplete,
      EnterFlag.getEvents | (timed ? EnterFlag.extArg : 0) |
        (this.waitsForDisk ? 0 : this.#noIowait),
      timed ? this.#extArg.pointer : null,
      timed ? EXT_ARG_BYTES : SIGSET_BYTES,
    );
  }

  /** Number of completions that can be read now. */
  completions(): number {
    // Acquire: the CQEs were written before the kernel moved the tail. Where that was on this very
    // thread a plain load will do, which takes a tenth of the time.
    const tail = this.#postsInside ? this.#cqTail[0] : Atomics.load(this.#cqTail, 0);
    return (tail - this.#head) | 0;
  }

  /** Index into `cqes` of the completion this far from the oldest; see `CqeWord`. */
  cqeIndex(offset: number): number {
    return ((this.#head + offset) & this.#cqMask) * CQE_WORDS;
  }

  /** Gives the oldest `count` completions back to the kernel. */
  consume(count: number): void {
    this.#head = (this.#head + count) | 0;
    // Release: the kernel may overwrite the CQEs only after they were read; see `completions`.
    if (this.#postsInside) this.#cqHead[0] = this.#head;
    else Atomics.store(this.#cqHead, 0, this.#head);
  }

  /**
   * Has the kernel write an eventfd when there is a completion, or would be after an enter. The
   * ring's own fd does not tell of those that a thread with DEFER_TASKRUN has to fetch.
   *
   * @returns the eventfd
   */
  signalCompletions(): number {
    const { eventFd } = this.registered;
    this.#cqFlags[0] = 0;
    this.#signalling = true;
    return eventFd;
  }

  /** The eventfd is not written any more. */
  stopSignalling(): void {
    if (!this.#signalling) return;
    this.#signalling = false;
    this.#cqFlags[0] = CQ_EVENTFD_DISABLED;
    this.#system.drain(this.registered.eventFd);
  }

  /** Tears the ring down; its memory is unmapped, requests in flight are cancelled. */
  dispose(): void {
    if (!this.#open) return;
    this.#open = false;
    // Views of unmapped memory crash when read, so none is kept.
    const none = new Int32Array(1);
    this.#sqHead =
      this.#sqTail =
      this.#sqFlags =
      this.#cqHead =
      this.#cqTail =
      this.#cqFlags =
        none;
    this.sqes = this.cqes = none;
    this.#tail = this.#head = 0;
    this.#system.calls++;
    exitRing(this.#liburing, this.#ring);
    this.registered.dispose();
  }
}

/** Gives a ring back, by its description, if there is one; on any thread where its own is gone. */
export function exitRing(liburing: Liburing, ring: BigUint64Array<ArrayBuffer>): void {
  if (ring[SQ_SQES] === 0n) return;
  liburing.io_uring_queue_exit(ring);
  ring.fill(0n);
}

function refusal(what: string, syscall: string, result: number): AioError {
  return new AioError(what, syscall, -result, REFUSAL_ADVICE[-result]);
}
