/** Messages of sockets: data with open files, of which none is lost and none is doubled. */
import { assert, assertEquals } from "@std/assert";
import { type AioContext, AioError, type AioSocket } from "../mod.ts";
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
  SEED,
} from "./test_sockets.ts";

const FDS_MAX = 253;

/** What tells one open file from another. */
function identify(fd: number): string {
  return Deno.readLinkSync(`/proc/self/fd/${fd}`);
}

function close(fds: readonly number[]): void {
  for (const fd of fds) libc.close(fd);
}

/** Runs a part of a test with a pair of sockets and some pipes. */
async function withPipes(
  ctx: AioContext,
  test: (near: AioSocket, far: AioSocket, pipes: number[]) => Promise<void>,
): Promise<void> {
  for (const pair of [adoptedPair(ctx), await connectedPair(ctx, abstractName())]) {
    await using near = pair[0], far = pair[1];
    const pipes = Array.from({ length: 3 }, () => makePair("pipe")).flat();
    await test(near, far, pipes);
    close(pipes);
  }
}

eachLoop(`sendMessage, recvMessage: random data and fds (AIO_TEST_SEED=${SEED})`, async (ctx) => {
  const random = new Random(SEED);
  await withPipes(ctx, async (near, far, pipes) => {
    for (let round = 0; round < 100; round++) {
      const fds = Array.from({ length: random.below(9) }, () => random.pick(pipes));
      const make = (length: number) =>
        random.once(2) ? new Uint8Array(length) : ctx.buffers.allocate(length);
      const out = [make(1 + random.below(900)), make(1 + random.below(900))];
      out.forEach((view, index) => view.set(pattern(view.length, round + index)));
      const incoming = [make(300), make(1700)];
      const first = random.once(2) ? near.sendMessage(out, fds) : null;
      const receiving = far.recvMessage(incoming, { fdsMax: 8 });
      if (first === null) await goOn(1);
      const sent = await (first ?? near.sendMessage(out, fds));
      const { byteLength, fds: arrived, fdsTruncated } = await receiving;
      const all = out.flatMap((view) => [...view]);
      assertEquals([sent, byteLength, fdsTruncated], [all.length, all.length, false]);
      assertEquals(incoming.flatMap((view) => [...view]).slice(0, byteLength), all);
      assertEquals(arrived.map(identify), fds.map(identify));
      close(arrived);
    }
  });
});

eachLoop("recvMessage: 253 fds, and those there is no room for are closed", async (ctx) => {
  await withPipes(ctx, async (near, far, pipes) => {
    const byte = [new Uint8Array(1)];
    for (const [sent, room] of [[FDS_MAX, FDS_MAX], [FDS_MAX, 5], [4, 3], [3, 0], [1, 1]]) {
      const fds = Array.from({ length: sent }, (_, index) => pipes[index % pipes.length]);
      assertEquals(await near.sendMessage(byte, fds), 1);
      const before = countFds();
      const message = await far.recvMessage(byte, room === 0 ? undefined : { fdsMax: room });
      assertEquals([message.fds.length, message.fdsTruncated], [Math.min(sent, room), room < sent]);
      assertEquals(countFds() - before, message.fds.length, "no others are open");
      assertEquals(message.fds.map(identify), fds.slice(0, room).map(identify));
      close(message.fds);
    }
    // What is received in another way brings no fds.
    const before = countFds();
    for (const receive of [() => far.recv(byte[0]), () => far.readv(byte)]) {
      await near.sendMessage(byte, pipes);
      assertEquals(await receive(), 1);
    }
    assertEquals(countFds(), before);
  });
});

eachLoop("sendMessage: refuses fds that are none, too many, or without data", async (ctx) => {
  await withPipes(ctx, async (near, far, pipes) => {
    const byte = [new Uint8Array(1)];
    const bad: readonly [unknown, new (...args: never[]) => Error][] = [
      [null, TypeError],
      [7, TypeError],
      [new Int32Array(2), TypeError],
      [["3"], TypeError],
      [[3n], TypeError],
      [[-1], RangeError],
      [[0.5], RangeError],
      [[2 ** 32 + pipes[0]], RangeError],
      [[NaN], RangeError],
      [new Array(2), TypeError],
      [new Array(FDS_MAX + 1).fill(pipes[0]), RangeError],
    ];
    for (const [fds, kind] of bad) {
      const error = await rejection(near.sendMessage(byte, fds as number[]));
      assert(error instanceof kind && error.message.startsWith("Cannot "), Deno.inspect(fds));
    }
    for (const views of [[], [new Uint8Array(0)]]) {
      const error = await rejection(near.sendMessage(views, pipes));
      assert(error instanceof RangeError, `${error}`);
    }
    const closed = libc.dup(pipes[0]);
    libc.close(closed);
    assertEquals(await codeOf(near.sendMessage(byte, [pipes[0], closed])), "EBADF");
    // An array that changes, or has any iterator, is read once.
    let reads = 0;
    const fds = [pipes[0]];
    Object.defineProperty(fds, 0, { get: () => pipes[reads++] });
    fds[Symbol.iterator] = () => [1, 2, 3, 4].values();
    assertEquals(await near.sendMessage(byte, fds), 1);
    const { fds: arrived } = await far.recvMessage(byte, { fdsMax: 9 });
    assertEquals(arrived.map(identify), [identify(pipes[0])]);
    assertEquals(reads, 1);
    close(arrived);
    for (const fdsMax of [-1, 254, 0.5, NaN, "1", null as never]) {
      if (fdsMax === null) continue;
      const receiving = far.recvMessage(byte, { fdsMax: fdsMax as number });
      assert(await rejection(receiving) instanceof RangeError);
    }
  });
});

eachLoop(
  "recvMessage: fds are not lost when it is cancelled, or its buffer is gone",
  async (ctx) => {
    await withPipes(ctx, async (near, far, pipes) => {
      const byte = [new Uint8Array(1)], before = countFds();
      let kept = 0, cancelled = 0;
      for (let round = 0; round < 60; round++) {
        const control = new AbortController();
        const receiving = far.recvMessage([new Uint8Array(1)], {
          fdsMax: 4,
          signal: control.signal,
        });
        if (round % 4 === 1) {
          receiving.catch(() => {}); // It is looked at below.
          await goOn(1);
          control.abort();
          await goOn(1);
        }
        const sending = near.sendMessage(byte, pipes.slice(0, 3));
        for (let jobs = 0; jobs < round % 10; jobs++) await Promise.resolve();
        if (round % 3 === 0) await goOn(1);
        control.abort();
        await sending;
        const [settled] = await Promise.allSettled([receiving]);
        if (settled.status === "rejected") {
          assertEquals(settled.reason, control.signal.reason);
          cancelled++;
        }
        const { fds } = settled.status === "fulfilled"
          ? settled.value
          : await far.recvMessage([new Uint8Array(1)], { fdsMax: 4 });
        kept += fds.length;
        close(fds);
      }
      assertEquals(kept, 60 * 3, "each came once");
      assert(cancelled > 0);

      const gone = new Uint8Array(1);
      const receiving = far.recvMessage([gone], { fdsMax: 4 });
      await goOn(1);
      gone.buffer.transfer();
      await near.sendMessage(byte, pipes);
      const error = await rejection(receiving);
      assert(error instanceof TypeError && error.message.includes("transferred"), `${error}`);
      assertEquals(countFds(), before);
    });
  },
);

eachLoop(
  "close, dispose: fds in messages on their way are closed or handed out",
  async (ctx, makeContext) => {
    const [reader, writer] = makePair("pipe");
    for (let round = 0; round < 30; round++) {
      const [near, far] = adoptedPair(ctx);
      const receiving = far.recvMessage([new Uint8Array(9)], { fdsMax: 4 });
      const sending = near.sendMessage([new Uint8Array(1)], [reader, writer]);
      if (round % 2 === 0) await goOn(round % 3);
      const closing = far.close();
      const [settled] = await Promise.allSettled([receiving]);
      if (settled.status === "fulfilled") close(settled.value.fds);
      else assert(settled.reason instanceof AioError && settled.reason.code === "ECANCELED");
      await closing;
      await Promise.allSettled([sending]);
      await near.close();
    }
    // What the kernel had completed when the context was disposed.
    const own = makeContext();
    const [near, far] = adoptedPair(own);
    const receiving = far.recvMessage([new Uint8Array(9)], { fdsMax: 4 });
    own.poll(false);
    const sending = near.sendMessage([new Uint8Array(1)], [reader, writer]);
    own.poll(false);
    own[Symbol.dispose]();
    const [settled] = await Promise.allSettled([receiving, sending]);
    if (settled.status === "fulfilled") close(settled.value.fds);
    await near.close();
    await far.close();
    close([reader, writer]);
  },
);
