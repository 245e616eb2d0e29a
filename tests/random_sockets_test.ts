/**
 * Random operations on many connections, against a plain model: how many bytes were sent each way.
 *
 * What goes one way is a known sequence of bytes, so each side knows what it must receive next,
 * however the pieces were cut. AIO_TEST_SEED repeats a run.
 */
import { assert, assertEquals } from "@std/assert";
import { type AioContext, AioError, type AioListener, type AioSocket } from "../mod.ts";
import { Random } from "./random_values.ts";
import { pattern } from "./test_files.ts";
import { abstractName, eachLoop, goOn, LOOPBACK, SEED } from "./test_sockets.ts";

const STEPS = 20_000, CONNECTIONS_MAX = 30, PIECE_MAX = 200_000;
/** One period of what is sent; no power of two, so that a lost page does not go unnoticed. */
const SEQUENCE = pattern(65_521);

/** Fills a view with what comes at this place of the sequence, or compares. */
function forEachPart(
  view: Uint8Array,
  place: number,
  part: (own: Uint8Array, expected: Uint8Array) => void,
): void {
  for (let at = 0; at < view.length;) {
    const from = (place + at) % SEQUENCE.length;
    const own = view.subarray(at, at + SEQUENCE.length - from);
    part(own, SEQUENCE.subarray(from, from + own.length));
    at += own.length;
  }
}

function fill(view: Uint8Array, place: number): void {
  forEachPart(view, place, (own, expected) => own.set(expected));
}

function check(view: Uint8Array, place: number): void {
  forEachPart(view, place, (own, expected) => {
    for (let at = 0; at < own.length; at++) {
      if (own[at] !== expected[at]) throw new Error(`wrong byte at ${place + at}`);
    }
  });
}

/** One direction of a connection. */
class Way {
  /** Bytes that the sends so far have to send, those that are sent, and those received. */
  planned = 0;
  sent = 0;
  received = 0;
  /** No more is sent. */
  ended = false;
  /** The sender has shut it down. */
  shut = false;
  /** The end was received. */
  over = false;
  /** Requests may have failed halfway: what is sent is not known. */
  broken = false;
  sends = 0;
  receives = 0;
}

/** One end of a connection. */
class End {
  closed = false;
  readonly pending = new Set<Promise<void>>();

  constructor(readonly socket: AioSocket, readonly out: Way, readonly incoming: Way) {}
}

/** Runs the steps on one context. */
class Actor {
  readonly #ctx: AioContext;
  readonly #random: Random;
  readonly #listeners: readonly AioListener[];
  readonly #connections: [End, End][] = [];
  #fault: unknown = null;
  bytes = 0;
  connections = 0;

  constructor(ctx: AioContext, random: Random, listeners: readonly AioListener[]) {
    this.#ctx = ctx;
    this.#random = random;
    this.#listeners = listeners;
  }

  async run(steps: number): Promise<void> {
    const random = this.#random;
    for (let step = 0; step < steps && this.#fault === null; step++) {
      if (this.#connections.length === 0 || random.once(100)) await this.#open();
      const connection = random.pick(this.#connections);
      this.#step(connection, connection[random.below(2)]);
      if (random.once(3)) await Promise.resolve();
      if (random.once(40)) await goOn(1);
      // Room for new ones, and no more requests than a test can wait for.
      if (this.#connections.length === CONNECTIONS_MAX) await this.#finish();
    }
    while (this.#connections.length !== 0) await this.#finish();
    if (this.#fault !== null) throw this.#fault;
  }

  async #open(): Promise<void> {
    const listener = this.#random.pick(this.#listeners);
    const accepted = listener.accept();
    const near = await this.#ctx.connect(listener.address);
    const there = new Way(), back = new Way();
    this.#connections.push([new End(near, there, back), new End(await accepted, back, there)]);
    this.connections++;
  }

  #step(connection: [End, End], end: End): void {
    const random = this.#random;
    if (end.closed) return;
    switch (random.below(14)) {
      case 0:
      case 1:
      case 2:
      case 3:
        return this.#send(end);
      case 4:
        if (!random.once(20) || end.out.ended || end.out.sends > 0) return;
        end.out.ended = end.out.shut = true;
        return end.socket.shutdown("write");
      case 5:
        if (random.once(40)) this.#drop(connection, end);
        return;
      default:
        return this.#receive(end);
    }
  }

  #size(): number {
    const random = this.#random;
    return 1 + random.below(random.once(30) ? PIECE_MAX : random.pick([4, 100, 5000]));
  }

  #view(): Uint8Array {
    const size = this.#size();
    return this.#random.once(2) ? new Uint8Array(size) : this.#ctx.buffers.allocate(size);
  }

  #send(end: End): void {
    const { out, socket } = end;
    // A send that may fall short leaves unknown what the next one has to send.
    if (out.ended || out.broken || out.sends > 3) return;
    const view = this.#view();
    fill(view, out.planned);
    const whole = out.sends > 0 || this.#random.once(2);
    out.sends++;
    out.planned += view.length;
    const control = this.#random.once(50) ? new AbortController() : null;
    const options = control === null ? {} : { signal: control.signal };
    const half = view.length >> 1;
    const send = whole
      ? socket.sendAll(view, options).then(() => view.length)
      : this.#random.once(2)
      ? socket.send(view, options)
      : socket.writev([view.subarray(0, half), view.subarray(half)], options);
    if (!whole) out.ended = true; // Until it is known.
    this.#track(
      end,
      send.then((count) => {
        out.sent += count;
        out.sends--;
        if (whole) return;
        out.planned -= view.length - count;
        out.ended = out.broken;
      }, (error) => {
        out.sends--;
        out.ended = out.broken = true;
        requireExpected(error, end, control);
      }),
    );
    if (control !== null && this.#random.once(2)) {
      // What is sent behind it comes in its place.
      out.ended = out.broken = true;
      control.abort();
    }
  }

  #receive(end: End): void {
    const { incoming, socket } = end;
    if (incoming.over || incoming.receives > 3) return;
    const view = this.#view();
    incoming.receives++;
    const control = this.#random.once(4) ? new AbortController() : null;
    const options = control === null ? {} : { signal: control.signal };
    const half = view.length >> 1;
    const receive = this.#random.once(3)
      ? socket.readv([view.subarray(0, half), view.subarray(half)], options)
      : socket.recv(view, options);
    this.#track(
      end,
      receive.then((count) => {
        incoming.receives--;
        if (!incoming.broken) check(view.subarray(0, count), incoming.received);
        incoming.received += count;
        this.bytes += count;
        assert(incoming.received <= incoming.planned || incoming.broken, "more than was sent");
        if (count === 0) incoming.over = true;
      }, (error) => {
        incoming.receives--;
        if (control === null || error !== control.signal.reason) incoming.over = true;
        requireExpected(error, end, control);
      }),
    );
    if (control !== null && this.#random.once(2)) control.abort();
  }

  /** Closes one end at once. */
  #drop([near, far]: [End, End], end: End): void {
    for (const one of [near, far]) one.out.broken = one.out.ended = true;
    end.closed = true;
    this.#track(end, end.socket.close());
  }

  /** Ends a connection and compares what came with what was sent. */
  async #finish(): Promise<void> {
    const { length } = this.#connections;
    const [connection] = this.#connections.splice(this.#random.below(length), 1);
    const dropped = connection.some(({ closed }) => closed);
    await Promise.all(connection.map((end) => this.#end(end)));
    for (const { out } of connection) {
      if (!out.broken && !dropped) assertEquals(out.received, out.sent, "all that was sent");
    }
    for (const end of connection) {
      end.closed = true;
      await end.socket.close();
      await Promise.all(end.pending);
    }
  }

  async #end(end: End): Promise<void> {
    const { out, incoming, socket } = end;
    const receiving = (async () => {
      while (!end.closed && !incoming.over) {
        this.#receive(end);
        await Promise.race(end.pending);
      }
    })();
    while (out.sends > 0) await Promise.race(end.pending);
    try {
      if (!end.closed && !out.shut) socket.shutdown("write");
    } catch (error) {
      requireExpected(error, end, null);
    }
    await receiving;
  }

  /** Remembers a promise, and what goes wrong. */
  #track({ pending }: End, promise: Promise<void>): void {
    const tracked = promise.catch((error) => void (this.#fault ??= error))
      .finally(() => pending.delete(tracked));
    pending.add(tracked);
  }
}

/** Errors that there have to be where ends are dropped and requests aborted. */
function requireExpected(error: unknown, end: End, control: AbortController | null): void {
  if (control !== null && error === control.signal.reason) return;
  const broken = end.out.broken || end.incoming.broken;
  if (end.closed && error instanceof AioError && error.code === "ECANCELED") return;
  const gone = ["EPIPE", "ECONNRESET", "ENOTCONN"];
  if (broken && error instanceof AioError && gone.includes(error.code)) return;
  throw error;
}

eachLoop(`AioSocket: random operations, as a model has it (AIO_TEST_SEED=${SEED})`, async (ctx) => {
  await using tcp = ctx.listen(LOOPBACK), local = ctx.listen(abstractName());
  const actor = new Actor(ctx, new Random(SEED), [tcp, local]);
  await actor.run(STEPS);
  assert(actor.connections > 50 && actor.bytes > 1e6, `${actor.connections}, ${actor.bytes}`);
});
