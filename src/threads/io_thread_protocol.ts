/** What an IOThread and whoever started it tell each other. */
import type { FdmonName } from "../fdmon.ts";
import type { PollParams } from "../polling_time.ts";
import type { RemoteContext } from "../context_notifier.ts";
import type { AioStats } from "../context_types.ts";
import type { TraceName } from "../trace.ts";
import type { ExposedFunction } from "./link_end.ts";

/** Options of the thread's context. */
export interface ThreadContextOptions {
  /** The backend; the best that works where not given. */
  readonly fdmon?: FdmonName;
  /** How to poll; QEMU's defaults for what is not given. */
  readonly pollParams?: Partial<PollParams>;
  /** Path of a shim compiled from shim/, instead of the one in this package. */
  readonly shim?: string;
  /** Path of liburing.so.2 where the system's loader does not find it. */
  readonly liburing?: string;
}

/** The one message that goes to a new thread. */
export interface ThreadOrder {
  readonly module: string;
  readonly name: string;
  readonly data: unknown;
  readonly context: ThreadContextOptions;
  /** Processors to run on; any where there are none. */
  readonly processors: readonly number[];
}

/** What may follow it where the thread has no link yet, or none any more. */
export type ThreadEnding = "stop" | "terminate";

/** The messages that come from it; the last is always that it has ended. */
export type ThreadReport =
  /** With its number in the system. */
  | { readonly state: "born"; readonly thread: number }
  | { readonly state: "begun"; readonly remote: RemoteContext<ThreadControls> }
  | { readonly state: "started" }
  /** With what was thrown, encoded as in messages, which Deno's would make a plain Error of. */
  | { readonly state: "ended"; readonly error?: Uint8Array };

/** Functions that every thread exposes beside those of its module. */
export interface ThreadControls extends Readonly<Record<string, ExposedFunction>> {
  readonly "IOThread.stop": () => void;
  readonly "IOThread.terminate": () => void;
  readonly "IOThread.stats": () => AioStats;
  readonly "IOThread.setPollParams": (changes: Partial<PollParams>) => void;
  readonly "IOThread.trace": (to: RemoteContext, id: number, names: TraceName[]) => void;
  readonly "IOThread.untrace": (id: number) => void;
}

/** What whoever traces a thread exposes. */
export interface TraceReceiver extends Readonly<Record<string, ExposedFunction>> {
  readonly "IOThread.event": (id: number, name: TraceName, event: unknown, dropped: number) => void;
}
