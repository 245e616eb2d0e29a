/** Requests while system calls of the loop fail, now and then or always. */
import { assert, assertEquals, assertStrictEquals, assertThrows } from "@std/assert";
import { AioError } from "../mod.ts";
import { Errno } from "../ffi/errno.ts";
import { eachFdmon, onIoUring } from "./each_fdmon.ts";
import { faults, inject, makeFaulty, PARTIAL } from "./fault_injector.ts";
import { countingFds } from "./open_files.ts";
import { openNew, pattern, rejection } from "./test_files.ts";

const { EBUSY, EAGAIN, ENOMEM, EINTR, EMFILE, EPERM } = Errno;

for (const [name, errno] of Object.entries({ EBUSY, EAGAIN, ENOMEM, EINTR, PARTIAL })) {
  onIoUring(
    `AioFile: no request is lost where every other enter fails with ${name}`,
    () =>
      countingFds(async () => {
        using ctx = makeFaulty("io_uring");
        using _fault = inject("io_uring_enter", 2, errno);
        await ctx.run(async () => {
          await using file = await openNew(ctx);
          const bytes = pattern(1000), buffer = ctx.buffers.allocate(1000);
          buffer.set(bytes);
          const writes = Array.from(bytes, (_, at) => file.write(buffer.subarray(at, at + 1), at));
          assertEquals(new Set(await Promise.all(writes)), new Set([1]));
          const back = new Uint8Array(1000);
          assertEquals(await file.read(back, 0, {}), 1000);
          assertEquals(back, bytes);
        });
        assert(faults("io_uring_enter") > 0);
      })(),
  );
}

onIoUring(
  "addSqe, AioFile: where no enter is possible, all say so and nothing is lost",
  () =>
    countingFds(async () => {
      using ctx = makeFaulty("io_uring");
      const file = await ctx.run(() => openNew(ctx));
      const controller = new AbortController(), reason = new Error("enough");
      let completed = 0;
      let added = 0;
      {
        using _fault = inject("io_uring_enter", 1, EPERM);
        // As many as the ring takes without an enter; then each is refused.
        assertThrows(
          () => {
            for (;;) {
              ctx.addSqe((sqe) => sqe.nop(), () => completed++);
              added++;
            }
          },
          AioError,
          "Cannot wait for events as io_uring_enter failed: EPERM",
        );
        const error = await rejection(file.write(new Uint8Array(8), 0, controller));
        assertEquals((error as AioError).code, "EPERM");
        controller.abort(reason);
        assertThrows(() => ctx.poll(false), AioError, "EPERM");
      }
      assert(added >= 192);
      await ctx.run(async () => {
        assertEquals(await file.write(pattern(8), 0), 8);
        await file.close();
      });
      assertEquals(completed, added);
    })(),
);

eachFdmon(
  "AioFile: a signal is aborted while the ring cannot be entered",
  (makeContext, fdmon) =>
    countingFds(async () => {
      using ctx = fdmon === "io_uring" ? makeFaulty(fdmon) : makeContext();
      await ctx.run(async () => {
        await using file = await openNew(ctx);
        const controller = new AbortController(), reason = new Error("enough");
        const write = rejection(file.write(new Uint8Array(8), 0, controller));
        {
          using _fault = inject("io_uring_enter", 1, EPERM);
          // What its listeners throw would end the process.
          controller.abort(reason);
        }
        assertStrictEquals(await write.catch(() => reason), reason);
      });
    })(),
);

eachFdmon("AioFile: without an fd for the worker threads requests reject, and later succeed", (
  _makeContext,
  fdmon,
) =>
  countingFds(async () => {
    using ctx = makeFaulty(fdmon);
    {
      using _fault = inject("eventfd", 1, EMFILE);
      const error = await rejection(ctx.openFile("/tmp"));
      assertEquals((error as AioError).code, "EMFILE");
      assertEquals(faults("eventfd"), 1);
    }
    await ctx.run(async () => {
      await using file = await openNew(ctx);
      assertEquals(await file.write(new Uint8Array(8), 0), 8);
    });
  })(), ["epoll", "poll"]);
