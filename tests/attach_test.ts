import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { type AioContext, EventNotifier, PollWord, wakeContext } from "../mod.ts";
import { after, programWords, run } from "./child.ts";
import { eachFdmon, type MakeContext } from "./each_fdmon.ts";
import { countFds } from "./open_files.ts";

const MOD = JSON.stringify(new URL("../mod.ts", import.meta.url).href);

/** A promise and what resolves it. */
const deferred = () => Promise.withResolvers<void>();

/** Lets Deno's loop turn until something holds. */
async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await new Promise((resolve) => setTimeout(resolve, 1));
}

/** The context has gone to sleep: it iterates no more. */
async function asleep(ctx: AioContext): Promise<void> {
  for (let before = -1; before !== ctx.stats().polls;) {
    before = ctx.stats().polls;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

function attached(makeContext: MakeContext, ...options: Parameters<MakeContext>): AioContext {
  const ctx = makeContext(...options);
  ctx.attach();
  return ctx;
}

eachFdmon("attach: fds, timers, bottom halves and requests come from Deno's loop", async (make) => {
  using ctx = attached(make);
  ctx.ref();
  using notifier = new EventNotifier();
  const read = deferred(), fired = deferred(), ran = deferred(), completed = deferred();
  ctx.setFdHandler(notifier.fd, { ioRead: () => (notifier.testAndClear(), read.resolve()) });
  await asleep(ctx);
  notifier.set();
  await read.promise;
  const deadlineNs = ctx.now() + 2e6;
  ctx.timer(() => {
    assert(ctx.now() >= deadlineNs);
    fired.resolve();
  }).arm(deadlineNs);
  await fired.promise;
  await asleep(ctx);
  ctx.bottomHalf(() => ran.resolve()).schedule();
  await ran.promise;
  ctx.addSqe((sqe) => sqe.nop(), () => completed.resolve());
  await completed.promise;
  ctx.setFdHandler(notifier.fd, null);
});

eachFdmon("attach: every event of a sleeping context is found", async (make) => {
  using ctx = attached(make);
  using notifier = new EventNotifier();
  let hits = 0;
  ctx.setFdHandler(notifier.fd, { ioRead: () => (notifier.testAndClear(), hits++) });
  for (let round = 1; round <= 30; round++) {
    if (round % 3 === 0) await asleep(ctx);
    notifier.set();
    await until(() => hits === round);
  }
  ctx.setFdHandler(notifier.fd, null);
});

eachFdmon("attach: files and sockets work", async (make) => {
  using ctx = attached(make);
  await using listener = ctx.listen({ hostname: "127.0.0.1", port: 0 });
  const [client, server] = await Promise.all([ctx.connect(listener.address), listener.accept()]);
  const buffer = new Uint8Array(16);
  const received = server.recv(buffer);
  await asleep(ctx);
  await client.sendAll(new TextEncoder().encode("over"));
  assertEquals([await received, new TextDecoder().decode(buffer.subarray(0, 4))], [4, "over"]);
  await using file = await ctx.openFile(new URL("../README.md", import.meta.url));
  assertEquals(await file.read(buffer, 2), 16);
  assertStringIncludes(new TextDecoder().decode(buffer), "AioContext");
  await client.close();
  await server.close();
});

eachFdmon("attach: a poll by hand does not hide the context from its wakers", async (make) => {
  using ctx = attached(make);
  const remote = ctx.remote();
  for (let round = 0; round < 3; round++) {
    await asleep(ctx);
    ctx.poll(false);
    await asleep(ctx);
    const { polls } = ctx.stats();
    assert(wakeContext(remote));
    for (let tries = 0; ctx.stats().polls === polls; tries++) {
      assert(tries < 5000, "it was not woken");
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  }
});

eachFdmon("attach: an idle context does not iterate", async (make) => {
  using ctx = attached(make);
  using notifier = new EventNotifier();
  ctx.setFdHandler(notifier.fd, { ioRead: () => notifier.testAndClear() });
  await asleep(ctx);
  const { polls, systemCalls } = ctx.stats();
  await new Promise((resolve) => setTimeout(resolve, 100));
  const later = ctx.stats();
  assertEquals([later.polls, later.systemCalls], [polls, systemCalls]);
  ctx.setFdHandler(notifier.fd, null);
});

eachFdmon("attach: poll mode is left for a sleep, and its last hit not lost", async (make) => {
  using ctx = attached(make);
  using notifier = new EventNotifier();
  const word = new Int32Array(new SharedArrayBuffer(4));
  const poll = new PollWord(word.buffer, 0, 32);
  let begun = 0, ended = 0, handled = 0;
  const post = () => {
    word[0]++;
    if (begun === ended) notifier.set();
  };
  const handle = () => {
    poll.seen = word[0];
    // Requests that follow at once have the loop learn to poll.
    if (++handled % 30 !== 0) ctx.scheduleOneshot(post);
  };
  ctx.setFdHandler(notifier.fd, {
    ioRead: () => (notifier.testAndClear(), handle()),
    ioPoll: poll,
    ioPollReady: handle,
    ioPollBegin: () => begun++,
    ioPollEnd: () => {
      ended++;
      // Comes at the very end of polling, and is not signalled.
      if (ended % 2 === 1) word[0]++;
    },
  });
  for (let round = 0; round < 5; round++) {
    ctx.scheduleOneshot(post);
    await asleep(ctx);
    assertEquals([begun, poll.seen], [ended, word[0]], `round ${round}`);
  }
  assert(ended >= 2, `polled ${ended} times`);
  ctx.setFdHandler(notifier.fd, null);
});

eachFdmon("attach: neither a busy context nor a busy Deno starves the other", async (make) => {
  using ctx = attached(make);
  let halves = 0, immediates = 0, timeouts = 0, stop = false;
  const half = ctx.bottomHalf(() => {
    halves++;
    if (!stop) half.schedule();
  });
  half.schedule();
  const immediate = () => {
    immediates++;
    if (!stop) setImmediate(immediate);
  };
  setImmediate(immediate);
  const timeout = () => {
    timeouts++;
    if (!stop) setTimeout(timeout, 1);
  };
  timeout();
  await until(() => halves > 1000 && immediates > 20 && timeouts > 20);
  stop = true;
  await asleep(ctx);
});

eachFdmon("attach: detached it is polled by hand, and can be attached again", async (make) => {
  using ctx = attached(make);
  using notifier = new EventNotifier();
  let hits = 0;
  ctx.setFdHandler(notifier.fd, { ioRead: () => (notifier.testAndClear(), hits++) });
  await asleep(ctx);
  ctx.detach();
  ctx.detach();
  const { polls } = ctx.stats();
  notifier.set();
  await new Promise((resolve) => setTimeout(resolve, 20));
  assertEquals([hits, ctx.stats().polls], [0, polls]);
  assert(ctx.poll(true));
  assertEquals(hits, 1);
  ctx.attach();
  ctx.attach();
  notifier.set();
  await until(() => hits === 2);
  // Also where nothing else changes the context.
  assertEquals(await ctx.run(async () => (await Promise.resolve(7))), 7);
  ctx.setFdHandler(notifier.fd, null);
});

eachFdmon("attach: disposing gives thread and fds back, asleep or in a callback", async (make) => {
  const threads = () => [...Deno.readDirSync("/proc/self/task")].length;
  attached(make)[Symbol.dispose]();
  const before = { fds: countFds(), threads: threads() };
  for (let round = 0; round < 20; round++) {
    const ctx = attached(make);
    await asleep(ctx);
    if (round % 2 === 0) ctx[Symbol.dispose]();
    else ctx.scheduleOneshot(() => ctx[Symbol.dispose]());
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  await until(() => countFds() <= before.fds && threads() <= before.threads);
});

/** Runs a program around an attached context with a handler. */
function program(make: string, text: string) {
  return run(programWords(`
    import { AioContext, EventNotifier, wakeContext } from ${MOD};
    const ctx = new AioContext(${make});
    ctx.attach();
    const notifier = new EventNotifier();
    ctx.setFdHandler(notifier.fd, { ioRead: () => { notifier.testAndClear(); console.log("read"); } });
    ${text}
  `));
}

for (const fdmon of ["io_uring", "epoll", "poll"]) {
  const make = JSON.stringify({ fdmon });

  Deno.test(`attach: a sleeping context lets the process end (${fdmon})`, async () => {
    const { code, stderr } = await program(make, "setTimeout(() => {}, 30);");
    assertEquals([code, stderr], [0, ""]);
  });

  Deno.test(`ref: keeps the process alive until unref (${fdmon})`, async () => {
    const { code, stdout, stderr } = await program(
      make,
      `ctx.ref();
       ctx.timer(() => { console.log("fired"); ctx.unref(); }).arm(ctx.now() + 5e7);`,
    );
    assertEquals([code, stderr, stdout], [0, "", "fired\n"]);
  });

  Deno.test(`attach: requests in flight keep the process alive (${fdmon})`, async () => {
    const { code, stdout, stderr } = await program(
      make,
      `const listener = ctx.listen({ hostname: "127.0.0.1", port: 0 });
       const [a, b] = await Promise.all([ctx.connect(listener.address), listener.accept()]);
       ctx.timer(() => a.send(new Uint8Array(3))).arm(ctx.now() + 5e7);
       console.log(await b.recv(new Uint8Array(8)));
       await listener.close();`,
    );
    assertEquals([code, stderr, stdout], [0, "", "3\n"]);
  });

  Deno.test(`attach: what callbacks throw is uncaught (${fdmon})`, async () => {
    const { code, stderr } = await program(
      make,
      `ctx.scheduleOneshot(() => { throw new Error("by a callback"); });
       setTimeout(() => console.log("not reached"), 2000);`,
    );
    assertEquals(code, 1);
    assertStringIncludes(stderr, "by a callback");
  });

  for (const driver of ["run", "attach"]) {
    Deno.test(`${driver}: goes on where there is no fd for an idle sleep (${fdmon})`, async () => {
      const text = `
        import { AioContext, AioError, EventNotifier } from ${MOD};
        const ctx = new AioContext(${make});
        const notifier = new EventNotifier(), taken = [];
        // Deno loads what it needs for this before the fds are taken.
        await new Promise((resolve) => setTimeout(resolve, 1));
        const events = new Promise((resolve) => {
          let count = 0;
          ctx.setFdHandler(notifier.fd, {
            ioRead: () => { notifier.testAndClear(); if (++count === 3) resolve(count); },
          });
        });
        try {
          for (;;) taken.push(new EventNotifier());
        } catch (error) {
          if (!(error instanceof AioError) || error.code !== "EMFILE") throw error;
        }
        if (${driver === "attach"}) ctx.attach();
        for (const ms of [50, 100, 150]) setTimeout(() => notifier.set(), ms);
        const count = await (${driver === "run"} ? ctx.run(() => events) : events);
        for (const other of taken) other[Symbol.dispose]();
        console.log(count);
        Deno.exit(0);`;
      const { code, stdout, stderr } = await run(after("ulimit -n 100", programWords(text)));
      assertEquals([code, stderr, stdout], [0, "", "3\n"]);
    });
  }

  Deno.test(`wakeContext: wakes an attached context from a Worker (${fdmon})`, async () => {
    const { code, stdout, stderr } = await program(
      make,
      `const text = 'import { wakeContext } from ${MOD};' +
         'self.onmessage = ({ data }) => { wakeContext(data); postMessage(0); };';
       const worker = new Worker("data:text/javascript," + encodeURIComponent(text), { type: "module" });
       let polls = 0;
       worker.onmessage = () => {
         const wait = () => {
           if (ctx.stats().polls === polls) return setTimeout(wait, 1);
           console.log("woken");
           worker.terminate();
         };
         wait();
       };
       setTimeout(() => { polls = ctx.stats().polls; worker.postMessage(ctx.remote()); }, 50);`,
    );
    assertEquals([code, stderr, stdout], [0, "", "woken\n"]);
  });

  Deno.test(`attach: a Worker that is terminated meanwhile does no harm (${fdmon})`, async () => {
    const { code, stdout, stderr } = await run(programWords(`
      import { wakeContext } from ${MOD};
      const text = 'import { AioContext } from ${MOD};' +
        'const ctx = new AioContext(${make}); ctx.attach();' +
        'ctx.openFile("/etc/passwd").then(() => setTimeout(() => postMessage(ctx.remote()), 20));';
      for (let round = 0; round < 5; round++) {
        const worker = new Worker("data:text/javascript," + encodeURIComponent(text), { type: "module" });
        const remote = await new Promise((resolve) => worker.onmessage = ({ data }) => resolve(data));
        worker.terminate();
        await new Promise((resolve) => setTimeout(resolve, 20));
        wakeContext(remote);
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      console.log("alive");
    `));
    assertEquals([code, stderr, stdout], [0, "", "alive\n"]);
  });
}
