/** The command `trace`, run as a user would; its file follows the rules of the trace event format. */
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { cliWords, FOLDER, importLine, newFolder, type Result, run } from "./child.ts";

interface TraceEvent {
  readonly ph: string;
  readonly name: string;
  readonly pid: number;
  readonly tid: number;
  readonly ts?: number;
  readonly args?: Record<string, unknown>;
}

const FILE = `${FOLDER}/trace_blocks.img`;
Deno.writeFileSync(FILE, crypto.getRandomValues(new Uint8Array(65_536)));

function trace(...args: string[]): Promise<Result> {
  return run(cliWords(["trace", ...args]));
}

/** Reads a trace file and checks it: slices are closed and nested, times are numbers that rise. */
function readTrace(path: string): TraceEvent[] {
  const { traceEvents, displayTimeUnit } = JSON.parse(Deno.readTextFileSync(path));
  assertEquals(displayTimeUnit, "ns");
  const open = new Map<number, string[]>(), last = new Map<number, number>();
  for (const { ph, name, pid, tid, ts } of traceEvents as TraceEvent[]) {
    assert(Number.isInteger(pid) && Number.isInteger(tid), name);
    assert(["B", "E", "i", "C", "M"].includes(ph), ph);
    if (ph === "M") continue;
    assert(Number.isFinite(ts) && ts! >= 0, `${name} at ${ts}`);
    assert(ts! >= (last.get(tid) ?? 0), `${name} at ${ts} after ${last.get(tid)}`);
    last.set(tid, ts!);
    const slices = open.get(tid) ?? [];
    open.set(tid, slices);
    if (ph === "B") slices.push(name);
    if (ph === "E") assertEquals(slices.pop(), name);
  }
  for (const slices of open.values()) assertEquals(slices, []);
  return traceEvents;
}

/** A module that makes contexts of its own. */
function moduleOf(text: string): string {
  const path = `${newFolder()}/program.ts`;
  Deno.writeTextFileSync(path, importLine("AioContext, EventNotifier", "mod.ts") + text);
  return path;
}

const SERVES = `using ctx = new AioContext();
using notifier = new EventNotifier();
ctx.setFdHandler(notifier.fd, { ioRead: () => notifier.testAndClear() });
ctx.bottomHalf(() => {}, { name: "mine" }).schedule();
ctx.timer(() => {}).arm(ctx.now());
for (let event = 0; event < 10; event++) {
  notifier.set();
  ctx.poll(true);
}
ctx.setFdHandler(notifier.fd, null);
console.log("arguments", Deno.args.join(" "));
`;

Deno.test("trace scale: writes slices, instants and counters, and a summary", async () => {
  const path = `${newFolder()}/trace.json`;
  const scale = ["--devices", "2", "--queues", "8", "--removal", "on", "--file", FILE];
  const short = ["--seconds", "0.3", "--idle-seconds", "0.3"];
  const { code, stdout, stderr } = await trace(
    ...["--output", path, "--summary", "scale", ...scale, ...short],
  );
  assertEquals(code, 0, stderr);
  const events = readTrace(path);
  const named = (ph: string) => new Set(events.filter((e) => e.ph === ph).map((e) => e.name));
  for (const name of ["iteration", "wait", "ioRead", "ioPollReady"]) {
    assert(named("B").has(name), `${name} is not among ${[...named("B")]}`);
  }
  assert(named("i").has("poll_add") && named("i").has("poll_remove"), [...named("i")].join());
  assert(named("C").size > 0);
  assertMatch(stdout, /ioPollReady .* %/);
  assertStringIncludes(stdout, path);
});

Deno.test("trace MODULE: runs it with its arguments and traces its contexts", async () => {
  const path = `${newFolder()}/trace.json`;
  const module = moduleOf(SERVES);
  const { code, stdout, stderr } = await trace("--output", path, module, "one", "--two");
  assertEquals(code, 0, stderr);
  assertStringIncludes(stdout, "arguments one --two");
  const begun = readTrace(path).filter(({ ph }) => ph === "B").map(({ name }) => name);
  assertEquals(begun.filter((name) => name === "iteration").length, 10);
  assertEquals(begun.filter((name) => name === "ioRead").length, 10);
});

Deno.test("trace --json: prints the summary for programs", async () => {
  const path = `${newFolder()}/trace.json`;
  const { code, stdout, stderr } = await trace("--output", path, "--json", moduleOf(SERVES));
  assertEquals(code, 0, stderr);
  const summary = JSON.parse(stdout);
  assert(JSON.stringify(summary).includes("ioRead"));
  assertStringIncludes(stderr, "arguments");
});

for (const [how, end] of [["throws", "throw new Error('ended');"], ["exits", "Deno.exit(3);"]]) {
  Deno.test(`trace: the file is whole when the program ${how} inside a callback`, async () => {
    const path = `${newFolder()}/trace.json`;
    const text = `const ctx = new AioContext();
ctx.bottomHalf(() => { ${end} }).schedule();
ctx.poll(true);
`;
    const { code } = await trace("--output", path, moduleOf(text));
    assertEquals(code, how === "exits" ? 3 : 1);
    assert(readTrace(path).some(({ name }) => name.includes("bottomHalf") || name === "iteration"));
  });
}

Deno.test("trace: bad arguments are usage errors or say what cannot be had", async () => {
  const rows: readonly [args: string[], code: number, message: string][] = [
    [[], 2, "missing required argument 'program'"],
    [["--nope", "scale"], 2, "unknown option '--nope'"],
    [["--seconds", "x", "scale"], 2, "Cannot use --seconds x"],
    [["--output", "/nowhere/trace.json", "scale"], 2, "/nowhere/trace.json"],
    [["--output", `${newFolder()}/trace.json`, "scale", "--bs", "7"], 2, "Cannot use --bs 7"],
  ];
  for (const [args, expected, message] of rows) {
    const { code, stderr } = await trace(...args);
    assertEquals(code, expected, `${args.join(" ")}: ${stderr}`);
    assertStringIncludes(stderr, message);
  }
});
