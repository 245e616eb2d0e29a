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
const LIBURING_NEEDED = "liburing 2.3 or later is needed";
const LIBURING_UPDATE = `${LIBURING_NEEDED}: ` +
  "update the package liburing2 (Debian, Ubuntu) or liburing (Fedora, Arch, Alpine)";
const SHIM_ELSEWHERE = "name a folder for it with XDG_CACHE_HOME that is writable and not noexec";

/** Stands for the cache folder where naming it takes a permission that is missing. */
const ANY_FOLDER = "/";

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
  /** sha256 of the one in the package, in hexadecimal; undefined of others. */
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
    const missing = ownPathAdvice("shim", origin);
    return open(shims, path, () => Deno.dlopen(path, shimSymbols), {
      library: "the shim",
      missing,
      outdated: `build it from shim/ of this version, or ${missing}`,
    });
  }
  const file = locateShimOrFail();
  return open(shims, file.path, () => {
    unpackShim(file);
    return Deno.dlopen(file.path, shimSymbols);
  }, {
    library: "the shim",
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
  const system = origin === "system";
  const missing = system ? LIBURING_INSTALL : ownPathAdvice("liburing", origin);
  return open(liburings, path, () => Deno.dlopen(path, liburingSymbols), {
    library: "liburing",
    missing,
    outdated: system ? LIBURING_UPDATE : `${LIBURING_NEEDED}; ${missing}`,
  });
}

/** Where `loadShim` with these options takes the shim from; opens and makes nothing. */
export function shimOrigin(options: LibraryOptions = {}): ShimOrigin {
  const own = ownPath("shim", options.shim);
  if (own !== undefined) return { ...own, sha256: undefined };
  const { path, sha256 } = locateShimOrFail();
  return { path, origin: "package", sha256 };
}

/** Where `loadLiburing` with these options takes liburing from; opens nothing. */
export function liburingOrigin(options: LibraryOptions = {}): LibraryOrigin {
  return ownPath("liburing", options.liburing) ?? { path: LIBURING_NAME, origin: "system" };
}

/** The flags that a Deno program lacks, of those that loading both libraries needs. */
export function missingPermissions(options: LibraryOptions = {}): string[] {
  if (ownPath("shim", options.shim) !== undefined) return missingFlags(undefined);
  try {
    return missingFlags(locateShim().folder);
  } catch {
    return missingFlags(ANY_FOLDER);
  }
}

/** @param folder the cache folder, where the shim of the package is used */
function missingFlags(folder: string | undefined): string[] {
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
  readonly library: "the shim" | "liburing";
  readonly missing: string;
  readonly outdated: string;
  /** The cache folder, where the library has to be unpacked first. */
  readonly folder?: string;
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
      throw explain(error, advice, path);
    }
    opened.set(path, library);
  }
  return library.symbols;
}

/** Deno reports all failures of dlopen() as plain errors, to be told apart by their text. */
function explain(error: unknown, advice: Advice, path?: string): AioError {
  const what = `Cannot load ${advice.library}${path === undefined ? "" : ` from ${path}`}`;
  const text = error instanceof Error ? error.message : String(error);
  const flags = missingFlags(advice.folder).join(" ");
  // Under a grant for paths Deno looks for a bare name in the working folder alone.
  const misplaced = flags !== "" && path?.includes("/") === false;
  if (error instanceof Deno.errors.NotCapable || misplaced) {
    // No flag is missing where one of them denies a path.
    const remedy = flags === "" ? text : `run Deno with ${flags}`;
    return new AioError(what, "dlopen", Errno.EACCES, remedy);
  }
  if (text.startsWith("Failed to register symbol")) {
    const symbol = /register symbol (\w+)/.exec(text)?.[1];
    return new AioError(what, "dlopen", Errno.ELIBBAD, `it has no ${symbol}; ${advice.outdated}`);
  }
  const reason = text.replace(/^(Could not open library: )+/, "");
  // The loader names the file it means, which need not be this one.
  const short = reason.startsWith(`${path}: `) ? reason.slice(path!.length + 2) : reason;
  return new AioError(what, "dlopen", Errno.ELIBACC, `${short}; ${advice.missing}`);
}

function locateShimOrFail(): ReturnType<typeof locateShim> {
  try {
    return locateShim();
  } catch (error) {
    throw explain(error, {
      library: "the shim",
      missing: SHIM_ELSEWHERE,
      outdated: "",
      folder: ANY_FOLDER,
    });
  }
}

function ownPath(
  library: keyof typeof LibraryVariable,
  option: string | undefined,
): { path: string; origin: "option" | "environment" } | undefined {
  if (option !== undefined) {
    // dlopen() takes an empty path for the program itself and stops reading at a NUL.
    if (typeof option !== "string" || option === "" || option.includes("\0")) {
      throw new TypeError(
        `Cannot use the option \`${library}\` as it is not a path: ${Deno.inspect(option)}`,
      );
    }
    return { path: option, origin: "option" };
  }
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
