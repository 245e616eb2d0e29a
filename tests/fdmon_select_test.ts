/** Which backend a context gets where something is missing, why, and that it works there. */
import { assert, assertEquals } from "@std/assert";
import { closeSync, openSync } from "node:fs";
import { Errno } from "../ffi/errno.ts";
import { SetupFlag } from "../ffi/ring_setup.ts";
import { AioContext, EventNotifier } from "../mod.ts";
import { type Environment, importLine, programWords, run } from "./child.ts";
import { compileLibrary } from "./compile.ts";
import { onIoUring } from "./each_fdmon.ts";
import type { Refusals } from "./seccomp.ts";

// Bits of the features that a setup reports.
const EXT_ARG = 1 << 8, NO_IOWAIT = 1 << 17;

/** What a child prints. */
interface Report {
  readonly fdmon: { readonly name: string; readonly reason: string };
  /** Events of the notifier served, timers fired. */
  readonly served: readonly [events: number, timers: number];
  /** What the fds of rings are links to. */
  readonly rings: readonly string[];
  /** What asking for io_uring by name throws. */
  readonly byName: { name: string; code: string; syscall: string; message: string } | null;
}

const NOT_PERMITTED = "a seccomp filter, as containers have by default, or the sysctl " +
  "kernel.io_uring_disabled forbids it";
const NO_IO_URING = "this kernel has no io_uring, or a seccomp filter hides it";

/**
 * Has system calls refused, makes a context by probing and serves a notifier and a timer with it;
 * prints a Report.
 */
const PROBE = programWords(`${importLine("AioContext, EventNotifier", "mod.ts")}
${importLine("refuseSystemCalls", "tests/seccomp.ts")}
refuseSystemCalls(JSON.parse(Deno.args[0]));
using ctx = new AioContext();
using notifier = new EventNotifier();
let events = 0, timers = 0;
ctx.setFdHandler(notifier.fd, { ioRead: () => notifier.testAndClear() && events++ });
for (let round = 0; round < 3; round++) {
  notifier.set();
  while (events === round) ctx.poll(true);
  ctx.timer(() => timers++).arm(ctx.now() + 1000);
  while (timers === round) ctx.poll(true);
}
let byName = null;
try {
  new AioContext({ fdmon: "io_uring" })[Symbol.dispose]();
} catch ({ name, code, syscall, message }) {
  byName = { name, code, syscall, message };
}
const rings = [...Deno.readDirSync("/proc/self/fd")].map(({ name }) => {
  try {
    return Deno.readLinkSync("/proc/self/fd/" + name);
  } catch {
    return ""; // the fd that reads the folder
  }
}).filter((path) => path.includes("io_uring"));
console.log(JSON.stringify({ fdmon: ctx.fdmon, served: [events, timers], rings, byName }));`);

/** Prints the flags that a ring was set up with. */
const SETUP_FLAGS = programWords(`${importLine("loadLiburing, loadShim", "ffi/library.ts")}
${importLine("Ring", "ffi/ring.ts")}${importLine("System", "ffi/system.ts")}
console.log(new Ring(loadLiburing(), new System(loadShim())).setupFlags);`);

async function probe(refusals: Refusals, env: Environment = {}): Promise<Report> {
  const { code, stdout, stderr } = await run([...PROBE, JSON.stringify(refusals)], env);
  assertEquals([code, stderr], [0, ""]);
  const report: Report = JSON.parse(stdout);
  assertEquals(report.served, [3, 3]);
  assertEquals(report.rings.length, report.fdmon.name === "io_uring" ? 1 : 0, "rings left open");
  return report;
}

/** A liburing as it is on a kernel that lacks setup flags and features. */
function olderLiburing(flags: number, features: number): Promise<string> {
  const text = `#define _GNU_SOURCE
    #include <dlfcn.h>
    #include <errno.h>
    #include <liburing.h>
    int io_uring_queue_init_params(unsigned entries, struct io_uring *ring,
                                   struct io_uring_params *p) {
      int (*real)(unsigned, struct io_uring *, struct io_uring_params *);
      real = dlsym(RTLD_NEXT, "io_uring_queue_init_params");
      if (p->flags & ${flags}u) return -EINVAL;
      int result = real(entries, ring, p);
      p->features &= ~${features}u;
      return result;
    }`;
  return compileLibrary(text, ["-Wl,--no-as-needed", "-l:liburing.so.2", "-ldl"]);
}

onIoUring("selectFdmon: io_uring where nothing is refused", async () => {
  const { fdmon, byName } = await probe({});
  assertEquals(fdmon, { name: "io_uring", reason: "the best there is, and it works" });
  assertEquals(byName, null);
});

const { singleIssuer, deferTaskrun, coopTaskrun, taskrunFlag, cqSize, clamp } = SetupFlag;
const OLDER: readonly [linux: string, lacking: number, setupFlags: number][] = [
  ["5.19", singleIssuer | deferTaskrun, coopTaskrun | taskrunFlag],
  ["5.13", singleIssuer | deferTaskrun | coopTaskrun | taskrunFlag, 0],
];

for (const [linux, lacking, setupFlags] of OLDER) {
  onIoUring(`selectFdmon: io_uring with the setup flags of Linux ${linux}`, async () => {
    const liburing = await olderLiburing(lacking, NO_IOWAIT);
    const env = { AIO_CONTEXT_LIBURING: liburing };
    const { fdmon } = await probe({}, env);
    assertEquals(fdmon.name, "io_uring");
    const { stdout } = await run(SETUP_FLAGS, env);
    assertEquals(Number(stdout), setupFlags | cqSize | clamp);
  });
}

onIoUring("selectFdmon: epoll on a Linux before 5.11, whose waits have no timeout", async () => {
  const liburing = await olderLiburing(0, EXT_ARG);
  const { fdmon, byName } = await probe({}, { AIO_CONTEXT_LIBURING: liburing });
  const message = "Cannot use io_uring as io_uring_setup failed: ENOSYS (needs Linux 5.11)";
  assertEquals(fdmon, { name: "epoll", reason: `no io_uring: ${message}` });
  assertEquals(byName?.message, message);
});

Deno.test("selectFdmon: epoll where liburing is missing; by name it is that error", async () => {
  const { fdmon, byName } = await probe({}, { AIO_CONTEXT_LIBURING: "/nonexistent" });
  const message = "Cannot load liburing from /nonexistent as dlopen failed: ELIBACC (cannot open " +
    "shared object file: No such file or directory; correct the environment variable " +
    "AIO_CONTEXT_LIBURING or unset it)";
  assertEquals(fdmon, { name: "epoll", reason: `no io_uring: ${message}` });
  assertEquals(byName, { name: "AioError", code: "ELIBACC", syscall: "dlopen", message });
});

const REFUSALS: readonly [code: "EPERM" | "ENOSYS" | "ENOMEM" | "EINVAL", advice: string][] = [
  ["EPERM", ` (${NOT_PERMITTED})`],
  ["ENOSYS", ` (${NO_IO_URING})`],
  ["ENOMEM", " (free memory or raise the memlock limit (ulimit -l))"],
  // All the flags were left out one after the other, and it did not help.
  ["EINVAL", ""],
];

for (const [code, advice] of REFUSALS) {
  Deno.test(`selectFdmon: epoll where io_uring_setup is ${code}; by name it is that error`, async () => {
    const { fdmon, byName } = await probe({ io_uring_setup: Errno[code] });
    const message = `Cannot set up io_uring as io_uring_setup failed: ${code}${advice}`;
    assertEquals(fdmon, { name: "epoll", reason: `no io_uring: ${message}` });
    assertEquals(byName, { name: "AioError", code, syscall: "io_uring_setup", message });
  });
}

for (const [call, verb] of [["io_uring_enter", "enter"], ["io_uring_register", "probe"]] as const) {
  onIoUring(
    `selectFdmon: epoll where ${call} alone is EPERM; by name it is that error`,
    async () => {
      const { fdmon, byName } = await probe({ [call]: Errno.EPERM });
      const message = `Cannot ${verb} io_uring as ${call} failed: EPERM (${NOT_PERMITTED})`;
      assertEquals(fdmon, { name: "epoll", reason: `no io_uring: ${message}` });
      assertEquals(byName, { name: "AioError", code: "EPERM", syscall: call, message });
    },
  );
}

Deno.test("selectFdmon: poll where epoll is refused too, with both reasons", async () => {
  const refusals = { io_uring_setup: Errno.ENOSYS, epoll_create1: Errno.EMFILE };
  const { fdmon } = await probe(refusals);
  assertEquals(fdmon, {
    name: "poll",
    reason: "no io_uring: Cannot set up io_uring as io_uring_setup failed: ENOSYS " +
      `(${NO_IO_URING}); no epoll: Cannot make an epoll instance as epoll_create1 failed: EMFILE ` +
      "(raise the limit of open files (ulimit -n) or close some)",
  });
});

Deno.test("fallBackToPoll: an fd that epoll refuses takes a probed context to poll, with all handlers", () => {
  using ctx = new AioContext({ liburing: "/nonexistent" });
  const { name, reason } = ctx.fdmon;
  assertEquals(name, "epoll");
  using before = new EventNotifier();
  using after = new EventNotifier();
  let log = "";
  ctx.setFdHandler(before.fd, { ioRead: () => (before.testAndClear(), log += "before ") });
  const file = openSync(Deno.execPath(), "r");
  try {
    ctx.setFdHandler(file, { ioRead: () => log += "file " });
    assertEquals(ctx.fdmon, {
      name: "poll",
      reason: `${reason}; epoll cannot watch fd ${file}, such as a regular file (EPERM)`,
    });
    ctx.setFdHandler(after.fd, { ioRead: () => (after.testAndClear(), log += "after ") });
    // A regular file is always readable.
    for (const notifier of [before, after]) {
      notifier.set();
      assert(ctx.poll(true));
    }
    assertEquals(log.split(" ").sort().join(" "), " after before file file");
  } finally {
    ctx.setFdHandler(file, null);
    closeSync(file);
  }
});
