/**
 * Runs the self-tests in shim/ against the bytes that are shipped: on this machine, and for arm64
 * under an emulator where this machine is another. The worker pool's is also compiled together with
 * its source for the thread sanitizer, which sees what a lock should have ordered and did not.
 *
 * An emulator shows that the library loads, what its functions return and that its structures are
 * laid out as the header says. Of arm64's memory model it shows less: see the self-test.
 */
import { assert, assertEquals } from "@std/assert";
import { shimPrebuilt } from "../ffi/shim_prebuilt.ts";
import { newFolder, run } from "./child.ts";

const SHIM_FOLDER = new URL("../shim/", import.meta.url).pathname;
const SELFTESTS = [
  "selftest.c",
  "selftest_execute.c",
  "selftest_ordering.c",
  "selftest_pool.c",
  "selftest_spin.c",
  "selftest_waiter.c",
] as const;
/** What is compiled together for the thread sanitizer: a self-test and the files it needs. */
const RACES = [
  ["selftest_pool.c", "pool.c", "execute.c", "system.c"],
  ["selftest_waiter.c", "waiter.c", "system.c", "spin.c"],
] as const;
const COMPILER_FLAGS = ["-O2", "-Wall", "-Wextra", "-Werror", "-std=gnu11", "-pthread"];
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
  for (const source of SELFTESTS) {
    Deno.test({
      name: `shim/${source}: passes with the shipped library (${machine.arch}${skipped})`,
      ignore: missing !== undefined,
      fn: () => selfTest(source, machine),
    });
  }
}

async function selfTest(source: string, machine: Machine): Promise<void> {
  const { arch, compiler, emulator, argument } = machine;
  const library = `${newFolder()}/shim.so`;
  Deno.writeFileSync(library, Uint8Array.fromBase64(shimPrebuilt.builds[arch].base64));
  const program = await build(compiler, [`${SHIM_FOLDER}${source}`, library]);
  const words = [...emulator, program, ...(argument === undefined ? [] : [argument])];
  await requirePassed(source, words);
}

async function build(compiler: string, inputs: readonly string[]): Promise<string> {
  const program = `${newFolder()}/program`;
  const { code, stderr } = await run([compiler, ...COMPILER_FLAGS, "-o", program, ...inputs]);
  assertEquals([code, stderr], [0, ""]);
  return program;
}

/** Every check of a self-test has to be run. */
async function requirePassed(source: string, words: readonly string[]): Promise<void> {
  const { code, stdout, stderr } = await run(words);
  assertEquals([code, stderr], [0, ""], stdout);
  const text = Deno.readTextFileSync(`${SHIM_FOLDER}${source}`);
  const checks = text.match(/^\t\t\{ ".*", \w+ \},$/gm)!.length;
  assert(checks > 1);
  assertEquals(stdout.match(/^ok \d+ .+$/gm)?.length, checks, stdout);
}

const SANITIZER = "-fsanitize=thread";
/** It does not know the fence of a spin, which none of these tests needs. */
const NO_WARNING = "-Wno-tsan";
/** The sanitizer of GCC 12 does not run where addresses are as random as new kernels make them. */
const FIXED_ADDRESSES = ["setarch", "--addr-no-randomize"];

/** How to run a program that has the thread sanitizer, or why that is not possible here. */
async function sanitizerPrefix(): Promise<{ prefix?: readonly string[]; reason?: string }> {
  const folder = newFolder();
  const source = `${folder}/empty.c`, program = `${folder}/empty`;
  Deno.writeTextFileSync(source, "int main(void) { return 0; }");
  const compiled = await run(["cc", SANITIZER, "-o", program, source]);
  let reason = compiled.stderr;
  if (compiled.code === 0) {
    for (const prefix of [FIXED_ADDRESSES, []]) {
      const { code, stderr } = await run([...prefix, program]);
      if (code === 0) return { prefix };
      reason = stderr;
    }
  }
  return { reason: reason.trim().split("\n")[0] };
}

const { prefix, reason } = await sanitizerPrefix();
for (const sources of RACES) {
  const [selftest, tested] = sources;
  const skipped = prefix === undefined ? `, skipped: ${reason}` : "";
  Deno.test({
    name: `shim/${tested}: has no data race${skipped}`,
    ignore: prefix === undefined,
    fn: async () => {
      const inputs = sources.map((name) => `${SHIM_FOLDER}${name}`);
      const program = await build("cc", [SANITIZER, NO_WARNING, ...inputs]);
      await requirePassed(selftest, [...prefix!, program]);
    },
  });
}
