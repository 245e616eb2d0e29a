/**
 * The messages of one context: who may call it, whom it calls, and looking where something is new.
 *
 * Waking a context says that it has to look; the bits of its place on the board say at which links
 * (ffi/board.ts). They are taken in a bottom half of the iteration that accepts the wake-up, so
 * functions called from elsewhere run where bottom halves do, and what they throw comes out of
 * poll(). While a function runs, what is left stays listed, so that an iteration inside it goes on
 * with that. Made when the context first exposes or calls something, or is first sent something.
 *
 * Invariant: every link whose side this context is, and which has not ended, is in `#ends`, or has its
 * bit set.
 */
import { type Board, LINK_GROUPS, PlaceWord } from "../../ffi/board.ts";
import { type Link, Links, LinkSide, type PlaceOfContext } from "../../ffi/link.ts";
import type { Shim } from "../../ffi/shim_symbols.ts";
import type { AioContext } from "../aio_context.ts";
import type { BottomHalf } from "../bottom_half.ts";
import type { RemoteContext } from "../context_notifier.ts";
import { IntrusiveList } from "../intrusive_list.ts";
import {
  ClientEnd,
  type ExposedFunction,
  type LinkEnd,
  type LinkEndParts,
  ServerEnd,
} from "./link_end.ts";
import { RunningCalls } from "./running_calls.ts";

/** What messages need of their context. */
export interface ContextMessageParts {
  readonly shim: Shim;
  readonly board: Board;
  readonly place: PlaceOfContext;
  readonly signal: (fd: number) => void;
  readonly report: (error: unknown) => void;
  /** Receives what fails outside of iterations. */
  readonly reportLate: (error: unknown) => void;
  /** A call is outstanding. */
  readonly awaited: () => void;
  /** Makes a bottom half. */
  readonly bottomHalf: (run: () => void) => BottomHalf;
}

const messagesOf = new WeakMap<AioContext, ContextMessages>();

/** Settles when no call of a context by others is running. */
export async function callsSettled(context: AioContext): Promise<void> {
  await messagesOf.get(context)?.running.idle();
}

/** Links as this isolate sees them, for each shim. */
const linksOf = new WeakMap<Shim, Links>();

/** Messages of one context. */
export class ContextMessages {
  /** Calls by others that are not settled. */
  readonly running: RunningCalls = new RunningCalls();
  readonly #parts: ContextMessageParts;
  readonly #endParts: LinkEndParts;
  readonly #links: Links;
  readonly #look: BottomHalf;
  readonly #exposed = new Map<string, ExposedFunction>();
  readonly #ends = new Map<number, LinkEnd>();
  /** Those at which something is new. */
  readonly #listed = new IntrusiveList<LinkEnd>();
  readonly #find = (name: string): ExposedFunction | undefined => this.#exposed.get(name);

  constructor(parts: ContextMessageParts) {
    const { shim, board, signal, report, reportLate } = parts;
    this.#parts = parts;
    const leftOver = (end: LinkEnd) => {
      this.#list(end);
      this.#look.schedule();
    };
    this.#endParts = { board, signal, report, reportLate, running: this.running, leftOver };
    let links = linksOf.get(shim);
    if (links === undefined) linksOf.set(shim, links = new Links(shim));
    this.#links = links;
    this.#look = parts.bottomHalf(() => this.#takeAll());
  }

  /** Number of calls that have no result yet. */
  get outstanding(): number {
    let calls = 0;
    for (const end of this.#ends.values()) if (end instanceof ClientEnd) calls += end.outstanding;
    return calls;
  }

  /** A call was made. */
  called(): void {
    this.#parts.awaited();
  }

  /** Lets others call functions by their names. */
  expose(functions: Readonly<Record<string, ExposedFunction>>, context: AioContext): void {
    if (typeof functions !== "object" || functions === null) {
      throw new TypeError(`Cannot expose functions as they are no object: ${String(functions)}`);
    }
    messagesOf.set(context, this);
    const entries = Object.entries(functions);
    for (const [name, run] of entries) {
      if (typeof run !== "function") {
        throw new TypeError(`Cannot expose ${name} as it is not a function: ${typeof run}`);
      }
      if (this.#exposed.has(name)) {
        throw new TypeError(`Cannot expose ${name} as the context exposes such a function already`);
      }
    }
    for (const [name, run] of entries) this.#exposed.set(name, run);
  }

  /** Makes a link to another context. */
  connect(remote: RemoteContext): ClientEnd {
    const { place, board, signal } = this.#parts;
    if (remote.place === place.place && remote.generation === place.generation) {
      throw new TypeError("Cannot link a context with itself: call the function");
    }
    const link = this.#links.claim(place, remote);
    const end = new ClientEnd(this.#endParts, link);
    this.#ends.set(link.index, end);
    // A context that closes its place looks for its links afterwards, so one of both finds out.
    if (!board.wake(remote.place, remote.generation, signal, link.index)) {
      link.letGo(LinkSide.server, end.number);
      this.#end(end, ended("call a function"));
    }
    return end;
  }

  /** Closes a link; calls whose results are there have them. */
  close(end: ClientEnd): void {
    if (end.ended) return;
    end.closing = true;
    while (!end.read());
    this.#end(end, new TypeError("Cannot have the result as the peer is closed"));
  }

  /** A wake-up was accepted. */
  arrived(): void {
    if (this.#hasNews) this.#look.schedule();
  }

  get #hasNews(): boolean {
    const { board, place } = this.#parts;
    return Atomics.load(board.words, place.place + PlaceWord.groups) !== 0;
  }

  /** Ends all links; the place is closed. */
  dispose(): void {
    const error = new TypeError("Cannot have the result as the context is disposed");
    for (const end of [...this.#ends.values()]) this.#end(end, error);
    for (const link of this.#links.of(this.#parts.place)) {
      this.#end(new ServerEnd(this.#endParts, link, this.#find), error);
    }
  }

  #takeAll(): void {
    const listed = this.#listed;
    this.#takeBits();
    for (let turns = listed.size; turns > 0; turns--) {
      const end = listed.shift();
      if (end === null) break; // An iteration inside a function took the rest.
      if (listed.size !== 0) this.#look.schedule();
      this.#take(end);
    }
    if (listed.size !== 0) this.#look.schedule();
    else if (!this.#hasNews) this.#look.cancel();
  }

  #take(end: LinkEnd): void {
    // What the partner sent before it let go is read after that was seen.
    const { connected } = end;
    const all = end.read();
    if (end.ended) return;
    if (!all) this.#list(end);
    else if (end.place.list !== null) this.#listed.remove(end.place);
    if (all && !connected) this.#end(end, ended("have the result"));
  }

  /** Lists the links whose bits are set. */
  #takeBits(): void {
    const { board: { words }, place: { place } } = this.#parts;
    let groups = Atomics.exchange(words, place + PlaceWord.groups, 0);
    for (let group = 0; group < LINK_GROUPS && groups !== 0; group++, groups >>>= 1) {
      if ((groups & 1) === 0) continue;
      let bits = Atomics.exchange(words, place + PlaceWord.links + group, 0);
      while (bits !== 0) {
        const bit = 31 - Math.clz32(bits);
        bits &= ~(1 << bit);
        const end = this.#endOf(this.#links.at(group * 32 + bit));
        if (end !== null) this.#list(end);
      }
    }
  }

  #list(end: LinkEnd): void {
    if (end.place.list === null) this.#listed.append(end.place);
  }

  /** This context's side of a link; null where it has none any more. */
  #endOf(link: Link): LinkEnd | null {
    const known = this.#ends.get(link.index);
    if (known !== undefined) return known;
    // The bit of one that has ended meanwhile, or of one somebody else has now.
    if (link.sideOf(this.#parts.place) !== LinkSide.server) return null;
    const end = new ServerEnd(this.#endParts, link, this.#find);
    this.#ends.set(link.index, end);
    return end;
  }

  #end(end: LinkEnd, error: Error): void {
    end.ended = true;
    if (end.place.list !== null) this.#listed.remove(end.place);
    this.#ends.delete(end.link.index);
    this.#links.release(end.link, end.side, end.number);
    end.outlet.tell();
    if (end instanceof ClientEnd) end.fail(error);
    else end.outlet.end(error);
  }
}

function ended(verb: string): Error {
  return new TypeError(`Cannot ${verb} as the context of the other side is disposed`);
}
