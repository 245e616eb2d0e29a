/**
 * The rules of Chrome's trace format, as far as traces here make use of it, checked on a whole file:
 * valid JSON, numbers finite, times that never go back on a track, each beginning with its end.
 */
import { assert, assertEquals } from "@std/assert";

/** One event, as read from a file. */
export interface TraceEvent {
  readonly ph: string;
  readonly name: string;
  readonly pid: number;
  readonly tid: number;
  /** In µs; M has none. */
  readonly ts: number;
  readonly dur?: number;
  readonly s?: string;
  readonly args: Readonly<Record<string, unknown>>;
}

/** Checks a trace and returns its events. */
export function requireTrace(text: string): TraceEvent[] {
  const { displayTimeUnit, traceEvents } = JSON.parse(text);
  assertEquals(displayTimeUnit, "ns");
  const tracks = new Map<string, { latest: number; open: string[] }>();
  for (const [index, event] of (traceEvents as TraceEvent[]).entries()) {
    const where = `event ${index}: ${JSON.stringify(event)}`;
    const { ph, name, pid, tid, ts, args } = event;
    assert(typeof name === "string" && name !== "", where);
    assert(Number.isSafeInteger(pid) && Number.isSafeInteger(tid), where);
    assert(typeof args === "object" && args !== null, where);
    if (ph === "M") {
      const value = name === "thread_sort_index" ? args.sort_index : args.name;
      assertEquals(typeof value, name === "thread_sort_index" ? "number" : "string", where);
      continue;
    }
    const key = `${pid} ${tid}`;
    const track = tracks.get(key) ?? { latest: 0, open: [] };
    tracks.set(key, track);
    assert(Number.isFinite(ts) && ts >= track.latest, `${where} after ${track.latest}`);
    track.latest = ts;
    if (ph === "B") track.open.push(name);
    else if (ph === "E") assertEquals(track.open.pop(), name, where);
    else if (ph === "X") assert(Number.isFinite(event.dur) && event.dur! >= 0, where);
    else if (ph === "i") assert(["g", "p", "t"].includes(event.s!), where);
    else if (ph === "C") assert(Object.values(args).every(Number.isFinite), where);
    else assert(false, `unknown phase: ${where}`);
  }
  for (const { open } of tracks.values()) assertEquals(open, [], "beginnings without an end");
  return traceEvents;
}

/** The names of the events of one phase, each once. */
export function namesOf(events: readonly TraceEvent[], phase: string): string[] {
  const names = events.filter(({ ph }) => ph === phase).map(({ name }) => name);
  return [...new Set(names)].sort();
}
