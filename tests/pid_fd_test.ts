/** PidFd: the end of a process is an event, and signals reach that process and no other. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { PidFd } from "../src/io/pid_fd.ts";
import { AioError } from "../mod.ts";
import { eachFdmon } from "./each_fdmon.ts";
import { countingFds } from "./open_files.ts";
import { pollUntil } from "./poll_until.ts";
import { anyValue, Random } from "./random_values.ts";

const SEED = Number(Deno.env.get("AIO_TEST_SEED") ?? Math.floor(Math.random() * 2 ** 32));

/** A child that ends when it is told to. */
function spawn(): Deno.ChildProcess {
  return new Deno.Command("sleep", { args: ["60"] }).spawn();
}

eachFdmon("PidFd: is readable once the process has ended, and stays so", async (makeContext) => {
  using ctx = makeContext();
  const child = spawn();
  using process = new PidFd(child.pid);
  assertEquals([process.pid, process.ended()], [child.pid, false]);
  let events = 0;
  ctx.setFdHandler(process.fd, { ioRead: () => events++ });
  assert(!ctx.poll(false));
  assert(process.signal("SIGTERM"));
  pollUntil(ctx, () => events >= 3);
  assert(process.ended());
  ctx.setFdHandler(process.fd, null);
  assertEquals((await child.status).signal, "SIGTERM");
  assert(process.ended(), "also when nothing is left of it");
});

Deno.test("PidFd.signal: reaches the process; false when it is gone", async () => {
  const child = spawn();
  using process = new PidFd(child.pid);
  for (const signal of ["SIGSTOP", "SIGCONT", "SIGKILL"] as const) assert(process.signal(signal));
  assertEquals((await child.status).signal, "SIGKILL");
  assertEquals(process.signal("SIGTERM"), false);
  assertThrows(
    () => new PidFd(child.pid),
    AioError,
    `Cannot open process ${child.pid} as pidfd_open failed: ESRCH`,
  );
});

Deno.test("PidFd: a process that is no child of ours", () => {
  using init = new PidFd(1);
  assertEquals(init.ended(), false);
});

Deno.test(
  "PidFd: refuses what is no pid and no signal",
  countingFds(() => {
    for (const pid of [0, -1, 1.5, NaN, Infinity, 2 ** 31, 2 ** 53, "1", 1n, null, undefined, {}]) {
      const what = "Cannot open a process as its pid is not a whole number > 0";
      assertThrows(() => new PidFd(pid as number), RangeError, what);
    }
    using process = new PidFd(Deno.pid);
    for (const name of ["SIGBREAK", "TERM", "", 15, 0, null, undefined, {}]) {
      const signal = name as Deno.Signal;
      assertThrows(
        () => process.signal(signal),
        TypeError,
        "Cannot send a signal as there is none",
      );
    }
  }),
);

Deno.test(
  "PidFd: once disposed it refuses every use; disposing twice is harmless",
  countingFds(() => {
    const process = new PidFd(Deno.pid);
    process[Symbol.dispose]();
    process[Symbol.dispose]();
    const uses = [() => process.fd, () => process.ended(), () => process.signal("SIGKILL")];
    const message = `Cannot use process ${Deno.pid} as it is disposed`;
    for (const use of uses) assertThrows(use, TypeError, message);
  }),
);

Deno.test(
  `PidFd: any values do no harm (AIO_TEST_SEED=${SEED})`,
  countingFds(() => {
    const random = new Random(SEED);
    using self = new PidFd(Deno.pid);
    for (let round = 0; round < 2000; round++) {
      try {
        using process = new PidFd(anyValue(random) as number);
        process.ended();
      } catch (error) {
        assert(error instanceof Error);
      }
      assertThrows(() => self.signal(anyValue(random) as Deno.Signal), Error);
    }
  }),
);
