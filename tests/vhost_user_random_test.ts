/** vhost-user: nothing that a front end can say harms the process, or other devices. */
import { assert, assertEquals } from "@std/assert";
import { AioError } from "../mod.ts";
import { USER_BASE, VhostDriver } from "../src/cli/vhost_driver.ts";
import { GUEST_BASE } from "../src/cli/vhost_driver_queue.ts";
import { payloadOf, type VhostFrontEnd } from "../src/cli/vhost_front_end.ts";
import { type VhostUserName, VhostUserRequest } from "../src/virtio/vhost_user_message.ts";
import { BlkRequestType } from "../src/virtio/virtio_blk.ts";
import { TestDevice } from "./memory_device.ts";
import { countFds } from "./open_files.ts";
import { Random } from "./random_values.ts";
import { eachLoop, goOn } from "./test_sockets.ts";
import { TestDisk, unlessGone, withDriver } from "./vhost_kit.ts";
import { closeFd } from "../mod.ts";

const SEED = Number(Deno.env.get("AIO_TEST_SEED") ?? Math.floor(Math.random() * 2 ** 32));
const CASES = Number(Deno.env.get("AIO_TEST_MESSAGES") ?? 20_000);

/** Sends messages that are mostly well-formed, with numbers that mean something, in any order. */
async function misbehave(
  frontEnd: VhostFrontEnd,
  driver: VhostDriver,
  random: Random,
  count: number,
): Promise<void> {
  const [queue] = driver.queues;
  const names = Object.keys(VhostUserRequest) as VhostUserName[];
  const size = BigInt(driver.memory.byteLength);
  const numbers = [
    0n,
    1n,
    2n,
    64n,
    128n,
    256n,
    4096n,
    65_535n,
    65_536n,
    2n ** 31n,
    2n ** 32n - 1n,
    2n ** 53n,
    2n ** 63n,
    2n ** 64n - 1n,
    BigInt(GUEST_BASE),
    BigInt(USER_BASE),
    size,
    driver.features,
    0x100n,
  ];
  const number = () =>
    random.pick(numbers) + (random.once(6) ? BigInt(random.below(20)) : 0n) & 2n ** 64n - 1n;
  const small = () => random.once(4) ? Number(number() & 0xffff_ffffn) : random.below(3);
  const region = () =>
    random.once(2)
      ? [BigInt(GUEST_BASE), size, BigInt(USER_BASE), 0n]
      : [number(), number(), number(), number()];
  const valid: Partial<Record<VhostUserName, () => Uint8Array>> = {
    setMemTable: () => {
      const regions = Array.from({ length: random.below(3) }, region);
      return payloadOf(random.once(5) ? small() : regions.length, 0, ...regions.flat());
    },
    setLogBase: () => payloadOf(number(), number()),
    setVringNum: () => payloadOf(small(), random.once(2) ? queue.size : small()),
    setVringAddr: () =>
      random.once(2)
        ? driver.ringAddresses(queue, random.below(2))
        : payloadOf(small(), small(), number(), number(), number(), number()),
    setVringBase: () => payloadOf(small(), small()),
    getVringBase: () => payloadOf(small(), small()),
    setVringKick: () => payloadOf(BigInt(small())),
    setVringCall: () => payloadOf(BigInt(small())),
    setVringErr: () => payloadOf(BigInt(small())),
    setVringEnable: () => payloadOf(small(), small()),
    getConfig: () => new Uint8Array([...payloadOf(random.below(60), 8, 0), ...new Array(8)]),
    setConfig: () =>
      new Uint8Array([...payloadOf(random.pick([32, 0, 31]), 1, 0), random.below(256)]),
    getInflightFd: () => payloadOf(0n, 0n, queue.size << 16 | random.below(3)),
    setInflightFd: () =>
      payloadOf(
        random.once(2) ? 8192n : number(),
        random.once(2) ? 0n : number(),
        queue.size << 16 | random.below(3),
      ),
    addMemReg: () => payloadOf(0n, ...region()),
    remMemReg: () => payloadOf(0n, ...region()),
    setFeatures: () => payloadOf(random.once(2) ? driver.features : number()),
    setProtocolFeatures: () => payloadOf(BigInt(random.below(2 ** 17)) & 0x1b20bn),
    setStatus: () => payloadOf(BigInt(small())),
    setLogFd: () => new Uint8Array(0),
  };
  const kinds: (readonly number[])[] = [[], [driver.file.fd], [queue.kick.fd], [
    driver.file.fd,
    driver.file.fd,
  ]];
  for (let sent = 0; sent < count; sent++) {
    const name = random.pick(names);
    let payload = valid[name]?.() ?? new Uint8Array(0);
    if (random.once(40)) payload = crypto.getRandomValues(new Uint8Array(random.below(80)));
    const wants = /Kick|Call|Err|LogFd/.test(name)
      ? 2
      : /MemTable|LogBase|setInflight|addMem/.test(name)
      ? 1
      : 0;
    const fds = random.once(12)
      ? random.pick(kinds)
      : name === "setMemTable"
      ? kinds[0].concat(new Array(payload[0] % 3).fill(driver.file.fd))
      : kinds[wants];
    const flags = random.once(60) ? random.below(16) : random.pick([1, 1, 9]);
    await frontEnd.send(
      random.once(100) ? random.below(50) : VhostUserRequest[name],
      payload,
      fds,
      flags,
    );
    // The guest goes on all the while, with rings that may be nonsense.
    if (random.once(3)) {
      const at = random.below(queue.size * 4);
      if (random.once(3)) queue.descriptors[at] = Number(number() & 0xffff_ffffn);
      if (random.once(20)) queue.avail[1] = random.below(65_536);
      if (random.once(6)) queue.offer(random.below(300));
      queue.post(random.below(queue.slots), random.below(3000));
      queue.publish();
      if (random.once(3)) await goOn(1);
    }
  }
}

eachLoop(
  `VhostUserSession: ${CASES} random messages do no harm (AIO_TEST_SEED=${SEED})`,
  async (ctx) => {
    const random = new Random(SEED);
    const device = new TestDevice(1 << 20), other = new TestDevice(1 << 20);
    await using disk = new TestDisk(ctx, device, { numQueues: 2 });
    const files = countFds();
    let sent = 0, connections = 0;
    await withDriver(ctx, other, {}, async ({ queues: [healthy] }) => {
      while (sent < CASES / 3) {
        using driver = new VhostDriver(ctx, { queues: 2, queueSize: 128 });
        await using connection = disk.connect();
        const { frontEnd } = connection;
        if (!random.once(4)) await driver.attach(frontEnd);
        const count = 1 + random.below(60);
        sent += count;
        connections++;
        // Replies have to be taken away, or there is no room for more.
        const reading = (async () => {
          const buffer = new Uint8Array(65_536);
          while (true) {
            const { byteLength, fds } = await frontEnd.socket.recvMessage([buffer], {
              fdsMax: 100,
            });
            fds.forEach(closeFd);
            if (byteLength === 0) return;
          }
        })().catch((error) => assert(error instanceof AioError));
        await unlessGone(misbehave(frontEnd, driver, random, count));
        try {
          frontEnd.socket.shutdown("write");
        } catch (error) {
          assert(error instanceof AioError);
        }
        await connection.ended;
        await reading;
        if (connections % 20 === 0) {
          assertEquals((await healthy.request(BlkRequestType.in, 0, 512)).status, 0);
        }
      }
    });
    assertEquals(countFds(), files);
    const reasons = new Map<string, number>();
    for (const { kind, reason } of disk.events) {
      if (kind === "disconnected") reasons.set(reason.replace(/\d.*/, ""), 1);
    }
    assert(reasons.size > 15, `only ${[...reasons.keys()]}`);
    assert(disk.events.some(({ kind }) => kind === "broken"));
  },
);
