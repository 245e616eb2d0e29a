/** Values of all sorts, well- and ill-typed, and where they come from: a seeded generator. */

/** Random numbers that a seed repeats. */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** A whole number below `limit`. */
  below(limit: number): number {
    // The 32-bit finalizer of a counter: small, and good enough to choose calls.
    this.#state = (this.#state + 0x9e37_79b9) >>> 0;
    let bits = this.#state;
    bits = Math.imul(bits ^ (bits >>> 16), 0x21f0_aaad);
    bits = Math.imul(bits ^ (bits >>> 15), 0x735a_2d97);
    return ((bits ^ (bits >>> 15)) >>> 0) % limit;
  }

  /** True once in `times`. */
  once(times: number): boolean {
    return this.below(times) === 0;
  }

  pick<Value>(values: readonly Value[]): Value {
    return values[this.below(values.length)];
  }
}

const NUMBERS: readonly number[] = [
  ...[0, -0, 1, -1, 2, 3, 7, 64, 1000, 4000, 32_768, 1e6, 1e9, 0.5, -0.5, 1e-300],
  ...[NaN, Infinity, -Infinity, 2 ** 31 - 1, 2 ** 31, 2 ** 32, 2 ** 53, 2 ** 64, 1e300, -1e300],
];
const BIGINTS: readonly bigint[] = [0n, 1n, -1n, 2n ** 31n, 2n ** 64n, -(2n ** 200n)];
const STRINGS: readonly string[] = [
  ...["", "3", "io_uring", "epoll", "poll", "\0", "poll_add", "poll_remove", "toString"],
  ...["__proto__", "constructor", "seen", "maxNs", "x".repeat(1000)],
];

function fail(): never {
  throw new Error("thrown by a value");
}

function revoked(): object {
  const { proxy, revoke } = Proxy.revocable({}, {});
  revoke();
  return proxy;
}

/** A view whose buffer has been given away. */
function detached(): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(16);
  structuredClone(bytes.buffer, { transfer: [bytes.buffer] });
  return bytes;
}

const OBJECTS: readonly (() => unknown)[] = [
  () => null,
  () => undefined,
  () => true,
  () => false,
  () => Symbol("random"),
  () => Symbol.iterator,
  () => ({}),
  () => [],
  () => [1, 2, 3],
  () => Object.create(null),
  () => () => {},
  () => class {},
  () => new Date(0),
  () => new Proxy({}, {}),
  () => new Proxy({}, { get: fail, has: fail, ownKeys: fail }),
  () => new Proxy(() => {}, { apply: fail }),
  revoked,
  () => ({ valueOf: fail, toString: fail }),
  () => ({ [Symbol.toPrimitive]: fail }),
  () => ({ valueOf: () => 3 }),
  () => new ArrayBuffer(16),
  () => new ArrayBuffer(16, { maxByteLength: 64 }),
  () => detached().buffer,
  () => new SharedArrayBuffer(16),
  () => new SharedArrayBuffer(16, { maxByteLength: 64 }),
  () => Object.setPrototypeOf({ byteLength: 64 }, SharedArrayBuffer.prototype),
  () => new Int32Array(new SharedArrayBuffer(16)),
  () => new Int32Array(4),
  () => Object.create(Int32Array.prototype),
  detached,
];

/** Any value at all. */
export function anyValue(random: Random): unknown {
  switch (random.below(5)) {
    case 0:
    case 1:
      return random.pick(NUMBERS);
    case 2:
      return random.once(2) ? random.pick(BIGINTS) : random.below(100);
    case 3:
      return random.pick(STRINGS);
    default:
      return random.pick(OBJECTS)();
  }
}

/** Mostly what is asked for, now and then any value. */
export function mostly<Value>(random: Random, value: () => Value, rarely = 6): Value {
  return random.once(rarely) ? anyValue(random) as Value : value();
}
