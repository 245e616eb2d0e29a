/**
 * Polling for requests in flight beside all else that a context has: handlers, timers, other threads,
 * Deno's own loop.
 */
import { assert, assertEquals } from "@std/assert";
import { EventNotifier, wakeContext } from "../mod.ts";
import { Device } from "./device.ts";
import { onIoUring } from "./each_fdmon.ts";
import { FIRST_LOOK, MAX_NS, RequestScene } from "./request_scene.ts";

onIoUring("request polling: not beyond the next timer", (makeContext) => {
  using scene = new RequestScene(makeContext);
  const { ctx } = scene;
  scene.exchanges(FIRST_LOOK + 5, 10_000);
  let fired = 0;
  ctx.timer(() => fired++).arm(scene.nowNs + 1_000);
  scene.receive();
  scene.longestNs = 0;
  assert(ctx.poll(true));
  assertEquals([fired, scene.completed], [1, FIRST_LOOK + 5]);
  assert(scene.longestNs < 1_000, `${scene.longestNs}`);
  // What is left of it is slept, and no more.
  let sleepNs = 0;
  ctx.trace.on("wait_begin", ({ timeoutNs }) => sleepNs = timeoutNs);
  ctx.timer(() => fired++).arm(scene.nowNs + 1e6);
  const { requestPollNs } = ctx.stats();
  ctx.poll(true);
  const polledNs = ctx.stats().requestPollNs - requestPollNs;
  assert(polledNs > 10_000 && sleepNs > 0 && sleepNs <= 1e6 - polledNs, `${polledNs} ${sleepNs}`);
});

onIoUring("request polling: another thread's wake-up ends it, without a signal", (makeContext) => {
  using scene = new RequestScene(makeContext);
  const { ctx } = scene;
  const remote = ctx.remote();
  scene.exchanges(FIRST_LOOK + 5, 10_000);
  scene.receive();
  ctx.poll(false);
  const { requestPollHits, dispatches } = ctx.stats();
  scene.whilePolled = () => {
    scene.whilePolled = null;
    wakeContext(remote);
  };
  assertEquals(ctx.poll(true), false);
  assertEquals(ctx.stats().requestPollHits - requestPollHits, 1);
  // The eventfd has not been written, so the notifier's handler has nothing to drain.
  scene.exchange(10_000);
  assertEquals(ctx.stats().dispatches, dispatches);
});

onIoUring("request polling: an fd handler has its turn", (makeContext) => {
  using scene = new RequestScene(makeContext);
  using notifier = new EventNotifier();
  let runs = 0;
  scene.ctx.setFdHandler(notifier.fd, { ioRead: () => (notifier.testAndClear(), runs++) });
  scene.exchanges(FIRST_LOOK + 5, 10_000);
  scene.receive();
  scene.whilePolled = () => {
    scene.whilePolled = null;
    notifier.set();
  };
  const { spins } = scene;
  assert(scene.ctx.poll(true));
  assertEquals([runs, scene.spins - spins], [1, 1]);
});

onIoUring("request polling: listed handlers are not polled, and their fds tell", (makeContext) => {
  using scene = new RequestScene(makeContext);
  const { ctx } = scene;
  using device = new Device();
  device.attach(ctx);
  device.post();
  assert(ctx.poll(true));
  // By the time of the first spin it has fallen silent.
  scene.exchanges(FIRST_LOOK + 20, 10_000);
  assertEquals([ctx.stats().listed, device.notificationsOn], [1, true]);
  scene.beforeSleep = () => assert(false, "it was not seen");
  scene.receive();
  // The second one finds the fd as the first has left it.
  for (let event = 0; event < 2; event++) {
    const { polls, handled } = device;
    const { requestPollHits } = ctx.stats();
    scene.whilePolled = () => {
      scene.whilePolled = null;
      assert(device.notificationsOn, "nobody would hear of it");
      assertEquals(device.polls, polls, "it was polled beside");
      device.post();
    };
    assert(ctx.poll(true));
    const hits = ctx.stats().requestPollHits - requestPollHits;
    assertEquals([device.handled - handled, hits], [1, 1]);
  }
});

for (const late of [false, true]) {
  const what = late ? "an event that races with that is found" : "that need not wait for a sleep";
  onIoUring(`request polling: ends poll mode of silent handlers, ${what}`, (makeContext) => {
    using scene = new RequestScene(makeContext);
    const { ctx } = scene;
    scene.exchanges(FIRST_LOOK + 20, 10_000);
    using device = new Device();
    device.attach(ctx);
    device.post();
    assert(ctx.poll(true));
    device.whilePolled = () => device.post();
    for (let round = 0; round < 10; round++) assert(ctx.poll(true));
    device.whilePolled = null;
    assert(!device.notificationsOn);
    const { handled } = device;
    device.whenEnded = () => {
      device.whenEnded = null;
      if (late) device.postSilently();
    };
    let polledNs = 0;
    ctx.trace.on("run_poll_handlers_begin", ({ maxNs }) => polledNs = maxNs);
    let sleeps = 0;
    ctx.trace.on("wait_begin", ({ timeoutNs }) => sleeps += Math.abs(Math.sign(timeoutNs)));
    for (let round = 0; round < 10; round++) {
      // Its poll mode serves requests too, until it has been silent for too long.
      scene.receive();
      const { completed } = scene;
      scene.whilePolled = () => {
        scene.nowNs += 10_000;
        scene.answer();
        device.whilePolled = scene.whilePolled = null;
      };
      device.whilePolled = () => {
        if (polledNs !== 0) scene.whilePolled?.();
      };
      while (scene.completed === completed) assert(ctx.poll(true));
    }
    assertEquals([sleeps, device.notificationsOn, device.handled - handled], [
      0,
      true,
      late ? 1 : 0,
    ]);
  });
}

onIoUring("poll: beside handlers that are polled, the ring is too", (makeContext) => {
  using scene = new RequestScene(makeContext);
  const { ctx } = scene;
  scene.exchanges(FIRST_LOOK + 20, 10_000);
  using device = new Device();
  device.attach(ctx);
  device.post();
  assert(ctx.poll(true));
  device.whilePolled = () => device.post();
  for (let round = 0; round < 10; round++) assert(ctx.poll(true));
  let longestNs = 0;
  ctx.trace.on("run_poll_handlers_begin", ({ maxNs }) => longestNs = Math.max(longestNs, maxNs));
  const { spins, completed } = scene;
  scene.receive();
  device.whilePolled = () => {
    device.whilePolled = null;
    scene.answer();
  };
  const { waits } = ctx.stats();
  assert(ctx.poll(true));
  assertEquals([scene.completed - completed, ctx.stats().waits - waits], [1, 1]);
  // The handler alone would be polled for 4 us.
  assertEquals(longestNs, MAX_NS);
  scene.receive();
  scene.beforeSleep = () => scene.answer();
  assert(ctx.poll(true));
  assertEquals([scene.completed - completed, scene.spins - spins], [2, 0]);
});

onIoUring(
  "request polling: under run and attached for no longer than a turn",
  async (makeContext) => {
    using scene = new RequestScene(makeContext, { maxNs: 1e12 });
    const { ctx } = scene;
    const answered = async () => {
      scene.receive();
      scene.longestNs = 0;
      scene.whilePolled = () => {
        scene.whilePolled = null;
        scene.answer();
      };
      const { completed } = scene;
      while (scene.completed === completed) await new Promise((done) => setImmediate(done));
      return scene.longestNs;
    };
    const beginTrial = () => {
      // A trial goes on for as long as it may.
      ctx.setPollParams({});
      scene.exchanges(FIRST_LOOK, 10_000);
    };
    beginTrial();
    const longestRunNs = await ctx.run(answered);
    assert(longestRunNs > 0 && longestRunNs <= 4e6, `run: ${longestRunNs}`);
    beginTrial();
    ctx.attach();
    const longestAttachedNs = await answered();
    assert(longestAttachedNs > 0 && longestAttachedNs <= 2e5, `attached: ${longestAttachedNs}`);
    ctx.detach();
  },
);

onIoUring("request polling: a sleep beside Deno's loop counts as waiting", async (makeContext) => {
  using scene = new RequestScene(makeContext);
  const { ctx } = scene;
  scene.exchanges(FIRST_LOOK + 20, 10_000);
  const { spins } = scene;
  const turn = () => new Promise((done) => setImmediate(done));
  ctx.attach();
  for (let round = 0; round < 20; round++) {
    const { completed } = scene;
    const { polls } = ctx.stats();
    scene.receive();
    // The turn that polls in vain, if any does, goes to sleep.
    while (ctx.stats().polls === polls) await turn();
    scene.nowNs += 1e6;
    scene.answer();
    while (scene.completed === completed) await turn();
  }
  ctx.detach();
  assert(scene.spins - spins > 0 && scene.spins - spins <= 5, `${scene.spins - spins} in vain`);
});
