/** Extents of files, writes that are on the disk when they complete, and what memory is aligned. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import type { AioFile, FileExtent } from "../mod.ts";
import { makePair } from "./libc.ts";
import { newPath, openNew, pattern, rejection } from "./test_files.ts";
import { adoptedPair, codeOf, eachLoop } from "./test_sockets.ts";

const MIB = 1 << 20;
const MSG_DONTWAIT = 0x40;

/** Where data begins and ends in a range, whatever the filesystem rounds it to. */
function isData(extents: readonly FileExtent[], at: number): boolean {
  let end = 0;
  for (const { length, hole } of extents) if (at < (end += length)) return !hole;
  throw new Error(`no extent has ${at}`);
}

eachLoop("extents: says where data is, from the offset on", async (ctx) => {
  await using file = await openNew(ctx);
  await file.truncate(8 * MIB);
  await file.write(pattern(MIB), 2 * MIB);
  await file.write(pattern(MIB), 6 * MIB);
  const extents = await file.extents(0, 8 * MIB);
  assertEquals(extents.map(({ hole }) => hole), [true, false, true, false, true]);
  assertEquals(extents.reduce((sum, { length }) => sum + length, 0), 8 * MIB);
  for (const [at, data] of [[0, false], [2 * MIB, true], [3 * MIB - 1, true], [7 * MIB, false]]) {
    assertEquals(isData(extents, at as number), data);
  }
  assertEquals(await file.extents(2 * MIB, 4096), [{ length: 4096, hole: false }]);
  assertEquals(await file.extents(0, 8 * MIB, 2), extents.slice(0, 2));
  // Beyond the end, and nothing at all.
  assertEquals(await file.extents(20 * MIB, 5), [{ length: 5, hole: true }]);
  assertEquals(await file.extents(0, 0), []);
  assertEquals(await file.extents(0, MIB, 0), []);
});

eachLoop("extents: refuses what is no range, and what cannot tell", async (ctx) => {
  await using file = await openNew(ctx);
  for (
    const [offset, length, count] of [[-1, 1, 1], [0, 1.5, 1], [0, 1, NaN], [2 ** 53 - 1, 9, 1]]
  ) {
    assert(await rejection(file.extents(offset, length, count)) instanceof RangeError);
  }
  const [fd, other] = makePair("pipe");
  await using pipe = await ctx.openFile({ fd });
  await using _other = await ctx.openFile({ fd: other });
  assertEquals(await codeOf(pipe.extents(0, 1)), "ESPIPE");
});

eachLoop("write, writev: dataSync writes what is given, and has to be a boolean", async (ctx) => {
  const path = newPath();
  await using file: AioFile = await ctx.openFile(path, { read: true, write: true, create: true });
  const memory = ctx.buffers.allocate(4096);
  memory.set(pattern(4096));
  assertEquals(await file.write(memory, 0, { dataSync: true }), 4096);
  assertEquals(await file.writev([memory, pattern(9)], 4096, { dataSync: true }), 4105);
  assertEquals((await Deno.readFile(path)).subarray(0, 4096), pattern(4096));
  const bad = { dataSync: 1 as unknown as boolean };
  assert(await rejection(file.write(memory, 0, bad)) instanceof TypeError);
  assert(await rejection(file.writev([memory], 0, bad)) instanceof TypeError);
});

eachLoop("isAligned: tells where the bytes are, and that copies always are", (ctx) => {
  const memory = ctx.buffers.allocate(8192);
  assertEquals([0, 512, 4096, 1].map((at) => ctx.buffers.isAligned(memory.subarray(at), 512)), [
    ...[true, true, true],
    false,
  ]);
  assert(ctx.buffers.isAligned(memory.subarray(4096), 4096));
  assert(!ctx.buffers.isAligned(memory.subarray(512), 4096));
  assert(ctx.buffers.isAligned(new Uint8Array(8).subarray(1), 4096));
  assertThrows(() => ctx.buffers.isAligned(3 as unknown as Uint8Array, 4096), TypeError);
  return Promise.resolve();
});

eachLoop("addSqe: MSG_DONTWAIT completes with EAGAIN where it would wait", async (ctx) => {
  const [near, far] = adoptedPair(ctx);
  await using _near = near, _far = far;
  const memory = ctx.buffers.allocate(64);
  const receive = () =>
    new Promise<number>((resolve) =>
      ctx.addSqe((sqe) => sqe.recv(near.fd, memory, MSG_DONTWAIT), resolve)
    );
  assertEquals(await receive(), -11);
  await far.sendAll(pattern(5));
  assertEquals(await receive(), 5);
  // Behind somebody who waits, too.
  const waiting = near.recv(memory);
  assertEquals(await receive(), -11);
  await far.sendAll(pattern(7));
  assertEquals(await waiting, 7);
});
