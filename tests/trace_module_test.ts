/** The command `trace` beside modules that handle, or do not handle, errors nobody has caught. */
import { assertEquals } from "@std/assert";
import { cliWords, importLine, newFolder, run } from "./child.ts";

/** Iterations before and after the error. */
const BEFORE = 5, AFTER = 10;

/** How errors that nobody catches come about, and how a module goes on after one. */
const ERRORS: Readonly<Record<string, readonly [fail: string, handle: string]>> = {
  "a rejection": [
    "Promise.reject(new Error());",
    'addEventListener("unhandledrejection", (event) => event.preventDefault());',
  ],
  "an error of a timer": [
    "setTimeout(() => { throw new Error(); });",
    'addEventListener("error", (event) => event.preventDefault());',
  ],
  "an error while it is imported": ["throw new Error();", ""],
};

/** Traces a module; returns its exit code, and how many iterations begin and end in the file. */
async function traceModule(fail: string): Promise<[code: number, begun: number, ended: number]> {
  const folder = newFolder();
  const module = `${folder}/program.ts`, output = `${folder}/trace.json`;
  Deno.writeTextFileSync(
    module,
    `${importLine("AioContext", "mod.ts")}
const ctx = new AioContext();
const poll = (times: number) => { while (times-- > 0) ctx.poll(false); };
poll(${BEFORE});
setTimeout(() => poll(${AFTER}), 100);
${fail}
`,
  );
  const { code } = await run(cliWords(["trace", "--output", output, module]));
  const { traceEvents } = JSON.parse(Deno.readTextFileSync(output));
  const count = (phase: string) =>
    traceEvents.filter((event: Record<string, unknown>) =>
      event.ph === phase && event.name === "iteration"
    ).length;
  return [code, count("B"), count("E")];
}

for (const [what, [fail, handle]] of Object.entries(ERRORS)) {
  Deno.test(`trace MODULE: all up to ${what} is in the file`, async () => {
    assertEquals(await traceModule(fail), [1, BEFORE, BEFORE]);
  });
  if (handle === "") continue;
  Deno.test(`trace MODULE: the trace goes on where the module handles ${what}`, async () => {
    const all = BEFORE + AFTER;
    assertEquals(await traceModule(`${handle}\n${fail}`), [0, all, all]);
  });
}
