/**
 * A timer of the kernel behind an fd (timerfd_create(2)).
 *
 * `ctx.timer` is cheaper where one context is to be woken. This is for a clock other than the
 * context's, and for handing a timer to whoever takes fds. It owns its fd and does not block.
 */
import { check, Errno } from "../../ffi/errno.ts";
import { loadShim } from "../../ffi/library.ts";
import { allocateNative } from "../../ffi/memory.ts";
import { SocketFlag } from "../../ffi/socket.ts";
import type { Shim } from "../../ffi/shim_symbols.ts";
import { OwnedFd } from "./owned_fd.ts";

/** Numbers of the clocks. */
export const ClockId = { realtime: 0, monotonic: 1, boottime: 7 } as const;

/** Flag of timerfd_settime(2). */
export const TimerFlag = { abstime: 1 } as const;

const DISARMED_NS = 0;
/** A time that is over, as 0 would disarm. */
const SOONEST_NS = 1;
const COUNT_BYTES = 8;
const TWO_32 = 2 ** 32;

/** What a timer goes by. */
export interface TimerFdOptions {
  /**
   * `"monotonic"`, the default, is the clock of `ctx.now()`; `"boottime"` goes on while the machine
   * sleeps; `"realtime"` counts from 1970 and jumps when it is set.
   */
  readonly clock?: "monotonic" | "boottime" | "realtime";
}

/**
 * A timer behind an fd: readable once it has expired.
 *
 * @example
 * ```ts
 * import { AioContext, TimerFd } from "@aio/context";
 * using ctx = new AioContext();
 * using timer = new TimerFd();
 * ctx.setFdHandler(timer.fd, { ioRead: () => console.log("expired", timer.read()) });
 * timer.arm(ctx.now() + 1e6);
 * ctx.poll(true); // prints expired 1
 * ctx.setFdHandler(timer.fd, null);
 * ```
 */
export class TimerFd implements Disposable {
  readonly #shim: Shim;
  readonly #owned: OwnedFd;
  readonly #count = allocateNative(COUNT_BYTES);

  /**
   * Makes a timer that is not armed.
   *
   * @throws {TypeError} when the clock is none
   * @throws {AioError} when there is no fd to be had
   */
  constructor(options: TimerFdOptions = {}) {
    const what = "Cannot make a timer";
    if (typeof options !== "object" || options === null) {
      throw new TypeError(`${what} as the options are no object: ${String(options)}`);
    }
    const { clock = "monotonic" } = options;
    if (typeof clock !== "string" || !Object.hasOwn(ClockId, clock)) {
      throw new TypeError(`${what} as its clock is unknown: ${Deno.inspect(clock)}`);
    }
    this.#shim = loadShim();
    const flags = SocketFlag.cloexec | SocketFlag.nonblock;
    const fd = this.#shim.aio_timerfd_create(ClockId[clock], flags);
    this.#owned = new OwnedFd(this.#shim, "timer", check(fd, what, "timerfd_create"));
  }

  /**
   * The file descriptor.
   *
   * @throws {TypeError} when the timer is disposed
   */
  get fd(): number {
    return this.#owned.fd;
  }

  /**
   * Sets the time of its expiry, in place of an earlier one; expirations not read are forgotten.
   *
   * @param deadlineNs absolute, in ns of its clock; one in the past expires at once. It is cut to
   * 292 years
   * @param intervalNs time between further expirations; 0 for none
   * @throws {RangeError} when one of them is not a finite number >= 0
   */
  arm(deadlineNs: number, intervalNs = 0): void {
    requireNs(deadlineNs, "deadline");
    this.#set(TimerFlag.abstime, Math.max(deadlineNs, SOONEST_NS), intervalNs);
  }

  /**
   * Has it expire after a while, in place of what it was armed for.
   *
   * @param delayNs from now, in ns
   * @param intervalNs time between further expirations; 0 for none
   * @throws {RangeError} when one of them is not a finite number >= 0
   */
  armAfter(delayNs: number, intervalNs = 0): void {
    requireNs(delayNs, "delay");
    this.#set(0, Math.max(delayNs, SOONEST_NS), intervalNs);
  }

  /** Disarms it; expirations not read are forgotten. */
  disarm(): void {
    this.#set(0, DISARMED_NS, 0);
  }

  /** Makes the fd unreadable. @returns how often it has expired since the last time, 0 if not */
  read(): number {
    const fd = this.fd;
    const result = this.#shim.aio_read(fd, this.#count.pointer, COUNT_BYTES);
    if (result === -Errno.EAGAIN) return 0;
    check(result, `Cannot read timer fd ${fd}`, "read");
    const { u32 } = this.#count;
    return u32[1] * TWO_32 + u32[0];
  }

  /** Closes the fd; delete its handler before. Disposing twice is harmless. */
  [Symbol.dispose](): void {
    this.#owned[Symbol.dispose]();
  }

  #set(flags: number, firstNs: number, intervalNs: number): void {
    requireNs(intervalNs, "interval");
    const everyNs = intervalNs === 0 ? 0 : Math.max(intervalNs, SOONEST_NS);
    const fd = this.fd;
    const result = this.#shim.aio_timerfd_settime(fd, flags, firstNs, everyNs);
    check(result, `Cannot set timer fd ${fd}`, "timerfd_settime");
  }
}

function requireNs(value: number, what: string): void {
  if (typeof value !== "number" || !(value >= 0) || !Number.isFinite(value)) {
    throw new RangeError(
      `Cannot set a timer as its ${what} is not a time in ns: ${Deno.inspect(value)}`,
    );
  }
}
