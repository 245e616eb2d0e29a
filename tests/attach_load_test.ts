/**
 * An attached context and Deno, both loaded: events, reads, timers and requests to a server all get
 * on, until each has come as often as it has to. How long each took stands in a histogram, which is
 * shown where one of them was starved.
 */
import { assert } from "@std/assert";
import { type AioContext, EventNotifier } from "../mod.ts";
import { eachFdmon } from "./each_fdmon.ts";

/** How often each has to come. */
const ENOUGH = { events: 5_000, reads: 2_000, timers: 50, fetches: 50 } as const;
type Kind = keyof typeof ENOUGH;
const KINDS = Object.keys(ENOUGH) as Kind[];
/** Nobody needs as long who is not starved. */
const STARVED_MS = 40_000;
const TIMER_MS = 1;

/** How often something took so long, by powers of two of microseconds. */
class Histogram {
  readonly #counts = new Uint32Array(32);
  count = 0;

  add(elapsedMs: number): void {
    this.#counts[Math.max(0, Math.ceil(Math.log2(elapsedMs * 1e3)))]++;
    this.count++;
  }

  toString(): string {
    const shown = [...this.#counts].map((count, power) =>
      count === 0 ? "" : `${2 ** power} us: ${count}`
    );
    return shown.filter(Boolean).join(", ");
  }
}

/** Everything that goes on at once, until `done` says so. */
class Load {
  readonly histograms = Object.fromEntries(KINDS.map((kind) => [kind, new Histogram()])) as Record<
    Kind,
    Histogram
  >;
  readonly #startMs = performance.now();

  get starved(): boolean {
    return performance.now() - this.#startMs > STARVED_MS;
  }

  get done(): boolean {
    return this.starved || KINDS.every((kind) => this.histograms[kind].count >= ENOUGH[kind]);
  }

  /** Does something again and again, one at a time. */
  async repeat(kind: Kind, once: () => Promise<unknown>, expectedMs = 0): Promise<void> {
    while (!this.done) {
      const startMs = performance.now();
      await once();
      this.histograms[kind].add(Math.max(0, performance.now() - startMs - expectedMs));
    }
  }

  /** Events of an fd of the context, each of which is made by a callback of Deno's or of the one before. */
  events(ctx: AioContext, notifier: EventNotifier): void {
    let setMs = performance.now();
    ctx.setFdHandler(notifier.fd, {
      ioRead: () => {
        notifier.testAndClear();
        this.histograms.events.add(performance.now() - setMs);
        setMs = performance.now();
        if (!this.done) notifier.set();
      },
    });
    notifier.set();
  }
}

eachFdmon("attach: events, reads, timers and fetch are all served at once", async (makeContext) => {
  using ctx = makeContext();
  using notifier = new EventNotifier();
  const server = Deno.serve(
    { port: 0, hostname: "127.0.0.1", onListen() {} },
    () => new Response("x"),
  );
  const url = `http://127.0.0.1:${server.addr.port}/`;
  ctx.attach();
  const file = await ctx.openFile(new URL(import.meta.url));
  const buffer = ctx.buffers.allocate(512);
  const load = new Load();
  load.events(ctx, notifier);
  await Promise.all([
    load.repeat("reads", () => file.read(buffer, 0)),
    load.repeat("timers", () => new Promise((resolve) => setTimeout(resolve, TIMER_MS)), TIMER_MS),
    load.repeat("fetches", async () => await (await fetch(url)).text()),
  ]);
  ctx.setFdHandler(notifier.fd, null);
  await file.close(); // While somebody drives the context.
  ctx.detach();
  await server.shutdown();
  const shown = KINDS.map((kind) => `${kind}: ${load.histograms[kind]}`).join("\n");
  assert(!load.starved, shown);
});
