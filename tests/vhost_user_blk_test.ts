/** VhostUserBlk: a driver's requests, on each backend of the loop; restarts and reconnections. */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { AioContext, EventNotifier, MappedMemory, MemFd } from "../mod.ts";
import { VhostDriver } from "../src/cli/vhost_driver.ts";
import { payloadOf } from "../src/cli/vhost_front_end.ts";
import { VhostUserBlk, type VhostUserBlkOptions } from "../src/virtio/mod.ts";
import { RingFeature } from "../src/virtio/vhost_user_features.ts";
import { BlkFeature, BlkRequestType, BlkStatus } from "../src/virtio/virtio_blk.ts";
import { eachFdmon, onIoUring } from "./each_fdmon.ts";
import { TestDevice } from "./memory_device.ts";
import { countFds } from "./open_files.ts";
import { Random } from "./random_values.ts";
import { abstractName, eachLoop, goOn, isSame } from "./test_sockets.ts";
import { TestDisk, withDriver } from "./vhost_kit.ts";

const SEED = Number(Deno.env.get("AIO_TEST_SEED") ?? Math.floor(Math.random() * 2 ** 32));
const {
  in: IN,
  out: OUT,
  flush: FLUSH,
  getId: GET_ID,
  discard: DISCARD,
  writeZeroes: WRITE_ZEROES,
} = BlkRequestType;
const { ok, ioError, unsupported } = BlkStatus;
const ENOSPC = 28, EOPNOTSUPP = 95;
/** Every way in which rings can be agreed on. */
const RINGS = [true, false].flatMap((eventIndex) =>
  [true, false].map((indirect) => ({ eventIndex, indirect }))
);

function makeDevice(size = 1 << 20): TestDevice {
  const device = new TestDevice(size);
  for (let at = 0; at < size; at++) device.bytes[at] = at / 512 * 7 + at;
  return device;
}

for (const rings of RINGS) {
  const title = Object.entries(rings).filter(([, on]) => on).map(([name]) => name).join(" and ");
  eachLoop(`VhostUserBlk: reads and writes, rings with ${title || "neither"}`, async (ctx) => {
    const device = makeDevice();
    await withDriver(ctx, device, { ...rings, numQueues: 2, slotBytes: 16_384 }, async (driver) => {
      assertEquals(driver.sectors, 2048);
      for (const queue of driver.queues) {
        for (const [sector, length] of [[0, 512], [7, 4096], [2040, 4096], [2016, 16_384]]) {
          const read = await queue.request(IN, sector, length, 3);
          assertEquals(read, { slot: 3, status: ok, written: length + 1 });
          const expected = device.bytes.slice(sector * 512, sector * 512 + length);
          assertEquals(queue.data(3).slice(0, length) as Uint8Array, expected);
          queue.data(1).fill(sector);
          assertEquals(await queue.request(OUT, sector, length, 1), {
            slot: 1,
            status: ok,
            written: 1,
          });
          const stored = device.bytes.subarray(sector * 512, sector * 512 + length);
          assert(stored.every((byte) => byte === (sector & 0xff)));
        }
      }
    });
  });
}

eachLoop(
  "VhostUserBlk: requests that no device may see are answered with an error",
  async (ctx) => {
    const device = makeDevice();
    await withDriver(ctx, device, {}, async ({ queues: [queue] }) => {
      const bad: [number, number, number][] = [
        [IN, 2048, 512],
        [IN, 2047, 1024],
        [IN, 2 ** 52, 512],
        [OUT, 2 ** 40, 512],
        [OUT, 2047, 1024],
        [IN, 0, 511],
        [OUT, 0, 513],
        [IN, 0, 0],
      ];
      for (const [type, sector, length] of bad) {
        const { status, written } = await queue.request(type, sector, length);
        assertEquals([status, written], [ioError, 0], `${type} at ${sector}, ${length} bytes`);
      }
      for (const type of [2, 3, 5, 10, 14, 0xffff_ffff]) {
        assertEquals((await queue.request(type, 0, 512)).status, unsupported);
      }
      assertEquals(device.log, []);
      assertEquals((await queue.request(IN, 0, 512)).status, ok);
    });
  },
);

eachLoop("VhostUserBlk: GET_ID is the serial, as long as there is room", async (ctx) => {
  await withDriver(ctx, makeDevice(), { serial: "disk-0123" }, async ({ queues: [queue] }) => {
    for (const length of [20, 5, 40, 1]) {
      queue.data(0).fill(0xee);
      assertEquals((await queue.request(GET_ID, 0, length)).status, ok);
      const id = new Uint8Array(20);
      id.set(new TextEncoder().encode("disk-0123"));
      const seen = Math.min(20, length);
      assertEquals(queue.data(0).slice(0, seen) as Uint8Array, id.slice(0, seen));
      assert(queue.data(0).subarray(seen).every((byte) => byte === 0xee));
    }
  });
});

/** Has a queue send ranges. */
async function changeRanges(
  { queues: [queue] }: VhostDriver,
  type: number,
  ...ranges: [sector: number, sectors: number, flags: number][]
): Promise<number> {
  const words = ranges.flatMap(([sector, sectors, flags]) => [BigInt(sector), sectors, flags]);
  const payload = payloadOf(...words);
  queue.data(0).set(payload);
  return (await queue.request(type, 0, payload.length)).status;
}

eachLoop("VhostUserBlk: DISCARD and WRITE_ZEROES change all their ranges, or none", async (ctx) => {
  const device = makeDevice();
  await withDriver(ctx, device, {}, async (driver) => {
    assertEquals(await changeRanges(driver, DISCARD, [0, 8, 0], [100, 1, 0]), ok);
    assertEquals(await changeRanges(driver, WRITE_ZEROES, [8, 8, 0], [16, 8, 1]), ok);
    assertEquals(device.log.splice(0), [
      "trim 0+4096",
      "trim 51200+512",
      "zero 4096+4096 noHole",
      "zero 8192+4096",
    ]);
    assertEquals(await changeRanges(driver, DISCARD, [0, 8, 1]), unsupported, "unmap");
    assertEquals(await changeRanges(driver, WRITE_ZEROES, [0, 8, 0], [0, 8, 2]), unsupported);
    assertEquals(await changeRanges(driver, DISCARD, [0, 8, 0], [2047, 2, 0]), ioError);
    assertEquals(await changeRanges(driver, WRITE_ZEROES, [0, 0, 0]), ioError);
    const many = Array.from({ length: 33 }, (_, at): [number, number, number] => [at, 1, 0]);
    assertEquals(await changeRanges(driver, DISCARD, ...many), ioError);
    assertEquals(await changeRanges(driver, DISCARD, ...many.slice(1)), ok);
    assertEquals(device.log.length, 32);
    assertEquals((await driver.queues[0].request(DISCARD, 0, 24)).status, ioError);
    device.canTrim = false;
    assertEquals(await changeRanges(driver, DISCARD, [0, 8, 0]), unsupported);
  });
});

eachLoop("VhostUserBlk: what the device fails with is told", async (ctx) => {
  const device = makeDevice();
  await withDriver(ctx, device, {}, async (driver) => {
    const { queues: [queue] } = driver;
    for (const [errno, status] of [[ENOSPC, ioError], [EOPNOTSUPP, unsupported], [0, ok]]) {
      device.errno = errno;
      assertEquals((await queue.request(OUT, 0, 512)).status, status);
      assertEquals((await queue.request(FLUSH, 0, 0)).status, status);
      assertEquals(await changeRanges(driver, DISCARD, [0, 8, 0], [9, 1, 0]), status);
    }
    device.read = () => {
      throw new Error("thrown at once");
    };
    assertEquals((await queue.request(IN, 0, 512)).status, ioError);
  });
});

eachLoop(
  "VhostUserBlk: writes are durable unless the guest flushes and has write-back on",
  async (ctx) => {
    const device = makeDevice();
    const written = async (driver: VhostDriver) => {
      device.log.length = 0;
      await driver.queues[0].request(OUT, 0, 512);
      return device.log.join();
    };
    await withDriver(ctx, device, {}, async (driver, { frontEnd }) => {
      assertEquals(driver.config.getUint8(32), 1);
      assertEquals(await written(driver), "write 0+512");
      const setCache = (value: number) =>
        frontEnd.tell("setConfig", new Uint8Array([...payloadOf(32, 1, 0), value]));
      await setCache(0);
      assertEquals(await written(driver), "write 0+512 fua");
      assertEquals(
        (await frontEnd.ask("getConfig", new Uint8Array([...payloadOf(32, 1, 0), 9]))).payload
          .getUint8(12),
        0,
      );
      await setCache(1);
      assertEquals(await written(driver), "write 0+512");
      assertEquals((await driver.queues[0].request(FLUSH, 0, 0)).status, ok);
      assertEquals(device.log.at(-1), "flush");
    });
    await withDriver(ctx, device, { flush: false }, async (driver) => {
      assertEquals(await written(driver), "write 0+512 fua");
    });
    await withDriver(ctx, device, { writeCache: false }, async (driver) => {
      assertEquals(driver.config.getUint8(32), 0);
      assertEquals(await written(driver), "write 0+512 fua");
    });
  },
);

eachLoop("VhostUserBlk: read-only is a feature, and is kept", async (ctx) => {
  for (const how of ["option", "device"]) {
    const device = makeDevice();
    device.readOnly = how === "device";
    await withDriver(ctx, device, { readOnly: how === "option" }, async (driver) => {
      const { readOnly, discard, writeZeroes } = BlkFeature;
      assertEquals(driver.features & (readOnly | discard | writeZeroes), readOnly);
      assertEquals((await driver.queues[0].request(OUT, 0, 512)).status, ioError);
      assertEquals(await changeRanges(driver, DISCARD, [0, 1, 0]), ioError);
      assertEquals(await changeRanges(driver, WRITE_ZEROES, [0, 1, 0]), ioError);
      assertEquals(device.log, []);
      assertEquals((await driver.queues[0].request(IN, 0, 512)).status, ok);
    });
  }
});

eachLoop("VhostUserBlk: the configuration space is that of the specification", async (ctx) => {
  await withDriver(ctx, makeDevice(), { numQueues: 7 }, async ({ config }, { frontEnd }) => {
    const u32 = (at: number) => config.getUint32(at, true),
      u16 = (at: number) => config.getUint16(at, true);
    assertEquals([u32(0), u32(4), u32(8), u32(12)], [2048, 0, 1 << 22, 126]);
    assertEquals([u32(20), config.getUint8(24), u16(26), u32(28)], [512, 3, 8, 0]);
    assertEquals([config.getUint8(32), u16(34)], [1, 7]);
    assertEquals([u32(36), u32(40), u32(44)], [1 << 22, 32, 8]);
    assertEquals([u32(48), u32(52), config.getUint8(56)], [1 << 22, 32, 1]);
    // A front end that knows of more gets zeros for it.
    const { payload } = await frontEnd.ask(
      "getConfig",
      new Uint8Array([...payloadOf(56, 100, 0), ...new Array(100).fill(9)]),
    );
    assertEquals([
      payload.byteLength,
      payload.getUint8(12),
      payload.getUint8(20),
      payload.getUint8(111),
    ], [112, 1, 0, 0]);
  });
});

for (const rings of RINGS) {
  const title = Object.entries(rings).filter(([, on]) => on).map(([name]) => name).join(" and ");
  eachFdmon(
    `VhostUserBlk: many in flight on many queues, in any order, ${
      title || "neither"
    } (AIO_TEST_SEED=${SEED})`,
    async (makeContext) => {
      using ctx = makeContext();
      await ctx.run(async () => {
        const random = new Random(SEED);
        const device = makeDevice();
        const plain = device.read.bind(device);
        device.tryRead = (memory, start, length, offset) => {
          if (random.once(3)) return false;
          memory.set(device.bytes.subarray(offset, offset + length), start);
          return true;
        };
        // Of the others, some are answered soon, some later.
        device.read = async (buffers, offset) => {
          for (let hops = random.below(4); hops > 0; hops--) await goOn(random.once(20) ? 1 : 0);
          await plain(buffers, offset);
        };
        const options = { ...rings, numQueues: 3, queueSize: 16 };
        await withDriver(ctx, device, options, async (driver, _connection, disk) => {
          let total = 0;
          await Promise.all(driver.queues.map(async (queue) => {
            const sectors: number[] = [];
            const free = Array.from({ length: queue.slots }, (_, slot) => slot);
            let left = 1000;
            while (left > 0 || free.length < queue.slots) {
              let posted = false;
              while (left > 0 && free.length !== 0 && !random.once(5)) {
                const slot = free.pop()!;
                sectors[slot] = random.below(2040);
                queue.describe(slot, IN, 1024);
                queue.post(slot, sectors[slot]);
                left--;
                posted = true;
              }
              if (posted) queue.publish();
              if (free.length === queue.slots) continue;
              const { slot, status, written } = await queue.nextUsed();
              assertEquals([status, written], [ok, 1025]);
              const at = sectors[slot] * 512;
              assertEquals(queue.data(slot)[0], device.bytes[at]);
              assertEquals(queue.data(slot)[1023], device.bytes[at + 1023]);
              free.push(slot);
              total++;
            }
          }));
          assertEquals([total, disk.disk.counts.requests], [3000, 3000]);
        });
      });
    },
  );
}

eachLoop("VhostUserBlk: a guest is called once for what completes together", async (ctx) => {
  const device = makeDevice();
  await withDriver(ctx, device, { eventIndex: false }, async ({ queues: [queue] }, _, disk) => {
    const { promise, resolve } = Promise.withResolvers<void>();
    device.gate = promise;
    const before = disk.disk.counts.calls;
    for (let slot = 0; slot < 32; slot++) queue.post(slot, slot);
    queue.publish();
    while (device.running < 32) await goOn(1);
    assertEquals(disk.disk.counts.calls, before);
    resolve();
    await goOn();
    let back = 0;
    while (queue.takeUsed()) back++;
    assertEquals([back, disk.disk.counts.calls - before], [32, 1]);
  });
});

eachLoop(
  "VhostUserBlk: what a device reads without waiting is answered as it is taken",
  async (ctx) => {
    const device = makeDevice();
    let tries = 0;
    device.tryRead = (memory, start, length, offset) => {
      if (offset === 512) throw new Error("thrown at once");
      if (++tries % 4 === 0) return false;
      memory.set(device.bytes.subarray(offset, offset + length), start);
      return true;
    };
    const options = { eventIndex: false, queueSize: 256 };
    await withDriver(ctx, device, options, async (driver, _, disk) => {
      const [queue] = driver.queues;
      const { promise, resolve } = Promise.withResolvers<void>();
      device.gate = promise;
      const before = disk.disk.counts.calls;
      const { slots } = queue;
      for (let slot = 0; slot < slots; slot++) queue.post(slot, slot % 1000 + 2);
      queue.publish();
      while (device.running < slots / 4) await goOn(1);
      let back = 0;
      const check = () => {
        for (; queue.takeUsed(); back++) {
          assertEquals([queue.usedStatus, queue.usedWritten], [ok, 4097]);
          const at = (queue.usedSlot % 1000 + 2) * 512;
          assert(isSame(queue.data(queue.usedSlot), device.bytes.subarray(at, at + 4096)));
        }
      };
      check();
      // A call for each time that requests were taken: others have a turn after 128.
      assertEquals([back, disk.disk.counts.calls - before], [slots * 3 / 4, slots / 128]);
      assertEquals(device.log.length, slots / 4);
      resolve();
      await goOn();
      check();
      assertEquals([back, disk.disk.counts.calls - before], [slots, slots / 128 + 1]);
      assertEquals((await queue.request(IN, 1, 512)).status, ioError);
      assertEquals((await queue.request(IN, 2, 512)).status, ok);
    });
  },
);

// The other backends do not poll while a request of a socket waits, as that of the front end does.
onIoUring("VhostUserBlk: while the loop polls a guest need not kick", async (makeContext) => {
  using ctx = makeContext();
  ctx.setPollParams({ maxNs: 1e9 });
  for (const eventIndex of [true, false]) {
    await ctx.run(() =>
      withDriver(ctx, makeDevice(), { eventIndex }, async ({ queues: [queue] }) => {
        queue.refuseCalls();
        let inFlight = 0, polled = 0, kicks = 0;
        const act = (): boolean => {
          if (inFlight !== 0 && !queue.takeUsed()) return false;
          inFlight = 1;
          queue.post(0, 0);
          if (queue.publish()) kicks++;
          return true;
        };
        // A guest on another processor, as far as the device can tell: it acts while the loop polls.
        using guest = new EventNotifier();
        const { promise, resolve } = Promise.withResolvers<void>();
        ctx.setFdHandler(guest.fd, {
          ioRead: () => void guest.testAndClear(),
          ioPoll: () => {
            if (act() && ++polled === 300) resolve();
            return false;
          },
          ioPollReady: () => {},
        });
        guest.set();
        // Where the loop does not poll nobody else would go on.
        const timer = ctx.timer(() => (act(), guest.set(), timer.arm(ctx.now() + 1e6)));
        timer.arm(ctx.now());
        await promise;
        timer.cancel();
        ctx.setFdHandler(guest.fd, null);
        // Those of the timer, and of the last look before sleeping.
        assert(kicks < 150, `${kicks} kicks for 300 requests`);
      })
    );
  }
});

eachLoop(
  "VhostUserBlk: a broken queue stops its device, and a reset makes it whole",
  async (ctx) => {
    for (const how of ["resetDevice", "setStatus", "getVringBase"] as const) {
      await withDriver(ctx, makeDevice(), { numQueues: 2 }, async (driver, { frontEnd }, disk) => {
        const [queue, other] = driver.queues;
        queue.offer(0xffff);
        queue.publish();
        await goOn(5);
        assertEquals(await frontEnd.askNumber("getStatus"), 64n);
        assert(queue.error?.testAndClear() && other.error?.testAndClear());
        assertEquals(disk.events.at(-1)?.kind, "broken");
        other.post(0, 0);
        other.publish();
        await goOn(5);
        assert(!other.takeUsed(), "takes no more requests");
        if (how === "getVringBase") {
          for (const each of driver.queues) await driver.stopQueue(frontEnd, each);
        } else await frontEnd.tell(how, how === "setStatus" ? payloadOf(0n) : undefined);
        assertEquals(await frontEnd.askNumber("getStatus"), 0n);
        if (how !== "getVringBase") await frontEnd.tell("setFeatures", payloadOf(driver.features));
        await driver.startQueue(frontEnd, other);
        other.describe(1, IN, 512);
        const { status } = await other.nextUsed();
        assertEquals(status, ok, "what was asked for meanwhile");
      });
    }
  },
);

eachLoop("VhostUserBlk: a guest's nonsense harms no other device", async (ctx) => {
  const healthy = makeDevice();
  await withDriver(ctx, healthy, {}, async ({ queues: [good] }) => {
    await withDriver(ctx, makeDevice(), { indirect: false }, async ({ queues: [bad] }, _, disk) => {
      bad.descriptors[3] = 1; // A descriptor without data, and itself's next one.
      bad.offer(0);
      bad.publish();
      for (let count = 0; count < 20; count++) {
        assertEquals((await good.request(IN, count, 512)).status, ok);
      }
      assertEquals(disk.events.at(-1)?.kind, "broken");
    });
  });
});

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
