/**
 * Errors of the operating system, made readable.
 *
 * Every function of the shim and of liburing returns a count or -errno. This file turns the
 * negative ones into an `AioError` that names the call, the errno and what can be done about it.
 * It knows numbers and words only; when an error is success in disguise is the caller's business.
 */

/** errno values the project names; Linux has the same numbers on x86-64 and arm64. */
export const Errno = {
  EPERM: 1,
  ENOENT: 2,
  ESRCH: 3,
  EINTR: 4,
  EIO: 5,
  ENXIO: 6,
  EBADF: 9,
  EAGAIN: 11,
  ENOMEM: 12,
  EACCES: 13,
  EFAULT: 14,
  EBUSY: 16,
  EEXIST: 17,
  ENODEV: 19,
  ENOTDIR: 20,
  EISDIR: 21,
  EINVAL: 22,
  ENFILE: 23,
  EMFILE: 24,
  ENOTTY: 25,
  ETXTBSY: 26,
  EFBIG: 27,
  ENOSPC: 28,
  ESPIPE: 29,
  EROFS: 30,
  EPIPE: 32,
  ENAMETOOLONG: 36,
  ENOSYS: 38,
  ELOOP: 40,
  EBADR: 53,
  ETIME: 62,
  EPROTO: 71,
  EOVERFLOW: 75,
  ELIBACC: 79,
  ELIBBAD: 80,
  ENOTSOCK: 88,
  EMSGSIZE: 90,
  ENOPROTOOPT: 92,
  EOPNOTSUPP: 95,
  EAFNOSUPPORT: 97,
  EADDRINUSE: 98,
  EADDRNOTAVAIL: 99,
  ENETUNREACH: 101,
  ECONNABORTED: 103,
  ECONNRESET: 104,
  ENOBUFS: 105,
  EISCONN: 106,
  ENOTCONN: 107,
  ETOOMANYREFS: 109,
  ETIMEDOUT: 110,
  ECONNREFUSED: 111,
  EHOSTUNREACH: 113,
  EALREADY: 114,
  EINPROGRESS: 115,
  EDQUOT: 122,
  ECANCELED: 125,
} as const;

const NAMES: ReadonlyMap<number, string> = new Map(
  Object.entries(Errno).map(([name, number]) => [number, name]),
);

const ADVICE: Readonly<Record<string, string>> = {
  EMFILE: "raise the limit of open files (ulimit -n) or close some",
  ENFILE: "the system is out of open files: raise fs.file-max",
  ENOMEM: "free memory or raise the memlock limit (ulimit -l)",
  EBADF: "the file descriptor is not open: delete its handler before closing it",
  EPERM: "not permitted: a seccomp filter, a sysctl or the kind of file forbids it",
  ENOSYS: "this kernel does not have the call",
};

/**
 * A system call failed.
 *
 * @example
 * ```ts
 * import { AioError } from "@aio/context";
 * const error = new AioError("Cannot watch fd 7", "epoll_ctl", 1);
 * console.log(error.code, error.syscall); // EPERM epoll_ctl
 * ```
 */
export class AioError extends Error {
  /** `"AioError"`. */
  override readonly name = "AioError";
  /** Name of the errno, as `"EPERM"`; `"E<number>"` where it has no name here. */
  readonly code: string;
  /** The positive errno; for a library that cannot be loaded ELIBACC, ELIBBAD or EACCES. */
  readonly errno: number;
  /** The call that failed, as `"epoll_ctl"`. */
  readonly syscall: string;

  /**
   * Describes a failed system call.
   *
   * @param what what could not be done, as `"Cannot watch fd 7"`
   * @param syscall the call that failed
   * @param errno its positive errno
   * @param advice what to do about it, where the usual advice does not fit
   */
  constructor(what: string, syscall: string, errno: number, advice?: string) {
    const code = errnoName(errno);
    const hint = advice ?? ADVICE[code];
    super(`${what} as ${syscall} failed: ${code}${hint === undefined ? "" : ` (${hint})`}`);
    this.code = code;
    this.errno = errno;
    this.syscall = syscall;
  }
}

/** The name of a positive errno, as `"EINVAL"`, or `"E<number>"`. */
export function errnoName(errno: number): string {
  return NAMES.get(errno) ?? `E${errno}`;
}

/** Passes a result through, or throws when it is -errno. */
export function check(result: number, what: string, syscall: string): number {
  if (result < 0) throw new AioError(what, syscall, -result);
  return result;
}
