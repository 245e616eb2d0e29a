/**
 * What `nbd` says: where it listens, and what it has done, to people on stderr and to programs as
 * lines of JSON on stdout.
 */
import type { FdmonName } from "../../mod.ts";
import type { NbdStats } from "../nbd/mod.ts";
import type { NbdOptions } from "./nbd_options.ts";
import type { DiskFacts } from "./nbd_service.ts";
import type { Door } from "./nbd_sockets.ts";

/** Says that clients can connect, and where. */
export function sayListening(
  fdmon: FdmonName,
  doors: readonly Door[],
  facts: readonly DiskFacts[],
  { json, threads }: NbdOptions,
): void {
  const uris = doors.map(({ uri }) => uri);
  for (const { reachable } of doors) {
    if (reachable === null) continue;
    console.error(
      `warning: whoever reaches ${reachable} can use what is served, as there is no password`,
    );
  }
  for (const uri of uris) console.error(`listening on ${uri}`);
  if (json) say({ event: "listening", pid: Deno.pid, uris, exports: facts, fdmon, threads });
}

/** Says what was done; the end only where that was asked for. */
export function sayStats(
  event: "stats" | "ended",
  stats: NbdStats,
  { json, verbose }: NbdOptions,
): void {
  if (json) say({ event, ...stats });
  else if (event === "stats" || verbose) console.error(`${event}: ${describe(stats)}`);
}

function say(line: Readonly<Record<string, unknown>>): void {
  console.log(JSON.stringify(line));
}

function describe(stats: NbdStats): string {
  const { connections, accepted, bytesRead, bytesWritten, errors, violations } = stats;
  const requests = Object.entries(stats.requests)
    .filter(([, count]) => count !== 0)
    .map(([name, count]) => `${count} ${name}`);
  return [
    `${connections} of ${accepted} connections open`,
    requests.length === 0 ? "no requests" : requests.join(" "),
    `${mib(bytesRead)} MiB read`,
    `${mib(bytesWritten)} MiB written`,
    `${errors} errors`,
    `${violations} violations`,
  ].join(", ");
}

function mib(bytes: number): string {
  return (bytes / 2 ** 20).toFixed(1);
}
