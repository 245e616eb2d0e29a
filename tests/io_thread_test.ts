/** IOThreads: what they can be asked, and by whom. */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import {
  AioContext,
  AioError,
  coEnter,
  coSchedule,
  IOThread,
  type IOThreadOptions,
  type RemoteContext,
  wakeContext,
} from "../mod.ts";
import { eachFdmon, FDMONS } from "./each_fdmon.ts";
import { FILE, MODULE, start, threads, warmUp } from "./io_thread_kit.ts";
import { rejection } from "./peer_kit.ts";

for (const fdmon of FDMONS) {
  Deno.test(`IOThread: calls, messages, data, name and counters (${fdmon})`, async () => {
    const counter = new Int32Array(new SharedArrayBuffer(8)), bytes = new Uint8Array([1, 2, 3]);
    const thread = await start({
      name: "io7",
      fdmon,
      data: { counter, bytes },
      transfer: [bytes.buffer],
      pollParams: { maxNs: 1000 },
    });
    assertEquals(bytes.length, 0, "transferred");
    assertEquals([thread.name, thread.running, thread.outstanding], ["io7", true, 0]);
    assertEquals(await thread.call("add", 1, 2), 3);
    assertEquals(await thread.call("name"), "io7");
    assertEquals(await thread.call("bytes"), new Uint8Array([1, 2, 3]));
    assertEquals(await thread.call("backend"), fdmon);
    for (let count = 0; count < 100; count++) assert(thread.send("count"));
    assertEquals(await thread.call("count"), 101);
    assertEquals(counter[0], 101, "shared memory is shared");
    assertEquals(await thread.call("fetch"), "fetched");
    assertEquals((await thread.call("pollParams")).maxNs, 1000);
    await thread.setPollParams({ maxNs: 2000 });
    assertEquals((await thread.call("pollParams")).maxNs, 2000);
    await assertRejects(() => thread.setPollParams({ maxNs: -1 }), RangeError);
    const before = await thread.stats();
    await thread.call("add", 1, 2);
    assert(before.polls > 0 && (await thread.stats()).polls >= before.polls);
    assert(wakeContext(thread.remote));
    const never = rejection(thread.call("never"));
    assertEquals(thread.outstanding, 1);
    await thread.terminate();
    assert(await never instanceof TypeError);
    assertEquals([thread.running, wakeContext(thread.remote)], [false, false]);
    await thread.join();
    await assertRejects(() => thread.call("add", 1, 2), TypeError, "as it is ended: io7");
    assertThrows(() => thread.send("count"), TypeError, "as it is ended: io7");
    await assertRejects(() => thread.stats(), TypeError, "as it is ended: io7");
    await assertRejects(() => thread.trace(["poll_add"], () => {}), TypeError, "as it is ended");
  });
}

Deno.test("IOThread: its thread runs on the processors it was given, and is another", async () => {
  const own = Number(Deno.readLinkSync("/proc/thread-self").split("/").at(-1));
  await using thread = await start({ processors: [0] });
  assertEquals(await thread.call("allowed"), "0");
  assert(await thread.call("ownThread") !== own);
  const message = "Cannot run on a processor as it has no such number: -1";
  await assertRejects(() => start({ processors: [-1] }), RangeError, message);
  const error = await rejection(start({ processors: [8000] }));
  assert(error instanceof AioError);
  assertEquals([error.code, error.syscall], ["EINVAL", "sched_setaffinity"]);
});

Deno.test("IOThread.trace: events of the thread arrive, until it is stopped", async () => {
  await using thread = await start();
  const events: string[] = [];
  const stop = await thread.trace(["poll_begin", "poll_end"] as never, () => {}).catch((e) => e);
  assert(stop instanceof Error, "there is no such event");
  const stopTrace = await thread.trace(["fdmon_io_uring_add_sqe"], (name, event, dropped) => {
    events.push(name);
    assert(typeof event.opcode === "number" && dropped === 0);
  });
  await thread.call("hold", FILE);
  assert(events.length >= 8, `${events.length}`);
  stopTrace();
  stopTrace();
  await thread.call("add", 1, 2);
  const seen = events.length;
  await thread.call("hold", FILE);
  assertEquals(events.length, seen);
  await assertRejects(() => thread.trace(["poll_add"], null as never), TypeError, "not a function");
});

Deno.test("IOThread.start: bad options say so, and leave no thread", async () => {
  await warmUp();
  const before = threads().length;
  const wrong: readonly [unknown, IOThreadOptions, string][] = [
    ["no url", {}, "Invalid URL"],
    [MODULE, { context: {} as never }, "as its context is no AioContext"],
    [MODULE, { data: () => {} }, "could not be cloned"],
    [MODULE, { data: coEnter as never }, "could not be cloned"],
    [MODULE, { processors: 1 as never }, "iterable"],
    [MODULE, { pollParams: { maxNs: -1 } }, "maxNs"],
    [MODULE, { fdmon: "select" as never }, "select"],
    [MODULE, { shim: "/nowhere.so" }, "/nowhere.so"],
  ];
  for (const [module, options, message] of wrong) {
    const error = await rejection(IOThread.start(module as string, options))
      .catch(() => new Error(`started with ${Deno.inspect(options)}`));
    assert(error.message.includes(message), error.message);
  }
  assert(threads().length <= before, `${threads().length} threads, ${before} before`);
});

Deno.test("IOThread: called from another thread that was given its remote, by either way", async () => {
  await using worker = await start({ name: "worker" });
  await using device = await start({ name: "device" });
  // By a message.
  await worker.call("connect", device.remote as RemoteContext as never);
  assert(Number.isNaN(await worker.call("callBack", 1)), "1 and undefined, added there");
  // By postMessage, into a plain Worker.
  const url = new URL("./io_thread_caller_worker.ts", import.meta.url);
  const plain = new Worker(url, { type: "module" });
  const told = () => new Promise((resolve) => plain.onmessage = ({ data }) => resolve(data));
  await told();
  plain.postMessage(device.remote);
  assertEquals(await told(), [3, "device"]);
  plain.terminate();
});

eachFdmon("IOThread: called by, and calling, a context of the caller's own", async (make) => {
  const context = make();
  let sum = 0;
  const remote = context.expose({ add: (one: number) => sum += one });
  const thread = await start({ context });
  await context.run(async () => {
    assertEquals(await thread.call("add", 2, 3), 5);
    await thread.call("connect", remote);
    assertEquals(await thread.call("callBack", 7), 7);
    await thread.call("sendBack", 20_000);
    assertEquals(await thread.call("callBack", 0), 20_007);
  });
  await thread.stop();
  context[Symbol.dispose]();
});

Deno.test("Coroutine: cannot be posted, and says so", async () => {
  using ctx = new AioContext();
  await using thread = await start();
  const co = coSchedule(ctx, (co) => co.yield());
  const message = "Symbol(a Coroutine, which belongs to the thread that made it,) could not be";
  const { port1, port2 } = new MessageChannel();
  assertThrows(() => port1.postMessage({ co }), Error, message);
  port1.close();
  port2.close();
  await assertRejects(
    () => thread.call("echo", co),
    TypeError,
    "Cannot send a Coroutine to another",
  );
  await assertRejects(() => thread.call("echo", ctx), TypeError, "Cannot send a AioContext to");
});
