/** What a PollWord accepts, and that no memory it accepts can hurt. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { AioContext, EventNotifier, PollWord } from "../mod.ts";
import "./open_libraries.ts";

Deno.test("PollWord: memory that only pretends to be shared is refused", () => {
  const forged: unknown[] = [
    // Its length would be believed and the address would be none.
    Object.setPrototypeOf({ byteLength: 64 }, SharedArrayBuffer.prototype),
    // Memory that can be detached while C reads it.
    Object.setPrototypeOf(
      Object.defineProperty(new ArrayBuffer(8), "byteLength", { value: 8 }),
      SharedArrayBuffer.prototype,
    ),
    new Proxy(new SharedArrayBuffer(8), {}),
    new ArrayBuffer(8),
    null,
    8,
  ];
  for (const buffer of forged) {
    assertThrows(
      () => new PollWord(buffer as SharedArrayBuffer, 0, 32),
      TypeError,
      "Cannot poll a word as its memory is not a SharedArrayBuffer",
    );
  }
});

Deno.test("PollWord.seen: takes whole numbers of any size and sign, and nothing else", () => {
  for (const bits of [16, 32, 64] as const) {
    const word = new PollWord(new SharedArrayBuffer(8), 0, bits);
    const low = (value: bigint) => bits === 64 ? BigInt.asUintN(64, value) : value;
    const shown = (value: bigint) => bits === 64 ? low(value) : Number(BigInt.asUintN(bits, value));
    for (const value of [0n, 1n, -1n, 0xffffn, 0x1_0000n, -(2n ** 63n), 2n ** 64n + 5n]) {
      word.seen = value;
      assertEquals(word.seen, shown(value));
      word.seen = Number(value);
      assertEquals(word.seen, shown(BigInt(Number(value))));
    }
    word.seen = 3;
    for (const value of [NaN, 1.5, Infinity, -Infinity]) {
      assertThrows(() => word.seen = value, RangeError, `it is not a whole number: ${value}`);
    }
    for (const value of ["7", null, undefined, {}, Symbol("s"), { valueOf: () => 7n }, true]) {
      assertThrows(() => word.seen = value as never, TypeError, "neither a number nor a bigint");
    }
    assertEquals(word.seen, shown(3n));
  }
});

Deno.test("PollWord.seen: is the same while it is watched and when it is no longer", () => {
  for (const bits of [16, 32, 64] as const) {
    using ctx = new AioContext();
    using notifier = new EventNotifier();
    const word = new PollWord(new SharedArrayBuffer(8), 0, bits);
    const watch = (on: boolean) => {
      const handled = () => notifier.testAndClear();
      const handler = { ioRead: handled, ioPoll: word, ioPollReady: handled };
      ctx.setFdHandler(notifier.fd, on ? handler : null);
      // What has had an event is polled from then on; the word, which differs, is work each time.
      notifier.set();
      for (let times = 0; times < 4; times++) ctx.poll(false);
    };
    const values = bits === 64 ? [2n ** 63n + 5n, 7n << 40n] : [2 ** bits - 3, 9];
    for (const value of values) {
      word.seen = value;
      for (const on of [true, false]) {
        watch(on);
        assertEquals(word.seen, value);
      }
      watch(true);
      word.seen = bits === 64 ? 1n << 33n : 2;
      watch(false);
      assertEquals(word.seen, bits === 64 ? 1n << 33n : 2);
    }
  }
});

Deno.test("PollWord: shared memory that grows is polled where it was", () => {
  using ctx = new AioContext();
  using notifier = new EventNotifier();
  const memory = new SharedArrayBuffer(8, { maxByteLength: 1 << 24 });
  const word = new PollWord(memory, 4, 32);
  let hits = 0;
  const ioPollReady = () => (hits++, word.seen = word.load());
  const ioRead = () => notifier.testAndClear();
  ctx.setFdHandler(notifier.fd, { ioRead, ioPoll: word, ioPollReady });
  notifier.set();
  assert(ctx.poll(true));
  memory.grow(1 << 24);
  Atomics.store(new Uint32Array(memory), 1, 7);
  // Once in poll mode the word is looked at in every iteration, also where nobody waits.
  ctx.setPollParams({ maxNs: 1e9 });
  notifier.set();
  while (hits === 0) ctx.poll(true);
  assertEquals([hits, word.seen], [1, 7]);
  ctx.setFdHandler(notifier.fd, null);
});
