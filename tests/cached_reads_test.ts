/** Reads of the page cache: when it is asked, and AioFile.tryRead. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { Errno } from "../ffi/errno.ts";
import type { Shim } from "../ffi/shim_symbols.ts";
import type { System } from "../ffi/system.ts";
import { MappedMemory, MAPPING_MAX, MemFd } from "../mod.ts";
import { CachedReads, CacheHistory } from "../src/io/cached_reads.ts";
import type { RequestQueue } from "../src/request_queue.ts";
import { eachFdmon } from "./each_fdmon.ts";
import { newPath, openNew, pattern, tellsCache } from "./test_files.ts";

/** Reads of a cache that answers as the test says, and the queue beside them. */
function scene() {
  const cache = { result: 8, asked: 0 };
  const shim = {
    aio_pread_cached: () => (cache.asked++, cache.result),
  } as unknown as Shim;
  const queue = { mayAnswer: true, answered: 0, batch: 0, device: { batches: true } };
  const system = { calls: 0 };
  const reads = new CachedReads(
    shim,
    system as System,
    queue as unknown as RequestQueue,
  );
  const history = new CacheHistory();
  const read = () => reads.read(history, 3, new Uint8Array(8), 0, 8, 0);
  /** As AioFile.read does it. */
  const promised = () => {
    if (!reads.isWorthwhile(history)) return reads.count(history, false);
    if (read()) reads.count(history, true);
  };
  return { cache, queue, system, reads, history, read, promised };
}

Deno.test("CachedReads: after each miss twice as many reads do not ask, up to 63; a hit ends that", () => {
  const { cache, history, promised, system } = scene();
  cache.result = -Errno.EAGAIN;
  for (const skipped of [1, 3, 7, 15, 31, 63, 63]) {
    const before = cache.asked;
    promised();
    assertEquals(cache.asked, before + 1);
    for (let read = 0; read < skipped; read++) {
      assert(!history.isPromising);
      promised();
    }
    assertEquals(cache.asked, before + 1);
    assert(history.isPromising);
  }
  assertEquals(system.calls, cache.asked);
  cache.result = 8;
  promised();
  cache.result = 7; // Less than was asked for.
  promised();
  assertEquals([history.skip, history.skipped], [1, 1]);
});

Deno.test("CachedReads: a filesystem that cannot tell is asked once", () => {
  for (const errno of [Errno.EOPNOTSUPP, Errno.ENOSYS]) {
    const { cache, history, promised } = scene();
    cache.result = -errno;
    for (let read = 0; read < 200; read++) promised();
    assertEquals([cache.asked, history.isPromising], [1, false]);
  }
});

Deno.test("CachedReads: with many at once a ring that takes them together is asked instead", () => {
  const { queue, reads, history, promised } = scene();
  for (
    const [batch, batches, mayAnswer, expected] of [
      [7, true, true, true],
      [8, true, true, false],
      [8, false, true, true],
      [0, true, false, false],
    ] as const
  ) {
    Object.assign(queue, { batch, device: { batches }, mayAnswer });
    assertEquals(reads.isWorthwhile(history), expected, `${batch} ${batches} ${mayAnswer}`);
  }
  promised();
  assertEquals(queue.answered, 0);
  queue.mayAnswer = true;
  promised();
  assertEquals(queue.answered, 1, "counts what is answered at once");
});

eachFdmon("AioFile.tryRead: what is cached, into any place of any memory", async (makeContext) => {
  using ctx = makeContext();
  await ctx.run(async () => {
    await using file = await openNew(ctx);
    const bytes = pattern(10_000);
    assertEquals(await file.write(bytes, 0), bytes.length);
    const tells = tellsCache();
    using memFd = new MemFd("memory", { size: MAPPING_MAX });
    using mapped = new MappedMemory(memFd.fd);
    const far = mapped.byteLength - 5000;
    const memories: [string, Uint8Array, number][] = [
      ["ordinary", new Uint8Array(6000), 1000],
      ["a part", new Uint8Array(9000).subarray(1000), 7],
      ["shared", new Uint8Array(new SharedArrayBuffer(5000)), 5000 - 4096],
      ["of the pool", ctx.buffers.allocate(4096), 0],
      ["mapped, far up", mapped.bytes, far],
    ];
    for (const [what, memory, start] of memories) {
      assertEquals(file.tryRead(memory, start, 4096, 77), tells, what);
      if (!tells) continue;
      const read = memory.subarray(start, start + 4096);
      assertEquals(new Uint8Array(read), bytes.slice(77, 77 + 4096), what);
      const before = memory.subarray(Math.max(0, start - 1000), start);
      const after = memory.subarray(start + 4096, start + 5096);
      assert([...before, ...after].every((byte) => byte === 0), `${what}: around it`);
    }
    const words = new Float64Array(100) as unknown as Uint8Array;
    assertEquals(file.tryRead(words, 8, 792, 0), tells, "another kind of array");
    if (tells) assertEquals(new Uint8Array(words.buffer, 8), bytes.slice(0, 792));
    const memory = new Uint8Array(100);
    assertEquals(file.tryRead(memory, 0, 100, 9950), false, "across the end");
    assertEquals(file.tryRead(memory, 0, 100, 2 ** 52), false, "far behind the end");
    await using direct = await openNew(ctx, { direct: true });
    assertEquals(direct.tryRead(ctx.buffers.allocate(4096), 0, 4096, 0), false, "past the cache");
  });
});

eachFdmon(
  "AioFile.tryRead: refuses what it cannot use, and writes nowhere",
  async (makeContext) => {
    const ctx = makeContext();
    await ctx.run(async () => {
      const file = await openNew(ctx);
      await file.write(pattern(4096), 0);
      const memory = new Uint8Array(100);
      for (
        const [start, length, offset] of [
          [0, 101, 0],
          [100, 1, 0],
          [-1, 10, 0],
          [0, -1, 0],
          [1.5, 10, 0],
          [0, 10, -1],
          [0, 10, 0.5],
          [0, 10, NaN],
          [2 ** 53, 10, 0],
        ]
      ) {
        assertThrows(() => file.tryRead(memory, start, length, offset), RangeError, "Cannot");
      }
      assertThrows(() => file.tryRead(memory, "0" as never, 1, 0), RangeError);
      assertThrows(() => file.tryRead(memory, 0, 1, "0" as never), TypeError);
      for (
        const bad of [
          null,
          undefined,
          5,
          {},
          [],
          "x",
          new ArrayBuffer(8),
          new DataView(memory.buffer),
        ]
      ) {
        assertThrows(() => file.tryRead(bad as never, 0, 1, 0), TypeError, "no typed array");
      }
      // One that lies about its length, one whose memory is gone.
      const liar = Object.defineProperty(new Uint8Array(8), "byteLength", { value: 1e6 });
      assertThrows(() => file.tryRead(liar, 0, 4096, 0), RangeError);
      const gone = new Uint8Array(100);
      gone.buffer.transfer();
      assertThrows(() => file.tryRead(gone, 0, 1, 0), RangeError);
      assertEquals(memory, new Uint8Array(100));
      await file.close();
      assertThrows(() => file.tryRead(memory, 0, 1, 0), TypeError, "closed");
      await using left = await ctx.openFile(newPath(), { write: true, read: true, create: true });
      ctx[Symbol.dispose]();
      assertThrows(() => left.tryRead(memory, 0, 1, 0), TypeError);
    });
  },
);
