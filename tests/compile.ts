/** Compiles small C programs and libraries for a test; `setup --for test` gets what it takes. */
import { FOLDER, run } from "./child.ts";

/** Compiles C text and returns the path of what came out; stays until the test process ends. */
export async function compile(text: string, flags: readonly string[]): Promise<string> {
  const source = Deno.makeTempFileSync({ dir: FOLDER, suffix: ".c" });
  const output = source.replace(/c$/, "out");
  Deno.writeTextFileSync(source, text);
  const { code, stderr } = await run(["cc", "-Wall", "-Werror", "-o", output, source, ...flags]);
  if (code !== 0) throw new Error(`Cannot compile for a test:\n${stderr}`);
  return output;
}

/** Compiles a shared library; flags come last, as libraries have to. */
export function compileLibrary(text: string, flags: readonly string[] = []): Promise<string> {
  return compile(text, ["-shared", "-fPIC", ...flags]);
}
