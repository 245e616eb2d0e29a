/** VhostUserBlk: queues at work, guests that are called, and guests that talk nonsense. */
import { assert, assertEquals } from "@std/assert";
import { EventNotifier } from "../mod.ts";
import { payloadOf } from "../src/cli/vhost_front_end.ts";
import { BlkRequestType, BlkStatus } from "../src/virtio/virtio_blk.ts";
import { eachFdmon, onIoUring } from "./each_fdmon.ts";
import { Random } from "./random_values.ts";
import { eachLoop, goOn, isSame } from "./test_sockets.ts";
import { makeDevice, RINGS, withDriver } from "./vhost_kit.ts";

const SEED = Number(Deno.env.get("AIO_TEST_SEED") ?? Math.floor(Math.random() * 2 ** 32));
const { in: IN } = BlkRequestType;
const { ok, ioError } = BlkStatus;

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
