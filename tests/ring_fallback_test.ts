/** Files on a ring of an older kernel: one that says it lacks operations, as ftruncate before 6.9. */
import { assertEquals, assertThrows } from "@std/assert";
import { type AioContext, AioError } from "../mod.ts";
import { loadLiburing } from "../ffi/library.ts";
import { SqeOp } from "../ffi/sqe.ts";
import { compileLibrary } from "./compile.ts";
import { onIoUring } from "./each_fdmon.ts";
import { countFds } from "./open_files.ts";
import { openNew, pattern, rejection } from "./test_files.ts";

const LACKING = [SqeOp.ftruncate, SqeOp.statx, SqeOp.fallocate];

const liburing = await compileLibrary(
  `
  #define _GNU_SOURCE
  #include <dlfcn.h>
  #include <liburing.h>
  int io_uring_register_probe(struct io_uring *ring, struct io_uring_probe *probe, unsigned count) {
    static const int lacking[] = { ${LACKING.join()} };
    int (*real)(struct io_uring *, struct io_uring_probe *, unsigned) =
      dlsym(RTLD_NEXT, "io_uring_register_probe");
    int result = real(ring, probe, count);
    for (unsigned i = 0; i < sizeof(lacking) / sizeof(lacking[0]); i++)
      probe->ops[lacking[i]].flags = 0;
    return result;
  }`,
  ["-Wl,--no-as-needed", "-l:liburing.so.2", "-ldl"],
);
// Opened here, as it stays open: the sanitizer would blame the test.
loadLiburing({ liburing });

onIoUring("AioFile: what the ring cannot do is done by threads", async (makeContext) => {
  const fds = countFds();
  const ctx: AioContext = makeContext({ liburing });
  await ctx.run(async () => {
    const file = await openNew(ctx);
    await Promise.all([
      file.write(pattern(4096), 0),
      file.fallocate("allocate", 8192, 4096),
      file.stat(),
    ]);
    assertEquals((await file.stat()).size, 12_288);
    await file.truncate(5);
    assertEquals((await file.stat()).size, 5);
    const controller = new AbortController();
    const aborted = rejection(file.truncate(3, controller));
    controller.abort();
    await aborted.catch(() => {});
    // Requests of a caller may be linked, so they are not.
    const error = assertThrows(
      () => ctx.addSqe((sqe) => sqe.ftruncate(file.fd, 0), () => {}),
      AioError,
      "Cannot make a request",
    );
    assertEquals(error.code, "EOPNOTSUPP");
    await file.close();
  });
  const last = rejection(openNew(ctx));
  ctx[Symbol.dispose]();
  assertEquals(((await last) as AioError).code, "ECANCELED");
  assertEquals(countFds(), fds, "open fds");
});
