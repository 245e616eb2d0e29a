/** Requests with promises on a device that answers as a test wants it, at the time it wants it. */
import { assertEquals, assertStrictEquals } from "@std/assert";
import { Errno } from "../ffi/errno.ts";
import { SqeOp, SqeWord } from "../ffi/sqe.ts";
import type { System } from "../ffi/system.ts";
import { AioFile } from "../src/io/aio_file.ts";
import { AioBuffers } from "../src/io/buffers.ts";
import type { CachedReads } from "../src/io/cached_reads.ts";
import { IoOwner } from "../src/io/io_owner.ts";
import { IoRequests } from "../src/io/io_request.ts";
import { FileOperation } from "../src/io/operation.ts";
import type { AioRequest, RequestDevice } from "../src/request.ts";

import { RequestQueue } from "../src/request_queue.ts";
import { Trace } from "../src/trace.ts";
import { rejection } from "./test_files.ts";

const IN = 1;

/** Notes what it is asked to do. */
class Device implements RequestDevice {
  readonly batches = false;
  readonly started: { slot: number; opcode: number; fd: number }[] = [];
  readonly cancelled: number[] = [];
  /** Operation flags of what has been started. */
  readonly flags: number[] = [];
  refusal: Error | null = null;

  registerBuffer(): number {
    return -1;
  }

  start(request: AioRequest): void {
    if (this.refusal !== null) throw this.refusal;
    const words = new Int32Array(16);
    request.prepare(words, 0);
    const { slot } = request;
    this.flags.push(words[SqeWord.opFlags]);
    this.started.push({ slot, opcode: words[SqeWord.opcode], fd: words[SqeWord.fd] });
  }

  cancel({ slot }: AioRequest): void {
    this.cancelled.push(slot);
  }

  release(): boolean {
    return true;
  }

  forget(): void {}
  quiesce(): void {}
  dispose(): void {}
}

function make() {
  const device = new Device(), reported: unknown[] = [], closed: number[] = [];
  const report = (error: unknown) => void reported.push(error);
  const close = (fd: number) => void closed.push(fd);
  const queue = new RequestQueue(() => device, () => {}, new Trace(report), report, close);
  const system = { calls: 0, close, own() {}, disown() {} } as unknown as System;
  const cached = { read: () => false } as unknown as CachedReads;
  const io = new IoRequests({
    system,
    queue,
    buffers: new AioBuffers(),
    cached,
    sends: { isWorthwhile: () => false, send: () => -1 },
    requireOpen: () => {},
  });
  const owner = new IoOwner(io, 7, { name: "file", cancels: false, takesTurns: false });
  /** The newest request ends so. */
  const complete = (result: number) => queue.completed(device.started.at(-1)!.slot, result, 0);
  const run = () => queue.run(() => false);
  const opcodes = () => device.started.map(({ opcode }) => opcode);
  const read = (view: Uint8Array, signal?: AbortSignal) =>
    io.transfer(FileOperation.read, owner, view, 0, 0, { signal });
  return { device, queue, io, owner, reported, closed, complete, run, opcodes, read };
}

Deno.test("IoRequest: EAGAIN waits for the fd and tries again, as often as it takes", async () => {
  const { complete, run, opcodes, read } = make();
  const result = read(new Uint8Array(8));
  for (const answer of [-Errno.EAGAIN, IN, -Errno.EAGAIN, IN, 5]) {
    complete(answer);
    run();
  }
  assertEquals(await result, 5);
  const { read: readOp, pollAdd } = SqeOp;
  assertEquals(opcodes(), [readOp, pollAdd, readOp, pollAdd, readOp]);
});

Deno.test("IoRequest: aborted as the fd turns ready, it has the reason and no bytes", async () => {
  const { complete, run, opcodes, read, device } = make();
  for (const answers of [[-Errno.EAGAIN, IN], [-Errno.EAGAIN], [-Errno.EAGAIN, -Errno.ECANCELED]]) {
    const controller = new AbortController(), view = new Uint8Array(8).fill(7);
    const error = rejection(read(view, controller.signal));
    const last = answers.pop()!;
    for (const answer of answers) (complete(answer), run());
    const started = opcodes().length;
    complete(last);
    controller.abort("enough");
    run();
    assertStrictEquals(await error as unknown, "enough");
    assertEquals(view, new Uint8Array(8).fill(7));
    assertEquals(opcodes().length, started, "made again although it was aborted");
  }
  assertEquals(device.cancelled.length, 3);
});

Deno.test("IoRequest: an error of waiting, and one of beginning again, end it", async () => {
  const { complete, run, read, device, owner } = make();
  const first = rejection(read(new Uint8Array(8)));
  complete(-Errno.EAGAIN);
  run();
  complete(-Errno.EBADF);
  run();
  assertEquals((await first).message.slice(0, 40), "Cannot read fd 7 as read failed: EBADF (");
  const second = rejection(read(new Uint8Array(8)));
  complete(-Errno.EAGAIN);
  device.refusal = new RangeError("refused");
  run();
  assertStrictEquals(await second, device.refusal);
  assertStrictEquals(await rejection(read(new Uint8Array(8))), device.refusal);
  // It would wait for a request that was begun.
  device.refusal = null;
  const closing = owner.close();
  await null;
  complete(0);
  run();
  await closing;
});

Deno.test("IoRequest: objects are used again, and remember nothing", async () => {
  const { complete, run, read, queue, device } = make();
  const controller = new AbortController();
  for (let round = 0; round < 8; round++) {
    const result = read(new Uint8Array(8), round === 0 ? controller.signal : undefined);
    complete(round);
    run();
    assertEquals(await result, round);
    assertEquals([queue.inFlight, queue.completedCount], [0, 0]);
  }
  controller.abort();
  assertEquals(device.cancelled, []);
});

Deno.test("IoOwner: close waits for its requests, then closes with another one", async () => {
  const { complete, run, read, owner, device } = make();
  const first = read(new Uint8Array(8)), second = read(new Uint8Array(8));
  const closing = owner.close();
  await null;
  assertEquals(device.started.length, 2);
  complete(3);
  run();
  await second;
  assertEquals(device.started.length, 2);
  device.started.pop();
  complete(4);
  run();
  await first;
  await null;
  assertEquals(device.started.at(-1)!, { slot: 1, opcode: SqeOp.close, fd: 7 });
  complete(-Errno.EIO);
  run();
  assertEquals((await rejection(closing)).message, "Cannot close fd 7 as close failed: EIO");
});

Deno.test("RequestQueue: dispose closes what was opened, and what was to be closed", async () => {
  const { io, queue, closed, complete, device } = make();
  const open = rejection(io.request(FileOperation.openat, null, { subject: "x" }));
  complete(30);
  const failed = rejection(io.request(FileOperation.openat, null, { subject: "x" }));
  complete(-Errno.ENOENT);
  const done = io.close(31);
  complete(0);
  const never = io.close(32);
  complete(-Errno.ECANCELED);
  const stuck = rejection(io.request(FileOperation.openat, null, { subject: "x" }));
  assertEquals(device.started.length, 5);
  queue.dispose();
  for (const promise of [open, failed, stuck]) {
    assertEquals((await promise).message, "Cannot open x as openat failed: ECANCELED");
  }
  await Promise.all([done, never]);
  assertEquals(closed, [30, 32]);
});

Deno.test("AioFile.write, writev: dataSync is RWF_DSYNC", async () => {
  const RWF_DSYNC = 2;
  const { io, device } = make();
  const file = await AioFile.open(io, { fd: 7 }, { write: true });
  const memory = io.buffers.allocate(64);
  for (const dataSync of [true, false, undefined]) {
    file.write(memory, 0, { dataSync });
    file.writev([memory, memory], 0, { dataSync });
    file.writev([memory, new Uint8Array(9)], 0, { dataSync });
  }
  assertEquals(device.flags, [RWF_DSYNC, RWF_DSYNC, RWF_DSYNC, 0, 0, 0, 0, 0, 0]);
});
