/** MappedMemory: what it shows, and that nothing that is done to it ends the process. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import {
  AioError,
  closeFd,
  EventNotifier,
  type MapOptions,
  MappedMemory,
  MemFd,
  PollWord,
} from "../mod.ts";
import { FOLDER, importLine, programWords, run } from "./child.ts";
import { eachFdmon } from "./each_fdmon.ts";
import { libc } from "./libc.ts";
import { countingFds } from "./open_files.ts";
import { anyValue, Random } from "./random_values.ts";

const SEED = Number(Deno.env.get("AIO_TEST_SEED") ?? Math.floor(Math.random() * 2 ** 32));
const PAGE = 4096;

Deno.test(
  "MappedMemory: shows a part of a file, at any offset, to everybody who maps it",
  countingFds(() => {
    const file = new MemFd("test", { size: 5 * PAGE });
    using whole = new MappedMemory(file.fd);
    assertEquals(whole.byteLength, 5 * PAGE);
    for (let page = 0; page < 5; page++) whole.bytes[page * PAGE + 100] = page + 1;
    for (
      const [offset, length] of [[100, 1], [PAGE + 100, PAGE], [PAGE, 2 * PAGE], [1, 5 * PAGE - 1]]
    ) {
      using part = new MappedMemory(file.fd, { offset, length });
      assertEquals(part.byteLength, length);
      assertEquals(part.bytes, whole.bytes.slice(offset, offset + length) as never);
      part.bytes[length - 1] ^= 0xff;
      assertEquals(part.bytes[length - 1], whole.bytes[offset + length - 1]);
    }
    file[Symbol.dispose]();
    using other = new MemFd("other", { size: PAGE });
    assertThrows(
      () => new MappedMemory(other.fd, { length: PAGE + 1 }),
      RangeError,
      "the file ends",
    );
    whole.bytes[0] = 9;
    assertEquals(whole.bytes[0], 9, "the mapping lasts when the fd is closed");
  }),
);

Deno.test("MappedMemory: once disposed all views read zeros, and the file keeps what it has", () => {
  using file = new MemFd("test", { size: 2 * PAGE });
  const memory = new MappedMemory(file.fd);
  const view = new Uint32Array(memory.buffer, memory.byteOffset, 4);
  view[1] = 0x1234_5678;
  assert(memory.isMapped);
  memory[Symbol.dispose]();
  memory[Symbol.dispose]();
  assert(!memory.isMapped);
  assertEquals([view[1], memory.bytes[4]], [0, 0]);
  view[1] = 1;
  using again = new MappedMemory(file.fd);
  assertEquals(new Uint32Array(again.buffer, again.byteOffset, 4)[1], 0x1234_5678);
});

eachFdmon(
  "MappedMemory: files are read into it and written from it, without a copy",
  async (makeContext, fdmon) => {
    using ctx = makeContext();
    using memory = new MemFd("test", { size: 4 * PAGE });
    using mapped = new MappedMemory(memory.fd, { offset: PAGE });
    const path = Deno.makeTempFileSync({ dir: FOLDER });
    await ctx.run(async () => {
      await using file = await ctx.openFile(path, { read: true, write: true });
      mapped.bytes.subarray(10, 110).fill(7);
      mapped.bytes.subarray(5000, 5100).fill(8);
      assertEquals(
        await file.writev([mapped.bytes.subarray(10, 110), mapped.bytes.subarray(5000, 5100)], 0),
        200,
      );
      // Not what was copied at once: a ring is entered later, and it is changed before; a thread of the
      // other backends may be sooner.
      const late = file.write(mapped.bytes.subarray(200, 300), 200);
      mapped.bytes.subarray(200, 300).fill(9);
      assertEquals(await late, 100);
      const reading = file.readv([
        mapped.bytes.subarray(1000, 1150),
        mapped.bytes.subarray(2000, 2150),
      ], 0);
      assertEquals(await reading, 300);
    });
    const expected = new Uint8Array(300).fill(7, 0, 100).fill(8, 100, 200).fill(9, 200);
    const written = Deno.readFileSync(path);
    if (fdmon !== "io_uring") expected.set(written.subarray(200).map((byte) => byte && 9), 200);
    assertEquals(written, expected);
    assertEquals([...mapped.bytes.subarray(1000, 1150), ...mapped.bytes.subarray(2000, 2150)], [
      ...expected,
    ]);
  },
);

Deno.test("MappedMemory: a PollWord can be in it", () => {
  using file = new MemFd("test", { size: PAGE });
  using memory = new MappedMemory(file.fd), other = new MappedMemory(file.fd);
  const word = new PollWord(memory.buffer, memory.byteOffset + 2, 16);
  new Uint16Array(other.buffer, other.byteOffset, 2)[1] = 77;
  assertEquals(word.load(), 77);
});

Deno.test("MappedMemory.requireSealed: refuses what could be cut short", () => {
  using open = new MemFd("test", { size: PAGE, sealable: true });
  using plain = new MemFd("test", { size: PAGE });
  const path = Deno.makeTempFileSync({ dir: FOLDER });
  Deno.truncateSync(path, PAGE);
  for (const fd of [open.fd, plain.fd]) {
    const map = () => new MappedMemory(fd, { requireSealed: true });
    assertThrows(map, AioError, "EPERM (it is not sealed against being cut short)");
  }
  open.seal("shrink");
  new MappedMemory(open.fd, { requireSealed: true })[Symbol.dispose]();
});

Deno.test("MappedMemory: the files of others are cut short, disposed of, given away: nobody crashes", async () => {
  const program = programWords(
    importLine("MappedMemory, MemFd, AioContext", "mod.ts") + `
    const file = new MemFd("test", { size: 16 * 4096 });
    const memory = new MappedMemory(file.fd);
    memory.bytes.fill(7);
    file.truncate(4096 + 10);
    // The page that the file ends in is there to its end, and zero beyond it.
    console.log(memory.bytes[0], memory.bytes[4096 + 5], memory.bytes[4096 + 20], memory.bytes[9000]);
    memory.bytes[9000] = 3;
    console.log(memory.bytes[9000], Atomics.load(new Int32Array(memory.buffer, 40_960, 1), 0));
    using ctx = new AioContext();
    await ctx.run(async () => {
      await using device = await ctx.openFile("/dev/zero");
      const read = device.read(memory.bytes.subarray(30_000, 30_100), 0);
      console.log(await read.catch((error) => error.code));
    });
    const worker = new Worker("data:text/javascript," + encodeURIComponent(
      "onmessage = ({ data }) => { const view = new Uint8Array(data); let sum = 0;" +
        "for (let at = 0; at < view.length; at += 4096) sum += view[at]; postMessage(sum); }"), { type: "module" });
    const sum = () => new Promise((resolve) => {
      worker.onmessage = ({ data }) => resolve(data);
      worker.postMessage(memory.buffer);
    });
    console.log(await sum());
    memory[Symbol.dispose]();
    console.log(memory.bytes[0], await sum());
    worker.terminate();
    for (let round = 0; round < 300; round++) {
      const lost = new MemFd("lost", { size: 1 << 20 });
      const mapping = new MappedMemory(lost.fd);
      mapping.bytes[1 << 19] = 1;
      mapping[Symbol.dispose]();
      lost[Symbol.dispose]();
      if (round % 50 === 0) gc();
    }
    console.log("done");`,
    ["-A", "--v8-flags=--expose-gc"],
  );
  const { code, stdout, stderr } = await run(program);
  assertEquals([code, stdout, stderr], [0, "7 7 0 0\n3 0\nEFAULT\n14\n0 0\ndone\n", ""]);
});

Deno.test("MappedMemory: a SIGBUS of other memory ends the process as ever", async () => {
  const program = programWords(
    importLine("MappedMemory, MemFd", "mod.ts") + importLine("libc", "tests/libc.ts") + `
    using file = new MemFd("test", { size: 4096 });
    using memory = new MappedMemory(file.fd);
    const { mmap } = Deno.dlopen("libc.so.6", { mmap: { parameters: ["usize", "usize", "i32", "i32", "i32", "i64"], result: "usize" } }).symbols;
    const address = mmap(0n, 8192n, 3, 1, file.fd, 0n);
    console.log(new Deno.UnsafePointerView(Deno.UnsafePointer.create(address)).getUint8(5000));`,
  );
  const { code, stdout } = await run(program);
  assertEquals([code, stdout], [135, ""]);
});

Deno.test(
  "MappedMemory: refuses what cannot be mapped, and says why",
  countingFds(() => {
    using file = new MemFd("test", { size: PAGE, sealable: true });
    const map = (options: unknown, fd: unknown = file.fd) => () =>
      new MappedMemory(fd as number, options as MapOptions);
    for (const fd of ["1", null, {}, undefined]) {
      assertThrows(map({}, fd ?? []), TypeError, "the fd is not a number");
    }
    for (const fd of [-1, 0.5, NaN, 2 ** 31]) {
      assertThrows(map({}, fd), RangeError, "the fd is not a whole");
    }
    assertThrows(map({}, 1_000_000), AioError, "EBADF");
    for (const options of [null, 7, "x"]) {
      assertThrows(map(options), TypeError, "options are no object");
    }
    for (const offset of [-1, 0.5, "0", null, 2 ** 53]) {
      assertThrows(map({ offset }), RangeError, "the offset is not a whole number");
    }
    for (const length of [0, -1, 0.5, "1", null, 2 ** 31 + 1]) {
      assertThrows(map({ length }), RangeError, "the length is not a whole number");
    }
    assertThrows(map({ offset: 1, length: PAGE }), RangeError, `at ${PAGE} bytes: ${PAGE + 1}`);
    assertThrows(map({ offset: PAGE }), RangeError, "the length is not");
    assertThrows(map({ requireSealed: 1 }), TypeError, "no boolean");
    using notifier = new EventNotifier();
    assertThrows(map({ length: 1 }, notifier.fd), RangeError, "the file ends before");
    file.seal("futureWrite");
    assertThrows(map({}), AioError, "EPERM (a seal forbids writing)");
  }),
);

Deno.test("MappedMemory: more than can be guarded is refused, and there is room again after", async () => {
  const program = programWords(
    importLine("MappedMemory, MemFd", "mod.ts") + `
    using file = new MemFd("test", { size: 4096 });
    const all = [];
    for (let round = 0; round < 2; round++) {
      try {
        for (;;) all.push(new MappedMemory(file.fd));
      } catch (error) {
        console.log(all.length, error.code, error.message.includes("8,192"));
      }
      for (const memory of all.splice(0)) memory[Symbol.dispose]();
    }`,
  );
  const { stdout } = await run(program);
  assertEquals(stdout, "8192 ENOSPC true\n8192 ENOSPC true\n");
});

Deno.test(
  `MappedMemory, EventNotifier, closeFd: any values do no harm (AIO_TEST_SEED=${SEED})`,
  countingFds(() => {
    const random = new Random(SEED);
    using file = new MemFd("test", { size: 3 * PAGE });
    for (let round = 0; round < 2000; round++) {
      const value = () => random.once(2) ? anyValue(random) : random.below(4 * PAGE);
      try {
        const options = random.once(8) ? anyValue(random) : { offset: value(), length: value() };
        using memory = new MappedMemory(file.fd, options as MapOptions);
        memory.bytes.fill(1);
      } catch (error) {
        assert(error instanceof Error);
      }
      const odd = anyValue(random);
      // Small numbers are fds of the process.
      if (typeof odd === "number" && odd >= 0 && odd < 1e6) continue;
      assertThrows(() => closeFd(odd as number));
      assertThrows(() => new EventNotifier({ fd: odd as number }));
    }
  }),
);

Deno.test(
  "EventNotifier: takes over an eventfd of somebody else, and nothing else",
  countingFds(() => {
    using mine = new EventNotifier();
    const copy = libc.dup(mine.fd);
    const notifier = new EventNotifier({ fd: copy });
    notifier.set();
    assert(mine.testAndClear() && !notifier.testAndClear());
    notifier[Symbol.dispose]();
    using file = new MemFd("test");
    assertThrows(() => new EventNotifier({ fd: file.fd }), AioError, "EINVAL (no eventfd)");
    assertThrows(() => new EventNotifier({ fd: 1_000_000 }), AioError, "EBADF");
    assertThrows(() => new EventNotifier(7 as never), TypeError);
    assertThrows(() => closeFd(1_000_000), AioError, "EBADF");
    closeFd(libc.dup(mine.fd));
  }),
);
