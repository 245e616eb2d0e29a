/** A block device in memory, whose operations a test can hold back or have fail. */
import { AioError } from "../mod.ts";
import type { BlockDevice, BlockExtent } from "../src/virtio/mod.ts";

/** Bytes in memory as a block device. */
export class TestDevice implements BlockDevice {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly blockSize: number = 512;
  readonly preferredBlockSize = 4096;
  readOnly = false;
  readonly rotational = false;
  canTrim = true;
  readonly canZeroFast = true;
  readonly sparse = false;
  /** What was done: as `"write 512+1024 fua"`. */
  readonly log: string[] = [];
  /** errno that operations fail with; 0: none. */
  errno = 0;
  /** Operations wait for this. */
  gate: Promise<void> | null = null;
  /** Operations that have begun and not ended. */
  running = 0;
  /** Reads without waiting, for tests that want it. */
  tryRead?: BlockDevice["tryRead"];

  constructor(readonly size: number) {
    this.bytes = new Uint8Array(size);
  }

  read(buffers: readonly Uint8Array[], offset: number): Promise<void> {
    const length = lengthOf(buffers);
    return this.#do(`read ${offset}+${length}`, offset, length, () => {
      let at = offset;
      for (const buffer of buffers) {
        buffer.set(this.bytes.subarray(at, at + buffer.length));
        at += buffer.length;
      }
    });
  }

  write(buffers: readonly Uint8Array[], offset: number, options = {}): Promise<void> {
    const length = lengthOf(buffers);
    return this.#do(`write ${offset}+${length}${words(options)}`, offset, length, () => {
      let at = offset;
      for (const buffer of buffers) {
        this.bytes.set(buffer, at);
        at += buffer.length;
      }
    });
  }

  flush(): Promise<void> {
    return this.#do("flush", 0, 0, () => {});
  }

  trim(offset: number, length: number, options = {}): Promise<void> {
    return this.#do(`trim ${offset}+${length}${words(options)}`, offset, length, () => {
      this.bytes.fill(0xdd, offset, offset + length);
    });
  }

  zero(offset: number, length: number, options = {}): Promise<void> {
    return this.#do(`zero ${offset}+${length}${words(options)}`, offset, length, () => {
      this.bytes.fill(0, offset, offset + length);
    });
  }

  extents(_offset: number, length: number): Promise<BlockExtent[]> {
    return Promise.resolve([{ length, hole: false, zero: false }]);
  }

  cache(): Promise<void> {
    return Promise.resolve();
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  async #do(what: string, offset: number, length: number, action: () => void): Promise<void> {
    this.log.push(what);
    if (offset + length > this.size || offset % this.blockSize !== 0) {
      throw new Error(`assertion failed: ${what} of ${this.size} bytes`);
    }
    this.running++;
    try {
      if (this.gate !== null) await this.gate;
      if (this.errno !== 0) throw new AioError(`Cannot ${what}`, "test", this.errno);
      action();
    } finally {
      this.running--;
    }
  }
}

function lengthOf(buffers: readonly Uint8Array[]): number {
  return buffers.reduce((sum, { length }) => sum + length, 0);
}

function words(options: Readonly<Record<string, unknown>>): string {
  return Object.entries(options).filter(([, value]) => value === true)
    .map(([name]) => ` ${name}`).join("");
}
