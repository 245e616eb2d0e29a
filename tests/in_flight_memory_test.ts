/** Memory that requests are working on: the kernel never writes to what is nobody's any more. */
import { assertEquals } from "@std/assert";
import { importLine, programWords, run } from "./child.ts";
import { FDMONS } from "./each_fdmon.ts";

/** A program on a backend in which garbage can be collected at will. */
function program(fdmon: string, text: string) {
  const words = programWords(
    importLine("AioContext", "mod.ts") + importLine("libc, makePair", "tests/libc.ts") + `
      const ctx = new AioContext({ fdmon: "${fdmon}" });
      const [left, right] = makePair("socket");
      /** Takes the memory that was freed, and marks it. */
      const churn = () => {
        const blocks = [];
        for (let round = 0; round < 8; round++) {
          gc();
          for (const size of [16, 4096, 65_536, 300_000, 1 << 20]) {
            blocks.push(new Uint8Array(size).fill(0xee), new Uint8Array(new SharedArrayBuffer(size)).fill(0xee));
          }
        }
        return () => blocks.every((block) => block.every((byte) => byte === 0xee));
      };
      const send = (length) => libc.write(right, new Uint8Array(length).fill(7), BigInt(length));
      ${text}`,
    ["-A", "--v8-flags=--expose-gc"],
  );
  return run(words);
}

for (const fdmon of FDMONS) {
  Deno.test(`memory dropped while in flight stays until the completion (${fdmon})`, async () => {
    const { code, stdout, stderr } = await program(
      fdmon,
      `const reader = await ctx.openFile({ fd: left });
      const sizes = [16, 5000, 300_000, 1 << 20];
      for (const size of sizes) {
        // Nobody has any of these after this line, nor the promises.
        reader.read(new Uint8Array(size), 0);
        reader.read(ctx.buffers.allocate(size), 0);
        reader.read(new Uint8Array(new SharedArrayBuffer(size)), 0);
        reader.readv([ctx.buffers.allocate(size), ctx.buffers.allocate(8)], 0);
        ctx.addSqe((sqe) => sqe.recv(left, ctx.buffers.allocate(size)), () => {});
      }
      for (let polls = 0; polls < 3; polls++) ctx.poll(false);
      const untouched = churn();
      let completions = 0;
      ctx.trace.on("fdmon_io_uring_cqe_handler", ({ res }) => completions += res > 1 ? 1 : 0);
      while (completions < 5 * sizes.length) {
        send(16);
        for (let polls = 0; polls < 20; polls++) ctx.poll(false);
      }
      console.log(untouched());
      ctx[Symbol.dispose]();`,
    );
    assertEquals([code, stdout, stderr], [0, "true\n", ""]);
  });

  Deno.test(`memory transferred away while in flight is not written to (${fdmon})`, async () => {
    const { code, stdout, stderr } = await program(
      fdmon,
      `const reader = await ctx.openFile({ fd: left });
      const errors = [], moved = [];
      for (const size of [16, 5000, 300_000, 1 << 20]) {
        const view = new Uint8Array(size);
        reader.read(view, 0).catch((error) => errors.push(error.constructor.name));
        reader.readv([new Uint8Array(0), view], 0).catch((error) => errors.push(error.constructor.name));
        moved.push(new Uint8Array(view.buffer.transfer()));
      }
      for (let polls = 0; polls < 3; polls++) ctx.poll(false);
      const untouched = churn();
      while (errors.length < 8) {
        send(16);
        for (let polls = 0; polls < 20; polls++) ctx.poll(false);
        await null;
      }
      console.log(untouched(), moved.every((view) => view.every((byte) => byte === 0)));
      console.log([...new Set(errors)].join());
      ctx[Symbol.dispose]();`,
    );
    assertEquals([code, stdout, stderr], [0, "true true\nTypeError\n", ""]);
  });

  Deno.test(`memory of a disposed context is not written to (${fdmon})`, async () => {
    const { code, stdout, stderr } = await program(
      fdmon,
      `const buffers = [];
      for (let index = 0; index < 20; index++) {
        const buffer = ctx.buffers.allocate(64);
        buffers.push(buffer);
        ctx.addSqe((sqe) => sqe.recv(left, buffer), () => console.log("completed"));
      }
      const reader = await ctx.openFile({ fd: left });
      reader.read(new Uint8Array(64), 0).catch((error) => console.log(error.code));
      ctx.poll(false);
      ctx[Symbol.dispose]();
      const untouched = churn();
      send(1000);
      await reader.close();
      console.log(untouched(), buffers.every((buffer) => buffer.every((byte) => byte === 0)));`,
    );
    assertEquals([code, stdout, stderr], [0, "ECANCELED\ntrue true\n", ""]);
  });
}
