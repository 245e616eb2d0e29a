/** Sockets: whom they reach, what data they carry, and in which order. */
import { assert, assertEquals } from "@std/assert";
import { lookup } from "node:dns/promises";
import { loadShim } from "../ffi/library.ts";
import { Fcntl, SocketFlag, SocketLevel, SocketOption, Sockets, TcpOption } from "../ffi/socket.ts";
import type { AioSocket, RequestView, SocketAddress } from "../mod.ts";
import { importLine, newFolder, programWords, run } from "./child.ts";
import { compile } from "./compile.ts";
import { makePair } from "./libc.ts";
import { Random } from "./random_values.ts";
import { pattern } from "./test_files.ts";
import {
  abstractName,
  adoptedPair,
  connectedPair,
  eachLoop,
  goOn,
  isSame,
  LOOPBACK,
  receiveAll,
  receiveCount,
  SEED,
} from "./test_sockets.ts";

const shim = loadShim();
const sockets = new Sockets(shim);

/** Sends something each way and closes. */
async function talk(one: AioSocket, other: AioSocket): Promise<void> {
  await using near = one;
  await using far = other;
  for (const [from, to] of [[near, far], [far, near]]) {
    const bytes = pattern(1000, from.fd);
    await from.sendAll(bytes);
    assertEquals(await receiveCount(to, 1000), bytes);
  }
}

function hasIpv6(): boolean {
  try {
    Deno.listen({ hostname: "::1", port: 0 }).close();
    return true;
  } catch {
    return false;
  }
}

const addresses = await lookup("localhost", { all: true });

/** Where to listen, and the name to connect to where that is another one. */
const PLACES: readonly (readonly [string, () => SocketAddress, string?])[] = [
  ["a unix path", () => ({ path: `${newFolder()}/ä socket` })],
  ["an abstract name", abstractName],
  ["IPv4", () => LOOPBACK],
  ["IPv6", () => ({ hostname: hasIpv6() ? "::1" : "127.0.0.2", port: 0 })],
  ["localhost", () => ({ hostname: "localhost", port: 0 })],
  ["a name that is looked up", () => LOOPBACK, "LocalHost"],
  // Nobody listens at the first one, where there are several.
  [
    "the last address of a name",
    () => ({ hostname: addresses.at(-1)!.address, port: 0 }),
    "LocalHost",
  ],
];

for (const [what, make, hostname] of PLACES) {
  eachLoop(`listen, connect, accept: at ${what}`, async (ctx) => {
    const at = make();
    await using listener = ctx.listen(at);
    const { address } = listener;
    if ("path" in at) assertEquals(address, at);
    else assert("port" in address && address.port > 0);
    const near = await ctx.connect(hostname === undefined ? address : { ...address, hostname });
    const far = await listener.accept();
    assertEquals(near.peerAddress, address);
    assertEquals(far.localAddress, address);
    assertEquals(far.peerAddress, near.localAddress);
    const noDelay = (socket: AioSocket) =>
      sockets.getOption(socket.fd, SocketLevel.tcp, TcpOption.nodelay);
    if ("port" in address) assertEquals([noDelay(near), noDelay(far)], [1, 1]);
    await talk(near, far);
  });
}

eachLoop("listen, connect: options are heeded", async (ctx) => {
  const slow = ctx.listen(LOOPBACK, { noDelay: false, reusePort: true, backlog: 3 });
  const near = await ctx.connect(slow.address, { noDelay: false });
  const far = await slow.accept();
  for (const { fd } of [near, far]) {
    assertEquals(sockets.getOption(fd, SocketLevel.tcp, TcpOption.nodelay), 0);
  }
  assertEquals(sockets.getOption(slow.fd, SocketLevel.socket, SocketOption.reuseport), 1);
  await talk(near, far);
  // Both listen at one port, and each connection is accepted by one of them.
  const other = ctx.listen(slow.address, { reusePort: true });
  const served = [0, 0];
  const serving = [slow, other].map(async (listener, index) => {
    for await (const socket of listener) {
      served[index]++;
      await socket.close();
    }
  });
  while (served.includes(0)) {
    await using client = await ctx.connect(slow.address);
    assertEquals(await client.recv(new Uint8Array(1)), 0);
  }
  await Promise.all([slow.close(), other.close(), ...serving]);
});

eachLoop("adoptSocket, listen: fds that are given, which block or not", async (ctx) => {
  for (const blocks of [true, false]) {
    const fds = makePair("socket");
    if (!blocks) { for (const fd of fds) sockets.setNonBlocking(fd); }
    const [near, far] = fds.map((fd) => ctx.adoptSocket(fd));
    // Without a ring nothing may block the loop.
    const flags = shim.aio_fcntl_int(near.fd, Fcntl.getfl, 0) & SocketFlag.nonblock;
    assertEquals(flags === 0, blocks && ctx.fdmon.name === "io_uring");
    const waiting = receiveCount(far, 5000);
    await goOn();
    await near.sendAll(pattern(5000));
    assertEquals(await waiting, pattern(5000));
    await talk(near, far);

    const fd = sockets.open(1, 1, 0, blocks);
    const at = abstractName();
    sockets.bind(fd, at);
    sockets.listen(fd, 8);
    await using listener = ctx.listen({ fd });
    const accepted = listener.accept();
    await goOn();
    await talk(await ctx.connect(at), await accepted);
  }
});

const ACTIVATE = `
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
int main(int count, char **words)
{
	struct sockaddr address = { AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	char pid[20];

	if (bind(fd, &address, sizeof(address.sa_family)) || listen(fd, 8))
		return 1;
	if (fd != 3 && (dup2(fd, 3) != 3 || close(fd)))
		return 2;
	snprintf(pid, sizeof(pid), "%d", getpid());
	setenv("LISTEN_PID", pid, 1);
	setenv("LISTEN_FDS", "1", 1);
	return count > 1 ? execvp(words[1], words + 1) : 3;
}`;

Deno.test("listen: serves on the fd of a socket activation", async () => {
  const activate = await compile(ACTIVATE, []);
  const text = importLine("AioContext", "mod.ts") + `
    if (Deno.env.get("LISTEN_FDS") !== "1" || Deno.env.get("LISTEN_PID") !== String(Deno.pid)) throw 0;
    for (const fdmon of ["io_uring", "epoll", "poll"] as const) {
      using ctx = new AioContext({ fdmon });
      await ctx.run(async () => {
        const listener = ctx.listen({ fd: 3 });
        const accepted = listener.accept();
        await using near = await ctx.connect(listener.address);
        await using far = await accepted;
        await far.sendAll(new TextEncoder().encode(fdmon));
        const bytes = new Uint8Array(20);
        console.log(new TextDecoder().decode(bytes.subarray(0, await near.recv(bytes))));
      });
    }`;
  const { code, stdout, stderr } = await run([activate, ...programWords(text)]);
  assertEquals([code, stdout], [0, "io_uring\nepoll\npoll\n"], stderr);
});

eachLoop("recv, send: memory of every kind and of no and of great length", async (ctx) => {
  const makers: readonly ((byteLength: number) => RequestView)[] = [
    (byteLength) => new Uint8Array(byteLength),
    (byteLength) => ctx.buffers.allocate(Math.max(1, byteLength)).subarray(0, byteLength),
    (byteLength) => new Uint8Array(new SharedArrayBuffer(byteLength)),
    (byteLength) => new DataView(new ArrayBuffer(byteLength + 5), 3, byteLength),
    (byteLength) => new Float64Array(byteLength >> 3),
    (byteLength) => new Uint16Array(new ArrayBuffer(byteLength + 64), 6, byteLength >> 1),
  ];
  const bytesOf = ({ buffer, byteOffset, byteLength }: RequestView) =>
    new Uint8Array(buffer, byteOffset, byteLength);
  const [near, far] = adoptedPair(ctx);
  for (const length of [0, 8, 4096, 65_544, (1 << 20) + 8, 3 << 20]) {
    for (const [index, make] of makers.entries()) {
      const out = make(length), incoming = makers[makers.length - 1 - index](length);
      bytesOf(out).set(pattern(length, index));
      const sent = near.sendAll(out);
      for (let at = 0; at < length;) {
        const count = await far.recv(bytesOf(incoming).subarray(at));
        assert(count > 0 && count <= length - at);
        at += count;
      }
      await sent;
      assert(isSame(bytesOf(incoming), bytesOf(out)), `${length} bytes, kind ${index}`);
      if (length === 0) assertEquals(await near.send(out), 0);
      // Not as a part of a receive of its own, which would wait for more.
      const first = await near.send(make(Math.min(length, 64)));
      if (length >= 64) assertEquals([first, await far.recv(make(3 << 20))], [64, 64]);
      else await receiveCount(far, first);
    }
  }
  await near.close();
  await far.close();
});

eachLoop(
  "send: of a long buffer, which is copied, nothing comes behind the next one",
  async (ctx) => {
    const [near, far] = await connectedPair(ctx);
    const sends = [
      near.send(new Uint8Array(3 << 20).fill(1)),
      near.send(new Uint8Array(9).fill(2)),
    ];
    const receiving = receiveAll(far);
    const [long] = await Promise.all(sends);
    near.shutdown("write");
    const received = await receiving;
    assertEquals(received.byteLength, long + 9);
    assert(received.every((byte, at) => byte === (at < long ? 1 : 2)));
    await near.close();
    await far.close();
  },
);

eachLoop("readv, writev: buffers one after the other, of every kind", async (ctx) => {
  const [near, far] = await connectedPair(ctx);
  for (const shared of [true, false]) {
    const make = (length: number) =>
      shared
        ? ctx.buffers.allocate(Math.max(1, length)).subarray(0, length)
        : new Uint8Array(length);
    for (const lengths of [[], [0], [1, 0, 2], [100, 1000, 3, 0], Array(1024).fill(7)]) {
      const out = lengths.map((length, index) => {
        const view = make(length);
        view.set(pattern(length, index));
        return view;
      });
      const total = lengths.reduce((sum, length) => sum + length, 0);
      assertEquals(await near.writev(out), total);
      if (total === 0) continue;
      const incoming = lengths.map(make);
      assertEquals(await far.readv(incoming), total);
      assertEquals(incoming.map((view) => [...view]), out.map((view) => [...view]));
    }
  }
  const mixed = [
    new Uint8Array(3),
    ctx.buffers.allocate(4),
    new Uint8Array(new SharedArrayBuffer(5)),
  ];
  await near.sendAll(pattern(10));
  assertEquals(await far.readv(mixed), 10);
  assertEquals(mixed.flatMap((view) => [...view]), [...pattern(10), 0, 0]);
  await near.close();
  await far.close();
});

eachLoop(`recv, send: those in flight complete in order (AIO_TEST_SEED=${SEED})`, async (ctx) => {
  const random = new Random(SEED);
  for (const pair of [await connectedPair(ctx), adoptedPair(ctx)]) {
    const [near, far] = pair;
    const order: string[] = [], expected: string[] = [];
    const views = Array.from({ length: 50 }, () => new Uint8Array(1 + random.below(300)));
    const received = views.map(async (view, index) => {
      const way = index % 2 === 0 ? far.recv(view) : far.readv([view]);
      expected.push(`recv ${index}`);
      const count = await way;
      order.push(`recv ${index}`);
      return view.subarray(0, count);
    });
    await goOn();
    // Fewer bytes than the first one takes, so each of the next ones waits in its turn.
    for (const one of received) {
      await near.sendAll(Uint8Array.of(random.below(256)));
      await one;
    }
    const bytes = await Promise.all(received);
    assertEquals(order, expected);
    assert(bytes.every(({ byteLength }) => byteLength >= 1));

    // More than there is room for, with others in between.
    const sends = Array.from({ length: 12 }, (_, index) => {
      const size = 1 + random.below(500_000);
      const view = random.once(2) ? new Uint8Array(size) : ctx.buffers.allocate(size);
      view.fill(index);
      return index % 3 === 0 ? near.writev([view]) : near.sendAll(view).then(() => size);
    });
    sends.push(near.sendAll(new Uint8Array((2 << 20) + 9).fill(12)).then(() => (2 << 20) + 9));
    sends.push(near.sendAll(new Uint8Array(99).fill(13)).then(() => 99));
    await goOn();
    const all = Promise.all(sends).then((counts) => (near.shutdown("write"), counts));
    const got = await receiveAll(far, random);
    const runs: number[] = [];
    for (const byte of got) runs[byte] = (runs[byte] ?? 0) + 1;
    assertEquals(runs, await all);
    assert(got.every((byte, at) => at === 0 || byte >= got[at - 1]), "in order");
    await near.close();
    await far.close();
  }
});

eachLoop("shutdown: each way, and what the other side sees of it", async (ctx) => {
  for (const make of [connectedPair, adoptedPair]) {
    const [near, far] = await make(ctx);
    const end = far.recv(new Uint8Array(9));
    await goOn();
    near.shutdown("write");
    assertEquals(await end, 0);
    await far.sendAll(pattern(10));
    assertEquals(await receiveCount(near, 10), pattern(10));
    const waiting = near.recv(new Uint8Array(9));
    await goOn();
    near.shutdown("read");
    assertEquals(await waiting, 0);
    far.shutdown();
    assertEquals(await far.recv(new Uint8Array(9)), 0);
    await near.close();
    await far.close();
  }
});

eachLoop("connect: waits for room in the backlog of a unix socket, and sleeps", async (ctx) => {
  await using listener = ctx.listen(abstractName(), { backlog: 0 });
  const clients = Array.from({ length: 5 }, () => ctx.connect(listener.address));
  let connected = 0;
  for (const client of clients) client.then(() => connected++);
  const { systemCalls } = ctx.stats();
  await new Promise((done) => setTimeout(done, 100));
  assert(connected < clients.length, "the backlog is full");
  // A thousand tries a second each at most, of a few calls.
  const calls = ctx.stats().systemCalls - systemCalls;
  assert(calls < 5 * 100 * 10, `${calls} system calls in 0.1 s`);
  for (const _ of clients) await (await listener.accept()).close();
  for (const client of clients) await (await client).close();
});

eachLoop("AioListener: iterates over connections until it is closed", async (ctx) => {
  const listener = ctx.listen(abstractName());
  let served = 0;
  const serving = (async () => {
    for await (const socket of listener) {
      served++;
      await socket.sendAll(Uint8Array.of(served));
      await socket.close();
    }
  })();
  for (let number = 1; number <= 20; number++) {
    await using client = await ctx.connect(listener.address);
    assertEquals([...await receiveCount(client, 1)], [number]);
  }
  await listener.close();
  await serving;
  assertEquals(served, 20);
});
