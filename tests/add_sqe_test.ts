/** Requests that callers describe: when they go out, when they complete, and in which order. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { type AioContext, AioError, EventNotifier, type PrepareSqe, type Sqe } from "../mod.ts";
import { Errno } from "../ffi/errno.ts";
import { eachFdmon, onIoUring } from "./each_fdmon.ts";
import { libc, makePair, openPath } from "./libc.ts";
import { countFds } from "./open_files.ts";
import { pollUntil } from "./poll_until.ts";
import { newPath, pattern } from "./test_files.ts";

const IN = 1, OUT = 4, ECANCELED = -Errno.ECANCELED;

/** Adds a request whose result is put in `results` under a name. */
function add(ctx: AioContext, results: string[], name: string, prepare: PrepareSqe) {
  return ctx.addSqe(prepare, (result) => results.push(`${name} ${result}`));
}

eachFdmon("addSqe: completes in the dispatch phase of the next iteration", (makeContext) => {
  using ctx = makeContext();
  const order: string[] = [];
  ctx.trace.on("wait_end", () => order.push("wait_end"));
  ctx.scheduleOneshot(() => order.push("bottom half"));
  const request = ctx.addSqe((sqe) => sqe.nop(), (result) => {
    order.push(`result ${result}, in flight ${request.inFlight}`);
    // What is added here is for another iteration.
    ctx.addSqe((sqe) => sqe.nop(), () => order.push("added in a completion"));
  });
  assert(request.inFlight);
  assertEquals(order, []);
  assert(ctx.poll(true));
  assertEquals(order, ["wait_end", "result 0, in flight false", "bottom half"]);
  assert(ctx.poll(true));
  assertEquals(order.slice(3), ["wait_end", "added in a completion"]);
  request.cancel();
  assertEquals(ctx.poll(false), false);
});

eachFdmon("addSqe: goes out with the next poll, from wherever it is added", (makeContext) => {
  using ctx = makeContext();
  const [input, output] = makePair("pipe");
  // No timer is armed, so what is not submitted is slept over for ever: the test would hang.
  const places: ((then: () => void) => void)[] = [
    (then) => then(),
    (then) => ctx.scheduleOneshot(then),
    (then) => ctx.timer(then).arm(ctx.now()),
    (then) => void ctx.addSqe((sqe) => sqe.nop(), then),
    (then) => {
      const stop = ctx.trace.on("wait_begin", () => (stop(), then()));
      ctx.notify();
    },
    (then) => {
      const stop = ctx.trace.on("iteration_begin", () => (stop(), then()));
      ctx.notify();
    },
  ];
  for (const place of places) {
    let result = 0;
    place(() => ctx.addSqe((sqe) => sqe.pollAdd(output, OUT), (events) => result = events));
    pollUntil(ctx, () => result !== 0);
    assertEquals(result, OUT);
  }
  libc.close(input);
  libc.close(output);
});

eachFdmon("addSqe: operations do what their names say", (makeContext) => {
  using ctx = makeContext();
  const [left, right] = makePair("socket");
  const path = newPath();
  Deno.writeFileSync(path, new Uint8Array(0));
  const file = openPath(path);
  const out = ctx.buffers.allocate(5), back = new Uint8Array(new SharedArrayBuffer(8));
  out.set(pattern(5));
  const results: string[] = [];
  const does = (name: string, prepare: PrepareSqe, result: number) => {
    add(ctx, results, name, prepare);
    pollUntil(ctx, () => results.length !== 0);
    assertEquals(results.splice(0), [`${name} ${result}`]);
  };
  does("write", (sqe) => sqe.write(file, out, 2 ** 32 + 7), 5);
  does("read", (sqe) => sqe.read(file, back, 2 ** 32 + 8), 4);
  assertEquals(back.slice(0, 4), pattern(5).slice(1));
  does("fsync", (sqe) => sqe.fsync(file), 0);
  does("fdatasync", (sqe) => sqe.async().fsync(file, true), 0);
  does("ftruncate", (sqe) => sqe.ftruncate(file, 2), 0);
  does("fallocate", (sqe) => sqe.fallocate(file, 0, 0, 6), 0);
  does("fadvise", (sqe) => sqe.fadvise(file, 0, 6, 3), 0);
  does("read to the end", (sqe) => sqe.read(file, back, -1), 6);
  does("read from there", (sqe) => sqe.read(file, back, -1), 0);
  does("send", (sqe) => sqe.send(left, out), 5);
  does("poll", (sqe) => sqe.pollAdd(right, IN), IN);
  does("recv", (sqe) => sqe.recv(right, back), 5);
  assertEquals(back.slice(0, 5), pattern(5));
  does("shutdown", (sqe) => sqe.shutdown(left, 1), 0);
  does("the end", (sqe) => sqe.recv(right, back), 0);
  does("EPIPE", (sqe) => sqe.send(left, out), -Errno.EPIPE);
  does("ENOTSOCK", (sqe) => sqe.recv(file, back), -Errno.ENOTSOCK);
  does("EBADF", (sqe) => sqe.read(1_000_000, back, 0), -Errno.EBADF);
  does("poll EBADF", (sqe) => sqe.pollAdd(1_000_000, IN), -Errno.EBADF);
  for (const fd of [left, right, file]) does("close", (sqe) => sqe.close(fd), 0);
  does("close EBADF", (sqe) => sqe.close(1_000_000), -Errno.EBADF);
});

eachFdmon("addSqe: what is no request is refused, and nothing is added", (makeContext) => {
  using ctx = makeContext();
  const [input, output] = makePair("pipe");
  const results: string[] = [];
  const bytes = new Uint8Array(4), bad = (value: unknown) => value as never;
  const prepares: readonly (readonly [PrepareSqe, new () => Error, string])[] = [
    [() => {}, TypeError, "no operation"],
    [(sqe) => sqe.link(), TypeError, "no operation"],
    [(sqe) => sqe.nop().nop(), TypeError, "two operations"],
    [(sqe) => sqe.read(input, bytes, 0), TypeError, "ctx.buffers.allocate()"],
    [(sqe) => sqe.write(output, new DataView(bytes.buffer), 0), TypeError, "allocate()"],
    [(sqe) => sqe.read(input, bad(7), 0), TypeError, "no view of memory: number"],
    [(sqe) => sqe.fsync(bad("3")), TypeError, "fd is not a number: 3"],
    [(sqe) => sqe.fsync(-1), RangeError, "fd is not a whole number >= 0: -1"],
    [(sqe) => sqe.fsync(2 ** 32), RangeError, "fd is not a whole number >= 0: 4294967296"],
    [(sqe) => sqe.pollAdd(input, 0.5), RangeError, "not a whole one up to 4294967295: 0.5"],
    [(sqe) => sqe.fallocate(output, 0, 2 ** 53, 1), RangeError, "whole one >= 0"],
    [(sqe) => sqe.fallocate(output, 0, 0, -1), RangeError, "whole one >= 0: -1"],
    [() => ctx.addSqe((sqe) => sqe.nop(), () => {}), TypeError, "while another one is filled in"],
    [
      () => {
        throw new RangeError("thrown in prepare");
      },
      RangeError,
      "thrown in prepare",
    ],
  ];
  for (const [prepare, kind, message] of prepares) {
    assertThrows(() => add(ctx, results, "bad", prepare), kind, message);
  }
  let kept: Sqe | null = null;
  add(ctx, results, "good", (sqe) => (kept = sqe).nop());
  assertThrows(() => kept!.nop(), TypeError, "Cannot use the SQE any more");
  assertThrows(() => ctx.addSqe(bad(5), () => {}), TypeError, "not a function");
  assertThrows(() => ctx.addSqe((sqe) => sqe.nop(), bad(null)), TypeError, "not a function");
  ctx.poll(true);
  assertEquals(results, ["good 0"]);
  libc.close(input);
  libc.close(output);
});

eachFdmon("addSqe: prepare may dispose the context, poll, and make other requests", (
  makeContext,
) => {
  const fds = countFds();
  const ctx = makeContext();
  const results: string[] = [];
  add(ctx, results, "outer", (sqe) => {
    ctx.scheduleOneshot(() => results.push("polled"));
    ctx.poll(true);
    sqe.nop();
  });
  ctx.poll(true);
  assertEquals(results, ["polled", "outer 0"]);
  assertThrows(
    () => add(ctx, results, "late", (sqe) => (sqe.nop(), ctx[Symbol.dispose]())),
    TypeError,
    "Cannot add a request as the context is disposed",
  );
  assertEquals(countFds(), fds, "open fds");
});

eachFdmon("addSqe: a completion may poll, throw, or dispose the context", (makeContext) => {
  const fds = countFds();
  const ctx = makeContext();
  const results: string[] = [];
  ctx.addSqe((sqe) => sqe.nop(), () => {
    results.push("first");
    assert(ctx.poll(true));
  });
  add(ctx, results, "second", (sqe) => sqe.nop());
  ctx.poll(true);
  assertEquals(results, ["first", "second 0"]);
  ctx.addSqe((sqe) => sqe.nop(), () => {
    throw new Error("thrown by a completion");
  });
  add(ctx, results, "after it", (sqe) => sqe.nop());
  assertThrows(() => ctx.poll(true), Error, "thrown by a completion");
  ctx.addSqe((sqe) => sqe.nop(), () => ctx[Symbol.dispose]());
  const never = add(ctx, results, "never", (sqe) => sqe.nop());
  ctx.poll(true);
  assertEquals(results.slice(2), ["after it 0"]);
  assert(!never.inFlight);
  never.cancel();
  assertEquals(countFds(), fds, "open fds");
});

eachFdmon("addSqe: cancel ends a request before, while and after it is in flight", (
  makeContext,
) => {
  using ctx = makeContext();
  const [left, right] = makePair("socket");
  const buffer = ctx.buffers.allocate(8);
  const results: string[] = [];
  const early = add(ctx, results, "early", (sqe) => sqe.recv(left, buffer));
  early.cancel();
  early.cancel();
  pollUntil(ctx, () => results.length === 1);
  const running = add(ctx, results, "running", (sqe) => sqe.recv(left, buffer));
  const poll = add(ctx, results, "poll", (sqe) => sqe.pollAdd(left, IN));
  ctx.poll(false);
  running.cancel();
  pollUntil(ctx, () => results.length === 2);
  poll.cancel();
  pollUntil(ctx, () => results.length === 3);
  assertEquals(results, [`early ${ECANCELED}`, `running ${ECANCELED}`, `poll ${ECANCELED}`]);
  const done = add(ctx, results, "done", (sqe) => sqe.send(right, buffer));
  ctx.poll(true);
  done.cancel();
  assertEquals(results.at(-1), "done 8");
  // Nobody who was cancelled has taken the bytes.
  add(ctx, results, "recv", (sqe) => sqe.recv(left, buffer));
  pollUntil(ctx, () => results.length === 5);
  assertEquals(results.at(-1), "recv 8");
  libc.close(left);
  libc.close(right);
});

eachFdmon("addSqe: trace events tell what was added and how it ended", (makeContext) => {
  using ctx = makeContext();
  const events: unknown[] = [];
  ctx.trace.on("fdmon_io_uring_add_sqe", (event) => events.push({ ...event }));
  ctx.trace.on("fdmon_io_uring_cqe_handler", (event) => events.push({ ...event }));
  const buffer = ctx.buffers.allocate(8);
  ctx.addSqe((sqe) => sqe.read(1_000_000, buffer, 2 ** 40 + 1), () => events.push("complete"));
  pollUntil(ctx, () => events.length === 3);
  assertEquals(events, [
    { opcode: 22, fd: 1_000_000, off: 2 ** 40 + 1 },
    { res: -Errno.EBADF },
    "complete",
  ]);
});

eachFdmon("addSqe: links and drains are refused without a ring", (makeContext) => {
  using ctx = makeContext();
  const results: string[] = [];
  for (const flag of ["link", "hardlink", "drain"] as const) {
    const error = assertThrows(
      () => add(ctx, results, flag, (sqe) => sqe[flag]().nop()),
      AioError,
      "Cannot link or drain requests",
    );
    assertEquals(error.code, "EOPNOTSUPP");
  }
  add(ctx, results, "nop", (sqe) => sqe.async().nop());
  ctx.poll(true);
  assertEquals(results, ["nop 0"]);
}, ["epoll", "poll"]);

onIoUring("addSqe: a context that polls learns of completions while it spins", (makeContext) => {
  using ctx = makeContext({ pollParams: { maxNs: 1e15, weight: 0 } });
  using notifier = new EventNotifier();
  ctx.setFdHandler(notifier.fd, {
    ioRead: () => notifier.testAndClear(),
    ioPoll: () => false,
    ioPollReady() {},
  });
  notifier.set();
  ctx.poll(true);
  const results: string[] = [];
  const [left, right] = makePair("socket");
  add(ctx, results, "recv", (sqe) => sqe.recv(left, ctx.buffers.allocate(8)));
  ctx.poll(false);
  libc.write(right, new Uint8Array(3), 3n);
  pollUntil(ctx, () => results.length === 1);
  assertEquals(results, ["recv 3"]);
  ctx.setFdHandler(notifier.fd, null);
  libc.close(left);
  libc.close(right);
});
