/**
 * What files and sockets of ours are measured against: C programs, fio, and Deno itself.
 *
 * One source for each, so that rows that ask for the same process share it.
 */
import { FioProbe } from "./bench_direct.ts";
import { startEcho } from "./bench_echo.ts";
import { ChildProbe, compileFloor, ProgramProbe } from "./bench_probe.ts";
import type { Source } from "./bench_rows.ts";
import { READ_SECONDS } from "./bench_window.ts";

/** Reads from the page cache by a C loop with liburing. */
export function readFloor(depth: number): Source {
  return {
    label: `C loop with liburing, depth ${depth}`,
    async start(file) {
      const program = await compileFloor("read_floor", ["read_floor.c"], [], ["-luring"]);
      const args = ["--file", file, "--iodepth", `${depth}`, "--seconds", `${READ_SECONDS}`];
      return new ProgramProbe([program, ...args]);
    },
  };
}

/** Reads around the page cache by fio. */
export function fioFloor(depth: number): Source {
  return { label: `fio, depth ${depth}`, start: (file) => FioProbe.start(file, depth) };
}

/** Reads from the page cache by Deno. */
export function denoReads(depth: number, way: "FsFile" | "fs"): Source {
  return {
    label: `reads by ${way}.read of Deno, depth ${depth}`,
    start: (file) => ChildProbe.start("read-deno", `${depth}`, way, file),
  };
}

/** An echo server in C with epoll. */
export const ECHO_FLOOR: Source = echoFloor("C echo server with epoll");
export const ECHO_FLOOR_1: Source = echoFloor("the same with one connection", 1);

function echoFloor(label: string, connections?: number): Source {
  return {
    label,
    async start() {
      const program = await compileFloor("echo_floor", ["echo_floor.c"]);
      const startServer = (path: string) => ChildProbe.startProgram(program, "--socket", path);
      return await startEcho(startServer, connections);
    },
  };
}

/** An echo server with Deno.listen. */
export const DENO_ECHO: Source = {
  label: "echo server of Deno",
  start: () => startEcho((path) => ChildProbe.start("echo-deno", path)),
};
