/** Userspace polling: when it begins, what it costs, how it ends; on every backend by name. */
import { assert, assertEquals } from "@std/assert";
import { EventNotifier, ManualClock, PollWord } from "../mod.ts";
import { Device } from "./device.ts";
import { eachFdmon, onIoUring } from "./each_fdmon.ts";

for (const idle of [0, 3200]) {
  for (const poll of ["function", "word"] as const) {
    onIoUring(
      `poll: polling begins right after an event; ${idle} idle ${poll}s, one kick`,
      (makeContext) => {
        using ctx = makeContext({ clock: new ManualClock(), pollParams: { idleNs: Infinity } });
        using stack = new DisposableStack();
        for (let number = 0; number < idle; number++) {
          const device = stack.use(new Device(poll));
          device.attach(ctx);
          device.post();
        }
        while (ctx.poll(false));
        assertEquals(ctx.stats().listed, idle);
        const busy = stack.use(new Device());
        busy.attach(ctx);
        busy.post();
        assert(ctx.poll(true));
        assertEquals([busy.kicks, busy.handled], [1, 1]);
        const { systemCalls, waits } = ctx.stats();
        for (let request = 0; request < 1000; request++) {
          // The guest posts the next request only once the loop polls for it.
          let turn = 0;
          busy.whilePolled = () => {
            if (++turn === 3) busy.post();
          };
          assert(ctx.poll(true));
          assertEquals(busy.handled, request + 2);
        }
        assertEquals(busy.kicks, 1, "a request needed a kick");
        // One enter arms the busy fd's successor requests; nothing else may need the kernel.
        assert(ctx.stats().systemCalls - systemCalls <= 2, "polling made system calls");
        assert(ctx.stats().waits - waits <= 2);
        for (const device of [busy]) ctx.setFdHandler(device.notifier.fd, null);
      },
    );
  }
}

eachFdmon("poll: a handler that is polled is served without a kick", (makeContext) => {
  using ctx = makeContext({ clock: new ManualClock(), pollParams: { idleNs: Infinity } });
  using device = new Device();
  device.attach(ctx);
  device.post();
  assert(ctx.poll(true));
  for (let request = 0; request < 100; request++) {
    let turn = 0;
    device.whilePolled = () => {
      if (++turn === 2) device.post();
    };
    assert(ctx.poll(true));
  }
  assertEquals([device.kicks, device.handled], [1, 101]);
  assertEquals([device.count("begin"), device.count("end")], [1, 0], "poll mode was left");
});

eachFdmon("poll: maxNs 0 never asks ioPoll", (makeContext) => {
  using ctx = makeContext({ pollParams: { maxNs: 0 } });
  using device = new Device();
  device.attach(ctx);
  for (let request = 1; request <= 10; request++) {
    device.post();
    assert(ctx.poll(true));
    assertEquals([device.handled, device.kicks], [request, request]);
  }
  assertEquals([device.polls, device.count("begin")], [0, 0]);
});

eachFdmon("poll: a blocking wait ends poll mode first, and polls once more", (makeContext) => {
  // By readings, as a busy machine may have the timer due before there is a sleep.
  using ctx = makeContext({ clock: new ManualClock(0, 1000) });
  using device = new Device();
  device.attach(ctx);
  device.post();
  assert(ctx.poll(true));
  assert(ctx.poll(false) === false);
  // Nothing comes: the next blocking poll polls in vain, then sleeps for the timer.
  ctx.timer(() => {}).arm(ctx.now() + 1e5);
  ctx.poll(true);
  assertEquals([device.count("begin"), device.count("end")], [1, 1]);
  assert(device.notificationsOn);
});

eachFdmon("poll: an event that races with ioPollEnd is found without a kick", (makeContext) => {
  using ctx = makeContext({ clock: new ManualClock() });
  using device = new Device();
  device.attach(ctx);
  device.post();
  assert(ctx.poll(true));
  device.whenEnded = () => {
    device.whenEnded = null;
    device.postSilently();
  };
  // Without the last poll this would sleep for ever: no kick comes.
  while (device.handled < 2) ctx.poll(true);
  assertEquals(device.count("ready"), 1);
});

eachFdmon("poll: a word changed at ioPollEnd is found without a kick", (makeContext) => {
  using ctx = makeContext({ clock: new ManualClock() });
  using device = new Device("word");
  device.attach(ctx);
  device.post();
  assert(ctx.poll(true));
  device.whenEnded = () => {
    device.whenEnded = null;
    device.postSilently();
  };
  while (device.handled < 2) ctx.poll(true);
  assertEquals(device.count("ready"), 1);
});

eachFdmon("setFdHandler: deleted or replaced in poll mode, ioPollEnd is called", (makeContext) => {
  using ctx = makeContext({ clock: new ManualClock(), pollParams: { idleNs: Infinity } });
  for (const replacement of [null, { ioRead() {} }]) {
    using device = new Device();
    device.attach(ctx);
    device.post();
    assert(ctx.poll(true));
    device.whilePolled = () => device.post();
    assert(ctx.poll(true));
    assertEquals(device.notificationsOn, false);
    device.whilePolled = null;
    ctx.setFdHandler(device.notifier.fd, replacement);
    assert(device.notificationsOn, "the guest's notifications were left off");
    const { polls } = device;
    ctx.poll(false);
    assertEquals(device.polls, polls, "ioPoll of a deleted handler was called");
    ctx.setFdHandler(device.notifier.fd, null);
  }
});

eachFdmon(
  "setFdHandler: a handler deleted by another one's ioPoll is not polled",
  (makeContext) => {
    using ctx = makeContext({ clock: new ManualClock(), pollParams: { idleNs: Infinity } });
    using first = new Device();
    using second = new Device();
    for (const device of [first, second]) {
      device.attach(ctx);
      device.post();
    }
    while (first.handled + second.handled < 2) assert(ctx.poll(true));
    const devices = [first, second];
    for (const [index, device] of devices.entries()) {
      const other = devices[1 - index];
      device.whilePolled = () => {
        device.whilePolled = null;
        other.whilePolled = () => assert(false, "polled after it was deleted");
        ctx.setFdHandler(other.notifier.fd, null);
      };
    }
    while (ctx.stats().handlers === 2) ctx.poll(true);
  },
);

// The other backends do not poll while there is a handler that cannot be polled.
onIoUring("poll: an fd handler gets its turn while another succeeds for ever", (makeContext) => {
  using ctx = makeContext({ clock: new ManualClock(), pollParams: { idleNs: Infinity } });
  using device = new Device();
  device.attach(ctx);
  device.post();
  assert(ctx.poll(true));
  device.whilePolled = () => device.post();
  using notifier = new EventNotifier();
  let runs = 0;
  ctx.setFdHandler(notifier.fd, { ioRead: () => (notifier.testAndClear(), runs++) });
  for (let round = 0; round < 20; round++) {
    for (let poll = 0; poll < 50; poll++) assert(ctx.poll(true));
    notifier.set();
    for (let polls = 0; runs <= round; polls++) {
      assert(polls < 3, `round ${round}: starved`);
      ctx.poll(true);
    }
  }
  assert(device.handled > 1000, `${device.handled} events`);
  assertEquals(device.kicks, 1);
});

eachFdmon(
  "poll: a polled fd handler is not starved by another that succeeds for ever",
  (makeContext) => {
    using ctx = makeContext({ clock: new ManualClock(), pollParams: { idleNs: Infinity } });
    using busy = new Device();
    using newcomer = new Device();
    busy.attach(ctx);
    busy.post();
    assert(ctx.poll(true));
    busy.whilePolled = () => busy.post();
    // All handlers can be polled, so the loop could go on without ever asking the backend.
    newcomer.attach(ctx);
    newcomer.post();
    for (let polls = 0; newcomer.handled === 0; polls++) {
      assert(polls < 100, "starved");
      ctx.poll(true);
    }
  },
);

eachFdmon("PollWord: 16, 32 and 64 bits and functions, mixed, exact counts", (makeContext) => {
  using ctx = makeContext({ clock: new ManualClock(), pollParams: { idleNs: Infinity } });
  using stack = new DisposableStack();
  const memory = new SharedArrayBuffer(8 * 4);
  const views = {
    16: new Uint16Array(memory, 0, 4),
    32: new Uint32Array(memory, 8, 2),
    64: new BigUint64Array(memory, 16, 2),
  };
  const ran: string[] = [];
  for (const bits of [16, 32, 64] as const) {
    const view = views[bits];
    for (const index of [0, 1]) {
      const word = new PollWord(memory, view.byteOffset + index * bits / 8, bits);
      const notifier = stack.use(new EventNotifier());
      ctx.setFdHandler(notifier.fd, {
        ioRead: () => notifier.testAndClear(),
        ioPoll: word,
        ioPollReady: () => {
          ran.push(`${bits}.${index}`);
          word.seen = word.load();
        },
      });
      notifier.set();
      while (ctx.poll(false));
    }
  }
  const device = stack.use(new Device());
  device.attach(ctx);
  device.post();
  while (device.handled === 0) assert(ctx.poll(true));
  for (const bits of [64, 16, 32] as const) {
    for (const index of [1, 0]) {
      // The highest bit: a scan of the wrong width would miss it, or see a neighbour.
      if (bits === 64) views[64][index] ^= 1n << 63n;
      else views[bits][index] ^= 2 ** (bits - 1);
      while (ran.length === 0) ctx.poll(true);
      assertEquals(ran.splice(0), [`${bits}.${index}`]);
      assert(!ctx.poll(false));
    }
  }
  views[16][0]++;
  views[64][1]++;
  device.postSilently();
  while (ran.length < 2 || device.pending > 0) ctx.poll(true);
  assertEquals(ran.sort(), ["16.0", "64.1"]);
});

Deno.test("PollWord: bad memory, offsets and widths are refused", async (t) => {
  const memory = new SharedArrayBuffer(8);
  const bad: [string, () => PollWord, RegExp][] = [
    ["ArrayBuffer", () => new PollWord(new ArrayBuffer(8) as never, 0, 32), /SharedArrayBuffer/],
    ["null", () => new PollWord(null as never, 0, 32), /SharedArrayBuffer/],
    ["width", () => new PollWord(memory, 0, 8 as 16), /width is not 16, 32 or 64: 8/],
    ["misaligned", () => new PollWord(memory, 2, 32), /offset is not a multiple of 4: 2/],
    ["negative", () => new PollWord(memory, -4, 32), /offset is not a multiple of 4: -4/],
    ["beyond", () => new PollWord(memory, 8, 32), /offset is beyond 8 bytes: 8/],
    ["NaN", () => new PollWord(memory, NaN, 32), /offset is not a multiple of 4: NaN/],
  ];
  for (const [name, make, message] of bad) {
    await t.step(name, () => {
      let error: unknown;
      try {
        make();
      } catch (thrown) {
        error = thrown;
      }
      assert(error instanceof TypeError || error instanceof RangeError);
      assert(message.test(error.message), error.message);
    });
  }
});

Deno.test("PollWord: seen is as wide as the word", () => {
  const memory = new SharedArrayBuffer(8);
  const values = { 16: 0xffff, 32: 0xffff_ffff, 64: 0xffff_ffff_ffff_ffffn } as const;
  for (const bits of [16, 32, 64] as const) {
    const word = new PollWord(memory, 0, bits);
    assertEquals(Number(word.seen), 0);
    word.seen = -1;
    assertEquals<number | bigint>(word.seen, values[bits]);
    word.seen = bits === 64 ? 2 ** 53 - 1 : 2 ** bits + 7;
    assertEquals<number | bigint>(word.seen, bits === 64 ? 2n ** 53n - 1n : 7);
  }
});
