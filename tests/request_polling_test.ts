/**
 * Polling for requests in flight: when it begins and ends, what counts, and that it is not there
 * where it cannot see a completion.
 */
import { assert, assertEquals } from "@std/assert";
import { eachFdmon, onIoUring } from "./each_fdmon.ts";
import { libc, makePair } from "./libc.ts";
import { FIRST_LOOK, MAX_NS, READING_NS, RequestScene } from "./request_scene.ts";

onIoUring("request polling: begins with the first look, then finds what comes", (makeContext) => {
  using scene = new RequestScene(makeContext);
  const { ctx } = scene;
  const learned: unknown[] = [];
  ctx.trace.on("poll_grow", (event) => learned.push(event));
  scene.exchanges(FIRST_LOOK, 10_000);
  assertEquals([scene.spins, learned], [0, [{ old: 0, new: MAX_NS }]]);
  let sleeps = 0;
  ctx.trace.on("wait_begin", ({ timeoutNs }) => sleeps += Math.abs(Math.sign(timeoutNs)));
  scene.exchanges(100, 10_000);
  const { requestPolls, requestPollHits, requestPollNs, pollRuns } = ctx.stats();
  assertEquals([scene.spins, sleeps, requestPolls, requestPollHits, pollRuns], [
    ...[100, 0, 100, 100],
    0,
  ]);
  assert(requestPollNs > 100 * 9_000 && requestPollNs < 100 * 11_000, `${requestPollNs}`);
});

onIoUring("request polling: a polling time that fits the completions", (makeContext) => {
  using scene = new RequestScene(makeContext);
  scene.exchanges(FIRST_LOOK, 3_000);
  scene.exchange(3_000);
  scene.longestNs = 0;
  scene.exchanges(10, 3_000);
  assertEquals(scene.longestNs, 8_000);
});

onIoUring("request polling: a look costs one system call, other waits none", (makeContext) => {
  using scene = new RequestScene(makeContext);
  const calls = () => {
    const before = scene.ctx.stats().systemCalls;
    scene.exchange(1e6);
    return scene.ctx.stats().systemCalls - before;
  };
  const each = Array.from({ length: FIRST_LOOK }, calls);
  assertEquals(each, [...Array(FIRST_LOOK - 1).fill(1), 2]);
});

onIoUring("request polling: ends where completions come far apart", (makeContext) => {
  using scene = new RequestScene(makeContext);
  scene.exchanges(FIRST_LOOK + 20, 10_000);
  const learned: unknown[] = [];
  scene.ctx.trace.on("poll_shrink", (event) => learned.push(event));
  scene.exchanges(3, 1e6);
  const { spins } = scene;
  assertEquals(learned.length, 1);
  scene.exchanges(500, 1e6);
  assertEquals(scene.spins, spins);
  // Coming sooner again they are found again, if not at once: looks have become rare.
  scene.exchanges(300, 10_000);
  assert(scene.ctx.stats().requestPollHits > 40);
});

onIoUring("request polling: never begins where completions come far apart", (makeContext) => {
  using scene = new RequestScene(makeContext);
  scene.exchanges(2000, MAX_NS * 2 + 1000);
  assertEquals(scene.spins, 0);
});

onIoUring("request polling: trials that fail become rare", (makeContext) => {
  using scene = new RequestScene(makeContext);
  // A sleep of this length could be a wake-up for the most part.
  scene.exchanges(2000, MAX_NS * 2 - 1000);
  assert(scene.spins > 0 && scene.spins < 20, `${scene.spins} in vain`);
});

onIoUring("request polling: one pause does not end it", (makeContext) => {
  using scene = new RequestScene(makeContext);
  scene.exchanges(FIRST_LOOK + 20, 5_000);
  for (let pause = 0; pause < 10; pause++) {
    scene.exchange(1e9);
    const { requestPollHits } = scene.ctx.stats();
    scene.exchanges(20, 5_000);
    assertEquals(scene.ctx.stats().requestPollHits - requestPollHits, 20);
  }
});

onIoUring("request polling: completions at submission do not count", (makeContext) => {
  using scene = new RequestScene(makeContext);
  for (let request = 0; request < 1000; request++) scene.completeAtOnce();
  assertEquals(scene.spins, 0, "there was nothing to wait for");
  // As a server has it that receives a header, then data that is there, then waits for long.
  for (let request = 0; request < 1000; request++) {
    scene.exchange(MAX_NS * 3);
    for (let more = 0; more < 3; more++) scene.completeAtOnce();
  }
  assertEquals(scene.spins, 0, "the mean was taken of what nobody had waited for");
  scene.exchanges(300, 5_000);
  const { requestPollHits } = scene.ctx.stats();
  for (let request = 0; request < 100; request++) {
    scene.completeAtOnce();
    scene.exchange(5_000);
  }
  assertEquals(scene.ctx.stats().requestPollHits - requestPollHits, 100);
});

onIoUring(
  "request polling: 1,000 receives that wait are polled for once at most",
  (makeContext) => {
    using scene = new RequestScene(makeContext);
    const { ctx } = scene;
    using stack = new DisposableStack();
    const [idle, peer] = makePair("socket");
    stack.defer(() => [idle, peer].forEach((fd) => libc.close(fd)));
    const memory = ctx.buffers.allocate(1);
    for (let request = 0; request < 1000; request++) {
      ctx.addSqe((sqe) => sqe.recv(idle, memory), () => assert(false, "nothing is sent to it"));
    }
    const sleep = () => {
      ctx.timer(() => {}).arm(ctx.now() + 1e6);
      scene.beforeSleep = () => scene.nowNs += 1e6;
      ctx.poll(true);
    };
    for (let round = 0; round < 300; round++) sleep();
    assertEquals(scene.spins, 0);
    scene.exchanges(FIRST_LOOK * 40, 5_000);
    const { requestPollHits } = ctx.stats();
    scene.exchanges(100, 5_000);
    assertEquals(ctx.stats().requestPollHits - requestPollHits, 100, "they are no burden either");
    const { spins } = scene;
    for (let round = 0; round < 300; round++) sleep();
    assert(scene.spins - spins <= 1, "it polled for those that had fallen silent");
  },
);

for (const apartNs of [1e4, 1e6]) {
  onIoUring(
    `request polling: what is sent every ${apartNs} ns does not keep it going`,
    (makeContext) => {
      using scene = new RequestScene(makeContext);
      const { ctx } = scene;
      scene.exchanges(FIRST_LOOK + 20, 10_000);
      using stack = new DisposableStack();
      const [idle, peer] = makePair("socket");
      stack.defer(() => [idle, peer].forEach((fd) => libc.close(fd)));
      ctx.addSqe((sqe) => sqe.recv(idle, ctx.buffers.allocate(1)), () => {});
      const { spins } = scene;
      scene.beforeSleep = () => scene.nowNs += apartNs;
      for (let round = 0; round < 100; round++) {
        ctx.timer(() => {}).arm(ctx.now() + apartNs);
        ctx.poll(true);
        let sent = false;
        ctx.addSqe((sqe) => sqe.send(idle, ctx.buffers.allocate(1)), () => sent = true);
        ctx.poll(true);
        assert(sent);
      }
      assert(scene.spins - spins <= 5, `${scene.spins - spins} times in vain`);
    },
  );
}

onIoUring(
  "request polling: a completion that nobody blocked for ends the wait for it",
  (makeContext) => {
    using scene = new RequestScene(makeContext);
    const { ctx } = scene;
    let grown = 0;
    ctx.trace.on("poll_grow", () => grown++);
    for (let round = 0; round < FIRST_LOOK * 3 - 1; round++) {
      scene.receive();
      ctx.timer(() => {}).arm(ctx.now() + 10_000);
      scene.beforeSleep = () => scene.nowNs += 10_000;
      while (ctx.stats().timers !== 0) ctx.poll(true);
      scene.answer();
      while (ctx.stats().requests !== 0) ctx.poll(false);
    }
    assertEquals(grown, 0);
    scene.exchanges(FIRST_LOOK, 10_000);
    assertEquals(grown, 1);
  },
);

onIoUring("request polling: looks become frequent again with success", (makeContext) => {
  using scene = new RequestScene(makeContext);
  scene.exchanges(3000, 1e6);
  scene.exchanges(300, 10_000);
  scene.exchanges(3, 1e6);
  const { requestPollHits } = scene.ctx.stats();
  scene.exchanges(FIRST_LOOK * 4, 10_000);
  assert(scene.ctx.stats().requestPollHits > requestPollHits);
});

onIoUring("request polling: a pause ends it where completions come late anyway", (makeContext) => {
  using scene = new RequestScene(makeContext);
  scene.exchanges(FIRST_LOOK + 20, 25_000);
  const learned: number[] = [];
  scene.ctx.trace.on("poll_shrink", (event) => learned.push(event.new));
  scene.exchange(1e9);
  assertEquals(learned, [0]);
});

onIoUring("request polling: maxNs 0 switches it off, and so does setting it", (makeContext) => {
  using scene = new RequestScene(makeContext, { maxNs: 0 });
  const { ctx } = scene;
  const before = ctx.stats();
  scene.exchanges(100, 1_000);
  const { systemCalls, waits } = ctx.stats();
  assertEquals([scene.spins, systemCalls - before.systemCalls], [0, waits - before.waits]);
  ctx.setPollParams({ maxNs: MAX_NS });
  scene.exchanges(100, 1_000);
  assertEquals(scene.spins, 100 - FIRST_LOOK);
  ctx.setPollParams({ maxNs: 0 });
  scene.exchanges(100, 1_000);
  ctx.setPollParams({ maxNs: MAX_NS });
  scene.exchanges(FIRST_LOOK, 1_000);
  assertEquals(scene.spins, 100 - FIRST_LOOK, "learning begins anew");
});

onIoUring("request polling: without a weight it grows and shrinks", (makeContext) => {
  using scene = new RequestScene(makeContext, { weight: 0 });
  const learned: number[] = [];
  for (const name of ["poll_grow", "poll_shrink"] as const) {
    scene.ctx.trace.on(name, (event) => learned.push(event.new));
  }
  scene.exchanges(FIRST_LOOK + 10, 10_000);
  assertEquals(learned, [4_000, 8_000, 16_000]);
  scene.exchange(MAX_NS + 1000);
  assertEquals(learned.at(-1), 0);
});

eachFdmon("request polling: a clock that stands still or fails ends it", (makeContext) => {
  for (const failing of [false, true]) {
    using scene = new RequestScene(makeContext);
    scene.exchanges(FIRST_LOOK + 5, 10_000);
    scene.receive();
    const { spins } = scene;
    let readings = 0;
    scene.whilePolled = () => {
      readings++;
      if (failing) throw new Error("no time");
      scene.nowNs -= READING_NS;
    };
    scene.beforeSleep = () => scene.answer();
    if (failing && scene.spins > 0) {
      let thrown = "";
      try {
        scene.ctx.poll(true);
      } catch (error) {
        thrown = (error as Error).message;
      }
      assertEquals([thrown, readings], ["no time", 1]);
      continue;
    }
    scene.ctx.poll(true);
    assertEquals(scene.spins - spins, scene.spins === 0 ? 0 : 1);
    assertEquals(readings, scene.spins === 0 ? 0 : 100_000);
  }
});

eachFdmon("request polling: not where requests are emulated", (makeContext) => {
  using scene = new RequestScene(makeContext);
  scene.exchanges(300, 5_000);
  assertEquals([scene.spins, scene.completed], [0, 300]);
}, ["epoll", "poll"]);
