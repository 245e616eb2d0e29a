/** Mutex and semaphore: nobody is let in beside another, and nobody gets ahead. */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { CoMutex, coSchedule, CoSemaphore } from "../mod.ts";
import { eachFdmon } from "./each_fdmon.ts";

eachFdmon("CoMutex: a counter of coroutines of three contexts loses nothing", async (make) => {
  const COROUTINES = 30, ROUNDS = 100;
  using first = make();
  using second = make();
  using third = make();
  const contexts = [first, second, third];
  const mutex = new CoMutex();
  let counter = 0, holders = 0;
  const workers = Array.from(
    { length: COROUTINES },
    (_, number) =>
      coSchedule(contexts[number % 3], async (co) => {
        for (let round = 0; round < ROUNDS; round++) {
          using _lock = await mutex.lock();
          assertEquals(++holders, 1);
          const before = counter;
          // Elsewhere, everybody else has a turn meanwhile.
          await co.reschedule(contexts[(number + round) % 3]);
          counter = before + 1;
          holders--;
        }
      }),
  );
  const all = Promise.all(workers.map((co) => co.join()));
  await Promise.all(contexts.map((ctx) => ctx.run(() => all)));
  assertEquals([counter, mutex.locked, mutex.waiting], [COROUTINES * ROUNDS, false, 0]);
});

Deno.test("CoMutex: hands over in the order of asking, and nobody gets in between", async () => {
  const mutex = new CoMutex();
  const order: string[] = [];
  const first = await mutex.lock();
  assert(mutex.locked);
  const enter = async (name: string) => {
    using _lock = await mutex.lock();
    order.push(name);
    await null;
  };
  const waiting = ["a", "b", "c"].map(enter);
  assertEquals([mutex.tryLock(), mutex.waiting], [null, 3]);
  first.release();
  // It belongs to a already, who has not had a turn yet.
  assertEquals([mutex.locked, mutex.tryLock(), mutex.waiting], [true, null, 2]);
  waiting.push(enter("late"));
  await Promise.all(waiting);
  assertEquals(order, ["a", "b", "c", "late"]);
  assertEquals(mutex.locked, false);
});

Deno.test("CoMutex: who need not wait goes on with the next promise job", async () => {
  const mutex = new CoMutex();
  const order: string[] = [];
  const lock = mutex.lock().then((permit) => (order.push("lock"), permit));
  const job = Promise.resolve().then(() => order.push("job"));
  await job;
  assertEquals(order, ["lock", "job"]);
  (await lock).release();
  const permit = mutex.tryLock();
  assert(permit !== null && mutex.locked);
  permit.release();
  assert(!mutex.locked);
});

Deno.test("CoPermit: released early and again by using, it is given back once", async () => {
  const mutex = new CoMutex();
  const other: unknown[] = [];
  {
    using lock = await mutex.lock();
    lock.release();
    other.push(mutex.tryLock());
    assert(other[0] !== null);
  }
  assert(mutex.locked, "the lock of another one was taken away");
});

Deno.test("CoMutex: an exception releases it", async () => {
  const mutex = new CoMutex();
  await assertRejects(async () => {
    using _lock = await mutex.lock();
    throw new Error("fault");
  });
  assert(!mutex.locked);
});

Deno.test("lock, acquire: a signal ends the waiting, the others keep their places", async () => {
  const mutex = new CoMutex();
  const lock = await mutex.lock();
  const controllers = [1, 2, 3].map(() => new AbortController());
  const waiting = controllers.map(({ signal }) => mutex.lock({ signal }));
  controllers[1].abort(new Error("enough"));
  await assertRejects(() => waiting[1], Error, "enough");
  assertEquals(mutex.waiting, 2);
  lock.release();
  // It has the lock already: the signal comes too late.
  controllers[0].abort();
  (await waiting[0]).release();
  (await waiting[2]).release();
  controllers[2].abort();
  assertEquals([mutex.locked, mutex.waiting], [false, 0]);
  const { signal } = controllers[1];
  await assertRejects(() => mutex.lock({ signal }), Error, "enough");
  const bad = { signal: 7 as unknown as AbortSignal };
  await assertRejects(() => mutex.lock(bad), TypeError, "Cannot acquire a permit as the signal");
  assert(!mutex.locked);
});

Deno.test("lock: leaves no listener at a signal, however the waiting ends", async () => {
  const controller = new AbortController();
  const { signal } = controller;
  let listeners = 0;
  const { addEventListener, removeEventListener } = signal;
  signal.addEventListener = (type: string, listener: EventListener) => {
    listeners++;
    addEventListener.call(signal, type, listener);
  };
  signal.removeEventListener = (type: string, listener: EventListener) => {
    listeners--;
    removeEventListener.call(signal, type, listener);
  };
  const mutex = new CoMutex();
  (await mutex.lock({ signal })).release();
  assertEquals(listeners, 0);
  const lock = await mutex.lock({ signal });
  const waiting = mutex.lock({ signal });
  assertEquals(listeners, 1);
  lock.release();
  (await waiting).release();
  assertEquals(listeners, 0);
});

Deno.test("CoSemaphore: never more than its permits, all of them used", async () => {
  const PERMITS = 3;
  const semaphore = new CoSemaphore(PERMITS);
  let busy = 0, most = 0, done = 0;
  await Promise.all(Array.from({ length: 50 }, async (_, number) => {
    using _permit = await semaphore.acquire();
    most = Math.max(most, ++busy);
    assert(busy <= PERMITS);
    for (let wait = number % 5; wait > 0; wait--) await null;
    busy--;
    done++;
  }));
  assertEquals([most, done, semaphore.free, semaphore.waiting], [PERMITS, 50, PERMITS, 0]);
});

Deno.test("CoSemaphore: release makes permits, first for those that wait", async () => {
  const semaphore = new CoSemaphore(0);
  assertEquals(semaphore.tryAcquire(), null);
  const order: number[] = [];
  const waiting = [1, 2].map((number) => semaphore.acquire().then(() => order.push(number)));
  semaphore.release(3);
  assertEquals([semaphore.free, semaphore.waiting], [1, 0]);
  await Promise.all(waiting);
  assertEquals(order, [1, 2]);
  semaphore.release(0);
  assertEquals(semaphore.free, 1);
});

Deno.test("CoSemaphore: bad counts are refused, nothing changes", () => {
  const make = (permits: unknown) => () => new CoSemaphore(permits as number);
  assertThrows(make(-1), RangeError, "not a whole number >= 0: -1");
  assertThrows(make(1.5), RangeError, "1.5");
  assertThrows(make("1"), TypeError, "the count is not a number: string");
  const semaphore = new CoSemaphore(Number.MAX_SAFE_INTEGER);
  assertThrows(() => semaphore.release(), RangeError, "Cannot release permits");
  assertThrows(() => semaphore.release(-1), RangeError, "-1");
  assertThrows(() => semaphore.release(NaN), RangeError, "NaN");
  assertEquals(semaphore.free, Number.MAX_SAFE_INTEGER);
});
