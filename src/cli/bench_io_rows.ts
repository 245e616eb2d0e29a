/**
 * The rows of `bench` that ask about files and sockets: what a request or a message costs beside C,
 * fio and Deno.
 *
 * A source of ours is shared by all rows that compare it with something else.
 */
import { requireDirect } from "./bench_direct.ts";
import { startEcho, startIdle } from "./bench_echo.ts";
import {
  DENO_ECHO,
  denoReads,
  ECHO_FLOOR,
  ECHO_FLOOR_1,
  fioFloor,
  readFloor,
} from "./bench_floors.ts";
import { ChildProbe } from "./bench_probe.ts";
import type { BenchRow, Figure, Source } from "./bench_rows.ts";

function cachedReads(depth: number): Source {
  return {
    label: `awaited reads, depth ${depth}`,
    start: (file) => ChildProbe.start("read", `${depth}`, "cached", file),
  };
}

function directReads(depth: number): Source {
  return {
    label: `awaited reads around the page cache, depth ${depth}`,
    start: async (file) => {
      requireDirect(file);
      return await ChildProbe.start("read", `${depth}`, "direct", file);
    },
  };
}

const SQES_32: Source = {
  label: "reads by addSqe, depth 32",
  start: (file) => ChildProbe.start("sqe", "32", file),
};

const ALLOCATION: Source = {
  label: "heap of awaited reads",
  start: (file) => ChildProbe.start("read-allocation", file),
};

function startServer(path: string): Promise<ChildProbe> {
  return ChildProbe.start("echo", path);
}

const ECHO: Source = { label: "echo server", start: () => startEcho(startServer) };
const ECHO_1: Source = { label: "echo server, depth 1", start: () => startEcho(startServer, 1) };
const IDLE: Source = { label: "10,000 idle connections", start: () => startIdle(startServer) };

const READS_1 = cachedReads(1), READS_32 = cachedReads(32);
const FLOOR_32 = readFloor(32);

function usOf(source: Source): Figure {
  return { source, name: "usPerRequest" };
}

function iopsOf(source: Source): Figure {
  return { source, name: "iops" };
}

function messagesOf(source: Source): Figure {
  return { source, name: "messagesPerSecond" };
}

/** In the order of the table. */
export const IO_ROWS: readonly BenchRow[] = [
  {
    name: "read-1",
    what: "an awaited read of the page cache, depth 1 / C loop",
    unit: "µs",
    ours: usOf(READS_1),
    beside: usOf(readFloor(1)),
    better: "less",
    must: 1.4,
    aim: 1.15,
  },
  {
    name: "read-32",
    what: "the same, depth 32 / C loop",
    unit: "µs",
    ours: usOf(READS_32),
    beside: usOf(FLOOR_32),
    better: "less",
    must: 2,
    aim: 1.4,
  },
  {
    name: "sqe-32",
    what: "the same by addSqe and callbacks, depth 32 / C loop",
    unit: "µs",
    ours: usOf(SQES_32),
    beside: usOf(FLOOR_32),
    better: "less",
    must: 1.4,
    aim: 1.1,
  },
  {
    name: "read-deno-1",
    what: "awaited reads of the page cache, depth 1 / Deno's FsFile.read",
    unit: "1/s",
    ours: iopsOf(READS_1),
    beside: iopsOf(denoReads(1, "FsFile")),
    better: "more",
    must: 4,
    aim: 10,
  },
  {
    name: "read-deno-32",
    what: "the same, depth 32 / Deno's FsFile.read",
    unit: "1/s",
    ours: iopsOf(READS_32),
    beside: iopsOf(denoReads(32, "FsFile")),
    better: "more",
    must: 6,
    aim: 10,
  },
  {
    name: "read-node-1",
    what: "the same, depth 1 / Deno's fs.read of node:fs",
    unit: "1/s",
    ours: iopsOf(READS_1),
    beside: iopsOf(denoReads(1, "fs")),
    better: "more",
    must: 4,
    aim: null,
  },
  {
    name: "read-node-32",
    what: "the same, depth 32 / Deno's fs.read of node:fs",
    unit: "1/s",
    ours: iopsOf(READS_32),
    beside: iopsOf(denoReads(32, "fs")),
    better: "more",
    must: 4,
    aim: null,
  },
  {
    name: "direct-1",
    what: "awaited reads with O_DIRECT, depth 1 / fio",
    unit: "1/s",
    ours: iopsOf(directReads(1)),
    beside: iopsOf(fioFloor(1)),
    better: "more",
    must: 0.95,
    aim: 1,
  },
  {
    name: "direct-32",
    what: "the same, depth 32 / fio",
    unit: "1/s",
    ours: iopsOf(directReads(32)),
    beside: iopsOf(fioFloor(32)),
    better: "more",
    must: 0.95,
    aim: 1,
  },
  {
    name: "read-allocation",
    what: "heap allocated by an awaited read",
    unit: "B",
    ours: { source: ALLOCATION, name: "value" },
    better: "less",
    must: 300,
    aim: 100,
  },
  {
    name: "echo",
    what: "unix-socket echo, 64 connections, 64 B / C server",
    unit: "1/s",
    ours: messagesOf(ECHO),
    beside: messagesOf(ECHO_FLOOR),
    better: "more",
    must: 0.85,
    aim: 1.2,
  },
  {
    name: "echo-1",
    what: "an exchange of one connection / C server, which sleeps for each",
    unit: "µs",
    ours: { source: ECHO_1, name: "usPerMessage" },
    beside: { source: ECHO_FLOOR_1, name: "usPerMessage" },
    better: "less",
    must: 1.2,
    aim: 0.8,
  },
  {
    name: "echo-deno",
    what: "the same / Deno.listen",
    unit: "1/s",
    ours: messagesOf(ECHO),
    beside: messagesOf(DENO_ECHO),
    better: "more",
    must: 1.3,
    aim: 2,
  },
  {
    name: "idle-connections",
    what: "memory of 10,000 idle connections",
    unit: "MB",
    ours: { source: IDLE, name: "memoryMB" },
    better: "less",
    must: 40,
    aim: 15,
  },
  {
    name: "idle-connections-busy",
    what: "messages of one beside 10,000 idle connections / alone",
    unit: "1/s",
    ours: { source: IDLE, name: "beside" },
    beside: { source: IDLE, name: "alone" },
    better: "more",
    must: 0.95,
    aim: 0.99,
  },
];
