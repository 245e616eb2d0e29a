/** What must not be done across threads, and what threads that end in the middle leave behind. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { AioContext, AioError, EventNotifier, wakeContext } from "../mod.ts";
import { eachFdmon } from "./each_fdmon.ts";
import { libc } from "./libc.ts";
import { openFiles } from "./open_files.ts";

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

eachFdmon("wakeContext: a handle whose parts do not belong together writes to nobody", (make) => {
  using ctx = make();
  using other = make();
  using notifier = new EventNotifier();
  const { words, fd } = ctx.remote();
  for (const wrong of [notifier.fd, other.remote().fd, 2 ** 32 + fd, 2 ** 31, fd + 0.5, NaN]) {
    assertThrows(() => wakeContext({ words, fd: wrong }), TypeError, "not one of ctx.remote()");
  }
  // Getters may answer differently each time; whoever is asked once cannot be fooled.
  let reads = 0;
  const changing = {
    words,
    get fd() {
      return reads++ === 0 ? fd : notifier.fd;
    },
  };
  assert(wakeContext(changing));
  assertEquals([reads, notifier.testAndClear()], [1, false]);
});

eachFdmon("dispose: a thread that ended inside a wake-up does not keep it", (makeContext) => {
  const files = openFiles();
  const ctx = makeContext();
  const { words, fd } = ctx.remote();
  // What a Worker leaves behind that is terminated between entering and leaving.
  Atomics.add(words, 2, 1);
  ctx[Symbol.dispose]();
  assertEquals(wakeContext({ words, fd }), false);
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
    const { fd } = ctx.remote();
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
