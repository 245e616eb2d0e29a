/** Nothing is allocated per iteration once warm, by V8's own count of used heap. */
import { assert, assertEquals } from "@std/assert";

const PROGRAM = new URL("allocation_program.ts", import.meta.url).pathname;

/** Bytes of heap per iteration that still count as none: the measurement itself makes objects. */
const NONE = 1;

for (const fdmon of ["io_uring", "epoll", "poll"]) {
  Deno.test(`poll: allocates nothing once warm (${fdmon})`, async (t) => {
    // A process of its own: another test's garbage must not be counted, nor its code be shared.
    const { success, stdout } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--v8-flags=--expose-gc", PROGRAM, fdmon],
    }).output();
    assert(success);
    const bytes: Record<string, number> = JSON.parse(new TextDecoder().decode(stdout));
    assertEquals(Object.keys(bytes).length, 5);
    for (const [what, perIteration] of Object.entries(bytes)) {
      await t.step(what, () => assert(perIteration < NONE, `${perIteration} bytes an iteration`));
    }
  });
}
