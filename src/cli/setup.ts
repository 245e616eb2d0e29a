/**
 * The `setup` command: gets what a command needs from the system's package manager.
 *
 * The tasks of deno.json call it first, so that a bare machine needs nothing but Deno. It looks at
 * what works rather than at which packages are there. On Debian and its kin it installs, as root
 * or by sudo where that asks for no password; elsewhere it prints the command to run. Invariant:
 * nothing is installed without saying so, and nothing at all when all is there.
 */
import { AioError } from "../../ffi/errno.ts";
import { liburingOrigin, loadLiburing } from "../../ffi/library.ts";
import { ExitCode } from "./exit.ts";

type PackageManager = "apt-get" | "dnf" | "pacman" | "apk";

/** Something the project needs, and the packages that bring it. */
interface Need {
  readonly name: string;
  /** None where a distribution has none: what needs it is skipped there. */
  readonly packages: Readonly<Record<PackageManager, readonly string[]>>;
  isThere(): boolean;
}

const LIBURING: Need = {
  name: "liburing 2.3 or later",
  packages: {
    "apt-get": ["liburing2"],
    dnf: ["liburing"],
    pacman: ["liburing"],
    apk: ["liburing"],
  },
  isThere: liburingLoads,
};

const COMPILER: Need = {
  name: "a C compiler with headers (cc), for the C floors and the tests of C",
  packages: {
    "apt-get": ["gcc", "libc6-dev"],
    dnf: ["gcc", "glibc-devel"],
    pacman: ["gcc"],
    apk: ["gcc", "musl-dev"],
  },
  isThere: () => includes("stdio.h"),
};

const LIBURING_HEADER: Need = {
  name: "the header of liburing (liburing.h), for the C floors and the test of structure layouts",
  packages: {
    "apt-get": ["liburing-dev"],
    dnf: ["liburing-devel"],
    pacman: ["liburing"],
    apk: ["liburing-dev"],
  },
  isThere: () => includes("liburing.h"),
};

const ARM64: Need = {
  name: "a C compiler and an emulator for arm64, for the self-test of the shim",
  packages: {
    "apt-get": ["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross", "qemu-user"],
    // Their cross compilers come without a C library: the test is skipped there.
    dnf: [],
    pacman: ["aarch64-linux-gnu-gcc", "qemu-user"],
    apk: [],
  },
  // Where programs for arm64 run anyway, there is nothing to emulate.
  isThere: () =>
    Deno.build.arch === "aarch64" ||
    includes("stdio.h", "aarch64-linux-gnu-gcc") && runs("qemu-aarch64", ["--version"]),
};

const FIO: Need = {
  name: "fio, which reads around the page cache are compared with",
  packages: { "apt-get": ["fio"], dnf: ["fio"], pacman: ["fio"], apk: ["fio"] },
  isThere: () => runs("fio", ["--version"]),
};

const NBD: Need = {
  name: "clients and servers of NBD (nbdinfo, nbdsh, qemu-img, nbdkit, fio), to test ours with",
  packages: {
    "apt-get": ["libnbd-bin", "python3-libnbd", "qemu-utils", "nbdkit", "fio"],
    dnf: ["libnbd", "python3-libnbd", "qemu-img", "nbdkit", "fio"],
    // Not all of them are packages there: the tests that need them are skipped.
    pacman: [],
    apk: [],
  },
  isThere: () =>
    ["nbdinfo", "nbdcopy", "qemu-img", "qemu-io", "nbdkit", "fio"]
      .every((name) => runs(name, ["--version"])) &&
    runs("/usr/bin/python3", ["-c", "import nbd"]),
};

const E2FSPROGS: Need = {
  name: "programs for ext4 (mke2fs, e2fsck, debugfs), to test disks that have a filesystem",
  packages: {
    "apt-get": ["e2fsprogs"],
    dnf: ["e2fsprogs"],
    pacman: ["e2fsprogs"],
    apk: ["e2fsprogs", "e2fsprogs-extra"],
  },
  // Not every user has this folder in PATH.
  isThere: () => ["mke2fs", "e2fsck", "debugfs"].every((name) => runs(`/usr/sbin/${name}`, ["-V"])),
};

const QEMU: Need = {
  name: "QEMU for x86-64 and its storage daemon, for guests that use disks",
  packages: { "apt-get": ["qemu-system-x86", "qemu-system-common"], dnf: [], pacman: [], apk: [] },
  isThere: () =>
    ["qemu-system-x86_64", "qemu-storage-daemon"].every((name) => runs(name, ["--version"])),
};

const BUSYBOX: Need = {
  name: "a static busybox, of which guests are made",
  packages: { "apt-get": ["busybox-static"], dnf: [], pacman: [], apk: [] },
  isThere: () => runs("busybox", ["true"]) && !runs("ldd", ["/bin/busybox"]),
};

const NEEDS: Readonly<Record<SetupOptions["for"], readonly Need[]>> = {
  run: [LIBURING],
  bench: [LIBURING, COMPILER, LIBURING_HEADER, FIO],
  test: [LIBURING, COMPILER, LIBURING_HEADER, ARM64, NBD, E2FSPROGS],
  guest: [LIBURING, COMPILER, QEMU, BUSYBOX],
};

const INSTALL: Readonly<Record<PackageManager, readonly string[]>> = {
  "apt-get": ["apt-get", "install", "-y", "--no-install-recommends"],
  dnf: ["dnf", "install", "-y"],
  pacman: ["pacman", "-S", "--needed", "--noconfirm"],
  apk: ["apk", "add"],
};

/** Names in /etc/os-release, of a distribution or of what it is like. */
const DISTRIBUTIONS: Readonly<Record<string, PackageManager>> = {
  debian: "apt-get",
  ubuntu: "apt-get",
  fedora: "dnf",
  rhel: "dnf",
  arch: "pacman",
  alpine: "apk",
};

/** Options of the command. */
export interface SetupOptions {
  /**
   * What it is needed for: `"run"` the programs, `"bench"` them against floors, `"test"` them, or
   * serve disks to a `"guest"`.
   */
  readonly for: "run" | "bench" | "test" | "guest";
}

/**
 * Gets what is missing, or says how.
 *
 * @returns the exit code: 0 when all is there in the end
 */
export async function setup(options: SetupOptions): Promise<number> {
  const exitCode = await install(options);
  if (exitCode !== ExitCode.ok || options.for !== "guest") return exitCode;
  const { fetchGuestKernel } = await import("./setup_guest.ts");
  return await fetchGuestKernel();
}

async function install(options: SetupOptions): Promise<number> {
  const wanted = NEEDS[options.for].filter((need) => !need.isThere());
  for (const need of wanted) console.log(`setup: missing ${need.name}`);
  const manager = wanted.length === 0 ? undefined : await detectPackageManager();
  const missing = wanted.filter((need) => !manager || need.packages[manager].length !== 0);
  if (missing.length === 0) {
    console.log(`setup: all there to ${options.for}, nothing to do`);
    return ExitCode.ok;
  }
  const prefix = manager === "apt-get" ? await rootPrefix() : undefined;
  if (manager === undefined || prefix === undefined) {
    console.error(adviseCommands(missing, manager));
    return ExitCode.failure;
  }
  // Package lists may be missing or stale; whether that matters is decided by the installation.
  await run([...prefix, "apt-get", "update", "-q"]);
  const installed = await run([...prefix, ...installCommand(missing, manager)]);
  const left = missing.filter((need) => !need.isThere());
  for (const need of left) console.error(`setup: still missing ${need.name}`);
  return installed && left.length === 0 ? ExitCode.ok : ExitCode.failure;
}

function liburingLoads(): boolean {
  try {
    loadLiburing();
    return true;
  } catch (error) {
    // A package cannot mend a path that the user gave, or a permission.
    const mendable = error instanceof AioError && error.code !== "EACCES" &&
      liburingOrigin().origin === "system";
    if (!mendable) throw error;
    return false;
  }
}

/** Whether a C program can be compiled that includes this header. */
function includes(header: string, compiler = "cc"): boolean {
  return runs(compiler, ["-fsyntax-only", "-include", header, "-x", "c", "/dev/null"]);
}

/** Whether a program is there and succeeds. */
function runs(program: string, args: readonly string[]): boolean {
  try {
    const command = new Deno.Command(program, { args: [...args], stdout: "null", stderr: "null" });
    return command.outputSync().success;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

async function detectPackageManager(): Promise<PackageManager | undefined> {
  let text: string;
  try {
    text = await Deno.readTextFile("/etc/os-release");
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
  const names = [...text.matchAll(/^(?:ID|ID_LIKE)=(.*)$/gm)]
    .flatMap(([, value]) => value.replaceAll(/["']/g, "").split(" "));
  return names.map((name) => DISTRIBUTIONS[name]).find((manager) => manager !== undefined);
}

/** What to put before a command to run it as root; undefined where that needs a password. */
async function rootPrefix(): Promise<string[] | undefined> {
  if (Deno.uid() === 0) return [];
  try {
    const sudo = new Deno.Command("sudo", { args: ["-n", "true"], stdin: "null", stderr: "null" });
    return (await sudo.output()).success ? ["sudo", "-n"] : undefined;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

/** Runs a command with its output shown; false when it fails. */
async function run([program, ...args]: string[]): Promise<boolean> {
  console.log(`setup: running ${[program, ...args].join(" ")}`);
  const command = new Deno.Command(program, {
    args,
    env: { DEBIAN_FRONTEND: "noninteractive" },
    stdin: "null",
    stdout: "inherit",
    stderr: "inherit",
  });
  try {
    const { success, code } = await command.output();
    if (!success) console.error(`setup: ${program} ended with exit code ${code}`);
    return success;
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    console.error(`setup: there is no ${program}`);
    return false;
  }
}

function installCommand(needs: readonly Need[], manager: PackageManager): string[] {
  return [...INSTALL[manager], ...new Set(needs.flatMap((need) => need.packages[manager]))];
}

function adviseCommands(needs: readonly Need[], manager: PackageManager | undefined): string {
  const managers = manager === undefined ? Object.keys(INSTALL) as PackageManager[] : [manager];
  const commands = managers.map((name) => `  ${installCommand(needs, name).join(" ")}`);
  const choice = managers.length > 1 ? "the one that fits this system" : "this";
  return `setup: run ${choice} as root:\n${commands.join("\n")}`;
}
