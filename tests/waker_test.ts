/** Wake-ups from threads of C, by the protocol alone: none lost, and no end of the context hurts. */
import { assert, assertEquals } from "@std/assert";
import { addressOfShared } from "../ffi/memory.ts";
import { type AioContext, EventNotifier, PollWord } from "../mod.ts";
import { compileLibrary } from "./compile.ts";
import { boardWords as words, PlaceWord } from "./context_place.ts";
import { eachFdmon } from "./each_fdmon.ts";

const WAKE_UPS = 50_000, ENDLESS = 2 ** 31 - 1;
/** Only a lost wake-up lets the loop sleep for this long. */
const LOST_NS = 30e9;
/** Words of each thread: what it has posted, and what the loop has seen. */
const POST_WORDS = 2;

const text = Deno.readTextFileSync(new URL("waker.c", import.meta.url));
const library = Deno.dlopen(await compileLibrary(text, ["-O2", "-Wextra", "-std=gnu11"]), {
  run_waker: {
    parameters: ["pointer", "u32", "pointer", "u32", "u32", "u32", "u32"],
    result: "i32",
    nonblocking: true,
  },
});
globalThis.addEventListener("unload", () => library.close());

interface Mode {
  readonly maxNs: number;
  readonly threads: number;
  /** A thread waits to be seen each time in so many, then pauses for up to so long. */
  readonly waitEvery: number;
  readonly pauseNs: number;
}

/** Alone and waiting each time, no wake-up hides the loss of another; many at once race more. */
const MODES: Readonly<Record<string, Mode>> = {
  "a sleeping loop": { maxNs: 0, threads: 3, waitEvery: 16, pauseNs: 0 },
  "a spinning loop": { maxNs: 1e9, threads: 3, waitEvery: 16, pauseNs: 0 },
  "a loop about to sleep": { maxNs: 8_000, threads: 3, waitEvery: 16, pauseNs: 40_000 },
  "a loop about to sleep, one by one": { maxNs: 0, threads: 1, waitEvery: 1, pauseNs: 5_000 },
};

function pointerTo(words: Int32Array<SharedArrayBuffer>, index = 0): Deno.PointerValue {
  return Deno.UnsafePointer.create(addressOfShared(words.buffer) + BigInt(index * 4));
}

/** Threads that wake a context, and the loop's side of what they post. */
class Wakers {
  readonly words: Int32Array<SharedArrayBuffer>;
  readonly ended: Promise<number[]>;

  constructor(ctx: AioContext, wakeUps: number, mode: Mode, seed: number) {
    const { threads: length, waitEvery, pauseNs } = mode;
    this.words = new Int32Array(new SharedArrayBuffer(length * POST_WORDS * 4));
    const { board: at, place, generation } = ctx.remote();
    const remote = Deno.UnsafePointer.create(BigInt(at + place * 4));
    const threads = Array.from({ length }, (_, index) => {
      const post = pointerTo(this.words, index * POST_WORDS);
      return library.symbols.run_waker(
        remote,
        generation,
        post,
        wakeUps,
        waitEvery,
        pauseNs,
        seed + index,
      );
    });
    this.ended = Promise.all(threads);
  }

  /** Takes what is posted; returns the number of threads that have more to post than that. */
  see(wakeUps: number): number {
    let left = 0;
    for (let post = 0; post < this.words.length; post += POST_WORDS) {
      const posted = Atomics.load(this.words, post);
      Atomics.store(this.words, post + 1, posted);
      if (posted !== wakeUps) left++;
    }
    return left;
  }
}

for (const [name, mode] of Object.entries(MODES)) {
  eachFdmon(`notifyMe: C threads lose no wake-up of ${name}`, async (makeContext) => {
    const seed = Number(Deno.env.get("AIO_TEST_SEED") ?? Math.floor(Math.random() * 2 ** 31));
    using ctx = makeContext({ pollParams: { maxNs: mode.maxNs } });
    using notifier = new EventNotifier();
    // A word that nobody changes: the loop spins on it and on its own notifier.
    ctx.setFdHandler(notifier.fd, {
      ioRead: () => notifier.testAndClear(),
      ioPoll: new PollWord(new SharedArrayBuffer(4), 0, 32),
      ioPollReady: () => {},
    });
    let lost = false;
    const watchdog = ctx.timer(() => lost = true);
    const wakers = new Wakers(ctx, WAKE_UPS, mode, seed);
    do {
      watchdog.arm(ctx.now() + LOST_NS);
      ctx.poll(true);
      assert(!lost, `a wake-up was lost, AIO_TEST_SEED=${seed}, words ${wakers.words.join(" ")}`);
    } while (wakers.see(WAKE_UPS) !== 0);
    const { pollModeNs } = ctx.stats();
    assertEquals(await wakers.ended, Array(mode.threads).fill(WAKE_UPS), `AIO_TEST_SEED=${seed}`);
    assertEquals(pollModeNs > 0, mode.maxNs > 0);
    ctx.setFdHandler(notifier.fd, null);
  });
}

eachFdmon("dispose: while C threads wake the context", async (makeContext) => {
  for (let round = 0; round < 20; round++) {
    const ctx = makeContext({ pollParams: { maxNs: round % 2 === 0 ? 0 : 20_000 } });
    const { place } = ctx.remote();
    const wakers = new Wakers(ctx, ENDLESS, MODES["a sleeping loop"], round);
    while (Atomics.load(wakers.words, 0) < 100 * round) {
      ctx.poll(true);
      wakers.see(ENDLESS);
    }
    ctx[Symbol.dispose]();
    const counts = await wakers.ended;
    assert(counts.every((count) => count >= 0), `round ${round}: ${counts}`);
    assertEquals(
      Atomics.load(words, place + PlaceWord.users) >>> 0,
      0x8000_0000,
      "threads inside a wake-up",
    );
  }
});
