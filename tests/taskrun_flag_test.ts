/** The flag by which the kernel asks to be entered, where there is nothing to be done. */
import { assert, assertEquals } from "@std/assert";
import { mapWords } from "../ffi/memory.ts";
import { SqFlag } from "../ffi/ring.ts";
import { Spin } from "../ffi/spin.ts";
import { AioContext, EventNotifier, PollWord } from "../mod.ts";
import { onIoUring } from "./each_fdmon.ts";

/** A context, and the word of its ring that the kernel has its flags in. */
function contextWithFlags(): { ctx: AioContext; flags: Int32Array } {
  const { watchRing } = Spin.prototype;
  let address = 0n;
  Spin.prototype.watchRing = function (cqHead, cqTail, sqFlags, mask) {
    address = mask === 0 ? address : sqFlags;
    watchRing.call(this, cqHead, cqTail, sqFlags, mask);
  };
  try {
    const ctx = new AioContext({ fdmon: "io_uring" });
    return { ctx, flags: mapWords(address, 1) };
  } finally {
    Spin.prototype.watchRing = watchRing;
  }
}

for (const polled of [false, true]) {
  const how = polled ? "polling" : "asleep";
  onIoUring(`poll: a TASKRUN flag with no work behind it is cleared, ${how}`, () => {
    const { ctx, flags } = contextWithFlags();
    using notifier = new EventNotifier();
    let woken = 0;
    ctx.setFdHandler(notifier.fd, {
      ioRead: () => {
        notifier.testAndClear();
        woken++;
      },
      // A word that nobody changes.
      ...polled &&
        { ioPoll: new PollWord(new SharedArrayBuffer(4), 0, 32), ioPollReady: () => {} },
    });
    ctx.poll(false);
    for (let round = 1; round <= 20; round++) {
      // As the kernel leaves it where a waker sets it after its work was done.
      Atomics.or(flags, 0, SqFlag.taskrun);
      ctx.poll(false);
      assertEquals(Atomics.load(flags, 0) & SqFlag.taskrun, 0, `round ${round}`);
      notifier.set();
      while (woken < round) ctx.poll(true);
      Atomics.or(flags, 0, SqFlag.taskrun);
      let late = false;
      ctx.timer(() => late = true).arm(ctx.now() + 100_000);
      while (!late) ctx.poll(true);
    }
    assert(ctx.stats().waits > 0);
    ctx[Symbol.dispose]();
  });
}
