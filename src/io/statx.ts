/**
 * The answer of statx(2), read out of its 256 bytes.
 *
 * Times are nanoseconds since 1970 as BigInt, as a number has no room for them; all else is a
 * number, exact up to 2 to the power of 53.
 */

/** Bytes of struct statx. */
export const STATX_BYTES = 256;

const STATX_BASIC_STATS = 0x7ff, STATX_BTIME = 0x800, STATX_DIOALIGN = 0x2000;
/** What is asked for. */
export const STATX_MASK = STATX_BASIC_STATS | STATX_BTIME | STATX_DIOALIGN;

/** What is known of a file. */
export interface FileStatus {
  /** Size in bytes. */
  readonly size: number;
  /** Blocks of 512 bytes that it takes on the disk. */
  readonly blocks: number;
  /** Type and permissions, as st_mode. */
  readonly mode: number;
  /** It is a regular file. */
  readonly isFile: boolean;
  /** It is a directory. */
  readonly isDirectory: boolean;
  /** It is a block device. */
  readonly isBlockDevice: boolean;
  /** Number of its inode. */
  readonly inode: number;
  /** Names that it has. */
  readonly links: number;
  /** Who owns it. */
  readonly uid: number;
  /** The group that does. */
  readonly gid: number;
  /** Preferred size of transfers in bytes. */
  readonly blockSize: number;
  /** Last access, in ns since 1970. */
  readonly accessedNs: bigint;
  /** Last change of the data. */
  readonly modifiedNs: bigint;
  /** Last change of data or metadata. */
  readonly changedNs: bigint;
  /** Making of the file; null where the filesystem does not keep it. */
  readonly bornNs: bigint | null;
  /**
   * Alignments in bytes that O_DIRECT wants; null where the kernel (before 6.1) or the filesystem
   * does not say, or has no O_DIRECT.
   */
  readonly directAlignment: { readonly memory: number; readonly offset: number } | null;
}

const S_IFMT = 0o170000, S_IFREG = 0o100000, S_IFDIR = 0o040000, S_IFBLK = 0o060000;

/** Reads struct statx. */
export function readStatx(memory: Uint8Array): FileStatus {
  const view = new DataView(memory.buffer, memory.byteOffset, STATX_BYTES);
  const u32 = (at: number) => view.getUint32(at, true);
  const u64 = (at: number) => Number(view.getBigUint64(at, true));
  const time = (at: number) => view.getBigInt64(at, true) * 1_000_000_000n + BigInt(u32(at + 8));
  const mask = u32(0), mode = view.getUint16(28, true), type = mode & S_IFMT;
  const aligned = (mask & STATX_DIOALIGN) !== 0 && u32(152) !== 0;
  return {
    size: u64(40),
    blocks: u64(48),
    mode,
    isFile: type === S_IFREG,
    isDirectory: type === S_IFDIR,
    isBlockDevice: type === S_IFBLK,
    inode: u64(32),
    links: u32(16),
    uid: u32(20),
    gid: u32(24),
    blockSize: u32(4),
    accessedNs: time(64),
    bornNs: (mask & STATX_BTIME) === 0 ? null : time(80),
    changedNs: time(96),
    modifiedNs: time(112),
    directAlignment: aligned ? { memory: u32(152), offset: u32(156) } : null,
  };
}
