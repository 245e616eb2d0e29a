/** Values as bytes and back at once, and what they are compared with. */
import { assert, assertEquals, assertStrictEquals } from "@std/assert";
import { MessageDecoder } from "../src/threads/message_decoder.ts";
import { MessageEncoder } from "../src/threads/message_encoder.ts";
import { SEED } from "./peer_kit.ts";

export const encoder = new MessageEncoder(), decoder = new MessageDecoder();

/** What arrives of a value, and that nothing is left over or missing behind it. */
export function sent<Value>(value: Value): Value {
  const bytes = encoder.encode([value, 12345.5]).slice();
  const [got, mark] = decoder.decode(bytes, 2);
  assertEquals(mark, 12345.5, "what follows a value");
  return got as Value;
}

/** The same as structuredClone makes, down to prototypes, holes and the sign of zero. */
export function assertAsCloned(value: unknown): void {
  const text = `AIO_TEST_SEED=${SEED} ${Deno.inspect(value, { depth: 4 }).slice(0, 300)}`;
  assertSame(sent(value), structuredClone(value), text);
}

export function assertSame(got: unknown, wanted: unknown, text: string): void {
  if (typeof wanted !== "object" || wanted === null) return assertStrictSame(got, wanted, text);
  assert(typeof got === "object" && got !== null, text);
  assertStrictEquals(Object.getPrototypeOf(got), Object.getPrototypeOf(wanted), text);
  if (wanted instanceof Date) {
    return assertStrictSame((got as Date).getTime(), wanted.getTime(), text);
  }
  if (wanted instanceof Map || wanted instanceof Set) {
    return assertSame([...got as Set<unknown>], [...wanted], text);
  }
  if (wanted instanceof ArrayBuffer) {
    return assertSame(new Uint8Array(got as ArrayBuffer), new Uint8Array(wanted), text);
  }
  if (wanted instanceof DataView) return assertSame((got as DataView).buffer, wanted.buffer, text);
  assertEquals(Object.keys(got), Object.keys(wanted), text);
  for (const key of Object.keys(wanted)) {
    assertSame((got as Record<string, unknown>)[key], (wanted as never)[key], text);
  }
  if (Array.isArray(wanted)) assertEquals((got as unknown[]).length, wanted.length, text);
}

function assertStrictSame(got: unknown, wanted: unknown, text: string): void {
  assert(Object.is(got, wanted), `${text}: ${String(got)} instead of ${String(wanted)}`);
}

/** A function that fails. */
export function thrown(): never {
  throw new RangeError("of a getter");
}
