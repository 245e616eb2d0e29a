/** The threads of io_thread_pool_test.ts. */
import "./open_libraries.ts";
import type { IOThreadScope } from "../mod.ts";

/** What each is given: the name of the one that fails to start, and what is counted. */
export interface PoolData {
  readonly failing?: string;
  readonly started?: Int32Array<SharedArrayBuffer>;
}

/** The default function. */
export default function main({ ctx, name }: IOThreadScope, { failing, started }: PoolData = {}) {
  if (name === failing) throw new RangeError(`${name} cannot start`);
  if (started !== undefined) Atomics.add(started, 0, 1);
  const released: (() => void)[] = [];
  return {
    who: () => name,
    hold: () => new Promise<string>((resolve) => released.push(() => resolve(name))),
    free: () => released.splice(0).forEach((release) => release()),
    end: () => globalThis.close(),
    polls: () => ctx.stats().polls,
    allowed: () =>
      Deno.readTextFileSync("/proc/thread-self/status").match(/Cpus_allowed_list:\s*(\S+)/)![1],
  };
}
