/** What files and sockets are measured against: that it does the work it is timed for. */
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { DENO_ECHO, denoReads, ECHO_FLOOR, fioFloor, readFloor } from "../src/cli/bench_floors.ts";
import { startIdle } from "../src/cli/bench_echo.ts";
import { ChildProbe, compileFloor } from "../src/cli/bench_probe.ts";
import type { Source } from "../src/cli/bench_rows.ts";
import { after, cliWords, FOLDER, importLine, newFolder, programWords, run } from "./child.ts";
import { onIoUring } from "./each_fdmon.ts";
import { afterMounts, testWithMounts } from "./mounts.ts";

const FLOORS = "src/cli/bench_floors.ts";
/** A program that prints the figures of fio for a file, or why there are none. */
const RUN_FIO = importLine("fioFloor", FLOORS) + `
  try {
    await using probe = await fioFloor(4).start(Deno.args[0]);
    console.log(JSON.stringify(await probe.measure()));
  } catch (error) {
    console.log(error.message);
  }`;

const file = Deno.makeTempFileSync({ dir: FOLDER });
Deno.writeFileSync(file, crypto.getRandomValues(new Uint8Array(65_536)));

async function figuresOf(source: Source, path = file) {
  await using probe = await source.start(path);
  return await probe.measure();
}

/** Runs a program where these programs of shell are all that can be found by name. */
function runWith(texts: Readonly<Record<string, string>>, words: readonly string[]) {
  const folder = newFolder();
  for (const [name, text] of Object.entries(texts)) {
    Deno.writeTextFileSync(`${folder}/${name}`, `#!/bin/sh\n${text}\n`, { mode: 0o755 });
  }
  return run(after(`export PATH=${folder}`, words));
}

onIoUring(
  "bench floors: reads by C and by Deno have figures that agree with each other",
  async () => {
    for (
      const source of [readFloor(1), readFloor(32), denoReads(1, "FsFile"), denoReads(32, "fs")]
    ) {
      const { iops, usPerRequest } = await figuresOf(source);
      assert(iops > 0, source.label);
      assert(Math.abs(iops * usPerRequest / 1e6 - 1) < 1e-3, source.label);
    }
  },
);

onIoUring("read_floor: fails where a read does", async () => {
  const program = await compileFloor("read_floor", ["read_floor.c"], [], ["-luring"]);
  const small = Deno.makeTempFileSync({ dir: FOLDER });
  for (const [path, message] of [[small, "smaller than one read"], ["/nonexistent", "No such"]]) {
    const { code, stdout, stderr } = await run([program, "--file", path, "--seconds", "0.1"]);
    assertEquals([code, stdout], [1, ""]);
    assertStringIncludes(stderr, message);
  }
  // Nothing in the file but its first block can be read when the window begins.
  const shrinking = Deno.makeTempFileSync({ dir: FOLDER });
  Deno.truncateSync(shrinking, 1 << 28);
  const child = new Deno.Command(program, {
    args: ["--file", shrinking, "--seconds", "20"],
    stderr: "piped",
  }).spawn();
  // The memory of a process that has ended is empty.
  const mapped = () => Deno.readTextFileSync(`/proc/${child.pid}/maps`);
  for (let maps = mapped(); maps !== "" && !maps.includes("io_uring"); maps = mapped());
  Deno.truncateSync(shrinking, 4096);
  const { code, stderr } = await child.output();
  assertEquals(code, 1);
  assertStringIncludes(new TextDecoder().decode(stderr), "has become shorter");
});

Deno.test("echo_floor: answers 64 connections, as Deno does", async () => {
  for (const source of [ECHO_FLOOR, DENO_ECHO]) {
    assert((await figuresOf(source)).messagesPerSecond > 0, source.label);
  }
});

Deno.test("echo_floor: answers messages larger than any buffer, and many small ones", async () => {
  const [server, client] = await compileEcho();
  const path = `${newFolder()}/echo`;
  await using _server = await ChildProbe.startProgram(server, "--socket", path);
  for (const [connections, bytes] of [[1, 1], [3, 5_000_000], [500, 65_537]]) {
    await using probe = await ChildProbe.startProgram(
      client,
      ...["--socket", path, "--seconds", "0.1"],
      ...["--connections", `${connections}`, "--bytes", `${bytes}`],
    );
    assert((await probe.measure()).messagesPerSecond > 0);
  }
});

async function compileEcho(): Promise<[server: string, client: string]> {
  return [
    await compileFloor("echo_floor", ["echo_floor.c"]),
    await compileFloor("echo_client", ["echo_client.c"]),
  ];
}

Deno.test("echo_client: fails where an answer is wrong, too long or missing", async () => {
  const [, client] = await compileEcho();
  const answers: readonly [answer: (message: Uint8Array) => number[], error: string][] = [
    [([first, ...rest]) => [first, ...rest.slice(1), 1 + rest[0]], "an answer differs"],
    [(message) => [...message, 0], "an answer differs"],
    [() => [], "the server has ended a connection"],
  ];
  for (const [answer, error] of answers) {
    const path = `${newFolder()}/echo`;
    const listener = Deno.listen({ transport: "unix", path });
    const running = run([client, "--socket", path, "--bytes", "8"]);
    const connection = await listener.accept();
    const message = new Uint8Array(8);
    assertEquals(await connection.read(message), 8);
    await connection.write(Uint8Array.from(answer(message)));
    connection.close();
    const { code, stderr } = await running;
    assertEquals(code, 1);
    assertStringIncludes(stderr, error);
    listener.close();
  }
});

Deno.test("startIdle: sees what 10,000 connections of a server take", async () => {
  await using probe = await startIdle((path) => ChildProbe.start("echo-deno", path));
  for (let round = 0; round < 2; round++) {
    const { memoryMB, beside, alone } = await probe.measure();
    // Each has at least a buffer, a promise and a generator of 1 KiB together.
    assert(memoryMB > 10_000 * 1024 / 1e6, `${memoryMB}`);
    assert(beside > 0 && alone > 0);
  }
});

testWithMounts("fio: a file in memory is refused, with what to do", async () => {
  const folder = newFolder();
  const fill = `mount -t tmpfs tmpfs ${folder} && head -c 8192 /dev/zero >${folder}/file`;
  const { stdout } = await run(afterMounts(fill, [...programWords(RUN_FIO), `${folder}/file`]));
  assertEquals(
    stdout,
    "Cannot read the file around the page cache as it is in memory (tmpfs): " +
      "give a --file on a disk, or set TMPDIR to a folder there\n",
  );
});

const onDisk = await run(["stat", "--file-system", "--format=%T", FOLDER]);
const inMemory = onDisk.stdout.startsWith("tmpfs");

Deno.test({
  name: `fio: is asked for what ours does${inMemory ? " (skipped: TMPDIR is in memory)" : ""}`,
  ignore: inMemory,
  fn: async () => {
    const call = `${newFolder()}/call`;
    const answer = '{\n "jobs": [{"read": {"iops": 250}}] }';
    const fio = `echo "$@" >${call}; echo 'a remark'; echo '${answer}'`;
    const { stdout } = await runWith({ fio }, [...programWords(RUN_FIO), file]);
    assertEquals(JSON.parse(stdout), { iops: 250, usPerRequest: 4000 });
    const words = Deno.readTextFileSync(call).trim().split(" ");
    for (
      const word of [
        `--filename=${file}`,
        "--size=65536",
        "--ioengine=io_uring",
        "--rw=randread",
        "--bs=4096",
        "--iodepth=4",
        "--direct=1",
      ]
    ) assert(words.includes(word), word);
  },
});

Deno.test({
  name: `fio: says what it lacks${inMemory ? " (skipped: TMPDIR is in memory)" : ""}`,
  ignore: inMemory,
  fn: async () => {
    const failing =
      "echo 'fio: a remark' >&2; echo 'fio: engine io_uring not loadable, error'; exit 1";
    const cases: readonly [texts: Record<string, string>, message: string][] = [
      [{}, "there is no fio: run the command setup --for bench"],
      [{ fio: failing }, "Cannot measure as fio: engine io_uring not loadable, error"],
      [{ fio: "true" }, "Cannot measure as a process of it has ended"],
    ];
    for (const [texts, message] of cases) {
      const { stdout } = await runWith(texts, [...programWords(RUN_FIO), file]);
      assertEquals(stdout, `${message}\n`);
    }
  },
});

Deno.test({
  name: `bench: what fails later says why too${inMemory ? " (skipped: TMPDIR is in memory)" : ""}`,
  ignore: inMemory,
  fn: async () => {
    // Fails from the third time on: after the trial and the first round.
    const calls = `${newFolder()}/calls`;
    const answer = '{\n "jobs": [{"read": {"iops": 250}}] }';
    const fio =
      `echo >>${calls}; [ $(/usr/bin/wc -l <${calls}) -lt 3 ] || exit 1; echo '${answer}'`;
    const words = cliWords(["bench", "--only", "direct-1,bottom-half", "--rounds", "2"]);
    const { code, stdout } = await runWith({ fio }, [...words, "--file", file]);
    assertEquals(code, 0);
    assertMatch(stdout, /direct-1 .*\?/);
    assertMatch(stdout, /bottom-half .* (yes|no) /);
    assertMatch(stdout, /^direct-1: Cannot measure as a process of it has ended$/m);
  },
});

const refused = await whyNoFio();

Deno.test({
  name: refused === undefined ? "fio: has figures" : `fio: has figures (skipped: ${refused})`,
  ignore: refused !== undefined,
  fn: async () => assert((await figuresOf(fioFloor(1))).iops > 0),
});

async function whyNoFio(): Promise<string | undefined> {
  if (inMemory) return "TMPDIR is in memory";
  const { stdout } = await run([...programWords(RUN_FIO), file]);
  return stdout.startsWith("there is no fio") ? stdout.trim() : undefined;
}

Deno.test("compileFloor: says how to get what is not there", async () => {
  const text = importLine("readFloor", FLOORS) + `
    await readFloor(1).start("").catch((error) => console.log(error.message));`;
  const noHeader =
    "echo 'floor.c:1: fatal error: liburing.h: No such file or directory' >&2; exit 1";
  for (const [texts, what] of [[{}, "C compiler"], [{ cc: noHeader }, "liburing.h"]] as const) {
    const { stdout } = await runWith(texts, programWords(text));
    assertEquals(stdout, `there is no ${what}: run the command setup --for bench\n`);
  }
});
