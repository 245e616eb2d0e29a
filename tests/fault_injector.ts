/**
 * A shim and a liburing whose system calls fail when a test wants them to.
 *
 * Both are compiled from the real thing: the shim from its sources with some libc functions
 * replaced, liburing as a library in front of the system's. A fault makes every nth call fail, as
 * the kernel would make it: what it takes before it fails is taken.
 */
import { sourceFiles } from "../shim/build.ts";
import { compileLibrary } from "./compile.ts";
import { AioContext, type AioContextOptions, type FdmonName } from "../mod.ts";

/** Calls that can fail; in the order of the C text. */
const CALLS = [
  "eventfd",
  "epoll_create1",
  "epoll_ctl",
  "epoll_wait",
  "epoll_pwait2",
  "ppoll",
  "io_uring_setup",
  "io_uring_register",
  "io_uring_enter",
] as const;

/** Name of such a call. */
export type FaultyCall = typeof CALLS[number];

/** Instead of an errno: only one SQE is taken. */
export const PARTIAL = 0;

const COMMON = `
  #define _GNU_SOURCE
  #include <errno.h>
  #include <stdint.h>
  static struct { int32_t every, error, calls, faults; } rules[${CALLS.length}];
  void fault_set(int32_t call, int32_t every, int32_t error) {
    rules[call].every = every;
    rules[call].error = error;
    rules[call].calls = rules[call].faults = 0;
  }
  int32_t fault_count(int32_t call) { return rules[call].faults; }
  static int strikes(int32_t call) {
    if (rules[call].every == 0 || ++rules[call].calls % rules[call].every != 0) return 0;
    rules[call].faults++;
    errno = rules[call].error;
    return 1;
  }`;

const SHIM = new URL("../shim/", import.meta.url).pathname;

const number = (call: FaultyCall) => CALLS.indexOf(call);

const SHIM_TEXT = `${COMMON}
  #include <poll.h>
  #include <stdarg.h>
  #include <sys/epoll.h>
  #include <sys/eventfd.h>
  #include <sys/syscall.h>
  #include <unistd.h>
  static int faulty_eventfd(unsigned value, int flags) {
    return strikes(${number("eventfd")}) ? -1 : eventfd(value, flags);
  }
  static int faulty_create(int flags) {
    return strikes(${number("epoll_create1")}) ? -1 : epoll_create1(flags);
  }
  static int faulty_ctl(int epfd, int op, int fd, struct epoll_event *event) {
    return strikes(${number("epoll_ctl")}) ? -1 : epoll_ctl(epfd, op, fd, event);
  }
  static int faulty_wait(int epfd, struct epoll_event *events, int capacity, int timeout) {
    return strikes(${number("epoll_wait")}) ? -1 : epoll_wait(epfd, events, capacity, timeout);
  }
  /* The shim makes no other call this way than epoll_pwait2. */
  static long faulty_syscall(long call, int epfd, void *events, int capacity, void *timeout,
                             void *mask, int size) {
    if (strikes(${number("epoll_pwait2")})) return -1;
    return syscall(call, epfd, events, capacity, timeout, mask, size);
  }
  static int faulty_ppoll(struct pollfd *fds, nfds_t count, const struct timespec *timeout,
                          const sigset_t *mask) {
    return strikes(${number("ppoll")}) ? -1 : ppoll(fds, count, timeout, mask);
  }
  #define eventfd faulty_eventfd
  #define epoll_create1 faulty_create
  #define epoll_ctl faulty_ctl
  #define epoll_wait faulty_wait
  #define syscall faulty_syscall
  #define ppoll faulty_ppoll
  #include "${SHIM}system.c"`;

/** The rest of the shim, which makes none of these calls. */
const OTHER_SOURCES = sourceFiles(new URL(`file://${SHIM}`))
  .filter((name) => name.endsWith(".c") && name !== "system.c")
  .map((name) => `${SHIM}${name}`);

const LIBURING_TEXT = `${COMMON}
  #include <dlfcn.h>
  #include <liburing.h>
  int io_uring_queue_init_params(unsigned entries, struct io_uring *ring,
                                 struct io_uring_params *params) {
    int (*real)(unsigned, struct io_uring *, struct io_uring_params *) =
      dlsym(RTLD_NEXT, "io_uring_queue_init_params");
    return strikes(${number("io_uring_setup")}) ? -errno : real(entries, ring, params);
  }
  int io_uring_register_probe(struct io_uring *ring, struct io_uring_probe *probe, unsigned count) {
    int (*real)(struct io_uring *, struct io_uring_probe *, unsigned) =
      dlsym(RTLD_NEXT, "io_uring_register_probe");
    return strikes(${number("io_uring_register")}) ? -errno : real(ring, probe, count);
  }
  int io_uring_enter2(unsigned fd, unsigned submit, unsigned complete, unsigned flags,
                      sigset_t *argument, size_t size) {
    int (*real)(unsigned, unsigned, unsigned, unsigned, sigset_t *, size_t) =
      dlsym(RTLD_NEXT, "io_uring_enter2");
    if (!strikes(${number("io_uring_enter")}))
      return real(fd, submit, complete, flags, argument, size);
    int error = errno;
    if (error == 0) return real(fd, submit > 1, 0, flags, argument, size);
    /* These end a wait, which comes after everything was taken. */
    if ((error == EINTR || error == ETIME) && submit > 0)
      return real(fd, submit, 0, flags, argument, size);
    return -error;
  }`;

const shim = await compileLibrary(SHIM_TEXT, ["-O1", ...OTHER_SOURCES]);
const liburing = await compileLibrary(LIBURING_TEXT, [
  "-Wl,--no-as-needed",
  "-l:liburing.so.2",
  "-ldl",
]);

const symbols = {
  // void fault_set(int32_t call, int32_t every, int32_t error)
  fault_set: { parameters: ["i32", "i32", "i32"], result: "void" },
  // int32_t fault_count(int32_t call)
  fault_count: { parameters: ["i32"], result: "i32" },
} as const;

const shimFaults = Deno.dlopen(shim, symbols).symbols;
const liburingFaults = Deno.dlopen(liburing, symbols).symbols;

function faultsOf(call: FaultyCall) {
  return call.startsWith("io_uring") ? liburingFaults : shimFaults;
}

/** Makes every nth call fail from now on, until what is returned is disposed. */
export function inject(call: FaultyCall, every: number, errno: number): Disposable {
  faultsOf(call).fault_set(number(call), every, errno);
  return { [Symbol.dispose]: () => faultsOf(call).fault_set(number(call), 0, 0) };
}

/** How often the call was made to fail since `inject`. */
export function faults(call: FaultyCall): number {
  return faultsOf(call).fault_count(number(call));
}

/** A context whose system calls can be made to fail; on the best backend where none is named. */
export function makeFaulty(fdmon?: FdmonName, options: AioContextOptions = {}): AioContext {
  return new AioContext({ fdmon, shim, liburing, ...options });
}

// Opened here, as they stay open: the sanitizer would blame the first test.
makeFaulty("poll")[Symbol.dispose]();
makeFaulty()[Symbol.dispose]();
