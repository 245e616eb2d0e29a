/** What files do: opening in all ways, transfers of all kinds of memory, sizes, and closing. */
import { assert, assertEquals, assertNotEquals } from "@std/assert";
import type { AioContext, AioError, AioFile, OpenFileOptions, RequestView } from "../mod.ts";
import { eachFdmon } from "./each_fdmon.ts";
import { openPath } from "./libc.ts";
import { countingFds } from "./open_files.ts";
import { newPath, openNew, pattern, rejection } from "./test_files.ts";

const O_ACCMODE = 3, O_WRONLY = 1, O_RDWR = 2, O_APPEND = 0o2000;
const O_DSYNC = 0o10000, O_SYNC = 0o4010000, O_CLOEXEC = 0o2000000;
const O_DIRECT = Deno.build.arch === "aarch64" ? 0o200000 : 0o40000;
const MIB = 1 << 20;

/** Registers a test of files in one run of a context, that leaves no fd open. */
function eachFile(
  name: string,
  test: (ctx: AioContext) => Promise<void>,
): void {
  eachFdmon(name, (makeContext) =>
    countingFds(async () => {
      using ctx = makeContext();
      await ctx.run(() => test(ctx));
    })());
}

const code = async (promise: Promise<unknown>) => ((await rejection(promise)) as AioError).code;

/** Flags of an open fd, as the kernel has them. */
function flagsOf(fd: number): number {
  const info = Deno.readTextFileSync(`/proc/self/fdinfo/${fd}`);
  return parseInt(/^flags:\s*(\d+)$/m.exec(info)![1], 8);
}

eachFile("openFile: each option is what the kernel has", async (ctx) => {
  const path = newPath();
  const flags = async (options: OpenFileOptions) => {
    await using file = await ctx.openFile(path, options);
    return flagsOf(file.fd);
  };
  assertEquals(await code(ctx.openFile(path)), "ENOENT");
  assertEquals(await code(ctx.openFile(path, { write: true })), "ENOENT");
  const made = await flags({ write: true, create: true, exclusive: true });
  assertEquals(made & (O_ACCMODE | O_CLOEXEC), O_WRONLY | O_CLOEXEC);
  assertEquals(await code(flags({ write: true, create: true, exclusive: true })), "EEXIST");
  assertEquals(await flags({}) & O_ACCMODE, 0);
  assertEquals(await flags({ read: true }) & O_ACCMODE, 0);
  assertEquals(await flags({ read: true, write: true }) & O_ACCMODE, O_RDWR);
  assertEquals(await flags({ append: true }) & (O_ACCMODE | O_APPEND), O_WRONLY | O_APPEND);
  assertEquals(await flags({ read: true, append: true }) & O_ACCMODE, O_RDWR);
  assertEquals(await flags({ write: true, sync: true }) & O_SYNC, O_SYNC);
  assertEquals(await flags({ write: true, sync: "data" }) & O_SYNC, O_DSYNC);
  assertEquals(await flags({ write: true, sync: false }) & O_SYNC, 0);
  assertEquals(await flags({ write: true, direct: true }) & O_DIRECT, O_DIRECT);
  assertEquals(await flags({ write: true, direct: false }) & O_DIRECT, 0);
});

eachFile("openFile: mode, truncate and append do what they say", async (ctx) => {
  const umask = Deno.umask(0o022);
  try {
    for (const [mode, expected] of [[undefined, 0o644], [0o600, 0o600], [0o4777, 0o4755]]) {
      await using file = await openNew(ctx, { mode });
      assertEquals((await file.stat()).mode & 0o7777, expected);
    }
  } finally {
    Deno.umask(umask);
  }
  const path = newPath();
  await using first = await ctx.openFile(path, { write: true, create: true });
  await first.write(pattern(10), 0);
  await using appending = await ctx.openFile(path, { append: true });
  assertEquals(await appending.write(pattern(3), 2), 3);
  assertEquals((await first.stat()).size, 13);
  await using truncating = await ctx.openFile(path, { write: true, truncate: true });
  assertEquals((await truncating.stat()).size, 0);
  assertEquals(await code(truncating.read(new Uint8Array(1), 0)), "EBADF");
});

eachFile("openFile: takes paths, file URLs and open fds", async (ctx) => {
  const path = `${newPath()} % ü`;
  await Deno.writeFile(path, pattern(9));
  const url = new URL(`file://${path.replaceAll("%", "%25")}`);
  for (const place of [path, url, { fd: openPath(path) }]) {
    await using file = await ctx.openFile(place);
    const buffer = new Uint8Array(9);
    assertEquals(await file.read(buffer, 0), 9);
    assertEquals(buffer, pattern(9));
  }
});

/** Memory of all kinds: a view of these bytes. */
function kinds(ctx: AioContext): Readonly<Record<string, (bytes: Uint8Array) => RequestView>> {
  const filled = <View extends Uint8Array>(
    view: View,
    bytes: Uint8Array,
  ) => (view.set(bytes), view);
  return {
    "a plain array": (bytes) => bytes.slice(),
    "part of a plain array": (bytes) =>
      filled(new Uint8Array(bytes.length + 20).subarray(7, -13), bytes),
    "a DataView": (bytes) => new DataView(bytes.slice().buffer),
    "words": (bytes) => new Uint16Array(bytes.slice().buffer),
    "shared": (bytes) => filled(new Uint8Array(new SharedArrayBuffer(bytes.length)), bytes),
    "part of shared": (bytes) =>
      filled(new Uint8Array(new SharedArrayBuffer(bytes.length + 20), 7, bytes.length), bytes),
    "growable shared": (bytes) =>
      filled(
        new Uint8Array(new SharedArrayBuffer(bytes.length, { maxByteLength: 1e6 })),
        bytes,
      ),
    "a DataView of shared": (bytes) => {
      const buffer = new SharedArrayBuffer(bytes.length + 8);
      filled(new Uint8Array(buffer, 5, bytes.length), bytes);
      return new DataView(buffer, 5, bytes.length);
    },
    "of a WebAssembly.Memory": (bytes) =>
      filled(
        new Uint8Array(new WebAssembly.Memory({ initial: 1 }).buffer, 100, bytes.length),
        bytes,
      ),
    "of the pool": (bytes) =>
      filled(ctx.buffers.allocate(bytes.length || 1).subarray(0, bytes.length), bytes),
    "part of the pool": (bytes) =>
      filled(ctx.buffers.allocate(bytes.length + 20).subarray(7, -13), bytes),
  };
}

const bytesOf = (view: RequestView) =>
  new Uint8Array(view.buffer, view.byteOffset, view.byteLength).slice();

eachFile("read, write: any memory, with what is around it untouched", async (ctx) => {
  await using file = await openNew(ctx);
  const all = Object.entries(kinds(ctx));
  for (const [index, [kind, make]] of all.entries()) {
    const bytes = pattern(1000, index);
    assertEquals(await file.write(make(bytes), 0), 1000, kind);
    assertEquals(await Deno.readFile(`/proc/self/fd/${file.fd}`), bytes, kind);
    const view = make(new Uint8Array(1000)), whole = new Uint8Array(view.buffer);
    for (const [options, what] of [[undefined, "cached"], [{}, "requested"]] as const) {
      whole.fill(0xee);
      assertEquals(await file.read(view, 0, options), 1000, `${kind}, ${what}`);
      assertEquals(bytesOf(view), bytes, `${kind}, ${what}`);
      const around = whole.filter((_, at) =>
        at < view.byteOffset || at >= view.byteOffset + view.byteLength
      );
      assert(around.every((byte) => byte === 0xee), `${kind}, ${what}: written around it`);
    }
    assertEquals(await file.read(make(new Uint8Array(0)), 0, {}), 0, kind);
  }
});

eachFile("readv, writev: buffers of mixed kinds, one after the other", async (ctx) => {
  await using file = await openNew(ctx);
  const all = Object.values(kinds(ctx));
  const shared = all.slice(4, 8), pooled = all.slice(9);
  for (const makes of [all, shared, [...pooled, ...shared], []]) {
    const parts = makes.map((_, index) => pattern(100 + 2 * index, index));
    const expected = new Uint8Array(parts.flatMap((part) => [...part]));
    assertEquals(await file.writev(makes.map((make, at) => make(parts[at])), 7), expected.length);
    const views = makes.map((make, at) => make(new Uint8Array(parts[at].length)));
    assertEquals(await file.readv(views, 7), expected.length);
    assertEquals(views.map(bytesOf), parts);
    // Past the end there is less.
    await file.truncate(7 + Math.min(expected.length, 150));
    assertEquals(await file.readv(views, 7), Math.min(expected.length, 150));
    assertEquals(await file.readv(views, 1000), 0);
  }
  const many = Array.from({ length: 1024 }, () => ctx.buffers.allocate(1));
  assertEquals(await file.writev(many, 0), 1024);
});

eachFile("read: at the end, past it and across it", async (ctx) => {
  await using file = await openNew(ctx);
  await file.write(pattern(10), 0);
  for (const make of [() => new Uint8Array(8), () => ctx.buffers.allocate(8)]) {
    for (const [offset, count] of [[2, 8], [3, 7], [9, 1], [10, 0], [11, 0], [2 ** 52, 0]]) {
      const buffer = make().fill(0xee);
      assertEquals(await file.read(buffer, offset), count);
      assertEquals(buffer.slice(0, count), pattern(10).slice(offset, offset + 8));
      assert(buffer.slice(count).every((byte) => byte === 0xee));
    }
  }
});

eachFile("offsets beyond 4 GiB are exact", async (ctx) => {
  await using file = await openNew(ctx);
  const offsets = [2 ** 31 - 1, 2 ** 32 - 2, 2 ** 32 + 3, 2 ** 33 + 2 ** 31 + 5, 2 ** 40 + 1];
  for (const [index, offset] of offsets.entries()) {
    assertEquals(await file.write(pattern(4, index), offset), 4);
  }
  assertEquals((await file.stat()).size, 2 ** 40 + 5);
  for (const [index, offset] of offsets.entries()) {
    for (const buffer of [new Uint8Array(6), ctx.buffers.allocate(6)]) {
      await file.read(buffer, offset - 1);
      assertEquals(buffer.slice(1, 5), pattern(4, index), `${offset}`);
    }
  }
  await file.truncate(2 ** 33 + 7);
  assertEquals((await file.stat()).size, 2 ** 33 + 7);
  await file.fallocate("allocate", 2 ** 34, 4096);
  assertEquals((await file.stat()).size, 2 ** 34 + 4096);
});

eachFile("read, write: plain memory of more than 1 MiB goes in parts", async (ctx) => {
  await using file = await openNew(ctx);
  for (const length of [MIB, MIB + 1, 2 * MIB, 3 * MIB + 4097]) {
    const bytes = pattern(length, length);
    assertEquals(await file.write(bytes, 5), length);
    assertEquals((await file.stat()).size, 5 + length);
    const back = new Uint8Array(length);
    assertEquals(await file.read(back, 5), length);
    assert(bytes.every((byte, at) => byte === back[at]), `${length} read`);
    back.fill(0);
    assertEquals(await file.read(back, 5, {}), length);
    assert(bytes.every((byte, at) => byte === back[at]), `${length} requested`);
    assertEquals(await file.read(back, 5 + MIB / 2, {}), length - MIB / 2);
    const direct = ctx.buffers.allocate(length);
    assertEquals(await file.readv([direct], 5), length);
    assert(bytes.every((byte, at) => byte === direct[at]), `${length} direct`);
  }
});

eachFile("fsync, fdatasync: resolve to nothing, and reject where the fd cannot", async (ctx) => {
  await using file = await openNew(ctx);
  assertEquals(await file.fsync(), undefined);
  assertEquals(await file.fdatasync(), undefined);
  await using none = await ctx.openFile("/proc/self/maps");
  assertEquals(await code(none.fsync()), "EINVAL");
  assertEquals(await code(none.fdatasync()), "EINVAL");
});

eachFile("fallocate: each mode", async (ctx) => {
  await using file = await openNew(ctx);
  await file.fallocate("keep-size", 0, 65_536);
  let status = await file.stat();
  assertEquals(status.size, 0);
  assert(status.blocks >= 128);
  await file.fallocate("allocate", 0, 65_536);
  status = await file.stat();
  assertEquals(status.size, 65_536);
  await file.write(new Uint8Array(65_536).fill(7), 0);
  await file.fsync();
  const { blocks } = await file.stat();
  await file.fallocate("punch-hole", 4096, 8192);
  status = await file.stat();
  assertEquals(status.size, 65_536);
  assert(status.blocks < blocks, "nothing was freed");
  const zeroed = await code(file.fallocate("zero-range", 32_768, 4096)).catch(() => null);
  const bytes = new Uint8Array(65_536);
  await file.read(bytes, 0);
  const zero = (at: number) =>
    (at >= 4096 && at < 12_288) || (zeroed === null && at >= 32_768 && at < 36_864);
  assert(bytes.every((byte, at) => byte === (zero(at) ? 0 : 7)));
  assertEquals(await code(file.fallocate("allocate", 0, 0)), "EINVAL");
});

eachFile("stat: what Deno says of the same file", async (ctx) => {
  const path = newPath();
  await Deno.writeFile(path, pattern(5000), { mode: 0o640 });
  const check = async (file: AioFile, info: Deno.FileInfo) => {
    const status = await file.stat();
    assertEquals(
      [status.size, status.mode, status.inode, status.links, status.uid, status.gid],
      [info.size, info.mode, info.ino, info.nlink, info.uid, info.gid],
    );
    assertEquals([status.blocks, status.blockSize], [info.blocks, info.blksize]);
    assertEquals(Number(status.modifiedNs / 1_000_000n), info.mtime!.getTime());
    assertEquals(Number(status.accessedNs / 1_000_000n), info.atime!.getTime());
    // Deno has whole seconds here.
    assertEquals(Number(status.changedNs / 1_000_000_000n), info.ctime!.getTime() / 1000 | 0);
    if (status.bornNs !== null) {
      assertEquals(Number(status.bornNs / 1_000_000n), info.birthtime!.getTime());
    }
    assertEquals([status.isFile, status.isDirectory], [info.isFile, info.isDirectory]);
    assertEquals(status.isBlockDevice, info.isBlockDevice);
  };
  await using file = await ctx.openFile(path);
  await check(file, await Deno.stat(path));
  await using folder = await ctx.openFile("/tmp");
  await check(folder, await Deno.stat("/tmp"));
  assertNotEquals((await file.stat()).inode, (await folder.stat()).inode);
});

eachFile("close: waits for what is in flight, then frees the number", async (ctx) => {
  const file = await openNew(ctx);
  const buffer = ctx.buffers.allocate(MIB);
  let written = 0;
  const writes = Array.from({ length: 20 }, async (_, index) => {
    const count = await file.write(buffer, index * MIB);
    written += count;
  });
  const { fd } = file;
  await file.close();
  assertEquals(written, 20 * MIB);
  await Promise.all(writes);
  assertEquals(await code(ctx.openFile({ fd }).then((again) => again.stat())), "EBADF");
});
