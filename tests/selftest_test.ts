/**
 * Runs shim/selftest.c against the bytes that are shipped: on this machine, and for arm64 under
 * an emulator where this machine is another.
 *
 * An emulator shows that the library loads, what its functions return and that its structures are
 * laid out as the header says. Of arm64's memory model it shows less: see the self-test.
 */
import { assert, assertEquals } from "@std/assert";
import { shimPrebuilt } from "../ffi/shim_prebuilt.ts";
import { newFolder, run } from "./child.ts";

const SELFTEST = new URL("../shim/selftest.c", import.meta.url).pathname;
const CHECKS = Deno.readTextFileSync(SELFTEST).match(/^\t\t\{ ".*", \w+ \},$/gm)!.length;
const SYSROOT = "/usr/aarch64-linux-gnu";

interface Machine {
  readonly arch: keyof typeof shimPrebuilt.builds;
  readonly compiler: string;
  /** What runs its programs, and what these are told. */
  readonly emulator: readonly string[];
  readonly argument?: string;
}

const NATIVE: Machine = { arch: Deno.build.arch, compiler: "cc", emulator: [] };
const ARM64: Machine = {
  arch: "aarch64",
  compiler: "aarch64-linux-gnu-gcc",
  emulator: ["qemu-aarch64", "-L", SYSROOT],
  argument: "emulated",
};

/** Why programs for a machine cannot be made or run here; undefined where they can. */
async function whyMissing({ compiler, emulator }: Machine): Promise<string | undefined> {
  const needs = [[compiler, "-fsyntax-only", "-include", "stdio.h", "-x", "c", "/dev/null"]];
  if (emulator.length !== 0) needs.push([emulator[0], "--version"]);
  for (const words of needs) {
    const { code, stderr } = await run(words);
    if (code !== 0) return stderr.trim().split("\n")[0];
  }
}

for (const machine of Deno.build.arch === "aarch64" ? [NATIVE] : [NATIVE, ARM64]) {
  const missing = await whyMissing(machine);
  const skipped = missing === undefined ? "" : `, skipped: ${missing}`;
  Deno.test({
    name: `shim/selftest.c: passes with the shipped library (${machine.arch}${skipped})`,
    ignore: missing !== undefined,
    fn: () => selfTest(machine),
  });
}

async function selfTest({ arch, compiler, emulator, argument }: Machine): Promise<void> {
  const folder = newFolder();
  const library = `${folder}/shim.so`, program = `${folder}/selftest`;
  Deno.writeFileSync(library, Uint8Array.fromBase64(shimPrebuilt.builds[arch].base64));
  const flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-std=gnu11", "-pthread"];
  const compiled = await run([compiler, ...flags, "-o", program, SELFTEST, library]);
  assertEquals([compiled.code, compiled.stderr], [0, ""]);
  const words = [...emulator, program, ...(argument === undefined ? [] : [argument])];
  const { code, stdout, stderr } = await run(words);
  assertEquals([code, stderr], [0, ""], stdout);
  assert(CHECKS > 10);
  assertEquals(stdout.match(/^ok \d+ .+$/gm)?.length, CHECKS, stdout);
}
