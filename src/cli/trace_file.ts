/**
 * A trace in Chrome's JSON format, which ui.perfetto.dev and chrome://tracing open.
 *
 * Events are written in the order they happen, so that times never go back on a track, and slices
 * as a beginning and an end, which are properly nested. The file is whole whenever the process may
 * be killed: each write ends with the ends of all open slices and of the JSON text, and the next
 * write begins where these began. Invariant: what is on disk up to `#end` is events, followed by
 * one tail; what is not written yet is `#pending`, at most a chunk of text and one event.
 */
import type { Scope } from "./trace_summary.ts";

/**
 * Events kept, about 50 MB of text: what a browser still opens in a few seconds. A busy loop makes
 * a million events a second.
 */
export const EVENTS_MAX = 500_000;

/** Text that is written at once. */
const CHUNK = 1 << 16;

/** What events can carry. */
export type TraceArguments = Readonly<Record<string, string | number | boolean>>;

/** One row of the timeline, with the slices that are open on it. */
export class Track {
  /** Its thread id in the file. */
  readonly id: number;
  /** From the outermost to the innermost. */
  readonly open: Scope[] = [];
  /** Time of its latest event, as text in µs. */
  latest = "0.000";

  constructor(id: number) {
    this.id = id;
  }
}

/** A trace file that is being written. */
export class TraceFile {
  /** Events taken. */
  events = 0;
  readonly #file: Deno.FsFile;
  readonly #limit: number;
  readonly #startNs: number;
  readonly #tracks: Track[] = [];
  readonly #encoder = new TextEncoder();
  #pending = "";
  /** Bytes before the tail. */
  #end = 0;

  /**
   * Makes the file, or empties it.
   *
   * @param startNs the time that is 0 in the file
   * @param program what was traced, for the title
   */
  constructor(path: string, startNs: number, program: string, limit: number) {
    this.#file = Deno.openSync(path, { write: true, create: true, truncate: true });
    this.#startNs = startNs;
    this.#limit = limit;
    // The only event without a comma before it.
    this.#pending = `{"displayTimeUnit":"ns","traceEvents":[\n${
      metadata("process_name", 0, { name: program })
    }`;
    this.flush();
  }

  /** No more events are taken. */
  get full(): boolean {
    return this.events >= this.#limit;
  }

  /** Nothing waits to be written. */
  get written(): boolean {
    return this.#pending === "";
  }

  /** Adds a row. */
  addTrack(name: string): Track {
    const track = new Track(this.#tracks.length + 1);
    this.#tracks.push(track);
    this.#pending += `,\n${metadata("thread_name", track.id, { name })}`;
    this.#pending += `,\n${metadata("thread_sort_index", track.id, { sort_index: track.id })}`;
    return track;
  }

  /** A slice begins. */
  begin(track: Track, scope: Scope, atNs: number, args: TraceArguments): void {
    if (!this.#take(track, atNs)) return;
    track.open.push(scope);
    this.#add("B", track, scope, args);
  }

  /** The innermost open slice of this name ends; so do those in it, which have lost their ends. */
  end(track: Track, scope: Scope, atNs: number, args: TraceArguments): void {
    if (!track.open.includes(scope) || !this.#take(track, atNs)) return;
    for (;;) {
      const open = track.open.pop()!;
      this.#add("E", track, open, open === scope ? args : {});
      if (open === scope) break;
    }
  }

  /** Something happened that takes no time. */
  instant(track: Track, name: string, atNs: number, args: TraceArguments): void {
    if (this.#take(track, atNs)) this.#add("i", track, name, args, ',"s":"t"');
  }

  /** A number has changed. Counters have a row each, told apart by the track's number. */
  counter(track: Track, name: string, atNs: number, value: number): void {
    if (!this.#take(track, atNs)) return;
    this.#add("C", track, `${name} (context ${track.id})`, { [name]: value });
  }

  /** Writes what is pending, and a tail after it. */
  flush(): void {
    const text = this.#encoder.encode(this.#pending);
    this.#pending = "";
    const tail = this.#encoder.encode(this.#tail());
    // This covers the old tail: each end in that stands in the text by now or in the new one.
    const bytes = new Uint8Array(text.length + tail.length);
    bytes.set(text);
    bytes.set(tail, text.length);
    this.#file.seekSync(this.#end, Deno.SeekMode.Start);
    for (let done = 0; done < bytes.length;) done += this.#file.writeSync(bytes.subarray(done));
    this.#end += text.length;
  }

  /** Writes the rest and closes the file. */
  close(): void {
    try {
      this.flush();
    } finally {
      this.#file.close();
    }
  }

  /** Whether an event is to be kept; one that is belongs to a time. */
  #take(track: Track, atNs: number): boolean {
    if (this.full) return false;
    this.events++;
    track.latest = ((atNs - this.#startNs) / 1e3).toFixed(3);
    return true;
  }

  #add(phase: string, track: Track, name: string, args: TraceArguments, more = ""): void {
    this.#pending += `,\n${line(phase, track, name, args, more)}`;
    if (this.#pending.length >= CHUNK) this.flush();
  }

  #tail(): string {
    let text = "";
    for (const track of this.#tracks) {
      for (const name of track.open.toReversed()) text += `,\n${line("E", track, name, {}, "")}`;
    }
    return `${text}\n]}\n`;
  }
}

function line(
  phase: string,
  track: Track,
  name: string,
  args: TraceArguments,
  more: string,
): string {
  return `{"ph":"${phase}","name":"${name}","pid":${Deno.pid},"tid":${track.id},` +
    `"ts":${track.latest}${more},"args":${JSON.stringify(args)}}`;
}

function metadata(name: string, thread: number, args: TraceArguments): string {
  return JSON.stringify({ ph: "M", name, pid: Deno.pid, tid: thread, args });
}
