/** Values that change, throw or send while they are made into bytes. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { AioContext } from "../mod.ts";
import { quiesce, SEED } from "./peer_kit.ts";
import { anyValue, Random } from "./random_values.ts";
import { assertSame, sent, thrown } from "./message_codec_kit.ts";

Deno.test("MessageEncoder: values that change while they are read leave the rest as it is", () => {
  const map = new Map<unknown, unknown>([[1, {
    get a() {
      if (map.size < 5) map.set(map.size + 1, 0);
      return 1;
    },
  }]]);
  assert(sent(map).size >= 2);
  const set = new Set<unknown>([
    {
      get a() {
        set.clear();
        return 1;
      },
    },
    2,
    3,
  ]);
  assertEquals(sent(set).size, 1);
  const array: unknown[] = [
    {
      get a() {
        array.length = 1;
        return 1;
      },
    },
    2,
    3,
  ];
  assertEquals(sent(array), [{ a: 1 }, , ,]);
  const object: Record<string, unknown> = {
    get a() {
      delete object.b;
      return 1;
    },
    b: 2,
  };
  assertEquals(sent(object), { a: 1, b: undefined });
  // Proxies that say something else each time.
  let asked = 0;
  const lengths = new Proxy([1, 2, 3], {
    get: (target, key) => key === "length" ? 3 - asked++ : Reflect.get(target, key),
  });
  assertEquals(sent(lengths), [1, 2, 3]);
  for (const length of [2.5, "2", -1, NaN, null, { valueOf: () => 2 }, true]) {
    const array = new Proxy([1, 2, 3], {
      get: (target, key) => key === "length" ? length : Reflect.get(target, key),
    });
    if (length === -1) assertThrows(() => sent(array), RangeError, "more than 16777216 bytes");
    else assert(sent(array).length <= 2);
  }
  const keys = new Proxy({ a: 1 }, { ownKeys: () => ["a", "b"], get: () => 5 });
  assertEquals(sent(keys), { a: 5 } as never);
  const iterated = new Map([[1, 2]]);
  Object.defineProperty(iterated, Symbol.iterator, { value: thrown });
  Object.defineProperty(iterated, "size", { value: 1000 });
  assertEquals([...Map.prototype.entries.call(sent(iterated))], [[1, 2]]);
  const date = Object.defineProperty(new Date(5), "getTime", { value: thrown });
  assertEquals(sent(date).getTime(), 5);
  const bytes = new Uint8Array([1, 2]);
  Object.defineProperty(bytes, "constructor", { get: thrown });
  Object.defineProperty(bytes, "byteLength", { value: 1e9 });
  Object.defineProperty(bytes, "length", { value: 1e9 });
  assertSame(sent(bytes), new Uint8Array([1, 2]), "");
  assertThrows(
    () =>
      sent({
        get a() {
          return thrown();
        },
      }),
    RangeError,
    "of a getter",
  );
  assertEquals(sent("after"), "after");
});

Deno.test("MessageEncoder: a getter may send something itself", () => {
  using ctx = new AioContext();
  using other = new AioContext();
  const got: unknown[] = [];
  using peer = ctx.peer(other.expose({ take: (value: unknown) => got.push(value) }));
  const value = {
    before: "before",
    get a() {
      peer.send("take", ["inner", {
        get b() {
          peer.send("take", "innermost");
          return "b";
        },
      }]);
      return "a";
    },
    after: "after",
  };
  peer.send("take", value);
  quiesce(ctx, other);
  assertEquals(got, ["innermost", ["inner", { b: "b" }], {
    before: "before",
    a: "a",
    after: "after",
  }]);
});

Deno.test("MessageEncoder: values of any sort never spoil a later message", () => {
  using ctx = new AioContext();
  using other = new AioContext();
  let next = 0;
  const remote = other.expose({
    number: (number: number, ..._rest: unknown[]) => assertEquals(number, next++),
  });
  using peer = ctx.peer(remote);
  const random = new Random(SEED);
  let number = 0;
  for (let count = 0; count < 5000; count++) {
    const values = Array.from(
      { length: random.below(4) },
      () =>
        random.once(3)
          ? { a: [anyValue(random)], e: new Error("e", { cause: anyValue(random) }) }
          : anyValue(random),
    );
    try {
      assert(peer.send("number", number, ...values), `AIO_TEST_SEED=${SEED}`);
      number++;
    } catch (error) {
      // Whatever a trap throws, or a refusal; it has not been sent.
      assert(error instanceof Error && !error.message.includes("assertion"), `${error}`);
    }
    if (count % 50 === 0) quiesce(ctx, other);
  }
  quiesce(ctx, other);
  assertEquals(next, number, `AIO_TEST_SEED=${SEED}`);
  assert(number > 1000);
});
