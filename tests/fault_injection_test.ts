/** System calls that fail: every event arrives all the same, or the error comes out. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { Errno } from "../ffi/errno.ts";
import { type AioContext, AioError, EventNotifier, type FdmonName } from "../mod.ts";
import { eachFdmon, onIoUring } from "./each_fdmon.ts";
import { faults, type FaultyCall, inject, makeFaulty, PARTIAL } from "./fault_injector.ts";
import { openFiles, ringMappings } from "./open_files.ts";

/** More than the submission queue has places, so that it is submitted midway. */
const HANDLERS = 400;
const LOST_NS = 20e9;
const NO_POLLING = { pollParams: { maxNs: 0 } };

/** Sets, replaces and deletes handlers and fires fds; all must be served, each once a round. */
function churn(ctx: AioContext, rounds: number): void {
  using stack = new DisposableStack();
  const notifiers = Array.from({ length: HANDLERS }, () => stack.use(new EventNotifier()));
  const served = new Int32Array(HANDLERS);
  let lost = false;
  const watchdog = ctx.timer(() => lost = true);
  watchdog.arm(ctx.now() + LOST_NS);
  for (let round = 1; round <= rounds; round++) {
    for (const [index, notifier] of notifiers.entries()) {
      const ioRead = () => {
        assert(notifier.testAndClear());
        served[index]++;
      };
      const ioPoll = index % 2 === 0 ? () => false : null;
      ctx.setFdHandler(notifier.fd, { ioRead, ioPoll, ioPollReady() {} });
      if (index % 3 === round % 3) {
        ctx.setFdHandler(notifier.fd, null);
        ctx.setFdHandler(notifier.fd, { ioRead });
      }
      notifier.set();
    }
    while (served.some((count) => count !== round)) {
      ctx.poll(true);
      assert(!lost, `an event was lost in round ${round}`);
    }
  }
  watchdog.cancel();
  for (const notifier of notifiers) ctx.setFdHandler(notifier.fd, null);
}

const NAMES = new Map<number, string>(Object.entries(Errno).map(([name, errno]) => [errno, name]));
const nameOf = (errno: number) => NAMES.get(errno) ?? "one SQE taken";

const PASSING: readonly [fdmon: FdmonName, call: FaultyCall, errnos: readonly number[]][] = [
  ["io_uring", "io_uring_enter", [
    PARTIAL,
    Errno.EINTR,
    Errno.ETIME,
    Errno.EAGAIN,
    Errno.EBUSY,
    Errno.ENOMEM,
  ]],
  ["epoll", "epoll_pwait2", [Errno.EINTR]],
  ["epoll", "epoll_wait", [Errno.EINTR]],
  ["poll", "ppoll", [Errno.EINTR]],
];

for (const [fdmon, call, errnos] of PASSING) {
  for (const errno of errnos) {
    eachFdmon(`poll: no event is lost and nobody hears of it: ${call} ${nameOf(errno)}`, () => {
      for (const every of [2, 3, 7]) {
        using ctx = makeFaulty(fdmon, NO_POLLING);
        using _fault = inject(call, every, errno);
        churn(ctx, 4);
        for (let timers = 0; timers < 30; timers++) {
          const deadline = ctx.now() + 1e5;
          let fired = 0;
          ctx.timer(() => fired = ctx.now()).arm(deadline);
          while (fired === 0) ctx.poll(true), ctx.poll(false);
          assert(fired >= deadline);
        }
        assert(faults(call) > 0);
      }
    }, [fdmon]);
  }
}

const LASTING: readonly [FdmonName, FaultyCall, syscall: string, errnos: readonly number[]][] = [
  ["io_uring", "io_uring_enter", "io_uring_enter", [
    Errno.EINVAL,
    Errno.ENOMEM,
    Errno.EBUSY,
    Errno.EAGAIN,
    Errno.EPERM,
  ]],
  ["epoll", "epoll_pwait2", "epoll_wait", [Errno.ENOMEM, Errno.EPERM]],
  ["poll", "ppoll", "ppoll", [Errno.ENOMEM, Errno.EAGAIN]],
];

for (const [fdmon, call, syscall, errnos] of LASTING) {
  for (const errno of errnos) {
    eachFdmon(`poll: an error that stays is thrown, and heals: ${call} ${nameOf(errno)}`, () => {
      using ctx = makeFaulty(fdmon, NO_POLLING);
      using notifier = new EventNotifier();
      let reads = 0, timers = 0;
      ctx.setFdHandler(notifier.fd, { ioRead: () => (notifier.testAndClear(), reads++) });
      {
        using _fault = inject(call, 1, errno);
        for (let round = 1; round <= 3; round++) {
          // What needs no waiting is done all the same.
          ctx.timer(() => timers++).arm(0);
          try {
            ctx.poll(false);
          } catch (error) {
            assertEquals((error as AioError).errno, errno);
          }
          assertEquals(timers, round);
          const error = errorOf(() => ctx.poll(true));
          assertEquals([error.errno, error.syscall], [errno, syscall]);
        }
      }
      notifier.set();
      while (reads === 0) ctx.poll(true);
      churn(ctx, 2);
      assertEquals(reads, 1);
    }, [fdmon]);
  }
}

onIoUring(
  "setFdHandler: deletes more handlers than the SQ holds while no enter is possible",
  () => {
    using ctx = makeFaulty("io_uring", NO_POLLING);
    using stack = new DisposableStack();
    const notifiers = Array.from({ length: HANDLERS }, () => stack.use(new EventNotifier()));
    let reads = 0;
    const watch = (notifier: EventNotifier) =>
      ctx.setFdHandler(notifier.fd, { ioRead: () => (notifier.testAndClear(), reads++) });
    notifiers.forEach(watch);
    ctx.poll(false);
    {
      using _fault = inject("io_uring_enter", 1, Errno.EINVAL);
      for (const notifier of notifiers) ctx.setFdHandler(notifier.fd, null);
      assertEquals(ctx.stats().handlers, 0);
      const error = assertThrows(() => ctx.poll(false), AioError);
      assertEquals([error.code, error.syscall], ["EINVAL", "io_uring_enter"]);
    }
    for (const notifier of notifiers) notifier.set();
    for (let extra = 0; extra < 3; extra++) ctx.poll(false);
    assertEquals(reads, 0);
    notifiers.forEach(watch);
    for (let round = 1; round <= 2; round++) {
      const watchdog = ctx.timer(() => assert(false, `${reads} of ${HANDLERS} were served`));
      watchdog.arm(ctx.now() + LOST_NS);
      while (reads < round * HANDLERS) ctx.poll(true);
      watchdog.cancel();
      for (let extra = 0; extra < 3; extra++) assert(!ctx.poll(false));
      assertEquals(reads, round * HANDLERS);
      for (const notifier of notifiers) notifier.set();
    }
    for (const notifier of notifiers) ctx.setFdHandler(notifier.fd, null);
    for (const notifier of notifiers) notifier.testAndClear();
    churn(ctx, 2);
  },
);

onIoUring("disableExternal: full SQ and EBUSY: an fd that fires meanwhile is not lost", () => {
  using ctx = makeFaulty("io_uring", NO_POLLING);
  using stack = new DisposableStack();
  const notifiers = Array.from({ length: 2 * HANDLERS }, () => stack.use(new EventNotifier()));
  let reads = 0;
  for (const notifier of notifiers) {
    const ioRead = () => (notifier.testAndClear(), reads++);
    ctx.setFdHandler(notifier.fd, { ioRead, isExternal: true });
  }
  ctx.poll(false);
  for (let round = 1; round <= 5; round++) {
    // One enter brings in a few events, so those come first that are cancelled around then.
    for (const notifier of [...notifiers.slice(505, 520), ...notifiers]) notifier.set();
    {
      // The first full queue is taken and brings the events in; at the second one they are reaped,
      // in the middle of cancelling one of them.
      using _fault = inject("io_uring_enter", 2, Errno.EBUSY);
      ctx.disableExternal();
      ctx.enableExternal();
    }
    let lost = false;
    const watchdog = ctx.timer(() => lost = true);
    watchdog.arm(ctx.now() + LOST_NS);
    while (reads < round * 2 * HANDLERS && !lost) ctx.poll(true);
    watchdog.cancel();
    assertEquals(reads, round * 2 * HANDLERS);
  }
});

eachFdmon("epoll_pwait2: where it is missing ppoll waits, as exactly", () => {
  using ctx = makeFaulty("epoll", NO_POLLING);
  using _fault = inject("epoll_pwait2", 1, Errno.ENOSYS);
  using _interrupted = inject("ppoll", 3, Errno.EINTR);
  churn(ctx, 4);
  for (let timers = 0; timers < 30; timers++) {
    const deadline = ctx.now() + 50_000;
    let fired = 0;
    ctx.timer(() => fired = ctx.now()).arm(deadline);
    while (fired === 0) ctx.poll(true);
    assert(fired >= deadline);
  }
  assert(faults("epoll_pwait2") > 30 && faults("ppoll") > 10);
}, ["epoll"]);

const SETUP: readonly [FdmonName, FaultyCall, errnos: readonly number[]][] = [
  ["poll", "eventfd", [Errno.EMFILE, Errno.ENFILE, Errno.ENOMEM]],
  ["epoll", "eventfd", [Errno.EMFILE]],
  ["epoll", "epoll_create1", [Errno.EMFILE, Errno.ENFILE, Errno.ENOMEM, Errno.EPERM]],
  ["epoll", "epoll_ctl", [Errno.ENOMEM, Errno.ENOSPC]],
  ["io_uring", "eventfd", [Errno.EMFILE]],
  ["io_uring", "io_uring_setup", [
    Errno.EMFILE,
    Errno.ENFILE,
    Errno.ENOMEM,
    Errno.EPERM,
    Errno.ENOSYS,
    Errno.EINVAL,
  ]],
  ["io_uring", "io_uring_register", [Errno.ENOMEM, Errno.EPERM, Errno.EINVAL]],
  ["io_uring", "io_uring_enter", [Errno.EPERM, Errno.ENOSYS]],
];

for (const [fdmon, call, errnos] of SETUP) {
  eachFdmon(`AioContext: nothing leaks where setup fails: ${call}`, () => {
    const files = openFiles(), mappings = ringMappings();
    for (const errno of errnos) {
      using _fault = inject(call, 1, errno);
      for (let attempt = 0; attempt < 3; attempt++) {
        const error = errorOf(() => makeFaulty(fdmon));
        assertEquals([error.code, error.syscall], [nameOf(errno), call]);
      }
      assertEquals([openFiles(), ringMappings()], [files, mappings], nameOf(errno));
    }
  }, [fdmon]);
}

Deno.test("AioContext: where every backend but poll fails to be set up, poll it is", () => {
  const files = openFiles(), mappings = ringMappings();
  {
    using _io_uring = inject("io_uring_enter", 1, Errno.EPERM);
    using _epoll = inject("epoll_ctl", 1, Errno.ENOSPC);
    using ctx = makeFaulty();
    assertEquals(ctx.fdmon.name, "poll");
    assert(ctx.fdmon.reason.includes("ENOSPC"), ctx.fdmon.reason);
    churn(ctx, 1);
  }
  assertEquals([openFiles(), ringMappings()], [files, mappings]);
});

eachFdmon("setFdHandler: an error of epoll_ctl leaves the handler as it was", () => {
  using ctx = makeFaulty("epoll", NO_POLLING);
  using notifier = new EventNotifier();
  using other = new EventNotifier();
  let reads = 0;
  ctx.setFdHandler(notifier.fd, { ioRead: () => (notifier.testAndClear(), reads++) });
  for (const errno of [Errno.ENOMEM, Errno.ENOSPC]) {
    using _fault = inject("epoll_ctl", 1, errno);
    for (
      const [fd, callbacks] of [[notifier.fd, { ioRead() {} }], [other.fd, {
        ioRead() {},
      }]] as const
    ) {
      const error = errorOf(() => ctx.setFdHandler(fd, callbacks));
      assertEquals([error.errno, error.syscall], [errno, "epoll_ctl"]);
    }
    assertEquals(errorOf(() => ctx.setFdHandler(notifier.fd, null)).errno, errno);
  }
  notifier.set();
  assert(ctx.poll(true));
  assertEquals([reads, ctx.stats().handlers], [1, 1]);
  churn(ctx, 2);
}, ["epoll"]);

function errorOf(call: () => unknown): AioError {
  try {
    call();
  } catch (error) {
    assert(error instanceof AioError, String(error));
    return error;
  }
  throw new Error("nothing was thrown");
}
