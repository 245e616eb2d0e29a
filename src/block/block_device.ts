/**
 * What a storage server serves: a run of bytes that is read and written at offsets.
 *
 * The NBD server and the vhost-user back end take any object of this kind; a file is one
 * (file_block_device.ts), memory another (memory_block_device.ts). The server checks what its
 * client asks for; the device never sees a range beyond its end, one that is not of whole blocks, a
 * write where it is read-only, or an operation whose flag is false. Several operations may go on at
 * once, on ranges that overlap too: then each byte is what one of them made it.
 */

/** Options of operations that change what is stored. */
export interface BlockWriteOptions {
  /** Settle only when the change survives a loss of power (force unit access). */
  readonly fua?: boolean;
}

/** Options of `zero`. */
export interface BlockZeroOptions extends BlockWriteOptions {
  /** Keep the space allocated. */
  readonly noHole?: boolean;
  /** Fail with EOPNOTSUPP at once where it would be no faster than writing zeros. */
  readonly fast?: boolean;
}

/** A part of a device and what is in it. */
export interface BlockExtent {
  /** Bytes from the end of the extent before, or from the offset asked for. */
  readonly length: number;
  /** No space is allocated for it. */
  readonly hole: boolean;
  /** It reads as zeros. */
  readonly zero: boolean;
}

/**
 * A device. Offsets and lengths are bytes; each promise is rejected with an AioError that carries the
 * errno, of which servers tell their clients. Buffers belong to the device until it settles.
 */
export interface BlockDevice {
  /** Its size in bytes, a whole number of blocks. */
  readonly size: number;
  /** Smallest unit of offsets and lengths in bytes: a power of two, 1 to 65,536. */
  readonly blockSize: number;
  /** Unit that is fastest. */
  readonly preferredBlockSize: number;
  /** Nothing can be changed. */
  readonly readOnly: boolean;
  /** It is on a disk whose head moves. */
  readonly rotational: boolean;
  /** `trim` does something. */
  readonly canTrim: boolean;
  /** `zero` with `fast` can succeed. */
  readonly canZeroFast: boolean;
  /** There may be holes, so that `extents` before a long read may save most of it. */
  readonly sparse: boolean;

  /**
   * Fills buffers, one after the other, from an offset on.
   *
   * @param buffers memory of ctx.buffers, or any other, which is copied
   */
  read(buffers: readonly Uint8Array[], offset: number): Promise<void>;

  /**
   * Fills memory at once if that takes no waiting, as where it is cached. Where a device has it,
   * VhostUserBlk answers with it, without a promise.
   *
   * @param memory any memory; it is used during the call alone
   * @param start where in the memory, in bytes
   * @returns false when nothing is done and `read` has to be called
   * @throws {Error} only for a mistake of the caller, as a closed device
   */
  tryRead?(memory: Uint8Array, start: number, length: number, offset: number): boolean;

  /** Writes buffers, one after the other, from an offset on. */
  write(buffers: readonly Uint8Array[], offset: number, options?: BlockWriteOptions): Promise<void>;

  /** Settles when all writes that were settled before it was called survive a loss of power. */
  flush(): Promise<void>;

  /** Says that the content of a range is not needed any more; what it reads as is not promised. */
  trim(offset: number, length: number, options?: BlockWriteOptions): Promise<void>;

  /** Makes a range read as zeros. */
  zero(offset: number, length: number, options?: BlockZeroOptions): Promise<void>;

  /**
   * Finds out what is allocated.
   *
   * @param countMax most extents that are of use
   * @returns at least one extent, from the offset on; together they may end before the length asked
   *   for, and the last may reach beyond it
   */
  extents(offset: number, length: number, countMax: number): Promise<BlockExtent[]>;

  /** Has a range read ahead into the cache, as far as there is one. */
  cache(offset: number, length: number): Promise<void>;

  /** Gives everything back to the system, once all operations are settled. */
  close(): Promise<void>;
}
