/**
 * What does a polling context do to others on its processor?
 *
 * A thread that only counts shares one processor with a loop that has events now and then: how much
 * of the processor is left to it, with polling and without? And a guest that shares the loop's only processor: how
 * many requests a second, with polling and without? The sibling of a hyperthread cannot be measured
 * where there is none; what the spin does for it is a pause after every empty pass.
 *
 * Run with: deno run -A bench/spin_etiquette.ts [--seconds 1] (needs taskset of util-linux)
 */
import { parseArgs } from "node:util";
import Table from "cli-table3";
import { loadShim } from "../ffi/library.ts";
import { AioContext, EventNotifier, PollWord } from "../mod.ts";
import { GuestMemory } from "../src/cli/scale_guest.ts";
import { describeMachine, machineLine } from "../src/cli/scale_report.ts";

/** Events of the loop: none, as fast as a guest can, or at an interval. */
type Load = "none" | "guest" | "20 µs" | "1 ms";

const { values } = parseArgs({
  options: {
    seconds: { type: "string", default: "1" },
    role: { type: "string" },
    load: { type: "string", default: "none" },
    polling: { type: "boolean", default: false },
  },
});
const SECONDS = Number(values.seconds);
const INTERVALS_NS: Partial<Record<Load, number>> = { "20 µs": 20e3, "1 ms": 1e6 };
const BATCH = 10_000;

/** Counts for a while; prints the rate. */
function count(): void {
  const endMs = performance.now() + SECONDS * 1000;
  let counted = 0, sum = 0;
  while (performance.now() < endMs) {
    for (let step = 0; step < BATCH; step++) sum = (sum * 31 + step) | 0;
    counted += BATCH;
  }
  console.log(JSON.stringify({ rate: counted / SECONDS, sum }));
}

/** Serves a guest, or a timer, for a while; prints the rate of events and the share polled. */
async function serve(load: Load, polling: boolean): Promise<void> {
  using ctx = new AioContext({ pollParams: { maxNs: polling ? 32_768 : 0 } });
  using notifier = new EventNotifier();
  const memory = new GuestMemory(0);
  const { avail, used, notificationsOff } = memory.busyQueue;
  const { words } = memory;
  const word = new PollWord(memory.buffer, avail * 4, 32);
  let events = 0;
  const answer = () => {
    const value = Atomics.load(words, avail);
    word.seen = value;
    events++;
    Atomics.store(words, used, value);
  };
  ctx.setFdHandler(notifier.fd, {
    ioRead: () => (notifier.testAndClear(), answer()),
    ioPoll: word,
    ioPollReady: answer,
    ioPollBegin: () => Atomics.store(words, notificationsOff, 1),
    ioPollEnd: () => Atomics.store(words, notificationsOff, 0),
  });
  const endNs = ctx.now() + SECONDS * 1e9;
  let ended = false;
  ctx.timer(() => ended = true).arm(endNs);
  const intervalNs = INTERVALS_NS[load];
  const next = ctx.timer(() => {
    Atomics.add(words, avail, 1);
    if (Atomics.load(words, notificationsOff) === 0) notifier.set();
    next.arm(ctx.now() + intervalNs!);
  });
  if (intervalNs !== undefined) next.arm(ctx.now());
  const guest = load === "guest"
    ? memory.runGuest(loadShim(), { eventFd: notifier.fd, depth: 1, blocks: 1 })
    : Promise.resolve();
  while (!ended) ctx.poll(true);
  memory.stopGuest();
  await guest;
  ctx.setFdHandler(notifier.fd, null);
  const polled = ctx.stats().pollModeNs / (SECONDS * 1e9);
  console.log(JSON.stringify({ rate: events / SECONDS, polled }));
}

/** Starts this program in a role on the given processors; its result. */
async function start(processors: string, args: string[]): Promise<{ rate: number }> {
  const { stdout, success } = await new Deno.Command("taskset", {
    args: ["-c", processors, Deno.execPath(), "run", "-A", import.meta.filename!]
      .concat(args, ["--seconds", values.seconds]),
    stderr: "inherit",
  }).output();
  if (!success) throw new Error("Cannot measure as a process of the measurement has failed");
  return JSON.parse(new TextDecoder().decode(stdout));
}

async function compare(): Promise<void> {
  const table = new Table({
    head: ["", "without polling", "with polling"],
    colAligns: ["left", "right", "right"],
    style: { head: [], border: [], compact: true },
  });
  const counter = ["--role", "count"];
  const alone = await start("0", counter);
  for (const load of ["none", "1 ms", "20 µs"] as const) {
    const shares: string[] = [];
    for (const polling of [[], ["--polling"]]) {
      const loop = start("0", ["--role", "serve", "--load", load, ...polling]);
      const { rate } = await start("0", counter);
      await loop;
      shares.push(`${(rate / alone.rate * 100).toFixed(0)} %`);
    }
    const events = load === "none" ? "without events" : `with an event every ${load}`;
    table.push([`left to a thread that shares its processor with a loop ${events}`, ...shares]);
  }
  for (const [processors, number] of [["0", "one"], ["0,1", "two"]]) {
    const rates: string[] = [];
    for (const polling of [[], ["--polling"]]) {
      const { rate } = await start(processors, ["--role", "serve", "--load", "guest", ...polling]);
      rates.push(Math.round(rate).toLocaleString("en-US"));
    }
    table.push([`requests a second, guest and loop on ${number} of them`, ...rates]);
  }
  console.log(machineLine(describeMachine()));
  console.log(table.toString());
}

if (values.role === "count") count();
else if (values.role === "serve") await serve(values.load as Load, values.polling);
else await compare();
