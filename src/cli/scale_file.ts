/**
 * The file that `scale` reads: the user's own, or one of real data made for the measurement.
 *
 * The temporary file has no name any more once it is filled, so the kernel frees it whatever way
 * the process ends. Its data are random: a sparse or compressible file would measure the file
 * system's short cuts. Whether the data are in the page cache is left as it is found; a file just
 * written is.
 */
import { closeSync, fstatSync, openSync } from "node:fs";
import { CommandError, UsageError } from "./exit.ts";

const TEMPORARY_FILE_BYTES = 256 * 1024 * 1024;
const CHUNK_BYTES = 1024 * 1024;
/** Most that crypto.getRandomValues fills in one call. */
const RANDOM_BYTES_MAX = 65_536;
/** Block numbers are 32 bits wide in the guest's ring. */
const BLOCKS_MAX = 0xffff_ffff;

/** An open file of `blocks` whole blocks. */
export interface BlockFile extends Disposable {
  readonly fd: number;
  readonly blocks: number;
}

/** Opens the file, or makes one when `path` is undefined. */
export function openBlockFile(path: string | undefined, blockSize: number): BlockFile {
  const fd = path === undefined ? openTemporaryFile() : openGivenFile(path);
  const { size } = fstatSync(fd);
  const blocks = Math.min(Math.floor(size / blockSize), BLOCKS_MAX);
  if (blocks === 0) {
    closeSync(fd);
    throw new UsageError(`Cannot use --file ${path} as it is smaller than one read: ${size} bytes`);
  }
  return { fd, blocks, [Symbol.dispose]: () => closeSync(fd) };
}

function openGivenFile(path: string): number {
  let fd: number;
  try {
    fd = openSync(path, "r");
  } catch (error) {
    throw new UsageError(`Cannot use --file ${path} as ${reason(error)}`);
  }
  if (!fstatSync(fd).isFile()) {
    closeSync(fd);
    throw new UsageError(`Cannot use --file ${path} as it is not a regular file`);
  }
  return fd;
}

function openTemporaryFile(): number {
  const path = Deno.makeTempFileSync({ prefix: "aio_scale_", suffix: ".img" });
  try {
    fill(path);
    return openSync(path, "r");
  } catch (error) {
    throw new CommandError(`Cannot make the file ${path} as ${reason(error)}`);
  } finally {
    Deno.removeSync(path);
  }
}

/** Writes the same random megabyte again and again, each time with its own number in front. */
function fill(path: string): void {
  const chunk = new Uint8Array(CHUNK_BYTES);
  for (let at = 0; at < CHUNK_BYTES; at += RANDOM_BYTES_MAX) {
    crypto.getRandomValues(chunk.subarray(at, at + RANDOM_BYTES_MAX));
  }
  const number = new DataView(chunk.buffer);
  using file = Deno.openSync(path, { write: true });
  for (let index = 0; index < TEMPORARY_FILE_BYTES / CHUNK_BYTES; index++) {
    number.setUint32(0, index, true);
    let written = 0;
    while (written < CHUNK_BYTES) written += file.writeSync(chunk.subarray(written));
  }
}

function reason(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
