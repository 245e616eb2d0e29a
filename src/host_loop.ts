/**
 * Deno's own event loop: how promise jobs are run while the context keeps the thread, and what Deno
 * has to do besides.
 *
 * JavaScript has no way to run the jobs that are due and go on. Deno's own modules do, and it is
 * taken from there, where it can be found: the only place of this project that looks behind Deno's
 * public interface. Where it cannot, `run` lets Deno's loop turn after each iteration, which costs
 * two microseconds and changes nothing else.
 */

/** Runs due promise jobs and next ticks until there are none. */
export type RunJobs = () => void;

/**
 * Finds the way to run jobs, which works only from a task of Deno's loop: inside a promise job it
 * does nothing.
 *
 * @returns null where this Deno has none
 */
export function findRunJobs(deno: unknown = Deno): RunJobs | null {
  const { internal } = deno as { internal?: PropertyKey };
  if (internal === undefined) return null;
  const inside = (deno as Record<PropertyKey, { core?: { runNextTicks?: unknown } } | undefined>)[
    internal
  ];
  const run = inside?.core?.runNextTicks;
  return typeof run === "function" ? run as RunJobs : null;
}
