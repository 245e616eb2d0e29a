/**
 * What Deno itself does where ours does the same: reads and an echo server, for `bench`.
 *
 * Deno has two ways to read at an offset: a file of its own, and that of node:fs, which is faster
 * where many reads are in flight. Each is written here as a program in a hurry would write it, without
 * more promises than it takes.
 */
import { openSync, read } from "node:fs";
import type { Figures, Measure } from "./bench_child.ts";
import {
  blocksToRead,
  fillPageCache,
  RandomOffsets,
  READ_SECONDS,
  READ_SIZE,
  RequestWindow,
} from "./bench_window.ts";

declare const gc: () => void;

/** Reads a block at this offset; each has a buffer of its own. */
type ReadBlock = (offset: number) => Promise<void>;

/** Opens what one of the requests in flight at once needs. */
type OpenReader = (path: string) => ReadBlock;

/** Bytes that an echo server takes at once: more than a message. */
const ECHO_BYTES = 256;

/** One file for each, as the position is the file's. */
function openFsFile(path: string): ReadBlock {
  const file = Deno.openSync(path);
  const buffer = new Uint8Array(READ_SIZE);
  return async (offset) => {
    file.seekSync(offset, Deno.SeekMode.Start);
    expectBlock(await file.read(buffer));
  };
}

function openForNode(path: string): ReadBlock {
  const fd = openSync(path, "r");
  const buffer = new Uint8Array(READ_SIZE);
  return (offset) =>
    new Promise((resolve, reject) => {
      read(fd, buffer, 0, READ_SIZE, offset, (error, count) => {
        if (error !== null) return reject(error);
        resolve(expectBlock(count));
      });
    });
}

function expectBlock(count: number | null): void {
  if (count !== READ_SIZE) throw new Error(`the file has become shorter: read ${count} bytes`);
}

const READERS: Readonly<Record<string, OpenReader>> = { FsFile: openFsFile, fs: openForNode };

/** Reads with so many requests in flight, each awaited, through `FsFile.read` or through `fs.read`. */
export async function measureDenoReads(
  depthText: string,
  way: string,
  path: string,
): Promise<Measure> {
  fillPageCache(path);
  const offsets = new RandomOffsets(blocksToRead(path));
  const readers = Array.from({ length: Number(depthText) }, () => READERS[way](path));
  const measure = () => readAll(readers, offsets);
  // The first windows have the code compiled.
  await measure();
  await measure();
  return measure;
}

async function readAll(readers: readonly ReadBlock[], offsets: RandomOffsets): Promise<Figures> {
  const window = new RequestWindow(READ_SECONDS);
  await Promise.all(readers.map(async (readBlock) => {
    while (!window.over) {
      await readBlock(offsets.next());
      window.count();
    }
  }));
  return window.figures();
}

/** Serves a unix socket from now on; the figure is the process's memory in bytes. */
export function serveDenoEcho(path: string): Measure {
  acceptAll(Deno.listen({ transport: "unix", path }));
  return () => {
    gc();
    return { value: Deno.memoryUsage().rss };
  };
}

async function acceptAll(listener: Deno.Listener): Promise<void> {
  for await (const connection of listener) echo(connection);
}

async function echo(connection: Deno.Conn): Promise<void> {
  const buffer = new Uint8Array(ECHO_BYTES);
  for (let count; (count = await connection.read(buffer)) !== null;) {
    for (let sent = 0; sent < count;) sent += await connection.write(buffer.subarray(sent, count));
  }
  connection.close();
}
