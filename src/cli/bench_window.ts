/**
 * What measurements of reads have in common, ours and Deno's own: which blocks and for how long.
 *
 * The same as in the C floor (bench/read_floor.c): the same generator, the same part of the file
 * and as many requests for one look at the clock. Nothing here allocates for a request.
 */
import type { Figures } from "./bench_child.ts";

/** Bytes of a read. */
export const READ_SIZE = 4096;

/** Length of a window of reads from the page cache, and of one from a device, which varies more. */
export const READ_SECONDS = 0.25, DIRECT_SECONDS = 0.5;

/** Of a larger file as much is read: 256 MiB. */
const BLOCKS_MAX = 65_536;
const SEED = 2463534242;
const REQUESTS_PER_CLOCK_READ = 64;

/** Blocks of the file that are read. */
export function blocksToRead(path: string): number {
  return Math.min(Math.floor(Deno.statSync(path).size / READ_SIZE), BLOCKS_MAX);
}

/** Reads what is going to be read, so that it is in the page cache. */
export function fillPageCache(path: string): void {
  using file = Deno.openSync(path);
  const buffer = new Uint8Array(256 * READ_SIZE);
  const end = blocksToRead(path) * READ_SIZE;
  for (let at = 0; at < end;) at += file.readSync(buffer) ?? end;
}

/** Where to read: Marsaglia's xorshift of 32 bits. */
export class RandomOffsets {
  /** In an array, as a field that holds such numbers would have V8 allocate each. */
  readonly #state = Int32Array.of(SEED);
  readonly #blocks: number;

  constructor(blocks: number) {
    this.#blocks = blocks;
  }

  /** Byte offset of the next block. */
  next(): number {
    let random = this.#state[0];
    random ^= random << 13;
    random ^= random >>> 17;
    random ^= random << 5;
    this.#state[0] = random;
    return (random >>> 0) % this.#blocks * READ_SIZE;
  }
}

/** Counts requests for some time; those in flight when it is over count too. */
export class RequestWindow {
  /** Whether no more requests are to be made. */
  over = false;
  readonly #startMs = performance.now();
  readonly #endMs: number;
  #requests = 0;

  constructor(seconds: number) {
    this.#endMs = this.#startMs + seconds * 1e3;
  }

  /** A request is complete. */
  count(): void {
    if (++this.#requests % REQUESTS_PER_CLOCK_READ !== 0) return;
    if (performance.now() >= this.#endMs) this.over = true;
  }

  /** The figures, once nothing is in flight. */
  figures(): Figures {
    const elapsedMs = performance.now() - this.#startMs;
    return {
      iops: this.#requests / elapsedMs * 1e3,
      usPerRequest: elapsedMs * 1e3 / this.#requests,
    };
  }
}
