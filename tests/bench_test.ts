/** The command `bench`, run as a user would; nothing is asserted about how fast anything was. */
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { BENCH_NAMES } from "../src/cli/bench.ts";
import { cliWords, type Result, run } from "./child.ts";
import { onIoUring } from "./each_fdmon.ts";

function bench(...args: string[]): Promise<Result> {
  return run(cliWords(["bench", ...args]));
}

Deno.test("bench --json: prints the machine and a row for each name", async () => {
  const only = "wake-up,bottom-half,handler-changes,allocation";
  const { code, stdout, stderr } = await bench("--only", only, "--rounds", "2", "--json");
  assertEquals(code, 0, stderr);
  const { machine, rows } = JSON.parse(stdout);
  assertEquals(Object.keys(machine), ["cpu", "cpus", "kernel", "memoryGiB"]);
  assertEquals(
    rows.map((row: { name: string }) => row.name),
    ["wake-up", "bottom-half", "handler-changes", "allocation"],
  );
  for (const row of rows) {
    const keys = ["name", "unit", "ours", "floor", "ratio", "must", "aim", "met"];
    assertEquals(Object.keys(row), keys);
    assertEquals(typeof row.met, "boolean", row.name);
    assert(row.ours >= 0, row.name);
  }
  const [wakeUp, bottomHalf, changes] = rows;
  assert(wakeUp.floor > 0 && wakeUp.ratio > 0);
  assertEquals([bottomHalf.floor, bottomHalf.ratio], [null, null]);
  assertEquals(changes.met, changes.ours >= changes.must);
});

Deno.test("bench: prints a table and its progress", async () => {
  const { code, stdout, stderr } = await bench(
    "--only",
    "poll-nothing, bottom-half, cold-start",
    "--rounds",
    "1",
  );
  assertEquals(code, 0, stderr);
  assertMatch(stdout, /poll-nothing .* ns .* ≤ 500 .* 150 /);
  assertMatch(stdout, /bottom-half .* ≤ 100 /);
  // Compared with an empty process; the bounds are for the time itself.
  assertMatch(stdout, /cold-start .* [\d.]+ │ +[\d.]+ │ ms +│ +[\d.]+ │ +≤ 150 /);
  assertStringIncludes(stderr, "setting up: poll-nothing");
  assertStringIncludes(stderr, "round 1 of 1");
});

onIoUring("bench: reads are measured beside those of C and of Deno", async () => {
  const only = "read-1,read-32,sqe-32,read-deno-1,read-node-32";
  const { code, stdout, stderr } = await bench("--only", only, "--rounds", "1", "--json");
  assertEquals(code, 0, stderr);
  for (const { name, ours, floor, ratio } of JSON.parse(stdout).rows) {
    assert(ours > 0 && floor > 0 && ratio > 0, name);
  }
});

onIoUring("bench: an echo server is measured beside C, Deno and idle connections", async () => {
  const only = "echo,echo-1,echo-deno,idle-connections,idle-connections-busy";
  const { code, stdout, stderr } = await bench("--only", only, "--rounds", "1", "--json");
  assertEquals(code, 0, stderr);
  for (const { name, ours, floor } of JSON.parse(stdout).rows) {
    assert(ours > 0 && (floor > 0 || name === "idle-connections"), name);
  }
});

onIoUring("bench: what an awaited read allocates is neither nothing nor all", async () => {
  const { stdout } = await bench("--only", "read-allocation", "--rounds", "1", "--json");
  const { ours } = JSON.parse(stdout).rows[0];
  // A promise at least, and no buffer.
  assert(ours >= 16 && ours < 4096, `${ours}`);
});

Deno.test("bench: a row that cannot be measured says why, the others are measured", async () => {
  const words = cliWords(["bench", "--only", "idle-16000,bottom-half", "--rounds", "1"]);
  const { code, stdout } = await run(["sh", "-c", 'ulimit -n 2000 && exec "$0" "$@"', ...words]);
  assertEquals(code, 0);
  assertMatch(stdout, /idle-16000 .*\?/);
  assertMatch(stdout, /bottom-half .* (yes|no) /);
  assertMatch(stdout, /^idle-16000: Cannot measure as .*EMFILE/m);
});

Deno.test("bench: bad arguments are usage errors that name the option and the value", async () => {
  const rows: readonly [args: string[], message: string][] = [
    [["--only", "request,nope"], 'Cannot use --only request,nope as "nope" is not one of request'],
    [["--only", ""], 'Cannot use --only  as "" is not one of'],
    [["--rounds", "0"], "Cannot use --rounds 0 as it is not a whole number from 1 to 1000"],
    [["--rounds", "two"], "Cannot use --rounds two as"],
    [["--nope"], "unknown option '--nope'"],
  ];
  for (const [args, message] of rows) {
    const { code, stdout, stderr } = await bench(...args);
    assertEquals([code, stdout], [2, ""], args.join(" "));
    assertStringIncludes(stderr, message);
  }
});

Deno.test("bench --help: lists all rows", async () => {
  const { code, stdout } = await bench("--help");
  assertEquals(code, 0);
  const listed = /Rows:\n([\s\S]*?)\n\n?Example/.exec(stdout)?.[1].split(/[,\s]+/).filter(Boolean);
  assertEquals(listed, [...BENCH_NAMES]);
});
