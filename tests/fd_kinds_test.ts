/** Files of all kinds, and fds that are closed or somebody else's while they are watched. */
import { assert, assertEquals } from "@std/assert";
import { type AioContext, AioError, EventNotifier, type FdmonName } from "../mod.ts";
import { eachFdmon } from "./each_fdmon.ts";
import { libc, makePair, openPath } from "./libc.ts";

const LOST_NS = 20e9;

/** Polls until it is so; an event that never comes is a failure and not a hang. */
function pollUntil(ctx: AioContext, done: () => boolean): void {
  let lost = false;
  const watchdog = ctx.timer(() => lost = true);
  watchdog.arm(ctx.now() + LOST_NS);
  while (!done()) {
    ctx.poll(true);
    assert(!lost, "an event was lost");
  }
  watchdog.cancel();
}

const ALWAYS_READY: readonly [kind: string, open: () => number][] = [
  ["a regular file", () => openPath(Deno.execPath(), 0)],
  ["a directory", () => openPath("/", 0)],
  ["/dev/null", () => openPath("/dev/null")],
  ["/dev/zero", () => openPath("/dev/zero")],
];

for (const [kind, open] of ALWAYS_READY) {
  eachFdmon(`setFdHandler: ${kind} is always ready, beside an fd that is not`, (makeContext) => {
    using ctx = makeContext();
    using notifier = new EventNotifier();
    let events = 0, notified = 0;
    ctx.setFdHandler(notifier.fd, { ioRead: () => (notifier.testAndClear(), notified++) });
    const fd = open();
    ctx.setFdHandler(fd, { ioRead: () => events++ });
    for (let round = 1; round <= 20; round++) {
      if (round % 2 === 0) notifier.set();
      pollUntil(ctx, () => events >= round && notified >= Math.floor(round / 2));
    }
    assertEquals(notified, 10);
    // epoll refuses what is no file to wait for: the context goes on with poll.
    assert(ctx.fdmon.name !== "epoll");
    ctx.setFdHandler(fd, null);
    libc.close(fd);
    events = 0;
    for (let round = 0; round < 3; round++) assert(!ctx.poll(false));
    assertEquals(events, 0);
  });
}

for (const kind of ["pipe", "socket"] as const) {
  eachFdmon(
    `setFdHandler: a ${kind}: data, room, and the hang-up of the other end`,
    (makeContext) => {
      using ctx = makeContext();
      const [reader, writer] = makePair(kind);
      const bytes = new Uint8Array(100);
      let received = 0, sent = 0, ended = false;
      ctx.setFdHandler(reader, {
        ioRead() {
          const count = Number(libc.read(reader, bytes, 100n));
          received += count;
          if (count !== 0) return;
          ended = true;
          ctx.setFdHandler(reader, null);
        },
      });
      ctx.setFdHandler(writer, {
        ioWrite() {
          sent += Number(libc.write(writer, bytes, 100n));
          if (sent < 10_000) return;
          ctx.setFdHandler(writer, null);
          libc.close(writer);
        },
      });
      pollUntil(ctx, () => ended);
      assertEquals([sent, received, ctx.stats().handlers], [10_000, 10_000, 0]);
      libc.close(reader);
    },
  );
}

eachFdmon("setFdHandler: the hang-up of a terminal's other end", (makeContext) => {
  using ctx = makeContext();
  const O_RDWR_NOCTTY = 0o402;
  const terminal = libc.posix_openpt(O_RDWR_NOCTTY);
  assert(terminal >= 0);
  let events = 0;
  ctx.setFdHandler(terminal, { ioRead: () => events++, ioWrite: () => events++ });
  pollUntil(ctx, () => events > 0);
  ctx.setFdHandler(terminal, null);
  libc.close(terminal);
});

/** What each backend makes of an fd that was closed while it was watched. */
const CLOSED: Readonly<Record<FdmonName, string>> = {
  // The request in flight holds on to the file: nothing to see until it is armed again.
  io_uring: "nothing",
  // The kernel has forgotten it.
  epoll: "nothing",
  poll: "EBADF",
};

eachFdmon("setFdHandler: an fd closed while it is watched", (makeContext, fdmon) => {
  using ctx = makeContext();
  using kept = new EventNotifier();
  let reads = 0, timers = 0;
  ctx.setFdHandler(kept.fd, { ioRead: () => (kept.testAndClear(), reads++) });
  const fd = libc.eventfd(0, 0);
  ctx.setFdHandler(fd, { ioRead: () => assert(false, "nobody can have set it") });
  ctx.poll(false);
  libc.close(fd);
  const outcomes: string[] = [];
  for (let round = 1; round <= 10; round++) {
    kept.set();
    ctx.timer(() => timers++).arm(ctx.now() + 1e5);
    while (reads < round || timers < round) outcomes.push(outcome(() => ctx.poll(true)));
  }
  // It is reported once, and neither keeps the loop busy nor makes it deaf.
  assertEquals(
    outcomes.filter((text) => text !== "nothing"),
    CLOSED[fdmon] === "nothing" ? [] : [
      CLOSED[fdmon],
    ],
  );
  assert(outcomes.length <= 10 * 8, `${outcomes.length} iterations`);
  assertEquals(ctx.stats().handlers, CLOSED[fdmon] === "nothing" ? 2 : 1);
  ctx.setFdHandler(fd, null);
  assertEquals(ctx.stats().handlers, 1);
});

eachFdmon("setFdHandler: an fd closed in its own callback", (makeContext, fdmon) => {
  using ctx = makeContext();
  const fd = libc.eventfd(1, 0);
  let reads = 0;
  ctx.setFdHandler(fd, {
    ioRead() {
      reads++;
      libc.close(fd);
    },
  });
  const outcomes: string[] = [];
  for (let round = 0; round < 10; round++) {
    ctx.timer(() => {}).arm(ctx.now() + 1e5);
    outcomes.push(outcome(() => ctx.poll(true)));
  }
  assertEquals(reads, 1);
  // io_uring hears of it when it arms the fd again, poll when it asks, epoll never.
  const errors = outcomes.filter((text) => text !== "nothing");
  assertEquals(errors, fdmon === "epoll" ? [] : ["EBADF"]);
  ctx.setFdHandler(fd, null);
  assertEquals(ctx.stats().handlers, 0);
});

eachFdmon(
  "setFdHandler: a number that is reused at once belongs to its new handler",
  (makeContext) => {
    using ctx = makeContext();
    let reads = 0;
    for (let round = 1; round <= 100; round++) {
      const fd = libc.eventfd(round % 2, 0);
      ctx.setFdHandler(fd, { ioRead: () => assert(round % 2 === 1) });
      if (round % 3 === 0) ctx.poll(false);
      // Closed before it is deleted, which is the wrong order, or the right way round.
      if (round % 5 === 0) libc.close(fd);
      if (round % 5 !== 0) ctx.setFdHandler(fd, null), libc.close(fd);
      using notifier = new EventNotifier();
      assertEquals(notifier.fd, fd, "the lowest number that is free");
      ctx.setFdHandler(fd, { ioRead: () => (notifier.testAndClear(), reads++) });
      notifier.set();
      pollUntil(ctx, () => reads === round);
      ctx.setFdHandler(fd, null);
    }
    assertEquals(ctx.stats().handlers, 0);
  },
);

/** Code of the error that came out, or "nothing". */
function outcome(call: () => unknown): string {
  try {
    call();
    return "nothing";
  } catch (error) {
    assert(error instanceof AioError, String(error));
    return error.code;
  }
}
