/**
 * A wake-up that comes while the loop runs a caller's code, wherever that is: the loop never goes
 * to sleep with `notified` set, and the wake-up ends this poll or the next.
 *
 * The threads of waker_test.ts and wake_up_test.ts come at any moment between two instructions;
 * here the moments are known ones, so that it shows which one is wrong.
 */
import { assert, assertEquals } from "@std/assert";
import { wakeContext } from "../mod.ts";
import { boardWords as words, PlaceWord } from "./context_place.ts";
import { eachFdmon } from "./each_fdmon.ts";
import { PLACES, Scene } from "./every_callback.ts";

const { notified: NOTIFIED, notifyMe: NOTIFY_ME } = PlaceWord;
const NEVER_NS = 30e9;

for (const place of PLACES) {
  eachFdmon(`wakeContext: the loop does not sleep over one from ${place}`, (makeContext) => {
    using scene = new Scene(makeContext, place);
    const { ctx } = scene;
    const remote = ctx.remote();
    ctx.trace.on("wait_begin", ({ timeoutNs }) => {
      // Of a wake-up by another listener of this event the loop has yet to learn.
      if (timeoutNs === 0 || place === "wait_begin listener") return;
      assertEquals(words[remote.place + NOTIFY_ME], 1, "a sleep that was not announced");
      assertEquals(words[remote.place + NOTIFIED], 0, "a sleep with notified set");
    });
    let woken = false;
    scene.action = () => woken = wakeContext(remote);
    assertEquals(scene.provoke(), { thrown: false });
    assert(woken);
    // Where the iteration it came in has accepted it already, it was awake; else the next one is.
    const accepted = words[remote.place + NOTIFIED] === 0;
    let slept = false;
    const watchdog = ctx.timer(() => slept = true);
    watchdog.arm(ctx.now() + NEVER_NS);
    if (!accepted) ctx.poll(true);
    assert(!slept, "slept over it");
    watchdog.cancel();
    assertEquals([words[remote.place + NOTIFIED], words[remote.place + NOTIFY_ME]], [0, 0]);
    scene.requireWorking();
  });
}
