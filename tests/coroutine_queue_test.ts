/** The queue between coroutines: order, bounds, waiting on both sides, closing. */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { CoQueue, coSchedule } from "../mod.ts";
import { eachFdmon } from "./each_fdmon.ts";
import { RandomNumbers } from "./random_model.ts";

const SEED = Number(Deno.env.get("AIO_TEST_SEED") ?? Math.floor(Math.random() * 2 ** 32));

eachFdmon("CoQueue: producers and consumers of two contexts, nothing lost", async (make) => {
  const ITEMS = 500, PRODUCERS = 4;
  using first = make();
  using second = make();
  for (const capacity of [0, 1, 7, Infinity]) {
    const queue = new CoQueue<number>({ capacity });
    const popped: number[] = [];
    const producers = Array.from(
      { length: PRODUCERS },
      (_, producer) =>
        coSchedule(first, async (co) => {
          for (let item = 0; item < ITEMS; item++) {
            await queue.push(producer * ITEMS + item);
            assert(queue.size <= capacity);
            if (item % 50 === 0) await co.reschedule(first);
          }
        }),
    );
    const consumers = [0, 1, 2].map(() =>
      coSchedule(second, async (co) => {
        for await (const item of queue) {
          popped.push(item);
          if (item % 70 === 0) await co.reschedule(second);
        }
      })
    );
    const all = (async () => {
      await Promise.all(producers.map((co) => co.join()));
      queue.close();
      await Promise.all(consumers.map((co) => co.join()));
    })();
    await Promise.all([first.run(() => all), second.run(() => all)]);
    popped.sort((a, b) => a - b);
    assertEquals(popped, [...Array(PRODUCERS * ITEMS).keys()], `capacity ${capacity}`);
  }
});

Deno.test("CoQueue: like a plain array under random operations", () => {
  const random = new RandomNumbers(SEED);
  const queue = new CoQueue<number>({ capacity: 20 });
  const model: number[] = [];
  for (let step = 0; step < 5000; step++) {
    const where = `step ${step}, AIO_TEST_SEED=${SEED}`;
    // In turns more is pushed than popped, and the other way round.
    if (random.below(10) < (step % 200 < 100 ? 7 : 3)) {
      const fits = model.length < 20;
      assertEquals(queue.tryPush(step), fits, where);
      if (fits) model.push(step);
    } else {
      assertEquals(queue.tryPop(), model.shift(), where);
    }
    assertEquals(queue.size, model.length, where);
  }
});

Deno.test("CoQueue: an item goes to who waits longest, room too", async () => {
  const queue = new CoQueue<string>({ capacity: 1 });
  const order: string[] = [];
  const takers = [1, 2].map((taker) => queue.pop().then((item) => order.push(`${taker} ${item}`)));
  assert(queue.tryPush("a"));
  await queue.push("b");
  assertEquals(queue.size, 0);
  await Promise.all(takers);
  assertEquals(order, ["1 a", "2 b"]);

  await queue.push("c");
  const givers = ["d", "e"].map((item) =>
    queue.push(item).then(() => order.push(`pushed ${item}`))
  );
  assert(!queue.tryPush("rude"));
  assertEquals([await queue.pop(), queue.size], ["c", 1]);
  // The room belongs to d.
  assert(!queue.tryPush("rude"));
  assertEquals([queue.tryPop(), queue.tryPop(), queue.tryPop()], ["d", "e", undefined]);
  await Promise.all(givers);
  assertEquals(order.slice(2), ["pushed d", "pushed e"]);
});

Deno.test("CoQueue: close lets the rest be popped and tells those that wait", async () => {
  const full = new CoQueue<number>({ capacity: 1 });
  await full.push(1);
  const pushing = full.push(2);
  full.close();
  full.close();
  await assertRejects(() => pushing, TypeError, "Cannot push an item as the queue is closed");
  await assertRejects(() => full.push(3), TypeError, "Cannot push an item as the queue is closed");
  assertThrows(() => full.tryPush(3), TypeError, "Cannot push an item as the queue is closed");
  assertEquals([full.closed, await full.pop(), full.tryPop()], [true, 1, undefined]);
  await assertRejects(() => full.pop(), TypeError, "Cannot pop an item as the queue is closed");

  using empty = new CoQueue<number>();
  const popping = empty.pop();
  const iteration = Array.fromAsync(empty);
  empty.close();
  await assertRejects(() => popping, TypeError, "Cannot pop an item as the queue is closed");
  assertEquals(await iteration, []);
});

Deno.test("CoQueue: a signal ends the waiting, and the item is not in the queue", async () => {
  const queue = new CoQueue<number>({ capacity: 0 });
  const controller = new AbortController();
  const { signal } = controller;
  const pushing = queue.push(1, { signal });
  const kept = queue.push(2);
  controller.abort(new Error("enough"));
  await assertRejects(() => pushing, Error, "enough");
  assertEquals(await queue.pop(), 2);
  await kept;
  const second = new AbortController();
  const popping = queue.pop({ signal: second.signal });
  second.abort(new Error("enough"));
  await assertRejects(() => popping, Error, "enough");
  assertEquals([queue.tryPush(3), queue.tryPop()], [false, undefined]);
});

Deno.test("CoQueue: an iteration passes on what a promise in the queue rejects with", async () => {
  const queue = new CoQueue<Promise<never>>();
  const iteration = Array.fromAsync(queue);
  await queue.push(Promise.reject(new Error("fault")));
  queue.close();
  await assertRejects(() => iteration, Error, "fault");
});

Deno.test("CoQueue: bad capacities are refused", () => {
  for (const capacity of [-1, 0.5, NaN, -Infinity, "3"]) {
    const make = () => new CoQueue({ capacity: capacity as number });
    assertThrows(make, RangeError, `not a whole number >= 0: ${capacity}`);
  }
});
