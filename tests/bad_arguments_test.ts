/** Wrong types and values are refused with a clear error, and nothing is lost. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { AioContext, AioError, EventNotifier, PollWord, wakeContext } from "../mod.ts";
import { boardWords, notifierFd } from "./context_place.ts";
import "./open_libraries.ts";

type Bad = readonly [
  what: string,
  call: () => unknown,
  kind: new (...args: never[]) => Error,
  message: RegExp,
];

function refuse(rows: readonly Bad[]): void {
  for (const [what, call, kind, message] of rows) {
    let thrown: unknown;
    try {
      call();
    } catch (error) {
      thrown = error;
    }
    assert(thrown instanceof kind, `${what}: ${thrown}`);
    assertMatch(thrown.message, message, what);
  }
}

Deno.test("AioContext: bad options are refused", () => {
  const make = (options: unknown) => () => new AioContext(options as object);
  refuse([
    ["null", make(null), TypeError, /^Cannot make a context as the options are no object: null$/],
    ["a number", make(5), TypeError, /no object: 5/],
    ["fdmon", make({ fdmon: "select" }), TypeError, /not one of io_uring, epoll, poll: select/],
    ["fdmon type", make({ fdmon: 7 }), TypeError, /not one of io_uring, epoll, poll: 7/],
    ["clock", make({ clock: {} }), TypeError, /its clock has no now\(\)/],
    ["maxNs", make({ pollParams: { maxNs: -1 } }), RangeError, /parameter maxNs .*: -1/],
    ["params", make({ pollParams: 5 }), TypeError, /not an object: 5/],
  ]);
});

Deno.test("setFdHandler: bad fds and callbacks are refused, the old handler stays", () => {
  using ctx = new AioContext();
  using notifier = new EventNotifier();
  const { fd } = notifier;
  let runs = 0;
  ctx.setFdHandler(fd, { ioRead: () => (notifier.testAndClear(), runs++) });
  const set = (fd: unknown, callbacks: unknown = { ioRead() {} }) => () =>
    ctx.setFdHandler(fd as number, callbacks as null);
  const ioRead = () => {}, ioPollReady = () => {}, ioPoll = () => false;
  refuse([
    ["fd text", set("3"), TypeError, /fd is not a number: 3/],
    ["fd undefined", set(undefined), TypeError, /fd is not a number: undefined/],
    ["fd negative", set(-1), RangeError, /not a whole number >= 0: -1/],
    ["fd fraction", set(3.5), RangeError, /not a whole number >= 0: 3.5/],
    ["fd NaN", set(NaN), RangeError, /NaN/],
    ["fd huge", set(2 ** 31), RangeError, /2147483648/],
    ["fd own", set(notifierFd(ctx)), RangeError, /the fd is the context's own/],
    ["closed fd", set(999_999), AioError, /^Cannot watch fd 999999 as fcntl failed: EBADF/],
    ["callbacks", set(fd, 7), TypeError, /not an object of callbacks: number/],
    ["undefined", set(fd, "x"), TypeError, /not an object of callbacks: string/],
    ["ioRead", set(fd, { ioRead: 1 }), TypeError, /ioRead is not a function: number/],
    ["ioWrite", set(fd, { ioWrite: {} }), TypeError, /ioWrite is not a function: object/],
    ["ioPoll", set(fd, { ioRead, ioPollReady, ioPoll: 3 }), TypeError, /nor a PollWord: number/],
    ["no ready", set(fd, { ioRead, ioPoll }), TypeError, /ioPoll needs ioPollReady/],
    ["no read", set(fd, { ioPoll, ioPollReady }), TypeError, /ioPoll needs ioRead/],
  ]);
  notifier.set();
  assert(ctx.poll(true));
  assertEquals(runs, 1);
});

Deno.test("setFdHandler: a PollWord is polled for one handler at a time", () => {
  using ctx = new AioContext();
  using other = new AioContext();
  using first = new EventNotifier();
  using second = new EventNotifier();
  const word = new PollWord(new SharedArrayBuffer(4), 0, 32);
  const callbacks = { ioRead() {}, ioPollReady() {}, ioPoll: word };
  ctx.setFdHandler(first.fd, callbacks);
  const message = /its PollWord is polled for another handler/;
  refuse([
    ["another fd", () => ctx.setFdHandler(second.fd, callbacks), TypeError, message],
    ["another context", () => other.setFdHandler(second.fd, callbacks), TypeError, message],
  ]);
  ctx.setFdHandler(first.fd, callbacks);
  ctx.setFdHandler(first.fd, null);
  other.setFdHandler(second.fd, callbacks);
});

Deno.test("poll, bottomHalf, timer, trace: bad arguments are refused", () => {
  using ctx = new AioContext();
  const untyped = ctx as unknown as Record<string, (...args: unknown[]) => unknown>;
  const { trace } = ctx as unknown as { trace: { on(...args: unknown[]): unknown } };
  refuse([
    ["poll", () => untyped.poll(), TypeError, /blocking is not a boolean: undefined/],
    ["poll 1", () => untyped.poll(1), TypeError, /blocking is not a boolean: 1/],
    ["bottomHalf", () => untyped.bottomHalf(), TypeError, /callback is not a function: undefined/],
    ["timer", () => untyped.timer("x"), TypeError, /callback is not a function: string/],
    ["trace", () => trace.on("nope", () => {}), TypeError, /no such name: nope/],
    ["trace proto", () => trace.on("toString", () => {}), TypeError, /no such name: toString/],
    ["listener", () => trace.on("poll_add", 1), TypeError, /listener is not a function/],
  ]);
  assertEquals([ctx.stats().timers, ctx.stats().bottomHalves], [0, 0]);
});

Deno.test("wakeContext: what is no handle of a context is refused", () => {
  const wake = (remote: unknown) => () => wakeContext(remote as never);
  const message = /the handle is not one of ctx.remote\(\)/;
  using ctx = new AioContext();
  const { board, place, generation } = ctx.remote();
  const { length } = boardWords;
  const elsewhere = /of another process, or of another copy of this library/;
  refuse([
    ["undefined", wake(undefined), TypeError, message],
    ["empty", wake({}), TypeError, message],
    ["number", wake(7), TypeError, message],
    ["no board", wake({ place, generation }), TypeError, message],
    ["another board", wake({ board: board + 1, place, generation }), TypeError, elsewhere],
    ["place in between", wake({ board, place: place + 1, generation }), TypeError, message],
    ["place before", wake({ board, place: -64, generation }), TypeError, message],
    ["place beyond", wake({ board, place: length, generation }), TypeError, message],
    ["place text", wake({ board, place: String(place), generation }), TypeError, message],
    ["no generation", wake({ board, place }), TypeError, message],
    ["half a generation", wake({ board, place, generation: 0.5 }), TypeError, message],
  ]);
  const before = { board, place, generation: generation - 1 };
  assertEquals([wakeContext(before), wakeContext(ctx.remote())], [false, true]);
});
