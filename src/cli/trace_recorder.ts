/**
 * Records the trace events of all contexts of this thread: into a file, and into a summary.
 *
 * It subscribes to every context as it is made, and lets go of all when the recording ends, from
 * when on the program runs as if it had never been traced. The file is made with the first event
 * and keeps only so many; the summary counts them all. What is not written yet is written before
 * the loop sleeps, in a small share of the time, so that little is lost where the process is
 * killed. A failure to write ends the recording and not the program.
 */
import { loadShim } from "../../ffi/library.ts";
import type { CallbackEvent, TracedCallback, TraceListener, TraceName } from "../../mod.ts";
import { SystemClock } from "../clock.ts";
import { observeContexts, type TracedContext } from "../trace.ts";
import { EVENTS_MAX, type TraceArguments, TraceFile, type Track } from "./trace_file.ts";
import { type Scope, Summary } from "./trace_summary.ts";

/** Writes before a sleep: so many in any case, and more as long as they take this share of time. */
const WRITES_FREE = 100;
const WRITE_SHARE = 0.05;

/** Events that are points in time. */
const INSTANTS = [
  "poll_add",
  "poll_remove",
  "poll_grow",
  "poll_shrink",
  "aio_co_schedule",
  "aio_co_schedule_bh_cb",
  "fdmon_io_uring_add_sqe",
  "fdmon_io_uring_cqe_handler",
] as const;

const SCOPE_OF: Readonly<Record<TracedCallback, Scope>> = {
  ioRead: "ioRead",
  ioWrite: "ioWrite",
  ioPollReady: "ioPollReady",
  ioPollBegin: "ioPollBegin",
  ioPollEnd: "ioPollEnd",
  notifier: "notifier",
  bottomHalf: "bottom half",
  timer: "timer",
  request: "request",
};

const NONE: TraceArguments = {};

/** What to record. */
export interface RecordingPlan {
  readonly path: string;
  /** What is traced, for the title. */
  readonly program: string;
  /** When to begin, counted from the first context, and for how long. */
  readonly afterSeconds: number;
  readonly seconds: number;
}

/** A context that is recorded. */
interface Recorded {
  readonly context: TracedContext;
  readonly track: Track;
  /** The values last written, by counter. */
  readonly counters: Record<"handlers" | "listed" | "ready", number>;
  waitScope: Scope;
}

/** Records until it is told to end, or the time is over. */
export class Recorder {
  readonly summary = new Summary();
  /** What went wrong with the file. */
  failure: unknown = null;
  readonly #plan: RecordingPlan;
  readonly #limit: number;
  readonly #now: () => number;
  #startNs = 0;
  #endNs = Infinity;
  readonly #unsubscribe: (() => void)[] = [];
  #file: TraceFile | null = null;
  #events = 0;
  #fullNs = 0;
  #began = false;
  #ended = false;
  #writes = 0;
  #writingNs = 0;

  /** Begins to observe. */
  constructor(plan: RecordingPlan, limit = EVENTS_MAX) {
    this.#plan = plan;
    this.#limit = limit;
    const clock = new SystemClock(loadShim());
    this.#now = () => clock.now();
    observeContexts((context) => this.#record(context));
  }

  /** Events in the file. */
  get events(): number {
    return this.#file?.events ?? this.#events;
  }

  /** Seconds of the recording after which the file was full; null where it is not. */
  get fullAfterSeconds(): number | null {
    return this.#fullNs === 0 ? null : (this.#fullNs - this.#startNs) / 1e9;
  }

  /** Writes what is not written yet, as the process may end; the recording goes on. */
  save(): void {
    if (this.#file !== null) this.#attempt((file) => file.flush());
  }

  /** Ends the recording; harmless when it has ended. */
  end(): void {
    if (this.#ended) return;
    this.#ended = true;
    observeContexts(null);
    for (const unsubscribe of this.#unsubscribe.splice(0)) unsubscribe();
    this.#events = this.events;
    try {
      this.#file?.close();
    } catch (error) {
      this.failure ??= error;
    }
    this.#file = null;
  }

  #record(context: TracedContext): void {
    this.#attempt(() => this.#open());
    if (this.#file === null) return;
    const number = ++this.summary.contexts;
    const recorded: Recorded = {
      context,
      track: this.#file.addTrack(`context ${number} (${context.fdmon.name})`),
      counters: { handlers: -1, listed: -1, ready: -1 },
      waitScope: "wait",
    };
    const on = <Name extends TraceName>(name: Name, listener: TraceListener<Name>) =>
      this.#unsubscribe.push(context.trace.on(name, listener));
    on("iteration_begin", ({ blocking }) => this.#begin(recorded, "iteration", { blocking }));
    on("iteration_end", ({ progress }) => this.#end(recorded, "iteration", { progress }));
    on("run_poll_handlers_begin", (event) => this.#begin(recorded, "poll mode", { ...event }));
    on("run_poll_handlers_end", (event) => this.#end(recorded, "poll mode", { ...event }));
    on("poll_requests_begin", (event) => this.#begin(recorded, "poll requests", { ...event }));
    on("poll_requests_end", (event) => this.#end(recorded, "poll requests", { ...event }));
    on("wait_begin", ({ timeoutNs }) => {
      recorded.waitScope = timeoutNs === 0 ? "wait, no sleep" : "wait";
      this.#begin(recorded, recorded.waitScope, { timeoutNs });
    });
    on("wait_end", ({ ready }) => this.#end(recorded, recorded.waitScope, { ready }));
    on("callback_begin", (event) => this.#begin(recorded, SCOPE_OF[event.kind], whose(event)));
    on("callback_end", (event) => this.#end(recorded, SCOPE_OF[event.kind], NONE));
    for (const name of INSTANTS) {
      on(name, (event) => this.#instant(recorded, name, { ...event }));
    }
  }

  #open(): void {
    if (this.#file !== null) return;
    const { path, program, afterSeconds } = this.#plan;
    this.#startNs = this.#now() + afterSeconds * 1e9;
    this.#file = new TraceFile(path, this.#startNs, program, this.#limit);
  }

  #begin(recorded: Recorded, scope: Scope, args: TraceArguments): void {
    const atNs = this.#now();
    // An iteration that runs already when the recording begins would be half a one.
    if (!this.#began && scope === "iteration" && atNs >= this.#startNs) {
      this.#began = true;
      this.#endNs = atNs + this.#plan.seconds * 1e9;
    }
    if (!this.#isRecording(atNs)) return;
    this.summary.begin(scope, atNs);
    this.#attempt((file) => {
      file.begin(recorded.track, scope, atNs, args);
      if (scope === "wait") this.#writeBeforeSleep(file, atNs);
    });
    this.summary.spentTracing(this.#now());
  }

  #end(recorded: Recorded, scope: Scope, args: TraceArguments): void {
    const atNs = this.#now();
    if (!this.#isRecording(atNs)) return;
    this.summary.end(scope, atNs);
    this.#attempt((file) => {
      file.end(recorded.track, scope, atNs, args);
      this.#count(recorded, file, atNs);
      if (file.full && this.#fullNs === 0) this.#fullNs = atNs;
    });
    this.summary.spentTracing(this.#now());
  }

  #instant(recorded: Recorded, name: string, args: TraceArguments): void {
    const atNs = this.#now();
    if (!this.#isRecording(atNs)) return;
    this.#attempt((file) => file.instant(recorded.track, name, atNs, args));
  }

  /** Sizes of lists, where they have changed. */
  #count(recorded: Recorded, file: TraceFile, atNs: number): void {
    if (file.full) return;
    const { counters, track } = recorded;
    const stats = recorded.context.stats();
    for (const name of ["handlers", "listed", "ready"] as const) {
      if (counters[name] === stats[name]) continue;
      counters[name] = stats[name];
      file.counter(track, name, atNs, stats[name]);
    }
  }

  #writeBeforeSleep(file: TraceFile, atNs: number): void {
    const allowedNs = (atNs - this.#startNs) * WRITE_SHARE;
    if (file.written || (this.#writes >= WRITES_FREE && this.#writingNs > allowedNs)) return;
    this.#writes++;
    file.flush();
    this.#writingNs += this.#now() - atNs;
  }

  #isRecording(atNs: number): boolean {
    if (this.#began && atNs >= this.#endNs) this.end();
    return this.#began && !this.#ended;
  }

  /** Does something with the file, which the traced program must not notice to fail. */
  #attempt(action: (file: TraceFile) => void): void {
    if (this.failure !== null) return;
    try {
      action(this.#file!);
    } catch (error) {
      this.failure = error;
      this.end();
    }
  }
}

function whose({ handler, fd, name }: CallbackEvent): TraceArguments {
  if (handler !== 0) return { fd, handler };
  return name === "" ? NONE : { name };
}
