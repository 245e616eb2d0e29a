/** The command `trace`, run as a user would: the file, the summary, and what can go wrong. */
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { EVENTS_MAX } from "../src/cli/trace_file.ts";
import { cliWords, FOLDER, importLine, type Result, run } from "./child.ts";
import { FDMONS } from "./each_fdmon.ts";
import { namesOf, requireTrace, type TraceEvent } from "./trace_format.ts";

const FILE = `${FOLDER}/blocks.img`;
Deno.writeFileSync(FILE, new Uint8Array(65_536));
const SCALE = ["scale", "--devices", "1", "--queues", "8", "--seconds", "0.2", "--file", FILE];
const SHORT = [...SCALE, "--idle-seconds", "0.05", "--removal", "on"];

let traces = 0;

/** Runs the command; `output` is where its file is to be. */
async function trace(...args: string[]): Promise<Result & { output: string }> {
  const output = `${FOLDER}/trace_${traces++}.json`;
  return { output, ...await run(cliWords(["trace", "--output", output, ...args])) };
}

/** A module of a user's: a context, an fd handler, and after that the text. */
function module(text: string): string {
  const path = Deno.makeTempFileSync({ dir: FOLDER, suffix: ".ts" });
  Deno.writeTextFileSync(
    path,
    `${importLine("AioContext, EventNotifier", "mod.ts")}
    const ctx = new AioContext({ pollParams: { maxNs: 0 } });
    const notifier = new EventNotifier();
    const request = (count: number) => {
      for (let number = 0; number < count; number++) {
        notifier.set();
        ctx.poll(true);
      }
    };
    ctx.setFdHandler(notifier.fd, { ioRead: () => notifier.testAndClear() });
    ${text}`,
  );
  return path;
}

function read(path: string): TraceEvent[] {
  return requireTrace(Deno.readTextFileSync(path));
}

function count(events: readonly TraceEvent[], phase: string, name: string): number {
  return events.filter((event) => event.ph === phase && event.name === name).length;
}

for (const fdmon of FDMONS) {
  Deno.test(`trace --summary scale: a valid file and a table (${fdmon})`, async () => {
    const { code, stdout, stderr, output } = await trace("--summary", ...SHORT, "--fdmon", fdmon);
    assertEquals(code, 0, stderr);
    const events = read(output);
    const slices = namesOf(events, "B");
    for (const name of ["iteration", "wait", "ioRead"]) {
      assert(slices.includes(name), `${name} is not among ${slices}`);
    }
    const instants = namesOf(events, "i");
    assert(instants.includes("poll_add"), `${instants}`);
    const counters = ["handlers", "listed", "ready"].map((name) => `${name} (context 1)`);
    assertEquals(namesOf(events, "C"), counters);
    const names = events.filter(({ ph }) => ph === "M").map(({ args }) => args.name ?? "");
    assertEquals(names.slice(0, 2), [
      SHORT.concat("--fdmon", fdmon).join(" "),
      `context 1 (${fdmon})`,
    ]);
    assertStringIncludes(stdout, "IOPS");
    assertMatch(stdout, /│ wait +│ +[\d,]+ │ +[\d.]+ % │ +[\d.]+ │ +[\d.]+ │/);
    assertMatch(stdout, /│ the rest +│/);
    assertMatch(stdout, /[\d,]+ iterations of [\d.]+ µs in [\d.]+ s, 1 context\./);
    assertMatch(stdout, new RegExp(`^Trace: ${output}, [\\d,]+ events of 1 context;`, "m"));
  });
}

Deno.test("trace MODULE: polling, what it learns and idle removal are in the file", async () => {
  // No block is too long to be polled for, so it polls on a busy machine too.
  const path = module(`
    ctx.setPollParams({ maxNs: 1e9, idleNs: 1e6, weight: 0 });
    const device = new EventNotifier();
    let posted = false;
    ctx.setFdHandler(device.fd, {
      ioRead: () => device.testAndClear(),
      ioPoll: () => posted,
      ioPollReady: () => posted = false,
      ioPollBegin() {},
      ioPollEnd() {},
    });
    ctx.setFdHandler(notifier.fd, null);
    device.set();
    ctx.poll(true);
    posted = true;
    ctx.poll(true);
    const removals = ctx.fdmon.name === "io_uring" ? 1 : 0;
    do {
      ctx.timer(() => {}).arm(ctx.now() + 2e6);
      ctx.poll(true);
    } while (ctx.stats().idleRemovals < removals);
    console.log(removals);`);
  const { code, stdout, stderr, output } = await trace(path);
  assertEquals(code, 0, stderr);
  const events = read(output);
  const slices = namesOf(events, "B");
  for (const name of ["poll mode", "ioPollBegin", "ioPollReady", "ioPollEnd"]) {
    assert(slices.includes(name), `${name} is not among ${slices}`);
  }
  const removed = stdout.startsWith("1") ? ["poll_remove"] : [];
  assertEquals(namesOf(events, "i").filter((name) => name !== "poll_shrink"), [
    "poll_add",
    "poll_grow",
    ...removed,
  ]);
});

Deno.test("trace --json scale: the output is JSON alone, and its shares are all", async () => {
  const { code, stdout, stderr, output } = await trace("--json", "--seconds", "0.05", ...SHORT);
  assertEquals(code, 0, stderr);
  const report = JSON.parse(stdout);
  assertEquals(Object.keys(report), [
    "file",
    "events",
    "limitReached",
    "seconds",
    "contexts",
    "iterations",
    "usPerIteration",
    "outsideShare",
    "tracingShare",
    "parts",
  ]);
  assertEquals([report.file, report.contexts], [output, 1]);
  // The ends of what was open when the recording ended are in the file beyond the events.
  const ends = read(output).filter(({ ph }) => ph !== "M").length - report.events;
  assert(ends >= 0 && ends <= 3, `${ends} ends`);
  let share = 0, us = 0;
  for (const part of report.parts) {
    assertEquals(Object.keys(part), ["part", "times", "share", "meanUs", "usPerIteration"]);
    assert(part.times > 0 && part.meanUs >= 0, part.part);
    share += part.share;
    us += part.usPerIteration;
  }
  assert(Math.abs(share - 1) < 1e-9 && Math.abs(us / report.usPerIteration - 1) < 1e-9);
  assert(report.outsideShare > 0 && report.tracingShare > 0 && report.tracingShare < 1);
  assertStringIncludes(stderr, "IOPS", "what scale prints");
});

Deno.test("trace MODULE: has its arguments, goes on after its end and is traced to its own", async () => {
  const path = module(`
    console.log(JSON.stringify(Deno.args));
    request(10);
    setTimeout(() => {
      using second = new AioContext();
      second.bottomHalf(() => {}, { name: 'a "half"\\n\\ud800' }).schedule();
      second.poll(true);
      request(5);
    }, 20);`);
  const { code, stdout, stderr, output } = await trace(path, "--summary", "two words", "--", "-x");
  assertEquals(code, 0, stderr);
  assertEquals(stdout.split("\n")[0], '["--summary","two words","--","-x"]');
  const events = read(output);
  assertEquals(count(events, "B", "ioRead"), 15);
  assertEquals(count(events, "B", "iteration"), 16);
  const half = events.find(({ ph, name }) => ph === "B" && name === "bottom half")!;
  assertEquals([half.tid, half.args.name], [2, 'a "half"\n\ud800']);
  assert(!stdout.includes("part of an"), "no summary unless asked for");
});

Deno.test("trace MODULE: one that exits or fails is traced up to that, and its code stays", async () => {
  const ends: Readonly<Record<string, [text: string, code: number, message: string]>> = {
    exits: ["Deno.exit(7);", 7, ""],
    "exits in a callback": ["ctx.scheduleOneshot(() => Deno.exit(7)); ctx.poll(true);", 7, ""],
    throws: ['throw new Error("mine");', 1, "mine"],
    "throws later": ['setTimeout(() => { throw new Error("mine"); }, 5);', 1, "mine"],
    rejects: ['Promise.reject(new Error("mine"));', 1, "mine"],
    "throws in a callback": [
      'ctx.scheduleOneshot(() => { throw new Error("mine"); }); ctx.poll(true);',
      1,
      "mine",
    ],
  };
  for (const [what, [text, expected, message]] of Object.entries(ends)) {
    const { code, stderr, output } = await trace(module(`request(10); ${text}`));
    assertEquals(code, expected, what);
    assertStringIncludes(stderr, message);
    assertEquals(count(read(output), "B", "ioRead"), 10, what);
  }
});

Deno.test("trace MODULE: killed at any time, the file is whole", async (t) => {
  const kill = 'Deno.kill(Deno.pid, "SIGKILL");';
  const texts: Readonly<Record<string, string>> = {
    "before anything happened": kill,
    "in a callback": `request(10); ctx.scheduleOneshot(() => { ${kill} }); ctx.poll(true);`,
    "in a nested iteration": `ctx.scheduleOneshot(() => {
      request(10);
      ctx.scheduleOneshot(() => { ${kill} });
      ctx.poll(true);
    });
    ctx.poll(true);`,
    "after more than is written at once": `request(5000); ${kill}`,
  };
  for (const [what, text] of Object.entries(texts)) {
    await t.step(what, async () => {
      const { code, output } = await trace(module(text));
      assertEquals(code, 137);
      const reads = count(read(output), "B", "ioRead");
      if (text.includes("request(10)")) assert(reads >= 9, `${reads} reads`);
      if (text.includes("request(5000)")) assert(reads > 1000, `${reads} reads`);
    });
  }
  await t.step("asleep for ever", async () => {
    const output = `${FOLDER}/asleep.json`;
    const words = cliWords(["trace", "--output", output, module("request(10); ctx.poll(true);")]);
    const [program, ...args] = words;
    const child = new Deno.Command(program, { args, stdout: "null", stderr: "null" }).spawn();
    const asleep = () => {
      try {
        return count(read(output), "B", "ioRead") === 10;
      } catch {
        return false; // Not made yet, or caught in the middle of a write.
      }
    };
    for (let attempt = 0; !asleep(); attempt++) {
      assert(attempt < 3000, "the events before the sleep were not written");
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    child.kill("SIGINT");
    await child.status;
    const events = read(output);
    assertEquals([count(events, "B", "wait"), count(events, "E", "wait")], [11, 11]);
  });
});

Deno.test("trace MODULE: keeps only so many events and says so; the summary counts all", async () => {
  const iterations = EVENTS_MAX / 4;
  const path = module(`for (let number = 0; number < ${iterations}; number++) {
    ctx.scheduleOneshot(() => {});
    ctx.poll(false);
  }`);
  const { code, stdout, stderr, output } = await trace("--json", path);
  assertEquals(code, 0, stderr);
  assertMatch(stderr, /ends after [\d.]+ s as no more than 500,000 events are kept: --after and/);
  const report = JSON.parse(stdout);
  assertEquals([report.events, report.limitReached], [EVENTS_MAX, true]);
  assertEquals(report.iterations, iterations);
  assert(count(read(output), "B", "iteration") < iterations);
});

Deno.test("trace --after --seconds: records that time alone, and lets go of the contexts", async () => {
  const path = module(`
    while (ctx.trace.active) request(1);
    request(1);
    console.log("done");`);
  const { stdout, stderr, output } = await trace("--after", "0.2", "--seconds", "0.1", path);
  assertStringIncludes(stdout, "done", stderr);
  const events = read(output).filter(({ ph }) => ph !== "M");
  assertEquals([events[0].ph, events[0].name], ["B", "iteration"]);
  const lengthUs = events.at(-1)!.ts - events[0].ts;
  assert(lengthUs > 0 && lengthUs <= 100_000, `${lengthUs} µs`);
  assert(count(events, "B", "ioRead") >= 1);
});

Deno.test("trace: what cannot be written is said, and does not disturb what is traced", async () => {
  const path = module('request(5000); console.log("done");');
  const words = cliWords(["trace", "--summary", "--output", "/dev/full", path]);
  const { code, stdout, stderr } = await run(words);
  assertEquals([code, stdout], [1, "done\n"]);
  assertMatch(stderr, /^error: Cannot write --output \/dev\/full as No space left on device/m);
});

Deno.test("trace: a module that makes no context is told so, and no file is made", async () => {
  const path = Deno.makeTempFileSync({ dir: FOLDER, suffix: ".ts" });
  Deno.writeTextFileSync(path, "export {};");
  const { code, stdout, stderr, output } = await trace(path);
  assertEquals([code, stdout], [1, ""]);
  assertStringIncludes(stderr, "Nothing was recorded as no AioContext was made");
  assertEquals(await Deno.stat(output).catch(() => null), null);
});

const BAD_ARGUMENTS: readonly [args: string[], message: string][] = [
  [[], "missing required argument 'program'"],
  [["/nonexistent.ts"], "Cannot trace /nonexistent.ts as it is neither scale nor a file"],
  [[""], 'Cannot trace "" as it is neither scale nor a file'],
  [[FOLDER], `Cannot trace ${FOLDER} as it is neither scale nor a file`],
  [["--output", "", "scale"], 'Cannot use --output "" as it is not the name of a file'],
  [["--output", "/nonexistent/t.json", "scale"], "as its folder does not exist"],
  [["--output", FOLDER, "scale"], `Cannot use --output ${FOLDER} as it is a folder`],
  [["--seconds", "soon", "scale"], "Cannot use --seconds soon as it is not a number of seconds"],
  [["--after", "-1", "scale"], "Cannot use --after -1 as it is not a number of seconds"],
  [["--seconds", "1e9", "scale"], "Cannot use --seconds 1e9 as it is not a number of seconds"],
  [["--after", "99999", "scale"], "as it is not a number of seconds up to 86400"],
  [["--colour", "scale"], "unknown option '--colour'"],
  [["scale", "--summary"], "unknown option '--summary'"],
  [["scale", "--devices", "x"], "Cannot use --devices x as it is not a whole number"],
];

Deno.test("trace: bad arguments are usage errors that name the option and the value", async (t) => {
  for (const [args, message] of BAD_ARGUMENTS) {
    await t.step(args.join(" "), async () => {
      const { code, stdout, stderr } = await run(cliWords(["trace", ...args]));
      assertEquals([code, stdout], [2, ""], stderr);
      assertStringIncludes(stderr, "error: ");
      assertStringIncludes(stderr, message);
      assert(!stderr.includes("\n    at "), "a stack trace is not for users");
    });
  }
});

Deno.test("trace --help: has an example and the limit there is", async () => {
  const { code, stdout } = await run(cliWords(["trace", "--help"]));
  assertEquals(code, 0);
  assertMatch(stdout, /Example:\n.* trace --summary .* scale /);
  assertStringIncludes(stdout, `first ${EVENTS_MAX.toLocaleString("en-US")} events`);
});
