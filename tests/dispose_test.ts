/** Disposing gives everything back, and nothing public crashes afterwards. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { type AioContext, EventNotifier, ManualClock, wakeContext } from "../mod.ts";
import { Device } from "./device.ts";
import { eachFdmon } from "./each_fdmon.ts";
import { openFiles, ringMappings } from "./open_files.ts";

eachFdmon("dispose: gives back every fd and every mapping", (makeContext) => {
  const files = openFiles().length, mappings = ringMappings();
  for (let round = 0; round < 20; round++) {
    using ctx = makeContext();
    using notifier = new EventNotifier();
    ctx.setFdHandler(notifier.fd, { ioRead: () => notifier.testAndClear() });
    notifier.set();
    ctx.poll(true);
    assert(openFiles().length > files);
  }
  assertEquals(openFiles().length, files, openFiles().join("\n"));
  assertEquals(ringMappings(), mappings);
});

eachFdmon("dispose: everything refuses a disposed context, nothing crashes", (makeContext) => {
  const ctx = makeContext();
  using notifier = new EventNotifier();
  let runs = 0;
  ctx.setFdHandler(notifier.fd, { ioRead: () => runs++ });
  const half = ctx.bottomHalf(() => runs++);
  const timer = ctx.timer(() => runs++);
  half.schedule();
  timer.arm(0);
  const remote = ctx.remote();
  ctx[Symbol.dispose]();
  ctx[Symbol.dispose]();
  const refused: Record<string, (ctx: AioContext) => void> = {
    "poll": (ctx) => ctx.poll(true),
    "set an fd handler": (ctx) => ctx.setFdHandler(notifier.fd, null),
    "make a bottom half": (ctx) => ctx.bottomHalf(() => {}),
    "make a timer": (ctx) => ctx.timer(() => {}),
    "notify": (ctx) => ctx.notify(),
    "make a remote handle": (ctx) => ctx.remote(),
    "disable external handlers": (ctx) => ctx.disableExternal(),
    "enable external handlers": (ctx) => ctx.enableExternal(),
    "set poll parameters": (ctx) => ctx.setPollParams({}),
  };
  for (const [what, call] of Object.entries(refused)) {
    assertThrows(() => call(ctx), TypeError, `Cannot ${what} as the context is disposed`);
  }
  assertEquals([half.scheduled, timer.armed, ctx.stats().handlers], [false, false, 0]);
  half.schedule();
  half.cancel();
  timer.arm(1);
  timer.cancel();
  assertEquals(wakeContext(remote), false);
  assertEquals(ctx.fdmon.reason, "asked for by name");
  assert(ctx.now() > 0);
  assertEquals(runs, 0);
});

eachFdmon("dispose: calls the ioPollEnd that is due, even where it throws", (makeContext) => {
  const ctx = makeContext({ clock: new ManualClock(), pollParams: { idleNs: Infinity } });
  using device = new Device();
  device.attach(ctx);
  device.post();
  assert(ctx.poll(true));
  device.whilePolled = () => device.post();
  assert(ctx.poll(true));
  assertEquals(device.notificationsOn, false);
  device.whenEnded = () => {
    throw new Error("end failed");
  };
  assertThrows(() => ctx[Symbol.dispose](), Error, "end failed");
  assert(device.notificationsOn);
  ctx[Symbol.dispose]();
});

for (const place of ["bottom half", "ioRead", "timer", "nested poll"] as const) {
  eachFdmon(`dispose: inside a ${place}, no other callback runs`, (makeContext) => {
    const files = openFiles().length;
    const ctx = makeContext();
    using notifier = new EventNotifier();
    using other = new EventNotifier();
    let runs = 0;
    const dispose = () => {
      runs++;
      notifier.testAndClear();
      ctx[Symbol.dispose]();
    };
    ctx.setFdHandler(other.fd, { ioRead: () => (other.testAndClear(), runs += 100) });
    if (place === "bottom half") ctx.scheduleOneshot(dispose);
    if (place === "timer") ctx.timer(dispose).arm(0);
    if (place === "ioRead") {
      ctx.setFdHandler(notifier.fd, { ioRead: dispose });
      notifier.set();
    }
    if (place === "nested poll") {
      ctx.scheduleOneshot(() => {
        ctx.scheduleOneshot(dispose);
        ctx.poll(true);
        other.set();
        assertThrows(() => ctx.poll(true), TypeError, "the context is disposed");
      });
    }
    ctx.poll(true);
    other.set();
    assertThrows(() => ctx.poll(true), TypeError, "the context is disposed");
    assertEquals(runs, 1);
    assertEquals(openFiles().length, files + 2, "fds of the context are still open");
  });
}

Deno.test("EventNotifier: refuses every use once disposed", () => {
  const notifier = new EventNotifier();
  notifier[Symbol.dispose]();
  notifier[Symbol.dispose]();
  const message = "Cannot use event notifier as it is disposed";
  assertThrows(() => notifier.fd, TypeError, message);
  assertThrows(() => notifier.set(), TypeError, message);
  assertThrows(() => notifier.testAndClear(), TypeError, message);
});
