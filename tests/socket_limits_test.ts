/** Sockets where something runs out, in great numbers, and given values of all sorts. */
import { assert, assertEquals } from "@std/assert";
import { AioError, type AioSocket } from "../mod.ts";
import { after, importLine, programWords, run } from "./child.ts";
import { eachFdmon } from "./each_fdmon.ts";
import { countFds, countingFds } from "./open_files.ts";
import { anyValue, Random } from "./random_values.ts";
import {
  abstractName,
  adoptedPair,
  connectedPair,
  eachLoop,
  LOOPBACK,
  SEED,
} from "./test_sockets.ts";

eachFdmon("AioListener: waits when fds run out, and goes on later", async (_, fdmon) => {
  const text = importLine("AioContext", "mod.ts") + importLine("libc", "tests/libc.ts") + `
    // What Deno opens lazily, and does not survive without.
    const ignore = () => {};
    Deno.addSignalListener("SIGUSR2", ignore);
    Deno.removeSignalListener("SIGUSR2", ignore);
    using ctx = new AioContext({ fdmon: "${fdmon}" });
    await ctx.run(async () => {
      const listener = ctx.listen({ path: "\\0aio_limits_" + Deno.pid });
      const clients = [];
      for (let number = 0; number < 5; number++) clients.push(await ctx.connect(listener.address));
      await (await listener.accept()).close();
      await new Promise((done) => setTimeout(done, 1));
      const fds: number[] = [];
      for (let fd; (fd = libc.dup(0)) >= 0;) fds.push(fd);
      const codes = await Promise.all(
        [listener.accept(), ctx.connect(listener.address)].map((made) =>
          made.then(() => "made", ({ code }) => code)
        ),
      );
      let accepted = 0;
      const serving = (async () => {
        for await (const socket of listener) {
          accepted++;
          await socket.close();
        }
      })();
      const { systemCalls } = ctx.stats();
      await new Promise((done) => setTimeout(done, 300));
      const calls = ctx.stats().systemCalls - systemCalls, early = accepted;
      for (const fd of fds) libc.close(fd);
      while (accepted < 4) await new Promise((done) => setTimeout(done, 1));
      console.log(JSON.stringify({ codes, early, calls }));
      await listener.close();
      await serving;
      for (const socket of clients) await socket.close();
    });`;
  const words = after("ulimit -n 150", programWords(text));
  const { code, stdout, stderr } = await run(words);
  assertEquals(code, 0, stdout + stderr);
  const { codes, early, calls } = JSON.parse(stdout);
  assertEquals([codes, early], [["EMFILE", "EMFILE"], 0]);
  // Some 6 tries at accepting, and the turns of the loop, each of which sleeps for milliseconds.
  assert(calls < 100, stdout);
});

eachLoop(
  "connect, accept: thousands of connections come and go, and leave nothing",
  async (ctx) => {
    await using listener = ctx.listen(abstractName());
    const serving = (async () => {
      const byte = ctx.buffers.allocate(1);
      for await (const socket of listener) {
        if (await socket.recv(byte) === 1) await socket.send(byte);
        await socket.close();
      }
    })();
    const byte = new Uint8Array(1);
    const serve = async (times: number) => {
      for (let number = 0; number < times; number++) {
        const client = await ctx.connect(listener.address);
        // One in four is dropped without a word.
        if (number % 4 !== 0) {
          await client.send(byte);
          assertEquals(await client.recv(byte), 1);
        }
        await client.close();
      }
    };
    await serve(500);
    const fds = countFds(), { handlers } = ctx.stats(), memory = Deno.memoryUsage().rss;
    await serve(3500);
    assert(countFds() <= fds + 2, "fds");
    assertEquals(ctx.stats().handlers, handlers);
    const grown = Deno.memoryUsage().rss - memory;
    // 10 KiB for each connection, if they were kept, is 35 MB; garbage comes and goes.
    assert(grown < 60e6, `${grown} bytes more`);
    await listener.close();
    await serving;
  },
);

eachFdmon(
  "dispose: ends thousands of requests in flight",
  (makeContext) =>
    countingFds(async () => {
      const ctx = makeContext();
      const sockets: AioSocket[] = [], codes: Promise<string>[] = [];
      const codeOf = (promise: Promise<unknown>) =>
        promise.then(() => "done", (error: AioError) => error.code);
      const listener = ctx.listen(LOOPBACK);
      for (let pair = 0; pair < 500; pair++) {
        const [near, far] = adoptedPair(ctx);
        sockets.push(near, far);
        for (let number = 0; number < 3; number++) {
          codes.push(codeOf(near.recv(new Uint8Array(1))));
          codes.push(codeOf(far.readv([ctx.buffers.allocate(1)])));
        }
        codes.push(codeOf(near.sendAll(new Uint8Array(1 << 19))));
        codes.push(codeOf(listener.accept()));
      }
      ctx.poll(false);
      ctx[Symbol.dispose]();
      const ended = await Promise.all(codes);
      assertEquals(ended.length, 4000);
      // Those that receive at the other end may have some of what is sent.
      const cancelled = ended.filter((code) => code === "ECANCELED").length;
      assert(cancelled >= 2000, `${cancelled}: ${[...new Set(ended)]}`);
      for (const socket of [...sockets, listener]) await socket.close();
    })(),
);

/** What a caller may be told, and nothing of our own faults. */
function judge(error: unknown, what: string): void {
  if (error instanceof AioError) return;
  assert(error instanceof Error, `${what}: ${Deno.inspect(error)}`);
  const { message } = error;
  if (message.startsWith("thrown by a value")) return;
  if (message.startsWith("Cannot look up")) return;
  const known = error instanceof TypeError || error instanceof RangeError;
  const inner =
    /assertion failed|^Cannot (read|set) prop|not iterable|'in' operator|BigInt|to primitive/;
  assert(known && !inner.test(message), `${what}: ${error.stack}`);
}

eachLoop(`sockets: refuse values of all sorts (AIO_TEST_SEED=${SEED})`, async (ctx) => {
  const random = new Random(SEED);
  // deno-lint-ignore no-explicit-any
  const any = (): any => anyValue(random);
  const [near, far] = await connectedPair(ctx, abstractName());
  const [one, other] = adoptedPair(ctx);
  // fds that are someone's must not be adopted, so numbers are of none.
  const noFd = (): unknown => {
    const value = any();
    return typeof value === "number" && value >= 0 && value < 1e5 ? value + 1e6 : value;
  };
  // Unless refused, what is random ends soon: nobody lets a test wait.
  const options = () => {
    const control = new AbortController();
    setTimeout(() => control.abort(new TypeError("ended")), 0);
    return control;
  };
  const object = (...names: string[]) => {
    if (random.once(5)) return any();
    return Object.fromEntries(names.map((name) => [name, any()]));
  };
  const calls: readonly (() => unknown)[] = [
    () => ctx.listen(object("path"), object("backlog", "reusePort", "noDelay")),
    () => ctx.listen(object("hostname", "port")),
    () => ctx.listen({ path: abstractName().path }, object("noDelay", "reusePort")),
    () => ctx.listen({ fd: noFd() as number }),
    () => ctx.connect({ path: any() }, object("signal", "noDelay")),
    () => ctx.connect({ hostname: random.once(2) ? any() : "127.0.0.1", port: any() }),
    () => ctx.connect(listener.address, object("signal")),
    () => ctx.adoptSocket(noFd() as number),
    () => near.send(any(), object("signal")),
    () => near.sendAll(any()),
    () => near.writev(any()),
    () => near.writev([any(), any()]),
    () => near.sendMessage(any(), any(), any()),
    () => near.sendMessage([new Uint8Array(1)], [noFd() as number]),
    () => far.recv(any(), { signal: random.once(2) ? any() : options().signal }),
    () => far.readv([any()], options()),
    () => far.readv(any(), options()),
    () => far.recvMessage(any(), { fdsMax: any(), signal: options().signal }),
    () =>
      far.recvMessage([new Uint8Array(1)], { fdsMax: any(), signal: any() ?? options().signal }),
    () => listener.accept({ signal: any() ?? options().signal }),
    () => one.shutdown(any()),
  ];
  const listener = ctx.listen(abstractName(), { backlog: 4096 });
  const pending: Promise<void>[] = [];
  for (let round = 0; round < 3000; round++) {
    const index = random.below(calls.length), what = `round ${round}, ${calls[index]}`;
    const settle = async (made: Promise<unknown>) => {
      try {
        const result = await made as { close?: () => Promise<void>; fds?: readonly number[] };
        if (typeof result?.close === "function") await result.close();
        assertEquals(result?.fds ?? [], []);
      } catch (error) {
        judge(error, what);
      }
    };
    try {
      const result = calls[index]();
      pending.push(settle(Promise.resolve(result)));
    } catch (error) {
      judge(error, what);
    }
  }
  // Those that none of the values ended.
  await new Promise((done) => setTimeout(done, 20));
  await Promise.all([near.close(), far.close(), one.close(), other.close(), listener.close()]);
  await Promise.all(pending);
});
