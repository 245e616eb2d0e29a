/**
 * The command `vhost-user-blk`, run as a user would: what its disks are to a driver, what it says,
 * how it ends and what it leaves behind.
 */
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { AioContext, type AioStats } from "../mod.ts";
import { main } from "../src/cli/main.ts";
import { VhostDriver } from "../src/cli/vhost_driver.ts";
import { VhostFrontEnd } from "../src/cli/vhost_front_end.ts";
import { BlkRequestType, BlkStatus } from "../src/virtio/virtio_blk.ts";
import { cliWords, newFolder, run } from "./child.ts";
import { VhostCommand } from "./vhost_command.ts";

const { in: IN, out: OUT, flush: FLUSH, getId: GET_ID } = BlkRequestType;
const { ok, ioError } = BlkStatus;
const MIB = 1 << 20;

/** A file of so many bytes, each of its blocks filled with its number. */
function makeDisk(folder: string, name: string, size = MIB): string {
  const bytes = new Uint8Array(size);
  for (let at = 0; at < size; at += 512) bytes.fill(1 + at / 512 % 251, at, at + 512);
  Deno.writeFileSync(`${folder}/${name}`, bytes);
  return `${folder}/${name}`;
}

/** Runs a driver against a socket. */
async function withDisk(
  socket: string,
  use: (driver: VhostDriver) => Promise<void>,
  queues = 1,
): Promise<void> {
  using ctx = new AioContext();
  await ctx.run(async () => {
    using driver = new VhostDriver(ctx, { queues });
    await using frontEnd = new VhostFrontEnd(await ctx.connect({ path: socket }));
    await driver.attach(frontEnd);
    await use(driver);
  });
}

async function fill(driver: VhostDriver, sector: number, value: number): Promise<number> {
  const [queue] = driver.queues;
  queue.data(0).fill(value);
  return (await queue.request(OUT, sector, 4096)).status;
}

async function read(driver: VhostDriver, sector: number, index = 0): Promise<number> {
  const queue = driver.queues[index];
  queue.data(0).fill(0);
  assertEquals((await queue.request(IN, sector, 512)).status, ok);
  const [first] = queue.data(0);
  assert(queue.data(0).subarray(0, 512).every((byte) => byte === first));
  return first;
}

const HOMES = [[], ["--threads", "2"], ["--fdmon", "epoll"], ["--fdmon", "poll"]];

for (const home of HOMES) {
  Deno.test(`vhost-user-blk: serves disks until SIGTERM (${home.join(" ") || "default"})`, async () => {
    const folder = newFolder(), pidFile = `${folder}/pid`;
    const [a, b] = [makeDisk(folder, "a.img"), makeDisk(folder, "b,c.img", 2 * MIB)];
    const [first, second] = [`${folder}/a.sock`, `${folder}/b.sock`];
    await using command = new VhostCommand([
      ...[...home, "--pid-file", pidFile, "--socket", first, "--serial", "disk-a", a],
      ...["--num-queues", "3", "--device"],
      `socket=${second},file=${
        b.replace(",", ",,")
      },read-only,num-queues=2,discard=ignore,serial=disk-b`,
    ]);
    const listening = await command.next();
    assertEquals(listening.event, "listening");
    assertEquals(listening.devices, [
      {
        ...{ file: a, socket: first, serial: "disk-a", numQueues: 3, cache: "writeback" },
        ...{ discard: true, readOnly: false, direct: false, size: MIB },
      },
      {
        ...{ file: b, socket: second, serial: "disk-b", numQueues: 2, cache: "writeback" },
        ...{ discard: false, readOnly: true, direct: false, size: 2 * MIB },
      },
    ]);
    assertEquals(Deno.readTextFileSync(pidFile), `${listening.pid}\n`);
    await withDisk(first, async (driver) => {
      assertEquals(driver.sectors, MIB / 512);
      assertEquals(await read(driver, 9), 10);
      assertEquals(await read(driver, 10, 2), 11);
      assertEquals(await fill(driver, 16, 0xaa), ok);
      assertEquals((await driver.queues[0].request(GET_ID, 0, 20)).status, ok);
      assertEquals(new TextDecoder().decode(driver.queues[0].data(0).slice(0, 7)), "disk-a\0");
    }, 3);
    await withDisk(second, async (driver) => {
      assertEquals(driver.sectors, 2 * MIB / 512);
      assertEquals(await read(driver, 2500), 1 + 2500 % 251);
      assertEquals(await fill(driver, 16, 0xaa), ioError);
      Deno.kill(listening.pid, "SIGUSR1");
      assertEquals((await command.next()).event, "stats");
      // It does not wait for whoever is connected.
      Deno.kill(listening.pid, "SIGTERM");
      const ended = await command.next();
      assertEquals(ended.event, "ended");
      const reports = ended.devices.sort((one: { socket: string }, other: { socket: string }) =>
        one.socket < other.socket ? -1 : 1
      );
      assertEquals(
        reports.map((
          { socket, connections, requests }: Record<string, unknown>,
        ) => [socket, connections, requests]),
        [[first, 1, 4], [second, 1, 2]],
      );
      assertEquals(ended.contexts.length, home.includes("--threads") ? 2 : 1);
      assertEquals((await command.end()).code, 0);
    }, 2);
    const { stderr } = await command.end();
    assertStringIncludes(stderr, `${first}: connected\n`);
    assertStringIncludes(stderr, `${second}: disconnected as `);
    const left = [...Deno.readDirSync(folder)].map(({ name }) => name).sort();
    assertEquals(left, ["a.img", "b,c.img"]);
    assertEquals([...new Set(Deno.readFileSync(a).subarray(8192, 12288))], [0xaa]);
    assertEquals(Deno.readFileSync(b)[8192], 17);
  });
}

Deno.test("vhost-user-blk --config: disks from a file, with options for all of them", async () => {
  const folder = newFolder(), config = `${folder}/config.json`;
  const [a, b] = [makeDisk(folder, "a.img"), makeDisk(folder, "b.img")];
  const devices = [
    { socket: `${folder}/a.sock`, file: a, "num-queues": 4, "read-only": false },
    { socket: `${folder}/b.sock`, file: b, cache: "writethrough", serial: "B" },
  ];
  Deno.writeTextFileSync(config, JSON.stringify({ devices }));
  await using command = new VhostCommand(["--config", config, "--read-only", "--cache", "none"]);
  const { pid, devices: [first, second] } = await command.next();
  assertEquals([first.numQueues, first.readOnly, first.cache], [4, false, "writeback"]);
  assertEquals([second.numQueues, second.readOnly, second.cache], [1, true, "writethrough"]);
  assertEquals([first.direct, second.direct], [true, false]);
  const writeCache = (driver: VhostDriver) => driver.config.getUint8(32);
  // deno-lint-ignore require-await
  await withDisk(`${folder}/a.sock`, async (driver) => assertEquals(writeCache(driver), 1));
  // deno-lint-ignore require-await
  await withDisk(`${folder}/b.sock`, async (driver) => assertEquals(writeCache(driver), 0));
  Deno.kill(pid, "SIGINT");
  assertEquals((await command.next()).event, "ended");
  assertEquals((await command.end()).code, 0);
});

Deno.test("vhost-user-blk --poll-max-ns: with 0 it never polls, with more it does", async () => {
  const cases: [args: string[], polls: boolean][] = [
    [["--poll-max-ns", "0"], false],
    [["--poll-max-ns", "0", "--threads", "2"], false],
    [["--poll-max-ns", "10000000"], true],
    [["--poll-max-ns", "10000000", "--threads", "2"], true],
  ];
  for (const [args, polls] of cases) {
    const folder = newFolder(), socket = `${folder}/s`;
    const disk = makeDisk(folder, "a.img");
    await using command = new VhostCommand([
      ...args,
      "--poll-idle-ns",
      "1000000000",
      "-k",
      socket,
      disk,
    ]);
    const { pid } = await command.next();
    await withDisk(socket, async (driver) => {
      for (let count = 0; count < 50; count++) await read(driver, count);
    });
    Deno.kill(pid, "SIGTERM");
    const { contexts } = await command.next();
    const runs = contexts.reduce((sum: number, stats: AioStats) => sum + stats.pollRuns, 0);
    assertEquals(runs > 0, polls, `${runs} runs`);
  }
});

Deno.test("vhost-user-blk: what was flushed survives kill -9, and the socket is taken over", async () => {
  const folder = newFolder(), socket = `${folder}/s`, disk = makeDisk(folder, "a.img");
  const args = ["--socket", socket, disk];
  using ctx = new AioContext();
  await ctx.run(async ({ host }) => {
    using driver = new VhostDriver(ctx, {});
    for (let round = 1; round <= 3; round++) {
      await using command = new VhostCommand(args);
      const { pid } = await host(command.next());
      await using frontEnd = new VhostFrontEnd(await ctx.connect({ path: socket }));
      await driver.attach(frontEnd);
      if (round > 1) assertEquals(await read(driver, 800), round - 1);
      assertEquals(await fill(driver, 800, round), ok);
      assertEquals((await driver.queues[0].request(FLUSH, 0, 0)).status, ok);
      Deno.kill(pid, "SIGKILL");
      await host(command.end());
      assertEquals(Deno.readFileSync(disk)[800 * 512], round);
    }
  });
});

Deno.test("vhost-user-blk: a socket in use, or what is none, is left alone", async () => {
  const folder = newFolder(), socket = `${folder}/s`, disk = makeDisk(folder, "a.img");
  await using command = new VhostCommand(["--socket", socket, disk]);
  const { pid } = await command.next();
  const cases: [path: string, message: string][] = [
    [socket, `Cannot listen on ${socket} as another process does`],
    [disk, `Cannot listen on ${disk} as there is something that is no socket`],
  ];
  for (
    const [[path, message], threads] of cases.flatMap((one) => [[one, "1"], [one, "2"]] as const)
  ) {
    const pidFile = `${folder}/pid`;
    const words = ["vhost-user-blk", "--threads", threads, "--pid-file", pidFile, "-k", path, disk];
    const { code, stdout, stderr } = await run(cliWords(words));
    assertEquals([code, stdout, stderr], [1, "", `error: ${message}\n`]);
    assert(!isThere(pidFile));
  }
  await withDisk(socket, async (driver) => assertEquals(await read(driver, 1), 2));
  // Somebody else's by now.
  Deno.removeSync(socket);
  Deno.writeTextFileSync(socket, "mine");
  Deno.kill(pid, "SIGTERM");
  await command.next();
  assertEquals((await command.end()).code, 0);
  assertEquals(Deno.readTextFileSync(socket), "mine");
});

function isThere(path: string): boolean {
  return [...Deno.readDirSync(path.slice(0, path.lastIndexOf("/")))].some(({ name }) =>
    path.endsWith(`/${name}`)
  );
}

Deno.test("vhost-user-blk: what cannot be done is one line and code 1", async () => {
  const folder = newFolder(), disk = makeDisk(folder, "a.img");
  const good = ["--socket", `${folder}/s`, disk];
  const cases: [args: string[], message: string][] = [
    [["--socket", `${folder}/s`, `${folder}/none`], "ENOENT"],
    [["--socket", `${folder}/s`, folder], "EISDIR"],
    [["--socket", `${folder}/none/s`, disk], "ENOENT"],
    [["--threads", "2", "--socket", `${folder}/s`, `${folder}/none`], "ENOENT"],
    [["--pid-file", `${folder}/none/pid`, ...good], "Cannot write --pid-file"],
    [["--config", `${folder}/none`], "Cannot read --config"],
  ];
  for (const [args, message] of cases) {
    const { code, stdout, stderr } = await run(cliWords(["vhost-user-blk", ...args]));
    assertEquals([code, stdout], [1, ""], stderr);
    assertMatch(stderr, /^error: .*\n$/);
    assertStringIncludes(stderr, message);
    assert(!isThere(`${folder}/s`));
  }
});

const CONFIGS: readonly [text: string, message: string][] = [
  ["nonsense", "as it is not JSON"],
  ["null", 'as it has no array "devices"'],
  ["[]", 'as it has no array "devices"'],
  ['{"devices": [1]}', "device 1, as it is no object: 1"],
  ['{"devices": [{"socket": "s"}]}', "device 1, as it names no file"],
  ['{"devices": [{"file": "s"}]}', "device 1, with socket as it names no socket"],
  ['{"devices": [{"colour": 1}]}', 'device 1, as "colour" is not one of socket, file'],
  ['{"devices": [{"direct": "on"}]}', 'device 1, as direct is no boolean: "on"'],
  ['{"devices": [{"file": true}]}', "device 1, as file is no string: true"],
  ['{"devices": []}', "Cannot serve as there is no FILE"],
];

const BAD_ARGUMENTS: readonly [args: string[], message: string][] = [
  [[], "Cannot serve as there is no FILE, no --device and no --config"],
  [["f"], "Cannot serve f as there is no --socket to listen on"],
  [["--socket", "s"], "Cannot use --socket s as there is no FILE that it is for"],
  [["--serial", "s", "--device", "socket=s,file=f"], "Cannot use --serial s as there is no FILE"],
  [["--socket", "", "f"], "Cannot use --socket as it names no socket"],
  [["--socket", "s".repeat(108), "f"], "as a socket's path has at most 107 bytes"],
  [["--socket", "s", ""], "Cannot use FILE as it names no file"],
  [["--socket", "s", "--serial", "é", "f"], "as it is not up to 20 characters of ASCII"],
  [["--socket", "s", "--serial", "x".repeat(21), "f"], "as it is not up to 20 characters of ASCII"],
  [["--socket", "s", "--num-queues", "0", "f"], "--num-queues 0 as it is not between 1 and 256"],
  [["--socket", "s", "--num-queues", "257", "f"], "257 as it is not between 1 and 256"],
  [["--socket", "s", "--cache", "lots", "f"], "--cache lots as it is not one of writeback, wri"],
  [["--socket", "s", "--discard", "x", "f"], "--discard x as it is not one of ignore, unmap"],
  [["--socket", "s", "--threads", "257", "f"], "--threads 257 as it is not between 1 and 256"],
  [["--socket", "s", "--fdmon", "select", "f"], "--fdmon select as it is not one of io_uring"],
  [["--socket", "s", "--poll-max-ns", "1e9", "f"], "--poll-max-ns 1e9 as it is not a whole number"],
  [["--socket", "s", "--poll-weight", "17", "f"], "--poll-weight 17 as it is not between 0 and 16"],
  [
    ["--socket", "s", "--poll-grow", "-1", "f"],
    "--poll-grow -1 as it is not between 0 and 1000000",
  ],
  [["--socket", "s", "--poll-shrink", "x", "f"], "--poll-shrink x as it is not a whole number"],
  [["--socket", "s", "--poll-idle-ns", "-1", "f"], "--poll-idle-ns -1 as it is not between 0"],
  [["--device", "file=f"], "Cannot use --device file=f with socket as it names no socket"],
  [["--device", "socket=s"], "Cannot use --device socket=s as it names no file"],
  [["--device", "socket"], "Cannot use --device socket as socket has no value"],
  [["--device", "colour=red"], '--device colour=red as "colour" is not one of socket, file'],
  [["--device", "toString"], '--device toString as "toString" is not one of socket, file'],
  [["--device", "direct=1"], "as direct is neither on nor off: 1"],
  [["--device", "socket=s,file=f,num-queues=x"], "with num-queues x as it is not a whole number"],
  [["--device", "socket=s,file=f", "-k", "s", "g"], "the socket s as two disks would listen on it"],
];

Deno.test("vhost-user-blk: bad arguments are usage errors that name option and value", async (t) => {
  const configs = CONFIGS.map(([text, message]): [string[], string] => {
    const path = `${newFolder()}/c`;
    Deno.writeTextFileSync(path, text);
    return [["--config", path], message];
  });
  for (const [args, message] of [...BAD_ARGUMENTS, ...configs]) {
    await t.step(`${args.join(" ")}: ${message}`, async () => {
      const { error } = console;
      const said: unknown[] = [];
      console.error = (text) => said.push(text);
      try {
        assertEquals(await main(["vhost-user-blk", ...args]), 2);
      } finally {
        console.error = error;
      }
      assertEquals(said.length, 1);
      assertMatch(`${said}`, /^error: [^\n]*$/);
      assertStringIncludes(`${said}`, message);
    });
  }
  for (const args of [["--colour"], ["a", "b"]]) {
    const { code, stdout, stderr } = await run(cliWords(["vhost-user-blk", ...args]));
    assertEquals([code, stdout], [2, ""]);
    assertMatch(stderr, /^error: (unknown option|too many arguments)/);
  }
});
