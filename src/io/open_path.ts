/**
 * Opening a file by its path: the options, as openat(2) wants them.
 *
 * Each option is read once, as it may be a getter, and what is no option of that kind is refused before
 * anything is opened.
 */
import type { IoRequests } from "./io_request.ts";
import { FileOperation, type RequestOptions } from "./operation.ts";

/** How to open a file. */
export interface OpenFileOptions {
  /** For reading; the default where neither this nor `write` is given. */
  read?: boolean;
  /** For writing. */
  write?: boolean;
  /** Makes the file where there is none. */
  create?: boolean;
  /** With `create`: fails where there is one. */
  exclusive?: boolean;
  /** Empties the file. */
  truncate?: boolean;
  /** Writes go to the end, wherever they are told to go. */
  append?: boolean;
  /** Past the page cache (O_DIRECT): memory, offsets and lengths must be aligned to blocks. */
  direct?: boolean;
  /** Writes complete once they are on the disk: with (`true`) or without (`"data"`) metadata. */
  sync?: boolean | "data";
  /** Permissions of a file that is made; 0o666 less the umask where not given. */
  mode?: number;
}

// O_* flags are those of x86-64 and arm64 where they agree; O_DIRECT does not.
const O_WRONLY = 1, O_RDWR = 2, O_CREAT = 0o100, O_EXCL = 0o200, O_TRUNC = 0o1000;
const O_APPEND = 0o2000, O_DSYNC = 0o10000, O_SYNC = 0o4010000, O_CLOEXEC = 0o2000000;
const O_DIRECT = Deno.build.arch === "aarch64" ? 0o200000 : 0o40000;

const AT_FDCWD = -100;
const MODE_MAX = 0o7777, DEFAULT_MODE = 0o666;
const PATH_MAX = 4096;

/**
 * Opens a file.
 *
 * @returns its fd
 */
export async function openPath(
  io: IoRequests,
  path: string | URL,
  options: OpenFileOptions & RequestOptions,
): Promise<number> {
  const len = readMode(options.mode), opFlags = openFlags(options);
  const name = path instanceof URL ? fromFileUrl(path) : path;
  if (typeof name !== "string") {
    throw new TypeError(`Cannot open a file as the path is no string or URL: ${typeof name}`);
  }
  if (name === "" || name.includes("\0")) {
    throw new TypeError(`Cannot open a file as the path is none: ${JSON.stringify(name)}`);
  }
  const bytes = new TextEncoder().encode(`${name}\0`);
  if (bytes.length > PATH_MAX) {
    throw new RangeError(`Cannot open a file as the path has more than ${PATH_MAX - 1} bytes`);
  }
  const memory = io.buffers.borrow(bytes.length);
  memory.set(bytes);
  const words = {
    fd: AT_FDCWD,
    address: io.addressOf(memory),
    len,
    opFlags,
    memory,
    subject: name,
  };
  try {
    return await io.request(FileOperation.openat, null, words, options);
  } finally {
    io.buffers.giveBack(memory);
  }
}

/** Names of the options that are true or false. */
const FLAG_OPTIONS = [
  "read",
  "write",
  "create",
  "exclusive",
  "truncate",
  "append",
  "direct",
] as const;

/** Reads the options, each once. A word misspelt must not open another file than is meant. */
export function readOpenOptions(
  options: OpenFileOptions & RequestOptions,
): OpenFileOptions & RequestOptions {
  if (typeof options !== "object" || options === null) {
    const kind = options === null ? "null" : typeof options;
    throw new TypeError(`Cannot open a file as the options are no object: ${kind}`);
  }
  const read: OpenFileOptions & RequestOptions = {};
  for (const name of FLAG_OPTIONS) {
    const value = options[name];
    if (value !== undefined && typeof value !== "boolean") {
      throw new TypeError(`Cannot open a file as \`${name}\` is not a boolean: ${typeof value}`);
    }
    read[name] = value;
  }
  const { sync, mode, signal } = options;
  if (sync !== undefined && typeof sync !== "boolean" && sync !== "data") {
    const given = typeof sync === "string" ? sync : typeof sync;
    throw new TypeError(`Cannot open a file as \`sync\` is not a boolean or "data": ${given}`);
  }
  return { ...read, sync, mode, signal };
}

function openFlags(options: OpenFileOptions): number {
  const { read, write, create, exclusive, truncate, append, direct, sync } = options;
  const writes = write === true || append === true;
  if ((create === true || truncate === true) && !writes) {
    throw new TypeError("Cannot open a file to create or truncate it without `write`");
  }
  if (exclusive === true && create !== true) {
    throw new TypeError("Cannot open a file with `exclusive` but without `create`");
  }
  return O_CLOEXEC | (writes ? (read === true ? O_RDWR : O_WRONLY) : 0) |
    (create === true ? O_CREAT : 0) | (exclusive === true ? O_EXCL : 0) |
    (truncate === true ? O_TRUNC : 0) | (append === true ? O_APPEND : 0) |
    (direct === true ? O_DIRECT : 0) | (sync === true ? O_SYNC : sync === "data" ? O_DSYNC : 0);
}

function readMode(mode: number | undefined): number {
  if (mode === undefined) return DEFAULT_MODE;
  if (typeof mode !== "number") {
    throw new TypeError(`Cannot open a file as its mode is not a number: ${typeof mode}`);
  }
  if (Number.isInteger(mode) && mode >= 0 && mode <= MODE_MAX) return mode;
  throw new RangeError(`Cannot open a file as its mode is not 0 to 0o7777: ${mode}`);
}

/** The path of a file: URL. */
function fromFileUrl(url: URL): string {
  if (url.protocol !== "file:") {
    throw new TypeError(`Cannot open a file as the URL is not a file: one: ${url.href}`);
  }
  try {
    return decodeURIComponent(url.pathname);
  } catch {
    throw new TypeError(`Cannot open a file as the URL's path is not UTF-8: ${url.href}`);
  }
}
