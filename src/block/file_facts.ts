/**
 * What has to be found out about a file before it is served: the blocks that O_DIRECT wants, the size
 * of a disk, whether ranges can be freed, and whether the disk rotates.
 */
import { type AioContext, AioError, type AioFile, type FileStatus } from "../../mod.ts";

/** Blocks that are tried where the kernel does not say; a disk takes one of them. */
const SECTOR_BYTES = 512, PAGE_BYTES = 4096;
const MINOR_BITS = 8, MINOR_MASK = 0xff, MAJOR_MASK = 0xfff;

/** The unit in which a file opened with `direct` is read and written, and memory is aligned. */
export async function findDirectAlignment(
  ctx: AioContext,
  file: AioFile,
  status: FileStatus,
): Promise<number> {
  if (status.directAlignment !== null) {
    const { memory, offset } = status.directAlignment;
    return Math.max(memory, offset, SECTOR_BYTES);
  }
  const sector = ctx.buffers.allocate(SECTOR_BYTES, { alignment: SECTOR_BYTES });
  try {
    await file.read(sector, 0);
    return SECTOR_BYTES;
  } catch (error) {
    if (error instanceof AioError) return PAGE_BYTES;
    throw error;
  }
}

/** The size of a disk, which no status tells. */
export async function findSize(path: string | URL): Promise<number> {
  using file = await Deno.open(path);
  return await file.seek(0, Deno.SeekMode.End);
}

/** Whether the filesystem frees ranges, found out where there is nothing: beyond the end. */
export async function canPunchHoles(
  file: AioFile,
  isFile: boolean,
  size: number,
): Promise<boolean> {
  if (!isFile) return true;
  try {
    await file.fallocate("punch-hole", Math.ceil(size / PAGE_BYTES) * PAGE_BYTES, PAGE_BYTES);
    return true;
  } catch (error) {
    if (error instanceof AioError) return false;
    throw error;
  }
}

/** Whether the system says that the disk of a file rotates; false where it says nothing. */
export async function isRotational(path: string | URL, status: FileStatus): Promise<boolean> {
  try {
    const { dev, rdev } = await Deno.stat(path);
    const device = status.isBlockDevice ? rdev! : dev;
    const major = (device >>> MINOR_BITS) & MAJOR_MASK;
    const minor = (device & MINOR_MASK) | (Math.floor(device / 2 ** 12) & 0xfff00);
    const folder = await Deno.realPath(`/sys/dev/block/${major}:${minor}`);
    // A partition has its disk's folder around its own.
    for (const at of [folder, `${folder}/..`]) {
      const text = await Deno.readTextFile(`${at}/queue/rotational`).catch(() => null);
      if (text !== null) return text.trim() === "1";
    }
  } catch {
    // No disk of its own, as a filesystem in memory has none; or no permission to ask.
  }
  return false;
}
