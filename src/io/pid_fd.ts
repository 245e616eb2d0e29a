/**
 * A process behind an fd (pidfd_open(2)): it stays the same process also when its number is used
 * again, so a signal never hits another one.
 */
import { AioError, check, Errno } from "../../ffi/errno.ts";
import { SystemLayout } from "../../ffi/layout.ts";
import { loadShim } from "../../ffi/library.ts";
import { allocateNative } from "../../ffi/memory.ts";
import type { Shim } from "../../ffi/shim_symbols.ts";
import { PollEvent, System } from "../../ffi/system.ts";
import { OwnedFd } from "./owned_fd.ts";
import { signalNumber } from "./signal_names.ts";

const POLLFD = SystemLayout.pollfd;
const INT32_MAX = 2 ** 31 - 1;

/**
 * A process behind an fd: readable once it has ended, for any number of handlers.
 *
 * @example
 * ```ts
 * import { AioContext, PidFd } from "@aio/context";
 * using ctx = new AioContext();
 * const child = new Deno.Command("sleep", { args: ["60"] }).spawn();
 * using process = new PidFd(child.pid);
 * ctx.setFdHandler(process.fd, {
 *   ioRead() {
 *     console.log("ended", process.ended());
 *     ctx.setFdHandler(process.fd, null);
 *   },
 * });
 * process.signal("SIGKILL");
 * ctx.poll(true); // prints ended true
 * await child.status;
 * ```
 */
export class PidFd implements Disposable {
  /** Its number, which the system may use again once the process has ended. */
  readonly pid: number;
  readonly #shim: Shim;
  readonly #system: System;
  readonly #owned: OwnedFd;
  readonly #pollfd = allocateNative(POLLFD.sizeof);

  /**
   * Finds a process by its number. Of a child that is sure to be the right one; the number of
   * another process may have changed hands.
   *
   * @throws {RangeError} when it is no number of a process
   * @throws {AioError} ESRCH when there is no such process; ENOSYS before Linux 5.3
   */
  constructor(pid: number) {
    if (typeof pid !== "number" || !Number.isInteger(pid) || pid < 1 || pid > INT32_MAX) {
      throw new RangeError(
        `Cannot open a process as its pid is not a whole number > 0: ${Deno.inspect(pid)}`,
      );
    }
    this.pid = pid;
    this.#shim = loadShim();
    this.#system = new System(this.#shim);
    const fd = check(
      this.#shim.aio_pidfd_open(pid, 0),
      `Cannot open process ${pid}`,
      "pidfd_open",
    );
    this.#owned = new OwnedFd(this.#shim, `process ${pid}`, fd);
  }

  /**
   * The file descriptor.
   *
   * @throws {TypeError} when it is disposed
   */
  get fd(): number {
    return this.#owned.fd;
  }

  /** Whether the process has ended; it may not have been waited for by its parent. */
  ended(): boolean {
    const { i32 } = this.#pollfd;
    i32[POLLFD.fd / 4] = this.fd;
    i32[POLLFD.events / 4] = PollEvent.in;
    this.#system.timeoutNs[0] = 0;
    const count = this.#system.ppoll(this.#pollfd, 1);
    return check(count, `Cannot look at process ${this.pid}`, "ppoll") !== 0;
  }

  /**
   * Sends a signal to the process.
   *
   * @returns false when it is gone; one that has ended but was not waited for takes any signal
   * @throws {TypeError} when there is no signal of that name
   * @throws {AioError} EPERM when the process is not ours to send signals to
   */
  signal(name: Deno.Signal): boolean {
    const number = signalNumber(name, "Cannot send a signal");
    const result = this.#shim.aio_pidfd_send_signal(this.fd, number);
    if (result === -Errno.ESRCH) return false;
    if (result < 0) {
      const advice = result === -Errno.EPERM ? "it belongs to another user" : undefined;
      const what = `Cannot send ${name} to process ${this.pid}`;
      throw new AioError(what, "pidfd_send_signal", -result, advice);
    }
    return true;
  }

  /** Closes the fd; the process goes on. Delete its handler before. Twice is harmless. */
  [Symbol.dispose](): void {
    this.#owned[Symbol.dispose]();
  }
}
