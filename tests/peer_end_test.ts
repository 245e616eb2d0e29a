/** Links that end, in any state of either side, and iterations inside called functions. */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { LINKS } from "../ffi/link.ts";
import { type AioContext, AioError, type Peer, type RemoteContext } from "../mod.ts";
import { eachFdmon } from "./each_fdmon.ts";
import { type Any, linksInUse, pollFor, quiesce, rejection } from "./peer_kit.ts";
import { pollUntil } from "./poll_until.ts";

eachFdmon("poll: inside a called function it takes the messages that follow", (make) => {
  using ctx = make(), first = make(), second = make();
  const got: string[] = [];
  const wait = (from: string, number: number) => {
    got.push(`${from}${number}`);
    // Of this peer and of the other, sent before this function was called.
    if (from === "a" && number === 0) pollUntil(ctx, () => got.length === 6);
  };
  const remote = ctx.expose({ wait });
  using a = first.peer(remote), b = second.peer(remote);
  for (let number = 0; number < 3; number++) {
    a.send("wait", "a", number);
    b.send("wait", "b", number);
  }
  pollUntil(ctx, () => got.length === 6);
  assertEquals(got.filter((one) => one.startsWith("a")), ["a0", "a1", "a2"]);
  assertEquals(got.filter((one) => one.startsWith("b")), ["b0", "b1", "b2"]);
  assertEquals(ctx.poll(false), false);
  // More than are taken in one turn, of numbers alone, each inside the one before.
  let depth = 0, deepest = 0, taken = 0;
  ctx.expose({
    nest: (number: number) => {
      taken++;
      deepest = Math.max(deepest, ++depth);
      if (number % 100 === 0) pollUntil(ctx, () => taken >= Math.min(number + 100, 1000));
      depth--;
    },
  });
  const nesting = a as unknown as Peer<Any>;
  for (let number = 0; number < 1000; number++) nesting.send("nest", number);
  pollUntil(ctx, () => taken === 1000);
  assert(deepest > 1);
  quiesce(ctx, first, second);
  assertEquals(ctx.stats().bottomHalves, 0);
});

eachFdmon("poll: inside a called function it sees a message that comes meanwhile", (make) => {
  using ctx = make(), other = make();
  let told = false;
  const remote = ctx.expose({
    wait() {
      peer.send("tell");
      pollUntil(ctx, () => told);
    },
    tell: () => told = true,
  });
  using peer = other.peer(remote);
  peer.send("wait");
  assert(ctx.poll(true));
  assert(told);
});

type Side = "client" | "server";
/** What is going on when a side ends. */
const STATES: Record<string, (peer: Peer<Any>, ctx: AioContext, other: AioContext) => void> = {
  "nothing sent": () => {},
  "calls not taken": (peer) => {
    for (let count = 0; count < 100; count++) void peer.call("now").catch(() => {});
  },
  "calls running": (peer, _ctx, other) => {
    void peer.call("never").catch(() => {});
    quiesce(other);
  },
  "results not taken": (peer, _ctx, other) => {
    void peer.call("now").catch(() => {});
    quiesce(other);
  },
  "backlog of calls": (peer) => {
    for (let count = 0; count < 5000; count++) void peer.call("now").catch(() => {});
  },
  "backlog of a long message": (peer) => {
    peer.send("now", new Uint8Array(1 << 20));
  },
  "backlog of results": (peer, _ctx, other) => {
    for (let count = 0; count < 300; count++) void peer.call("long").catch(() => {});
    quiesce(other);
  },
  "half of a long message taken": (peer, _ctx, other) => {
    void peer.call("now", new Uint8Array(200_000)).catch(() => {});
    other.poll(false);
  },
};

for (const [state, enter] of Object.entries(STATES)) {
  for (const side of ["client", "server", "peer"] as const) {
    eachFdmon(`dispose: the ${side}, with ${state}`, async (make) => {
      using ctx = make(), other = make();
      const remote = other.expose({
        now: () => 1,
        never: () => new Promise(() => {}),
        long: () => "x".repeat(1000),
      }) as RemoteContext as RemoteContext<Any>;
      const peer = ctx.peer(remote);
      enter(peer, ctx, other);
      const last = rejection(peer.call("never"));
      const drained = peer.drained().catch((error) => error);
      if (side === "peer") peer[Symbol.dispose]();
      else (side === "client" ? ctx : other)[Symbol.dispose]();
      if (side === "server") await pollFor([ctx], last);
      const error = await last;
      assert(error instanceof TypeError, `${error}`);
      assert(
        /^Cannot have the result as the (peer is closed|context( of the other side)? is disposed)$/
          .test(error.message),
        error.message,
      );
      await drained;
      assertEquals(peer.outstanding, 0);
      await assertRejects(() => peer.call("now"), TypeError, "as it is closed, or its context");
      assertThrows(() => peer.send("now"), TypeError, "as it is closed, or its context");
      if (side === "client") quiesce(other);
      else if (side === "peer") quiesce(ctx, other);
      peer[Symbol.dispose]();
      assertEquals(linksInUse(), 0);
    });
  }
}

eachFdmon(
  "Peer.dispose: results that have come are handed on, though nobody has polled",
  async (make) => {
    using ctx = make(), other = make();
    const remote = other.expose({
      now: (value: number) => value,
      never: () => new Promise(() => {}),
    });
    const peer = ctx.peer(remote);
    const calls = Array.from({ length: 1000 }, (_, number) => peer.call("now", number));
    const never = rejection(peer.call("never"));
    (peer as unknown as Peer<Any>).send("missing");
    quiesce(other);
    peer[Symbol.dispose]();
    assertEquals((await Promise.all(calls)).at(-1), 999);
    assert(await never instanceof TypeError);
    assertThrows(() => ctx.poll(true), TypeError, "Cannot call missing");
    quiesce(ctx, other);
  },
);

eachFdmon("dispose: of either side inside a function that the other calls", async (make) => {
  for (const side of ["client", "server", "peer"] as const) {
    for (const nested of [false, true]) {
      const ctx = make(), other = make();
      const remote = other.expose({
        end() {
          const end = () =>
            (side === "peer" ? peer : side === "client" ? ctx : other)
              [Symbol.dispose]();
          if (!nested) return end();
          other.scheduleOneshot(end);
          other.poll(false);
        },
        after: () => ran++,
      });
      let ran = 0;
      const peer = ctx.peer(remote);
      const end = rejection(peer.call("end"));
      const after = peer.call("after").catch((error) => error);
      other.poll(true);
      if (side === "server") quiesce(ctx);
      assert(await end instanceof TypeError);
      // An iteration inside the function takes what follows before it comes to the end.
      if (nested && side !== "client") assertEquals([await after, ran], [0, 1]);
      else assert(await after instanceof TypeError);
      // Of what is disposed itself nothing runs any more.
      if (!nested && side === "server") assertEquals(ran, 0);
      if (side !== "server") quiesce(other);
      ctx[Symbol.dispose]();
      other[Symbol.dispose]();
      assertEquals(linksInUse(), 0, `${side} ${nested}`);
    }
  }
});

eachFdmon(
  "Peer: a value that ends everything while it is read is not written anywhere",
  async (make) => {
    using bystander = make(), witness = make();
    let seen = 0;
    const watched = witness.expose({ seen: (..._values: unknown[]) => seen++ });
    for (const side of ["client", "peer"] as const) {
      const ctx = make(), other = make();
      const peer = ctx.peer(other.expose({ f: (_value: unknown) => {} }));
      let stranger: Peer<{ seen: (...values: unknown[]) => number }> | null = null;
      const value = {
        get a() {
          (side === "client" ? ctx : peer)[Symbol.dispose]();
          quiesce(other);
          // Links are given out in turn, so the last of these has the same memory.
          for (let count = 0; count < LINKS; count++) {
            stranger?.[Symbol.dispose]();
            quiesce(witness);
            stranger = bystander.peer(watched);
          }
          return 1;
        },
      };
      await assertRejects(() => peer.call("f", value), TypeError, "was closed meanwhile");
      assertThrows(() => peer.send("f", value), TypeError, "it is closed");
      stranger!.send("seen", 1);
      pollUntil(witness, () => seen === 1);
      quiesce(witness);
      assertEquals(seen, 1);
      seen = 0;
      stranger![Symbol.dispose]();
      quiesce(bystander, witness);
      ctx[Symbol.dispose]();
      other[Symbol.dispose]();
    }
    // A result that ends its own context.
    const ctx = make(), other = make();
    const remote = other.expose({
      f: () => ({
        get a() {
          other[Symbol.dispose]();
          return 1;
        },
      }),
    });
    const call = rejection(ctx.peer(remote).call("f"));
    other.poll(true);
    assert(await pollFor([ctx], call) instanceof TypeError);
    ctx[Symbol.dispose]();
    assertEquals(linksInUse(), 0);
  },
);

eachFdmon("ctx.peer: one too many says so, and one that is closed makes room", (make) => {
  using ctx = make(), other = make();
  const remote = other.expose({ count: () => ran++ });
  let ran = 0;
  const peers: Peer<{ count: () => number }>[] = [];
  assertThrows(
    () => {
      for (;;) peers.push(ctx.peer(remote));
    },
    AioError,
    "this process has 992 links already: close some peers",
  );
  assertEquals(peers.length, LINKS);
  for (const peer of peers) peer.send("count");
  pollUntil(other, () => ran === LINKS);
  peers.splice(17, 1)[0][Symbol.dispose]();
  assertThrows(() => ctx.peer(remote), AioError, "ENOSPC"); // The server has yet to let go.
  quiesce(other);
  peers.push(ctx.peer(remote));
  peers.at(-1)!.send("count");
  pollUntil(other, () => ran === LINKS + 1);
  for (const peer of peers) peer[Symbol.dispose]();
  quiesce(other);
  assertEquals(linksInUse(), 0);
});

eachFdmon(
  "Peer: what dead pairs have sent is seen by none that has the link after them",
  async (make) => {
    for (let round = 0; round < 300; round++) {
      const pair = round;
      using ctx = make(), other = make();
      const remote = other.expose({
        check(number: number) {
          assertEquals(number, pair);
          return number;
        },
      });
      using peer = ctx.peer(remote);
      if (round % 3 === 0) {
        assertEquals(
          await pollFor([ctx, other], peer.call("check", pair)),
          pair,
        );
      }
      for (let count = 0; count < 20; count++) void peer.call("check", pair).catch(() => {});
      if (round % 2 === 0) other.poll(false);
    }
    assertEquals(linksInUse(), 0);
  },
);
