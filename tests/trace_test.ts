/** Trace events: each of them, in order and in pairs. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import * as api from "../mod.ts";
import { Errno } from "../ffi/errno.ts";
import { AioContext, AioError, EventNotifier, ManualClock, wakeContext } from "../mod.ts";
import { observeContexts } from "../src/trace.ts";
import { Device } from "./device.ts";
import { eachFdmon, onIoUring } from "./each_fdmon.ts";
import { inject, makeFaulty } from "./fault_injector.ts";
import { PARAMS, pollAwake, Recording } from "./trace_recording.ts";

eachFdmon("trace: an fd event, polling and sleeping, each event in its order", (makeContext) => {
  using device = new Device();
  using ctx = makeContext({ pollParams: PARAMS });
  device.attach(ctx);
  const recording = new Recording(ctx);
  device.post();
  assert(ctx.poll(true));
  assertEquals(recording.take(), [
    "iteration_begin true",
    "wait_begin",
    "wait_end 1",
    "poll_grow",
    "poll_add",
    "callback_begin ioRead fd",
    "callback_end ioRead fd",
    "iteration_end true",
  ]);
  device.whilePolled = () => {
    device.whilePolled = null;
    device.postSilently();
  };
  assert(ctx.poll(true));
  assertEquals(recording.take().filter((line) => line !== "poll_grow"), [
    "iteration_begin true",
    "callback_begin ioPollBegin fd",
    "callback_end ioPollBegin fd",
    "run_poll_handlers_begin",
    "run_poll_handlers_end true",
    "callback_begin ioPollReady fd",
    "callback_end ioPollReady fd",
    "iteration_end true",
  ]);
  const stop = ctx.trace.on("wait_begin", () => device.post());
  assert(ctx.poll(true));
  stop();
  assertEquals(recording.take().filter((line) => line !== "poll_grow"), [
    "iteration_begin true",
    "run_poll_handlers_begin",
    "run_poll_handlers_end false",
    "callback_begin ioPollEnd fd",
    "callback_end ioPollEnd fd",
    "wait_begin",
    "wait_end 1",
    "callback_begin ioRead fd",
    "callback_end ioRead fd",
    "iteration_end true",
  ]);
  ctx.timer(() => {}).arm(0);
  assert(ctx.poll(true));
  assertEquals(recording.take().slice(-3), [
    "callback_begin timer",
    "callback_end timer",
    "iteration_end true",
  ]);
  recording.stop();
  ctx.setFdHandler(device.notifier.fd, null);
});

onIoUring("trace: poll_remove and poll_shrink come where they belong", (makeContext) => {
  const clock = new ManualClock();
  using device = new Device();
  using ctx = makeContext({ clock, pollParams: { ...PARAMS, idleNs: 1e6 } });
  device.attach(ctx);
  device.post();
  assert(ctx.poll(true));
  const recording = new Recording(ctx);
  device.whilePolled = () => ctx.notify();
  ctx.poll(true);
  recording.take();
  clock.advance(2e6);
  ctx.poll(true);
  const removal = recording.take();
  assertEquals(removal.filter((line) => /^(run|poll|callback_begin)/.test(line)), [
    "run_poll_handlers_begin",
    "poll_remove",
    "callback_begin ioPollEnd fd",
    "run_poll_handlers_end false",
  ]);
  // The first sleep is one that polling may have caught, the second is longer than it ever does.
  device.whilePolled = null;
  ctx.setPollParams({ maxNs: 8000 });
  for (const sleepNs of [100, 1e6]) {
    const stop = ctx.trace.on("wait_begin", () => {
      clock.advance(sleepNs);
      device.post();
    });
    assert(ctx.poll(true));
    stop();
  }
  const learned = recording.take().filter((line) => /^poll_(grow|shrink)/.test(line));
  assertEquals(learned, ["poll_grow", "poll_shrink"]);
  recording.stop();
  ctx.setFdHandler(device.notifier.fd, null);
});

eachFdmon("trace: callbacks are told with kind, handler, fd and name", (makeContext) => {
  using notifier = new EventNotifier();
  using ctx = makeContext();
  const events: api.CallbackEvent[] = [];
  ctx.trace.on("callback_begin", (event) => events.push(event));
  ctx.setFdHandler(notifier.fd, { ioRead: () => notifier.testAndClear(), ioWrite() {} });
  notifier.set();
  ctx.bottomHalf(() => {}, { name: 'half "quoted"' }).schedule();
  ctx.timer(() => {}).arm(0);
  ctx.poll(true);
  const [{ handler }] = events.filter(({ kind }) => kind === "ioRead");
  assert(handler > 0);
  const { fd } = notifier;
  assertEquals(events, [
    { kind: "bottomHalf", handler: 0, fd: -1, name: 'half "quoted"' },
    { kind: "ioRead", handler, fd, name: "" },
    { kind: "ioWrite", handler, fd, name: "" },
    { kind: "timer", handler: 0, fd: -1, name: "" },
  ]);
  ctx.setFdHandler(fd, null);
});

eachFdmon("trace: a wake-up by another thread is told as the notifier's", (makeContext) => {
  using ctx = makeContext();
  // The loop has announced its sleep, so this writes the eventfd as any thread would.
  ctx.trace.on("wait_begin", () => assert(wakeContext(ctx.remote())));
  const recording = new Recording(ctx);
  assert(!pollAwake(ctx));
  assertEquals(recording.take().slice(-4), [
    "poll_add",
    "callback_begin notifier fd",
    "callback_end notifier fd",
    "iteration_end false",
  ]);
});

eachFdmon("trace: callbacks that throw or poll have their end all the same", (makeContext) => {
  using notifier = new EventNotifier();
  using ctx = makeContext();
  const recording = new Recording(ctx);
  const fail = () => {
    throw new Error("fault");
  };
  ctx.setFdHandler(notifier.fd, {
    ioRead: () => {
      notifier.testAndClear();
      ctx.scheduleOneshot(fail);
      ctx.timer(fail).arm(0);
      ctx.poll(true);
    },
  });
  ctx.scheduleOneshot(fail);
  notifier.set();
  assertThrows(() => ctx.poll(true), AggregateError);
  const nested = recording.lines.filter((line) => line.startsWith("iteration"));
  assertEquals(nested, [
    "iteration_begin true",
    "iteration_begin true",
    "iteration_end true",
    "iteration_end true",
  ]);
  recording.stop();
  ctx.setFdHandler(notifier.fd, null);
});

eachFdmon("trace: a listener given twice is told twice and stopped one by one", (makeContext) => {
  using ctx = makeContext();
  let calls = 0;
  const listener = () => calls++;
  const [stop, other] = [1, 2].map(() => ctx.trace.on("iteration_end", listener));
  const callsOfOnePoll = () => {
    calls = 0;
    ctx.poll(false);
    return calls;
  };
  assertEquals(callsOfOnePoll(), 2);
  stop();
  assertEquals(callsOfOnePoll(), 1);
  stop();
  assertEquals(callsOfOnePoll(), 1);
  other();
  assertEquals([callsOfOnePoll(), ctx.trace.active], [0, false]);
  other();
  assertEquals(ctx.trace.active, false);
});

const WAIT_CALL = { io_uring: "io_uring_enter", epoll: "epoll_pwait2", poll: "ppoll" } as const;

eachFdmon("trace: a wait that fails has its end, and the next one is told too", (_, fdmon) => {
  using ctx = makeFaulty(fdmon, { pollParams: { maxNs: 0 } });
  using notifier = new EventNotifier();
  ctx.setFdHandler(notifier.fd, { ioRead: () => notifier.testAndClear() });
  ctx.poll(false);
  notifier.set();
  const recording = new Recording(ctx);
  {
    using _fault = inject(WAIT_CALL[fdmon], 1, Errno.EINVAL);
    assertThrows(() => ctx.poll(true), AioError);
  }
  const failed = ["iteration_begin true", "wait_begin", "wait_end 0", "iteration_end false"];
  assertEquals(recording.take(), failed);
  assert(ctx.poll(true));
  assertEquals(recording.take().slice(1, 3), ["wait_begin", "wait_end 1"]);
  recording.stop();
  ctx.setFdHandler(notifier.fd, null);
});

Deno.test("observeContexts: told of every context of this thread until it is ended", () => {
  const seen: unknown[] = [];
  observeContexts((context) => seen.push(context));
  using first = new AioContext();
  using second = new AioContext();
  observeContexts(null);
  using _third = new AioContext();
  assertEquals(seen.length, 2);
  assert(seen[0] === first && seen[1] === second);
  for (const name of ["observeContexts", "contextMade", "Trace"]) {
    assert(!(name in api), `${name} is not for users`);
  }
});
