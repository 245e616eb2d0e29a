/**
 * The public API called at random: never a crash, a hang, a leak, or an error of a foreign kind.
 *
 * AIO_CONTEXT_SEED repeats a run and AIO_CONTEXT_CALLS makes it longer.
 */
import { assertEquals } from "@std/assert";
import { run } from "./child.ts";

const PROCESSES = 4;
/** Calls that make requests have to wait for turns of Deno's loop. */
const REQUEST_SHARE = 0.04;
const seed = Number(Deno.env.get("AIO_CONTEXT_SEED") ?? Math.floor(Math.random() * 2 ** 32));
const calls = Number(Deno.env.get("AIO_CONTEXT_CALLS") ?? 150_000);

for (let process = 0; process < PROCESSES; process++) {
  Deno.test(`mod.ts: random calls, process ${process + 1} of ${PROCESSES}`, async () => {
    // A child that hangs is ended by run(), which shows as code 124; a crash as one above 128.
    const words = [Deno.execPath(), "run", "-A", "tests/random_caller.ts"];
    const { code, stdout, stderr } = await run([...words, `${seed + process}`, `${calls}`]);
    assertEquals(code, 0, `seed ${seed + process}, ${calls} calls:\n${stdout}${stderr}`);
  });
}

Deno.test("mod.ts: random calls with requests", async () => {
  const words = [Deno.execPath(), "run", "-A", "tests/random_caller.ts"];
  const count = Math.ceil(calls * REQUEST_SHARE);
  const { code, stdout, stderr } = await run([...words, `${seed}`, `${count}`, "requests"]);
  assertEquals(code, 0, `seed ${seed}, ${count} calls with requests:\n${stdout}${stderr}`);
});
