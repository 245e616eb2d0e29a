/** VhostUserBlk: what comes, goes and comes back: rings, front ends, memory, contexts, the back end. */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { AioContext, MappedMemory, MemFd } from "../mod.ts";
import { VhostDriver } from "../src/cli/vhost_driver.ts";
import { payloadOf } from "../src/cli/vhost_front_end.ts";
import { VhostUserBlk, type VhostUserBlkOptions } from "../src/virtio/mod.ts";
import { RingFeature } from "../src/virtio/vhost_user_features.ts";
import { BlkRequestType, BlkStatus } from "../src/virtio/virtio_blk.ts";
import { eachFdmon } from "./each_fdmon.ts";
import { countFds } from "./open_files.ts";
import { abstractName, eachLoop, goOn } from "./test_sockets.ts";
import { makeDevice, TestDisk, withDriver } from "./vhost_kit.ts";

const { in: IN } = BlkRequestType;
const { ok } = BlkStatus;

eachLoop(
  "VhostUserBlk: GET_VRING_BASE waits for requests in flight, and says where to go on",
  async (ctx) => {
    const device = makeDevice();
    await withDriver(ctx, device, {}, async (driver, { frontEnd }) => {
      const [queue] = driver.queues;
      const { promise, resolve } = Promise.withResolvers<void>();
      device.gate = promise;
      for (let slot = 0; slot < 3; slot++) queue.post(slot, slot);
      queue.publish();
      while (device.running < 3) await goOn(1);
      let base = -1;
      const stopping = driver.stopQueue(frontEnd, queue).then((value) => base = value);
      await goOn(5);
      assertEquals(base, -1);
      resolve();
      await stopping;
      assertEquals(base, 3);
      for (let slot = 0; slot < 3; slot++) assert(queue.takeUsed(), "is answered before");
      queue.post(5, 5);
      queue.publish();
      await goOn(5);
      assert(!queue.takeUsed(), "is stopped");
      await driver.startQueue(frontEnd, queue, base);
      assertEquals((await queue.nextUsed()).slot, 5);
    });
  },
);

eachLoop(
  "VhostUserBlk: a back end that comes back does what its predecessor did not answer",
  async (ctx) => {
    using driver = new VhostDriver(ctx, { queues: 2 });
    const first = makeDevice(), second = makeDevice();
    {
      await using disk = new TestDisk(ctx, first, { numQueues: 2 });
      const connection = disk.connect();
      await driver.attach(connection.frontEnd);
      const { promise, resolve } = Promise.withResolvers<void>();
      const read = first.read.bind(first);
      let waiting = 0;
      // Every other one is answered, so the used index says nothing of which are not.
      first.read = async (buffers, offset) => {
        if (offset / 512 % 2 === 0 && ++waiting !== 0) await promise;
        await read(buffers, offset);
      };
      for (const queue of driver.queues) {
        for (let slot = 0; slot < 8; slot++) queue.post(slot, slot);
        queue.publish();
        for (let count = 0; count < 4; count++) assertEquals((await queue.nextUsed()).slot % 2, 1);
      }
      assertEquals(waiting, 8);
      // As if it were killed: what it does from now on nobody sees.
      const before = driver.memory.bytes.slice();
      const inflight = inflightOf(driver);
      const record = inflight.bytes.slice();
      await connection.frontEnd[Symbol.asyncDispose]();
      resolve();
      await connection.ended;
      driver.memory.bytes.set(before);
      inflight.bytes.set(record);
      inflight[Symbol.dispose]();
    }
    await using disk = new TestDisk(ctx, second, { numQueues: 2 });
    await using connection = disk.connect();
    for (const queue of driver.queues) {
      queue.post(20, 20);
      queue.publish();
    }
    await driver.attach(connection.frontEnd);
    for (const queue of driver.queues) {
      const slots: number[] = [];
      while (slots.length < 5) slots.push((await queue.nextUsed()).slot);
      assertEquals(slots, [0, 2, 4, 6, 20], "in their order, new ones last");
      assertEquals((await queue.request(IN, 1, 512, 30)).status, ok);
    }
  },
);

/** Mappings of memory of guests in this process. */
function guestMappings(): number {
  return Deno.readTextFileSync("/proc/self/maps").match(/memfd:guest memory/g)?.length ?? 0;
}

/** The record of requests in flight, as the front end has it mapped. */
function inflightOf(driver: VhostDriver): MappedMemory {
  return new MappedMemory(driver.inflightFd);
}

eachLoop("VhostUserBlk: front ends come and go; each finds the device as at first", async (ctx) => {
  const device = makeDevice();
  await using disk = new TestDisk(ctx, device);
  const address = abstractName();
  const listener = ctx.listen(address);
  const serving = disk.disk.serve(listener);
  const { VhostFrontEnd } = await import("../src/cli/vhost_front_end.ts");
  for (let round = 0; round < 5; round++) {
    using driver = new VhostDriver(ctx);
    await using frontEnd = new VhostFrontEnd(await ctx.connect(address));
    await driver.attach(frontEnd);
    assertEquals(driver.config.getUint8(32), 1);
    assertEquals((await driver.queues[0].request(IN, round, 512)).status, ok);
    await frontEnd.tell("setConfig", new Uint8Array([...payloadOf(32, 1, 0), 0]));
    if (round === 3) device.gate = goOn(20); // Goes away with a request in flight.
    if (round === 3) driver.queues[0].post(0, 0), driver.queues[0].publish();
    if (round === 3) await goOn(2);
  }
  await listener.close();
  await serving;
  assertEquals(
    disk.events.filter(({ kind }) => kind === "disconnected").map(({ reason }) => reason),
    new Array(5).fill("the front end has closed it"),
  );
});

eachLoop(
  "VhostUserBlk: memory that is added, taken away and replaced, with a log of what is written",
  async (ctx) => {
    await withDriver(ctx, makeDevice(), {}, async (driver, { frontEnd }) => {
      const [queue] = driver.queues;
      using extra = new MemFd("extra", { size: 1 << 20 });
      using mapped = new MappedMemory(extra.fd);
      const region = payloadOf(0n, 2n ** 40n, 1n << 20n, 2n ** 46n, 0n);
      await frontEnd.tell("addMemReg", region, [extra.fd]);
      await assertRejects(
        () => frontEnd.tell("addMemReg", region, [extra.fd]),
        Error,
        "has refused",
      );
      // A buffer in the new memory, two pages in.
      queue.describe(0, IN, 512);
      queue.slotTable(0)[4 + 0] = 8192;
      queue.slotTable(0)[4 + 1] = 2 ** 8;
      using logFile = new MemFd("log", { size: 2 ** 26 });
      using log = new MappedMemory(logFile.fd);
      await frontEnd.tell("setFeatures", payloadOf(driver.features | RingFeature.logAll));
      const reply = await frontEnd.ask("setLogBase", payloadOf(2n ** 26n, 0n), [logFile.fd]);
      assertEquals(reply.payload.byteLength, 8);
      await frontEnd.tell("setVringAddr", driver.ringAddresses(queue, 1));
      queue.post(0, 5);
      queue.publish();
      assertEquals((await queue.nextUsed()).status, ok);
      assertEquals(mapped.bytes[8192], makeDevice().bytes[2560]);
      const dirty: number[] = [];
      for (let page = 0; page < 2 ** 29; page += 8) {
        if (log.bytes[page / 8] === 0) continue;
        for (let bit = 0; bit < 8; bit++) {
          if (log.bytes[page / 8] >> bit & 1) dirty.push(page + bit);
        }
      }
      const pageOf = (at: number) => (0x4000_0000 + at) / 4096 | 0;
      const expected = new Set([pageOf(queue.slotsAt), pageOf(queue.usedAt), 2 ** 28 + 2]);
      assertEquals(new Set(dirty), expected);
      await frontEnd.tell("remMemReg", region);
      queue.post(0, 5);
      queue.publish();
      await goOn(5);
      assertEquals(await frontEnd.askNumber("getStatus"), 64n, "its buffer is gone");
    });
  },
);

eachLoop(
  "VhostUserBlk.close: waits for requests in flight and leaves nothing open",
  async (ctx) => {
    const files = countFds();
    const device = makeDevice();
    {
      using driver = new VhostDriver(ctx);
      const disk = new TestDisk(ctx, device);
      const connection = disk.connect();
      await driver.attach(connection.frontEnd);
      const { promise, resolve } = Promise.withResolvers<void>();
      device.gate = promise;
      driver.queues[0].post(0, 0);
      driver.queues[0].publish();
      while (device.running === 0) await goOn(1);
      let closed = false;
      const closing = disk.disk.close().then(() => closed = true);
      await goOn(5);
      assert(!closed);
      assertEquals(guestMappings(), 2, "the driver's and ours");
      resolve();
      await closing;
      await disk.disk.close();
      assertEquals(guestMappings(), 1, "the driver's");
      await connection.frontEnd[Symbol.asyncDispose]();
    }
    assertEquals(countFds(), files);
  },
);

eachFdmon(
  "VhostUserBlk: a context that is disposed takes its connections with it",
  async (makeContext) => {
    const files = countFds();
    const ctx = makeContext();
    const disk = new TestDisk(ctx, makeDevice());
    using driver = new VhostDriver(ctx);
    const connection = disk.connect();
    await ctx.run(async () => {
      await driver.attach(connection.frontEnd);
      assertEquals((await driver.queues[0].request(IN, 0, 512)).status, ok);
    });
    ctx[Symbol.dispose]();
    await connection.ended;
    await connection.frontEnd.socket.close();
    driver[Symbol.dispose]();
    assertEquals(countFds(), files);
  },
);

Deno.test("VhostUserBlk: refuses options that are none", () => {
  using ctx = new AioContext();
  const device = makeDevice();
  const make = (options: unknown) => () =>
    new VhostUserBlk(ctx, device, options as VhostUserBlkOptions);
  for (const numQueues of [0, 257, 1.5, "2", null]) {
    assertThrows(make({ numQueues }), RangeError, "numQueues");
  }
  for (const name of ["readOnly", "writeCache"]) assertThrows(make({ [name]: 1 }), TypeError, name);
  for (const serial of ["x".repeat(21), "ä", "\n"]) {
    assertThrows(make({ serial }), RangeError, "serial");
  }
  for (const options of [{ serial: 7 }, { onEvent: 7 }, null, 7]) {
    assertThrows(make(options), TypeError);
  }
  assertThrows(() => new VhostUserBlk({} as AioContext, device), TypeError, "no AioContext");
  assertThrows(() => new VhostUserBlk(ctx, null as never), TypeError, "the device is no object");
});
