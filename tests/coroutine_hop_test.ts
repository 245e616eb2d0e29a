/**
 * Coroutines and bottom halves that hop between several contexts of one thread at random: nothing is
 * lost, and nothing runs twice.
 *
 * A coroutine either moves itself, or yields and is entered or scheduled by a bottom half. Each
 * order to go on is counted by who gives it and by who follows it.
 */
import { assert, assertEquals } from "@std/assert";
import { type AioContext, coEnter, coReschedule, type Coroutine, coSchedule } from "../mod.ts";
import { eachFdmon, type MakeContext } from "./each_fdmon.ts";
import { RandomNumbers } from "./random_model.ts";

const SEED = Number(Deno.env.get("AIO_TEST_SEED") ?? Math.floor(Math.random() * 2 ** 32));
const CONTEXTS = 5, COROUTINES = 40, HALVES = 20, HOPS = 2500;

class Hopping implements Disposable {
  readonly contexts: AioContext[];
  readonly #random = new RandomNumbers(SEED);
  readonly #coroutines: Coroutine<number>[];
  /** Those that have yielded, or do so before the next bottom half runs. */
  readonly #sleepers: Coroutine[] = [];
  /** Orders to go on that a coroutine has not followed yet. */
  readonly #ordered = new Map<Coroutine, number>();
  #done = false;
  halvesScheduled = 0;
  halvesRun = 0;
  entered = 0;

  constructor(makeContext: MakeContext) {
    this.contexts = Array.from({ length: CONTEXTS }, () => makeContext());
    for (const ctx of this.contexts) ctx.trace.on("aio_co_schedule_bh_cb", () => this.entered++);
    this.#coroutines = Array.from({ length: COROUTINES }, () => {
      const co = coSchedule(this.#anyContext(), (co) => this.#hop(co));
      this.#ordered.set(co, 1);
      return co;
    });
    for (let half = 0; half < HALVES; half++) this.#hopHalf();
  }

  async finish(): Promise<void> {
    const hops = await Promise.all(this.#coroutines.map((co) => co.join()));
    assertEquals(hops, Array(COROUTINES).fill(HOPS));
    this.#done = true;
  }

  #anyContext(): AioContext {
    return this.contexts[this.#random.below(CONTEXTS)];
  }

  async #hop(co: Coroutine): Promise<number> {
    this.#follow(co);
    let hops = 0;
    for (; hops < HOPS; hops++) {
      if (this.#random.once(2)) {
        const context = this.#anyContext();
        this.#ordered.set(co, 1);
        await coReschedule(context, co);
        assert(co.context === context, `AIO_TEST_SEED=${SEED}`);
      } else {
        this.#sleepers.push(co);
        await co.yield();
      }
      this.#follow(co);
    }
    return hops;
  }

  #follow(co: Coroutine): void {
    assertEquals(this.#ordered.get(co), 1, `AIO_TEST_SEED=${SEED}`);
    this.#ordered.set(co, 0);
  }

  /** A bottom half somewhere, which wakes some and hops on. */
  #hopHalf(): void {
    this.halvesScheduled++;
    this.#anyContext().scheduleOneshot(() => {
      this.halvesRun++;
      for (let wakes = this.#random.below(3); wakes > 0; wakes--) this.#wake();
      if (!this.#done) this.#hopHalf();
    });
  }

  #wake(): void {
    const co = this.#sleepers.splice(this.#random.below(this.#sleepers.length || 1), 1).at(0);
    if (co === undefined) return;
    this.#ordered.set(co, this.#ordered.get(co)! + 1);
    if (this.#random.once(2)) coEnter(co);
    else coSchedule(this.#anyContext(), co);
  }

  requireNothingLeft(): void {
    assertEquals(this.halvesRun, this.halvesScheduled);
    for (const ctx of this.contexts) {
      const { coroutines, bottomHalves } = ctx.stats();
      assertEquals([coroutines, bottomHalves, ctx.poll(false)], [0, 0, false]);
    }
    assertEquals([...this.#ordered.values()], Array(COROUTINES).fill(0));
    assert(this.entered > COROUTINES * HOPS / 2, `only ${this.entered} entered by a context`);
  }

  [Symbol.dispose](): void {
    for (const ctx of this.contexts) ctx[Symbol.dispose]();
  }
}

eachFdmon(
  "coroutines: hopping between polled contexts, nothing lost or run twice",
  async (make) => {
    using hopping = new Hopping(make);
    let finished = false;
    const finish = hopping.finish().finally(() => finished = true);
    while (!finished) {
      for (const ctx of hopping.contexts) ctx.poll(false);
      await new Promise((resolve) => setImmediate(resolve));
    }
    await finish;
    while (hopping.contexts.map((ctx) => ctx.poll(false)).includes(true));
    hopping.requireNothingLeft();
  },
);

eachFdmon("coroutines: hopping between contexts that run, the same", async (make) => {
  using hopping = new Hopping(make);
  const finish = hopping.finish();
  await Promise.all(hopping.contexts.map((ctx) => ctx.run(() => finish)));
  while (hopping.contexts.map((ctx) => ctx.poll(false)).includes(true));
  hopping.requireNothingLeft();
});
