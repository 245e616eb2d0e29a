/**
 * Where the time of iterations goes: counts and times of the scopes that a trace consists of.
 *
 * A scope's time is its own: what passes in a scope inside it is that one's. All contexts of a
 * thread share one stack, as one may be polled in a callback of another. The time that tracing
 * takes is kept apart from that of the scope it happens in, so shares are those of a loop that
 * nobody traces, or nearly so. Invariant: all that has passed between the first beginning and
 * `#latestNs` is in exactly one of the times.
 */
import Table from "cli-table3";
import { whole } from "./scale_report.ts";

/** What time can be spent in. */
export type Scope = typeof SCOPES[number];

const SCOPES = [
  "poll mode",
  "poll requests",
  "wait",
  "wait, no sleep",
  "ioRead",
  "ioWrite",
  "ioPollReady",
  "ioPollBegin",
  "ioPollEnd",
  "notifier",
  "bottom half",
  "timer",
  "request",
  "iteration",
] as const;

/** The time of an iteration that is in none of its scopes. */
const REST = "the rest";

/** A part of the summary; the form in which `--json` prints it. */
export interface SummaryPart {
  readonly part: string;
  readonly times: number;
  /** Of the time of all iterations, from 0 to 1. */
  readonly share: number;
  readonly meanUs: number;
  readonly usPerIteration: number;
}

/** The form in which `--json` prints a summary. */
export interface SummaryReport {
  readonly seconds: number;
  readonly contexts: number;
  readonly iterations: number;
  readonly usPerIteration: number;
  /** Of all time but that of tracing, from 0 to 1. */
  readonly outsideShare: number;
  /** Of all time, from 0 to 1. */
  readonly tracingShare: number;
  readonly parts: readonly SummaryPart[];
}

/** Accumulates times while a trace is recorded. */
export class Summary {
  contexts = 0;
  readonly #ownNs: Record<Scope, number> = zeroes();
  readonly #times: Record<Scope, number> = zeroes();
  readonly #open: Scope[] = [];
  #outsideNs = 0;
  #tracingNs = 0;
  #firstNs = -1;
  #latestNs = 0;

  /** A scope begins. */
  begin(scope: Scope, atNs: number): void {
    if (this.#firstNs === -1) this.#firstNs = this.#latestNs = atNs;
    this.#spend(atNs);
    this.#open.push(scope);
    this.#times[scope]++;
  }

  /** The innermost scope of this kind ends, and with it those inside. */
  end(scope: Scope, atNs: number): void {
    const depth = this.#open.lastIndexOf(scope);
    if (depth === -1) return;
    this.#spend(atNs);
    this.#open.length = depth;
  }

  /** What has passed since the last beginning or end was spent on tracing. */
  spentTracing(nowNs: number): void {
    if (this.#firstNs === -1) return;
    this.#tracingNs += nowNs - this.#latestNs;
    this.#latestNs = nowNs;
  }

  /** What has been found out so far. */
  report(): SummaryReport {
    const iterations = this.#times.iteration;
    const insideNs = SCOPES.reduce((sum, scope) => sum + this.#ownNs[scope], 0);
    const totalNs = insideNs + this.#outsideNs;
    const parts = SCOPES.filter((scope) => this.#times[scope] !== 0).map((scope) => ({
      part: scope === "iteration" ? REST : scope,
      times: this.#times[scope],
      share: ratio(this.#ownNs[scope], insideNs),
      meanUs: ratio(this.#ownNs[scope], this.#times[scope]) / 1e3,
      usPerIteration: ratio(this.#ownNs[scope], iterations) / 1e3,
    }));
    return {
      seconds: this.#firstNs === -1 ? 0 : (this.#latestNs - this.#firstNs) / 1e9,
      contexts: this.contexts,
      iterations,
      usPerIteration: ratio(insideNs, iterations) / 1e3,
      outsideShare: ratio(this.#outsideNs, totalNs),
      tracingShare: ratio(this.#tracingNs, totalNs + this.#tracingNs),
      parts,
    };
  }

  #spend(atNs: number): void {
    const passedNs = atNs - this.#latestNs;
    const scope = this.#open.at(-1);
    if (scope === undefined) this.#outsideNs += passedNs;
    else this.#ownNs[scope] += passedNs;
    this.#latestNs = atNs;
  }
}

/** The summary as a table and a sentence. */
export function summaryTable(report: SummaryReport): string {
  const rows = new Table({
    head: ["part of an\niteration", "\ntimes", "\nshare", "mean\nµs", "µs per\niteration"],
    colAligns: ["left", "right", "right", "right", "right"],
    style: { head: [], border: [], compact: true },
  });
  for (const { part, times, share, meanUs, usPerIteration } of report.parts) {
    rows.push([part, whole(times), percent(share), meanUs.toFixed(2), usPerIteration.toFixed(3)]);
  }
  return `${rows.toString()}\n` +
    `${whole(report.iterations)} iterations of ${report.usPerIteration.toFixed(2)} µs in ` +
    `${report.seconds.toFixed(2)} s, ${contexts(report)}. Of all time ` +
    `${percent(report.outsideShare)} passed outside poll(). Tracing took ` +
    `${percent(report.tracingShare)} more, which is not in the shares.`;
}

/** How many contexts there were, in words. */
export function contexts(report: SummaryReport): string {
  return report.contexts === 1 ? "1 context" : `${report.contexts} contexts`;
}

function percent(share: number): string {
  return `${(share * 100).toFixed(1)} %`;
}

function ratio(part: number, whole: number): number {
  return whole === 0 ? 0 : part / whole;
}

function zeroes(): Record<Scope, number> {
  return Object.fromEntries(SCOPES.map((scope) => [scope, 0])) as Record<Scope, number>;
}
