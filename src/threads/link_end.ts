/**
 * One side of a link: takes messages out of the ring and does what they say.
 *
 * The client's side knows its outstanding calls, the server's which function each name stands for.
 * A name is sent once, by a message of its own, and is a number from then on. Whoever is told that
 * something is new reads until nothing is, up to a limit, so that one busy link does not keep others
 * waiting. Invariant: the values of a message are read before its room is given back and before
 * anybody's function runs.
 */
import {
  type Link,
  LinkSide,
  MESSAGE_HEAD,
  type MessageReader,
  MessageWord,
} from "../../ffi/link.ts";
import { ListLink } from "../intrusive_list.ts";
import { MessageDecoder } from "./message_decoder.ts";
import { areNumbers, MessageEncoder } from "./message_encoder.ts";
import {
  FORMAT_BITS,
  KIND_BITS,
  MessageFormat,
  MessageKind,
  MessageOutlet,
  type OutletParts,
} from "./message_outlet.ts";
import type { RunningCalls } from "./running_calls.ts";

/** Messages of one link that are taken before others have their turn. */
const MESSAGES_PER_TURN = 256;
/** Calls of one peer that may be outstanding. */
export const CALLS_MAX = 65_536;

const encoder = new MessageEncoder(), decoder = new MessageDecoder();

/** A function that is called from another thread. */
// deno-lint-ignore no-explicit-any
export type ExposedFunction = (...values: any[]) => unknown;

/** What a side of a link needs of its context. */
export interface LinkEndParts extends OutletParts {
  readonly running: RunningCalls;
  /** Receives what one-way functions throw. */
  readonly report: (error: unknown) => void;
  /** Receives what promises of one-way functions reject with, outside of iterations. */
  readonly reportLate: (error: unknown) => void;
  /** More is at hand for a side than the message whose function runs next. */
  readonly leftOver: (end: LinkEnd) => void;
}

/** What both sides have in common. */
export abstract class LinkEnd {
  readonly link: Link;
  /** Which pair of contexts this side belongs to. */
  readonly number: number;
  readonly side: LinkSide;
  readonly outlet: MessageOutlet;
  /** Its place on the list of those that have to be looked at. */
  readonly place: ListLink<LinkEnd> = new ListLink<LinkEnd>(this);
  ended = false;
  readonly #leftOver: (end: LinkEnd) => void;
  readonly #reader: MessageReader;
  #parts: Uint8Array[] = [];

  constructor(parts: LinkEndParts, link: Link, side: LinkSide) {
    this.#leftOver = parts.leftOver;
    this.link = link;
    this.number = link.number;
    this.side = side;
    this.outlet = new MessageOutlet(parts, link, side);
    this.#reader = link.reader(side);
  }

  /** Whether the partner holds the link. */
  get connected(): boolean {
    return this.link.isHeldBy(
      LinkSide.client + LinkSide.server - this.side as LinkSide,
      this.number,
    );
  }

  /**
   * Takes what is new.
   *
   * @returns false where there may be more
   */
  read(): boolean {
    if (this.outlet.backlogged) this.outlet.flush();
    let taken = 0;
    for (; taken < MESSAGES_PER_TURN && !this.ended; taken++) {
      const at = this.#reader.next();
      if (at === -1) break;
      this.#take(at);
    }
    if (taken !== 0 && !this.ended && this.#reader.free()) this.outlet.tell();
    return taken < MESSAGES_PER_TURN;
  }

  /** A message of numbers alone, which still stand in the ring; `release` is called once they are read. */
  protected abstract takeNumbers(
    kind: number,
    call: number,
    name: number,
    count: number,
    f64: Float64Array<ArrayBuffer>,
    first: number,
    release: number,
  ): void;

  /** A message of any values. */
  protected abstract takeValues(
    kind: number,
    call: number,
    name: number,
    values: unknown[],
  ): void;

  /** Goes on behind a message whose values are read. */
  protected release(at: number): void {
    this.#reader.take(at);
  }

  /** A function is about to run: an iteration inside it takes what follows. */
  protected leaveOver(): void {
    if (this.#reader.hasNext) this.#leftOver(this);
  }

  #take(at: number): void {
    const { i32, f64 } = this.#reader.views;
    const word = at >> 2;
    const bits = i32[word + MessageWord.kind];
    const kind = bits & (1 << KIND_BITS) - 1;
    const format = bits >> KIND_BITS & (1 << FORMAT_BITS) - 1;
    const count = bits >>> KIND_BITS + FORMAT_BITS;
    const call = i32[word + MessageWord.call], name = i32[word + MessageWord.name];
    if (format === MessageFormat.numbers && kind !== MessageKind.part) {
      return this.takeNumbers(kind, call, name, count, f64, at + MESSAGE_HEAD >> 3, at);
    }
    const bytes = this.#reader.views.u8.subarray(
      at + MESSAGE_HEAD,
      at + i32[word + MessageWord.length],
    );
    if (kind === MessageKind.part) {
      this.#parts.push(bytes.slice());
      return this.release(at);
    }
    const whole = format & MessageFormat.parts ? this.#join(bytes) : bytes;
    const values = format & MessageFormat.encoded
      ? decoder.decode(whole, count)
      : Array.from(new Float64Array(whole.buffer, 0, count));
    this.release(at);
    this.takeValues(kind, call, name, values);
  }

  #join(last: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
    const parts = [...this.#parts, last];
    this.#parts = [];
    const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
    let at = 0;
    for (const part of parts) {
      whole.set(part, at);
      at += part.length;
    }
    return whole;
  }
}

/** Calls that wait for their results. */
interface Outstanding {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: unknown) => void;
}

/** The side that calls. */
export class ClientEnd extends LinkEnd {
  /** What is read is read outside of iterations. */
  closing = false;
  readonly #report: (error: unknown) => void;
  readonly #reportLate: (error: unknown) => void;
  readonly #names = new Map<string, number>();
  readonly #calls: (Outstanding | null)[] = [];
  readonly #freeCalls: number[] = [];
  /** Number of calls without a result yet. */
  outstanding = 0;

  constructor(parts: LinkEndParts, link: Link) {
    super(parts, link, LinkSide.client);
    this.#report = parts.report;
    this.#reportLate = parts.reportLate;
  }

  /** Sends a message that nobody answers; false where others still wait for room. */
  send(name: string, values: readonly unknown[]): boolean {
    if (this.outlet.backlogged) {
      this.outlet.flush();
      if (this.outlet.backlogged) return false;
    }
    this.#message(MessageKind.send, 0, name, values);
    return true;
  }

  /** Sends a message and hands its result on. */
  call(name: string, values: readonly unknown[]): Promise<unknown> {
    if (this.outstanding === CALLS_MAX) {
      throw new RangeError(`Cannot call ${name} as ${CALLS_MAX} calls have no result yet`);
    }
    const call = this.#freeCalls.pop() ?? this.#calls.push(null) - 1;
    try {
      this.#message(MessageKind.call, call, name, values);
    } catch (error) {
      this.#freeCalls.push(call);
      throw error;
    }
    this.outstanding++;
    return new Promise((resolve, reject) => this.#calls[call] = { resolve, reject });
  }

  /** Has all calls fail. */
  fail(error: Error): void {
    this.outlet.end(error);
    for (const outstanding of this.#calls) outstanding?.reject(error);
    this.#calls.fill(null);
    this.outstanding = 0;
  }

  protected takeNumbers(
    kind: number,
    call: number,
    _name: number,
    count: number,
    f64: Float64Array<ArrayBuffer>,
    first: number,
    release: number,
  ): void {
    const value = count === 0 ? undefined : f64[first];
    this.release(release);
    this.#settle(kind, call, value);
  }

  protected takeValues(kind: number, call: number, _name: number, values: unknown[]): void {
    this.#settle(kind, call, values[0]);
  }

  #settle(kind: number, call: number, value: unknown): void {
    if (call === -1) return this.closing ? this.#reportLate(value) : this.#report(value);
    const outstanding = this.#calls[call]!;
    this.#calls[call] = null;
    this.#freeCalls.push(call);
    this.outstanding--;
    if (kind === MessageKind.error) outstanding.reject(value);
    else outstanding.resolve(value);
  }

  #message(kind: number, call: number, name: string, values: readonly unknown[]): void {
    const number = this.#names.get(name) ?? this.#nameNew(name);
    if (areNumbers(values)) return this.outlet.numbers(kind, call, number, values);
    const bytes = encoder.encode(values);
    // A getter of a value may have ended everything; the link may be somebody else's by now.
    if (this.ended) throw new TypeError(`Cannot send ${name} as the link was closed meanwhile`);
    this.outlet.encoded(kind, call, number, values.length, bytes);
  }

  #nameNew(name: string): number {
    const number = this.#names.size;
    this.outlet.encoded(MessageKind.name, 0, number, 1, encoder.encode([name]));
    this.#names.set(name, number);
    return number;
  }
}

/** The side that is called. */
export class ServerEnd extends LinkEnd {
  readonly #find: (name: string) => ExposedFunction | undefined;
  readonly #report: (error: unknown) => void;
  readonly #reportLate: (error: unknown) => void;
  readonly #running: RunningCalls;
  readonly #names: string[] = [];
  readonly #functions: (ExposedFunction | undefined)[] = [];

  /** @param find the function of a name, if there is one */
  constructor(
    parts: LinkEndParts,
    link: Link,
    find: (name: string) => ExposedFunction | undefined,
  ) {
    super(parts, link, LinkSide.server);
    this.#find = find;
    this.#running = parts.running;
    this.#report = parts.report;
    this.#reportLate = parts.reportLate;
  }

  protected takeNumbers(
    kind: number,
    call: number,
    name: number,
    count: number,
    f64: Float64Array<ArrayBuffer>,
    first: number,
    release: number,
  ): void {
    const run = this.#functions[name] ??= this.#find(this.#names[name]);
    if (run === undefined || count > 3) {
      const values = Array.from(f64.subarray(first, first + count));
      this.release(release);
      return this.takeValues(kind, call, name, values);
    }
    const a = f64[first], b = f64[first + 1], c = f64[first + 2];
    this.release(release);
    this.leaveOver();
    try {
      if (count === 0) this.#answer(kind, call, run());
      else if (count === 1) this.#answer(kind, call, run(a));
      else if (count === 2) this.#answer(kind, call, run(a, b));
      else this.#answer(kind, call, run(a, b, c));
    } catch (error) {
      this.#failed(kind, call, error);
    }
  }

  protected takeValues(kind: number, call: number, name: number, values: unknown[]): void {
    if (kind === MessageKind.name) {
      this.#names[name] = String(values[0]);
      return;
    }
    const run = this.#functions[name] ??= this.#find(this.#names[name]);
    if (run === undefined) {
      const error = new TypeError(
        `Cannot call ${this.#names[name]} as the context exposes no function of that name`,
      );
      return this.#reply(MessageKind.error, kind === MessageKind.call ? call : -1, error);
    }
    this.leaveOver();
    try {
      this.#answer(kind, call, run(...values));
    } catch (error) {
      this.#failed(kind, call, error);
    }
  }

  #answer(kind: number, call: number, result: unknown): void {
    if (typeof result === "object" && result !== null && "then" in result) {
      this.#running.begin();
      // Not Promise.resolve, which may throw where a getter does.
      new Promise((resolve) => resolve(result)).then(
        (value) => {
          this.#running.end();
          if (kind === MessageKind.call) this.#reply(MessageKind.result, call, value);
        },
        (error) => {
          this.#running.end();
          if (kind === MessageKind.call) this.#reply(MessageKind.error, call, error);
          else this.#reportLate(error);
        },
      );
    } else if (kind === MessageKind.call) this.#reply(MessageKind.result, call, result);
  }

  /** What a one-way function throws is its own context's matter, as of any callback. */
  #failed(kind: number, call: number, error: unknown): void {
    if (kind === MessageKind.call) this.#reply(MessageKind.error, call, error);
    else this.#report(error);
  }

  #reply(kind: number, call: number, value: unknown): void {
    if (this.ended) return;
    if (typeof value === "number") return this.outlet.numbers(kind, call, 0, [value]);
    if (value === undefined) return this.outlet.numbers(kind, call, 0, []);
    let bytes: Uint8Array;
    try {
      bytes = encoder.encode([value]);
    } catch (error) {
      kind = MessageKind.error;
      const problem = error instanceof Error ? error.message : "reading it failed";
      bytes = encoder.encode([new TypeError(`Cannot answer a call: ${problem}`)]);
    }
    if (this.ended) return; // By a getter of the value.
    this.outlet.encoded(kind, call, 0, 1, bytes);
  }
}
