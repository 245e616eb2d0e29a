/**
 * Requests that have to be made again while their socket is being closed, on a device of the test's
 * own: a kernel answers EAGAIN to few of them, and not whenever a test wants it.
 */
import { assertEquals } from "@std/assert";
import { Errno } from "../ffi/errno.ts";
import { loadShim } from "../ffi/library.ts";
import { SqeWord } from "../ffi/sqe.ts";
import { System } from "../ffi/system.ts";
import { AioBuffers } from "../src/io/buffers.ts";
import { CachedReads } from "../src/io/cached_reads.ts";
import { IoOwner } from "../src/io/io_owner.ts";
import { IoRequests } from "../src/io/io_request.ts";
import { SocketOperation } from "../src/io/operation.ts";
import type { AioRequest, RequestDevice } from "../src/request.ts";
import { RequestQueue } from "../src/request_queue.ts";
import { AioContext, AioError } from "../mod.ts";
import { openPath } from "./libc.ts";
import { goOn } from "./test_sockets.ts";

/** Takes requests and completes them as the test says. */
class Device implements RequestDevice {
  readonly batches = false;
  /** Opcodes of what was started. */
  readonly started: number[] = [];
  readonly #queue: RequestQueue;
  readonly #running: AioRequest[] = [];

  constructor(queue: RequestQueue) {
    this.#queue = queue;
  }

  registerBuffer(): number {
    return -1;
  }

  start(request: AioRequest): void {
    const words = new Int32Array(16);
    request.prepare(words, 0);
    this.started.push(words[SqeWord.opcode]);
    this.#running.push(request);
  }

  /** Completes what was started first. */
  complete(result: number): void {
    this.#queue.completed(this.#running.shift()!.slot, result, 0);
  }

  /** Tells what the completions say. */
  dispatch(): void {
    this.#queue.run(() => false);
  }

  cancel(): void {}

  forget(): void {}

  release(): boolean {
    return true;
  }

  quiesce(): void {}

  dispose(): void {}
}

/** A receive on a device of our own, and its outcome so far. */
function receive() {
  using ctx = new AioContext();
  const shim = loadShim(), system = new System(shim);
  const report = (error: unknown) => {
    throw error;
  };
  const queue: RequestQueue = new RequestQueue(
    () => device,
    () => {},
    ctx.trace,
    report,
    system.close,
  );
  const device: Device = new Device(queue);
  const cached = new CachedReads(shim, system, queue);
  const io = new IoRequests({
    system,
    queue,
    buffers: new AioBuffers(),
    cached,
    sends: { isWorthwhile: () => false, send: () => -1 },
    requireOpen: () => {},
  });
  const kind = { name: "socket", cancels: true, takesTurns: true };
  const owner = new IoOwner(io, openPath("/dev/null"), kind);
  const outcome: unknown[] = [];
  io.transfer(SocketOperation.recv, owner, new Uint8Array(8), 0, 0)
    .then((count) => outcome.push(count), (error) => {
      outcome.push(error instanceof AioError ? error.code : error);
    });
  return { device, owner, outcome };
}

for (const polls of [false, true]) {
  const when = polls ? "once its fd is ready" : "after EAGAIN";
  Deno.test(`IoRequest: is not made again ${when} where its fd is being closed`, async () => {
    const { device, owner, outcome } = receive();
    if (polls) {
      device.complete(-Errno.EAGAIN);
      device.dispatch();
    }
    // Noted and not told yet, so that cancelling comes too late.
    device.complete(polls ? 1 : -Errno.EAGAIN);
    const closing = owner.close();
    device.dispatch();
    await closing;
    await goOn(1);
    assertEquals([device.started.length, outcome], [polls ? 2 : 1, ["ECANCELED"]]);
  });
}
