/**
 * A wake-up that comes while the loop runs a caller's code, wherever that is: the loop never goes
 * to sleep with `notified` set, and the wake-up ends this poll or the next.
 *
 * The threads of waker_test.ts and wake_up_test.ts come at any moment between two instructions;
 * here the moments are known ones, so that it shows which one is wrong.
 */
import { assert, assertEquals } from "@std/assert";
import { wakeContext } from "../mod.ts";
import { eachFdmon } from "./each_fdmon.ts";
import { PLACES, Scene } from "./every_callback.ts";

const NOTIFIED = 0, NOTIFY_ME = 1;
const NEVER_NS = 30e9;

for (const place of PLACES) {
  eachFdmon(`wakeContext: the loop does not sleep over one from ${place}`, (makeContext) => {
    using scene = new Scene(makeContext, place);
    const { ctx } = scene;
    const remote = ctx.remote();
    ctx.trace.on("wait_begin", ({ timeoutNs }) => {
      const { words } = remote;
      // Of a wake-up by another listener of this event the loop has yet to learn.
      if (timeoutNs === 0 || place === "wait_begin listener") return;
      assertEquals(words[NOTIFY_ME], 1, "a sleep that was not announced");
      assertEquals(words[NOTIFIED], 0, "a sleep with notified set");
    });
    let woken = false;
    scene.action = () => woken = wakeContext(remote);
    assertEquals(scene.provoke(), { thrown: false });
    assert(woken);
    // Where the iteration it came in has accepted it already, it was awake; else the next one is.
    const accepted = remote.words[NOTIFIED] === 0;
    let slept = false;
    const watchdog = ctx.timer(() => slept = true);
    watchdog.arm(ctx.now() + NEVER_NS);
    if (!accepted) ctx.poll(true);
    assert(!slept, "slept over it");
    watchdog.cancel();
    assertEquals([remote.words[NOTIFIED], remote.words[NOTIFY_ME]], [0, 0]);
    scene.requireWorking();
  });
}
