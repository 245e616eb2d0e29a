/** TimerFd: never early, nothing lost, and what it makes of times that are none. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { TimerFd, type TimerFdOptions } from "../src/io/timer_fd.ts";
import { eachFdmon } from "./each_fdmon.ts";
import { countingFds } from "./open_files.ts";
import { pollUntil } from "./poll_until.ts";
import { anyValue, Random } from "./random_values.ts";

const SEED = Number(Deno.env.get("AIO_TEST_SEED") ?? Math.floor(Math.random() * 2 ** 32));
const CLOCKS = ["monotonic", "boottime", "realtime"] as const;

eachFdmon("TimerFd.arm: expires, once, and not before its deadline", (makeContext) => {
  using ctx = makeContext();
  using timer = new TimerFd();
  let expirations = 0, deadlineNs = 0;
  ctx.setFdHandler(timer.fd, {
    ioRead() {
      assert(ctx.now() >= deadlineNs, "it is early");
      expirations += timer.read();
      assertEquals(timer.read(), 0);
    },
  });
  for (let round = 1; round <= 20; round++) {
    deadlineNs = ctx.now() + 2e5;
    timer.arm(deadlineNs);
    pollUntil(ctx, () => expirations > 0);
    assertEquals(expirations, 1);
    expirations = 0;
    assert(!ctx.poll(false));
  }
  ctx.setFdHandler(timer.fd, null);
});

eachFdmon("TimerFd.armAfter: expires after its delay, and in each interval", (makeContext) => {
  using ctx = makeContext();
  using timer = new TimerFd();
  let expirations = 0;
  ctx.setFdHandler(timer.fd, { ioRead: () => expirations += timer.read() });
  const startNs = ctx.now();
  timer.armAfter(1e6, 1e5);
  pollUntil(ctx, () => expirations >= 5);
  const elapsedNs = ctx.now() - startNs;
  assert(elapsedNs >= 1e6 + 4e5, `5 expirations within ${elapsedNs} ns`);
  assert(expirations <= 1 + (elapsedNs - 1e6) / 1e5, `${expirations} in ${elapsedNs} ns`);
  timer.disarm();
  ctx.setFdHandler(timer.fd, null);
});

eachFdmon("TimerFd.arm: a deadline in the past expires at once, be it 0", (makeContext) => {
  using ctx = makeContext();
  for (const clock of CLOCKS) {
    using timer = new TimerFd({ clock });
    for (const deadlineNs of [0, -0, 1e-300, 0.5, 1, 1e6]) {
      timer.arm(deadlineNs);
      assertEquals(timer.read(), 1, `${clock} ${deadlineNs}`);
      timer.armAfter(0);
      let expirations = 0;
      ctx.setFdHandler(timer.fd, { ioRead: () => expirations += timer.read() });
      pollUntil(ctx, () => expirations > 0);
      ctx.setFdHandler(timer.fd, null);
      assertEquals(expirations, 1);
    }
  }
});

eachFdmon("TimerFd.read: counts the intervals since its deadline", (makeContext) => {
  using ctx = makeContext();
  using timer = new TimerFd();
  timer.arm(ctx.now() - 10e6, 1e6);
  const count = timer.read();
  assert(count >= 11 && count < 1e5, `${count} expirations`);
  timer.arm(0, ctx.now());
  assertEquals(timer.read(), 2);
  // More than fit in 32 bits.
  timer.arm(Math.max(1, ctx.now() - 6e9), 0.5);
  const many = timer.read();
  assert(many > Math.min(5e9, ctx.now() - 1e9), `${many} expirations`);
  timer.disarm();
});

Deno.test("TimerFd.disarm: it does not expire; arming anew forgets what was not read", () => {
  using timer = new TimerFd();
  timer.disarm();
  timer.arm(1);
  timer.disarm();
  assertEquals(timer.read(), 0);
  timer.arm(1);
  for (const farNs of [1e18, 2 ** 63, 1e300, Number.MAX_VALUE]) {
    timer.arm(farNs, farNs);
    assertEquals(timer.read(), 0, String(farNs));
    timer.armAfter(farNs, farNs);
    assertEquals(timer.read(), 0, String(farNs));
  }
});

Deno.test("TimerFd: a clock of its own, which is that of Date.now", () => {
  using timer = new TimerFd({ clock: "realtime" });
  timer.arm((Date.now() + 3600e3) * 1e6);
  assertEquals(timer.read(), 0);
  timer.arm((Date.now() - 1) * 1e6);
  assertEquals(timer.read(), 1);
  // By the monotonic clock that is decades away.
  using monotonic = new TimerFd();
  monotonic.arm((Date.now() - 1) * 1e6);
  assertEquals(monotonic.read(), 0);
});

Deno.test(
  "TimerFd: refuses times and clocks that are none, and goes on as before",
  countingFds(() => {
    using timer = new TimerFd();
    timer.arm(1);
    for (const value of [NaN, Infinity, -Infinity, -1, -1e-300, "1", 1n, undefined, null, {}]) {
      const ns = value as number;
      assertThrows(() => timer.arm(ns), RangeError, "deadline is not a time in ns");
      assertThrows(() => timer.armAfter(ns), RangeError, "delay is not a time in ns");
      if (value === undefined) continue;
      assertThrows(() => timer.arm(1, ns), RangeError, "interval is not a time in ns");
      assertThrows(() => timer.armAfter(1, ns), RangeError, "interval is not a time in ns");
    }
    assertEquals(timer.read(), 1);
    for (const clock of ["", "toString", 1, null]) {
      const options = { clock } as TimerFdOptions;
      assertThrows(() => new TimerFd(options), TypeError, "clock is unknown");
    }
    for (const options of [null, 1, "realtime"]) {
      assertThrows(
        () => new TimerFd(options as TimerFdOptions),
        TypeError,
        "options are no object",
      );
    }
  }),
);

Deno.test(
  "TimerFd: once disposed it refuses every use; disposing twice is harmless",
  countingFds(() => {
    const timer = new TimerFd();
    timer[Symbol.dispose]();
    timer[Symbol.dispose]();
    const uses = [
      () => timer.fd,
      () => timer.arm(1),
      () => timer.armAfter(1),
      () => timer.disarm(),
      () => timer.read(),
    ];
    for (const use of uses) assertThrows(use, TypeError, "Cannot use timer as it is disposed");
  }),
);

Deno.test(
  `TimerFd: any values do no harm (AIO_TEST_SEED=${SEED})`,
  countingFds(() => {
    const random = new Random(SEED);
    for (let round = 0; round < 2000; round++) {
      try {
        const options = random.pick([{}, { clock: anyValue(random) }, anyValue(random)]);
        using timer = new TimerFd(options as TimerFdOptions);
        timer.arm(anyValue(random) as number, anyValue(random) as number);
        timer.armAfter(anyValue(random) as number, anyValue(random) as number);
      } catch (error) {
        assert(error instanceof Error);
      }
    }
  }),
);
