/** The shim in the user's cache folder: unpacked once, replaced when damaged, never in danger. */
import { assert, assertEquals, assertMatch, assertNotEquals, assertThrows } from "@std/assert";
import { type ShimFile, unpackShim } from "../ffi/shim_cache.ts";
import { shimPrebuilt } from "../ffi/shim_prebuilt.ts";
import { after, type Environment, importLine, newFolder, programWords, run } from "./child.ts";
import { afterMounts, testWithMounts } from "./mounts.ts";

const PROCESSES = 8;
const BUILD = shimPrebuilt.builds[Deno.build.arch];
const NAME = `shim-${BUILD.sha256.slice(0, 16)}-${Deno.build.arch}.so`;
const ADVICE = "name a folder for it with XDG_CACHE_HOME that is writable and not noexec";

/** Loads the shim and calls it; prints what it says, or the error. */
const LOAD = programWords(`${importLine("loadShim", "ffi/library.ts")}
try {
  console.log(loadShim().aio_now() > 0 ? "works" : "no time");
} catch (error) {
  console.log(error.name + ": " + error.message);
}`);

/** Prints where the shim would be. */
const LOCATE = programWords(
  `${importLine("locateShim", "ffi/shim_cache.ts")} console.log(locateShim().path);`,
);

async function print(words: readonly string[], env: Environment): Promise<string> {
  const { code, stdout, stderr } = await run(words, env);
  assertEquals([code, stderr], [0, ""]);
  return stdout.trimEnd();
}

function fileIn(folder: string): ShimFile {
  return { path: `${folder}/${NAME}`, folder, sha256: BUILD.sha256 };
}

function filesIn(folder: string): string[] {
  return Array.from(Deno.readDirSync(folder), ({ name }) => name);
}

function modeOf(path: string): string {
  return (Deno.lstatSync(path).mode! & 0o7777).toString(8);
}

for (const umask of ["000", "022", "077"]) {
  Deno.test(`loadShim: unpacks on first use for this user alone, umask ${umask}`, async () => {
    const cache = `${newFolder()}/made/on/demand`;
    const words = after(`umask ${umask}`, LOAD);
    assertEquals(await print(words, { XDG_CACHE_HOME: cache }), "works");
    const folder = `${cache}/aio-context`;
    assertEquals(filesIn(folder), [NAME]);
    assertEquals([modeOf(folder), modeOf(`${folder}/${NAME}`)], ["700", "600"]);
    assertEquals(
      Deno.readFileSync(`${folder}/${NAME}`).toBase64(),
      BUILD.base64.replace(/\s/g, ""),
    );
  });
}

Deno.test("unpackShim: leaves a good file as it is", () => {
  const file = fileIn(`${newFolder()}/cache`);
  unpackShim(file);
  const before = Deno.statSync(file.path);
  unpackShim(file);
  const { ino, mtime, ctime } = Deno.statSync(file.path);
  assertEquals([ino, mtime, ctime], [before.ino, before.mtime, before.ctime]);
});

const DAMAGES: Readonly<Record<string, (bytes: Uint8Array) => Uint8Array>> = {
  "empty": () => new Uint8Array(),
  "cut short": (bytes) => bytes.subarray(0, bytes.length - 1),
  "longer": (bytes) => new Uint8Array([...bytes, 0]),
  "changed in one bit": (bytes) => bytes.with(bytes.length >> 1, bytes[bytes.length >> 1] ^ 1),
};

for (const [damage, change] of Object.entries(DAMAGES)) {
  Deno.test(`unpackShim: replaces a file that is ${damage}, not the one somebody has mapped`, () => {
    const file = fileIn(`${newFolder()}/cache`);
    unpackShim(file);
    const good = Deno.readFileSync(file.path);
    const damaged = change(good);
    Deno.writeFileSync(file.path, damaged);
    // A second name keeps the damaged file in sight, as a mapping would.
    const mapped = `${file.folder}/mapped`;
    Deno.linkSync(file.path, mapped);
    unpackShim(file);
    assertEquals(Deno.readFileSync(file.path), good);
    assertEquals(Deno.readFileSync(mapped), damaged);
    assertNotEquals(Deno.statSync(file.path).ino, Deno.statSync(mapped).ino);
    assertEquals([modeOf(file.path), filesIn(file.folder).length], ["600", 2]);
  });
}

for (const state of ["an empty cache", "a damaged file"]) {
  Deno.test(`loadShim: ${PROCESSES} processes at once start from ${state}, all work`, async () => {
    const cache = newFolder();
    if (state === "a damaged file") {
      unpackShim(fileIn(`${cache}/aio-context`));
      Deno.truncateSync(`${cache}/aio-context/${NAME}`, 100);
    }
    const env = { XDG_CACHE_HOME: cache };
    const printed = await Promise.all(Array.from({ length: PROCESSES }, () => print(LOAD, env)));
    assertEquals(printed, Array(PROCESSES).fill("works"));
    assertEquals(filesIn(`${cache}/aio-context`), [NAME]);
  });
}

Deno.test("unpackShim: refuses a folder that others may write, or that is none", () => {
  const folder = newFolder();
  const refused = (path: string, mode: string) => {
    assertThrows(
      () => unpackShim(fileIn(path)),
      Error,
      `${path} is not a folder that only this user can write: user ${Deno.uid()}, mode ${mode}; ` +
        "make it one or remove it",
    );
    assertEquals(filesIn(folder), []);
  };
  for (const mode of [0o777, 0o770, 0o702]) {
    Deno.chmodSync(folder, mode);
    refused(folder, mode.toString(8));
  }
  Deno.chmodSync(folder, 0o700);
  const link = `${newFolder()}/link`;
  Deno.symlinkSync(folder, link);
  refused(link, "777");
});

Deno.test({
  name: `unpackShim: refuses a folder of another user${
    Deno.uid() === 0 ? "" : " (skipped: no root)"
  }`,
  ignore: Deno.uid() !== 0,
  fn() {
    const folder = newFolder();
    Deno.chownSync(folder, 65534, 65534);
    assertThrows(() => unpackShim(fileIn(folder)), Error, "user 65534, mode 700");
    assertEquals(filesIn(folder), []);
  },
});

Deno.test("loadShim: a folder that others may write is an AioError that says what to do", async () => {
  const cache = newFolder();
  const folder = `${cache}/aio-context`;
  Deno.mkdirSync(folder);
  Deno.chmodSync(folder, 0o777);
  assertEquals(
    await print(LOAD, { XDG_CACHE_HOME: cache }),
    `AioError: Cannot load the shim from ${folder}/${NAME} as dlopen failed: ELIBACC (${folder} ` +
      `is not a folder that only this user can write: user ${Deno.uid()}, mode 777; ` +
      `make it one or remove it; ${ADVICE})`,
  );
});

Deno.test("locateShim: XDG_CACHE_HOME, then HOME, then TMPDIR; makes nothing", async () => {
  const cache = newFolder();
  const places: readonly [env: Environment, folder: string][] = [
    [{ XDG_CACHE_HOME: cache, HOME: "/home/me" }, `${cache}/aio-context`],
    [{ XDG_CACHE_HOME: "", HOME: "/home/me" }, "/home/me/.cache/aio-context"],
    [{ XDG_CACHE_HOME: "relative", HOME: "/home/me" }, "/home/me/.cache/aio-context"],
    [{ XDG_CACHE_HOME: "./relative", HOME: "/home/me" }, "/home/me/.cache/aio-context"],
    [{ XDG_CACHE_HOME: "", HOME: "", TMPDIR: "/var/tmp" }, `/var/tmp/aio-context-${Deno.uid()}`],
    [{ XDG_CACHE_HOME: "", HOME: "", TMPDIR: "" }, `/tmp/aio-context-${Deno.uid()}`],
  ];
  for (const [env, folder] of places) {
    assertEquals(await print(LOCATE, env), `${folder}/${NAME}`, JSON.stringify(env));
  }
  assertEquals(filesIn(cache), []);
});

/** Folders that cannot be used, how they are made, and what the system says of them. */
const UNUSABLE: Readonly<Record<string, readonly [mount: string, reason: RegExp]>> = {
  "noexec": ["mount -t tmpfs -o noexec tmpfs CACHE", /failed to map segment from shared object/],
  "read-only": ["mount -t tmpfs -o ro tmpfs CACHE", /Read-only file system \(os error 30\): mkdir/],
  "full": ["mount -t tmpfs -o nr_inodes=2 tmpfs CACHE", /No space left on device .*: writefile/],
};

for (const [kind, [mount, reason]] of Object.entries(UNUSABLE)) {
  testWithMounts(
    `loadShim: a ${kind} cache folder is an AioError that says what to do`,
    async () => {
      const cache = newFolder();
      const words = afterMounts(mount.replace("CACHE", cache), LOAD);
      const printed = await print(words, { XDG_CACHE_HOME: cache });
      const start = `AioError: Cannot load the shim from ${cache}/aio-context/${NAME} as dlopen ` +
        "failed: ELIBACC (";
      assertEquals(printed.slice(0, start.length), start);
      assertMatch(printed, reason);
      assertEquals(printed.slice(-ADVICE.length - 3), `; ${ADVICE})`);
    },
  );
}

testWithMounts("unpackShim: leaves no temporary file behind on a disk that gets full", async () => {
  const cache = newFolder();
  const program = programWords(`${importLine("locateShim, unpackShim", "ffi/shim_cache.ts")}
    const file = locateShim();
    try {
      unpackShim(file);
    } catch (error) {
      console.log(error.message, [...Deno.readDirSync(file.folder)]);
    }`);
  const words = afterMounts(`mount -t tmpfs -o size=4k tmpfs ${cache}`, program);
  const printed = await print(words, { XDG_CACHE_HOME: cache });
  assertMatch(printed, /^No space left on device .*: writefile .* \[\]$/);
});

testWithMounts("loadShim: a read-only cache folder that has the file already works", async () => {
  const cache = newFolder();
  unpackShim(fileIn(`${cache}/aio-context`));
  const mount = `mount --bind ${cache} ${cache} && mount -o remount,ro,bind ${cache}`;
  const words = afterMounts(`${mount} && ! touch ${cache}/aio-context/x 2>&1`, LOAD);
  const printed = await print(words, { XDG_CACHE_HOME: cache });
  assertMatch(printed, /Read-only file system\nworks$/);
});

Deno.test("mod.ts: importing it takes no permission and opens no library", async () => {
  const program = `${importLine("AioContext, AioError, EventNotifier, PollWord", "mod.ts")}
    console.log(AioContext.name);`;
  assertEquals(await print(programWords(program, []), {}), "AioContext");
  const maps = `${program} console.log(Deno.readTextFileSync("/proc/self/maps"));`;
  const cache = newFolder();
  const mapped = await print(programWords(maps), { XDG_CACHE_HOME: cache });
  assert(!/liburing|aio-context/.test(mapped), mapped);
  assertEquals(filesIn(cache), []);
});
