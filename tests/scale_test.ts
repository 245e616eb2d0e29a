/**
 * The command `scale`, run as a user would: its output, its exit codes and what it says of bad
 * arguments. Runs are short, so nothing is asserted about how fast they were.
 */
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { loadShim } from "../ffi/library.ts";
import { DeviceQueue } from "../src/cli/scale_device.ts";
import { bucketOf, GuestCounts, GuestMemory, LATENCY_BUCKETS } from "../src/cli/scale_guest.ts";
import { openBlockFile } from "../src/cli/scale_file.ts";
import { measure, type RunPlan } from "../src/cli/scale_run.ts";

interface Result {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

const MAIN = new URL("../src/cli/main.ts", import.meta.url).pathname;
const FOLDER = Deno.makeTempDirSync({ prefix: "scale_test_" });
const FILE = `${FOLDER}/blocks.img`;
const SHORT = ["--seconds", "0.3", "--idle-seconds", "0.3", "--file", FILE];
const FEW = ["--devices", "2", "--queues", "8"];

Deno.writeFileSync(FILE, crypto.getRandomValues(new Uint8Array(65_536)));
globalThis.addEventListener("unload", () => Deno.removeSync(FOLDER, { recursive: true }));

/** Runs the command line interface, with no more than `openFiles` open files where given. */
async function cli(args: readonly string[], openFiles?: number): Promise<Result> {
  const deno = [Deno.execPath(), "run", "-A", MAIN, ...args];
  const words = openFiles === undefined
    ? deno
    : ["sh", "-c", `ulimit -n ${openFiles} && exec "$0" "$@"`, ...deno];
  const command = new Deno.Command(words[0], {
    args: words.slice(1),
    stdin: "null",
    env: { NO_COLOR: "1" },
  });
  const { code, stdout, stderr } = await command.output();
  const decoder = new TextDecoder();
  return { code, stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) };
}

/** Runs `scale --json` and returns the parsed report. */
async function report(args: readonly string[]) {
  const { code, stdout, stderr } = await cli(["scale", "--json", ...SHORT, ...args]);
  assertEquals(code, 0, stderr);
  return JSON.parse(stdout);
}

const RUN_KEYS = [
  "idleHandlers",
  "removal",
  "fdmon",
  "poll",
  "iops",
  "usPerRequest",
  "p99Us",
  "kicksPerRequest",
  "syscallsPerRequest",
  "pollShare",
];

Deno.test("scale --json: prints the machine and a run without and with removal", async () => {
  const { machine, runs } = await report(FEW);
  assertEquals(Object.keys(machine), ["cpu", "cpus", "kernel", "memoryGiB"]);
  assertEquals(runs.map((run: { removal: boolean }) => run.removal), [false, true]);
  for (const run of runs) {
    assertEquals(Object.keys(run), RUN_KEYS);
    assertEquals([run.idleHandlers, run.poll], [16, "function"]);
    assert(run.iops > 0 && run.p99Us > 0);
    assert(Math.abs(run.usPerRequest * run.iops - 1e6) < 1, "time and rate do not fit");
    assert(run.kicksPerRequest >= 0 && run.syscallsPerRequest >= 0);
    assert(run.pollShare > 0 && run.pollShare <= 1, `poll share ${run.pollShare}`);
  }
});

for (const fdmon of ["io_uring", "epoll", "poll"]) {
  for (const poll of ["function", "word"]) {
    Deno.test(`scale: completes requests on ${fdmon}, handlers polled by ${poll}`, async () => {
      const { runs } = await report([...FEW, "--removal", "on", "--fdmon", fdmon, "--poll", poll]);
      assertEquals(runs.length, 1);
      assertEquals([runs[0].fdmon, runs[0].poll, runs[0].removal], [fdmon, poll, true]);
      assert(runs[0].iops > 0);
    });
  }
}

for (const [fdmon, idle] of [["io_uring", 19], ["epoll", 5], ["poll", 0]] as const) {
  Deno.test(`scale --vhost: completes requests of disks on ${fdmon}`, async () => {
    const args = ["--vhost", "--devices", `${idle}`, "--queues", "3", "--iodepth", "2"];
    const before = temporaryFiles();
    const { runs } = await report([...args, "--removal", "on", "--fdmon", fdmon]);
    assertEquals(runs.length, 1);
    assertEquals(Object.keys(runs[0]), RUN_KEYS);
    assertEquals([runs[0].idleHandlers, runs[0].fdmon, runs[0].poll], [idle * 3, fdmon, "word"]);
    assert(runs[0].iops > 0 && runs[0].p99Us > 0 && runs[0].kicksPerRequest <= 1);
    // Each request reads its data by a system call.
    assert(runs[0].syscallsPerRequest >= 0.9, `${runs[0].syscallsPerRequest}`);
    // The listeners' handlers cannot be polled, so the others poll for nothing.
    assertEquals(runs[0].pollShare > 0, fdmon === "io_uring");
    assertEquals(temporaryFiles(), before);
  });
}

Deno.test("scale --vhost: too many queues for the limit of open files are refused", async () => {
  const args = ["scale", "--vhost", ...SHORT, "--devices", "10"];
  const { code, stdout, stderr } = await cli(args, 700);
  assertEquals([code, stdout], [1, ""]);
  assertStringIncludes(
    stderr,
    "Cannot add 320 idle handlers as the limit of open files allows 282",
  );
});

Deno.test("scale --vhost: as many as the limit allows can be measured", async () => {
  const queues = ["--vhost", "--devices", "282", "--queues", "1"];
  const args = ["scale", "--json", ...queues, ...SHORT, "--removal", "on"];
  const { code, stdout, stderr } = await cli(args, 100 + 282 * 6);
  assertEquals(code, 0, stderr);
  assertEquals(JSON.parse(stdout).runs[0].idleHandlers, 282);
});

Deno.test("scale --vhost: ends with an error when the guest's process does", async () => {
  const before = temporaryFiles();
  const args = ["run", "-A", MAIN, "scale", "--vhost", "--devices", "1", "--file", FILE];
  const child = new Deno.Command(Deno.execPath(), {
    args: [...args, "--seconds", "60"],
    stdout: "null",
    stderr: "piped",
    env: { NO_COLOR: "1" },
  }).spawn();
  let guest = "";
  for (const end = Date.now() + 30_000; guest === "" && Date.now() < end;) {
    await new Promise((resolve) => setTimeout(resolve, 20));
    guest = Deno.readTextFileSync(`/proc/${child.pid}/task/${child.pid}/children`).trim();
  }
  Deno.kill(Number(guest), "SIGKILL");
  const { code, stderr } = await child.output();
  assertEquals(code, 1);
  assertStringIncludes(
    new TextDecoder().decode(stderr),
    "error: Cannot measure as the guest's process has ended\n",
  );
  assertEquals(temporaryFiles(), before);
});

Deno.test("bucketOf: the quantile of a latency is that latency, to 1.6 %", () => {
  let before = -1;
  for (let ns = 0; ns < 2 ** 33; ns += 1 + Math.floor(ns / 50)) {
    const bucket = bucketOf(ns);
    assert(bucket >= before && bucket < LATENCY_BUCKETS, `${ns} ns in bucket ${bucket}`);
    before = bucket;
    const latencies = new Uint32Array(LATENCY_BUCKETS);
    latencies[bucket] = 1;
    const found = new GuestCounts(0, latencies).quantileNs(0.5);
    assert(Math.abs(found - Math.min(ns, 2 ** 32)) <= ns * 0.016, `${found} instead of ${ns}`);
  }
});

Deno.test("scale: a guest that posts as fast as it is served does not keep the loop", () => {
  for (const poll of ["function", "word"] as const) {
    const memory = new GuestMemory(0);
    const place = memory.busyQueue;
    let reads = 0;
    const read = () => {
      assert(reads++ < 8, "the queue takes what was posted after the call");
      Atomics.add(memory.words, place.avail, 1);
    };
    using queue = new DeviceQueue(memory, place, { read }, poll);
    const handler = queue.handler();
    queue.postEvent();
    handler.ioRead!();
    handler.ioPollReady!();
    assertEquals(queue.used, 2);
  }
});

Deno.test("scale: a window that begins late is as long as asked for", async () => {
  using file = openBlockFile(FILE, 512);
  const plan: RunPlan = {
    idleHandlers: 0,
    removal: false,
    fdmon: undefined,
    poll: "word",
    depth: 1,
    blockSize: 512,
    seconds: 0.1,
    idleSeconds: 0.05,
  };
  let late = false;
  // The loop is held until the window should have been over.
  const onProgress = () => {
    const endMs = performance.now() + 300;
    while (!late && performance.now() < endMs);
    late = true;
  };
  const run = await measure(plan, loadShim(), file, onProgress);
  assert(late && run.iops > 0);
});

Deno.test("scale --devices 0 --iodepth 32 --bs 512: no idle handlers, many small reads", async () => {
  const { runs } = await report(["--devices", "0", "--iodepth", "32", "--bs", "512"]);
  assertEquals(runs[0].idleHandlers, 0);
  assert(runs[0].iops > 0);
});

Deno.test("scale --svg: prints a table with a conclusion and writes a chart", async () => {
  const path = `${FOLDER}/runs.svg`;
  const { code, stdout, stderr } = await cli(["scale", ...FEW, ...SHORT, "--svg", path]);
  assertEquals(code, 0, stderr);
  assertStringIncludes(stdout, "IOPS");
  assertMatch(stdout, /│\s+16 │ off/);
  assertMatch(stdout, /│\s+16 │ on/);
  assertStringIncludes(stdout, "beside 16 idle handlers");
  assertStringIncludes(stdout, path);
  assertMatch(stderr, /^\[1\/2\] 16 idle handlers, removal off\n\[2\/2\] .* removal on\n$/);
  const svg = Deno.readTextFileSync(path);
  assertMatch(svg, /^<svg .*<\/svg>\s*$/s);
  assertStringIncludes(svg, "idle handlers removed");
});

Deno.test("scale --sweep: ends at the limit of open files and says so", async () => {
  const path = `${FOLDER}/sweep.svg`;
  const args = ["scale", "--sweep", "--json", "--removal", "on", ...SHORT, "--svg", path];
  const { code, stdout, stderr } = await cli(args, 350);
  assertEquals(code, 0, stderr);
  const counts = JSON.parse(stdout).runs.map((run: { idleHandlers: number }) => run.idleHandlers);
  assertEquals(counts, [0, 100, 250]);
  assertStringIncludes(stderr, "ends at 250 idle handlers instead of 100000");
  assertMatch(Deno.readTextFileSync(path), /^<svg .*<\/svg>\s*$/s);
});

Deno.test("scale: makes a file where none is given and leaves none behind", async () => {
  const before = temporaryFiles();
  const args = ["scale", ...FEW, "--seconds", "0.1", "--idle-seconds", "0.1", "--removal", "off"];
  const { code, stderr } = await cli(args);
  assertEquals(code, 0, stderr);
  assertEquals(temporaryFiles(), before);
});

function temporaryFiles(): string[] {
  const folder = FOLDER.slice(0, FOLDER.lastIndexOf("/"));
  return Array.from(Deno.readDirSync(folder), (entry) => entry.name)
    .filter((name) => name.startsWith("aio_scale_")).sort();
}

Deno.test("scale: too many idle handlers for the limit of open files are refused", async () => {
  const { code, stdout, stderr } = await cli(["scale", ...SHORT, "--devices", "10"], 300);
  assertEquals([code, stdout], [1, ""]);
  assertEquals(
    stderr,
    "error: Cannot add 320 idle handlers as the limit of open files allows 200: 300 " +
      "(ulimit -n raises it)\n",
  );
});

const BAD_ARGUMENTS: readonly [args: string[], message: string][] = [
  [["--devices", "-1"], "Cannot use --devices -1 as it is not between 0 and 1000000"],
  [["--devices", "1.5"], "Cannot use --devices 1.5 as it is not a whole number"],
  [["--devices", "NaN"], "Cannot use --devices NaN as it is not a whole number"],
  [["--queues", "0"], "Cannot use --queues 0 as it is not between 1 and 1000000"],
  [["--queues", "1e3"], "Cannot use --queues 1e3 as it is not a whole number"],
  [["--devices", "99999", "--queues", "99999"], "as that is more than 1000000 idle handlers"],
  [["--iodepth", "0"], "Cannot use --iodepth 0 as it is not between 1 and 256"],
  [["--iodepth", "257"], "Cannot use --iodepth 257 as it is not between 1 and 256"],
  [["--bs", "4095"], "Cannot use --bs 4095 as it is not a multiple of 512"],
  [["--bs", "99999999999999999999"], "Cannot use --bs 99999999999999999999 as it is not between"],
  [["--seconds", "0"], "Cannot use --seconds 0 as it is not between 0.01 and 3600"],
  [["--seconds", "soon"], "Cannot use --seconds soon as it is not a number of seconds"],
  [["--seconds", "Infinity"], "Cannot use --seconds Infinity as it is not a number of seconds"],
  [["--idle-seconds", "-7"], "Cannot use --idle-seconds -7 as it is not between 0.01 and 3600"],
  [["--removal", "maybe"], "Cannot use --removal maybe as it is not one of off, on, both"],
  [["--fdmon", "select"], "Cannot use --fdmon select as it is not one of io_uring, epoll, poll"],
  [["--poll", "bit"], "Cannot use --poll bit as it is not one of function, word"],
  [["--vhost", "--queues", "257"], "Cannot use --queues 257 as it is not between 1 and 256"],
  [["--vhost", "--poll", "function"], "Cannot use --poll function with --vhost as disks are"],
  [["--sweep", "--devices", "5"], "Cannot use --devices 5 as --sweep chooses the number"],
  [["--svg", ""], 'Cannot use --svg "" as it is not the name of a file'],
  [["--svg", "/nonexistent/a.svg"], "as its folder does not exist"],
  [["--file", "/nonexistent"], "Cannot use --file /nonexistent as ENOENT"],
  [["--file", FOLDER], `Cannot use --file ${FOLDER} as it is not a regular file`],
  [["--file", FILE, "--bs", "131072"], "as it is smaller than one read: 65536 bytes"],
  [["--colour"], "unknown option '--colour'"],
  [["--seconds"], "option '--seconds <number>' argument missing"],
  [["extra"], "too many arguments"],
];

Deno.test("scale: bad arguments are usage errors that name the option and the value", async (t) => {
  for (const [args, message] of BAD_ARGUMENTS) {
    await t.step(args.join(" "), async () => {
      const { code, stdout, stderr } = await cli(["scale", ...args]);
      assertEquals([code, stdout], [2, ""], stderr);
      assertStringIncludes(stderr, `error: `);
      assertStringIncludes(stderr, message);
      assert(!stderr.includes("\n    at "), "a stack trace is not for users");
    });
  }
});

Deno.test("cli: help is printed with an example, and commands are told apart", async () => {
  const help = await cli(["--help"]);
  assertEquals(help.code, 0);
  for (const name of ["scale", "trace", "doctor", "setup"]) {
    assertStringIncludes(help.stdout, name);
    const { code, stdout } = await cli([name, "--help"]);
    assertEquals(code, 0);
    assertMatch(stdout, new RegExp(`Example:\n.* ${name} `));
  }
  const version = await cli(["--version"]);
  assertEquals(version.code, 0);
  assertMatch(version.stdout, /^\d+\.\d+\.\d+\n$/);
  for (const args of [[], ["nope"], ["--nope"]]) {
    const { code, stdout, stderr } = await cli(args);
    assertEquals([code, stdout], [2, ""]);
    assert(stderr !== "");
  }
});
