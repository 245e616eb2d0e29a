/** Polls for what is going to happen; an event that never comes is a failure and not a hang. */
import { assert } from "@std/assert";
import type { AioContext } from "../mod.ts";

const LOST_NS = 20e9;

/** Polls until it is so. */
export function pollUntil(ctx: AioContext, done: () => boolean): void {
  let lost = false;
  const watchdog = ctx.timer(() => lost = true);
  watchdog.arm(ctx.now() + LOST_NS);
  while (!done()) {
    ctx.poll(true);
    assert(!lost, "an event was lost");
  }
  watchdog.cancel();
}
