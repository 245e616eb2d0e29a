/** Contexts of one thread that call each other, polled in turn until something has happened. */
import { assert } from "@std/assert";
import type { AioContext } from "../mod.ts";

/** What takes longer has been lost. */
const LOST_MS = 20_000;

/** The seed of this run. */
export const SEED = Number(
  Deno.env.get("AIO_TEST_SEED") ?? Math.floor(Math.random() * 2 ** 32),
);

/** Polls contexts in turn, with promise jobs in between, until it is so. */
export async function pollAll(
  contexts: readonly AioContext[],
  done: () => boolean,
): Promise<void> {
  const endMs = performance.now() + LOST_MS;
  while (!done()) {
    for (const ctx of contexts) ctx.poll(false);
    await new Promise((resolve) => setImmediate(resolve));
    assert(performance.now() < endMs, `a message was lost; AIO_TEST_SEED=${SEED}`);
  }
}

/** Polls contexts in turn until a promise is settled. */
export async function pollFor<Value>(
  contexts: readonly AioContext[],
  promise: Promise<Value>,
): Promise<Value> {
  let settled = false;
  const end = () => {
    settled = true;
  };
  promise.then(end, end);
  await pollAll(contexts, () => settled);
  return await promise;
}

/** Polls contexts until none of them has anything to do. */
export function quiesce(...contexts: readonly AioContext[]): void {
  while (contexts.map((ctx) => ctx.poll(false)).includes(true));
}

/** What a promise is rejected with; it must be. */
export async function rejection(promise: Promise<unknown>): Promise<Error> {
  try {
    await promise;
  } catch (error) {
    return error as Error;
  }
  throw new Error("the promise was not rejected");
}
