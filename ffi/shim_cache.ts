/**
 * Turns the compiled shim inside the package into a file that the system can load.
 *
 * A module loaded from JSR has no files beside it and dlopen() wants one, so the bytes are written
 * to the user's cache folder on first use, under a name that contains their hash. Invariant: a
 * file under its final name is complete and never written again. It is made under a temporary name
 * and moved there, so two processes may do it at once, and a damaged file is replaced without
 * touching the one that another process has mapped. Opening the file is left to ffi/library.ts.
 */
import { shimPrebuilt } from "./shim_prebuilt.ts";

const FOLDER_NAME = "aio-context";
const FOLDER_MODE = 0o700;
const FILE_MODE = 0o600;
/** Bits of a mode that let others write. */
const OTHERS_WRITE = 0o022;
/** Hexadecimal digits of the hash in the file's name: 64 bits, enough to tell builds apart. */
const NAME_DIGITS = 16;

/** Where the shim of this package is, or will be, in the file system. */
export interface ShimFile {
  readonly path: string;
  readonly folder: string;
  /** sha256 of the library, in hexadecimal. */
  readonly sha256: string;
}

/** An environment variable; undefined where it is unset, empty or not permitted to be read. */
export function readEnvironment(variable: string): string | undefined {
  // Asking the user about a variable that has a default would be a nuisance: never prompt.
  if (Deno.permissions.querySync({ name: "env", variable }).state !== "granted") return undefined;
  return Deno.env.get(variable) || undefined;
}

/** Names the file for this machine; makes nothing. */
export function locateShim(): ShimFile {
  const { sha256 } = shimPrebuilt.builds[Deno.build.arch];
  const folder = cacheFolder();
  const path = `${folder}/shim-${sha256.slice(0, NAME_DIGITS)}-${Deno.build.arch}.so`;
  return { path, folder, sha256 };
}

/**
 * Makes sure the file holds exactly the shim of this package.
 *
 * @throws {Deno.errors.NotCapable} and other errors of the file system
 */
export function unpackShim({ path, folder }: ShimFile): void {
  const bytes = Uint8Array.fromBase64(shimPrebuilt.builds[Deno.build.arch].base64);
  Deno.mkdirSync(folder, { recursive: true, mode: FOLDER_MODE });
  requireOwnFolder(folder);
  if (holdsExactly(path, bytes)) return;
  const temporary = `${path}.${crypto.randomUUID()}`;
  try {
    Deno.writeFileSync(temporary, bytes, { createNew: true, mode: FILE_MODE });
    Deno.renameSync(temporary, path);
  } catch (error) {
    removeIfPresent(temporary);
    throw error;
  }
}

function cacheFolder(): string {
  const xdg = readEnvironment("XDG_CACHE_HOME");
  // The XDG specification wants relative paths ignored.
  if (xdg?.startsWith("/")) return `${xdg}/${FOLDER_NAME}`;
  const home = readEnvironment("HOME");
  if (home !== undefined) return `${home}/.cache/${FOLDER_NAME}`;
  return `${readEnvironment("TMPDIR") ?? "/tmp"}/${FOLDER_NAME}-${userId()}`;
}

/** Deno.uid() would need one more permission; whoever loads the shim may call C anyway. */
function userId(): number {
  const libc = Deno.dlopen("libc.so.6", { geteuid: { parameters: [], result: "u32" } });
  try {
    return libc.symbols.geteuid();
  } finally {
    libc.close();
  }
}

/** In a shared temporary folder somebody else could have made ours first, to plant a library. */
function requireOwnFolder(folder: string): void {
  const { isDirectory, mode, uid } = Deno.lstatSync(folder);
  if (isDirectory && (mode! & OTHERS_WRITE) === 0 && uid === userId()) return;
  throw new Error(
    `${folder} is not a folder that only this user can write: user ${uid}, ` +
      `mode ${(mode! & 0o7777).toString(8)}; make it one or remove it`,
  );
}

function holdsExactly(path: string, bytes: Uint8Array): boolean {
  let found: Uint8Array;
  try {
    found = Deno.readFileSync(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
  return found.length === bytes.length && found.every((byte, index) => byte === bytes[index]);
}

function removeIfPresent(path: string): void {
  try {
    Deno.removeSync(path);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}
