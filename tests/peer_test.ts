/** Calls and messages between contexts of one thread: order, limits, errors. */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { AioContext, AioError, type Peer, type RemoteContext } from "../mod.ts";
import { eachFdmon } from "./each_fdmon.ts";
import { type Any, pollAll, pollFor, quiesce, rejection } from "./peer_kit.ts";

eachFdmon(
  "Peer: messages and calls of all sizes arrive in the order they were sent",
  async (make) => {
    using ctx = make(), other = make();
    const got: number[] = [];
    const take = (number: number, ..._rest: unknown[]) => {
      got.push(number);
      return number;
    };
    using peer = ctx.peer(other.expose({ take }));
    const long = new Uint8Array(40_000), results: Promise<number>[] = [];
    for (let number = 0; number < 5000; number++) {
      const values: unknown[] = [[], [1, 2], [1, 2, 3, 4], ["text"], [long]][number % 5];
      if (number % 7 !== 0) results.push(peer.call("take", number, ...values));
      else if (!peer.send("take", number, ...values)) {
        await pollFor([ctx, other], peer.drained());
        assert(peer.send("take", number, ...values));
      }
    }
    await pollFor([ctx, other], Promise.all(results));
    await pollAll([ctx, other], () => got.length === 5000);
    assertEquals(got, Array.from({ length: 5000 }, (_, number) => number));
    assertEquals(await Promise.all(results), got.filter((number) => number % 7 !== 0));
    assertEquals(peer.outstanding, 0);
  },
);

eachFdmon("Peer.send: false while others wait for room, and drained says when", async (make) => {
  using ctx = make(), other = make();
  let sum = 0, sent = 0;
  using peer = ctx.peer(other.expose({ add: (one: number, ..._rest: unknown[]) => sum += one }));
  for (const values of [[], ["text"], [new Uint8Array(100_000)]]) {
    for (let round = 0; round < 3; round++) {
      await peer.drained(); // Nothing waits: it is settled.
      let room = 0;
      while (peer.send("add", 1, ...values)) room++;
      sent += room;
      // At most what the ring and one message hold, so nobody can pile up memory by it.
      assert(room > 0 && room < 65_536 / 24 + 2, `${room}`);
      assertEquals(peer.send("add", 1000), false);
      let drained = false;
      const waits = peer.drained().then(() => drained = true);
      await Promise.resolve();
      assert(!drained);
      await pollFor([ctx, other], waits);
    }
  }
  quiesce(ctx, other);
  assertEquals(sum, sent, "nothing is lost, and nothing refused comes");
});

eachFdmon("Peer.call: what the ring has no room for waits, behind all others", async (make) => {
  using ctx = make(), other = make();
  const got: number[] = [];
  using peer = ctx.peer(other.expose({ take: (number: number) => got.push(number) }));
  const calls = Array.from({ length: 10_000 }, (_, number) => peer.call("take", number));
  assertEquals([peer.outstanding, peer.send("take", -1)], [10_000, false]);
  assertEquals((await pollFor([ctx, other], Promise.all(calls))).at(-1), 10_000);
  assertEquals(got, Array.from({ length: 10_000 }, (_, number) => number));
});

eachFdmon("Peer: long messages and results go in parts, beside short ones", async (make, fdmon) => {
  using ctx = make(), other = make();
  const remote = other.expose({
    echo: (value: unknown) => value,
    sum: (...numbers: number[]) => numbers.reduce((sum, number) => sum + number, 0),
  });
  using peer = ctx.peer(remote);
  // Lengths around what a message and a ring take, and the longest of all.
  const lengths = [16_350, 16_352, 16_359, 16_368, 16_384, 32_736, 65_536, 1 << 20];
  if (fdmon === "io_uring") lengths.push((1 << 24) - 6);
  const calls = lengths.flatMap((length) => {
    const bytes = Uint8Array.from({ length }, (_, index) => index * 7 + length);
    return [peer.call("echo", bytes), peer.call("sum", length)];
  });
  const results = await pollFor([ctx, other], Promise.all(calls));
  for (const [index, length] of lengths.entries()) {
    const bytes = results[index * 2] as Uint8Array;
    assertEquals([bytes.length, results[index * 2 + 1]], [length, length]);
    for (let at = 0; at < length; at += 97) assertEquals(bytes[at], (at * 7 + length) & 255);
    assertEquals(bytes.at(-1), ((length - 1) * 7 + length) & 255);
  }
  const numbers = Array.from({ length: 65_536 }, (_, number) => number + 0.5);
  for (const count of [1, 2, 3, 4, 5, 2046, 2047, 65_536]) {
    const some = numbers.slice(0, count);
    const sum = await pollFor([ctx, other], peer.call("sum", ...some));
    assertEquals(sum, some.reduce((sum, number) => sum + number, 0));
  }
});

eachFdmon(
  "Peer: one message too long, of too many values, or one call too many says so",
  async (make) => {
    using ctx = make(), other = make();
    const remote = other.expose({ f: (..._values: unknown[]) => 1 });
    using peer = ctx.peer(remote);
    const long = new Uint8Array(1 << 24);
    assertThrows(() => peer.send("f", long), RangeError, "more than 16777216 bytes: share memory");
    await assertRejects(() => peer.call("f", long), RangeError, "more than 16777216 bytes");
    const many = Array(65_537).fill(1);
    assertThrows(() => peer.send("f", ...many), RangeError, "with more than 65536 values");
    const calls = Array.from({ length: 65_536 }, () => peer.call("f"));
    await assertRejects(() => peer.call("f"), RangeError, "as 65536 calls have no result yet");
    assertEquals(peer.outstanding, 65_536);
    const results = await pollFor([ctx, other], Promise.all(calls));
    assertEquals([results.length, new Set(results).size, peer.outstanding], [65_536, 1, 0]);
    assertEquals(await pollFor([ctx, other], peer.call("f")), 1);
  },
);

eachFdmon(
  "Peer.call: results that are too long or cannot be copied are errors of the call",
  async (make) => {
    using ctx = make(), other = make();
    const remote = other.expose({
      long: () => new Uint8Array(1 << 24),
      callback: () => () => {},
      symbol: () => Promise.resolve(Symbol("s")),
      throws: () => ({
        get a() {
          throw new Error("of a getter");
        },
      }),
      odd: () => {
        throw Symbol("odd");
      },
      fine: () => "fine",
    });
    using peer = ctx.peer(remote);
    for (
      const [name, message] of [
        ["long", "Cannot answer a call: Cannot send a message as it has more than"],
        ["callback", "Cannot answer a call: Cannot send a function to another thread"],
        ["symbol", "Cannot answer a call: Cannot send a symbol to another thread"],
        ["throws", "Cannot answer a call: of a getter"],
        ["odd", "Cannot answer a call: Cannot send a symbol to another thread"],
      ] as const
    ) {
      const error = await rejection(pollFor([ctx, other], peer.call(name)));
      assert(error instanceof TypeError && error.message.startsWith(message), error.message);
      assertEquals(await pollFor([ctx, other], peer.call("fine")), "fine");
    }
  },
);

eachFdmon("Peer.call: what the function throws, at once or later, is thrown here", async (make) => {
  using ctx = make(), other = make();
  const remote = other.expose({
    now() {
      throw new RangeError("now");
    },
    later: () => Promise.reject(new AioError("Cannot do it", "read", 5)),
    value() {
      throw "a text";
    },
  });
  using peer = ctx.peer(remote);
  await assertRejects(() => pollFor([ctx, other], peer.call("now")), RangeError, "now");
  const error = await rejection(pollFor([ctx, other], peer.call("later")));
  assert(error instanceof AioError);
  assertEquals([error.code, error.syscall, error.errno], ["EIO", "read", 5]);
  assertEquals(await rejection(pollFor([ctx, other], peer.call("value"))), "a text" as never);
});

eachFdmon("Peer.send: what a one-way function throws comes out of the other's poll", (make) => {
  using ctx = make(), other = make();
  let ran = 0;
  const remote = other.expose({
    fail() {
      throw new RangeError("one-way");
    },
    run: () => ran++,
  });
  using peer = ctx.peer(remote);
  peer.send("fail");
  peer.send("run");
  assertThrows(() => other.poll(true), RangeError, "one-way");
  assertEquals(ran, 1, "those behind it run all the same");
  peer.send("fail");
  peer.send("fail");
  assertThrows(() => other.poll(true), AggregateError, "2 callbacks failed");
  quiesce(ctx, other);
});

eachFdmon(
  "Peer.send: what a one-way function rejects with comes out of the other's poll",
  async (make) => {
    using ctx = make(), other = make();
    using peer = ctx.peer(other.expose({ fail: () => Promise.reject(new RangeError("later")) }));
    peer.send("fail");
    const error = await rejection(pollAll([other], () => false));
    assert(error instanceof RangeError);
  },
);

eachFdmon(
  "Peer: a name nobody exposes is an error, of the call or of the sender's poll",
  async (make) => {
    using ctx = make(), other = make();
    using peer = ctx.peer(other.expose({ f: () => 1 })) as unknown as Peer<Any>;
    const names = ["constructor", "__proto__", "then", "toString", "hasOwnProperty", "", "g", "f "];
    for (const name of names) {
      const message = `Cannot call ${name} as the context exposes no function of that name`;
      const error = await rejection(pollFor([ctx, other], peer.call(name, 1, "x")));
      assertEquals([error.constructor, error.message], [TypeError, message]);
      const numbers = await rejection(pollFor([ctx, other], peer.call(name, 1)));
      assertEquals(numbers.message, message);
      peer.send(name, 1);
      assert(other.poll(true));
      assertThrows(() => ctx.poll(true), TypeError, message);
    }
    for (const name of [undefined, null, 1, Symbol("f"), {}] as unknown as string[]) {
      assertThrows(() => peer.send(name), TypeError, "as the name is no string");
      await assertRejects(() => peer.call(name), TypeError, "as the name is no string");
    }
    // One that is exposed later is there from then on.
    other.expose({ g: () => "now" });
    assertEquals(await pollFor([ctx, other], peer.call("g")), "now");
  },
);

eachFdmon(
  "expose: functions of any name, each once; nothing of a list that is refused",
  async (make) => {
    using ctx = make(), other = make();
    const odd = JSON.parse('{"__proto__": 1, "constructor": 2, "then": 3, "": 4}');
    const functions = Object.fromEntries(
      Object.entries(odd).map(([name, value]) => [name, () => value]),
    );
    using peer = ctx.peer(other.expose(functions)) as unknown as Peer<Any>;
    for (const [name, value] of Object.entries(odd)) {
      assertEquals(await pollFor([ctx, other], peer.call(name)), value);
    }
    const taken = "Cannot expose then as the context exposes such a function already";
    assertThrows(() => other.expose({ fresh() {}, then() {} }), TypeError, taken);
    const bad = { fresh() {}, no: 1 as never };
    assertThrows(
      () => other.expose(bad),
      TypeError,
      "Cannot expose no as it is not a function: number",
    );
    for (const none of [null, undefined, 1] as never[]) {
      assertThrows(() => other.expose(none), TypeError);
    }
    const thrown = {
      get f(): () => void {
        throw new RangeError("of a getter");
      },
    };
    assertThrows(() => other.expose(thrown), RangeError, "of a getter");
    await assertRejects(
      () => pollFor([ctx, other], peer.call("fresh")),
      TypeError,
      "exposes no function of that name",
    );
    other[Symbol.dispose]();
    assertThrows(() => other.expose({ late() {} }), TypeError, "as the context is disposed");
  },
);

eachFdmon(
  "Peer.call: a result that is a thenable is awaited, hostile ones reject",
  async (make) => {
    using ctx = make(), other = make();
    const fail = () => {
      throw new RangeError("of a trap");
    };
    const promise = Promise.resolve(1);
    Object.defineProperty(promise, "constructor", { get: fail });
    const remote = other.expose({
      thenable: () => ({ then: (resolve: (value: unknown) => void) => resolve([7]) }),
      nested: () => Promise.resolve({ then: (resolve: (value: number) => void) => resolve(8) }),
      plain: () => ({ then: 9 }),
      getter: () => ({
        get then() {
          return fail();
        },
      }),
      has: () => new Proxy({}, { has: fail }),
      proxy: () => new Proxy({ a: [1] }, {}),
      get: () => new Proxy({ a: 1 }, { get: fail }),
      never: () => new Proxy({}, { getPrototypeOf: fail }),
      constructed: () => promise,
      twice: () => ({
        then(resolve: (value: number) => void, reject: (error: unknown) => void) {
          resolve(1);
          resolve(2);
          reject(new Error("late"));
        },
      }),
    });
    using peer = ctx.peer(remote) as unknown as Peer<Any>;
    const outcome = (name: string) =>
      pollFor([ctx, other], peer.call(name)).catch((error) => `${error}`);
    assertEquals(await outcome("thenable"), [7]);
    assertEquals(await outcome("nested"), 8);
    assertEquals(await outcome("plain"), { then: 9 });
    assertEquals(await outcome("proxy"), { a: [1] });
    assertEquals(await outcome("twice"), 1);
    for (const name of ["getter", "has"]) {
      assertEquals(
        await outcome(name),
        "RangeError: of a trap",
      );
    }
    assert(`${await outcome("get")}`.includes("of a trap"));
    assert(`${await outcome("never")}`.includes("of a trap"));
    // A promise whose constructor cannot be read is a thenable all the same, and is taken at its word.
    assert(["1", "RangeError: of a trap"].includes(`${await outcome("constructed")}`));
    quiesce(ctx, other);
  },
);

eachFdmon(
  "Peer: two contexts call each other, in the middle of each other's calls",
  async (make) => {
    using ctx = make(), other = make();
    let back: Peer<Any> | null = null, there: Peer<Any> | null = null;
    const down = async (depth: number): Promise<number> =>
      depth === 0 ? 0 : 1 + await there!.call("up", depth - 1);
    const up = async (depth: number): Promise<number> =>
      depth === 0 ? 0 : 1 + await back!.call("down", depth - 1);
    back = other.peer(ctx.expose({ down })) as unknown as Peer<Any>;
    there = ctx.peer(other.expose({ up })) as unknown as Peer<Any>;
    const calls = Array.from({ length: 50 }, (_, depth) => down(depth * 4));
    const depths = await pollFor([ctx, other], Promise.all(calls));
    assertEquals(depths, Array.from({ length: 50 }, (_, depth) => depth * 4));
  },
);

eachFdmon("Peer: works attached, in run, and polled by hand alike", async (make) => {
  using ctx = make(), other = make();
  using peer = ctx.peer(other.expose({ twice: (value: number) => value * 2 }));
  other.attach();
  assertEquals(await ctx.run(() => peer.call("twice", 4)), 8);
  other.detach();
  ctx.attach();
  const call = peer.call("twice", 5);
  assertEquals(await other.run(() => call), 10);
  other.attach();
  assertEquals(await peer.call("twice", 6), 12);
});

Deno.test("ctx.peer: what is no handle, and the context itself, says so", () => {
  using ctx = new AioContext();
  const remote = ctx.remote();
  assertThrows(() => ctx.peer(remote), TypeError, "Cannot link a context with itself");
  const message = "Cannot make a peer as the handle is not one of ctx.remote()";
  for (
    const handle of [
      null,
      undefined,
      {},
      { ...remote, place: 1 },
      { ...remote, place: -64 },
      { ...remote, place: 1e9 },
      { ...remote, generation: 0 },
      { ...remote, generation: 0.5 },
      { ...remote, board: "1" },
    ] as never[]
  ) {
    assertThrows(() => ctx.peer(handle), TypeError, message);
  }
  const foreign = { ...remote, board: remote.board + 1 };
  assertThrows(() => ctx.peer(foreign), TypeError, "of another copy of this library");
  using none = ctx.peer<Any>(
    { ...remote, generation: remote.generation + 1 } as RemoteContext<Any>,
  );
  assertThrows(() => none.send("f"), TypeError, "as it is closed, or its context disposed");
});
