/**
 * Which backend a context gets, and why: the only file that knows all three.
 *
 * io_uring is the best and is tried first; epoll comes next, and poll where there is no epoll.
 * Asking for one by name means that one or an error. epoll is chosen at once rather than from a
 * number of fds on: with few fds it is as fast as poll, and there is no moment of switching over
 * at which an fd could be lost. The reason is kept for people to read.
 */
import { AioError } from "../ffi/errno.ts";
import { loadLiburing } from "../ffi/library.ts";
import type { Fdmon, FdmonName, FdmonParts } from "./fdmon.ts";
import { FdmonEpoll } from "./fdmon_epoll.ts";
import { FdmonIoUring } from "./fdmon_io_uring.ts";
import { FdmonPoll } from "./fdmon_poll.ts";

/** A backend and why it was chosen. */
export interface FdmonChoice {
  readonly fdmon: Fdmon;
  readonly reason: string;
}

/** Names a user may ask for. */
export const FDMON_NAMES: readonly FdmonName[] = ["io_uring", "epoll", "poll"];

const BY_NAME = "asked for by name";

/**
 * Makes the backend asked for, or the best one that works.
 *
 * @throws {TypeError} for an unknown name
 * @throws {AioError} when the backend asked for cannot be had, or none can
 */
export function selectFdmon(name: FdmonName | undefined, parts: FdmonParts): FdmonChoice {
  if (name !== undefined) {
    if (!FDMON_NAMES.includes(name)) {
      throw new TypeError(
        `Cannot use fdmon as it is not one of ${FDMON_NAMES.join(", ")}: ${String(name)}`,
      );
    }
    return { fdmon: makeFdmon(name, parts), reason: BY_NAME };
  }
  const reasons: string[] = [];
  for (const candidate of FDMON_NAMES) {
    try {
      const fdmon = makeFdmon(candidate, parts);
      const reason = reasons.length === 0 ? "the best there is, and it works" : reasons.join("; ");
      return { fdmon, reason };
    } catch (error) {
      if (!(error instanceof AioError)) throw error;
      reasons.push(`no ${candidate}: ${error.message}`);
    }
  }
  throw new Error(`assertion failed: poll can always be had: ${reasons.join("; ")}`);
}

/** The backend for a context that has an fd which epoll, chosen before, refuses. */
export function fallBackToPoll(parts: FdmonParts, epoll: FdmonChoice, fd: number): FdmonChoice {
  const refusal = `epoll cannot watch fd ${fd}, such as a regular file (EPERM)`;
  return {
    fdmon: makeFdmon("poll", parts),
    reason: epoll.reason === BY_NAME ? refusal : `${epoll.reason}; ${refusal}`,
  };
}

/** Makes a backend that watches the notifier; leaves nothing behind where that fails. */
function makeFdmon(name: FdmonName, parts: FdmonParts): Fdmon {
  const fdmon = openFdmon(name, parts);
  try {
    fdmon.update(null, parts.notifier);
  } catch (error) {
    fdmon.dispose();
    throw error;
  }
  return fdmon;
}

function openFdmon(name: FdmonName, parts: FdmonParts): Fdmon {
  if (name === "poll") return new FdmonPoll(parts.system, parts.ready, parts.times);
  if (name === "epoll") return new FdmonEpoll(parts.system, parts.ready, parts.times);
  const liburing = loadLiburing({ liburing: parts.liburing });
  return new FdmonIoUring(liburing, parts);
}
