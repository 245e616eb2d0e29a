/** Requests on pipes and sockets: turns are kept, nobody blocks a thread, and closing is heard of. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { type AioContext, AioError, type PrepareSqe } from "../mod.ts";
import { Errno } from "../ffi/errno.ts";
import { importLine, newFolder, programWords, run } from "./child.ts";
import { eachFdmon } from "./each_fdmon.ts";
import { libc, makePair } from "./libc.ts";
import { countFds } from "./open_files.ts";
import { pollUntil } from "./poll_until.ts";
import { openNew, pattern, rejection } from "./test_files.ts";

const IN = 1, OUT = 4, PRI = 2, RDHUP = 0x2000;
const PIPE_BYTES = 65_536;

function add(ctx: AioContext, results: string[], name: string, prepare: PrepareSqe) {
  return ctx.addSqe(prepare, (result) => results.push(`${name} ${result}`));
}

eachFdmon("read: of many readers of a pipe each byte has one, and files go on meanwhile", async (
  makeContext,
) => {
  const fds = countFds();
  const [input, output] = makePair("pipe");
  const ctx = makeContext();
  const silent: Promise<Error>[] = [];
  await ctx.run(async () => {
    const reader = await ctx.openFile({ fd: input });
    // More than there are threads: if each took one, nothing would be left for the file.
    const buffers = Array.from({ length: 20 }, () => new Uint8Array(1));
    const settled: number[] = [];
    const reads = buffers.map((buffer) =>
      reader.read(buffer, 0).then((count) => void settled.push(count, buffer[0]))
    );
    for (let byte = 1; byte <= 12; byte++) {
      libc.write(output, new Uint8Array([byte]), 1n);
      while (settled.length < 2 * byte) {
        await Promise.race(reads.filter((_, at) => !buffers[at][0]));
      }
      assertEquals(settled.slice(-2), [1, byte]);
    }
    await using file = await openNew(ctx);
    assertEquals(await file.write(pattern(5), 0), 5);
    silent.push(...reads.filter((_, at) => !buffers[at][0]).map(rejection));
  });
  ctx[Symbol.dispose]();
  assertEquals(silent.length, 8);
  for (const error of await Promise.all(silent)) {
    assertEquals((error as AioError).code, "ECANCELED");
  }
  libc.close(input);
  libc.close(output);
  assertEquals(countFds(), fds, "open fds");
});

eachFdmon("write: a full pipe makes writers wait, in their order", async (makeContext) => {
  const [input, output] = makePair("pipe");
  using ctx = makeContext();
  await ctx.run(async () => {
    await using reader = await ctx.openFile({ fd: input });
    await using writer = await ctx.openFile({ fd: output }, { write: true });
    const parts = Array.from({ length: 12 }, (_, index) => pattern(PIPE_BYTES / 4, index));
    const writes = parts.map((part) => writer.write(part, 0));
    const received = new Uint8Array(PIPE_BYTES / 4);
    for (const part of parts) {
      for (let done = 0; done < part.length;) {
        done += await reader.read(received.subarray(done), 0);
      }
      assertEquals(received, part);
    }
    assertEquals(await Promise.all(writes), parts.map(({ length }) => length));
  });
  // A ring lets them go in any order, and may transfer parts.
}, ["epoll", "poll"]);

eachFdmon("pollAdd: is not held up by who waits for bytes", (makeContext) => {
  using ctx = makeContext();
  const [left, right] = makePair("socket");
  const buffer = ctx.buffers.allocate(8);
  const results: string[] = [];
  const recv = add(ctx, results, "recv", (sqe) => sqe.recv(left, buffer));
  add(ctx, results, "poll both", (sqe) => sqe.pollAdd(left, IN | OUT));
  const poll = add(ctx, results, "poll in", (sqe) => sqe.pollAdd(left, IN));
  pollUntil(ctx, () => results.length === 1);
  assertEquals(results, [`poll both ${OUT}`]);
  // The fd is always writable: nobody may be woken for that any more.
  const polls = ctx.stats().polls;
  const timer = ctx.timer(() => poll.cancel());
  timer.arm(ctx.now() + 20e6);
  pollUntil(ctx, () => results.length === 2);
  assert(ctx.stats().polls - polls < 20, `${ctx.stats().polls - polls} polls`);
  assertEquals(results.splice(0).at(-1), `poll in ${-Errno.ECANCELED}`);
  add(ctx, results, "poll in", (sqe) => sqe.pollAdd(left, IN));
  ctx.poll(false);
  libc.write(right, new Uint8Array(3), 3n);
  pollUntil(ctx, () => results.length === 2);
  assertEquals(results.sort(), ["poll in 1", "recv 3"]);
  assert(!recv.inFlight);
  libc.close(left);
  libc.close(right);
});

eachFdmon("pollAdd: events that cannot be watched are refused", (makeContext) => {
  using ctx = makeContext();
  const [left, right] = makePair("socket");
  for (const events of [0, PRI, RDHUP, IN | RDHUP]) {
    const error = assertThrows(
      () => ctx.addSqe((sqe) => sqe.pollAdd(left, events), () => {}),
      AioError,
      `Cannot wait for the events ${events} of fd ${left}`,
    );
    assertEquals(error.code, "EOPNOTSUPP");
  }
  libc.close(left);
  libc.close(right);
}, ["epoll", "poll"]);

eachFdmon("addSqe: closing an fd ends the requests that wait for it", (makeContext) => {
  using ctx = makeContext();
  const [left, right] = makePair("socket");
  const buffer = ctx.buffers.allocate(8);
  const results: string[] = [];
  add(ctx, results, "recv", (sqe) => sqe.recv(left, buffer));
  add(ctx, results, "poll", (sqe) => sqe.pollAdd(left, IN));
  ctx.poll(false);
  add(ctx, results, "close", (sqe) => sqe.close(left));
  pollUntil(ctx, () => results.length === 3);
  assertEquals(results.sort(), ["close 0", "poll -125", "recv -125"]);
  libc.close(right);
}, ["epoll", "poll"]);

eachFdmon("addSqe: leaves an fd alone once nobody waits for it", (makeContext) => {
  using ctx = makeContext();
  const buffer = ctx.buffers.allocate(8);
  let left = -1;
  for (let round = 0; round < 3; round++) {
    // The number is the same each time, and nobody tells the loop that it was closed.
    const [fd, peer] = makePair("socket");
    if (round !== 0) assertEquals(fd, left);
    left = fd;
    const results: string[] = [];
    add(ctx, results, "recv", (sqe) => sqe.recv(left, buffer));
    ctx.poll(false);
    libc.write(peer, new Uint8Array(3), 3n);
    pollUntil(ctx, () => results.length === 1);
    assertEquals(results, ["recv 3"]);
    add(ctx, results, "recv", (sqe) => sqe.recv(left, buffer)).cancel();
    pollUntil(ctx, () => results.length === 2);
    let reads = 0;
    ctx.setFdHandler(left, { ioRead: () => reads += Number(libc.read(left, buffer, 8n)) });
    libc.write(peer, new Uint8Array(5), 5n);
    pollUntil(ctx, () => reads === 5);
    ctx.setFdHandler(left, null);
    ctx.poll(false);
    libc.close(left);
    libc.close(peer);
  }
});

// io_uring opens a FIFO for reading at once.
for (const fdmon of ["epoll", "poll"]) {
  Deno.test(`dispose: does not hang for an open that never ends (${fdmon})`, async () => {
    const fifo = `${newFolder()}/fifo`;
    await run(["mkfifo", fifo]);
    const { code, stdout, stderr } = await run(programWords(
      importLine("AioContext", "mod.ts") + `
        const ctx = new AioContext({ fdmon: "${fdmon}" });
        const opened = ctx.openFile("${fifo}");
        ctx.poll(false);
        ctx[Symbol.dispose]();
        await opened.catch((error) => console.log(error.code));`,
    ));
    assertEquals([code, stdout, stderr], [0, "ECANCELED\n", ""]);
  });
}
