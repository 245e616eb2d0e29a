/** What must not be done across threads, and what threads that end in the middle leave behind. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { Board } from "../ffi/board.ts";
import { loadShim } from "../ffi/library.ts";
import {
  AioContext,
  AioError,
  EventNotifier,
  IOThread,
  type RemoteContext,
  wakeContext,
} from "../mod.ts";
import { boardWords, notifierFd, PlaceWord } from "./context_place.ts";
import { eachFdmon } from "./each_fdmon.ts";
import { libc } from "./libc.ts";
import { openFiles } from "./open_files.ts";

const board = Board.of(loadShim());

/** Takes all places that are free. */
function claimAll(): { words: Int32Array; bases: number[] } {
  const bases: number[] = [];
  for (;;) {
    try {
      bases.push(board.claim(-1));
    } catch (error) {
      if (!(error instanceof AioError)) throw error;
      return { words: board.words, bases };
    }
  }
}

function releasePlace(base: number): void {
  board.close(base);
  assert(board.release(base));
}

eachFdmon("AioContext: cannot be posted, and says so; its remote() can", (makeContext) => {
  using ctx = makeContext();
  const { port1, port2 } = new MessageChannel();
  const message = "Cannot post an AioContext as it belongs to the thread that made it";
  try {
    for (const value of [ctx, { inside: [ctx] }]) {
      assertThrows(() => structuredClone(value), Error, message);
      assertThrows(() => port1.postMessage(value), Error, message);
    }
    assert(wakeContext(structuredClone(ctx.remote())));
    assert(!ctx.poll(true));
  } finally {
    port1.close();
    port2.close();
  }
  assert(Deno.inspect(ctx).startsWith("AioContext"));
});

eachFdmon("wakeContext: a handle outlives its context and wakes no other in its place", (make) => {
  const handles = new Map<number, RemoteContext>();
  for (let contexts = 0; contexts < 3; contexts++) {
    const ctx = make();
    const remote = ctx.remote();
    ctx[Symbol.dispose]();
    assertEquals(wakeContext(remote), false);
    handles.set(remote.place, remote);
  }
  const { words, bases } = claimAll();
  try {
    for (const [place, remote] of handles) {
      assert(bases.includes(place), "a place that was not given back");
      assertEquals(wakeContext(remote), false);
      assertEquals(words[place + PlaceWord.notified], 0);
    }
  } finally {
    for (const base of bases) releasePlace(base);
  }
});

Deno.test("wakeContext: reads each part of a handle once", () => {
  using ctx = new AioContext();
  const { board, place, generation } = ctx.remote();
  // Getters may answer differently each time; whoever is asked once cannot be fooled.
  let reads = 0;
  const changing = {
    board,
    generation,
    get place() {
      return reads++ === 0 ? place : -1;
    },
  };
  assert(wakeContext(changing));
  assertEquals(reads, 1);
});

Deno.test("AioContext: one too many for the board says so, and leaves no fd", () => {
  const files = openFiles();
  const { bases } = claimAll();
  try {
    assertThrows(() => new AioContext(), AioError, "this process has 8192 contexts already");
    assertEquals(openFiles(), files);
  } finally {
    for (const base of bases) releasePlace(base);
  }
  new AioContext()[Symbol.dispose]();
});

eachFdmon("dispose: a thread that ended inside a wake-up does not keep it", (makeContext) => {
  const files = openFiles();
  const ctx = makeContext();
  const remote = ctx.remote();
  const fd = notifierFd(ctx);
  // What a Worker leaves behind that is terminated between entering and leaving.
  Atomics.add(boardWords, remote.place + PlaceWord.users, 1);
  ctx[Symbol.dispose]();
  assertEquals(wakeContext(remote), false);
  // Nor is the place given to anybody else.
  assert(!claimAll().bases.map((base) => (releasePlace(base), base)).includes(remote.place));
  // The fd is left open, as the thread might still write to it.
  assertEquals(openFiles().filter((file) => !files.includes(file)), [
    `${fd} anon_inode:[eventfd]`,
  ]);
  libc.close(fd);
});

eachFdmon(
  "poll: the context's own fd closed by somebody is an error, not the end",
  (makeContext, fdmon) => {
    const ctx = makeContext({ pollParams: { maxNs: 0 } });
    const fd = notifierFd(ctx);
    ctx.poll(false);
    libc.close(fd);
    using notifier = new EventNotifier();
    assertEquals(notifier.fd, fd, "the lowest number that is free");
    notifier[Symbol.dispose]();
    let fired = 0;
    const errors: unknown[] = [];
    for (let round = 1; round <= 5; round++) {
      ctx.timer(() => fired++).arm(0);
      while (fired < round) {
        try {
          ctx.poll(true);
        } catch (error) {
          errors.push(error);
        }
      }
    }
    assert(errors.every((error) => error instanceof AioError && error.code === "EBADF"));
    // poll alone looks at the number each time; the others hold on to the file.
    assertEquals(errors.length > 0, fdmon === "poll");
    assertThrows(() => ctx[Symbol.dispose](), AioError, "EBADF");
    ctx[Symbol.dispose]();
  },
);

Deno.test("AioContext: cannot be subclassed around its thread: methods need a real one", () => {
  using ctx = new AioContext();
  for (const receiver of [{}, Object.create(ctx), new Proxy(ctx, {}), null]) {
    for (const name of ["poll", "now", "stats", "notify", "remote", "setPollParams"] as const) {
      assertThrows(() => Reflect.apply(AioContext.prototype[name], receiver, [false]), TypeError);
    }
  }
});

eachFdmon(
  "ctx.run: goes on while a call of another context is all there is",
  async (makeContext) => {
    using ctx = makeContext();
    // The answer comes when the run has looked for work in vain.
    const answer = "new Promise((resolve) => setTimeout(resolve, 10, 5))";
    const module = `data:text/javascript,export default () => ({ ping: () => ${answer} })`;
    await ctx.run(async () => {
      const thread = await IOThread.start(module, { context: ctx });
      assertEquals(await thread.call("ping"), 5);
      // From Deno's own callbacks too, when the run has nothing to do.
      const called = Promise.withResolvers<unknown>();
      setTimeout(() => thread.call("ping").then(called.resolve, called.reject), 20);
      assertEquals(await called.promise, 5);
      await thread.stop();
    });
  },
);

Deno.test("IOThread.stop: one that ends while this thread is busy has not ended by itself", async () => {
  const module = "data:text/javascript,export default () => ({})";
  const thread = await IOThread.start(module);
  const stopped = thread.stop();
  // It is gone, and looked for, before Deno gets to what it has said.
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 300);
  await stopped;
});
