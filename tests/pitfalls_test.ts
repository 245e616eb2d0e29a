/** What went wrong in other loops, where no other test of this folder is named for it. */
import { assert, assertEquals } from "@std/assert";
import { closeSync, openSync } from "node:fs";
import { EventNotifier } from "../mod.ts";
import { eachFdmon } from "./each_fdmon.ts";
import { RandomNumbers } from "./random_model.ts";

const FDS = 4096;
const SEED = Number(Deno.env.get("AIO_TEST_SEED") ?? Math.floor(Math.random() * 2 ** 32));

eachFdmon(
  "setFdHandler: 4,096 fds added and removed in random order, exactly those run",
  (make) => {
    const random = new RandomNumbers(SEED);
    using ctx = make({ pollParams: { maxNs: 0 } });
    using stack = new DisposableStack();
    const notifiers = Array.from({ length: FDS }, () => stack.use(new EventNotifier()));
    const model = new Set<number>(), ran = new Set<number>();
    for (const notifier of notifiers) notifier.set();
    for (let round = 0; round < 8; round++) {
      for (let change = 0; change < FDS; change++) {
        const index = random.below(FDS);
        const added = random.below(2) === 0;
        const ioRead = () => ran.add(index);
        ctx.setFdHandler(notifiers[index].fd, added ? { ioRead } : null);
        if (added) model.add(index);
        else model.delete(index);
      }
      assertEquals(ctx.stats().handlers, model.size);
      // One wait of epoll brings so many events; all that are ready have their turn in the end.
      for (let poll = 0; poll < 100 && ran.size < model.size; poll++) ctx.poll(false);
      assertEquals(ran.size, model.size, `round ${round}, AIO_TEST_SEED=${SEED}`);
      for (const index of ran) assert(model.has(index), `round ${round}, AIO_TEST_SEED=${SEED}`);
      ran.clear();
    }
    for (const { fd } of notifiers) ctx.setFdHandler(fd, null);
  },
);

eachFdmon(
  "setFdHandler: an fd added while the backend changes is watched, so are the others",
  (make) => {
    using ctx = make({ pollParams: { maxNs: 0 } });
    using stack = new DisposableStack();
    const notifiers = Array.from({ length: 100 }, () => stack.use(new EventNotifier()));
    const ran = new Set<number>();
    const watch = (index: number) => {
      const notifier = notifiers[index];
      ctx.setFdHandler(notifier.fd, { ioRead: () => (notifier.testAndClear(), ran.add(index)) });
    };
    const file = openSync(new URL(import.meta.url), "r");
    for (let index = 0; index < 50; index++) watch(index);
    notifiers[0].set();
    // In the middle of a dispatch, an fd that epoll refuses; and more fds before and after it.
    ctx.setFdHandler(notifiers[0].fd, {
      ioRead: () => {
        notifiers[0].testAndClear();
        for (let index = 50; index < 75; index++) watch(index);
        ctx.setFdHandler(file, { ioRead: () => ctx.setFdHandler(file, null) });
        for (let index = 75; index < 100; index++) watch(index);
        watch(0);
      },
    });
    assert(ctx.poll(true));
    for (const notifier of notifiers) notifier.set();
    for (let poll = 0; poll < 20 && ran.size < 100; poll++) ctx.poll(false);
    assertEquals(ran.size, 100);
    ctx.setFdHandler(file, null);
    closeSync(file);
    for (const { fd } of notifiers) ctx.setFdHandler(fd, null);
  },
);

eachFdmon("setFdHandler: nothing piles up while nobody waits", (make) => {
  using ctx = make();
  using notifier = new EventNotifier();
  let runs = 0;
  const callbacks = { ioRead: () => (notifier.testAndClear(), runs++) };
  ctx.setFdHandler(notifier.fd, callbacks);
  ctx.poll(false);
  const before = ctx.stats().systemCalls;
  const changes = 20_000;
  for (let change = 0; change < changes; change++) {
    ctx.setFdHandler(notifier.fd, null);
    ctx.setFdHandler(notifier.fd, callbacks);
  }
  const { handlers, deleted, systemCalls } = ctx.stats();
  assertEquals([handlers, deleted], [1, 0]);
  // Each change looks whether the fd is open, and epoll is told of it; no queue has to be emptied.
  assert(systemCalls - before <= 3 * changes, `${systemCalls - before} calls`);
  notifier.set();
  for (let poll = 0; poll < 3 && runs === 0; poll++) ctx.poll(false);
  assertEquals(runs, 1);
  assert(ctx.stats().systemCalls - systemCalls <= 4);
  ctx.setFdHandler(notifier.fd, null);
});
