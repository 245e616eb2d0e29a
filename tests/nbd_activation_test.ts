/** Sockets that `nbd` is handed by whoever has started it, as by systemd. */
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { cliWords, run } from "./child.ts";
import { Cmd, NbdClient } from "./nbd_client.ts";
import {
  isThere,
  NbdProcess,
  newImage,
  newSocketPath,
  testWith,
  withContext,
} from "./nbd_process.ts";

const MIB = 1 << 20;

testWith("nbdinfo", "nbd: serves on the socket that a client has activated it with", async () => {
  const image = newImage(3 * MIB);
  // libnbd starts the server with LISTEN_FDS, and ends it.
  const { code, stdout, stderr } = await run([
    "nbdinfo",
    "--size",
    "--",
    "[",
    ...cliWords(["nbd", image]),
    "]",
  ]);
  assertEquals([code, stdout], [0, `${3 * MIB}\n`], stderr);
});

/** Opens sockets as systemd does, and becomes a program that gets them. */
const LAUNCHER = `
import os, socket, sys
paths, words = sys.argv[1].split(","), sys.argv[2:]
for number, path in enumerate(paths):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    os.dup2(listener.detach(), 20 + number)
for number in range(len(paths)):
    os.dup2(20 + number, 3 + number, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=os.environ.get("FDS", str(len(paths))))
os.execvp(words[0], words)
`;

testWith(
  "python3",
  "nbd: serves on several activated sockets, and leaves their paths alone",
  async () => {
    const image = newImage(), paths = [newSocketPath(), newSocketPath()];
    const before = ["python3", "-c", LAUNCHER, paths.join(",")];
    const server = await NbdProcess.start(["--threads", "2", image], { before });
    assertEquals(server.listening.uris, paths.map((path) => `nbd+unix:///?socket=${path}`));
    await withContext(async (ctx) => {
      for (const path of paths) {
        await using client = await NbdClient.open(ctx, { path });
        assertEquals(await client.errnoOf({ command: Cmd.read, length: 512 }), 0);
      }
    });
    const { code, stderr } = await server.stop();
    assertEquals(code, 0, stderr);
    assertEquals(paths.map(isThere), [true, true]);
  },
);

testWith("python3", "nbd: activation that cannot be is an error", async () => {
  const image = newImage();
  const start = (args: string[], fds?: string) => {
    const words = [
      "python3",
      "-c",
      LAUNCHER,
      newSocketPath(),
      ...cliWords(["nbd", ...args, image]),
    ];
    return run(words, fds === undefined ? {} : { FDS: fds });
  };
  const [both, many, none] = await Promise.all([
    start(["--address", "127.0.0.1:0"]),
    start([], "many"),
    // The second is none of a listening socket, if it is open at all.
    start([], "2"),
  ]);
  assertEquals([both.code, many.code], [2, 1]);
  assertStringIncludes(both.stderr, "error: Cannot use --address as sockets were handed over");
  assertStringIncludes(many.stderr, "error: Cannot take sockets over as LISTEN_FDS is not 1 to");
  assert(none.code !== 0);
  assertMatch(none.stderr, /^error: [^\n]*fd 4[^\n]*\n$/);
});

Deno.test("nbd: sockets that are for a foreign process are left alone", async () => {
  const socket = newSocketPath(), image = newImage();
  // The numbers of another process are what a child finds whose parent did not clear them.
  const before = ["env", "LISTEN_PID=1", "LISTEN_FDS=1"];
  await using server = await NbdProcess.start(["--socket", socket, image], { before });
  assertEquals(server.listening.uris, [`nbd+unix:///?socket=${socket}`]);
});
