/**
 * Deno's own event loop: how promise jobs are run while the context keeps the thread, and what Deno
 * has to do besides.
 *
 * JavaScript has no way to run the jobs that are due and go on. Deno's own modules do, and it is
 * taken from there, where it can be found: the only place of this project that looks behind Deno's
 * public interface. Where it cannot, `run` lets Deno's loop turn after each iteration, which costs
 * two microseconds and changes nothing else.
 */

/** What is used of Deno's core. */
interface Core {
  runNextTicks?: unknown;
  eventLoopHasMoreWork?: unknown;
}

/** The host's loop. */
export interface HostLoop {
  /**
   * Runs due promise jobs and next ticks until there are none; null where that cannot be done. Only
   * from a task of Deno's loop: inside a promise job it does nothing.
   */
  readonly runJobs: (() => void) | null;
  /** Whether Deno has timers, I/O or the like to wait for; true where that is not known. */
  readonly hasWork: () => boolean;
}

/** Finds out what this Deno offers. */
export function findHostLoop(deno: unknown = Deno): HostLoop {
  const core = coreOf(deno);
  const runJobs = typeof core?.runNextTicks === "function" ? core.runNextTicks : null;
  const more = core?.eventLoopHasMoreWork;
  return {
    runJobs: runJobs as (() => void) | null,
    hasWork: typeof more === "function" ? () => more() !== false : () => true,
  };
}

function coreOf(deno: unknown): Core | undefined {
  const { internal } = deno as { internal?: PropertyKey };
  if (internal === undefined) return undefined;
  return (deno as Record<PropertyKey, { core?: Core } | undefined>)[internal]?.core;
}
