/** The command `nbd`: it serves, over all kinds of sockets and threads, and ends in good order. */
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { cliWords, FOLDER, run } from "./child.ts";
import { eachFdmon } from "./each_fdmon.ts";
import { Cmd, NbdClient, u32 } from "./nbd_client.ts";
import {
  isThere,
  NbdProcess,
  newImage,
  newSocketPath,
  openClient,
  testWith,
  withContext,
} from "./nbd_process.ts";
import { newPath, pattern } from "./test_files.ts";

const MIB = 1 << 20;

/** A server of a new file on a new unix socket. */
async function startOne(...args: string[]): Promise<{
  server: NbdProcess;
  socket: string;
  image: string;
}> {
  const socket = newSocketPath(), image = newImage();
  const server = await NbdProcess.start(["--socket", socket, ...args, image]);
  return { server, socket, image };
}

/** Flags of the fds that a process has of a file, in the words of open(2). */
function openFlags({ listening: { pid } }: NbdProcess, path: string): string[] {
  const flags = { O_DIRECT: 0o40_000, O_DSYNC: 0o10_000 };
  const mask = Object.entries(flags);
  return [...Deno.readDirSync(`/proc/${pid}/fd`)].flatMap(({ name }) => {
    const found = Deno.readLinkSync(`/proc/${pid}/fd/${name}`);
    if (found !== path) return [];
    const info = Deno.readTextFileSync(`/proc/${pid}/fdinfo/${name}`);
    const bits = parseInt(/^flags:\s*(\d+)$/m.exec(info)![1], 8);
    return [mask.filter(([, bit]) => (bits & bit) !== 0).map(([name]) => name).join(" ")];
  });
}

testWith(
  "nbdinfo",
  "nbd: serves files and memory under their names, the first as the default",
  async () => {
    const socket = newSocketPath(), image = newImage(), other = newImage(2 * MIB);
    await using server = await NbdProcess.start([
      ...["--socket", socket, "--memory", "3M", image],
      ...[
        "--export",
        `name=other,file=${other},description=with, commas,readonly`.replace(", ", ",, "),
      ],
    ]);
    const name = image.slice(image.lastIndexOf("/") + 1);
    const sizes = server.listening.exports.map((
      { name, size, readOnly },
    ) => [name, size, readOnly]);
    assertEquals(sizes, [[name, MIB, false], ["other", 2 * MIB, true], ["memory", 3 * MIB, false]]);
    const { code, stdout, stderr } = await run(["nbdinfo", "--json", "--list", server.uri]);
    assertEquals(code, 0, stderr);
    const listed = JSON.parse(stdout).exports.map((one: Record<string, unknown>) => [
      ...[one["export-name"], one["export-size"], one.is_read_only],
      one.description ?? "",
    ]);
    assertEquals(listed, [
      [name, MIB, false, ""],
      ["other", 2 * MIB, true, "with, commas"],
      ["memory", 3 * MIB, false, ""],
    ]);
    await withContext(async (ctx) => {
      await using client = await openClient(ctx, server);
      await client.ask({ command: Cmd.write, offset: 4096, payload: pattern(512) });
      await using memory = await openClient(ctx, server, "memory");
      await memory.ask({ command: Cmd.write, offset: 8192, payload: pattern(512, 2) });
      const { data } = await memory.ask({ command: Cmd.read, offset: 8192, length: 512 });
      assertEquals(data, pattern(512, 2));
    });
    assertEquals(Deno.readFileSync(image).subarray(4096, 4608), pattern(512));
  },
);

testWith("nbdinfo", "nbd: --direct, --cache and --discard are how files are opened", async () => {
  const cases: readonly [args: string[], flags: string, trims: boolean][] = [
    [[], "", true],
    [["--direct", "--discard", "ignore"], "O_DIRECT", false],
    [["--cache", "writethrough"], "O_DSYNC", true],
    [["--cache", "directsync"], "O_DIRECT O_DSYNC", true],
  ];
  await Promise.all(cases.map(async ([args, flags, trims]) => {
    const { server, image } = await startOne(...args);
    await using _ = server;
    assertEquals(openFlags(server, image), [flags], args.join(" "));
    const [{ blockSize }] = server.listening.exports;
    assertEquals((blockSize as number) > 1, flags.startsWith("O_DIRECT"));
    const { code } = await run(["nbdinfo", "--can", "trim", server.uri]);
    assertEquals(code === 0, trims, args.join(" "));
  }));
});

Deno.test("nbd --read-only: nothing can be changed, not even memory", async () => {
  const { server } = await startOne("--read-only", "--memory", "1M");
  await using _ = server;
  await withContext(async (ctx) => {
    for (const name of ["", "memory"]) {
      await using client = await openClient(ctx, server, name);
      assertEquals(await client.errnoOf({ command: Cmd.write, payload: pattern(512) }), 1);
    }
  });
});

eachFdmon("nbd --threads 2: connections are spread, all see the same", async (_, fdmon) => {
  const { server, image } = await startOne("--threads", "2", "--memory", "1M", "--fdmon", fdmon);
  await using __ = server;
  assertEquals([server.listening.threads, server.listening.fdmon], [2, fdmon]);
  // Each thread has opened it for itself.
  assertEquals(openFlags(server, image).length, 2);
  await withContext(async (ctx) => {
    for (const name of ["", "memory"]) {
      const clients = [];
      for (let at = 0; at < 4; at++) clients.push(await openClient(ctx, server, name));
      const [first] = clients;
      await first.ask({ command: Cmd.write, offset: 0, payload: pattern(4096) });
      for (const client of clients) {
        const { data } = await client.ask({ command: Cmd.read, offset: 0, length: 4096 });
        assertEquals(data, pattern(4096));
      }
      const { connections, requests, bytesWritten } = await server.stats();
      // Those of the name before may not be gone yet.
      assert((connections as number) >= 4, `${connections}`);
      const sum = name === "" ? 1 : 2;
      const { read, write } = requests as Record<string, number>;
      assertEquals([write, read, bytesWritten], [sum, 4 * sum, 4096 * sum]);
      for (const client of clients) await client.socket.close();
    }
  });
  const { code, stdout, stderr } = await server.stop();
  assertEquals([code, JSON.parse(stdout).accepted], [0, 8], stderr);
}, ["io_uring", "epoll"]);

for (const threads of ["1", "2"]) {
  Deno.test(`nbd --shared 2: a third client waits for its turn (${threads} threads)`, async () => {
    const { server } = await startOne("--shared", "2", "--threads", threads);
    await using _ = server;
    await withContext(async (ctx) => {
      const first = await openClient(ctx, server), second = await openClient(ctx, server);
      let greeted = false;
      const third = openClient(ctx, server).then((client) => (greeted = true, client));
      // Those who are served are answered meanwhile.
      for (let asked = 0; asked < 20; asked++) {
        for (const client of [first, second]) await client.ask({ command: Cmd.read, length: 512 });
      }
      assertEquals([greeted, (await server.stats()).connections], [false, 2]);
      await first.socket.close();
      await (await third).ask({ command: Cmd.read, length: 512 });
      for (const client of [second, await third]) await client.socket.close();
    });
  });
}

Deno.test("nbd --socket: has the mode it is given, and takes over what a dead server left", async () => {
  const { server, socket, image } = await startOne("--socket-mode", "620");
  assertEquals(Deno.lstatSync(socket).mode! & 0o777, 0o620);
  server.kill("SIGKILL");
  await server.ended();
  assert(Deno.lstatSync(socket).isSocket);
  await using again = await NbdProcess.start(["--socket", socket, image]);
  const second = await run(cliWords(["nbd", "--socket", socket, image]));
  assertEquals([second.code, second.stdout], [1, ""]);
  assertMatch(second.stderr, /^error: Cannot bind .* as bind failed: EADDRINUSE.*\n$/);
  // The one that was there first goes on.
  await withContext(async (ctx) => {
    await using client = await openClient(ctx, again);
    assertEquals(await client.errnoOf({ command: Cmd.read, length: 512 }), 0);
  });
  assertEquals((await again.stop()).code, 0);
  assert(!isThere(socket));
});

Deno.test("nbd --address: on loopback without a word, beyond it with a warning", async () => {
  const image = newImage();
  await Promise.all([["127.0.0.1:0", false], ["0.0.0.0:0", true], ["localhost:0", false]].map(
    async ([address, warns]) => {
      const server = await NbdProcess.start(["--address", String(address), image]);
      const { port } = new URL(server.uri.replace("nbd:", "http:"));
      await withContext(async (ctx) => {
        const at = { hostname: "127.0.0.1", port: Number(port) };
        await using client = await NbdClient.open(ctx, at);
        assertEquals(await client.errnoOf({ command: Cmd.read, length: 512 }), 0);
      });
      const { code, stderr } = await server.stop("SIGINT");
      assertEquals([code, stderr.includes("warning: ")], [0, warns], stderr);
    },
  ));
});

Deno.test("nbd: errors of the start are one line, and nothing is left behind", async () => {
  const image = newImage(), notASocket = newImage(), far = "203.0.113.1:1";
  const cases: readonly [args: string[], message: string][] = [
    [[image, `${image}.none`], "ENOENT"],
    [["--read-only", image, FOLDER], "no file and no block device"],
    [["--threads", "2", image, `${image}.none`], "ENOENT"],
    [["--pid-file", `${FOLDER}/none/pid`, image], "Cannot write --pid-file"],
    [["--threads", "2", "--address", far, image], "EADDRNOTAVAIL"],
    [["--socket", notASocket, image], "EADDRINUSE"],
  ];
  await Promise.all(cases.map(async ([args, message]) => {
    const socket = newSocketPath();
    const words = cliWords(["nbd", "--json", "--socket", socket, ...args]);
    const { code, stdout, stderr } = await run(words);
    assertEquals([code, stdout], [1, ""], stderr);
    assertMatch(stderr, /^error: [^\n]*\n$/);
    assertStringIncludes(stderr, message);
    assert(!isThere(socket), args.join(" "));
  }));
  assert(Deno.lstatSync(notASocket).isFile);
});

for (const threads of ["1", "2"]) {
  Deno.test(`nbd: SIGTERM answers what is in flight first (${threads} threads)`, async () => {
    const pidFile = newPath();
    const { server, socket, image } = await startOne("--threads", threads, "--pid-file", pidFile);
    assertEquals(Deno.readTextFileSync(pidFile), `${server.listening.pid}\n`);
    const answered: number[] = [];
    await withContext(async (ctx) => {
      await using client = await openClient(ctx, server, "", "simple");
      for (let at = 0; at < 200; at++) {
        const payload = pattern(4096, at);
        await client.sendRequest({ command: Cmd.write, cookie: at, offset: at * 4096, payload });
      }
      answered.push(Number((await client.chunk()).cookie));
      server.kill("SIGTERM");
      for (let reply; (reply = await nextCookie(client)) !== null;) answered.push(reply);
    });
    const { code, stdout } = await server.ended();
    const { event, connections, requests } = JSON.parse(stdout);
    assertEquals([code, event, connections], [0, "ended", 0]);
    // Each that was begun was answered; half of one more may have come.
    assert(requests.write - answered.length <= 1, `${requests.write}, ${answered.length}`);
    assertEquals([isThere(socket), isThere(pidFile)], [false, false]);
    const bytes = Deno.readFileSync(image);
    for (const at of answered) {
      assertEquals(bytes.subarray(at * 4096, (at + 1) * 4096), pattern(4096, at));
    }
  });
}

/** The cookie of the next simple reply, which is whole; null at the end. */
async function nextCookie({ socket }: NbdClient): Promise<number | null> {
  const bytes = new Uint8Array(16);
  let length = 0;
  while (length < bytes.length) {
    const count = await socket.recv(bytes.subarray(length)).catch(() => 0);
    if (count === 0) break;
    length += count;
  }
  if (length === 0) return null;
  const view = new DataView(bytes.buffer);
  assertEquals([length, view.getUint32(4)], [16, 0]);
  return Number(view.getBigUint64(8));
}

Deno.test("nbd: a second signal ends it at once, without a trace", async () => {
  const pidFile = newPath();
  const { server, socket } = await startOne("--memory", "64M", "--pid-file", pidFile);
  await withContext(async (ctx) => {
    // A client that does not read its replies is waited for.
    await using client = await openClient(ctx, server, "memory", "simple");
    for (let sent = 0; sent < 8; sent++) {
      await client.sendRequest({ command: Cmd.read, length: 8 * MIB });
    }
    assertEquals((await client.receive(16)).length, 16);
    server.kill("SIGTERM");
    while (isThere(socket)) await new Promise((resolve) => setTimeout(resolve, 1));
    server.kill("SIGINT");
    assertEquals((await server.ended()).code, 128 + 2);
  });
  assertEquals([isThere(socket), isThere(pidFile)], [false, false]);
});

Deno.test("nbd: a client that misbehaves is a line with --verbose, and none without", async () => {
  for (const args of [[], ["--verbose"], ["--verbose", "--threads", "2"]]) {
    const { server } = await startOne(...args);
    await withContext(async (ctx) => {
      const path = new URL(server.uri).searchParams.get("socket")!;
      await using wrong = await NbdClient.connect(ctx, { path }, 0xff);
      await wrong.isEnded();
      const cut = await openClient(ctx, server);
      await cut.send(u32(0xbadbad, 0, 0, 0, 0, 0, 0));
      await cut.isEnded();
      await cut.socket.close();
      await using client = await openClient(ctx, server);
      assertEquals(await client.errnoOf({ command: Cmd.read, length: 512 }), 0);
    });
    const { code, stderr, stdout } = await server.stop();
    assertEquals([code, JSON.parse(stdout).violations], [0, 2]);
    const [, ...lines] = stderr.trimEnd().split("\n");
    assertEquals(
      lines.slice(0, 2),
      args.length === 0 ? [] : [
        "a connection ended: flags that were not offered",
        "a connection ended: a request without its magic number",
      ],
    );
  }
});

testWith("nbdinfo", "nbd: SIGUSR1 prints counters, for people on stderr", async () => {
  const image = newImage(), socket = newSocketPath();
  const words = cliWords(["nbd", "--verbose", "--socket", socket, image]);
  // The shell waits for the socket, connects no one, asks and ends it.
  const script = `"$@" & while ! [ -S ${socket} ]; do sleep 0.02; done
    nbdinfo --size "nbd+unix:///?socket=${socket}" && kill -USR1 $! && sleep 0.2; kill $!; wait $!`;
  const { code, stdout, stderr } = await run(["sh", "-c", script, "sh", ...words]);
  assertEquals([code, stdout], [0, `${MIB}\n`], stderr);
  const counters = "[01] of 1 connections open, [^\\n]*0.0 MiB read, 0.0 MiB written, 0 errors";
  assertMatch(
    stderr,
    new RegExp(
      `^listening on [^\\n]*\\n(?:a connection[^\\n]*\\n)?stats: ${counters}[^\\n]*\\nended: `,
    ),
  );
});
