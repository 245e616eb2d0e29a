/**
 * Opens the two C libraries: the shim of this package and the system's liburing.
 *
 * Opened on first use, never at import, so that importing costs nothing and cannot fail. The user
 * may give an own path by option or environment; otherwise the shim comes out of the package and
 * liburing from where the system's loader finds it. Nothing is downloaded. Whatever goes wrong
 * becomes an AioError that names what was tried, what is missing and the command that gets it.
 *
 * Invariant: a library once opened stays open until the process ends, one per isolate and path.
 * Closing would gain nothing, and calling a symbol afterwards is a crash no one can catch.
 */
import { createHash } from "node:crypto";
import { AioError, Errno } from "./errno.ts";
import { type Liburing, liburingSymbols } from "./liburing_symbols.ts";
import { locateShim, readEnvironment, unpackShim } from "./shim_cache.ts";
import { type Shim, shimSymbols } from "./shim_symbols.ts";

/** Environment variables that give own paths. */
export const LibraryVariable = {
  shim: "AIO_CONTEXT_SHIM",
  liburing: "AIO_CONTEXT_LIBURING",
} as const;

/** The name liburing has had since its first release with a stable interface. */
export const LIBURING_NAME = "liburing.so.2";

const LIBURING_INSTALL = "install it: apt-get install liburing2 (Debian, Ubuntu), " +
  "dnf install liburing (Fedora), pacman -S liburing (Arch), apk add liburing (Alpine)";
const LIBURING_UPDATE = "liburing 2.3 or later is needed; " +
  "update the package liburing2 (Debian, Ubuntu) or liburing (Fedora, Arch, Alpine)";
const SHIM_ELSEWHERE = "name a folder for it with XDG_CACHE_HOME that is writable and not noexec";

/** Own paths of the libraries. */
export interface LibraryOptions {
  /** A shim compiled from shim/, instead of the one in this package. */
  readonly shim?: string;
  /** liburing.so.2 where the system's loader does not find it. */
  readonly liburing?: string;
}

/** Where a library is loaded from and who decided it. */
export interface LibraryOrigin {
  /** Path, or a bare name for the system's loader. */
  readonly path: string;
  readonly origin: "option" | "environment" | "package" | "system";
}

/** Where the shim comes from. */
export interface ShimOrigin extends LibraryOrigin {
  /** sha256 in hexadecimal; undefined where an own file cannot be read. */
  readonly sha256: string | undefined;
}

const shims = new Map<string, Deno.DynamicLibrary<typeof shimSymbols>>();
const liburings = new Map<string, Deno.DynamicLibrary<typeof liburingSymbols>>();

/**
 * The shim, opened now or before.
 *
 * @throws {AioError} when it cannot be had
 */
export function loadShim(options: LibraryOptions = {}): Shim {
  requirePlatform("the shim");
  const own = ownPath("shim", options.shim);
  if (own !== undefined) {
    const { path, origin } = own;
    return open(shims, path, () => Deno.dlopen(path, shimSymbols), {
      thing: `the shim from ${path}`,
      missing: ownPathAdvice("shim", origin),
      outdated: "it was built from another version of shim/: rebuild it",
      folder: undefined,
    });
  }
  const file = locateShimOrFail();
  return open(shims, file.path, () => {
    unpackShim(file);
    return Deno.dlopen(file.path, shimSymbols);
  }, {
    thing: `the shim from ${file.path}`,
    missing: SHIM_ELSEWHERE,
    outdated: "the package is broken: rebuild it with `deno task shim`",
    folder: file.folder,
  });
}

/**
 * liburing, opened now or before.
 *
 * @throws {AioError} when it cannot be had
 */
export function loadLiburing(options: LibraryOptions = {}): Liburing {
  requirePlatform("liburing");
  const { path, origin } = liburingOrigin(options);
  return open(liburings, path, () => Deno.dlopen(path, liburingSymbols), {
    thing: `liburing from ${path}`,
    missing: origin === "system" ? LIBURING_INSTALL : ownPathAdvice("liburing", origin),
    outdated: LIBURING_UPDATE,
    folder: undefined,
  });
}

/** Where `loadShim` with these options takes the shim from; opens and makes nothing. */
export function shimOrigin(options: LibraryOptions = {}): ShimOrigin {
  const own = ownPath("shim", options.shim);
  if (own !== undefined) return { ...own, sha256: hashFile(own.path) };
  const { path, sha256 } = locateShimOrFail();
  return { path, origin: "package", sha256 };
}

/** Where `loadLiburing` with these options takes liburing from; opens nothing. */
export function liburingOrigin(options: LibraryOptions = {}): LibraryOrigin {
  return ownPath("liburing", options.liburing) ?? { path: LIBURING_NAME, origin: "system" };
}

/**
 * The flags that a Deno program lacks, of those that loading needs.
 *
 * @param folder the cache folder, where the shim of the package is used
 */
export function missingPermissions(folder?: string): string[] {
  const flags: string[] = [];
  if (Deno.permissions.querySync({ name: "ffi" }).state !== "granted") flags.push("--allow-ffi");
  if (folder === undefined) return flags;
  for (const name of ["read", "write"] as const) {
    if (Deno.permissions.querySync({ name, path: folder }).state !== "granted") {
      flags.push(`--allow-${name}=${folder}`);
    }
  }
  return flags;
}

/** How failures of one library are worded. */
interface Advice {
  readonly thing: string;
  readonly missing: string;
  readonly outdated: string;
  readonly folder: string | undefined;
}

function open<Symbols>(
  opened: Map<string, { readonly symbols: Symbols }>,
  path: string,
  dlopen: () => { readonly symbols: Symbols },
  advice: Advice,
): Symbols {
  let library = opened.get(path);
  if (library === undefined) {
    try {
      library = dlopen();
    } catch (error) {
      throw explain(error, advice);
    }
    opened.set(path, library);
  }
  return library.symbols;
}

/** Deno reports all failures of dlopen() as plain errors, to be told apart by their text. */
function explain(error: unknown, advice: Advice): AioError {
  const what = `Cannot load ${advice.thing}`;
  const text = error instanceof Error ? error.message : String(error);
  if (error instanceof Deno.errors.NotCapable) {
    // A grant for other paths counts as missing here, so the text is never without a flag.
    const flags = missingPermissions(advice.folder).join(" ") || text;
    return new AioError(what, "dlopen", Errno.EACCES, `run Deno with ${flags}`);
  }
  if (text.startsWith("Failed to register symbol")) {
    const symbol = /register symbol (\w+)/.exec(text)?.[1];
    return new AioError(what, "dlopen", Errno.ELIBBAD, `it has no ${symbol}: ${advice.outdated}`);
  }
  const reason = text.replace(/^(Could not open library: )+/, "");
  return new AioError(what, "dlopen", Errno.ELIBACC, `${reason}; ${advice.missing}`);
}

function locateShimOrFail(): ReturnType<typeof locateShim> {
  try {
    return locateShim();
  } catch (error) {
    const advice = { thing: "the shim", missing: SHIM_ELSEWHERE, outdated: "", folder: undefined };
    throw explain(error, advice);
  }
}

function ownPath(
  library: keyof typeof LibraryVariable,
  option: string | undefined,
): { path: string; origin: "option" | "environment" } | undefined {
  if (option !== undefined) return { path: option, origin: "option" };
  const path = readEnvironment(LibraryVariable[library]);
  return path === undefined ? undefined : { path, origin: "environment" };
}

function ownPathAdvice(library: keyof typeof LibraryVariable, origin: string): string {
  return origin === "option"
    ? `correct the option \`${library}\` or leave it out`
    : `correct the environment variable ${LibraryVariable[library]} or unset it`;
}

function requirePlatform(thing: string): void {
  const { os, arch } = Deno.build;
  if (os === "linux") return;
  throw new AioError(
    `Cannot load ${thing} on ${os}`,
    "dlopen",
    Errno.EOPNOTSUPP,
    `AioContext needs Linux on x86-64 or arm64, and this is ${os} on ${arch}`,
  );
}

function hashFile(path: string): string | undefined {
  try {
    return createHash("sha256").update(Deno.readFileSync(path)).digest("hex");
  } catch {
    // Not readable, not permitted or a bare name: the hash is for information only.
    return undefined;
  }
}
