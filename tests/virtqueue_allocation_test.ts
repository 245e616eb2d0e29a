/** A request of a virtqueue allocates nothing, and an idle one takes little, by V8's own count. */
import { assert, assertEquals } from "@std/assert";

const PROGRAM = new URL("virtqueue_allocation_program.ts", import.meta.url).pathname;

/** Bytes of heap per request at most: less than the smallest object, for the round itself. */
const BYTES_MAX = 4;
/** Bytes of heap of an idle ring at most; it has 2,100. */
const IDLE_BYTES_MAX = 2500;

Deno.test("Virtqueue, DeviceQueue: a request that is answered at once allocates nothing, idle rings take little", async () => {
  const young = "--max-semi-space-size=64,--min-semi-space-size=64";
  const { success, stdout } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", `--v8-flags=--expose-gc,${young}`, PROGRAM],
  }).output();
  assert(success);
  const bytes: Record<string, number> = JSON.parse(new TextDecoder().decode(stdout));
  const { "idle ring": idle, ...requests } = bytes;
  assert(idle > 500 && idle < IDLE_BYTES_MAX, `an idle ring has ${idle} bytes`);
  assertEquals(Object.keys(requests), ["indirect", "device, indirect", "direct", "device, direct"]);
  for (const [what, perRequest] of Object.entries(requests)) {
    assert(perRequest < BYTES_MAX, `${what}: ${perRequest} bytes a request`);
  }
});
