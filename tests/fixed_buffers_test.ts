import { assert, assertEquals } from "@std/assert";
import { SqeOp } from "../ffi/sqe.ts";
import { FOLDER } from "./child.ts";
import { onIoUring } from "./each_fdmon.ts";

const MIB = 1 << 20;

onIoUring(
  "AioFile: memory of the pool is named by its number, other memory by its address",
  async (makeContext) => {
    const path = `${FOLDER}/fixed`;
    using ctx = makeContext();
    const opcodes: number[] = [];
    await ctx.run(async () => {
      const options = { read: true, write: true, create: true, truncate: true } as const;
      await using file = await ctx.openFile(path, options);
      // Each begins a slab of its own, as there is no room for two of them in one; the first request
      // of a context is made before anything can be registered.
      const views = Array.from({ length: 24 }, (_, index) => {
        const filled = ctx.buffers.allocate(MIB / 4).fill(index + 1);
        ctx.buffers.allocate(MIB / 4);
        ctx.buffers.allocate(MIB / 4);
        ctx.buffers.allocate(MIB / 4);
        return filled;
      });
      const shared = new Uint8Array(new SharedArrayBuffer(4096)).fill(99);
      const stop = ctx.trace.on("fdmon_io_uring_add_sqe", ({ opcode }) => opcodes.push(opcode));
      for (const [index, view] of [...views, shared].entries()) {
        assertEquals(await file.write(view, index * MIB), view.length);
        view.fill(0);
        // With a signal nobody asks the page cache first.
        const { signal } = new AbortController();
        assertEquals(await file.read(view, index * MIB, { signal }), view.length);
        const expected = view === shared ? 99 : index + 1;
        assert(view.every((byte) => byte === expected), `buffer ${index}`);
      }
      stop();
    });
    const fixed = opcodes.filter((op) => op === SqeOp.readFixed || op === SqeOp.writeFixed).length;
    // A write and a read of each of the first slabs; the others go by address.
    assertEquals([fixed, opcodes.length], [8, 50]);
    assertEquals(opcodes.slice(-2), [SqeOp.write, SqeOp.read]);
  },
);

onIoUring(
  "AioFile: memory that is registered outlives its context and its file",
  async (makeContext) => {
    const path = `${FOLDER}/fixed_outlives`;
    Deno.writeTextFileSync(path, "x".repeat(4096));
    let kept = new Uint8Array(0);
    for (let round = 0; round < 20; round++) {
      using ctx = makeContext();
      kept = await ctx.run(async () => {
        await using file = await ctx.openFile(path);
        const buffer = ctx.buffers.allocate(4096);
        const { signal } = new AbortController();
        assertEquals(await file.read(buffer, 0, { signal }), 4096);
        return buffer;
      });
    }
    assert(kept.every((byte) => byte === "x".charCodeAt(0)));
  },
);
