/** Listeners of trace events that throw, dispose, delete, poll, or stop listening. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { type AioContext, EventNotifier, ManualClock } from "../mod.ts";
import { Device } from "./device.ts";
import { eachFdmon } from "./each_fdmon.ts";
import { NAMES, PARAMS, pollAwake, Recording } from "./trace_recording.ts";

/** Has every event but poll_remove happen, and polls until all that was asked for was done. */
function provokeAll(ctx: AioContext, device: Device): unknown[] {
  const thrown: unknown[] = [];
  const poll = () => {
    try {
      pollAwake(ctx);
    } catch (error) {
      if (error instanceof TypeError) throw error;
      thrown.push(error);
    }
  };
  ctx.setPollParams(PARAMS);
  device.post();
  while (device.pending !== 0) poll();
  device.whilePolled = () => {
    device.whilePolled = null;
    device.postSilently();
  };
  while (device.whilePolled !== null || device.pending !== 0) poll();
  // Any sleep is longer than what may be polled for now.
  ctx.setPollParams({ maxNs: 1 });
  let fired = false;
  ctx.timer(() => fired = true).arm(ctx.now() + 1e5);
  while (!fired) poll();
  return thrown;
}

const PROVOKED = NAMES.filter((name) =>
  name !== "poll_remove" && name !== "poll_shrink" && !name.startsWith("poll_requests")
);

for (const name of PROVOKED) {
  eachFdmon(`trace: a listener that throws is heard, the others too: ${name}`, (makeContext) => {
    using device = new Device();
    using ctx = makeContext();
    device.attach(ctx);
    let before = 0, after = 0, failures = 0;
    ctx.trace.on(name, () => before++);
    const stop = ctx.trace.on(name, () => {
      failures++;
      throw new Error(name);
    });
    ctx.trace.on(name, () => after++);
    const recording = new Recording(ctx);
    const thrown = provokeAll(ctx, device);
    assert(failures > 0);
    assertEquals([before, after], [failures, failures]);
    const errors = thrown.flatMap((error) =>
      error instanceof AggregateError ? error.errors : [error]
    );
    assertEquals(errors.map((error) => (error as Error).message), Array(failures).fill(name));
    recording.stop();
    // The ioPollEnd that may be due below would be told too.
    stop();
    ctx.setFdHandler(device.notifier.fd, null);
  });

  eachFdmon(`trace: a listener may dispose the context: ${name}`, (makeContext) => {
    using device = new Device();
    using ctx = makeContext();
    device.attach(ctx);
    const recording = new Recording(ctx);
    let disposed = false, callsBefore = 0;
    ctx.trace.on(name, () => {
      if (!disposed) callsBefore = device.count("kick") + device.count("ready");
      disposed = true;
      ctx[Symbol.dispose]();
    });
    // What comes after it says that no sleep begins; a sleep could only be ended from outside.
    ctx.trace.on("wait_begin", ({ timeoutNs }) => {
      if (disposed && name !== "wait_begin") assert(timeoutNs === 0, "a sleep begins");
    });
    assertThrows(() => provokeAll(ctx, device), TypeError, "the context is disposed");
    assert(disposed);
    assertEquals(device.count("kick") + device.count("ready"), callsBefore, "callbacks after it");
    assertEquals(device.count("begin"), device.count("end"));
    recording.stop();
  });

  eachFdmon(`trace: a listener may stop listening, itself or another: ${name}`, (makeContext) => {
    using device = new Device();
    using ctx = makeContext();
    device.attach(ctx);
    const calls = [0, 0, 0, 0];
    const stops = calls.map((_, index) =>
      ctx.trace.on(name, () => {
        calls[index]++;
        if (index === 1) stops.slice(1, 3).forEach((stop) => stop());
      })
    );
    assertEquals(provokeAll(ctx, device), []);
    const [first, itself, other, last] = calls;
    assertEquals([itself, last], [1, first]);
    // Who was to be told already when it was stopped may still be.
    assert(other <= 1);
    stops.forEach((stop) => stop());
    assertEquals([ctx.trace.wants(name), ctx.trace.active], [false, false]);
    provokeAll(ctx, device);
    assertEquals(calls, [first, itself, other, last]);
    ctx.setFdHandler(device.notifier.fd, null);
  });
}

const WAKINGS: Readonly<Record<string, (ctx: AioContext) => void>> = {
  "schedules a bottom half": (ctx) => ctx.scheduleOneshot(() => {}),
  "arms a timer": (ctx) => ctx.timer(() => {}).arm(0),
  "notifies": (ctx) => ctx.notify(),
  "polls": (ctx) => ctx.poll(false),
};

for (const [what, wake] of Object.entries(WAKINGS)) {
  for (const name of ["run_poll_handlers_end", "wait_begin"] as const) {
    eachFdmon(`trace: no sleep after a listener of ${name} ${what}`, (makeContext) => {
      using device = new Device();
      using ctx = makeContext({ pollParams: PARAMS });
      device.attach(ctx);
      device.post();
      assert(ctx.poll(true));
      let woken = false;
      const stop = ctx.trace.on(name, () => {
        if (woken) return;
        woken = true;
        wake(ctx);
      });
      // With nothing learned it would not poll, and else not wait before it has.
      if (name === "wait_begin") ctx.setPollParams({ maxNs: 0 });
      pollAwake(ctx);
      assert(woken);
      stop();
      ctx.setFdHandler(device.notifier.fd, null);
    });
  }
}

eachFdmon("trace: no callback that a listener of callback_begin has taken back", (makeContext) => {
  using notifier = new EventNotifier();
  using ctx = makeContext({ pollParams: PARAMS });
  const { fd } = notifier;
  const ran: string[] = [];
  const half = ctx.bottomHalf(() => ran.push("bottom half"));
  const recording = new Recording(ctx);
  ctx.trace.on("callback_begin", ({ kind }) => {
    if (kind === "bottomHalf") half.delete();
    else if (kind === "ioRead") ctx.setFdHandler(fd, null);
    else if (kind === "timer") ctx[Symbol.dispose]();
  });
  ctx.setFdHandler(fd, { ioRead: () => ran.push("ioRead"), ioWrite: () => ran.push("ioWrite") });
  notifier.set();
  half.schedule();
  ctx.poll(true);
  const { dispatches } = ctx.stats();
  ctx.timer(() => ran.push("timer")).arm(0);
  ctx.poll(true);
  assertEquals([ran, dispatches], [[], 0]);
  assertEquals(recording.lines.filter((line) => line.startsWith("callback_end")), [
    "callback_end bottomHalf",
    "callback_end ioRead fd",
    "callback_end timer",
  ]);
  recording.stop();
});

/** What passes between two readings of a clock: a round takes less than its timer is armed for. */
const READING_NS = 1000;

for (const kind of ["ioPollBegin", "ioPollEnd"] as const) {
  for (const what of ["delete", "poll", "leave"] as const) {
    eachFdmon(
      `trace: begin and end are paired where ${kind}'s listener ${what}s`,
      (makeContext) => {
        using device = new Device();
        // By the machine's clock a busy machine may have each timer due before there is a poll mode.
        using ctx = makeContext({ pollParams: PARAMS, clock: new ManualClock(0, READING_NS) });
        device.attach(ctx);
        device.post();
        assert(ctx.poll(true));
        let nested = false;
        ctx.trace.on("callback_begin", (event) => {
          if (event.kind !== kind || nested) return;
          nested = true;
          if (what === "delete") ctx.setFdHandler(device.notifier.fd, null);
          else if (what === "poll") ctx.poll(false);
          else {
            ctx.timer(() => {}).arm(ctx.now() + 1e5);
            pollAwake(ctx);
          }
        });
        const recording = new Recording(ctx);
        for (let round = 0; round < 4; round++) {
          ctx.timer(() => {}).arm(ctx.now() + 1e5);
          pollAwake(ctx);
          if (what === "leave") assert(device.notificationsOn, "polled for after poll mode");
        }
        assert(nested);
        ctx.setFdHandler(device.notifier.fd, null);
        // The device itself checks that they alternate.
        assertEquals(device.count("begin"), device.count("end"));
        recording.stop();
      },
    );
  }
}
