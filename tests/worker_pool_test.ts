/** Requests on worker threads: what is submitted comes back once, with the fd to wait for it. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { AioError } from "../mod.ts";
import { Errno } from "../ffi/errno.ts";
import { loadShim } from "../ffi/library.ts";
import { allocateNative, type NativeMemory, storeU64 } from "../ffi/memory.ts";
import type { Shim } from "../ffi/shim_symbols.ts";
import { CqeWord, SQE_WORDS, SqeOp, SqeWord, storeNumber } from "../ffi/sqe.ts";
import { PollEvent, System } from "../ffi/system.ts";
import { WorkerPool } from "../ffi/worker_pool.ts";
import { newFolder } from "./child.ts";
import { eachFdmon } from "./each_fdmon.ts";
import { libc, makePair, openPath } from "./libc.ts";
import { openFiles } from "./open_files.ts";

const HERE = -1;
const LOST_NS = 30e9;
/** A worker has usually taken a request after this. */
const TAKEN_NS = 1e5;

/** A pool and what a test needs to use it; all requests are made of the same words. */
class Bench implements Disposable {
  readonly shim = loadShim();
  readonly system = new System(this.shim);
  readonly pool: WorkerPool;
  readonly #sqes = new Int32Array(3 * SQE_WORDS).fill(-1);
  readonly #pollfd = allocateNative(8);
  readonly #stack = new DisposableStack();

  constructor(threads: number, capacity: number) {
    this.pool = new WorkerPool(this.shim, this.system, { threads, capacity });
    this.#stack.defer(() => this.pool.dispose());
  }

  submit(op: number, slot: number, fd: number, offset = 0, memory?: NativeMemory): void {
    const sqes = this.#sqes, at = SQE_WORDS;
    sqes.fill(0, at, at + SQE_WORDS);
    sqes[at + SqeWord.opcode] = op;
    sqes[at + SqeWord.fd] = fd;
    storeNumber(sqes, at + SqeWord.off, offset);
    if (memory !== undefined) {
      storeU64(new Uint32Array(sqes.buffer), at + SqeWord.addr, memory.address);
      sqes[at + SqeWord.len] = memory.buffer.byteLength;
    }
    sqes[at + SqeWord.userData] = slot;
    this.pool.submit(sqes, at);
  }

  /** A pipe that a request reads from, which holds a worker up until `release`. */
  hold(slot: number): { memory: NativeMemory; release: () => void } {
    const memory = allocateNative(8);
    const [reading, writing] = makePair("pipe");
    this.#stack.defer(() => (libc.close(reading), libc.close(writing)));
    const release = () => assertEquals(libc.write(writing, Uint8Array.of(7), 1n), 1n);
    for (;;) {
      this.submit(SqeOp.read, slot, reading, HERE, memory);
      this.readable(TAKEN_NS);
      if (this.pool.cancel(slot) === -Errno.EALREADY) break;
      // No worker had taken it yet: once more.
      assertEquals(this.next(), [slot, -Errno.ECANCELED]);
    }
    return { memory, release };
  }

  /** Whether the fd is readable, or becomes so in time. */
  readable(timeoutNs: number): boolean {
    this.#pollfd.i32[0] = this.pool.fd;
    this.#pollfd.i32[1] = PollEvent.in;
    this.system.timeoutNs[0] = timeoutNs;
    return this.system.ppoll(this.#pollfd, 1) === 1;
  }

  /** Sleeps until there are completions. */
  reap(): number {
    for (;;) {
      assert(this.readable(LOST_NS), "a wake-up was lost");
      const count = this.pool.reap();
      if (count > 0) return count;
    }
  }

  /** The only completion there is, as slot and result. */
  next(): [slot: number, result: number] {
    assertEquals(this.reap(), 1);
    return this.completion(0);
  }

  completion(number: number): [slot: number, result: number] {
    const { cqes } = this.pool, at = this.pool.cqeIndex(number);
    assertEquals([cqes[at + CqeWord.userData + 1], cqes[at + CqeWord.flags]], [0, 0]);
    return [cqes[at + CqeWord.userData], cqes[at + CqeWord.res]];
  }

  [Symbol.dispose](): void {
    this.#stack.dispose();
  }
}

function fileWith(bytes: Uint8Array<ArrayBuffer>): string {
  const path = `${newFolder()}/file`;
  Deno.writeFileSync(path, bytes);
  return path;
}

Deno.test("WorkerPool: a request is done as described, and its fd readable until it is reaped", () => {
  using bench = new Bench(2, 4);
  const path = fileWith(new Uint8Array(4096).map((_, index) => index >> 4));
  const fd = openPath(path);
  const memory = allocateNative(16);
  try {
    assertEquals([bench.pool.reap(), bench.readable(0)], [0, false]);
    bench.submit(SqeOp.read, 12, fd, 4000, memory);
    assertEquals(bench.pool.inFlight, 1);
    assert(bench.readable(LOST_NS));
    const before = bench.system.calls;
    assertEquals(bench.next(), [12, 16]);
    assertEquals(bench.system.calls - before, 2, "ppoll and what reap drains the fd with");
    assertEquals(new Uint8Array(memory.buffer), new Uint8Array(16).fill(250));
    assertEquals(bench.pool.inFlight, 0);
    bench.submit(SqeOp.write, 13, fd, 2 ** 33, memory);
    assertEquals(bench.next(), [13, 16]);
    assertEquals(Deno.statSync(path).size, 2 ** 33 + 16);
    bench.submit(SqeOp.read, 0x7fff_ffff, -1, 0, memory);
    assertEquals(bench.next(), [0x7fff_ffff, -Errno.EBADF]);
    bench.submit(SqeOp.pollAdd, 1, fd);
    assertEquals(bench.next(), [1, -Errno.EOPNOTSUPP]);
  } finally {
    libc.close(fd);
  }
});

Deno.test("reap: takes what fits, in order; the rest keeps the fd readable", () => {
  using bench = new Bench(1, 1000);
  const { release } = bench.hold(0);
  for (let slot = 1; slot < 1000; slot++) bench.submit(SqeOp.nop, slot, -1);
  const counts: number[] = [];
  let slot = 0;
  release();
  while (slot < 1000) {
    const count = bench.reap();
    counts.push(count);
    for (let number = 0; number < count; number++, slot++) {
      assertEquals(bench.completion(number), [slot, slot === 0 ? 1 : 0]);
    }
    assertEquals(bench.pool.inFlight, 1000 - slot);
  }
  assert(Math.max(...counts) <= 256, `${counts}`);
});

Deno.test("submit: a full pool takes no more until its completions are reaped", () => {
  using bench = new Bench(1, 2);
  const { release } = bench.hold(1);
  assert(!bench.pool.full);
  bench.submit(SqeOp.nop, 2, -1);
  assert(bench.pool.full);
  const error = assertThrows(() => bench.submit(SqeOp.nop, 3, -1), AioError) as AioError;
  assertEquals(
    [error.code, error.message],
    ["EBUSY", "Cannot submit a request as aio_pool_submit failed: EBUSY (all 2 are taken)"],
  );
  assertEquals(bench.pool.inFlight, 2);
  release();
  for (let left = 2; left > 0;) left -= bench.reap();
  assert(!bench.pool.full);
  bench.submit(SqeOp.nop, 4, -1);
  assertEquals(bench.next(), [4, 0]);
});

Deno.test("submit: names what failed where the system has no thread for it", () => {
  const shim: Shim = { ...loadShim(), aio_pool_submit: () => -Errno.EAGAIN };
  const pool = new WorkerPool(shim, new System(shim), { threads: 1, capacity: 1 });
  try {
    const submit = () => pool.submit(new Int32Array(SQE_WORDS), 0);
    const error = assertThrows(submit, AioError) as AioError;
    assertEquals([error.code, error.syscall, pool.inFlight], ["EAGAIN", "pthread_create", 0]);
  } finally {
    pool.dispose();
  }
});

Deno.test("cancel: ends what has not begun, and says what became of the others", () => {
  using bench = new Bench(1, 8);
  const { memory, release } = bench.hold(1);
  bench.submit(SqeOp.nop, 2, -1);
  bench.submit(SqeOp.nop, 3, -1);
  const { pool } = bench;
  assertEquals([pool.cancel(1), pool.cancel(9)], [-Errno.EALREADY, -Errno.ENOENT]);
  assertEquals([pool.cancel(2), pool.cancel(2)], [0, -Errno.ENOENT]);
  assertEquals(bench.next(), [2, -Errno.ECANCELED]);
  release();
  const ended: [number, number][] = [];
  while (ended.length < 2) {
    const count = bench.reap();
    for (let number = 0; number < count; number++) ended.push(bench.completion(number));
  }
  assertEquals([ended, memory.i32[0]], [[[1, 1], [3, 0]], 7]);
  assertEquals(pool.cancel(1), -Errno.ENOENT);
});

Deno.test("WorkerPool: sizes out of range are an AioError, and leave no fd behind", () => {
  const files = openFiles();
  const shim = loadShim(), system = new System(shim);
  for (const [threads, capacity] of [[0, 1], [257, 1], [1, 0], [1, 65537]]) {
    const make = () => new WorkerPool(shim, system, { threads, capacity });
    const error = assertThrows(make, AioError, "Cannot make a worker pool") as AioError;
    assertEquals(error.code, "EINVAL");
  }
  assertEquals(openFiles(), files);
});

Deno.test("dispose: waits for what runs, drops the rest, closes the fd, and is final", () => {
  const files = openFiles();
  const bench = new Bench(2, 100);
  const { pool } = bench;
  const first = bench.hold(1), second = bench.hold(2);
  for (let slot = 3; slot < 100; slot++) bench.submit(SqeOp.nop, slot, -1);
  first.release();
  second.release();
  pool.dispose();
  pool.dispose();
  assertEquals(openFiles(), files);
  assertEquals(pool.inFlight, 0);
  const disposed = "worker pool is disposed";
  assertThrows(() => pool.submit(new Int32Array(SQE_WORDS), 0), Error, disposed);
  assertThrows(() => pool.reap(), Error, disposed);
  assertThrows(() => pool.cancel(1), Error, disposed);
  assertEquals([first.memory.i32[0], second.memory.i32[0]], [7, 7]);
  bench[Symbol.dispose]();
});

eachFdmon("WorkerPool: its fd wakes a sleeping loop for each of 20,000 reads", (makeContext) => {
  const REQUESTS = 20_000, CAPACITY = 50;
  using ctx = makeContext({ pollParams: { maxNs: 0 } });
  using bench = new Bench(3, CAPACITY);
  const fd = openPath(fileWith(new Uint8Array(2048).map((_, index) => index >> 3)));
  const memories = Array.from({ length: CAPACITY }, () => allocateNative(8));
  const offsets = new Array<number>(CAPACITY).fill(0);
  let sent = 0, completed = 0;
  const send = (slot: number) => {
    offsets[slot] = 8 * (sent++ % 256);
    bench.submit(SqeOp.read, slot, fd, offsets[slot], memories[slot]);
  };
  ctx.setFdHandler(bench.pool.fd, {
    ioRead: () => {
      const count = bench.pool.reap();
      for (let number = 0; number < count; number++) {
        const [slot, result] = bench.completion(number);
        const byte = offsets[slot] / 8;
        assertEquals([result, memories[slot].i32[1]], [8, byte * 0x01010101 | 0]);
        completed++;
        if (sent < REQUESTS) send(slot);
      }
    },
  });
  for (let slot = 0; slot < CAPACITY; slot++) send(slot);
  while (completed < REQUESTS) ctx.poll(true);
  assertEquals([sent, completed, bench.pool.inFlight], [REQUESTS, REQUESTS, 0]);
  ctx.setFdHandler(bench.pool.fd, null);
  libc.close(fd);
});
