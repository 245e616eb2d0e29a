/** vhost-user: what a malformed message leads to, and what rings need to be served. */
import { assert, assertEquals } from "@std/assert";
import { EventNotifier } from "../mod.ts";
import { USER_BASE, VhostDriver } from "../src/cli/vhost_driver.ts";
import { GUEST_BASE } from "../src/cli/vhost_driver_queue.ts";
import { payloadOf } from "../src/cli/vhost_front_end.ts";
import {
  MessageBit,
  type VhostUserName,
  VhostUserRequest,
} from "../src/virtio/vhost_user_message.ts";
import { BlkRequestType } from "../src/virtio/virtio_blk.ts";
import { TestDevice } from "./memory_device.ts";
import { countFds } from "./open_files.ts";
import { makePair } from "./libc.ts";
import { eachLoop, goOn } from "./test_sockets.ts";
import { type Connection, TestDisk, unlessGone, withDriver } from "./vhost_kit.ts";
import { closeFd } from "../mod.ts";

type Misdeed = (connection: Connection, driver: VhostDriver) => Promise<unknown>;

const send = (
  name: VhostUserName | number,
  payload: Uint8Array = new Uint8Array(0),
  fds: readonly number[] = [],
  flags: number = MessageBit.version,
): Misdeed =>
({ frontEnd }) =>
  frontEnd.send(typeof name === "number" ? name : VhostUserRequest[name], payload, fds, flags);

const memory = (...regions: bigint[][]) => payloadOf(regions.length, 0, ...regions.flat());

/** Sends a message with a file. */
const withFile =
  (name: VhostUserName, payload: Uint8Array, kind: "notifier" | "memory" = "notifier"): Misdeed =>
  async (connection, driver) => {
    using notifier = new EventNotifier();
    const fd = kind === "notifier" ? notifier.fd : driver.file.fd;
    await send(name, payload, [fd])(connection, driver);
  };

/** What a front end must not do, and what is said of it. */
const MISDEEDS: readonly [name: string, reason: string, misdeed: Misdeed][] = [
  ["an unknown request", "request 99: not known", send(99)],
  ["request 0", "request 0: not known", send(0)],
  ["another version", "getFeatures: version 2", send("getFeatures", undefined, [], 2)],
  ["a reply", "getFeatures: it is a reply", send("getFeatures", undefined, [], 5)],
  [
    "a payload where there is none",
    "getFeatures: a payload of 8",
    send("getFeatures", payloadOf(0n)),
  ],
  ["a payload that is too short", "setFeatures: a payload of 4", send("setFeatures", payloadOf(0))],
  ["a payload of 4 GiB", "setConfig: a payload of 4294967295", async ({ frontEnd }) => {
    await frontEnd.socket.sendAll(payloadOf(VhostUserRequest.setConfig, 1, 0xffff_ffff));
  }],
  ["a part of a header", "the end is amid it", async ({ frontEnd }) => {
    await frontEnd.socket.sendAll(payloadOf(1));
    frontEnd.socket.shutdown("write");
  }],
  ["a part of a payload", "the end is amid it", async ({ frontEnd }) => {
    await frontEnd.socket.sendAll(payloadOf(VhostUserRequest.setFeatures, 1, 8, 0));
    frontEnd.socket.shutdown("write");
  }],
  [
    "a file where there is none",
    "getFeatures: 1 files",
    withFile("getFeatures", new Uint8Array(0)),
  ],
  ["nine files", "more than 8 files", async (connection, driver) => {
    const fds = new Array(9).fill(driver.file.fd);
    await send("setMemTable", memory(), fds)(connection, driver);
  }],
  ["a file amid a message", "setFeatures: 1 files", async ({ frontEnd }, driver) => {
    await frontEnd.socket.sendAll(payloadOf(VhostUserRequest.setFeatures, 1, 8));
    await frontEnd.socket.sendMessage([payloadOf(0n)], [driver.file.fd]);
  }],
  ["nine files, one by one", "more than 8 files", async ({ frontEnd }, driver) => {
    await frontEnd.socket.sendAll(payloadOf(VhostUserRequest.setMemTable, 1, 264));
    for (let count = 0; count < 9; count++) {
      await frontEnd.socket.sendMessage([payloadOf(0n)], [driver.file.fd]);
    }
  }],
  [
    "features not offered",
    "features 0x8000000000000000",
    send("setFeatures", payloadOf(2n ** 63n)),
  ],
  ["protocol features not offered", "features 0x20", send("setProtocolFeatures", payloadOf(32n))],
  [
    "a table with a file too few",
    "of 1 regions with 0 files",
    send("setMemTable", memory([0n, 4096n, 0n, 0n])),
  ],
  [
    "a table that says it is longer",
    "of 5 regions with 0 files",
    send("setMemTable", payloadOf(5, 0)),
  ],
  [
    "a region beyond its file",
    "the file ends before",
    withFile("setMemTable", memory([0n, 2n ** 30n, 0n, 0n]), "memory"),
  ],
  [
    "a region that wraps",
    "too far up",
    withFile("setMemTable", memory([2n ** 64n - 1n, 4096n, 0n, 0n]), "memory"),
  ],
  [
    "a region without a size",
    "it is empty",
    withFile("setMemTable", memory([0n, 0n, 0n, 0n]), "memory"),
  ],
  [
    "a region in an eventfd",
    "the file ends before",
    withFile("setMemTable", memory([0n, 4096n, 0n, 0n])),
  ],
  ["regions that overlap", "overlaps another", async (connection, driver) => {
    const table = memory([0n, 8192n, 0n, 0n], [4096n, 8192n, 2n ** 40n, 0n]);
    await send("setMemTable", table, [driver.file.fd, driver.file.fd])(connection, driver);
  }],
  ["regions that overlap in the front end", "overlaps another", async (connection, driver) => {
    const table = memory([0n, 8192n, 0n, 0n], [2n ** 40n, 8192n, 4096n, 0n]);
    await send("setMemTable", table, [driver.file.fd, driver.file.fd])(connection, driver);
  }],
  [
    "a region that is not there taken away",
    "as there is none",
    send("remMemReg", payloadOf(0n, 1n, 2n, 3n, 4n)),
  ],
  [
    "a region added without its file",
    "without its file",
    send("addMemReg", payloadOf(0n, 1n, 2n, 3n, 4n)),
  ],
  ["a ring beyond the last", "ring 1: there is none", send("setVringNum", payloadOf(1, 128))],
  [
    "ring 2^32 - 1",
    "ring 4294967295: there is none",
    send("setVringEnable", payloadOf(0xffff_ffff, 1)),
  ],
  ["a ring of 100 entries", "no power of two", send("setVringNum", payloadOf(0, 100))],
  ["a ring of no entries", "no power of two", send("setVringNum", payloadOf(0, 0))],
  ["a base beyond 65,535", "beyond 65,535", send("setVringBase", payloadOf(0, 65_536))],
  ["enabled by 2", "other than 0 and 1", send("setVringEnable", payloadOf(0, 2))],
  ["a kick for ring 7", "ring 7: there is none", withFile("setVringKick", payloadOf(7n))],
  ["no kick at all", "never kicked", send("setVringKick", payloadOf(0x100n))],
  ["a kick without its file", "setVringKick with 0 files", send("setVringKick", payloadOf(0n))],
  [
    "a call that says it has no file",
    "setVringCall with 1 files",
    withFile("setVringCall", payloadOf(0x100n)),
  ],
  [
    "a kick that is a file",
    "EINVAL (no eventfd)",
    withFile("setVringKick", payloadOf(0n), "memory"),
  ],
  ["a kick that is a socket", "EINVAL (no eventfd)", async (connection, driver) => {
    const pair = makePair("socket");
    await send("setVringKick", payloadOf(0n), [pair[0]])(connection, driver);
    pair.forEach(closeFd);
  }],
  [
    "a ring that is started with nothing",
    "lacks its size or addresses",
    async (connection, driver) => {
      await send("resetDevice")(connection, driver);
      await send("setVringEnable", payloadOf(0, 1))(connection, driver);
      await withFile("setVringKick", payloadOf(0n))(connection, driver);
    },
  ],
  [
    "rings outside of memory",
    "not in memory",
    send("setVringAddr", payloadOf(0, 0, 16n, 32n, 64n, 0n)),
  ],
  ["rings that are not aligned", "not a multiple of 16", (connection, driver) => {
    const at = BigInt(USER_BASE + 8);
    return send("setVringAddr", payloadOf(0, 0, at, at, at, 0n))(connection, driver);
  }],
  ["a ring taken from under it", "not in memory", send("setMemTable", memory())],
  [
    "a configuration beyond its end",
    "at 250, 10 bytes",
    send("getConfig", new Uint8Array([...payloadOf(250, 10, 0), ...new Array(10)])),
  ],
  [
    "a configuration of another length",
    "at 0, 10 bytes",
    send("getConfig", new Uint8Array([...payloadOf(0, 10, 0), 1])),
  ],
  [
    "a write of the capacity",
    "write the configuration at 0",
    send("setConfig", new Uint8Array([...payloadOf(0, 1, 0), 1])),
  ],
  [
    "a record of no rings",
    "requests of 0 rings",
    send("getInflightFd", payloadOf(0n, 0n, 128 << 16)),
  ],
  [
    "a record of too many rings",
    "requests of 9 rings",
    send("getInflightFd", payloadOf(0n, 0n, 128 << 16 | 9)),
  ],
  [
    "a record of odd rings",
    "no power of two",
    send("getInflightFd", payloadOf(0n, 0n, 100 << 16 | 1)),
  ],
  [
    "a record without a file",
    "without a file",
    send("setInflightFd", payloadOf(8192n, 0n, 128 << 16 | 1)),
  ],
  [
    "a record that is too short",
    "in 100 bytes",
    withFile("setInflightFd", payloadOf(100n, 0n, 128 << 16 | 1), "memory"),
  ],
  [
    "a record that is smaller than its ring",
    "of ring 0 of 128 entries",
    withFile("setInflightFd", payloadOf(8192n, 0n, 64 << 16 | 1), "memory"),
  ],
  ["a record that is nonsense", "the record of chains in flight", async (connection, driver) => {
    driver.memory.bytes.fill(0xff, 0, 4096);
    await withFile("setInflightFd", payloadOf(8192n, 0n, 128 << 16 | 1), "memory")(
      connection,
      driver,
    );
  }],
  ["a log without a file", "without a file", send("setLogBase", payloadOf(4096n, 0n))],
  [
    "a log beyond its file",
    "the file ends before",
    withFile("setLogBase", payloadOf(2n ** 31n, 0n), "memory"),
  ],
  ["a status beyond 255", "beyond 255", send("setStatus", payloadOf(256n))],
];

eachLoop(
  "VhostUserSession: whatever is malformed ends the connection, with a reason, and that alone",
  async (ctx) => {
    const device = new TestDevice(1 << 20);
    await using disk = new TestDisk(ctx, device);
    await withDriver(ctx, device, {}, async ({ queues: [healthy] }) => {
      for (const [name, reason, misdeed] of MISDEEDS) {
        const files = countFds();
        {
          using driver = new VhostDriver(ctx);
          await using connection = disk.connect();
          await driver.attach(connection.frontEnd);
          await unlessGone(misdeed(connection, driver));
          const why = await connection.ended;
          assert(why.includes(reason), `${name}: ${why}`);
        }
        assertEquals(countFds(), files, name);
        assertEquals((await healthy.request(BlkRequestType.in, 0, 512)).status, 0);
      }
    });
  },
);

eachLoop(
  "VhostUserSession: a request that fails is refused where a reply is asked for, and that is all",
  async (ctx) => {
    await withDriver(ctx, new TestDevice(1 << 20), {}, async (driver, { frontEnd }, disk) => {
      const tries: [VhostUserName, Uint8Array, number[]][] = [
        ["setFeatures", payloadOf(2n ** 63n), []],
        ["setVringNum", payloadOf(5, 128), []],
        ["addMemReg", payloadOf(0n, BigInt(GUEST_BASE), 4096n, 2n ** 45n, 0n), [driver.file.fd]],
        ["setConfig", new Uint8Array([...payloadOf(0, 1, 0), 1]), []],
      ];
      for (const [name, payload, fds] of tries) {
        let refused = "";
        await frontEnd.tell(name, payload, fds).catch((error) => refused = error.message);
        assertEquals(refused, `The back end has refused ${name}`);
      }
      assertEquals((await driver.queues[0].request(BlkRequestType.in, 0, 512)).status, 0);
      assertEquals(disk.events.map(({ kind }) => kind), ["connected"]);
    });
  },
);

eachLoop(
  "VhostUserSession: rings that are not enabled are not served; without the protocol's features all are",
  async (ctx) => {
    const device = new TestDevice(1 << 20);
    await withDriver(ctx, device, {}, async (driver, { frontEnd }) => {
      const [queue] = driver.queues;
      await frontEnd.tell("setVringEnable", payloadOf(0, 0));
      queue.post(0, 0);
      queue.publish();
      await goOn(5);
      assert(!queue.takeUsed());
      await frontEnd.tell("setVringEnable", payloadOf(0, 1));
      assertEquals((await queue.nextUsed()).status, 0);
    });
    await using disk = new TestDisk(ctx, device);
    using driver = new VhostDriver(ctx);
    await using connection = disk.connect();
    const { frontEnd } = connection;
    driver.features = 2n ** 32n | 2n ** 28n | 2n ** 29n;
    await frontEnd.tell("setFeatures", payloadOf(driver.features));
    await frontEnd.tell("setMemTable", driver.memoryTable(), [driver.file.fd]);
    await driver.startQueue(frontEnd, driver.queues[0]);
    assertEquals((await driver.queues[0].request(BlkRequestType.in, 0, 512)).status, 0);
    // What was left unchanged stays: the call that is set anew is called once.
    await frontEnd.tell("setVringCall", payloadOf(0n), [driver.queues[0].call.fd]);
    await frontEnd.askNumber("getStatus");
    assert(driver.queues[0].call.testAndClear());
  },
);
