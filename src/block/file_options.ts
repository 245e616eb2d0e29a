/**
 * How a file is opened as a block device: the options, and what they mean where they are checked.
 */

/** How to open a file as a device. */
export interface FileBlockDeviceOptions {
  /** Nothing can be changed. */
  readonly readOnly?: boolean;
  /** Past the page cache (O_DIRECT). */
  readonly direct?: boolean;
  /** `trim` and `zero` free space; true where not given. */
  readonly discard?: boolean;
  /**
   * When a write is settled. `"writeback"`: when the system has it, and `flush` or `fua` put it on
   * the disk; the default. `"writethrough"`: when it is on the disk. `"none"`: as `"writeback"`,
   * with `direct`. `"unsafe"`: as `"writeback"`, but `flush` and `fua` do nothing, so a loss of power
   * may take everything.
   */
  readonly cache?: FileCache;
}

/** When a write is settled; see `FileBlockDeviceOptions.cache`. */
export type FileCache = "writeback" | "writethrough" | "none" | "unsafe";

const CACHES: readonly unknown[] = ["writeback", "writethrough", "none", "unsafe"];

/** Whether reads and writes go past the page cache. */
export function isDirect({ direct, cache }: FileBlockDeviceOptions): boolean {
  return direct === true || cache === "none";
}

/** Checks the options, each read once. */
export function readOptions(options: FileBlockDeviceOptions): FileBlockDeviceOptions {
  if (typeof options !== "object" || options === null) {
    throw new TypeError(`Cannot open a device as the options are no object: ${String(options)}`);
  }
  const { readOnly, direct, discard, cache } = options;
  for (const [name, value] of Object.entries({ readOnly, direct, discard })) {
    if (value === undefined || typeof value === "boolean") continue;
    throw new TypeError(`Cannot open a device as \`${name}\` is not a boolean: ${typeof value}`);
  }
  if (cache !== undefined && !CACHES.includes(cache)) {
    const given = typeof cache === "string" ? cache : typeof cache;
    throw new TypeError(
      `Cannot open a device as \`cache\` is none of ${CACHES.join(", ")}: ${given}`,
    );
  }
  return { readOnly, direct, discard, cache };
}
