/** The rows of `bench` that ask about threads and about life in Deno's own loop. */
import { ChildProbe, compileFloor, ProgramProbe } from "./bench_probe.ts";
import type { BenchRow, Figure, Source } from "./bench_rows.ts";

function child(label: string, ...args: string[]): Source {
  return { label, start: (file) => ChildProbe.start(...args as [string], file) };
}

function valueOf(source: Source, name = "value"): Figure {
  return { source, name };
}

const BLOCKED = child("messages between threads that sleep", "round-trip", "blocked");
const SPINNING = child("messages between threads that spin", "round-trip", "spinning");
const POSTED = child("postMessage between Workers", "post-round-trip");
const MESSAGES = child("one-way messages", "messages");
const SCALING = child("reads on two threads", "scaling");
const ATTACHED = child("reads of an attached context", "attached-reads");
const IDLE = child("an attached context, idle", "attached-idle");
const SERVE = child("Deno.serve beside an attached context", "serve");

const ROUND_TRIP_FLOOR: Source = {
  label: "C threads with eventfd and epoll",
  start: async () =>
    new ProgramProbe([await compileFloor("round_trip", ["round_trip.c"], ["-pthread"])]),
};

/** In the order of the table. */
export const THREAD_ROWS: readonly BenchRow[] = [
  {
    name: "message-blocked",
    what: "a call of a blocked IOThread and its result / C with eventfd and epoll",
    unit: "µs",
    ours: valueOf(BLOCKED),
    beside: valueOf(ROUND_TRIP_FLOOR),
    better: "less",
    must: 1.3,
    aim: 1.1,
  },
  {
    name: "message-spinning",
    what: "a call of a spinning IOThread and its result",
    unit: "µs",
    ours: valueOf(SPINNING),
    better: "less",
    must: 2,
    aim: 1,
  },
  {
    name: "message-posted",
    what: "postMessage to a Worker and back / the same",
    unit: "µs",
    ours: valueOf(POSTED),
    beside: valueOf(SPINNING),
    better: "more",
    must: 10,
    aim: 30,
  },
  {
    name: "messages",
    what: "one-way messages to an IOThread",
    unit: "1/s",
    ours: valueOf(MESSAGES),
    better: "more",
    must: 3e6,
    aim: 10e6,
  },
  {
    name: "thread-scaling",
    what: "cached 4 KiB reads on 2 IOThreads / on 1",
    unit: "1/s",
    ours: valueOf(SCALING, "two"),
    beside: valueOf(SCALING, "one"),
    better: "more",
    must: 1.6,
    aim: 1.9,
  },
  {
    name: "attached-read",
    what: "what a cached 4 KiB read takes more in an attached context than by run",
    unit: "µs",
    ours: valueOf(ATTACHED, "added"),
    better: "less",
    must: 3,
    aim: 1.5,
  },
  {
    name: "attached-idle",
    what: "processor that an idle attached context takes",
    unit: "%",
    ours: valueOf(IDLE),
    better: "less",
    must: 0.1,
    aim: 0,
  },
  {
    name: "serve",
    what: "requests of Deno.serve beside an idle attached context / without",
    unit: "1/s",
    ours: valueOf(SERVE, "beside"),
    beside: valueOf(SERVE, "alone"),
    better: "more",
    must: 0.98,
    aim: 1,
  },
];
