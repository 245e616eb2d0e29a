/** SignalFd: signals sent to the process arrive in it, wherever they hit, and belong to Deno again. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { SignalFd, type SignalInfo } from "../src/io/signal_fd.ts";
import { AioError } from "../mod.ts";
import { importLine, programWords, run } from "./child.ts";
import { eachFdmon } from "./each_fdmon.ts";
import { countingFds } from "./open_files.ts";
import { pollUntil } from "./poll_until.ts";
import { anyValue, Random } from "./random_values.ts";

const SEED = Number(Deno.env.get("AIO_TEST_SEED") ?? Math.floor(Math.random() * 2 ** 32));
const LOST_MS = 20_000;

/** A SignalFd and what it needs, for programs of their own. */
const PROGRAM = `${importLine("SignalFd", "src/io/signal_fd.ts")}
const waitFor = async (signals) => {
  for (const end = Date.now() + ${LOST_MS}; Date.now() < end;) {
    const info = signals.read();
    if (info !== null) return info.signal;
    await new Promise((resolve) => setImmediate(resolve));
  }
};
`;

eachFdmon(
  "SignalFd.read: signals of this process and of others, and their senders",
  (makeContext) => {
    using ctx = makeContext();
    using signals = new SignalFd(["SIGUSR1", "SIGUSR2", "SIGTERM", "SIGCHLD"]);
    const arrived: SignalInfo[] = [];
    ctx.setFdHandler(signals.fd, { ioRead: () => arrived.push(signals.read()!) });
    const uid = Deno.uid()!;
    for (const signal of ["SIGUSR2", "SIGTERM", "SIGUSR1"] as const) {
      Deno.kill(Deno.pid, signal);
      pollUntil(ctx, () => arrived.length > 0);
      assertEquals(arrived.splice(0), [{ signal, pid: Deno.pid, uid }]);
    }
    assertEquals(signals.read(), null);
    // A shell that sends one and ends, which is one more.
    const args = ["-c", 'kill -USR1 "$0"; echo $$', `${Deno.pid}`];
    const { stdout } = new Deno.Command("sh", { args }).outputSync();
    const pid = Number(new TextDecoder().decode(stdout));
    pollUntil(ctx, () => arrived.length > 1);
    arrived.sort((a, b) => a.signal < b.signal ? -1 : 1);
    assertEquals(arrived, [{ signal: "SIGCHLD", pid, uid }, { signal: "SIGUSR1", pid, uid }]);
    ctx.setFdHandler(signals.fd, null);
  },
);

Deno.test("SignalFd.read: in the order in which they came, none merged", async () => {
  // A program of its own has one thread to whom signals go first.
  const { stdout, code } = await run(programWords(`${PROGRAM}
    using signals = new SignalFd(["SIGUSR1", "SIGUSR2"]);
    const sent = Array.from({ length: 300 }, (_, at) => at % 3 === 0 ? "SIGUSR1" : "SIGUSR2");
    for (const signal of sent) Deno.kill(Deno.pid, signal);
    const read = [];
    for (let info; (info = signals.read()) !== null;) read.push(info.signal);
    console.log(JSON.stringify(read) === JSON.stringify(sent), read.length);`));
  assertEquals([code, stdout], [0, "true 300\n"]);
});

Deno.test("SignalFd: children are born with no signal blocked, and die of SIGTERM", async () => {
  using signals = new SignalFd(["SIGTERM", "SIGUSR1"]);
  const { stdout } = new Deno.Command("cat", { args: ["/proc/self/status"] }).outputSync();
  const status = new TextDecoder().decode(stdout);
  assertEquals(/SigBlk:\s*(\w+)/.exec(status)![1], "0".repeat(16));
  const child = new Deno.Command("sleep", { args: ["60"] }).spawn();
  child.kill("SIGTERM");
  assertEquals((await child.status).signal, "SIGTERM");
  assertEquals(signals.read(), null);
});

Deno.test("SignalFd: once disposed a signal has its usual effect", async () => {
  const { stdout, code } = await run(programWords(`${PROGRAM}
    const signals = new SignalFd(["SIGUSR2"]);
    Deno.kill(Deno.pid, "SIGUSR2");
    console.log(await waitFor(signals));
    signals[Symbol.dispose]();
    Deno.kill(Deno.pid, "SIGUSR2");
    await waitFor({ read: () => null });
    console.log("it goes on");`));
  assertEquals([stdout, code], ["SIGUSR2\n", 128 + 12]);
});

/** Waits until a listener of Deno has been called so often. */
async function waitForCount(count: () => number, wanted: number): Promise<void> {
  for (const endMs = Date.now() + LOST_MS; count() < wanted;) {
    assert(Date.now() < endMs, "a signal was lost");
    await new Promise((resolve) => setImmediate(resolve));
  }
}

Deno.test("SignalFd: takes signals from listeners of Deno and gives them back", async () => {
  let heard = 0;
  const listener = () => heard++;
  Deno.addSignalListener("SIGUSR2", listener);
  for (let round = 1; round <= 3; round++) {
    Deno.kill(Deno.pid, "SIGUSR2");
    await waitForCount(() => heard, 2 * round - 1);
    const signals = new SignalFd(["SIGUSR2"]);
    Deno.kill(Deno.pid, "SIGUSR2");
    let reads = 0;
    await waitForCount(() => reads += signals.read() === null ? 0 : 1, 1);
    signals[Symbol.dispose]();
    assertEquals(heard, 2 * round - 1, "it was not for the listener");
    Deno.kill(Deno.pid, "SIGUSR2");
    await waitForCount(() => heard, 2 * round);
  }
  Deno.removeSignalListener("SIGUSR2", listener);
});

Deno.test("SignalFd: a listener that Deno adds while it is open hears too, and goes on", async () => {
  // Deno takes a signal from the system once in a process, hence a program of its own.
  const { stdout, code } = await run(programWords(`${PROGRAM}
    const { promise: first, resolve } = Promise.withResolvers();
    const next = Promise.withResolvers();
    let heard = 0;
    for (let round = 0; round < 2; round++) {
      const signals = new SignalFd(["SIGUSR2"]);
      if (round === 0) {
        Deno.addSignalListener("SIGUSR2", () => ++heard === 1 ? resolve() : next.resolve());
      }
      Deno.kill(Deno.pid, "SIGUSR2");
      console.log(await waitFor(signals));
      if (round === 0) await first;
      signals[Symbol.dispose]();
    }
    console.log("heard", heard);
    Deno.kill(Deno.pid, "SIGUSR2");
    await next.promise;
    console.log("heard", heard);
    Deno.exit();`));
  assertEquals([stdout, code], ["SIGUSR2\nSIGUSR2\nheard 1\nheard 2\n", 0]);
});

Deno.test("SignalFd: Deno does not end the process when it comes to take a signal later", async () => {
  // It does by itself when it looks for updates; a listener that is added has it do the same.
  for (const [signal, number] of [["SIGTERM", 15], ["SIGINT", 2], ["SIGHUP", 1], ["SIGUSR1", 10]]) {
    const { stdout, code } = await run(programWords(`${PROGRAM}
      const signals = new SignalFd(["${signal}"]);
      const listener = () => {};
      Deno.addSignalListener("${signal}", listener);
      Deno.removeSignalListener("${signal}", listener);
      Deno.kill(Deno.pid, "${signal}");
      console.log(await waitFor(signals));
      // Time for who has heard of it too.
      for (let turn = 0; turn < 1000; turn++) await new Promise((resolve) => setImmediate(resolve));
      console.log("it goes on");
      signals[Symbol.dispose]();
      Deno.kill(Deno.pid, "${signal}");
      await waitFor({ read: () => null });`));
    assertEquals([stdout, code], [`${signal}\nit goes on\n`, 128 + Number(number)]);
  }
});

Deno.test(
  "SignalFd: a signal belongs to one at a time; who fails to get it takes none",
  countingFds(() => {
    const first = new SignalFd(["SIGUSR1", "SIGUSR1"]);
    for (const order of [["SIGUSR1", "SIGUSR2"], ["SIGUSR2", "SIGUSR1"]] as const) {
      assertThrows(
        () => new SignalFd(order),
        AioError,
        "Cannot take SIGUSR1 as sigaction failed: EBUSY (another SignalFd has taken it)",
      );
    }
    new SignalFd(["SIGUSR2"])[Symbol.dispose]();
    first[Symbol.dispose]();
    first[Symbol.dispose]();
    using second = new SignalFd(["SIGUSR1"]);
    // A disposed one must not give back what is no longer its own.
    first[Symbol.dispose]();
    assertThrows(() => new SignalFd(["SIGUSR1"]), AioError, "EBUSY");
    assertEquals(second.read(), null);
    assertThrows(() => first.fd, TypeError, "Cannot use signals as it is disposed");
    assertThrows(() => first.read(), TypeError, "Cannot use signals as it is disposed");
  }),
);

Deno.test(
  "SignalFd: refuses what is no signal, and signals that nobody can take",
  countingFds(() => {
    const refused = ["SIGKILL", "SIGSTOP", "SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGTRAP"];
    for (const name of [...refused, "SIGSYS", "SIGUNUSED"]) {
      const signals = ["SIGUSR1", name as Deno.Signal];
      assertThrows(() => new SignalFd(signals as Deno.Signal[]), TypeError, "for the system alone");
    }
    for (const name of ["SIGBREAK", "SIGINFO", "sigusr1", "USR1", "", "toString", 10, null, {}]) {
      const signals = [name] as Deno.Signal[];
      assertThrows(() => new SignalFd(signals), TypeError, "there is none of that name");
    }
    assertThrows(() => new SignalFd([]), TypeError, "there is none in the array");
    for (const signals of ["SIGUSR1", 10, null, { length: 1 }]) {
      assertThrows(
        () => new SignalFd(signals as unknown as Deno.Signal[]),
        TypeError,
        "they are no array",
      );
    }
  }),
);

Deno.test(
  `SignalFd: any values do no harm (AIO_TEST_SEED=${SEED})`,
  countingFds(() => {
    const random = new Random(SEED);
    for (let round = 0; round < 2000; round++) {
      try {
        const value = random.once(2) ? anyValue(random) : [anyValue(random), anyValue(random)];
        new SignalFd(value as Deno.Signal[])[Symbol.dispose]();
      } catch (error) {
        assert(error instanceof Error);
      }
    }
    using _ = new SignalFd(["SIGUSR1", "SIGUSR2"]);
  }),
);
