/** The command `setup` on machines of all kinds; no test here installs anything. */
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { cliWords, type Environment, newFolder, run } from "./child.ts";
import { afterMounts, asOtherUser, testWithMounts } from "./mounts.ts";

const MISSING = "setup: missing liburing 2.3 or later\n";
const MANAGERS = ["apt-get", "dnf", "pacman", "apk"];
const INSTALL: Readonly<Record<string, string>> = {
  "apt-get": "apt-get install -y --no-install-recommends liburing2",
  dnf: "dnf install -y liburing",
  pacman: "pacman -S --needed --noconfirm liburing",
  apk: "apk add liburing",
};

/** Whether arm64 is not what this machine is. */
const FOREIGN = Deno.build.arch !== "aarch64";

/** A machine without liburing, with programs that only note how they were called. */
class Machine {
  readonly #folder = newFolder();
  readonly #release = `${this.#folder}/os-release`;
  readonly #log = `${this.#folder}/log`;

  /** @param release text of /etc/os-release */
  constructor(release: string) {
    Deno.mkdirSync(`${this.#folder}/bin`);
    Deno.writeTextFileSync(this.#release, release);
    Deno.writeTextFileSync(this.#log, "");
    // The loader looks into this folder first and gives up at a file of that name.
    Deno.writeTextFileSync(`${this.#folder}/liburing.so.2`, "");
    for (const manager of MANAGERS) this.addProgram(manager, "");
  }

  /** Adds a program that notes its call, then runs a line of shell. */
  addProgram(name: string, line: string): void {
    const path = `${this.#folder}/bin/${name}`;
    const text = `#!/bin/sh\necho "${name} $*" >>${this.#log}\n${line}\n`;
    Deno.writeTextFileSync(path, text, { mode: 0o755 });
  }

  /** A line of shell that adds a program which succeeds. */
  lineToAdd(name: string): string {
    return `echo "#!/bin/sh" >${this.#folder}/bin/${name} && /bin/chmod +x ${this.#folder}/bin/${name}`;
  }

  removeProgram(name: string): void {
    Deno.removeSync(`${this.#folder}/bin/${name}`);
  }

  /** The line of shell that brings liburing. */
  get bringLiburing(): string {
    return `/bin/rm -f ${this.#folder}/liburing.so.2`;
  }

  /** Runs the command as root, or as another user. */
  async setup(args: readonly string[] = [], root = true) {
    const words = cliWords(["setup", ...args]);
    const mount = `mount --bind ${this.#release} /etc/os-release`;
    const path = `export PATH=${this.#folder}/bin LD_LIBRARY_PATH=${this.#folder}`;
    const asUser = root ? words : asOtherUser(words);
    const result = await run(afterMounts(`${mount} && ${path}`, asUser));
    return { ...result, calls: Deno.readTextFileSync(this.#log).split("\n").slice(0, -1) };
  }
}

Deno.test("setup: does nothing where all is there", async () => {
  for (const need of ["run", "test"]) {
    const { code, stdout, stderr } = await run(cliWords(["setup", "--for", need]));
    assertEquals([code, stderr], [0, ""]);
    assertEquals(stdout, `setup: all there to ${need}, nothing to do\n`);
  }
});

Deno.test("setup: bad arguments are usage errors", async () => {
  const bad: readonly [args: string[], message: string][] = [
    [["--for", "fun"], "error: Cannot use --for fun as it is not run, bench, test or guest\n"],
    [["--for", ""], 'error: Cannot use --for "" as it is not run, bench, test or guest\n'],
    [["--for"], "error: option '--for <run|bench|test|guest>' argument missing\n"],
    [["extra"], "error: too many arguments for 'setup'"],
    [["--nope"], "error: unknown option '--nope'\n"],
  ];
  for (const [args, message] of bad) {
    const { code, stdout, stderr } = await run(cliWords(["setup", ...args]));
    assertEquals([code, stdout], [2, ""], args.join(" "));
    assertStringIncludes(stderr, message);
  }
});

Deno.test("setup: what no package can mend is an error", async () => {
  const cases: readonly [permissions: string[], env: Environment, message: string][] = [
    [["-A"], { AIO_CONTEXT_LIBURING: "/nonexistent" }, "variable AIO_CONTEXT_LIBURING or unset it"],
    [[], {}, "run Deno with --allow-ffi"],
    [["--allow-ffi"], {}, "run again with the --allow-run flag"],
  ];
  for (const [permissions, env, message] of cases) {
    const words = cliWords(["setup", "--for", "test"], permissions);
    const { code, stdout, stderr } = await run(words, env);
    assertEquals([code, stdout], [1, ""], message);
    assertMatch(stderr, /^error: .*\n$/);
    assertStringIncludes(stderr, message);
  }
});

const OTHERS: readonly [release: string, manager: string][] = [
  ["ID=fedora\n", "dnf"],
  ['NAME="Rocky Linux"\nID="rocky"\nID_LIKE="rhel centos fedora"\n', "dnf"],
  ["ID=arch\n", "pacman"],
  ["ID='manjaro'\nID_LIKE='arch'\n", "pacman"],
  ["ID=alpine\n", "apk"],
];

for (const [release, manager] of OTHERS) {
  const id = /^ID=(.*)$/m.exec(release)![1];
  testWithMounts(`setup: prints the command to run and runs nothing on ${id}`, async () => {
    const { code, stdout, stderr, calls } = await new Machine(release).setup();
    assertEquals([code, stdout, calls], [1, MISSING, []]);
    assertEquals(stderr, `setup: run this as root:\n  ${INSTALL[manager]}\n`);
  });
}

testWithMounts("setup: prints all commands where the distribution is not known", async () => {
  for (const release of ["ID=nixos\n", ""]) {
    const { code, stdout, stderr, calls } = await new Machine(release).setup();
    assertEquals([code, stdout, calls], [1, MISSING, []]);
    const commands = MANAGERS.map((manager) => `  ${INSTALL[manager]}\n`).join("");
    assertEquals(stderr, `setup: run the one that fits this system as root:\n${commands}`);
  }
});

testWithMounts("setup --for test: names all packages once where there is no compiler", async () => {
  const { code, stdout, stderr } = await new Machine("ID=arch\n").setup(["--for", "test"]);
  assertEquals(code, 1);
  assertEquals(stdout.match(/^setup: missing .*$/gm)?.length, FOREIGN ? 5 : 4);
  const foreign = FOREIGN ? " aarch64-linux-gnu-gcc qemu-user" : "";
  assertEquals(
    stderr,
    `setup: run this as root:\n  pacman -S --needed --noconfirm liburing gcc${foreign}\n`,
  );
});

testWithMounts("setup --for bench: gets compiler, header and fio, and no more", async () => {
  const machine = new Machine("ID=debian\n");
  // What it installs comes as programs that succeed, cc before the header that it is asked for.
  const bring = ["cc", "fio"].map((name) => machine.lineToAdd(name)).join(" && ");
  machine.addProgram("apt-get", `[ "$1" = update ] || { ${machine.bringLiburing} && ${bring}; }`);
  const { code, stderr, calls } = await machine.setup(["--for", "bench"]);
  assertEquals([code, stderr], [0, ""]);
  const packages = "liburing2 gcc libc6-dev liburing-dev fio";
  assertEquals(calls.slice(0, 2), [
    "apt-get update -q",
    `apt-get install -y --no-install-recommends ${packages}`,
  ]);
  const again = await machine.setup(["--for", "bench"]);
  assertEquals([again.code, again.stdout], [0, "setup: all there to bench, nothing to do\n"]);
});

testWithMounts("setup --for test: gets clients and servers of NBD on Debian", async () => {
  const machine = new Machine("ID=debian\n");
  const { code, calls } = await machine.setup(["--for", "test"]);
  assertEquals(code, 1);
  const packages = "libnbd-bin python3-libnbd qemu-utils nbdkit fio";
  assert(calls[1].endsWith(` ${packages}`), calls[1]);
});

testWithMounts("setup --for test: asks for nothing that a distribution does not have", async () => {
  for (
    const [release, install] of [["ID=fedora\n", "dnf install -y"], ["ID=alpine\n", "apk add"]]
  ) {
    const machine = new Machine(release);
    const { code, stderr } = await machine.setup(["--for", "test"]);
    assertEquals(code, 1);
    assertStringIncludes(stderr, `setup: run this as root:\n  ${install} liburing gcc`);
    assert(!/aarch64|qemu-user/.test(stderr), stderr);
    assertEquals(stderr.includes("python3-libnbd qemu-img nbdkit fio"), install.startsWith("dnf"));
    // A machine where only that is missing has all it can have.
    const programs = ["cc", "nbdinfo", "nbdcopy", "qemu-img", "qemu-io", "nbdkit", "fio"];
    for (const program of install.startsWith("dnf") ? programs : ["cc"]) {
      machine.addProgram(program, "");
    }
    await run(["sh", "-c", machine.bringLiburing]);
    const complete = await machine.setup(["--for", "test"]);
    assertEquals([complete.code, complete.stderr], [0, ""]);
    assertEquals(/^setup: missing a C compiler and/m.test(complete.stdout), FOREIGN);
  }
});

testWithMounts("setup: installs by apt-get as root on Debian and its kin", async () => {
  for (const release of ["ID=debian\n", 'ID=linuxmint\nID_LIKE="ubuntu debian"\n']) {
    const machine = new Machine(release);
    // The lists may be stale, but the installation decides.
    machine.addProgram("apt-get", `[ "$1" = update ] && exit 100; ${machine.bringLiburing}`);
    const { code, stdout, calls } = await machine.setup();
    assertEquals(code, 0);
    assertEquals(calls, ["apt-get update -q", INSTALL["apt-get"]]);
    for (const call of calls) assertStringIncludes(stdout, `setup: running ${call}\n`);
  }
});

testWithMounts("setup: fails where the installation does, or does not help", async () => {
  const machine = new Machine("ID=debian\n");
  for (const exit of [100, 0]) {
    machine.addProgram("apt-get", `[ "$1" = update ] || exit ${exit}`);
    const { code, stderr } = await machine.setup();
    assertEquals(code, 1);
    const failed = exit === 0 ? "" : `setup: apt-get ended with exit code ${exit}\n`;
    assertEquals(stderr, `${failed}setup: still missing liburing 2.3 or later\n`);
  }
  machine.addProgram("apt-get", `[ "$1" = update ] || { ${machine.bringLiburing}; exit 1; }`);
  const partly = await machine.setup();
  assertEquals([partly.code, partly.stderr], [1, "setup: apt-get ended with exit code 1\n"]);
});

testWithMounts("setup: fails on a Debian without apt-get, and says so", async () => {
  const machine = new Machine("ID=debian\n");
  machine.removeProgram("apt-get");
  const { code, stderr } = await machine.setup();
  assertEquals(code, 1);
  assertStringIncludes(stderr, "setup: there is no apt-get\n");
});

testWithMounts(
  "setup: who is not root installs by sudo where it asks for no password",
  async () => {
    const machine = new Machine("ID=debian\n");
    const command = `setup: run this as root:\n  ${INSTALL["apt-get"]}\n`;
    const without = await machine.setup([], false);
    assertEquals([without.code, without.stderr, without.calls], [1, command, []]);
    machine.addProgram("sudo", "exit 1");
    const refused = await machine.setup([], false);
    assertEquals([refused.code, refused.stderr, refused.calls], [1, command, ["sudo -n true"]]);
    machine.addProgram("sudo", `[ "$2" = true ] || { ${machine.bringLiburing}; }`);
    const allowed = await machine.setup([], false);
    assertEquals(allowed.code, 0, allowed.stderr);
    assertEquals(allowed.calls.slice(1), [
      "sudo -n true",
      "sudo -n apt-get update -q",
      `sudo -n ${INSTALL["apt-get"]}`,
    ]);
    assert(!allowed.stderr.includes("still missing"));
  },
);
