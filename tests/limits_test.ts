/** Many handlers at once, and low limits: everything is served exactly once. */
import { assert, assertEquals } from "@std/assert";
import type { AioContext } from "../mod.ts";
import { after, importLine, programWords, run } from "./child.ts";
import { eachFdmon } from "./each_fdmon.ts";
import { libc } from "./libc.ts";
import { asOtherUser } from "./mounts.ts";

const EFD_NONBLOCK = 0o4000;
const ONE = new Uint8Array(new BigUint64Array([1n]).buffer);
const NOTHING = new Uint8Array(8);
/** More than the completion queue has places, several times over. */
const MANY = 16_000;
/** More than the submission queue has places, many times over. */
const SEVERAL = 3000;
/** Files that the process needs beside. */
const OTHERS = 500;

const openFilesMax = Number((await run(["sh", "-c", "ulimit -n"])).stdout);

/** Makes eventfds and closes them in the end. */
function withEventfds(count: number, test: (fds: readonly number[]) => void): void {
  const fds = Array.from({ length: count }, () => libc.eventfd(0, EFD_NONBLOCK));
  try {
    assert(fds.every((fd) => fd >= 0), "out of files");
    test(fds);
  } finally {
    for (const fd of fds) libc.close(fd);
  }
}

/** Watches each fd; what is returned counts how often it was served. */
function watchAll(ctx: AioContext, fds: readonly number[]): Int32Array {
  const served = new Int32Array(fds.length);
  for (const [index, fd] of fds.entries()) {
    const ioRead = () => {
      libc.read(fd, NOTHING, 8n);
      served[index]++;
    };
    ctx.setFdHandler(fd, { ioRead });
  }
  return served;
}

/** Polls until all were served, then some more; each must have been served exactly so often. */
function requireServed(ctx: AioContext, served: Int32Array, times: number): void {
  let lost = false;
  const watchdog = ctx.timer(() => lost = true);
  watchdog.arm(ctx.now() + 30e9);
  while (served.some((count) => count < times) && !lost) ctx.poll(true);
  watchdog.cancel();
  for (let extra = 0; extra < 3; extra++) ctx.poll(false);
  const wrong = served.findIndex((count) => count !== times);
  assertEquals(wrong, -1, `handler ${wrong} was served ${served[wrong]} and not ${times} times`);
}

if (openFilesMax >= MANY + OTHERS) {
  eachFdmon(`poll: ${MANY} fds that fire at once are each served once a time`, (makeContext) => {
    withEventfds(MANY, (fds) => {
      using ctx = makeContext();
      const served = watchAll(ctx, fds);
      for (let times = 1; times <= 2; times++) {
        for (const fd of fds) libc.write(fd, ONE, 8n);
        requireServed(ctx, served, times);
      }
      for (const fd of fds) ctx.setFdHandler(fd, null);
      assertEquals(ctx.stats().handlers, 0);
    });
  });
} else {
  Deno.test({
    name: `poll: ${MANY} fds at once (skipped: the limit of open files is ${openFilesMax})`,
    ignore: true,
    fn: () => {},
  });
}

eachFdmon(
  `setFdHandler: ${SEVERAL} added, deleted and added again before a poll`,
  (makeContext) => {
    if (openFilesMax < SEVERAL + OTHERS) throw new Error("raise the limit of open files");
    withEventfds(SEVERAL, (fds) => {
      using ctx = makeContext();
      for (const armedBetween of [false, true]) {
        watchAll(ctx, fds);
        if (armedBetween) ctx.poll(false);
        for (const fd of fds) ctx.setFdHandler(fd, null);
        const served = watchAll(ctx, fds);
        for (const fd of fds) libc.write(fd, ONE, 8n);
        requireServed(ctx, served, 1);
        // All gone, and what they leave behind wakes nobody.
        for (const fd of fds) ctx.setFdHandler(fd, null);
        for (const fd of fds) libc.write(fd, ONE, 8n);
        for (let round = 0; round < 3; round++) assert(!ctx.poll(false));
        for (const fd of fds) libc.read(fd, NOTHING, 8n);
      }
    });
  },
);

/** Makes contexts until that fails, prints the code, and goes on with those that there are. */
const UNTIL_FULL = programWords(`${importLine("AioContext, EventNotifier", "mod.ts")}
const [fdmon] = Deno.args;
const contexts = [], notifiers = [];
let code = "none";
const files = () => [...Deno.readDirSync("/proc/self/fd")].length;
new AioContext({ fdmon })[Symbol.dispose]();
const before = files();
try {
  for (let count = 0; count < 1000; count++) contexts.push(new AioContext({ fdmon }));
} catch (error) {
  code = error.name + " " + error.code;
}
contexts.pop()[Symbol.dispose]();
let served = 0;
for (const ctx of contexts.slice(0, 20)) {
  const fd = contexts[0] === ctx ? (notifiers.push(new EventNotifier()), notifiers[0].fd) : null;
  if (fd !== null) ctx.setFdHandler(fd, { ioRead: () => (notifiers[0].testAndClear(), served++) });
}
notifiers[0].set();
contexts[0].poll(true);
notifiers[0][Symbol.dispose]();
const made = contexts.length;
for (const ctx of contexts) ctx[Symbol.dispose]();
console.log(JSON.stringify({ code, served, leaked: files() - before, enough: made > 3 }));`);

eachFdmon("AioContext: at the limit of open files an error, and no leak", async (_, fdmon) => {
  const { stdout, stderr } = await run(after("ulimit -n 100", [...UNTIL_FULL, fdmon]));
  assertEquals(stderr, "");
  assertEquals(JSON.parse(stdout), {
    code: "AioError EMFILE",
    served: 1,
    leaked: 0,
    enough: true,
  });
});

eachFdmon(
  "AioContext: without memory to lock it works, or says what is missing",
  async (_, fdmon) => {
    const words = asOtherUser(
      after("ulimit -l 0", [...UNTIL_FULL.slice(0, -1), ...UNTIL_FULL.slice(-1), fdmon]),
    );
    const { code, stdout, stderr } = await run(words);
    // Rings of kernels before 5.12 count as locked memory; later ones do not.
    if (code === 0) assertEquals(JSON.parse(stdout).served, 1, stdout);
    else assert(/ENOMEM|unshare/.test(stderr), stderr);
  },
);
