/**
 * The part of `@std/assert` that the tests use, over `node:assert/strict`.
 *
 * The tests import the real package by its JSR name; deno.json links that name to this folder, so
 * that they also run where JSR cannot be reached. Names, parameters and results are those of the
 * real package, and every failure is an AssertionError: dropping the link changes nothing else.
 */
import nodeAssert, { AssertionError } from "node:assert/strict";
import { inspect } from "node:util";

export { AssertionError };

// `any` as in the real package: an abstract class and one with typed parameters must fit too.
// deno-lint-ignore no-explicit-any
type AnyClass<Instance> = abstract new (...args: any[]) => Instance;

/** Fails when `expr` is falsy. */
export function assert(expr: unknown, msg = ""): asserts expr {
  if (!expr) fail(msg);
}

/** Fails, always. */
export function fail(msg?: string): never {
  throw new AssertionError({ message: msg ? `Failed assertion: ${msg}` : "Failed assertion." });
}

/** Fails unless both are deeply equal. */
export function assertEquals<Value>(actual: Value, expected: Value, msg?: string): void {
  nodeAssert.deepStrictEqual(actual, expected, msg);
}

/** Fails when both are deeply equal. */
export function assertNotEquals<Value>(actual: Value, expected: Value, msg?: string): void {
  nodeAssert.notDeepStrictEqual(actual, expected, msg);
}

/** Fails unless both are the same by Object.is. */
export function assertStrictEquals<Value>(
  actual: unknown,
  expected: Value,
  msg?: string,
): asserts actual is Value {
  nodeAssert.strictEqual(actual, expected, msg);
}

/** Fails when `actual` is undefined or null. */
export function assertExists<Value>(
  actual: Value,
  msg?: string,
): asserts actual is NonNullable<Value> {
  if (actual === undefined || actual === null) {
    fail(because(`Expected ${inspect(actual)} to be neither null nor undefined`, msg));
  }
}

/** Fails unless `actual` is an instance of the class. */
export function assertInstanceOf<Class extends AnyClass<unknown>>(
  actual: unknown,
  expectedType: Class,
  msg = "",
): asserts actual is InstanceType<Class> {
  if (actual instanceof expectedType) return;
  fail(because(`Expected ${inspect(actual)} to be an instance of ${expectedType.name}`, msg));
}

/** Fails unless the string matches. */
export function assertMatch(actual: string, expected: RegExp, msg?: string): void {
  nodeAssert.match(actual, expected, msg);
}

/** Fails unless the string contains the other. */
export function assertStringIncludes(actual: string, expected: string, msg?: string): void {
  if (!actual.includes(expected)) {
    fail(because(`Expected ${inspect(actual)} to contain ${inspect(expected)}`, msg));
  }
}

/** Fails unless `actual > expected`. */
export function assertGreater<Value>(actual: Value, expected: Value, msg?: string): void {
  if (!(actual > expected)) fail(because(`Expected ${actual} > ${expected}`, msg));
}

/** Fails unless `actual >= expected`. */
export function assertGreaterOrEqual<Value>(actual: Value, expected: Value, msg?: string): void {
  if (!(actual >= expected)) fail(because(`Expected ${actual} >= ${expected}`, msg));
}

/** Fails unless `actual < expected`. */
export function assertLess<Value>(actual: Value, expected: Value, msg?: string): void {
  if (!(actual < expected)) fail(because(`Expected ${actual} < ${expected}`, msg));
}

/** Fails unless `actual <= expected`. */
export function assertLessOrEqual<Value>(actual: Value, expected: Value, msg?: string): void {
  if (!(actual <= expected)) fail(because(`Expected ${actual} <= ${expected}`, msg));
}

/** Fails unless both are closer than the tolerance, by default a ten-millionth of `expected`. */
export function assertAlmostEquals(
  actual: number,
  expected: number,
  tolerance?: number,
  msg?: string,
): void {
  if (Object.is(actual, expected)) return;
  const limit = tolerance ?? (Number.isFinite(expected) ? Math.abs(expected * 1e-7) : 1e-7);
  if (Math.abs(expected - actual) <= limit) return;
  fail(because(`Expected ${actual} to be within ${limit} of ${expected}`, msg));
}

/** Fails unless `fn` throws; with a class, returns the error that was thrown. */
export function assertThrows(fn: () => unknown, msg?: string): unknown;
export function assertThrows<Thrown extends Error = Error>(
  fn: () => unknown,
  ErrorClass: AnyClass<Thrown>,
  msgIncludes?: string,
  msg?: string,
): Thrown;
export function assertThrows(
  fn: () => unknown,
  errorClassOrMsg?: AnyClass<Error> | string,
  msgIncludesOrMsg?: string,
  msg?: string,
): unknown {
  const expected = expectation(errorClassOrMsg, msgIncludesOrMsg, msg);
  try {
    fn();
  } catch (error) {
    return checkError(error, expected);
  }
  fail(because("Expected function to throw", expected.msg));
}

/** Fails unless `fn` returns a promise that rejects; with a class, resolves to its reason. */
export function assertRejects(fn: () => PromiseLike<unknown>, msg?: string): Promise<unknown>;
export function assertRejects<Thrown extends Error = Error>(
  fn: () => PromiseLike<unknown>,
  ErrorClass: AnyClass<Thrown>,
  msgIncludes?: string,
  msg?: string,
): Promise<Thrown>;
export async function assertRejects(
  fn: () => PromiseLike<unknown>,
  errorClassOrMsg?: AnyClass<Error> | string,
  msgIncludesOrMsg?: string,
  msg?: string,
): Promise<unknown> {
  const expected = expectation(errorClassOrMsg, msgIncludesOrMsg, msg);
  let promise;
  try {
    promise = fn();
  } catch {
    fail(because("Function throws when expected to reject", expected.msg));
  }
  try {
    await promise;
  } catch (error) {
    return checkError(error, expected);
  }
  fail(because("Expected function to reject", expected.msg));
}

interface Expectation {
  ErrorClass?: AnyClass<Error>;
  msgIncludes?: string;
  msg?: string;
}

function expectation(
  errorClassOrMsg?: AnyClass<Error> | string,
  msgIncludesOrMsg?: string,
  msg?: string,
): Expectation {
  if (typeof errorClassOrMsg === "string") return { msg: errorClassOrMsg };
  return { ErrorClass: errorClassOrMsg, msgIncludes: msgIncludesOrMsg, msg };
}

function checkError(error: unknown, { ErrorClass, msgIncludes, msg }: Expectation): unknown {
  if (ErrorClass === undefined) return error;
  assertInstanceOf(error, ErrorClass, msg);
  if (msgIncludes !== undefined) assertStringIncludes(error.message, msgIncludes, msg);
  return error;
}

function because(what: string, msg?: string): string {
  return msg ? `${what}: ${msg}` : what;
}
