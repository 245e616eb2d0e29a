/**
 * One file descriptor with its callbacks and all state the loop keeps for it.
 *
 * A handler is never changed by a later setFdHandler: a new one takes the fd over and this one is
 * marked deleted, after which none of its callbacks run. Who may touch what: the context the
 * identity and lists, poll mode the polling fields, the backend the fields named for it.
 */
import { PollEvent } from "../ffi/system.ts";
import type { WatchedWord } from "../ffi/spin.ts";
import { ListLink } from "./intrusive_list.ts";
import { isPollWord, type PollWord, watchedWord } from "./poll_word.ts";

/** The callbacks of one fd. At least one of ioRead and ioWrite is needed. */
export interface FdHandler {
  /** The fd is readable, hung up or in error. */
  ioRead?: (() => void) | null;
  /** The fd is writable or in error. */
  ioWrite?: (() => void) | null;
  /**
   * "Is there work?": a function without side effects, or a PollWord. Asked again and again while
   * the loop polls. Needs ioPollReady and ioRead.
   */
  ioPoll?: (() => boolean) | PollWord | null;
  /** Runs instead of ioRead when ioPoll found the work. */
  ioPollReady?: (() => void) | null;
  /** The loop begins to poll: the other side may stop signalling the fd. */
  ioPollBegin?: (() => void) | null;
  /** The loop stops polling: the other side has to signal the fd again. */
  ioPollEnd?: (() => void) | null;
  /** Does not run while external handlers are disabled. */
  isExternal?: boolean;
}

const READ_EVENTS = PollEvent.in | PollEvent.hangUp | PollEvent.error;

let lastId = 0;

/** A registered fd. */
export class AioHandler {
  /** Unique in this isolate; names the handler in trace events. */
  readonly id: number = ++lastId;
  readonly fd: number;
  readonly isExternal: boolean;
  /** The context's own notifier, which is never progress. */
  readonly isNotifier: boolean;
  ioRead: (() => void) | null;
  ioWrite: (() => void) | null;
  ioPollReady: (() => void) | null;
  ioPollBegin: (() => void) | null;
  ioPollEnd: (() => void) | null;
  /** ioPoll where it is a function. */
  pollFunction: (() => boolean) | null;
  /** ioPoll where it is a word; the PollWord itself is kept for its memory. */
  pollWord: WatchedWord | null;
  /** Events asked of the kernel: poll(2) bits. */
  readonly events: number;
  /** Events that mean ioRead and ioWrite. */
  readonly readEvents: number;
  readonly writeEvents: number;

  /** Events received and not dispatched yet. */
  revents = 0;
  /** ioPoll found work that is not dispatched yet. */
  pollReady = false;
  /** errno with which watching the fd failed; 0 when all is well. */
  watchErrno = 0;
  deleted = false;
  /** It watches for the loop's own purposes: nobody may replace it. */
  isInternal = false;

  /** Its ioPollReady is running: it stays off the poll list if a nested poll took it off. */
  running = false;

  /** Owned by poll mode: adaptive polling time, idle deadline (0: not armed), begin without end. */
  pollNs = 0;
  /** Owned by the polling budget: mean time between events, and when the last one was. */
  averageNs = 0;
  lastEventNs = 0;
  /** This round's block time has been taken into pollNs. */
  adjusted = false;
  idleDeadlineNs = 0;
  polling = false;
  functionIndex = -1;
  pairedIndex = -1;

  /** Owned by the backend: whether the fd is to be watched, its slot, and the state of it. */
  watched = false;
  slot = 0;
  armState = 0;
  armIndex = -1;

  /** On the list of all handlers, or of the deleted ones. */
  readonly allLink: ListLink<AioHandler> = new ListLink<AioHandler>(this);
  // Many handlers are never ready or polled, so these are made when they are asked for.
  #readyLink: ListLink<AioHandler> | null = null;
  #pollLink: ListLink<AioHandler> | null = null;

  constructor(fd: number, callbacks: HandlerCallbacks, isNotifier = false) {
    const { ioPoll } = callbacks;
    this.fd = fd;
    this.isNotifier = isNotifier;
    this.isExternal = callbacks.isExternal;
    this.ioRead = callbacks.ioRead;
    this.ioWrite = callbacks.ioWrite;
    this.ioPollReady = callbacks.ioPollReady;
    this.ioPollBegin = callbacks.ioPollBegin;
    this.ioPollEnd = callbacks.ioPollEnd;
    this.pollFunction = typeof ioPoll === "function" ? ioPoll : null;
    this.pollWord = typeof ioPoll === "object" && ioPoll !== null ? watchedWord(ioPoll) : null;
    this.events = (this.ioRead !== null ? PollEvent.in : 0) |
      (this.ioWrite !== null ? PollEvent.out : 0);
    this.readEvents = this.ioRead === null ? 0 : READ_EVENTS;
    // The kernel reports a hang-up whatever was asked for: without a reader the writer hears of
    // it, as nobody would otherwise and the fd would stay ready for ever.
    this.writeEvents = this.ioWrite === null
      ? 0
      : PollEvent.out | PollEvent.error | (this.ioRead === null ? PollEvent.hangUp : 0);
  }

  /** Whether it can take part in polling. The notifier's word is part of every spin. */
  get hasPoll(): boolean {
    return this.pollFunction !== null || this.pollWord !== null || this.isNotifier;
  }

  /** Whether it takes part in polling now. */
  get listed(): boolean {
    return this.#pollLink !== null && this.#pollLink.list !== null;
  }

  /** Whether it is on the ready list, or in the batch being dispatched. */
  get ready(): boolean {
    return this.#readyLink !== null && this.#readyLink.list !== null;
  }

  /** Its place on the poll list. */
  get pollLink(): ListLink<AioHandler> {
    return this.#pollLink ??= new ListLink<AioHandler>(this);
  }

  /** Its place on the ready list. */
  get readyLink(): ListLink<AioHandler> {
    return this.#readyLink ??= new ListLink<AioHandler>(this);
  }

  /** Lets go of the callbacks once nobody can be running one. */
  release(): void {
    this.ioRead =
      this.ioWrite =
      this.ioPollReady =
      this.ioPollBegin =
      this.ioPollEnd =
        null;
    this.pollFunction = null;
    this.pollWord = null;
  }
}

const FD_MAX = 0x7fff_ffff;

function validateFd(fd: number, ownFd: number): void {
  if (typeof fd !== "number") {
    throw new TypeError(`Cannot set an fd handler as the fd is not a number: ${String(fd)}`);
  }
  if (!Number.isInteger(fd) || fd < 0 || fd > FD_MAX) {
    throw new RangeError(`Cannot set an fd handler as the fd is not a whole number >= 0: ${fd}`);
  }
  if (fd === ownFd) {
    throw new RangeError(`Cannot set an fd handler as the fd is the context's own: ${fd}`);
  }
}

/** Callbacks read from what a caller passed: checked, and the caller's no longer. */
export type HandlerCallbacks = {
  readonly [Name in keyof FdHandler]-?: Exclude<FdHandler[Name], undefined>;
};

/**
 * Reads and checks what a caller passed to setFdHandler; `ownFd` is the context's own. Each property is read once:
 * it may be a getter, which can answer differently the next time, throw, or change the context, so
 * nothing that is looked up before this call may be relied on after it.
 *
 * @returns null where they ask for deletion
 */
export function readFdHandler(
  fd: number,
  callbacks: FdHandler | null,
  ownFd: number,
): HandlerCallbacks | null {
  validateFd(fd, ownFd);
  if (callbacks === null) return null;
  const what = `Cannot set the handler of fd ${fd}`;
  if (typeof callbacks !== "object") {
    throw new TypeError(`${what} as it is not an object of callbacks: ${typeof callbacks}`);
  }
  const read = <Name extends keyof FdHandler>(name: Name) => {
    const callback = callbacks[name] ?? null;
    if (callback === null || typeof callback === "function") return callback;
    throw new TypeError(`${what} as ${name} is not a function: ${typeof callback}`);
  };
  const ioRead = read("ioRead") as (() => void) | null;
  const ioWrite = read("ioWrite") as (() => void) | null;
  const ioPollReady = read("ioPollReady") as (() => void) | null;
  const ioPollBegin = read("ioPollBegin") as (() => void) | null;
  const ioPollEnd = read("ioPollEnd") as (() => void) | null;
  const ioPoll = callbacks.ioPoll ?? null;
  const isExternal = callbacks.isExternal === true;
  if (ioPoll !== null) {
    if (typeof ioPoll !== "function" && !isPollWord(ioPoll)) {
      const kind = typeof ioPoll;
      throw new TypeError(`${what} as ioPoll is neither a function nor a PollWord: ${kind}`);
    }
    if (ioPollReady === null) {
      throw new TypeError(`${what} as ioPoll needs ioPollReady: it runs when ioPoll finds work`);
    }
    if (ioRead === null) {
      throw new TypeError(`${what} as ioPoll needs ioRead: the loop sleeps on the fd`);
    }
  }
  if (ioRead === null && ioWrite === null) return null;
  return { ioRead, ioWrite, ioPoll, ioPollReady, ioPollBegin, ioPollEnd, isExternal };
}

/** Refuses a PollWord that is polled for another handler than the one to be replaced. */
export function requireFreeWord(
  fd: number,
  { ioPoll }: HandlerCallbacks,
  replaced: AioHandler | null,
): void {
  if (ioPoll === null || typeof ioPoll === "function") return;
  const { owner } = watchedWord(ioPoll);
  if (owner === null || owner === replaced) return;
  throw new TypeError(
    `Cannot set the handler of fd ${fd} as its PollWord is polled for another handler`,
  );
}
