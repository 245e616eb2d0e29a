/**
 * Signals of this process behind an fd.
 *
 * Not signalfd(2), though it is used the same way: that one wants a signal blocked in every thread,
 * and Deno's threads run before any of our code does. One that was sent to the process ended it,
 * as some thread did not block it, and children were born with it blocked, deaf to SIGTERM. So a
 * handler in C writes each signal to a pipe, whichever thread it comes to; see shim/signal.c.
 *
 * A signal belongs to one SignalFd at a time. Invariant: as long as it is taken the write end of
 * the pipe is open, and once released no handler holds it.
 */
import { AioError, check, Errno } from "../../ffi/errno.ts";
import { SocketLayout } from "../../ffi/layout.ts";
import { loadShim } from "../../ffi/library.ts";
import { allocateNative } from "../../ffi/memory.ts";
import { SocketFlag } from "../../ffi/socket.ts";
import type { Shim } from "../../ffi/shim_symbols.ts";
import { OwnedFd } from "./owned_fd.ts";
import { signalNumber } from "./signal_names.ts";

const RECORD = SocketLayout.aio_signal;

/** Nobody gets the first two; the others stand for an instruction that failed, and would again. */
const REFUSED: readonly number[] = [
  ...["SIGKILL", "SIGSTOP"],
  ...["SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGTRAP", "SIGSYS"],
].map((name) => signalNumber(name, "Cannot refuse a signal"));

/**
 * Signals that Deno takes from the system by itself, as when it looks for updates some seconds after
 * the start. It does so once in a process, and would end that, or start an inspector at SIGUSR1,
 * although the signal is ours.
 */
const TAKEN_BY_DENO: readonly Deno.Signal[] = ["SIGHUP", "SIGINT", "SIGTERM", "SIGUSR1"];

/** si_code of signals that a process has sent, of which the sender is known. */
export const SignalCode = { user: 0, queue: -1, tkill: -6 } as const;

/** A signal that has come. */
export interface SignalInfo {
  /** Its name, as it was asked for. */
  readonly signal: Deno.Signal;
  /** Process that sent it, or that has ended if it is SIGCHLD; 0 if the kernel sent it by itself. */
  readonly pid: number;
  /** User of that process; 0 if the kernel sent it. */
  readonly uid: number;
}

/**
 * Signals behind an fd: readable when one has come.
 *
 * While it is open it alone gets them: their usual effect does not happen, and listeners that
 * `Deno.addSignalListener` has added before hear nothing; for SIGHUP, SIGINT, SIGTERM and SIGUSR1
 * those added meanwhile do not either. What is not read is kept, up to 4,096 signals; then the
 * latest are lost. In a Worker dispose it before the Worker is ended from outside, or the signals
 * stay without effect.
 *
 * @example
 * ```ts
 * import { AioContext, SignalFd } from "@aio/context";
 * using ctx = new AioContext();
 * using signals = new SignalFd(["SIGHUP", "SIGUSR1"]);
 * ctx.setFdHandler(signals.fd, { ioRead: () => console.log(signals.read()?.signal) });
 * Deno.kill(Deno.pid, "SIGHUP");
 * ctx.poll(true); // prints SIGHUP
 * ctx.setFdHandler(signals.fd, null);
 * ```
 */
export class SignalFd implements Disposable {
  readonly #shim: Shim;
  readonly #reader: OwnedFd;
  readonly #writer: OwnedFd;
  readonly #names: ReadonlyMap<number, Deno.Signal>;
  readonly #record = allocateNative(RECORD.sizeof);

  /**
   * Takes signals over.
   *
   * @throws {TypeError} when one of the names is no signal, or one that cannot be taken
   * @throws {AioError} EBUSY when one belongs to another SignalFd, or when there is no fd to be had
   */
  constructor(signals: readonly Deno.Signal[]) {
    this.#names = readSignals(signals);
    this.#shim = loadShim();
    const fds = allocateNative(8);
    const flags = SocketFlag.cloexec | SocketFlag.nonblock;
    check(this.#shim.aio_pipe(fds.pointer, flags), "Cannot make a pipe for signals", "pipe2");
    this.#reader = new OwnedFd(this.#shim, "signals", fds.i32[0], false);
    this.#writer = new OwnedFd(this.#shim, "signals", fds.i32[1], false);
    const taken: number[] = [];
    for (const [number, name] of this.#names) {
      if (TAKEN_BY_DENO.includes(name)) haveDenoTake(name);
      const result = this.#shim.aio_signal_take(number, this.#writer.fd);
      if (result >= 0) {
        taken.push(number);
        continue;
      }
      this.#release(taken);
      const busy = result === -Errno.EBUSY ? "another SignalFd has taken it" : undefined;
      throw new AioError(`Cannot take ${name}`, "sigaction", -result, busy);
    }
  }

  /**
   * The file descriptor.
   *
   * @throws {TypeError} when it is disposed
   */
  get fd(): number {
    return this.#reader.fd;
  }

  /** The signal that came first of those not read yet; null when there is none. */
  read(): SignalInfo | null {
    const fd = this.fd;
    const result = this.#shim.aio_read(fd, this.#record.pointer, RECORD.sizeof);
    if (result === -Errno.EAGAIN) return null;
    check(result, `Cannot read signals of fd ${fd}`, "read");
    const { i32, u32 } = this.#record;
    const signal = this.#names.get(i32[RECORD.signal / 4])!;
    if (!namesSender(signal, i32[RECORD.code / 4])) return { signal, pid: 0, uid: 0 };
    return { signal, pid: i32[RECORD.pid / 4], uid: u32[RECORD.uid / 4] };
  }

  /**
   * Gives the signals back, those not read being lost, and closes the fd; delete its handler
   * before. Disposing twice is harmless.
   */
  [Symbol.dispose](): void {
    if (this.#reader.isOpen) this.#release(this.#names.keys());
  }

  #release(numbers: Iterable<number>): void {
    for (const number of numbers) this.#shim.aio_signal_release(number);
    this.#writer[Symbol.dispose]();
    this.#reader[Symbol.dispose]();
  }
}

/** Checks the names and finds their numbers; the first of two names for one signal counts. */
function readSignals(signals: readonly Deno.Signal[]): ReadonlyMap<number, Deno.Signal> {
  if (!Array.isArray(signals)) {
    throw new TypeError(`Cannot take signals as they are no array: ${Deno.inspect(signals)}`);
  }
  const names = new Map<number, Deno.Signal>();
  // Read once, as an element may be a getter.
  for (const name of [...signals]) {
    const number = signalNumber(name, "Cannot take a signal");
    if (REFUSED.includes(number)) {
      throw new TypeError(`Cannot take a signal as it is for the system alone: ${name}`);
    }
    if (!names.has(number)) names.set(number, name);
  }
  if (names.size === 0) throw new TypeError("Cannot take signals as there is none in the array");
  return names;
}

/** Has Deno take a signal now, so that it does not later: what is taken after that comes first. */
function haveDenoTake(signal: Deno.Signal): void {
  const listener = () => {};
  Deno.addSignalListener(signal, listener);
  Deno.removeSignalListener(signal, listener);
}

/** Whether the pid in a record is that of a process, and not something else in its place. */
function namesSender(signal: Deno.Signal, code: number): boolean {
  return code === SignalCode.user || code === SignalCode.queue || code === SignalCode.tkill ||
    signal === "SIGCHLD";
}
