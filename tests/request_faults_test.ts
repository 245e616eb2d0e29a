/** Requests that fail, are cancelled, or are in flight when the context is disposed. */
import { assert, assertEquals, assertStrictEquals } from "@std/assert";
import { type AioContext, type AioError, EventNotifier } from "../mod.ts";
import { Errno } from "../ffi/errno.ts";
import { importLine, newFolder, programWords, run } from "./child.ts";
import { eachFdmon, FDMONS } from "./each_fdmon.ts";
import { libc, makePair } from "./libc.ts";
import { afterMounts, testWithMounts } from "./mounts.ts";
import { countFds, ringMappings } from "./open_files.ts";
import { pollUntil } from "./poll_until.ts";
import { Random } from "./random_values.ts";
import { newPath, openNew, pattern, rejection } from "./test_files.ts";

const SEED = Number(Deno.env.get("AIO_ABORT_SEED") ?? Date.now() % 1e6);
const ABORTS = 10_000;
const IN = 1;

const codeOf = async (promise: Promise<unknown>) => ((await rejection(promise)) as AioError).code;

const threads = () => [...Deno.readDirSync("/proc/self/task")].length;

/** Threads of a ring end some time after it. */
async function requireThreads(count: number): Promise<void> {
  for (let looks = 0; threads() > count; looks++) {
    assert(looks < 1000, `${threads() - count} threads are left`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

for (const fdmon of FDMONS) {
  testWithMounts(`write: a full disk is a short write, then ENOSPC (${fdmon})`, async () => {
    const folder = newFolder();
    const words = programWords(
      importLine("AioContext", "mod.ts") + `
      using ctx = new AioContext({ fdmon: "${fdmon}" });
      await ctx.run(async () => {
        await using file = await ctx.openFile("${folder}/file", { write: true, create: true });
        const say = (promise) => promise.then(console.log, (error) => console.log(error.message));
        await say(file.write(ctx.buffers.allocate(100_000), 0));
        await say(file.write(new Uint8Array(4096), 65536));
        await say(file.writev([new Uint8Array(4096), new Uint8Array(4096)], 61440));
        await say(file.fallocate("allocate", 65536, 4096));
        await say(file.write(new Uint8Array(2 << 20), 0));
        console.log((await file.stat()).size);
      });`,
    );
    const mount = `mount -t tmpfs -o size=65536 tmpfs ${folder}`;
    const { code, stdout, stderr } = await run(afterMounts(mount, words));
    assertEquals([code, stderr], [0, ""]);
    assertEquals(stdout.replace(/fd \d+/g, "fd").split("\n"), [
      "65536",
      "Cannot write fd as write failed: ENOSPC",
      "4096",
      "Cannot allocate room in fd as fallocate failed: ENOSPC",
      "65536",
      "65536",
      "",
    ]);
  });

  Deno.test(`write: a pipe without a reader is EPIPE and no signal (${fdmon})`, async () => {
    const { code, stdout, stderr } = await run(programWords(
      importLine("AioContext", "mod.ts") + importLine("libc, makePair", "tests/libc.ts") + `
      using ctx = new AioContext({ fdmon: "${fdmon}" });
      await ctx.run(async () => {
        for (const kind of ["pipe", "socket"]) {
          const [input, output] = makePair(kind);
          await using file = await ctx.openFile({ fd: output }, { write: true });
          const full = file.write(new Uint8Array(1 << 20), 0).catch((error) => error.code);
          ctx.poll(false);
          libc.close(input);
          const late = await full;
          console.log(kind, typeof late === "number" || late === "EPIPE");
          console.log(await file.write(new Uint8Array(9), 0).catch((error) => error.message));
        }
      });`,
    ));
    assertEquals([code, stderr], [0, ""]);
    const end = "Cannot write fd as write failed: EPIPE";
    const lines = stdout.replace(/fd \d+/g, "fd").split("\n");
    assertEquals(lines, ["pipe true", end, "socket true", end, ""]);
  });
}

eachFdmon("AioFile: errors of the system have its name, the call and the fd", async (
  makeContext,
) => {
  using ctx = makeContext();
  await ctx.run(async () => {
    await using mem = await ctx.openFile("/proc/self/mem");
    const buffer = new Uint8Array(8);
    const error = (await rejection(mem.read(buffer, 0))) as AioError;
    assertEquals([error.code, error.errno, error.syscall], ["EIO", 5, "read"]);
    assertEquals(error.message, `Cannot read fd ${mem.fd} as read failed: EIO`);
    await using full = await ctx.openFile("/dev/full", { read: true, write: true });
    assertEquals(await codeOf(full.write(buffer, 0)), "ENOSPC");
    assertEquals(await codeOf(full.writev([buffer, ctx.buffers.allocate(8)], 0)), "ENOSPC");
    await using folder = await ctx.openFile("/tmp");
    assertEquals(await codeOf(folder.read(buffer, 0)), "EISDIR");
    await using file = await openNew(ctx);
    assertEquals(await codeOf(file.truncate(2 ** 53 - 1)), "EFBIG");
  });
});

eachFdmon("AioFile: a signal that is aborted before, while and after", async (makeContext) => {
  const [input, output] = makePair("pipe");
  using ctx = makeContext();
  await ctx.run(async () => {
    await using reader = await ctx.openFile({ fd: input });
    const buffer = new Uint8Array(8), reason = new Error("enough");
    const aborted = AbortSignal.abort(reason);
    assertStrictEquals(await rejection(reader.read(buffer, 0, { signal: aborted })), reason);
    assertStrictEquals(await rejection(ctx.openFile("/tmp", { signal: aborted })), reason);
    for (const polls of [0, 1, 3]) {
      const controller = new AbortController();
      const read = rejection(reader.read(buffer, 0, controller));
      const vector = rejection(reader.readv([ctx.buffers.allocate(8)], 0, controller));
      for (let poll = 0; poll < polls; poll++) ctx.poll(false);
      controller.abort(reason);
      assertStrictEquals(await read, reason);
      assertStrictEquals(await vector, reason);
    }
    libc.write(output, new Uint8Array([1, 2, 3]), 3n);
    const controller = new AbortController();
    assertEquals(await reader.read(buffer, 0, controller), 3);
    controller.abort();
    assertEquals(buffer.slice(0, 3), new Uint8Array([1, 2, 3]));
  });
  libc.close(output);
});

eachFdmon("AioFile: aborts at any time lose no request and no byte", async (makeContext) => {
  const random = new Random(SEED);
  const [input, output] = makePair("pipe");
  using ctx = makeContext();
  await ctx.run(async () => {
    await using file = await openNew(ctx);
    await file.write(pattern(4096), 0);
    await using reader = await ctx.openFile({ fd: input });
    let sent = 0, received = 0, reads = 0, aborted = 0;
    const abortAfter = (controller: AbortController, iterations: number): void => {
      if (iterations === 0) return controller.abort();
      ctx.scheduleOneshot(() => abortAfter(controller, iterations - 1));
    };
    const one = async () => {
      const controller = new AbortController(), buffer = new Uint8Array(16);
      const fromPipe = random.once(2);
      const result = fromPipe
        ? reader.read(buffer, 0, controller)
        : file.read(buffer, random.below(4000), controller);
      const when = random.below(4);
      if (when === 0) controller.abort();
      else if (when === 1) queueMicrotask(() => controller.abort());
      else if (when === 2) ctx.scheduleOneshot(() => controller.abort());
      // Its byte may be taken by another one, so that it would wait for ever.
      else if (fromPipe) abortAfter(controller, 5);
      if (fromPipe && (when === 3 || random.once(2))) {
        sent += Number(libc.write(output, new Uint8Array([1]), 1n));
      }
      try {
        const count = await result;
        reads++;
        if (fromPipe) received += count;
        else assertEquals(count, 16);
      } catch (error) {
        assertEquals((error as Error).name, "AbortError");
        aborted++;
      }
    };
    for (let round = 0; round < ABORTS / 10; round++) {
      await Promise.all(Array.from({ length: 10 }, one));
    }
    assertEquals(reads + aborted, ABORTS, `AIO_ABORT_SEED=${SEED}`);
    assert(reads > 1000 && aborted > 1000, `${reads} reads, ${aborted} aborted`);
    while (received < sent) received += await reader.read(new Uint8Array(999), 0);
    assertEquals(received, sent, `AIO_ABORT_SEED=${SEED}`);
  });
  libc.close(output);
});

eachFdmon("dispose: with requests in flight all promises reject, and nothing is left", async (
  makeContext,
) => {
  for (const polls of [0, 1, 5]) {
    const before = { fds: countFds(), rings: ringMappings(), threads: threads() };
    const [input, output] = makePair("pipe");
    const ctx: AioContext = makeContext();
    const pending: Promise<string>[] = [];
    const late: Promise<void>[] = [];
    await ctx.run(async () => {
      const reader = await ctx.openFile({ fd: input });
      const file = await openNew(ctx);
      await file.write(new Uint8Array(4096), 0);
      const controller = new AbortController();
      const requests = [
        reader.read(new Uint8Array(8), 0, controller),
        reader.readv([ctx.buffers.allocate(8)], 0),
        file.read(ctx.buffers.allocate(4096), 0, {}),
        file.write(new Uint8Array(4096), 0),
        file.fsync(),
        file.stat(),
        file.truncate(5),
        ctx.openFile("/tmp"),
        openNew(ctx),
      ];
      pending.push(...requests.map(codeOf));
      for (let poll = 0; poll < polls; poll++) ctx.poll(false);
      // What closing waits for ends with the context, and then the file is closed all the same.
      late.push(reader.close(), file.close());
      if (polls === 5) return;
      ctx[Symbol.dispose]();
      controller.abort();
    }).catch(() => {});
    ctx[Symbol.dispose]();
    const results = await Promise.allSettled(pending);
    for (const result of results) {
      // Some are complete before, and have opened a file: those cannot have rejected.
      if (result.status === "fulfilled") assertEquals(result.value, "ECANCELED");
      else assert(polls > 0, `${result.reason}`);
    }
    assertEquals((results[0] as { value: string }).value, "ECANCELED");
    await Promise.all(late);
    libc.close(output);
    if (polls !== 0) continue;
    assertEquals(countFds(), before.fds, "open fds");
    assertEquals(ringMappings(), before.rings, "mappings");
    await requireThreads(before.threads);
  }
});

eachFdmon("addSqe: thousands at once, more than fit into any ring", (makeContext) => {
  using ctx = makeContext();
  using notifier = new EventNotifier();
  let nops = 0, polls = 0, cancelled = 0;
  for (let index = 0; index < 20_000; index++) ctx.addSqe((sqe) => sqe.nop(), () => nops++);
  pollUntil(ctx, () => nops === 20_000);
  for (let index = 0; index < 20_000; index++) {
    ctx.addSqe((sqe) => sqe.pollAdd(notifier.fd, IN), (events) => polls += events);
  }
  ctx.poll(false);
  assertEquals(polls, 0);
  notifier.set();
  pollUntil(ctx, () => polls === 20_000);
  notifier.testAndClear();
  const requests = Array.from(
    { length: 10_000 },
    () =>
      ctx.addSqe((sqe) => sqe.pollAdd(notifier.fd, IN), (result) => {
        assertEquals(result, -Errno.ECANCELED);
        cancelled++;
      }),
  );
  ctx.poll(false);
  for (const request of requests) request.cancel();
  pollUntil(ctx, () => cancelled === 10_000);
});

eachFdmon("AioFile: thousands of requests at once", async (makeContext) => {
  using ctx = makeContext();
  await ctx.run(async () => {
    const path = newPath();
    await using file = await ctx.openFile(path, { read: true, write: true, create: true });
    const bytes = pattern(5000);
    const buffer = ctx.buffers.allocate(5000);
    buffer.set(bytes);
    const writes = Array.from(bytes, (_, at) => file.write(buffer.subarray(at, at + 1), at));
    assertEquals(new Set(await Promise.all(writes)), new Set([1]));
    assertEquals(await Deno.readFile(path), bytes);
    buffer.fill(0);
    const reads = Array.from(bytes, (_, at) => file.read(buffer.subarray(at, at + 1), at, {}));
    await Promise.all(reads);
    assertEquals(buffer.slice(), bytes);
  });
});
