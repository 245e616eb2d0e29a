/** Sockets whose peers vanish, which are closed or cancelled at any moment, or misused. */
import { assert, assertEquals } from "@std/assert";
import type { AioError, AioSocket, RequestView } from "../mod.ts";
import { importLine, newFolder, programWords, run } from "./child.ts";
import { eachFdmon } from "./each_fdmon.ts";
import { libc, makePair } from "./libc.ts";
import { countFds } from "./open_files.ts";
import { Random } from "./random_values.ts";
import { pattern, rejection } from "./test_files.ts";
import {
  abstractName,
  adoptedPair,
  codeOf,
  connectedPair,
  eachLoop,
  goOn,
  LOOPBACK,
  receiveAll,
  SEED,
} from "./test_sockets.ts";

eachFdmon("send: to a peer that is gone fails and kills nobody", async (_makeContext, fdmon) => {
  // Deno ignores SIGPIPE; a program in which that is not so would die of it.
  const text = importLine("AioContext", "mod.ts") +
    importLine("libc as files, makePair", "tests/libc.ts") + `
    const SIGPIPE = 13, SIG_DFL = null;
    const libc = Deno.dlopen("libc.so.6", {
      signal: { parameters: ["i32", "pointer"], result: "pointer" },
    }).symbols;
    libc.signal(SIGPIPE, SIG_DFL);
    using ctx = new AioContext({ fdmon: "${fdmon}" });
    await ctx.run(async () => {
      const codes: string[] = [];
      const [near, far] = makePair("socket").map((fd) => ctx.adoptSocket(fd));
      await far.close();
      const byte = new Uint8Array(1);
      for (const send of [
        () => near.send(byte), () => near.sendAll(byte), () => near.writev([byte]),
        () => near.sendMessage([byte], [0]), () => near.send(ctx.buffers.allocate(1)),
      ]) codes.push(await send().then(() => "sent", ({ code }) => code));
      console.log(codes.join());
      // So it would have died.
      const [reader, writer] = makePair("pipe");
      files.close(reader);
      files.write(writer, byte, 1n);
    });`;
  const { code, stdout, stderr } = await run(programWords(text));
  const SIGPIPE = 13;
  assertEquals([code, stdout], [128 + SIGPIPE, "EPIPE,EPIPE,EPIPE,EPIPE,EPIPE\n"], stderr);
});

eachLoop("recv, send: a peer that resets in the middle is ECONNRESET", async (ctx) => {
  for (const waits of [false, true]) {
    const [near, far] = await connectedPair(ctx);
    await near.sendAll(pattern(100));
    const waiting = waits ? codeOf(near.recv(new Uint8Array(9))) : null;
    await goOn();
    // Closing with data that was not received resets.
    await far.close();
    assertEquals(await (waiting ?? codeOf(near.recv(new Uint8Array(9)))), "ECONNRESET");
    assertEquals(await codeOf(near.send(new Uint8Array(1))), "EPIPE");
    await near.close();
  }
  // In the middle of a long message; what came before the end is there.
  const [near, far] = await connectedPair(ctx);
  const sending = codeOf(near.sendAll(new Uint8Array(30 << 20)));
  assert(await far.recv(new Uint8Array(1000)) > 0);
  await far.close();
  assert(["ECONNRESET", "EPIPE"].includes(await sending));
  await near.close();
  const [one, other] = adoptedPair(ctx);
  await one.sendAll(pattern(77));
  await one.close();
  assertEquals(await receiveAll(other), pattern(77));
  await other.close();
});

eachLoop(`AbortSignal: at any moment, nothing is lost (AIO_TEST_SEED=${SEED})`, async (ctx) => {
  const random = new Random(SEED);
  const [near, far] = adoptedPair(ctx);
  let received = 0, sent = 0, aborted = 0;
  for (let round = 0; round < 1500; round++) {
    const control = new AbortController();
    const reason = new Error(`round ${round}`);
    const { signal } = control;
    if (random.once(10)) control.abort(reason);
    const length = 1 + random.below(3);
    const make = (): RequestView =>
      random.once(2) ? new Uint8Array(length) : ctx.buffers.allocate(length);
    const receiving = Promise.allSettled([
      random.once(3) ? far.readv([make()], { signal }) : far.recv(make(), { signal }),
    ]);
    const steps = random.below(4);
    const sending = Promise.allSettled([
      random.once(2) ? near.send(make(), random.once(2) ? { signal } : {}) : 0,
    ]);
    if (steps === 1) await Promise.resolve();
    if (steps === 2) await goOn(1);
    if (random.once(4)) control.abort(reason);
    const [count] = await sending;
    if (count.status === "fulfilled") sent += count.value;
    else assertEquals(count.reason, reason);
    control.abort(reason);
    const [got] = await receiving;
    if (got.status === "fulfilled") received += got.value;
    else {
      assertEquals(got.reason, reason);
      aborted++;
    }
  }
  assert(aborted > 100 && received > 100, `${aborted} aborted, ${received} bytes`);
  near.shutdown("write");
  received += (await receiveAll(far)).byteLength;
  assertEquals(received, sent);
  await near.close();
  await far.close();
});

eachLoop(
  `AbortSignal: of accept, connect and a send that waits (AIO_TEST_SEED=${SEED})`,
  async (ctx) => {
    const random = new Random(SEED), reason = new Error("enough");
    await using listener = ctx.listen(abstractName());
    const before = countFds();
    let done = 0, aborted = 0;
    for (let round = 0; round < 300; round++) {
      const control = new AbortController(), options = { signal: control.signal };
      if (random.once(10)) control.abort(reason);
      const both = Promise.allSettled([
        listener.accept(options),
        ctx.connect(listener.address, options),
      ]);
      for (let jobs = random.below(12); jobs > 0; jobs--) await Promise.resolve();
      if (random.once(4)) await goOn(1);
      control.abort(reason);
      for (const result of await both) {
        if (result.status === "fulfilled") {
          assert(result.value.fd > 2);
          await result.value.close();
          done++;
        } else {
          assertEquals(result.reason, reason);
          aborted++;
        }
      }
    }
    assert(done > 10 && aborted > 10, `${done} done, ${aborted} aborted`);
    // Those whose accept was aborted are still in the backlog.
    await listener.close();
    assertEquals(countFds(), before - 1);
    const [near, far] = adoptedPair(ctx);
    const control = new AbortController();
    const sending = rejection(near.sendAll(new Uint8Array(4 << 20), { signal: control.signal }));
    const queued = rejection(near.send(new Uint8Array(1), { signal: control.signal }));
    await goOn();
    control.abort(reason);
    assertEquals([await sending, await queued], [reason, reason]);
    await near.close();
    await far.close();
  },
);

eachLoop(
  "close: ends what is in flight with ECANCELED; twice, and all use after it",
  async (ctx) => {
    for (let round = 0; round < 60; round++) {
      const [near, far] = round % 2 === 0 ? adoptedPair(ctx) : await connectedPair(ctx);
      const listener = ctx.listen(abstractName());
      const requests = [
        near.recv(new Uint8Array(1)),
        near.recv(new Uint8Array(1)),
        near.readv([new Uint8Array(1)]),
        near.sendAll(new Uint8Array(16 << 20)),
        near.writev([new Uint8Array(1)]),
        listener.accept(),
        listener.accept(),
      ].map(codeOf);
      if (round % 3 !== 0) await goOn(round % 3);
      const closings = [near.close(), near.close(), listener.close()];
      assertEquals(await Promise.all(requests), requests.map(() => "ECANCELED"));
      await Promise.all([...closings, near.close()]);
      const byte = new Uint8Array(1);
      for (
        const use of [
          () => near.recv(byte),
          () => near.send(byte),
          () => near.sendAll(byte),
          () => near.readv([byte]),
          () => near.sendMessage([byte]),
          () => near.recvMessage([byte]),
          async () => await near.shutdown(),
          async () => await near.peerAddress,
          async () => await near.fd,
          () => listener.accept(),
          async () => await listener.address,
        ]
      ) {
        const error = await rejection(use());
        assert(error instanceof TypeError && /as it is closed$/.test(error.message), `${error}`);
      }
      await far.close();
    }
  },
);

eachLoop("close: an fd that does not block, as data comes", async (ctx) => {
  for (let round = 0; round < 200; round++) {
    const fds = makePair("socket");
    const near = ctx.adoptSocket(fds[0]);
    const O_NONBLOCK = 0o4000, F_SETFL = 4;
    fcntl(fds[0], F_SETFL, O_NONBLOCK);
    const control = new AbortController();
    const received = near.recv(new Uint8Array(8), { signal: control.signal });
    const settled = Promise.allSettled([received]);
    if (round % 3 !== 0) await goOn(round % 3);
    libc.write(fds[1], new Uint8Array(3), 3n);
    if (round % 4 === 0) control.abort();
    await near.close();
    const [result] = await settled;
    if (result.status === "fulfilled") assertEquals(result.value, 3, "bytes, and not events");
    libc.close(fds[1]);
  }
});

const { fcntl } = Deno.dlopen("libc.so.6", {
  fcntl: { parameters: ["i32", "i32", "i32"], result: "i32" },
}).symbols;

eachFdmon("recv: into memory that is transferred away meanwhile rejects", async (_make, fdmon) => {
  const text = importLine("AioContext", "mod.ts") + importLine("makePair", "tests/libc.ts") + `
    using ctx = new AioContext({ fdmon: "${fdmon}" });
    await ctx.run(async () => {
      const [near, far] = makePair("socket").map((fd) => ctx.adoptSocket(fd));
      const gc = (globalThis as unknown as { gc(): void }).gc;
      let rejected = 0;
      for (let round = 0; round < 200; round++) {
        let view: Uint8Array<ArrayBuffer> | null = new Uint8Array(1 << (round % 20));
        const size = Math.min(1000, view.length);
        const receiving = (round % 2 === 0 ? near.recv(view) : near.readv([view])).then(
          () => { throw new Error("received"); },
          (error) => { if (error instanceof TypeError && /transferred/.test(error.message)) rejected++; },
        );
        await Promise.resolve();
        structuredClone(view.buffer, { transfer: [view.buffer] });
        view = null;
        gc();
        await far.sendAll(new Uint8Array(size).fill(7));
        await receiving;
      }
      console.log(rejected);
      const kept = ctx.buffers.allocate(1000);
      const receiving = near.recv(kept);
      gc();
      await far.sendAll(new Uint8Array(1000).fill(9));
      console.log(await receiving, kept.every((byte) => byte === 9));
    });`;
  const words = programWords(text);
  words.splice(2, 0, "--v8-flags=--expose-gc");
  const { code, stdout, stderr } = await run(words);
  assertEquals([code, stdout], [0, "200\n1000 true\n"], stderr);
});

eachLoop("connect, listen: failures say what and where", async (ctx) => {
  await using listener = ctx.listen(LOOPBACK);
  const { address } = listener;
  const refused = ctx.listen(LOOPBACK);
  const gone = refused.address as { hostname: string; port: number };
  await refused.close();
  const folder = newFolder();
  const taken = { path: `${folder}/taken` };
  await using _local = ctx.listen(taken);
  const cases: readonly (readonly [() => Promise<unknown>, string, string])[] = [
    [
      () => ctx.connect(gone),
      "ECONNREFUSED",
      `Cannot connect to 127.0.0.1:${gone.port} as connect failed`,
    ],
    [() => ctx.connect({ ...gone, hostname: "localhost" }), "ECONNREFUSED", "Cannot connect to "],
    [() => ctx.connect({ path: `${folder}/none` }), "ENOENT", `Cannot connect to "${folder}/none"`],
    [() => ctx.connect({ path: folder }), "ECONNREFUSED", "Cannot connect to"],
    [async () => await ctx.listen(address), "EADDRINUSE", "Cannot bind fd "],
    [async () => await ctx.listen(taken), "EADDRINUSE", JSON.stringify(taken.path)],
    [async () => await ctx.listen({ path: `${folder}/none/x` }), "ENOENT", "bind failed"],
    [
      async () => await ctx.listen({ hostname: "192.0.2.1", port: 0 }),
      "EADDRNOTAVAIL",
      "bind failed",
    ],
    [async () => await ctx.adoptSocket(0x7fff_ffff), "EBADF", "not open"],
  ];
  for (const [call, code, text] of cases) {
    const error = await rejection(call()) as AioError;
    assertEquals(error.code, code, error.message);
    assert(error.message.includes(text), error.message);
  }
  const [one, other] = adoptedPair(ctx);
  const deaf = await rejection((async () => await ctx.listen({ fd: one.fd }))());
  assert(/as it is no listening socket$/.test(deaf.message), deaf.message);
  await Promise.all([one.close(), other.close()]);
  const bad: readonly (readonly [object, new (...args: never[]) => Error])[] = [
    [{ noDelay: 1 }, TypeError],
    [{ reusePort: "yes" }, TypeError],
    [{ backlog: "1" }, TypeError],
    [{ backlog: -1 }, RangeError],
    [{ backlog: 0.5 }, RangeError],
    [{ backlog: 2 ** 31 }, RangeError],
  ];
  for (const [options, kind] of bad) {
    assert(await rejection((async () => await ctx.listen(LOOPBACK, options))()) instanceof kind);
  }
  assert(await rejection(ctx.connect(address, { noDelay: 0 as never })) instanceof TypeError);
  const unknown = await rejection(ctx.connect({ hostname: "nobody.invalid", port: 1 }));
  assert(unknown.message.startsWith('Cannot look up "nobody.invalid": '), unknown.message);
});

eachLoop("setFdHandler: beside requests that wait is a clear error without a ring", async (ctx) => {
  const [near, far] = adoptedPair(ctx);
  const byte = new Uint8Array(1), ring = ctx.fdmon.name === "io_uring";
  let reads = 0;
  const handler = { ioRead: () => (reads++, ctx.setFdHandler(near.fd, null)) };
  // Nobody waits any more, although the fd may still be watched.
  const first = near.recv(byte);
  await goOn(1);
  await far.send(byte);
  await first;
  ctx.setFdHandler(near.fd, handler);
  const second = ring ? null : await codeOf(near.recv(byte));
  assert(ring || second === "EBUSY", `${second}`);
  await far.send(byte);
  while (reads === 0) await goOn(1);
  assertEquals(await near.recv(byte), 1);
  const waiting = near.recv(byte);
  await goOn(1);
  const error = await rejection((async () => await ctx.setFdHandler(near.fd, handler))())
    .catch(() => null);
  if (ring) {
    assertEquals(error, null);
    ctx.setFdHandler(near.fd, null);
  } else assert(/as requests wait for it/.test(error!.message), `${error}`);
  await far.send(byte);
  assertEquals(await waiting, 1);
  await near.close();
  await far.close();
});

eachLoop(
  "adoptSocket: a number that was watched for an fd closed by somebody else",
  async (ctx) => {
    const [one, other] = makePair("socket");
    const buffer = ctx.buffers.allocate(1);
    const added = new Promise((done) => ctx.addSqe((sqe) => sqe.recv(one, buffer), done));
    await goOn(1);
    libc.write(other, Uint8Array.of(1), 1n);
    assertEquals(await added, 1);
    libc.close(one);
    libc.close(other);
    const sockets: AioSocket[] = [];
    for (let pairs = 0; !sockets.some(({ fd }) => fd === one); pairs++) {
      assert(pairs < 20, "the number is given out again");
      sockets.push(...adoptedPair(ctx));
    }
    for (let at = 0; at < sockets.length; at += 2) {
      for (const [near, far] of [[sockets[at], sockets[at + 1]], [sockets[at + 1], sockets[at]]]) {
        const waiting = near.recv(new Uint8Array(1));
        await goOn(1);
        await far.send(new Uint8Array(1));
        assertEquals(await waiting, 1);
      }
    }
    for (const socket of sockets) await socket.close();
  },
);
