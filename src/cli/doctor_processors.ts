/**
 * What `doctor` says of processors: which this process may use, how many cores those are, and whether
 * a control group allows less of their time. Threads that spin have to fit into all three.
 */
import { getAffinity } from "../../ffi/affinity.ts";
import { loadShim } from "../../ffi/library.ts";

/** What was found. null stands for "not known here". */
export interface Processors {
  /** Numbers of the processors that this process may run on. */
  readonly allowed: number[] | null;
  /** Numbers of those that are one core, for each core. */
  readonly cores: number[][] | null;
  /** How many processors' time a control group allows; null also where it does not limit it. */
  readonly quota: number | null;
}

/**
 * Looks at the processors.
 *
 * @param read the text of a file, or null
 * @param advice where to add what to do
 */
export function diagnoseProcessors(
  read: (path: string) => string | null,
  advice: string[],
): Processors {
  const allowed = readAllowed();
  const cores = allowed === null ? null : readCores(allowed, read);
  const quota = parseQuota(read("/sys/fs/cgroup/cpu.max"));
  const count = Math.min(allowed?.length ?? navigator.hardwareConcurrency, quota ?? Infinity);
  if (count < 2) {
    advice.push(
      "less than two processors: polling cannot pay, and IOThreads gain nothing: use one context",
    );
  } else if (quota !== null && allowed !== null && quota < allowed.length) {
    advice.push(
      `a control group allows the time of ${quota} of ${allowed.length} processors, and stops all ` +
        `threads where more is used: let no more than ${
          Math.floor(quota)
        } contexts poll (maxNs: 0)`,
    );
  }
  if (cores !== null && cores.some((core) => core.length > 1)) {
    const list = cores.map((core) => core.join("+")).join(", ");
    advice.push(
      `some processors share a core (${list}): give IOThreads that poll one of each (processors)`,
    );
  }
  return { allowed, cores, quota };
}

function readAllowed(): number[] | null {
  try {
    return getAffinity(loadShim());
  } catch {
    // What is wrong with the shim is said elsewhere.
    return null;
  }
}

function readCores(
  allowed: readonly number[],
  read: (path: string) => string | null,
): number[][] | null {
  const cores = new Map<string, number[]>();
  for (const processor of allowed) {
    const folder = `/sys/devices/system/cpu/cpu${processor}/topology`;
    const siblings = read(`${folder}/thread_siblings_list`)?.trim();
    if (siblings === undefined) return null;
    const core = cores.get(siblings);
    if (core === undefined) cores.set(siblings, [processor]);
    else core.push(processor);
  }
  return [...cores.values()];
}

/** Text of cpu.max, as "150000 100000" or "max 100000". */
export function parseQuota(text: string | null): number | null {
  const [quota, period] = (text ?? "max").trim().split(" ").map(Number);
  return quota > 0 && period > 0 ? quota / period : null;
}
