/** Values as bytes and back: what arrives is what structuredClone makes of it, and nothing else does. */
import { assert, assertEquals, assertStrictEquals, assertThrows } from "@std/assert";
import { AioContext, AioError } from "../mod.ts";
import { MESSAGE_LIMIT } from "../src/threads/message_encoder.ts";
import { SEED } from "./peer_kit.ts";
import { Random } from "./random_values.ts";
import { assertAsCloned, assertSame, decoder, encoder, sent, thrown } from "./message_codec_kit.ts";

Deno.test("MessageEncoder: every kind of value arrives as structuredClone has it", () => {
  const bytes = Uint8Array.from({ length: 64 }, (_, index) => index * 37);
  const views = [
    Uint8Array,
    Int8Array,
    Uint8ClampedArray,
    Uint16Array,
    Int16Array,
    Uint32Array,
    Int32Array,
    Float16Array,
    Float32Array,
    Float64Array,
    BigUint64Array,
    BigInt64Array,
  ].map((View) => new View(bytes.buffer.slice(0)));
  const values: unknown[] = [
    ...[undefined, null, true, false, 0, -0, NaN, Infinity, -Infinity, 5e-324, 2 ** 53, -1.5],
    ...[0n, -1n, 2n ** 64n, -(2n ** 64n), 10n ** 400n],
    ...["", "a", "\0", "ä€😀", "\ufeffbom", "\ufeff", "\ud800", "a\udc00b\ud800", "\uffff\ufffd"],
    ...[[], [1, [2, [3]]], [, 1, , undefined, ,], new Array(3)],
    ...[{}, { a: 1, "": 2, 3: 4, "ä\ud800": undefined }, { then: 1, constructor: 2, toString: 3 }],
    ...[
      new Map<unknown, unknown>([[{ a: 1 }, new Map()], [NaN, -0]]),
      new Set([1, "1", [1], undefined]),
    ],
    ...[new Date(0), new Date(-1.5e12), new Date(NaN)],
    ...[bytes.buffer, new ArrayBuffer(0), new DataView(bytes.buffer.slice(0)), ...views],
  ];
  for (const value of values) assertAsCloned(value);
  assertAsCloned(values);
  assertAsCloned({ values: new Map([["all", new Set(values)]]) });
  // A part of a buffer brings that part alone.
  assertSame(sent(bytes.subarray(8, 24)), bytes.slice(8, 24), "a part");
  assertSame(sent(new DataView(bytes.buffer, 8, 4)).byteLength, 4, "a part");
  const own = JSON.parse('{"__proto__": {"polluted": 1}}');
  assertEquals(Object.keys(sent(own)), ["__proto__"]);
  assertEquals(({} as Record<string, unknown>).polluted, undefined);
  assertStrictEquals(Object.getPrototypeOf(sent(Object.create(null))), Object.prototype);
  class Buffer extends Uint8Array {}
  assertSame(sent(Buffer.from([1, 2])), new Uint8Array([1, 2]), "a subclass arrives as its base");
});

/** A random value that can be sent; a tree. */
function anyTree(random: Random, depth: number): unknown {
  const kind = random.below(depth === 0 ? 8 : 13), size = random.below(5);
  const list = () => Array.from({ length: size }, () => anyTree(random, depth - 1));
  switch (kind) {
    case 0:
      return random.pick([undefined, null, true, false, NaN, -0, Infinity]);
    case 1:
      return (random.below(2 ** 31) - 2 ** 30) / (random.below(1000) + 1);
    case 2:
      return (BigInt(random.below(2 ** 31)) << BigInt(random.below(300))) *
        (random.once(2) ? 1n : -1n);
    case 3:
      return anyText(random);
    case 4:
      return new Date(random.below(2 ** 31) * 1000);
    case 5:
      return Uint8Array.from({ length: random.below(200) }, () => random.below(256));
    case 6:
      return new Float64Array(random.below(20)).fill(random.below(1000) / 7);
    case 7:
      return random.below(2 ** 31);
    case 8:
      return list();
    case 9: {
      const array = list();
      for (let holes = random.below(3); holes > 0; holes--) delete array[random.below(6)];
      return array;
    }
    case 10:
      return new Map(list().map((value) => [anyTree(random, depth - 1), value]));
    case 11:
      return new Set(list());
    default:
      return Object.fromEntries(list().map((value) => [anyText(random), value]));
  }
}

function anyText(random: Random): string {
  const units = Array.from(
    { length: random.below(12) },
    () =>
      random.once(3) ? 0xd700 + random.below(0x1900) : random.below(random.once(2) ? 128 : 0x3000),
  );
  return String.fromCharCode(...units);
}

Deno.test("MessageEncoder: random values arrive as structuredClone has them", () => {
  const random = new Random(SEED);
  for (let count = 0; count < 3000; count++) assertAsCloned(anyTree(random, 4));
});

Deno.test("MessageEncoder: errors keep their class, name, message, stack and cause", () => {
  for (
    const Kind of [Error, TypeError, RangeError, ReferenceError, SyntaxError, EvalError, URIError]
  ) {
    const error = new Kind("of a kind", { cause: new Kind("its cause", { cause: [1, { a: 2 }] }) });
    const got = sent(error);
    assertStrictEquals(Object.getPrototypeOf(got), Kind.prototype);
    assertEquals([got.name, got.message, got.stack], [error.name, error.message, error.stack]);
    assertEquals([(got.cause as Error).message, (got.cause as Error).cause], ["its cause", [1, {
      a: 2,
    }]]);
    assertEquals(Object.keys(got), []);
  }
  const none = sent(new Error());
  assertEquals([none.message, none.cause, "cause" in none], ["", undefined, false]);
  const aio = sent(new AioError("Cannot do it", "read", 5, "advice"));
  assert(aio instanceof AioError);
  assertEquals([aio.code, aio.errno, aio.syscall], ["EIO", 5, "read"]);
  assertEquals(aio.message, "Cannot do it as read failed: EIO (advice)");
  class DiskError extends RangeError {
    override name = "DiskError";
  }
  const disk = sent<Error>(new DiskError("full"));
  assertEquals([disk.constructor, disk.name, disk.message], [Error, "DiskError", "full"]);
  const abort = sent<Error>(new DOMException("enough", "AbortError"));
  assertEquals([abort.name, abort.message], ["AbortError", "enough"]);
  assertEquals(`${sent(new AggregateError([1], "several"))}`, "AggregateError: several");
  // A proxy of an error is one as well; its name may be anything.
  const odd = new Error("odd");
  Object.assign(odd, { name: 7, message: null, stack: {} });
  assertEquals([sent(odd).name, sent(odd).message], ["7", "null"]);
});

Deno.test("MessageEncoder: a cause that cannot be told becomes a text, and harms nothing", () => {
  const circular = new Error("circular");
  circular.cause = { deep: [circular] };
  const causes: [unknown, unknown][] = [
    [thrown, `${thrown}`],
    [{ a: 1, list: [1, 2, Symbol("s")] }, "[object Object]"],
    [Symbol("s"), "Symbol(s)"],
    [new Proxy({}, { get: thrown, getPrototypeOf: thrown }), "something that has no text"],
    [Object.create(null, { f: { enumerable: true, value: thrown } }), "something that has no text"],
    [new Uint8Array(1 << 24), `${new Uint8Array(1 << 24)}`.length > MESSAGE_LIMIT ? null : ""],
  ];
  for (const [cause, text] of causes) {
    const error = new Error("outer", { cause });
    if (text === null) {
      // Not even its text has room: then that of the whole is an error.
      assertThrows(() => sent(error), RangeError, "more than");
    } else assertEquals([sent(error).message, sent(error).cause], ["outer", text]);
    assertEquals(sent([error.message, 1]), ["outer", 1]);
  }
  const got = sent(circular);
  assertEquals(got.message, "circular");
  const getter = Object.defineProperty(new Error("getter"), "cause", { get: thrown });
  assertEquals([sent(getter).message, sent(getter).cause], [
    "getter",
    "a cause that cannot be read",
  ]);
});

Deno.test("MessageEncoder: what cannot be copied is refused by name, and harms nothing", () => {
  using ctx = new AioContext();
  class Device {}
  const shared = new SharedArrayBuffer(16);
  const detached = new Uint8Array(8);
  structuredClone(detached, { transfer: [detached.buffer] });
  const shadowed = new Uint8Array(shared);
  Object.defineProperty(shadowed, "buffer", { value: new ArrayBuffer(16) });
  const disguised = Object.setPrototypeOf(new Uint8Array(shared), Object.prototype);
  const refused: [unknown, string][] = [
    [() => {}, "Cannot send a function to another thread as it cannot be copied"],
    [Symbol("s"), "Cannot send a symbol"],
    [new Device(), "Cannot send a Device"],
    [Object.create({}), "Cannot send a value of a class"],
    [Object.create({ constructor: { name: 7 } }), "Cannot send a value of a class"],
    [ctx, "Cannot send a AioContext"],
    [Promise.resolve(), "Cannot send a Promise"],
    [/x/, "Cannot send a RegExp"],
    [new WeakMap(), "Cannot send a WeakMap"],
    [new Number(1), "Cannot send a Number"],
    [shared, "Cannot send a SharedArrayBuffer"],
    ...[Uint8Array, Int32Array, Float64Array, BigInt64Array].map((View) =>
      [new View(shared as never), "Cannot send a view of shared memory"] as [unknown, string]
    ),
    [new DataView(shared), "Cannot send a view of shared memory"],
    [shadowed, "Cannot send a view of shared memory"],
    [disguised, "Cannot send a view of shared memory"],
    [detached, ""],
    [detached.buffer, ""],
    [Object.create(ArrayBuffer.prototype), ""],
    [Object.create(Map.prototype), ""],
    [Object.create(Set.prototype), ""],
    [Object.create(Date.prototype), ""],
    [new Proxy(new Map(), {}), ""],
    [new Proxy(new Uint8Array(4), {}), ""],
    [new Proxy([], { get: () => Symbol("length") }), ""],
  ];
  for (const [value, message] of refused) {
    for (const inside of [value, [1, value], { a: [new Map([[1, value]])] }, new Set([value])]) {
      assertThrows(() => encoder.encode([inside]), TypeError, message);
      assertEquals(sent(["after", 1]), ["after", 1]);
    }
  }
});

Deno.test("MessageEncoder: 100 objects in each other and 16 MiB are the most", () => {
  const nested = (depth: number): unknown => depth === 0 ? 1 : [nested(depth - 1)];
  assertAsCloned(nested(100));
  const message = "as it contains itself, or more than 100 objects in each other";
  assertThrows(() => encoder.encode([nested(101)]), RangeError, message);
  const circles: unknown[] = [[], {}, new Map(), new Set()];
  (circles[0] as unknown[]).push(circles[0]);
  (circles[1] as Record<string, unknown>).self = circles[1];
  (circles[2] as Map<unknown, unknown>).set(1, circles[2]);
  (circles[3] as Set<unknown>).add(circles[3]);
  for (const circle of circles) assertThrows(() => encoder.encode([circle]), RangeError, message);
  const tooLong = "as it has more than 16777216 bytes: share memory instead";
  // A tag, a kind and a length in front.
  assertEquals(encoder.encode([new Uint8Array(MESSAGE_LIMIT - 6)]).length, MESSAGE_LIMIT);
  assertThrows(() => encoder.encode([new Uint8Array(MESSAGE_LIMIT - 5)]), RangeError, tooLong);
  const long = "x".repeat(MESSAGE_LIMIT - 5),
    wide = "\u20ac".repeat(Math.floor((MESSAGE_LIMIT - 5) / 3));
  assert(decoder.decode(encoder.encode([long]), 1)[0] === long, "one byte for each unit");
  assert(decoder.decode(encoder.encode([wide]), 1)[0] === wide, "three bytes for each unit");
  for (const text of [`${long}x`, `${wide}\u20ac`, "\ud800".repeat(1 << 23)]) {
    assertThrows(() => encoder.encode([text]), RangeError, tooLong);
  }
  assertThrows(() => encoder.encode([new Array(2 ** 32 - 1)]), RangeError, tooLong);
  assertThrows(
    () => encoder.encode([Array(20).fill(new Uint8Array(1 << 20))]),
    RangeError,
    tooLong,
  );
  assertEquals(sent("after"), "after");
});
