/** The command `doctor`, run as a user would where something is missing and where nothing is. */
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { Errno } from "../ffi/errno.ts";
import { diagnoseProcessors } from "../src/cli/doctor_processors.ts";
import { shimOrigin } from "../ffi/library.ts";
import { after, cliWords, type Environment } from "./child.ts";
import { importLine, newFolder, programWords, run } from "./child.ts";
import { onIoUring } from "./each_fdmon.ts";
import type { Refusals } from "./seccomp.ts";

const FEATURES = [
  "EXT_ARG",
  "COOP_TASKRUN",
  "TASKRUN_FLAG",
  "SINGLE_ISSUER",
  "DEFER_TASKRUN",
  "NO_IOWAIT",
];
const SECTIONS = ["System", "Libraries", "io_uring", "Limits", "Backend", "What to do"];
const ESCAPE = "\x1b[";

const SECCOMP_ADVICE = "io_uring is off: run the container with a seccomp profile that allows " +
  "io_uring_setup, io_uring_enter and io_uring_register " +
  "(docker run --security-opt seccomp=FILE)";

/** Types by name, nested like the report; "?" marks what JSON may have as null. */
type Shape = string | { readonly [key: string]: Shape };

const LIMIT = { soft: "number?", hard: "number?" };
const REPORT: Shape = {
  system: { kernel: "string", processors: "number", arch: "string", deno: "string" },
  processors: { allowed: "list", cores: "list", quota: "number?" },
  shim: { path: "string", origin: "string", sha256: "string", error: "string?" },
  liburing: { path: "string", version: "string?", error: "string?" },
  ioUring: {
    error: "string?",
    disabledSysctl: "number?",
    seccompFilter: "boolean?",
    features: Object.fromEntries(FEATURES.map((name) => [name, "string"])),
  },
  limits: { openFiles: LIMIT, lockedMemoryBytes: LIMIT },
  backend: { name: "string", reason: "string" },
  missingPermissions: "strings",
  advice: "strings",
};

/** Runs the command in a process that has lost system calls. */
const REFUSED_TEXT = `${importLine("main", "src/cli/main.ts")}
${importLine("refuseSystemCalls", "tests/seccomp.ts")}
const [refusals, ...args] = Deno.args;
refuseSystemCalls(JSON.parse(refusals));
Deno.exit(await main(["doctor", ...args]));`;
const REFUSED = programWords(REFUSED_TEXT);

/** Runs words that print a report as JSON. */
async function report(words: readonly string[], env: Environment = {}) {
  const { code, stdout, stderr } = await run(words, env);
  assertEquals(stderr, "");
  const found = JSON.parse(stdout);
  assertEquals(found.advice, [...new Set(found.advice)], "advice is given once");
  return { code, ...found };
}

function reportRefused(refusals: Refusals) {
  return report([...REFUSED, JSON.stringify(refusals), "--json"]);
}

function requireShape(value: unknown, shape: Shape, path: string): void {
  if (typeof shape === "object") {
    const fields = value as Record<string, unknown>;
    assertEquals(Object.keys(fields), Object.keys(shape), path);
    for (const key of Object.keys(shape)) requireShape(fields[key], shape[key], `${path}.${key}`);
  } else if (shape === "list") {
    assert(Array.isArray(value) && value.length > 0, path);
  } else if (shape === "strings") {
    assert(Array.isArray(value) && value.every((item) => typeof item === "string"), path);
  } else if (value !== null || !shape.endsWith("?")) {
    assertEquals(value === null ? "null" : typeof value, shape.replace("?", ""), path);
  }
}

onIoUring("doctor: says that io_uring works", async () => {
  const { code, stdout, stderr } = await run(cliWords(["doctor"]));
  assertEquals([code, stderr], [0, ""]);
  assertEquals(stdout.split("\n").filter((line) => /^\S/.test(line)), SECTIONS);
  assertMatch(stdout, /^ {2}shim {12}\S+\/shim-\w{16}-\w+\.so \(from package\)$/m);
  assertMatch(stdout, /^ {2}liburing {8}\/\S+liburing\.so\.2\S*$/m);
  assertMatch(stdout, /^ {2}setup {11}works$/m);
  assertMatch(stdout, /^ {2}would use {7}io_uring$/m);
});

Deno.test("doctor --json: has the same keys and types wherever it runs", async () => {
  const { code, ...here } = await report(cliWords(["doctor", "--json"]));
  assertEquals(code, 0);
  requireShape(here, REPORT, "report");
  assertEquals([here.system.kernel, here.system.deno], [Deno.osRelease(), Deno.version.deno]);
  const { code: _, ...elsewhere } = await reportRefused({ io_uring_setup: Errno.ENOSYS });
  requireShape(elsewhere, REPORT, "report");
});

Deno.test("doctor: says which processors may be used, as nproc counts them", async () => {
  const allowed = Number((await run(["nproc"])).stdout);
  const all = await report(cliWords(["doctor", "--json"]));
  assertEquals([all.processors.allowed.length, all.processors.cores.flat().length], [
    allowed,
    allowed,
  ]);
  const first = all.processors.allowed[0];
  const one = await report(["taskset", "-c", `${first}`, ...cliWords(["doctor", "--json"])]);
  assertEquals(one.processors.allowed, [first]);
  assert(one.advice.some((line: string) => line.startsWith("less than two processors")));
});

Deno.test("diagnoseProcessors: advises on shared cores and on a control group's quota", () => {
  const advice: string[] = [];
  const files = (quota: string | null, siblings: string) => (path: string) =>
    path.endsWith("cpu.max") ? quota : siblings;
  const free = diagnoseProcessors(files("max 100000", "own"), []);
  const { allowed } = free;
  assertEquals([free.quota, free.cores], [null, [allowed]]);
  const limited = diagnoseProcessors(files("150000 100000", "one"), advice);
  assertEquals([limited.quota, limited.cores], [1.5, [allowed]]);
  assert(advice.some((line) => /less than two processors|of 1\.5 of/.test(line)));
  assertEquals(allowed!.length > 1, advice.some((line) => line.includes(allowed!.join("+"))));
  assertEquals(diagnoseProcessors(() => null, []).cores, null);
});

for (const code of ["EPERM", "ENOSYS"] as const) {
  Deno.test(`doctor: a seccomp filter that says ${code} is named, and what to do`, async () => {
    const found = await reportRefused({ io_uring_setup: Errno[code] });
    assertEquals([found.code, found.backend.name], [0, "epoll"]);
    assertStringIncludes(found.backend.reason, `io_uring_setup failed: ${code}`);
    assertEquals(found.ioUring.seccompFilter, true);
    assertEquals(
      found.ioUring.error,
      `io_uring_setup says ${code}: a seccomp filter, as containers have by default`,
    );
    for (const name of FEATURES) assertEquals(found.ioUring.features[name], "no: io_uring is off");
    assert(found.advice.includes(SECCOMP_ADVICE), found.advice.join("\n"));
  });
}

Deno.test("doctor: text says the same of a seccomp filter", async () => {
  const { code, stdout } = await run([...REFUSED, JSON.stringify({ io_uring_setup: Errno.EPERM })]);
  assertEquals(code, 0);
  assertMatch(stdout, /^ {2}setup {11}io_uring_setup says EPERM: a seccomp filter/m);
  assertMatch(stdout, /^ {2}seccomp filter {2}yes$/m);
  assertStringIncludes(stdout, `What to do\n  - `);
  assertStringIncludes(stdout, `  - ${SECCOMP_ADVICE}`);
});

Deno.test("doctor: who refuses io_uring is not guessed where Deno may not look", async () => {
  const granted = ["--allow-env", "--allow-ffi", "--allow-read", "--allow-write"];
  const words = programWords(REFUSED_TEXT, granted);
  const found = await report([
    ...words,
    JSON.stringify({ io_uring_setup: Errno.ENOSYS }),
    "--json",
  ]);
  assertEquals([found.code, found.ioUring.error], [0, "io_uring_setup says ENOSYS"]);
  const advice = "io_uring is off: run doctor with --allow-all, which can tell who forbids it";
  assert(found.advice.includes(advice), found.advice.join("\n"));
});

Deno.test("doctor: the memlock limit is named where setup says ENOMEM", async () => {
  const found = await reportRefused({ io_uring_setup: Errno.ENOMEM });
  assertEquals([found.code, found.backend.name], [0, "epoll"]);
  assertEquals(found.ioUring.error, "io_uring_setup says ENOMEM: the memlock limit");
  assert(found.advice.includes("io_uring is off: raise the memlock limit with ulimit -l"));
});

onIoUring("doctor: says so where io_uring can be set up but not entered", async () => {
  const found = await reportRefused({ io_uring_enter: Errno.EPERM });
  assertEquals([found.code, found.backend.name, found.ioUring.error], [0, "epoll", null]);
  assert(found.advice.includes(`io_uring is not used: ${found.backend.reason}`));
});

Deno.test("doctor: fails where neither io_uring nor epoll can be had", async () => {
  const found = await reportRefused({ io_uring_setup: Errno.EPERM, epoll_create1: Errno.EPERM });
  assertEquals([found.code, found.backend.name], [1, "poll"]);
});

Deno.test("doctor: says how to install a liburing that is missing", async () => {
  const folder = newFolder();
  // The loader looks into this folder first and gives up at a file of that name.
  Deno.writeTextFileSync(`${folder}/liburing.so.2`, "");
  const words = cliWords(["doctor", "--json"]);
  const found = await report(words, { LD_LIBRARY_PATH: folder });
  assertEquals([found.code, found.backend.name], [0, "epoll"]);
  assertEquals(found.ioUring.error, "liburing is not loaded");
  assertStringIncludes(found.liburing.error, "apt-get install liburing2");
  assert(found.advice.includes(found.liburing.error));
});

Deno.test("doctor: an own library that is missing fails only its own part", async () => {
  const words = cliWords(["doctor", "--json"]);
  const found = await report(words, { AIO_CONTEXT_SHIM: "/nonexistent" });
  assertEquals([found.code, found.backend], [1, null]);
  assertEquals([found.shim.path, found.shim.origin], ["/nonexistent", "environment"]);
  assertStringIncludes(found.shim.error, "correct the environment variable AIO_CONTEXT_SHIM");
  assert(found.advice.includes(found.shim.error));
  assertEquals(found.liburing.error, null);
});

Deno.test("doctor: a low limit of open files is shown, and who can raise it", async () => {
  const words = after("ulimit -n 256", cliWords(["doctor", "--json"]));
  const found = await report(words);
  assertEquals(found.code, 0);
  assertEquals(found.limits.openFiles, { soft: 256, hard: 256 });
  const advice = found.advice.find((line: string) => line.startsWith("only 256 open files"));
  assertStringIncludes(advice, "have the hard limit raised (ulimit -n as root");
});

const GRANTS: readonly [granted: readonly string[], missing: string][] = [
  [[], "--allow-ffi --allow-read=/ --allow-write=/"],
  [["--allow-env"], "--allow-ffi --allow-read=CACHE --allow-write=CACHE"],
  [["--allow-env", "--allow-ffi"], "--allow-read=CACHE --allow-write=CACHE"],
  [["--allow-env", "--allow-read", "--allow-write", "--allow-ffi=liburing.so.2"], "--allow-ffi"],
];

for (const [granted, missing] of GRANTS) {
  Deno.test(`doctor: lists the flags that ${granted.join(" ") || "no permission"} leaves out`, async () => {
    const cache = newFolder();
    const flags = missing.replaceAll("CACHE", `${cache}/aio-context`);
    const words = cliWords(["doctor", "--json"], granted);
    const found = await report(words, { XDG_CACHE_HOME: cache });
    assertEquals([found.code, found.backend], [1, null]);
    assertEquals(found.missingPermissions, flags.split(" "));
    assertEquals(found.advice.at(-1), `run Deno with ${flags}`);
    const text = await run(cliWords(["doctor"], granted), { XDG_CACHE_HOME: cache });
    assertEquals([text.code, text.stderr], [1, ""]);
    assert(text.stdout.endsWith(`\n  - run Deno with ${flags}\n`), text.stdout);
  });
}

Deno.test("doctor: a grant for the shim alone is not enough, and it says so", async () => {
  const { path } = shimOrigin();
  const words = cliWords(["doctor", "--json"], ["--allow-env", `--allow-ffi=${path}`]);
  const found = await report(words, { AIO_CONTEXT_SHIM: path });
  assertEquals([found.code, found.backend, found.shim.error], [1, null, null]);
  assertEquals(found.advice, ["run Deno with --allow-ffi"]);
});

Deno.test("doctor: the flags it lists are all it takes to have a context", async () => {
  const folder = `${newFolder()}/aio-context`;
  const granted = [
    "--allow-env",
    "--allow-ffi",
    `--allow-read=${folder}`,
    `--allow-write=${folder}`,
  ];
  const env = { XDG_CACHE_HOME: folder.slice(0, folder.lastIndexOf("/")) };
  const found = await report(cliWords(["doctor", "--json"], granted), env);
  assertEquals([found.code, found.missingPermissions], [0, []]);
});

Deno.test("doctor: bad arguments are usage errors", async () => {
  for (const args of [["extra"], ["--nope"], ["--json=1"], ["--for", "run"]]) {
    const { code, stdout, stderr } = await run(cliWords(["doctor", ...args]));
    assertEquals([code, stdout], [2, ""], args.join(" "));
    assertMatch(stderr, /^error: .*\n(.*\n)?\(--help shows what there is\)\n$/);
  }
});

const SCRIPT = await run(["script", "-qec", "true", "/dev/null"]);

Deno.test({
  name: `doctor: has colours at a terminal only${SCRIPT.code === 0 ? "" : " (skipped: no script)"}`,
  ignore: SCRIPT.code !== 0,
  async fn() {
    const words = cliWords(["doctor"]);
    assert(!(await run(words, { NO_COLOR: "" })).stdout.includes(ESCAPE));
    // script(1) gives its command a terminal.
    const atTerminal = (
      words: readonly string[],
    ) => ["script", "-qec", words.join(" "), "/dev/null"];
    assert(!(await run(atTerminal(words), { NO_COLOR: "1" })).stdout.includes(ESCAPE));
    for (const permissions of [["-A"], []]) {
      const coloured = atTerminal(cliWords(["doctor"], permissions));
      const { stdout } = await run(coloured, { NO_COLOR: "" });
      assertStringIncludes(stdout, `${ESCAPE}1mSystem`);
      assertStringIncludes(stdout, "What to do");
    }
  },
});
