/** IOThreads of io_thread_module.ts, and what this process holds while they live. */
import { assertEquals } from "@std/assert";
import { IOThread, type IOThreadOptions } from "../mod.ts";
import { newFolder } from "./child.ts";
import type main from "./io_thread_module.ts";
import type { ThreadData } from "./io_thread_module.ts";
import { ringMappings } from "./open_files.ts";

/** The module of the threads. */
export const MODULE = new URL("./io_thread_module.ts", import.meta.url);
/** A file for them. */
export const FILE = `${newFolder()}/file`;
Deno.writeFileSync(FILE, new Uint8Array(1 << 16));

/** Starts one. */
export function start(options: IOThreadOptions<ThreadData> = {}) {
  return IOThread.start<typeof main>(MODULE, options);
}

/** A module of that text. */
export function moduleOf(text: string): string {
  return `data:text/javascript,${encodeURIComponent(text)}`;
}

let isWarm = false;

/** Lets Deno's own threads be there, which live on, before anything is counted. */
export async function warmUp(): Promise<void> {
  if (isWarm) return;
  isWarm = true;
  await using thread = await start();
  await thread.call("add", 1, 2);
}

/** Numbers of the threads of this process. */
export function threads(): number[] {
  return Array.from(Deno.readDirSync("/proc/self/task"), ({ name }) => Number(name));
}

/** What grows where something is left behind: open fds by kind, and mappings of rings. */
export function held(): Record<string, number> {
  const kinds: Record<string, number> = { "mappings of rings": ringMappings() };
  for (const { name } of Deno.readDirSync("/proc/self/fd")) {
    try {
      const kind = Deno.readLinkSync(`/proc/self/fd/${name}`).replace(/\d+/g, "");
      kinds[kind] = (kinds[kind] ?? 0) + 1;
    } catch {
      // The fd that reads the folder is gone by now.
    }
  }
  return kinds;
}

/** Of no kind are there more than before; Deno may have closed some of its own meanwhile. */
export function assertNothingMore(before: Record<string, number>): void {
  const after = held();
  for (const kind of Object.keys(after)) {
    after[kind] = Math.max(0, after[kind] - (before[kind] ?? 0));
  }
  assertEquals(Object.entries(after).filter(([, more]) => more !== 0), []);
}

/** Runs a test of which nothing may be left. */
export function leavingNothing(test: () => Promise<void>): () => Promise<void> {
  return async () => {
    await warmUp();
    const before = held();
    await test();
    assertNothingMore(before);
  };
}
