/** Memory for requests: its limits, that nobody can take it away, and that it does not grow. */
import { assert, assertEquals, assertStrictEquals, assertThrows } from "@std/assert";
import { AioBuffers, AioContext } from "../mod.ts";
import { importLine, programWords, run } from "./child.ts";
import { eachFdmon, FDMONS } from "./each_fdmon.ts";
import { newPath, openNew, pattern } from "./test_files.ts";

const PAGE = 4096, MAX = 2 ** 32 - 65_536;

const addressOf = (bytes: Uint8Array<ArrayBuffer>) =>
  Number(Deno.UnsafePointer.value(Deno.UnsafePointer.of(bytes)));

Deno.test("AioBuffers: sizes and alignments that cannot be had are refused", () => {
  const buffers = new AioBuffers();
  for (const size of [0, -1, 0.5, NaN, Infinity, MAX + 1, 2 ** 53, "1", null, undefined, 1n, {}]) {
    assertThrows(() => buffers.allocate(size as number), RangeError, "Cannot allocate a buffer");
  }
  for (const alignment of [0, 3, -4, 0.5, 131_072, NaN, "64", null, {}]) {
    const options = { alignment } as never;
    if (alignment === null) assertEquals(buffers.allocate(8, options).length, 8);
    else assertThrows(() => buffers.allocate(8, options), RangeError, "power of two up to 65536");
  }
  for (const options of [null, 5, "64"]) {
    assertEquals(buffers.allocate(8, options as never).length, 8);
  }
});

Deno.test("AioBuffers: memory is zeroed, aligned, and nobody else's", () => {
  const buffers = new AioBuffers();
  const sizes = [1, 3, 64, 65, 4095, 4096, 4097, 100_000, 262_144, 262_145, 1 << 20, 5_000_000];
  const all: Uint8Array[] = [];
  for (let round = 0; round < 3; round++) {
    for (const size of sizes) {
      const bytes = buffers.allocate(size);
      assertEquals(bytes.length, size);
      assertEquals(addressOf(bytes) % (size < PAGE ? 64 : PAGE), 0, `${size}`);
      assert(bytes.every((byte) => byte === 0), `${size} is not zeroed`);
      bytes.fill(all.length);
      all.push(bytes);
    }
    for (let alignment = 1; alignment <= 65_536; alignment *= 2) {
      const bytes = buffers.allocate(7, { alignment });
      assertEquals(addressOf(bytes) % alignment, 0, `aligned to ${alignment}`);
      bytes.fill(all.length);
      all.push(bytes);
    }
  }
  for (const [index, bytes] of all.entries()) assert(bytes.every((byte) => byte === index));
});

Deno.test("AioBuffers: the largest allocation can be had, and be used to its end", () => {
  const bytes = new AioBuffers().allocate(MAX);
  assertEquals(bytes.length, MAX);
  bytes[MAX - 1] = 7;
  assertEquals(bytes[MAX - 1], 7);
});

Deno.test("AioBuffers: memory cannot be transferred or resized", () => {
  const buffers = new AioBuffers();
  for (const size of [8, 1 << 20]) {
    const bytes = buffers.allocate(size), { buffer } = bytes;
    const { port1, port2 } = new MessageChannel();
    const takes: (() => unknown)[] = [
      () => buffer.transfer(),
      () => buffer.transferToFixedLength(),
      () => buffer.resize(0),
      () => structuredClone(buffer, { transfer: [buffer] }),
      () => structuredClone(bytes, { transfer: [buffer] }),
      () => port1.postMessage(bytes, [buffer]),
    ];
    for (const take of takes) {
      assertThrows(take);
      assertEquals([bytes.length, buffer.detached], [size, false], String(take));
    }
    // A copy may go anywhere.
    assertEquals(structuredClone(bytes).length, size);
    port1.close();
    port2.close();
  }
});

Deno.test("AioBuffers: what one gives back another one gets", () => {
  const buffers = new AioBuffers();
  for (const size of [2, 4096, 4097, 10_000, 1 << 20]) {
    const first = buffers.borrow(size), second = buffers.borrow(size);
    assert(first.length >= size && first.length < Math.max(2 * size, 2 * PAGE));
    assert(first.buffer !== second.buffer || first.byteOffset !== second.byteOffset);
    buffers.giveBack(first);
    assertStrictEquals(buffers.borrow(size), first);
  }
});

/** A context in which address space for WebAssembly memories is used up. */
async function withoutWasm(test: () => Promise<void>): Promise<void> {
  const { Memory } = WebAssembly;
  let refused = 0;
  WebAssembly.Memory = class {
    constructor() {
      refused++;
      throw new RangeError("WebAssembly.Memory(): could not allocate memory");
    }
  } as unknown as typeof Memory;
  try {
    await test();
  } finally {
    WebAssembly.Memory = Memory;
  }
  assert(refused > 0);
}

eachFdmon(
  "AioBuffers: falls back to shared memory where address space is used up",
  (makeContext) =>
    withoutWasm(async () => {
      using ctx = makeContext();
      await ctx.run(async () => {
        await using file = await openNew(ctx);
        for (const length of [5000, 3 << 20]) {
          const bytes = ctx.buffers.allocate(length);
          assert((bytes.buffer as ArrayBufferLike) instanceof SharedArrayBuffer);
          bytes.set(pattern(length));
          assertEquals(await file.write(bytes, 0), length);
          const plain = new Uint8Array(length);
          assertEquals(await file.read(plain, 0, {}), length);
          assertEquals(plain, pattern(length));
          assertEquals((await file.stat()).size, length);
          assertEquals(addressOf(bytes) % PAGE, 0);
        }
      });
    }),
);

Deno.test("AioBuffers: other errors than of address space are thrown, and leave no request", async () => {
  const { Memory } = WebAssembly;
  using ctx = new AioContext();
  await ctx.run(async () => {
    const file = await openNew(ctx);
    await file.write(new Uint8Array(4), 0);
    WebAssembly.Memory = class {
      constructor() {
        throw new TypeError("no memory at all");
      }
    } as unknown as typeof Memory;
    try {
      const message = await file.write(new Uint8Array(1 << 20), 0).catch((error) => error.message);
      assertEquals(message, "no memory at all");
    } finally {
      WebAssembly.Memory = Memory;
    }
    // It would wait for ever for a request that was begun.
    await file.close();
  });
});

for (const fdmon of FDMONS) {
  Deno.test(`AioFile: 10,000 requests through copies take no more memory (${fdmon})`, async () => {
    const path = newPath();
    const { code, stdout, stderr } = await run(programWords(
      importLine("AioContext", "mod.ts") + `
      using ctx = new AioContext({ fdmon: "${fdmon}" });
      const bytes = new Uint8Array(100_000);
      const mapped = () => Number(/VmSize:\\s*(\\d+)/.exec(Deno.readTextFileSync("/proc/self/status"))[1]);
      await ctx.run(async () => {
        await using file = await ctx.openFile(${
        JSON.stringify(path)
      }, { read: true, write: true, create: true });
        const rounds = async (count) => {
          for (let round = 0; round < count; round++) {
            await Promise.all([
              file.write(bytes, 0),
              file.read(bytes, 0, {}),
              file.write(bytes, 0).then(() => file.stat()),
              ctx.openFile("/nowhere").catch(() => {}),
            ]);
          }
        };
        await rounds(20);
        let before = mapped(), least = Infinity;
        // Deno's own memory comes and goes: a leak would be there in each part.
        for (let part = 0; part < 4; part++) {
          await rounds(625);
          least = Math.min(least, mapped() - before);
          before = mapped();
        }
        console.log(least);
      });`,
    ));
    assertEquals([code, stderr], [0, ""]);
    assert(Number(stdout) < 1000, `${stdout} KiB`);
  });
}
