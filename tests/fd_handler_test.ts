/** Handlers of fds: events, adding, replacing and deleting, on every backend by name. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { closeSync, mkdtempSync, openSync, rmSync } from "node:fs";
import { AioError, EventNotifier } from "../mod.ts";
import { eachFdmon } from "./each_fdmon.ts";

eachFdmon("setFdHandler: adding and removing an unset notifier is no progress", (makeContext) => {
  using ctx = makeContext();
  using notifier = new EventNotifier();
  ctx.setFdHandler(notifier.fd, { ioRead: () => notifier.testAndClear() });
  assertEquals(ctx.stats().handlers, 1);
  assert(!ctx.poll(false));
  ctx.setFdHandler(notifier.fd, null);
  assertEquals(ctx.stats().handlers, 0);
  assert(!ctx.poll(false));
});

eachFdmon("poll: a set notifier is one callback and progress, then none", (makeContext) => {
  using ctx = makeContext();
  using notifier = new EventNotifier();
  let runs = 0;
  ctx.setFdHandler(notifier.fd, {
    ioRead: () => {
      assert(notifier.testAndClear());
      runs++;
    },
  });
  assert(!ctx.poll(false));
  notifier.set();
  notifier.set();
  assert(ctx.poll(true));
  assertEquals(runs, 1);
  assert(!ctx.poll(false));
  assertEquals(runs, 1);
  notifier.set();
  assert(ctx.poll(false));
  assertEquals(runs, 2);
  ctx.setFdHandler(notifier.fd, null);
  notifier.set();
  assert(!ctx.poll(false));
  assertEquals(runs, 2);
});

eachFdmon("poll: two notifiers, exact counts", (makeContext) => {
  using ctx = makeContext();
  using first = new EventNotifier();
  using second = new EventNotifier();
  const runs = [0, 0];
  for (const [index, notifier] of [first, second].entries()) {
    ctx.setFdHandler(notifier.fd, {
      ioRead: () => {
        notifier.testAndClear();
        runs[index]++;
      },
    });
  }
  first.set();
  assert(ctx.poll(true));
  assertEquals(runs, [1, 0]);
  second.set();
  assert(ctx.poll(true));
  assertEquals(runs, [1, 1]);
  first.set();
  second.set();
  while (ctx.poll(false));
  assertEquals(runs, [2, 2]);
});

eachFdmon("poll: a callback that sets its notifier again runs once per poll", (makeContext) => {
  using ctx = makeContext();
  using notifier = new EventNotifier();
  let left = 10;
  ctx.setFdHandler(notifier.fd, {
    ioRead: () => {
      notifier.testAndClear();
      if (--left > 0) notifier.set();
    },
  });
  notifier.set();
  for (let expected = 9; expected >= 0; expected--) {
    assert(ctx.poll(true));
    assertEquals(left, expected);
  }
  assert(!ctx.poll(false));
});

eachFdmon("poll: level-triggered, an fd that stays ready is reported each time", (makeContext) => {
  using ctx = makeContext();
  using notifier = new EventNotifier();
  let runs = 0;
  ctx.setFdHandler(notifier.fd, { ioRead: () => runs++ });
  notifier.set();
  for (let expected = 1; expected <= 50; expected++) {
    assert(ctx.poll(expected % 2 === 0));
    assertEquals(runs, expected);
  }
});

eachFdmon("ioWrite: runs while writable, after ioRead of the same event", (makeContext) => {
  using ctx = makeContext();
  using notifier = new EventNotifier();
  const order: string[] = [];
  ctx.setFdHandler(notifier.fd, { ioWrite: () => order.push("write") });
  assert(ctx.poll(true));
  assertEquals(order, ["write"]);
  notifier.set();
  ctx.setFdHandler(notifier.fd, {
    ioRead: () => order.push("read"),
    ioWrite: () => order.push("write"),
  });
  assert(ctx.poll(true));
  assertEquals(order, ["write", "read", "write"]);
});

eachFdmon("poll: a hang-up runs ioRead, or ioWrite where there is no ioRead", (makeContext) => {
  using ctx = makeContext();
  for (const name of ["ioRead", "ioWrite"] as const) {
    using pipe = openPipe();
    let runs = 0;
    // The end that is watched hears of the other one being closed.
    const [watched, other] = name === "ioRead" ? [pipe.read, pipe.write] : [pipe.write, pipe.read];
    ctx.setFdHandler(watched, { [name]: () => runs++ });
    if (name === "ioRead") assert(!ctx.poll(false));
    pipe.close(other);
    runs = 0;
    assert(ctx.poll(true));
    assertEquals(runs, 1, name);
    ctx.setFdHandler(watched, null);
  }
});

eachFdmon("setFdHandler: a handler can delete itself", (makeContext) => {
  using ctx = makeContext();
  using notifier = new EventNotifier();
  let runs = 0;
  ctx.setFdHandler(notifier.fd, {
    ioRead: () => {
      runs++;
      ctx.setFdHandler(notifier.fd, null);
      assertEquals(ctx.stats().handlers, 0);
    },
    ioWrite: () => runs += 100,
  });
  notifier.set();
  assert(ctx.poll(true));
  assert(!ctx.poll(false));
  assertEquals([runs, ctx.stats().deleted], [1, 0]);
});

eachFdmon("setFdHandler: deletes another that is ready in the same round", (makeContext) => {
  using ctx = makeContext();
  using first = new EventNotifier();
  using second = new EventNotifier();
  const notifiers = [first, second];
  const runs: number[] = [];
  for (const [index, notifier] of notifiers.entries()) {
    ctx.setFdHandler(notifier.fd, {
      ioRead: () => {
        runs.push(index);
        ctx.setFdHandler(notifiers[1 - index].fd, null);
      },
    });
  }
  first.set();
  second.set();
  assert(ctx.poll(true));
  assertEquals([runs.length, ctx.stats().handlers], [1, 1]);
});

eachFdmon("setFdHandler: replaced in the own callback, the old one never runs", (makeContext) => {
  using ctx = makeContext();
  using notifier = new EventNotifier();
  const order: string[] = [];
  ctx.setFdHandler(notifier.fd, {
    ioRead: () => {
      order.push("old");
      ctx.setFdHandler(notifier.fd, { ioRead: () => order.push("new") });
    },
    ioWrite: () => order.push("never"),
  });
  notifier.set();
  assert(ctx.poll(true));
  assertEquals(order, ["old"]);
  assert(ctx.poll(true));
  assertEquals(order, ["old", "new"]);
});

eachFdmon("setFdHandler: an fd closed and its number reused at once", (makeContext) => {
  using ctx = makeContext();
  let runs = 0;
  for (let round = 0; round < 100; round++) {
    using first = new EventNotifier();
    const { fd } = first;
    ctx.setFdHandler(fd, { ioRead: () => runs += 1000 });
    if (round % 2 === 0) ctx.poll(false);
    first.set();
    ctx.setFdHandler(fd, null);
    first[Symbol.dispose]();
    using others = new DisposableStack();
    let second = others.use(new EventNotifier());
    // Deno may have closed a file with a lower number meanwhile.
    while (second.fd < fd) second = others.use(new EventNotifier());
    assertEquals(second.fd, fd, "somebody else has taken the number");
    ctx.setFdHandler(fd, { ioRead: () => (second.testAndClear(), runs++) });
    assert(!ctx.poll(false), `round ${round}: event of the file that is closed`);
    second.set();
    assert(ctx.poll(true));
    assertEquals(runs, round + 1);
    ctx.setFdHandler(fd, null);
  }
});

eachFdmon("setFdHandler: deleting what is not there does nothing", (makeContext) => {
  using ctx = makeContext();
  using notifier = new EventNotifier();
  ctx.setFdHandler(notifier.fd, null);
  ctx.setFdHandler(notifier.fd, {});
  ctx.setFdHandler(987_654, null);
  assertEquals(ctx.stats().handlers, 0);
});

eachFdmon("setFdHandler: an fd that is not open is refused, the old state kept", (makeContext) => {
  using ctx = makeContext();
  const error = assertThrows(() => ctx.setFdHandler(987_654, { ioRead() {} }), AioError);
  assertEquals([error.code, error.syscall], ["EBADF", "fcntl"]);
  assertEquals(ctx.stats().handlers, 0);
  assert(!ctx.poll(false));
});

eachFdmon(
  "poll: an fd closed under its handler is reported, the loop goes on",
  (makeContext, fdmon) => {
    using ctx = makeContext();
    using other = new EventNotifier();
    let runs = 0;
    ctx.setFdHandler(other.fd, { ioRead: () => (other.testAndClear(), runs++) });
    const closed = new EventNotifier();
    const { fd } = closed;
    ctx.setFdHandler(fd, { ioRead() {} });
    closed[Symbol.dispose]();
    // epoll forgets a closed fd by itself; the others meet it when they ask for its events.
    if (fdmon === "epoll") assert(!ctx.poll(false));
    else assertEquals(assertThrows(() => ctx.poll(false), AioError).code, "EBADF");
    other.set();
    assert(ctx.poll(true));
    assertEquals(runs, 1);
    ctx.setFdHandler(fd, null);
    assertEquals(ctx.stats().handlers, 1);
  },
);

eachFdmon(
  "setFdHandler: 1,000 fds, added and removed in random order against a model",
  (makeContext) => {
    const seed = Math.floor(Math.random() * 2 ** 31);
    const random = makeRandom(seed);
    using ctx = makeContext();
    using stack = new DisposableStack();
    const notifiers = Array.from({ length: 1000 }, () => stack.use(new EventNotifier()));
    const set = new Set<number>(), present = new Set<number>(), ran = new Set<number>();
    for (let step = 0; step < 20_000; step++) {
      const index = Math.floor(random() * notifiers.length);
      const notifier = notifiers[index];
      const action = random();
      if (action < 0.45) {
        ctx.setFdHandler(notifier.fd, {
          ioRead: () => {
            assert(notifier.testAndClear(), `seed ${seed}: not set`);
            assert(!ran.has(index), `seed ${seed}: twice in a round`);
            ran.add(index);
          },
        });
        present.add(index);
      } else if (action < 0.8) {
        ctx.setFdHandler(notifier.fd, null);
        present.delete(index);
      } else {
        notifier.set();
        set.add(index);
      }
      if (step % 500 === 499) {
        while (ctx.poll(false));
        const expected = [...set].filter((index) => present.has(index)).sort();
        assertEquals([...ran].sort(), expected, `seed ${seed}, step ${step}`);
        for (const index of ran) set.delete(index);
        ran.clear();
        assertEquals(ctx.stats().handlers, present.size);
      }
    }
  },
);

eachFdmon("poll: a regular file is always readable", (makeContext, fdmon) => {
  using ctx = makeContext();
  using notifier = new EventNotifier();
  let events = 0, reads = 0;
  ctx.setFdHandler(notifier.fd, { ioRead: () => (notifier.testAndClear(), events++) });
  const folder = mkdtempSync("/tmp/fd_handler_");
  const fd = openSync(`${folder}/file`, "w+");
  try {
    ctx.setFdHandler(fd, { ioRead: () => reads++ });
    assertEquals(ctx.fdmon.name, fdmon === "epoll" ? "poll" : fdmon);
    if (fdmon === "epoll") {
      assertEquals(ctx.fdmon.reason, `epoll cannot watch fd ${fd}, such as a regular file (EPERM)`);
    }
    assert(ctx.poll(true));
    assertEquals(reads, 1);
    notifier.set();
    assert(ctx.poll(true));
    assertEquals([events, reads], [1, 2]);
    ctx.setFdHandler(fd, null);
    assert(!ctx.poll(false));
  } finally {
    closeSync(fd);
    rmSync(folder, { recursive: true });
  }
});

eachFdmon("poll: an error of a handler comes after the others have run", (makeContext) => {
  using ctx = makeContext();
  using first = new EventNotifier();
  using second = new EventNotifier();
  let runs = 0;
  for (const notifier of [first, second]) {
    ctx.setFdHandler(notifier.fd, {
      ioRead: () => {
        notifier.testAndClear();
        runs++;
        throw new Error(`boom ${runs}`);
      },
    });
    notifier.set();
  }
  assertThrows(() => {
    while (ctx.poll(false));
  });
  while (runs < 2) assertThrows(() => ctx.poll(false), Error, "boom 2");
  assert(!ctx.poll(false));
});

/** A generator of numbers in [0, 1) that a seed repeats (mulberry32). */
function makeRandom(seed: number): () => number {
  return () => {
    seed = (seed + 0x6d2b_79f5) | 0;
    let mixed = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Both ends of a named pipe, which node:fs can open. */
function openPipe() {
  const folder = mkdtempSync("/tmp/fd_handler_");
  const path = `${folder}/pipe`;
  const { success } = new Deno.Command("mkfifo", { args: [path] }).outputSync();
  assert(success, "mkfifo failed");
  // Opening both ways does not wait for the other end.
  const both = openSync(path, "r+");
  const pipe = { read: openSync(path, "r"), write: openSync(path, "w") };
  closeSync(both);
  rmSync(folder, { recursive: true });
  const open = new Set([pipe.read, pipe.write]);
  return {
    ...pipe,
    close: (fd: number) => {
      open.delete(fd);
      closeSync(fd);
    },
    [Symbol.dispose]: () => open.forEach(closeSync),
  };
}
