/** Signals that come while the loop sleeps: timers are not early, events not lost. */
import { assert, assertEquals } from "@std/assert";
import { importLine, programWords } from "./child.ts";
import { eachFdmon } from "./each_fdmon.ts";

const TIMERS = 200;

/**
 * Sleeps until a timer fires, which sets a notifier, and so on; prints "ready", then a report. Its
 * handler runs in Deno's own loop, so never here; what counts is that the wait is interrupted.
 */
const SLEEPER = programWords(`${importLine("AioContext, EventNotifier", "mod.ts")}
const [fdmon] = Deno.args;
Deno.addSignalListener("SIGUSR1", () => {});
using ctx = new AioContext({ fdmon, pollParams: { maxNs: 0 } });
using notifier = new EventNotifier();
let events = 0, fired = 0, early = 0, interrupted = 0, deadlineNs = 0;
ctx.setFdHandler(notifier.fd, { ioRead: () => notifier.testAndClear() && events++ });
const timer = ctx.timer(() => {
  fired++;
  if (ctx.now() < deadlineNs) early++;
  notifier.set();
});
console.log("ready");
for (let round = 1; round <= ${TIMERS}; round++) {
  deadlineNs = ctx.now() + 2e6;
  timer.arm(deadlineNs);
  while (events < round) {
    const progress = ctx.poll(true);
    if (!progress && ctx.now() < deadlineNs - 1e5) interrupted++;
  }
}
console.log(JSON.stringify({ events, fired, early, interrupted }));
Deno.exit(0);`);

eachFdmon("poll: signals while it sleeps, no timer early and no event lost", async (_, fdmon) => {
  const [program, ...args] = SLEEPER;
  const command = new Deno.Command("timeout", {
    args: ["60", program, ...args, fdmon],
    cwd: new URL("..", import.meta.url),
    stdout: "piped",
    stderr: "inherit",
  });
  const child = command.spawn();
  let output = "";
  let pid = 0;
  const reader = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  let ended = false;
  const reading = (async () => {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      output += value;
    }
    ended = true;
  })();
  while (!ended) {
    if (output.startsWith("ready")) {
      pid ||= childOf(child.pid);
      try {
        Deno.kill(pid, "SIGUSR1");
      } catch (error) {
        // It has ended since.
        if (!(error instanceof Deno.errors.NotFound) && !(error instanceof TypeError)) throw error;
      }
    }
    await new Promise((resolve) => setImmediate(resolve));
  }
  await reading;
  const { code } = await child.status;
  assertEquals(code, 0);
  const report = JSON.parse(output.split("\n")[1]);
  assert(report.interrupted > 0, "no signal came while it slept");
  assertEquals([report.events, report.fired, report.early], [TIMERS, TIMERS, 0]);
});

/** The process that `timeout` runs. */
function childOf(pid: number): number {
  return Number(Deno.readTextFileSync(`/proc/${pid}/task/${pid}/children`).trim());
}
