/** What this process holds of the system: files of the kinds that the loop opens, and mappings. */
import { assertEquals } from "@std/assert";

/** Open eventfds, epoll instances and rings, sorted: the number of each and what it is. */
export function openFiles(): string[] {
  return Array.from(Deno.readDirSync("/proc/self/fd"), ({ name }) => {
    try {
      return `${name} ${Deno.readLinkSync(`/proc/self/fd/${name}`)}`;
    } catch {
      // The fd that reads the folder is gone by now.
      return "";
    }
  }).filter((line) => /eventfd|eventpoll|io_uring/.test(line)).sort();
}

/** Open fds of all kinds. */
export function countFds(): number {
  return [...Deno.readDirSync("/proc/self/fd")].length;
}

/** Runs a test and looks whether it has left fds open. */
export function countingFds(test: () => void | Promise<void>): () => Promise<void> {
  return async () => {
    const before = countFds();
    await test();
    assertEquals(countFds(), before, "open fds");
  };
}

/** Mappings of rings. */
export function ringMappings(): number {
  return Deno.readTextFileSync("/proc/self/maps").match(/io_uring/g)?.length ?? 0;
}
