/**
 * Holds one scenario of `scale` ready and measures a window of it each time it is asked to.
 *
 * bench/scale_ratio.ts runs several of these at once and asks them in turn, so that a slow second
 * of the machine falls on all of them. Between two windows the process sleeps. The plan is the one
 * argument, as JSON; each line on the standard input is the length of a window in seconds, each
 * line on the standard output one `Run`, but for the first, which says that all is set up.
 */
import { createInterface } from "node:readline";
import process from "node:process";
import { loadShim } from "../ffi/library.ts";
import { openBlockFile } from "../src/cli/scale_file.ts";
import { type RunPlan, Scenario } from "../src/cli/scale_run.ts";

/** The guest's thread has to be up, and the loop to have learned to poll. */
const WARM_UP_SECONDS = 0.05;
/** Code is compiled by then. */
const FIRST_WARM_UP_SECONDS = 1;

const [planJson, path] = Deno.args;
const plan: RunPlan = JSON.parse(planJson);
using file = openBlockFile(path, plan.blockSize);
using scenario = new Scenario(plan, loadShim(), file);
// All idle handlers have been removed before the first window, where they are removed at all.
await scenario.measureWindow(plan.idleSeconds + FIRST_WARM_UP_SECONDS, 0.1, null);
console.log("ready");
for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(await scenario.measureWindow(WARM_UP_SECONDS, Number(line), null)));
}
