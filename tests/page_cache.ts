/**
 * What of a file is not on its disk yet, as the kernel counts it: cachestat(2) of Linux 6.5.
 *
 * Where it is missing, or sees nothing of the files of tests (memory is always dirty, an overlay
 * keeps its pages elsewhere), tests of it are skipped with that reason.
 */
import { newPath } from "./test_files.ts";

/** The number of the system call, the same on all machines of today. */
const CACHESTAT = 451n;
const PAGES_MIN = 16, PAGE_BYTES = 4096;

const { syscall, open, close } = Deno.dlopen("libc.so.6", {
  // long syscall(long number, int fd, struct cachestat_range *, struct cachestat *, int flags)
  syscall: { parameters: ["i64", "i64", "buffer", "buffer", "i64"], result: "i64" },
  // int open(const char *path, int flags)
  open: { parameters: ["buffer", "i32"], result: "i32" },
  // int close(int fd)
  close: { parameters: ["i32"], result: "i32" },
}).symbols;

/** Pages of a range of a file that are dirty or being written; the whole file where none is given. */
export function dirtyPages(path: string, offset = 0, length = 0): number {
  // Open for writing, as Linux wants it of who asks.
  const fd = open(new TextEncoder().encode(`${path}\0`), 2);
  if (fd < 0) throw new Error(`Cannot open ${path} for a test`);
  const range = new BigUint64Array([BigInt(offset), BigInt(length)]);
  const found = new BigUint64Array(5);
  const result = syscall(CACHESTAT, BigInt(fd), range, found, 0n);
  close(fd);
  if (result !== 0n) throw new Error("there is no cachestat(2) here");
  return Number(found[1] + found[2]);
}

/** Why it cannot be known here; undefined where it can. */
function whyUnknown(): string | undefined {
  const path = newPath();
  using file = Deno.openSync(path, { write: true, createNew: true });
  file.writeSync(new Uint8Array(PAGES_MIN * PAGE_BYTES));
  try {
    if (dirtyPages(path) < PAGES_MIN) return "pages of its filesystem are not seen";
    file.syncDataSync();
    return dirtyPages(path) === 0 ? undefined : "its filesystem is memory";
  } catch (error) {
    return (error as Error).message;
  }
}

const unknown = whyUnknown();

/** Registers a test that wants to know. */
export function testWithDirtyPages(name: string, fn: () => Promise<void>): void {
  Deno.test({
    name: unknown === undefined ? name : `${name} (skipped: ${unknown})`,
    ignore: unknown !== undefined,
    fn,
  });
}
