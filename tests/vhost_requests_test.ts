/** VhostUserBlk: what the requests of a guest do, whatever rings they come by. */
import { assert, assertEquals } from "@std/assert";
import type { VhostDriver } from "../src/cli/vhost_driver.ts";
import { payloadOf } from "../src/cli/vhost_front_end.ts";
import { BlkFeature, BlkRequestType, BlkStatus } from "../src/virtio/virtio_blk.ts";
import { eachLoop } from "./test_sockets.ts";
import { makeDevice, RINGS, withDriver } from "./vhost_kit.ts";

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
