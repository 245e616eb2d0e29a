/** The loop under random operations, from outside and from inside callbacks, against a model. */
import { assert, assertEquals } from "@std/assert";
import { eachFdmon } from "./each_fdmon.ts";
import { openFiles } from "./open_files.ts";
import { RandomNumbers, RandomWorld } from "./random_model.ts";

/** Set it to repeat a run; `AIO_TEST_STEPS` makes it a longer one. */
const SEED = Number(Deno.env.get("AIO_TEST_SEED") ?? Math.floor(Math.random() * 2 ** 32));
const STEPS = Number(Deno.env.get("AIO_TEST_STEPS") ?? 500_000);
/** Operations until a world is disposed and the next one made. */
const STEPS_PER_WORLD = 5_000;

eachFdmon("AioContext: random operations do what the model says", (makeContext) => {
  const files = openFiles().length;
  let callbacks = 0;
  for (let step = 0; step < STEPS;) {
    const seed = (SEED + step) >>> 0;
    const world = new RandomWorld(makeContext, new RandomNumbers(seed));
    const end = step + STEPS_PER_WORLD;
    for (; step < end; step++) {
      world.step();
      if (world.failure !== null) break;
    }
    const place = `AIO_TEST_SEED=${seed}, step ${step}`;
    if (world.failure === null) world.dispose();
    assertEquals(world.failure, null, `${world.failure}: ${place}`);
    callbacks += world.callbacks;
  }
  assertEquals(openFiles().length, files);
  assert(callbacks > STEPS / 10, `only ${callbacks} callbacks ran`);
});
