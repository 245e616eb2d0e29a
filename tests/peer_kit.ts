/** Contexts that call each other, polled in turn until something has happened, and their links. */
import { assert } from "@std/assert";
import { loadShim } from "../ffi/library.ts";
import { LINKS, Links, LinkSide } from "../ffi/link.ts";
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

/** Functions of another context, of no known types. */
// deno-lint-ignore no-explicit-any
export type Any = Record<string, (...values: any[]) => any>;

/** Links that anybody holds. */
export function linksInUse(): number {
  const links = new Links(loadShim());
  let count = 0;
  for (let index = 0; index < LINKS; index++) {
    const link = links.at(index), { number } = link;
    if ([LinkSide.client, LinkSide.server].some((side) => link.isHeldBy(side, number))) count++;
  }
  return count;
}
