/** Sends that are made at once: when they are, that they cost no iteration, and when the ring has them. */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { type AioContext, AioError } from "../mod.ts";
import { eachFdmon } from "./each_fdmon.ts";
import { adoptedPair } from "./test_sockets.ts";

const ONE = Uint8Array.of(7);

/** How many iterations pass until a promise is settled, where the first `poll` is by hand. */
async function pollsUntil(ctx: AioContext, promise: Promise<unknown>): Promise<number> {
  const before = ctx.stats().polls;
  let settled = false;
  promise.finally(() => settled = true).catch(() => {});
  await Promise.resolve();
  for (let jobs = 0; jobs < 20; jobs++) await Promise.resolve();
  while (!settled) {
    ctx.poll(true);
    for (let jobs = 0; jobs < 20; jobs++) await Promise.resolve();
  }
  return ctx.stats().polls - before;
}

eachFdmon("send, sendAll, writev: take no iteration where there is room", async (makeContext) => {
  using ctx = makeContext();
  const [near, far] = adoptedPair(ctx);
  for (
    const send of [() => near.send(ONE), () => near.sendAll(ONE), () => near.writev([ONE, ONE])]
  ) {
    assertEquals(await pollsUntil(ctx, send()), 0);
    ctx.poll(false);
  }
  const received = new Uint8Array(8);
  const receiving = far.recv(received);
  assert(await pollsUntil(ctx, receiving) > 0, "a receive goes through the loop");
  assertEquals([...received], [7, 7, 7, 7, 0, 0, 0, 0]);
});

eachFdmon("send: only so many are made at once between two iterations", async (makeContext) => {
  using ctx = makeContext();
  const [near] = adoptedPair(ctx);
  let atOnce = 0;
  while (await pollsUntil(ctx, near.send(ONE)) === 0) {
    assert(++atOnce <= 32, "the loop never has a turn");
  }
  assertEquals(atOnce, 32);
});

eachFdmon(
  "sendAll: what there is no room for goes the ordinary way, in order",
  async (makeContext) => {
    using ctx = makeContext();
    const [near, far] = adoptedPair(ctx);
    const long = new Uint8Array(1 << 20).map((_, index) => index % 251);
    const sending = Promise.all([near.sendAll(long), near.sendAll(ONE)]);
    const got = new Uint8Array(long.length + 1);
    await ctx.run(async () => {
      for (let at = 0; at < got.length;) at += await far.recv(got.subarray(at));
    });
    await ctx.run(() => sending);
    assertEquals(got.subarray(0, long.length), long);
    assertEquals(got.at(-1), 7);
  },
);

eachFdmon("send: errors are those of the ordinary way", async (makeContext) => {
  using ctx = makeContext();
  const [near, far] = adoptedPair(ctx);
  await ctx.run(() => far.close());
  await ctx.run(() => assertRejects(() => near.send(ONE), AioError, "EPIPE"));
});
