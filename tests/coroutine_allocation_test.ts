/** A switch of coroutines allocates what a promise needs and nothing else, and nothing is left of it. */
import { assert } from "@std/assert";
import { run } from "./child.ts";

const PROGRAM = new URL("coroutine_allocation_program.ts", import.meta.url).pathname;
/** Less than the smallest object; how V8 compiles the two may make a word's difference. */
const NONE = 9;

Deno.test("coEnter, yield: allocate what a promise needs and nothing else", async () => {
  const flags = "--v8-flags=--expose-gc,--min-semi-space-size=64";
  const { code, stdout, stderr } = await run([Deno.execPath(), "run", "-A", flags, PROGRAM]);
  assert(code === 0, stderr);
  const { bare, coroutine, left } = JSON.parse(stdout);
  assert(bare > 100, `a promise takes more than ${bare} bytes: something was collected`);
  assert(coroutine < bare + NONE, `${coroutine} bytes a switch, ${bare} for a bare promise`);
  assert(left < NONE, `${left} bytes are left of a coroutine`);
});
