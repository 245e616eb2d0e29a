/**
 * Shared memory as bytes and as words: one set of views for all rings and records that lie in it.
 *
 * A view of its own for each part of each ring would be a tenth of a kilobyte each, for thousands of
 * rings that are idle.
 */
export class MemoryViews {
  readonly buffer: SharedArrayBuffer;
  readonly bytes: Uint8Array<SharedArrayBuffer>;
  /** 16-bit words. */
  readonly halves: Uint16Array<SharedArrayBuffer>;
  /** 32-bit words. */
  readonly words: Uint32Array<SharedArrayBuffer>;

  /** @param buffer a multiple of 4 bytes long */
  constructor(buffer: SharedArrayBuffer) {
    this.buffer = buffer;
    this.bytes = new Uint8Array(buffer);
    this.halves = new Uint16Array(buffer);
    this.words = new Uint32Array(buffer);
  }
}
