/** Requests with wrong arguments reject with a clear error, at once, and leave nothing behind. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { type AioContext, AioError, type AioFile, type RequestView } from "../mod.ts";
import { eachFdmon } from "./each_fdmon.ts";
import { makePair } from "./libc.ts";
import { countFds } from "./open_files.ts";
import { newPath, openNew, pattern, rejection } from "./test_files.ts";

type Bad = readonly [
  what: string,
  call: () => Promise<unknown>,
  kind: new (...args: never[]) => Error,
  message: RegExp,
];

async function refuse(rows: readonly Bad[]): Promise<void> {
  for (const [what, call, kind, message] of rows) {
    // A promise whatever the argument: the call itself does not throw.
    const error = await rejection(call());
    assert(error instanceof kind, `${what}: ${error}`);
    assertMatch(error.message, message, what);
  }
}

const fail = (): never => {
  throw new Error("thrown by a value");
};

/** Values that are of no use as a number. */
const NO_NUMBERS: readonly unknown[] = [
  ..."",
  null,
  undefined,
  "0",
  1n,
  true,
  {},
  [],
  Symbol("x"),
  Object.create(null),
  { toString: fail, valueOf: fail },
  () => 0,
];
const NO_OFFSETS = [-1, 0.5, NaN, Infinity, -Infinity, 2 ** 53, 1e300];

eachFdmon("AioFile: bad offsets and lengths are refused", async (makeContext) => {
  using ctx = makeContext();
  await ctx.run(async () => {
    await using file = await openNew(ctx);
    const bytes = new Uint8Array(4);
    const calls: ((value: number) => Promise<unknown>)[] = [
      (value) => file.read(bytes, value),
      (value) => file.write(bytes, value),
      (value) => file.readv([bytes], value),
      (value) => file.writev([bytes], value),
      (value) => file.fallocate("allocate", value, 1),
      (value) => file.fallocate("allocate", 0, value),
      (value) => file.truncate(value),
    ];
    for (const call of calls) {
      for (const value of NO_OFFSETS) {
        await refuse([[`${value}`, () => call(value), RangeError, /not a whole number from 0 to/]]);
      }
      for (const value of NO_NUMBERS) {
        await refuse([[
          typeof value,
          () => call(value as number),
          TypeError,
          /not a number: \w+$/,
        ]]);
      }
    }
    assertEquals((await file.stat()).size, 0);
  });
});

function detached(): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(8);
  bytes.buffer.transfer();
  return bytes;
}

eachFdmon("AioFile: what is no usable buffer is refused", async (makeContext) => {
  using ctx = makeContext();
  await ctx.run(async () => {
    await using file = await openNew(ctx);
    const shrunk = new ArrayBuffer(8, { maxByteLength: 16 });
    const outside = new Uint8Array(shrunk, 4);
    shrunk.resize(2);
    const moved = new ArrayBuffer(8), view = new DataView(moved);
    moved.transfer();
    const resizable = new Uint8Array(new ArrayBuffer(8, { maxByteLength: 16 }));
    const buffers: readonly (readonly [string, unknown])[] = [
      ["null", null],
      ["undefined", undefined],
      ["a text", "text"],
      ["a number", 7],
      ["an ArrayBuffer", new ArrayBuffer(8)],
      ["an array", [1, 2, 3]],
      ["a look-alike", Object.create(Uint8Array.prototype)],
      ["a proxy", new Proxy(new Uint8Array(8), {})],
      ["detached", detached()],
      ["a DataView of detached memory", view],
      ["resizable", resizable],
      ["outside", outside],
    ];
    for (const [what, buffer] of buffers) {
      const bad = buffer as RequestView;
      await refuse([
        [`read ${what}`, () => file.read(bad, 0), TypeError, /./],
        [`write ${what}`, () => file.write(bad, 0), TypeError, /./],
        [`readv ${what}`, () => file.readv([bad], 0), TypeError, /./],
        [`writev ${what}`, () => file.writev([new Uint8Array(0), bad], 0), TypeError, /./],
      ]);
    }
    await refuse([
      ["detached", () => file.read(detached(), 0), TypeError, /memory has been transferred away/],
      ["resizable", () => file.read(resizable, 0), TypeError, /memory is resizable/],
      ["no view", () => file.read(7 as never, 0), TypeError, /no view of memory: number/],
      ["no array", () => file.readv(7 as never, 0), TypeError, /no array: number/],
      ["1025", () => file.readv(Array(1025), 0), RangeError, /more than 1024 buffers: 1025/],
    ]);
    assertEquals((await file.stat()).size, 0);
  });
});

eachFdmon("AioFile: lengths that views claim are not believed", async (makeContext) => {
  using ctx = makeContext();
  await ctx.run(async () => {
    await using file = await openNew(ctx);
    await file.write(pattern(4096), 0);
    const liar = new Uint8Array(4);
    for (const name of ["byteLength", "length"]) Object.defineProperty(liar, name, { value: 4096 });
    const fence = ctx.buffers.allocate(64);
    const inPool = fence.subarray(0, 4);
    Object.defineProperty(inPool, "byteLength", { value: 4096 });
    Object.defineProperty(inPool, "byteOffset", { value: 4096 });
    assertEquals(await file.read(liar, 0), 4);
    assertEquals(await file.read(inPool, 0), 4);
    assertEquals(await file.readv([inPool, liar], 0), 8);
    assertEquals(await file.writev([liar, inPool], 4094), 8);
    assert(fence.subarray(4).every((byte) => byte === 0), "written beyond a view");
    assertEquals((await file.stat()).size, 4102);
    const many = [new Uint8Array(1)];
    many[Symbol.iterator] = function* () {
      for (;;) yield new Uint8Array(1);
    };
    assertEquals(await file.readv(many, 0), 1);
  });
});

eachFdmon("openFile: bad paths and options are refused", async (makeContext) => {
  const fds = countFds();
  const ctx = makeContext();
  const open = (path: unknown, options?: unknown) => () =>
    ctx.openFile(path as string, options as object);
  await ctx.run(() =>
    refuse([
      ["null", open(null), TypeError, /path is no string or URL: object/],
      ["a number", open(3), TypeError, /path is no string or URL: number/],
      ["a symbol", open(Symbol()), TypeError, /path is no string or URL: symbol/],
      ["an object", open({}), TypeError, /path is no string or URL: object/],
      ["empty", open(""), TypeError, /path is none: ""/],
      ["NUL", open("/tmp/a\0b"), TypeError, /path is none: "\/tmp\/a\\u0000b"/],
      ["too long", open("a".repeat(4096)), RangeError, /more than 4095 bytes/],
      ["too long a name", open("a".repeat(4095)), AioError, /ENAMETOOLONG/],
      ["http", open(new URL("http://a/b")), TypeError, /URL is not a file: one: http/],
      ["not UTF-8", open(new URL("file:///tmp/%80")), TypeError, /path is not UTF-8/],
      ["fd text", open({ fd: "3" }), TypeError, /the fd as it is not a number: string/],
      ["fd -1", open({ fd: -1 }), RangeError, /the fd as it is not a whole number .*: -1/],
      ["fd 2^32", open({ fd: 2 ** 32 }), RangeError, /from 0 to 2147483647: 4294967296/],
      ["options null", open("/tmp", null), TypeError, /options are no object: null/],
      ["options text", open("/tmp", "r"), TypeError, /options are no object: string/],
      ["write", open("/tmp", { write: 1 }), TypeError, /`write` is not a boolean: number/],
      ["direct", open("/tmp", { direct: "no" }), TypeError, /`direct` is not a boolean: string/],
      ["sync", open("/tmp", { sync: "meta" }), TypeError, /`sync` is not .*: meta/],
      ["mode", open("/tmp", { mode: 0o10000 }), RangeError, /not 0 to 0o7777: 4096/],
      ["mode text", open("/tmp", { mode: "0644" }), TypeError, /mode is not a number: string/],
      ["create", open(newPath(), { create: true }), TypeError, /without `write`/],
      ["truncate", open(newPath(), { truncate: true }), TypeError, /without `write`/],
      [
        "exclusive",
        open(newPath(), { write: true, exclusive: true }),
        TypeError,
        /`exclusive` but without `create`/,
      ],
      ["missing", open(newPath()), AioError, /^Cannot open \/\S+ as openat failed: ENOENT/],
      ["a directory", open("/tmp", { write: true }), AioError, /EISDIR/],
      ["signal", open("/tmp", { signal: {} }), TypeError, /no AbortSignal: object/],
    ])
  );
  ctx[Symbol.dispose]();
  assertEquals(countFds(), fds, "open fds");
});

/** Options that do something while they are read, or are none. */
function badOptions(meanwhile: () => void): readonly (readonly [string, unknown])[] {
  const lying = new AbortController().signal;
  Object.defineProperty(lying, "aborted", { get: fail });
  Object.defineProperty(lying, "addEventListener", { value: fail });
  Object.defineProperty(lying, "removeEventListener", { value: fail });
  return [
    ["null", null],
    ["a text", "signal"],
    ["a number as signal", { signal: 5 }],
    ["an object as signal", { signal: { aborted: false } }],
    ["no signal after all", { signal: Object.create(AbortSignal.prototype) }],
    ["a getter that throws", {
      get signal() {
        return fail();
      },
    }],
    ["a getter that acts", {
      get signal() {
        return meanwhile();
      },
    }],
    ["a signal with methods of its own", { signal: lying }],
  ];
}

const USES: Readonly<Record<string, (file: AioFile, options: object) => Promise<unknown>>> = {
  read: (file, options) => file.read(new Uint8Array(4), 0, options),
  write: (file, options) => file.write(new Uint8Array(4), 0, options),
  "write in parts": (file, options) => file.write(new Uint8Array(3 << 20), 0, options),
  readv: (file, options) => file.readv([new Uint8Array(4)], 0, options),
  writev: (file, options) => file.writev([new Uint8Array(4)], 0, options),
  fsync: (file, options) => file.fsync(options),
  stat: (file, options) => file.stat(options),
  truncate: (file, options) => file.truncate(0, options),
};

eachFdmon("AioFile: bad signals keep no request, so that closing ends", async (makeContext) => {
  using ctx = makeContext();
  await ctx.run(async () => {
    for (const [name, use] of Object.entries(USES)) {
      for (const [what, options] of badOptions(() => {})) {
        const file = await openNew(ctx);
        const result = use(file, options as object);
        if (/^a getter that acts|methods of its own/.test(what)) await result;
        else assert((await rejection(result)) instanceof Error, `${name}: ${what}`);
        await file.close();
      }
    }
  });
});

eachFdmon("AioFile: options that close the file or dispose the context", async (makeContext) => {
  for (const [name, use] of Object.entries(USES)) {
    const fds = countFds();
    const ctx: AioContext = makeContext();
    await ctx.run(async () => {
      const file = await openNew(ctx);
      let closed: Promise<void> | null = null;
      const closing = badOptions(() => void (closed = file.close())).at(-2)![1] as object;
      assertMatch((await rejection(use(file, closing))).message, /file as it is closed/, name);
      await closed;
      const other = await openNew(ctx);
      const disposing = badOptions(() => ctx[Symbol.dispose]()).at(-2)![1] as object;
      assertMatch((await rejection(use(other, disposing))).message, /context is disposed/, name);
      await other.close();
    });
    assertEquals(countFds(), fds, `${name}: open fds`);
  }
});

eachFdmon("AioFile: every use of a closed file is refused; closing again is harmless", async (
  makeContext,
) => {
  using ctx = makeContext();
  await ctx.run(async () => {
    const file = await openNew(ctx);
    const { fd } = file;
    await Promise.all([file.close(), file.close()]);
    // The number is somebody else's now.
    await using other = await openNew(ctx);
    assertEquals(other.fd, fd);
    await file.close();
    for (const [name, use] of Object.entries(USES)) {
      await refuse([[
        name,
        () => use(file, {}),
        TypeError,
        /^Cannot use the file as it is closed$/,
      ]]);
    }
    assertEquals((await other.stat()).size, 0);
  });
});

eachFdmon("AioFile: a buffer transferred away while in flight rejects, or was in time", async (
  makeContext,
) => {
  const [input, output] = makePair("pipe");
  using ctx = makeContext();
  await ctx.run(async () => {
    await using reader = await ctx.openFile({ fd: input });
    await using writer = await ctx.openFile({ fd: output }, { write: true });
    for (const make of [() => new Uint8Array(8), () => new DataView(new ArrayBuffer(8))]) {
      const view = make();
      const read = rejection(reader.read(view, 0));
      (view.buffer as ArrayBuffer).transfer();
      await writer.write(new Uint8Array([1, 2, 3]), 0);
      const error = await read;
      assert(error instanceof TypeError);
      assertMatch(error.message, /^Cannot read as the buffer has been transferred away$/);
    }
    const bytes = pattern(8);
    const write = writer.write(bytes, 0);
    bytes.buffer.transfer();
    assertEquals(await write, 8);
    const back = new Uint8Array(8);
    assertEquals(await reader.read(back, 0), 8);
    assertEquals(back, pattern(8));
  });
});
