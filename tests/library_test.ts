/** Loading the two libraries: own paths, and errors that name what was tried and what to do. */
import { assertEquals, assertMatch, assertThrows } from "@std/assert";
import { type LibraryOptions, loadLiburing, loadShim } from "../ffi/library.ts";
import { liburingSymbols } from "../ffi/liburing_symbols.ts";
import { shimPrebuilt } from "../ffi/shim_prebuilt.ts";
import { shimSymbols } from "../ffi/shim_symbols.ts";
import { AioError } from "../mod.ts";
import { type Environment, importLine, newFolder, programWords, run } from "./child.ts";
import { compileLibrary } from "./compile.ts";

/** One library and how its errors are worded. */
interface Subject {
  readonly name: "shim" | "liburing";
  readonly thing: string;
  readonly variable: string;
  readonly symbols: readonly string[];
  readonly load: (options: LibraryOptions) => unknown;
  /** What an own library that lacks a symbol calls for. */
  readonly outdated: string;
}

const SUBJECTS: readonly Subject[] = [
  {
    name: "shim",
    thing: "the shim",
    variable: "AIO_CONTEXT_SHIM",
    symbols: Object.keys(shimSymbols),
    load: loadShim,
    outdated: "build it from shim/ of this version, or ",
  },
  {
    name: "liburing",
    thing: "liburing",
    variable: "AIO_CONTEXT_LIBURING",
    symbols: Object.keys(liburingSymbols),
    load: loadLiburing,
    outdated: "liburing 2.3 or later is needed; ",
  },
];

const ENOENT = "cannot open shared object file: No such file or directory";

/** Loads both with the options given as JSON; prints what happens, then the own files mapped. */
const LOAD = `${importLine("loadLiburing, loadShim", "ffi/library.ts")}
const options = JSON.parse(Deno.args[0] ?? "{}");
for (const load of [loadShim, loadLiburing]) {
  try {
    load(options);
    console.log("loaded");
  } catch (error) {
    console.log(error.name + " " + error.code + ": " + error.message);
  }
}
let maps = "";
try {
  maps = Deno.readTextFileSync("/proc/self/maps");
} catch {
  // Takes all permissions.
}
console.log([...new Set(maps.match(/\\/\\S*own_\\w+\\.so/g))].sort().join(" "));`;

async function loadBoth(
  { options = {}, env = {}, permissions }: {
    options?: LibraryOptions;
    env?: Environment;
    permissions?: readonly string[];
  },
): Promise<{ shim: string; liburing: string; mapped: string }> {
  const words = [...programWords(LOAD, permissions), JSON.stringify(options)];
  const { code, stdout, stderr } = await run(words, env);
  assertEquals([code, stderr], [0, ""]);
  const [shim, liburing, mapped] = stdout.split("\n");
  return { shim, liburing, mapped };
}

/** Copies of both libraries under names of their own. */
function ownLibraries(): Required<LibraryOptions> {
  const folder = newFolder();
  const shim = `${folder}/own_shim.so`, liburing = `${folder}/own_liburing.so`;
  const { base64 } = shimPrebuilt.builds[Deno.build.arch];
  Deno.writeFileSync(shim, Uint8Array.fromBase64(base64));
  loadLiburing();
  const maps = Deno.readTextFileSync("/proc/self/maps");
  Deno.copyFileSync(/\/\S*liburing\.so\S*/.exec(maps)![0], liburing);
  return { shim, liburing };
}

Deno.test("loadShim, loadLiburing: own paths by option, which wins over the environment", async () => {
  const own = ownLibraries();
  const nowhere = { AIO_CONTEXT_SHIM: "/nonexistent", AIO_CONTEXT_LIBURING: "/nonexistent" };
  for (const env of [{}, nowhere]) {
    assertEquals(await loadBoth({ options: own, env }), {
      shim: "loaded",
      liburing: "loaded",
      mapped: `${own.liburing} ${own.shim}`,
    });
  }
});

Deno.test("loadShim, loadLiburing: own paths by environment, where it may be read", async () => {
  const own = ownLibraries();
  const env = { AIO_CONTEXT_SHIM: own.shim, AIO_CONTEXT_LIBURING: own.liburing };
  const loaded = { shim: "loaded", liburing: "loaded" };
  assertEquals(await loadBoth({ env }), { ...loaded, mapped: `${own.liburing} ${own.shim}` });
  const permissions = ["--allow-env=TMPDIR", "--allow-ffi", "--allow-read", "--allow-write"];
  const nowhere = {
    AIO_CONTEXT_SHIM: "/nonexistent",
    AIO_CONTEXT_LIBURING: "/nonexistent",
    TMPDIR: newFolder(),
  };
  assertEquals(await loadBoth({ env: nowhere, permissions }), { ...loaded, mapped: "" });
});

for (const { name, thing, load, variable, symbols, outdated } of SUBJECTS) {
  const byOption = `correct the option \`${name}\` or leave it out`;
  const byVariable = `correct the environment variable ${variable} or unset it`;

  const refuse = (path: string, code: string, reason: string) => {
    const error = assertThrows(() => load({ [name]: path }), AioError);
    assertEquals(
      error.message,
      `Cannot load ${thing} from ${path} as dlopen failed: ${code} (${reason}${byOption})`,
    );
    assertEquals([error.code, error.syscall], [code, "dlopen"]);
  };

  Deno.test(`${load.name}: a missing file is an error that names it`, () => {
    refuse("/nonexistent/own.so", "ELIBACC", `${ENOENT}; `);
    refuse("./nonexistent.so", "ELIBACC", `${ENOENT}; `);
    refuse("nonexistent.so", "ELIBACC", `${ENOENT}; `);
  });

  Deno.test(`${load.name}: a file that is no library is an error that says so`, () => {
    const folder = newFolder();
    Deno.writeTextFileSync(`${folder}/short.so`, "no library");
    Deno.writeTextFileSync(`${folder}/long.so`, "no library".repeat(1000));
    refuse(`${folder}/short.so`, "ELIBACC", "file too short; ");
    refuse(`${folder}/long.so`, "ELIBACC", "invalid ELF header; ");
    refuse(folder, "ELIBACC", "cannot read file data: Is a directory; ");
  });

  Deno.test(`${load.name}: a library without one of the symbols is an error that names it`, async () => {
    for (const lacking of symbols) {
      const others = symbols.filter((symbol) => symbol !== lacking);
      const path = await compileLibrary(others.map((symbol) => `int ${symbol};`).join("\n"));
      refuse(path, "ELIBBAD", `it has no ${lacking}; ${outdated}`);
    }
  });

  Deno.test(`${load.name}: a library that needs a missing one is an error that names that`, async () => {
    const needed = await compileLibrary("int needed;");
    const path = await compileLibrary("extern int needed; int *use = &needed;", [needed]);
    Deno.removeSync(needed);
    refuse(path, "ELIBACC", `${needed}: ${ENOENT}; `);
  });

  Deno.test(`${load.name}: an own path that is no path is a TypeError`, () => {
    for (const path of ["", "/lib\0", 7, null, {}]) {
      assertThrows(
        () => load({ [name]: path as string }),
        TypeError,
        `Cannot use the option \`${name}\` as it is not a path: ${Deno.inspect(path)}`,
      );
    }
  });

  Deno.test(`${load.name}: a wrong path in the environment is an error that names the variable`, async () => {
    const printed = await loadBoth({ env: { [variable]: "/nonexistent" } });
    assertEquals(
      printed[name],
      `AioError ELIBACC: Cannot load ${thing} from /nonexistent as dlopen failed: ELIBACC ` +
        `(${ENOENT}; ${byVariable})`,
    );
    assertEquals(printed[name === "shim" ? "liburing" : "shim"], "loaded");
  });

  Deno.test({
    name: `${load.name}: a failure is not remembered, a library that is open is`,
    // The library stays open until the process ends.
    sanitizeResources: false,
    fn() {
      const own = ownLibraries();
      const path = `${newFolder()}/later.so`;
      assertThrows(() => load({ [name]: path }), AioError, ENOENT);
      Deno.renameSync(own[name], path);
      const symbols = load({ [name]: path });
      Deno.removeSync(path);
      assertEquals(load({ [name]: path }), symbols);
    },
  });
}

Deno.test("loadLiburing: where the system has none, the error says how to install it", async () => {
  const folder = newFolder();
  // The loader looks into this folder first and gives up at a file of that name.
  Deno.writeTextFileSync(`${folder}/liburing.so.2`, "");
  const { shim, liburing } = await loadBoth({ env: { LD_LIBRARY_PATH: folder } });
  assertEquals(shim, "loaded");
  assertEquals(
    liburing,
    "AioError ELIBACC: Cannot load liburing from liburing.so.2 as dlopen failed: ELIBACC " +
      `(${folder}/liburing.so.2: file too short; install it: ` +
      "apt-get install liburing2 (Debian, Ubuntu), dnf install liburing (Fedora), " +
      "pacman -S liburing (Arch), apk add liburing (Alpine))",
  );
});

Deno.test("loadLiburing: an old one of the system is an error that says what to update", async () => {
  const folder = newFolder();
  const symbols = Object.keys(liburingSymbols).filter((symbol) => symbol !== "io_uring_enter2");
  const old = await compileLibrary(symbols.map((symbol) => `int ${symbol};`).join("\n"));
  Deno.renameSync(old, `${folder}/liburing.so.2`);
  const { liburing } = await loadBoth({ env: { LD_LIBRARY_PATH: folder } });
  assertEquals(
    liburing,
    "AioError ELIBBAD: Cannot load liburing from liburing.so.2 as dlopen failed: ELIBBAD " +
      "(it has no io_uring_enter2; liburing 2.3 or later is needed: update the package " +
      "liburing2 (Debian, Ubuntu) or liburing (Fedora, Arch, Alpine))",
  );
});

Deno.test("loadLiburing: under a grant for paths the error names the flag, not the package", async () => {
  const { liburing } = await loadBoth({
    permissions: ["--allow-env=TMPDIR", "--allow-ffi=liburing.so.2"],
  });
  assertEquals(
    liburing,
    "AioError EACCES: Cannot load liburing from liburing.so.2 as dlopen failed: EACCES " +
      "(run Deno with --allow-ffi)",
  );
});

/** Grants that are not enough, and the flags that each leaves missing of FFI, READ and WRITE. */
const GRANTS: readonly [granted: readonly string[], missing: readonly string[]][] = [
  [["--allow-env"], ["--allow-ffi", "--allow-read=FOLDER", "--allow-write=FOLDER"]],
  [["--allow-env", "--allow-ffi"], ["--allow-read=FOLDER", "--allow-write=FOLDER"]],
  [["--allow-env", "--allow-ffi", "--allow-read"], ["--allow-write=FOLDER"]],
  [["--allow-env", "--allow-ffi", "--allow-write"], ["--allow-read=FOLDER"]],
  [["--allow-env", "--allow-read", "--allow-write"], ["--allow-ffi"]],
  [["--allow-env", "--allow-read", "--allow-write", "--allow-ffi=/nonexistent"], ["--allow-ffi"]],
];

Deno.test("loadShim: without a permission the error names the flags, and those are enough", async (t) => {
  for (const [granted, missing] of GRANTS) {
    await t.step(granted.join(" "), async () => {
      const cache = newFolder(), folder = `${cache}/aio-context`;
      const env = { XDG_CACHE_HOME: cache };
      const flags = missing.map((flag) => flag.replace("FOLDER", folder));
      const { shim } = await loadBoth({ env, permissions: granted });
      assertMatch(
        shim,
        /^AioError EACCES: Cannot load the shim from \S+ as dlopen failed: EACCES /,
      );
      assertEquals(shim.slice(shim.indexOf("(")), `(run Deno with ${flags.join(" ")})`);
      const kept = granted.filter((flag) => !flag.startsWith("--allow-ffi="));
      const after = await loadBoth({ env, permissions: [...kept, ...flags] });
      assertEquals([after.shim, after.liburing], ["loaded", "loaded"]);
    });
  }
});

Deno.test("loadShim: where the cache folder cannot be named the flags are enough too", async () => {
  // Its name contains the user's number, which takes --allow-ffi.
  const env = { TMPDIR: newFolder() };
  const granted = ["--allow-env=TMPDIR"];
  const { shim, liburing } = await loadBoth({ env, permissions: granted });
  const start = (thing: string) =>
    `AioError EACCES: Cannot load ${thing} as dlopen failed: EACCES `;
  assertEquals(
    shim,
    `${start("the shim")}(run Deno with --allow-ffi --allow-read=/ --allow-write=/)`,
  );
  assertEquals(liburing, `${start("liburing from liburing.so.2")}(run Deno with --allow-ffi)`);
  const permissions = [...granted, "--allow-ffi", "--allow-read=/", "--allow-write=/"];
  const after = await loadBoth({ env, permissions });
  assertEquals([after.shim, after.liburing], ["loaded", "loaded"]);
});
