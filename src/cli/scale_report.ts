/**
 * What `scale` tells: the machine, a progress line, the table and the sentence under it.
 *
 * It only words what was measured; nothing is measured or rounded away here but for display.
 */
import { cpus } from "node:os";
import Table from "cli-table3";
import type { ProgressListener } from "./scale_progress.ts";
import type { Run, RunPlan } from "./scale_run.ts";

/** Where the measurement was made. */
export interface Machine {
  readonly cpu: string;
  readonly cpus: number;
  readonly kernel: string;
  readonly memoryGiB: number;
}

/** Everything `scale` has found out; the form of `--json`. */
export interface Report {
  readonly machine: Machine;
  readonly runs: readonly Run[];
}

const GIB = 1024 ** 3;
const ERASE_LINE = "\r\x1b[K";

/** Describes the machine this runs on. */
export function describeMachine(): Machine {
  return {
    cpu: cpus()[0]?.model.trim() || Deno.build.arch,
    cpus: navigator.hardwareConcurrency,
    kernel: Deno.osRelease(),
    memoryGiB: Math.round(Deno.systemMemoryInfo().total / GIB * 10) / 10,
  };
}

/** One line about the load and how it is served. */
export function workloadLine(
  report: Report,
  load: { blockSize: number; depth: number; vhost: boolean },
): string {
  const { fdmon, poll } = report.runs[0];
  return `random reads of ${whole(load.blockSize)} bytes at depth ${load.depth}, ` +
    `${fdmon} backend, handlers polled by ${poll}` +
    (load.vhost ? ", disks over vhost-user" : "");
}

/** One line about a machine. */
export function machineLine(machine: Machine): string {
  return `${machine.cpu}, ${machine.cpus} CPUs, ${machine.memoryGiB} GiB, Linux ${machine.kernel}`;
}

/** The measurements as a table. */
export function table(report: Report, { vhost }: { vhost: boolean }): string {
  const rows = new Table({
    head: [
      "idle\nhandlers",
      "\nremoval",
      "\nIOPS",
      "µs per\nrequest",
      "p99\nµs",
      "kicks per\nrequest",
      "system calls\nper request",
      "time\npolling",
    ],
    colAligns: ["right", "left", "right", "right", "right", "right", "right", "right"],
    style: { head: [], border: [], compact: true },
  });
  for (const run of report.runs) {
    rows.push([
      whole(run.idleHandlers),
      run.removal ? "on" : "off",
      whole(run.iops),
      run.usPerRequest.toFixed(2),
      run.p99Us.toFixed(1),
      run.kicksPerRequest.toFixed(4),
      run.syscallsPerRequest.toFixed(4),
      `${(run.pollShare * 100).toFixed(0)} %`,
    ]);
  }
  return `${rows.toString()}\n` +
    "System calls are those of the loop and its notifiers; " +
    (vhost ? "the one that reads the data is among them." : "each request also reads its data.");
}

/** What the runs show, in one sentence each way. */
export function conclusion(report: Report): string {
  const last = report.runs[report.runs.length - 1];
  const on = report.runs.find((run) => run.removal && run.idleHandlers === last.idleHandlers);
  const off = report.runs.find((run) => !run.removal && run.idleHandlers === last.idleHandlers);
  if (on === undefined || off === undefined) {
    return `${whole(last.iops)} requests a second beside ${
      whole(last.idleHandlers)
    } idle handlers.`;
  }
  if (on.fdmon !== "io_uring") {
    return `The ${on.fdmon} backend keeps all idle handlers on the poll list, so removal has no ` +
      "effect; io_uring is needed for it.";
  }
  return `Removing idle poll handlers makes the busy device ${(on.iops / off.iops).toFixed(1)} ` +
    `times as fast beside ${whole(on.idleHandlers)} idle handlers: ${whole(on.iops)} instead of ` +
    `${whole(off.iops)} requests a second.`;
}

/** A line on the standard error that is rewritten at a terminal. */
export class ProgressLine {
  readonly terminal: boolean = Deno.stderr.isTerminal();
  readonly #encoder = new TextEncoder();

  /** Shows a text instead of the last one, or after it where there is no terminal. */
  show(text: string): void {
    this.#write(this.terminal ? `${ERASE_LINE}${text}` : `${text}\n`);
  }

  /** The same for what changes often: nothing where there is no terminal. */
  update(text: string): void {
    if (this.terminal) this.show(text);
  }

  /** Removes the line again. */
  end(): void {
    if (this.terminal) this.#write(ERASE_LINE);
  }

  #write(text: string): void {
    Deno.stderr.writeSync(this.#encoder.encode(text));
  }
}

/** Tells which of several measurements is being made. */
export class Progress {
  readonly #line = new ProgressLine();
  readonly #total: number;
  #number = 0;

  /** @param total measurements to come */
  constructor(total: number) {
    this.#total = total;
  }

  /**
   * Announces the next measurement.
   *
   * @returns what to call while it runs; null where there is no terminal to rewrite a line on
   */
  begin(plan: RunPlan): ProgressListener | null {
    const title = `[${++this.#number}/${this.#total}] ${whole(plan.idleHandlers)} idle handlers, ` +
      `removal ${plan.removal ? "on" : "off"}`;
    this.#line.show(this.#line.terminal ? `${title}: adding handlers` : title);
    if (!this.#line.terminal) return null;
    return (phase, secondsLeft) =>
      this.#line.show(`${title}: ${phase}, ${Math.ceil(secondsLeft)} s left`);
  }

  /** Removes the line again. */
  end(): void {
    this.#line.end();
  }
}

/** A whole number with separators, as 1,234. */
export function whole(value: number): string {
  return Math.round(value).toLocaleString("en-US");
}
