/** The trace file is whole after every write, and a summary's times add up. */
import { assert, assertEquals } from "@std/assert";
import { type TraceArguments, TraceFile } from "../src/cli/trace_file.ts";
import { type Scope, Summary, summaryTable } from "../src/cli/trace_summary.ts";
import { FOLDER } from "./child.ts";
import { requireTrace } from "./trace_format.ts";

const NONE: TraceArguments = {};
const LIMIT = 1000;

function makeFile(name: string, limit = LIMIT): { path: string; file: TraceFile } {
  const path = `${FOLDER}/${name}.json`;
  return { path, file: new TraceFile(path, 1e9, 'a "program"', limit) };
}

Deno.test("TraceFile: whole after every write, however many slices are open", () => {
  const { path, file } = makeFile("whole");
  const whole = () => {
    file.flush();
    return requireTrace(Deno.readTextFileSync(path)).length;
  };
  assertEquals(whole(), 1);
  const first = file.addTrack("first"), second = file.addTrack("second");
  assertEquals(whole(), 5);
  let nowNs = 1e9;
  const scopes: Scope[] = ["iteration", "ioPollReady"];
  // Deeper and deeper, so that each tail is longer than what the next write puts in its place.
  for (let depth = 0; depth < 40; depth++) {
    file.begin(depth % 3 === 0 ? second : first, scopes[depth % 2], nowNs += 1234, NONE);
    whole();
  }
  while (first.open.length + second.open.length !== 0) {
    const track = first.open.length > second.open.length ? first : second;
    file.end(track, track.open.at(-1)!, nowNs += 1, NONE);
    whole();
  }
  file.instant(first, "poll_add", nowNs, { fd: 3 });
  file.counter(second, "ready", nowNs, 2);
  file.close();
  const events = requireTrace(Deno.readTextFileSync(path));
  assertEquals(events.length, 5 + 80 + 2);
  assertEquals(file.events, 82);
  assertEquals([events[5].ts, events[6].ts], [1.234, 2.468]);
  assertEquals(events.at(-1)!.args, { ready: 2 });
});

Deno.test("TraceFile: a slice that has lost its end ends with the one around it", () => {
  const { path, file } = makeFile("lost");
  const track = file.addTrack("context");
  file.begin(track, "iteration", 2e9, NONE);
  file.begin(track, "poll mode", 3e9, NONE);
  file.end(track, "iteration", 4e9, { progress: true });
  file.end(track, "wait", 5e9, NONE);
  file.instant(track, "poll_add", 5e9, NONE);
  file.close();
  const events = requireTrace(Deno.readTextFileSync(path)).filter(({ ph }) => ph !== "M");
  assertEquals(events.map(({ ph, name }) => `${ph} ${name}`), [
    "B iteration",
    "B poll mode",
    "E poll mode",
    "E iteration",
    "i poll_add",
  ]);
  assertEquals(events.map(({ ts }) => ts), [1e6, 2e6, 3e6, 3e6, 4e6]);
});

Deno.test("TraceFile: takes no more events than its limit, and is whole then", () => {
  const { path, file } = makeFile("full", 3);
  const track = file.addTrack("context");
  for (let round = 0; round < 5; round++) {
    file.begin(track, "iteration", 2e9 + round, NONE);
    file.instant(track, "poll_grow", 2e9 + round, NONE);
  }
  assert(file.full);
  file.close();
  const events = requireTrace(Deno.readTextFileSync(path)).filter(({ ph }) => ph !== "M");
  assertEquals(events.map(({ ph }) => ph), ["B", "i", "B", "E", "E"]);
  assertEquals(file.events, 3);
});

Deno.test("Summary: a scope's time is its own, tracing's is nobody's, and all add up", () => {
  const summary = new Summary();
  const steps: readonly [what: "begin" | "end", scope: Scope, atNs: number, tracedNs: number][] = [
    ["end", "wait", 50, 60],
    ["begin", "iteration", 100, 110],
    ["begin", "wait", 120, 125],
    ["end", "wait", 225, 225],
    ["begin", "bottom half", 230, 230],
    ["begin", "iteration", 240, 240],
    ["end", "iteration", 250, 250],
    ["end", "bottom half", 300, 300],
    ["begin", "timer", 310, 310],
    ["end", "iteration", 400, 400],
    ["begin", "iteration", 500, 500],
    ["end", "iteration", 600, 605],
  ];
  for (const [what, scope, atNs, tracedNs] of steps) {
    summary[what](scope, atNs);
    summary.spentTracing(tracedNs);
  }
  const report = summary.report();
  const us = Object.fromEntries(
    report.parts.map(({ part, times, meanUs }) => [part, Math.round(times * meanUs * 1e3)]),
  );
  assertEquals(us, { wait: 100, "bottom half": 60, timer: 90, "the rest": 135 });
  assertEquals(report.parts.map(({ times }) => times), [1, 1, 1, 3]);
  assertEquals([report.iterations, report.seconds], [3, 505e-9]);
  assertEquals(Math.round(report.usPerIteration * 3e3), 385);
  assertEquals(report.outsideShare, 100 / 485);
  assertEquals(report.tracingShare, 20 / 505);
  assert(summaryTable(report).includes("3 iterations of 0.13 µs in 0.00 s"));
});

Deno.test("Summary: nothing recorded is no division by nothing", () => {
  const report = new Summary().report();
  assertEquals(report.parts, []);
  for (const value of Object.values(report)) assert(!Number.isNaN(value));
});
