/** Block devices: what each of them promises, over files and over memory. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { type AioContext, AioError, type AioFile } from "../mod.ts";
import {
  type BlockDevice,
  FileBlockDevice,
  type FileBlockDeviceOptions,
  type FileCache,
  MemoryBlockDevice,
} from "../src/block/mod.ts";
import { newPath, pattern, rejection, tellsCache } from "./test_files.ts";
import { Random } from "./random_values.ts";
import { codeOf, eachLoop, isSame, SEED } from "./test_sockets.ts";

const MIB = 1 << 20, SIZE = 4 * MIB;

async function newFile(size = SIZE): Promise<string> {
  const path = newPath();
  await Deno.writeFile(path, new Uint8Array());
  await Deno.truncate(path, size);
  return path;
}

const open = async (ctx: AioContext, options?: FileBlockDeviceOptions): Promise<BlockDevice> =>
  await FileBlockDevice.open(ctx, await newFile(), options);

const DEVICES: Record<string, (ctx: AioContext) => Promise<BlockDevice>> = {
  "file": (ctx) => open(ctx),
  "direct": (ctx) => open(ctx, { direct: true }),
  "writethrough": (ctx) => open(ctx, { cache: "writethrough" }),
  "no discard": (ctx) => open(ctx, { discard: false }),
  "memory": () => Promise.resolve(new MemoryBlockDevice(SIZE)),
};

for (const [kind, make] of Object.entries(DEVICES)) {
  eachLoop(`BlockDevice (${kind}): does what a model does (AIO_TEST_SEED=${SEED})`, async (ctx) => {
    const device = await make(ctx);
    const random = new Random(SEED), model = new Uint8Array(SIZE);
    const blocks = SIZE / device.blockSize;
    /** Memory of all kinds, aligned and not, in parts. */
    const buffersOf = (length: number): Uint8Array[] => {
      const buffers: Uint8Array[] = [];
      for (let left = length; left > 0;) {
        const part = random.once(2) ? left : Math.min(left, 1 + random.below(left));
        const shift = random.once(2) ? 0 : 1 + random.below(100);
        const memory = random.once(3)
          ? new Uint8Array(part + shift)
          : ctx.buffers.allocate(part + shift);
        buffers.push(memory.subarray(shift));
        left -= part;
      }
      return buffers;
    };
    let tried = 0;
    for (let step = 0; step < 150; step++) {
      const first = random.below(blocks);
      const longest = Math.min(
        blocks - first,
        Math.ceil(random.pick([5000, 70_000, MIB * 1.5]) / device.blockSize),
      );
      const offset = first * device.blockSize;
      const length = (1 + random.below(longest)) * device.blockSize;
      const options = { fua: random.once(3) };
      switch (random.below(4)) {
        case 0: {
          const buffers = buffersOf(length);
          let at = offset;
          for (const buffer of buffers) {
            buffer.set(pattern(buffer.length, step));
            model.set(buffer, at);
            at += buffer.length;
          }
          await device.write(buffers, offset, options);
          break;
        }
        case 1:
          await device.zero(offset, length, { ...options, noHole: random.once(2) });
          model.fill(0, offset, offset + length);
          break;
        case 2: {
          const buffers = buffersOf(length);
          const [buffer] = buffers, whole = buffers.length === 1;
          const memory = new Uint8Array(buffer.buffer);
          if (whole && device.tryRead?.(memory, buffer.byteOffset, length, offset)) tried++;
          else await device.read(buffers, offset);
          let at = offset;
          for (const buffer of buffers) {
            assert(isSame(buffer, model.subarray(at, at += buffer.length)), `step ${step}`);
          }
          break;
        }
        default: {
          const extents = await device.extents(offset, length, 1000);
          let at = offset;
          for (const { length, zero } of extents) {
            assertEquals([at % device.blockSize, length % device.blockSize], [0, 0]);
            if (zero) assert(model.subarray(at, at + length).every((byte) => byte === 0));
            at += length;
          }
          assert(at >= offset + length);
          assertEquals((await device.extents(offset, length, 1)).length, 1);
        }
      }
    }
    const isCached = kind === "memory" || (kind !== "direct" && tellsCache());
    assertEquals(tried !== 0, isCached, `${tried} reads without waiting`);
    await device.flush();
    await device.cache(0, SIZE);
    if (device.canTrim) await device.trim(0, SIZE, { fua: true });
    await device.close();
  });
}

eachLoop("FileBlockDevice: facts are those of the file and of the options", async (ctx) => {
  const path = await newFile(10_000);
  const facts = async (options?: FileBlockDeviceOptions) => {
    const device = await FileBlockDevice.open(ctx, path, options);
    const { size, blockSize, readOnly, canTrim, sparse } = device;
    await device.close();
    return { size, blockSize, readOnly, canTrim, sparse };
  };
  const usual = { size: 10_000, blockSize: 1, readOnly: false, canTrim: true, sparse: true };
  assertEquals(await facts(), usual);
  assertEquals(await facts({ readOnly: true }), { ...usual, readOnly: true, canTrim: false });
  assertEquals(await facts({ discard: false }), { ...usual, canTrim: false });
  for (const options of [{ direct: true }, { cache: "none" }] as const) {
    const { size, blockSize } = await facts(options);
    assert([512, 4096].includes(blockSize));
    assertEquals(size, Math.floor(10_000 / blockSize) * blockSize);
  }
  await Deno.writeFile(path, pattern(10_000));
  assertEquals(await facts(), { ...usual, sparse: false });
});

eachLoop("FileBlockDevice: trim and zero free space, unless they must not", async (ctx) => {
  const path = await newFile();
  const blocks = async () => (await Deno.stat(path)).blocks!;
  const fill = async (device: BlockDevice) => {
    await device.write([pattern(SIZE)], 0);
    await device.flush();
    return await blocks();
  };
  const device = await FileBlockDevice.open(ctx, path);
  const full = await fill(device);
  await device.trim(0, SIZE / 2);
  assert(await blocks() < full * 0.6);
  assert(device.sparse);
  await fill(device);
  await device.zero(0, SIZE / 2);
  assert(await blocks() < full * 0.6);
  await fill(device);
  await device.zero(0, SIZE, { noHole: true });
  assert(await blocks() >= full * 0.99);
  await device.close();
  const keeping = await FileBlockDevice.open(ctx, path, { discard: false });
  await fill(keeping);
  await keeping.zero(0, SIZE);
  assert(await blocks() >= full * 0.99);
  await keeping.close();
});

eachLoop("FileBlockDevice: errors of the system, and of what is no disk", async (ctx) => {
  assertEquals(await codeOf(FileBlockDevice.open(ctx, newPath())), "ENOENT");
  assertEquals(await codeOf(FileBlockDevice.open(ctx, "/tmp", { readOnly: true })), "EINVAL");
  for (const options of [null, { direct: 1 }, { cache: "fast" }, { readOnly: "yes" }]) {
    const opening = FileBlockDevice.open(ctx, "/tmp", options as FileBlockDeviceOptions);
    assert(await rejection(opening) instanceof TypeError);
  }
  const path = await newFile();
  const device = await FileBlockDevice.open(ctx, path);
  await Deno.truncate(path, 100);
  // Half of it is there, and nothing is.
  assertEquals(await codeOf(device.read([new Uint8Array(200)], 0)), "EIO");
  assertEquals(await codeOf(device.read([new Uint8Array(200)], 1000)), "EIO");
  assertEquals(await codeOf(device.read([new Uint8Array(70), new Uint8Array(70)], 0)), "EIO");
  await device.close();
  const readOnly = await FileBlockDevice.open(ctx, path, { readOnly: true });
  assertEquals(await codeOf(readOnly.write([new Uint8Array(1)], 0)), "EBADF");
  await readOnly.close();
});

/** A context whose files note what they are told, and cannot do what `refused` says. */
function noting(ctx: AioContext, notes: unknown[], refused: readonly string[] = []): AioContext {
  const note = (file: AioFile): AioFile =>
    new Proxy(file, {
      get(target, name) {
        const value = target[name as keyof AioFile];
        if (typeof value !== "function") return value;
        return (...given: unknown[]) => {
          if (["write", "writev"].includes(name as string)) notes.push([name, given[2]]);
          if (["fdatasync", "fallocate"].includes(name as string)) notes.push([name, given[0]]);
          if (name === "fallocate" && refused.includes(given[0] as string)) {
            return Promise.reject(new AioError("Cannot", "fallocate", 95));
          }
          return (value as (...given: unknown[]) => unknown).apply(target, given);
        };
      },
    });
  const openFile: AioContext["openFile"] = async (path, options) => {
    notes.push(["open", options?.sync]);
    return note(await ctx.openFile(path, options));
  };
  return { buffers: ctx.buffers, openFile, addSqe: ctx.addSqe.bind(ctx) } as unknown as AioContext;
}

eachLoop("FileBlockDevice: fua and writethrough reach the disk, unsafe does not", async (ctx) => {
  const change = async (cache: FileCache, fua: boolean) => {
    const notes: unknown[] = [];
    const device = await FileBlockDevice.open(noting(ctx, notes), await newFile(), { cache });
    assertEquals(notes.splice(0)[0], ["open", cache === "writethrough" ? "data" : false]);
    await device.write([new Uint8Array(9)], 0, { fua });
    await device.write([new Uint8Array(9), new Uint8Array(9)], 0, { fua });
    await device.trim(0, 4096, { fua });
    await device.zero(0, 4096, { fua });
    if (fua) await device.flush();
    await device.close();
    return notes;
  };
  const punched = ["fallocate", "punch-hole"], synced = ["fdatasync", undefined];
  const undefinedWrites = [["write", undefined], ["writev", undefined]];
  const flag = { dataSync: true };
  assertEquals(await change("writeback", false), [...undefinedWrites, punched, punched]);
  assertEquals(await change("writeback", true), [
    ...[["write", flag], ["writev", flag]],
    ...[punched, synced, punched, synced, synced],
  ]);
  assertEquals(await change("unsafe", true), [...undefinedWrites, punched, punched]);
  assertEquals(await change("writethrough", false), [
    ...undefinedWrites,
    ...[punched, synced, punched, synced],
  ]);
});

eachLoop("FileBlockDevice: does without what the filesystem cannot", async (ctx) => {
  const refused = ["punch-hole"], notes: unknown[] = [];
  const device = await FileBlockDevice.open(noting(ctx, notes, refused), await newFile());
  assertEquals([device.canTrim, device.canZeroFast], [false, false]);
  await device.write([pattern(8192)], 0);
  await device.zero(0, 4096, { fast: true });
  refused.push("zero-range");
  assertEquals(await codeOf(device.zero(4096, 2048, { fast: true })), "EOPNOTSUPP");
  await device.zero(4096, 2048);
  const bytes = new Uint8Array(8192);
  await device.read([bytes], 0);
  assert(bytes.subarray(0, 6144).every((byte) => byte === 0));
  assert(isSame(bytes.subarray(6144), pattern(8192).subarray(6144)));
  await device.close();
  // Each was asked once: when it was opened, and until it refused.
  const asked = notes.filter((note) => (note as unknown[])[0] === "fallocate");
  const ranges = [["fallocate", "zero-range"], ["fallocate", "zero-range"]];
  assertEquals(asked, [["fallocate", "punch-hole"], ...ranges]);
});

Deno.test("MemoryBlockDevice: takes no more memory than it may", async () => {
  const device = new MemoryBlockDevice(1e12, { memoryMax: MIB });
  await device.write([pattern(MIB / 2)], 5e11);
  assertEquals(await codeOf(device.write([pattern(MIB)], 0)), "ENOSPC");
  assertEquals(await codeOf(device.zero(0, 1e12, { noHole: true })), "ENOSPC");
  // What is freed can be taken again.
  await device.trim(0, 1e12);
  await device.write([pattern(MIB)], 65_536 * 100);
  assertEquals(await device.extents(0, 1e12, 10), [
    { length: 65_536 * 100, hole: true, zero: true },
    { length: MIB, hole: false, zero: false },
    { length: 1e12 - 65_536 * 100 - MIB, hole: true, zero: true },
  ]);
  assert(await rejection(device.write([pattern(1)], 0)) instanceof AioError);
  assertThrows(() => new MemoryBlockDevice(-1), RangeError);
  assertThrows(() => new MemoryBlockDevice(1, { memoryMax: NaN }), RangeError);
});
