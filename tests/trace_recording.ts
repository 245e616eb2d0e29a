/** Records the trace events of a context, for the tests of them, and checks that they are paired. */
import { assert, assertEquals } from "@std/assert";
import type { AioContext, TraceName } from "../mod.ts";

/** All events. */
export const NAMES: readonly TraceName[] = [
  "iteration_begin",
  "iteration_end",
  "wait_begin",
  "wait_end",
  "callback_begin",
  "callback_end",
  "run_poll_handlers_begin",
  "run_poll_handlers_end",
  "poll_requests_begin",
  "poll_requests_end",
  "poll_shrink",
  "poll_grow",
  "poll_add",
  "poll_remove",
];
/** QEMU's rule, by which one event is enough to begin to poll; and no wait is too long for it. */
export const PARAMS = { maxNs: 1e15, idleNs: Infinity, weight: 0 };
const NEVER_NS = 30e9;

/** Records events as text, `name` and what is worth knowing of it, and checks their pairing. */
export class Recording {
  lines: string[] = [];
  readonly #open: string[] = [];
  readonly #stops: (() => void)[];

  constructor(ctx: AioContext, names: readonly TraceName[] = NAMES) {
    this.#stops = names.map((name) =>
      ctx.trace.on(name, (event) => {
        const { kind, fd = -1, blocking, progress, ready } = event as Record<string, unknown>;
        const what = kind ?? blocking ?? progress ?? ready ?? "";
        this.lines.push(`${name} ${what}${kind && fd !== -1 ? ` fd` : ""}`.trim());
        this.#pair(name, String(kind ?? ""));
      })
    );
  }

  /** The events since the last call. */
  take(): string[] {
    return this.lines.splice(0);
  }

  stop(): void {
    this.requirePaired();
    for (const stop of this.#stops) stop();
  }

  requirePaired(): void {
    assertEquals(this.#open, [], "begun and not ended");
  }

  #pair(name: TraceName, kind: string): void {
    const [, what, end] = /^(.*)_(begin|end)$/.exec(name) ?? [];
    if (end === "begin") this.#open.push(what + kind);
    else if (end === "end") assertEquals(this.#open.pop(), what + kind, "nested");
  }
}

/** Runs an iteration that has to end long before the watchdog's time. */
export function pollAwake(ctx: AioContext): boolean {
  let slept = false;
  const watchdog = ctx.timer(() => slept = true);
  watchdog.arm(ctx.now() + NEVER_NS);
  const progress = ctx.poll(true);
  assert(!slept, "the loop slept");
  watchdog.cancel();
  return progress;
}
