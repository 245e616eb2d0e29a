/** A request of a virtqueue allocates nothing, by V8's own count of used heap. */
import { assert, assertEquals } from "@std/assert";

const PROGRAM = new URL("virtqueue_allocation_program.ts", import.meta.url).pathname;

/** Bytes of heap per request at most: less than the smallest object, for the round itself. */
const BYTES_MAX = 4;

Deno.test("Virtqueue, DeviceQueue: a request that is answered at once allocates nothing", async () => {
  const young = "--max-semi-space-size=64,--min-semi-space-size=64";
  const { success, stdout } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", `--v8-flags=--expose-gc,${young}`, PROGRAM],
  }).output();
  assert(success);
  const bytes: Record<string, number> = JSON.parse(new TextDecoder().decode(stdout));
  assertEquals(Object.keys(bytes), ["indirect", "device, indirect", "direct", "device, direct"]);
  for (const [what, perRequest] of Object.entries(bytes)) {
    assert(perRequest < BYTES_MAX, `${what}: ${perRequest} bytes a request`);
  }
});
