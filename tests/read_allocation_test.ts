/** An awaited read allocates its promise and little else, by V8's own count of used heap. */
import { assert, assertEquals } from "@std/assert";
import { newPath } from "./test_files.ts";

const PROGRAM = new URL("read_allocation_program.ts", import.meta.url).pathname;

/** Bytes of heap per read at most: the promise, and what `await` makes. */
const BYTES_MAX = 300;

for (const fdmon of ["io_uring", "epoll", "poll"]) {
  Deno.test(`AioFile: awaited reads allocate 300 bytes at most (${fdmon})`, async (t) => {
    const young = "--max-semi-space-size=64,--min-semi-space-size=64";
    const { success, stdout } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", `--v8-flags=--expose-gc,${young}`, PROGRAM, fdmon, newPath()],
    }).output();
    assert(success);
    const bytes: Record<string, number> = JSON.parse(new TextDecoder().decode(stdout));
    assertEquals(Object.keys(bytes).length, fdmon === "io_uring" ? 3 : 2);
    for (const [what, perRead] of Object.entries(bytes)) {
      await t.step(what, () => assert(perRead < BYTES_MAX, `${perRead} bytes a read`));
    }
  });
}
