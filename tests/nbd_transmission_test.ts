/** Commands of NbdServer: what they do, and what is answered where they cannot. */
import { assert, assertEquals } from "@std/assert";
import { AioError } from "../mod.ts";
import { MemoryBlockDevice } from "../src/block/mod.ts";
import { Cmd, Flag, type Form, NbdClient, type RawRequest, u32, u64 } from "./nbd_client.ts";
import { changed, eachServer, memory, MIB, newFileDevice } from "./nbd_server.ts";
import { Random } from "./random_values.ts";
import { pattern } from "./test_files.ts";
import { isSame, joined, SEED } from "./test_sockets.ts";

const FORMS: readonly Form[] = ["simple", "structured", "extended"];
const EPERM = 1, EIO = 5, EINVAL = 22, ENOSPC = 28, EOVERFLOW = 75, ENOTSUP = 95;
const DATA = 1, HOLE = 2, STATUS = 5, STATUS_EXT = 6;
const SIZE = 16 * MIB;

const KINDS = {
  memory,
  file: async (ctx: Parameters<typeof newFileDevice>[0]) => [
    { name: "", device: await newFileDevice(ctx) },
  ],
};

for (const [kind, makeExports] of Object.entries(KINDS)) {
  eachServer(
    `NbdServer: what is written is read, in every form (${kind})`,
    makeExports,
    async ({ ctx, at }) => {
      for (const form of FORMS) {
        await using client = await NbdClient.open(ctx, at, form);
        // Payloads in the small buffer, past it, of their own memory, and the longest.
        for (const length of [1, 512, 4097, 20_000, 40_000, 300_000, 5 * MIB]) {
          const payload = pattern(length, length);
          const offset = length * 3 % (SIZE - length);
          for (const flags of [0, Flag.fua]) {
            assertEquals(await client.errnoOf({ command: Cmd.write, flags, offset, payload }), 0);
          }
          const { errno, data } = await client.ask({ command: Cmd.read, offset, length });
          assert(errno === 0 && isSame(data, payload), `${form} ${length}`);
        }
        const request = { command: Cmd.write, payload: new Uint8Array() };
        assertEquals(await client.errnoOf(request), 0);
        assertEquals((await client.ask({ command: Cmd.read, length: 0 })).data.length, 0);
        assertEquals(await client.errnoOf({ command: Cmd.flush }), 0);
        assertEquals(await client.errnoOf({ command: Cmd.cache, length: SIZE }), 0);
      }
    },
  );

  eachServer(
    `NbdServer: holes are made, told and sent as such (${kind})`,
    makeExports,
    async ({ ctx, at }) => {
      for (const form of ["structured", "extended"] as const) {
        await using client = await NbdClient.open(ctx, at, form);
        const payload = pattern(4 * MIB);
        assertEquals(await client.errnoOf({ command: Cmd.zeroes, length: SIZE }), 0);
        assertEquals(await client.errnoOf({ command: Cmd.write, offset: 2 * MIB, payload }), 0);
        const zeroes = { command: Cmd.zeroes, offset: 3 * MIB, length: MIB, flags: Flag.fastZero };
        assertEquals(await client.errnoOf(zeroes), 0);
        assertEquals(
          await client.errnoOf({ command: Cmd.trim, offset: 5 * MIB, length: MIB, flags: 1 }),
          0,
        );
        const expected = new Uint8Array(8 * MIB);
        expected.set(payload.subarray(0, MIB), 2 * MIB);
        expected.set(payload.subarray(2 * MIB, 3 * MIB), 4 * MIB);

        const read = await client.ask({ command: Cmd.read, length: 8 * MIB });
        assert(isSame(read.data, expected));
        assertEquals(read.chunks.map(({ type }) => type), [HOLE, DATA, HOLE, DATA, HOLE]);
        assertEquals(read.chunks[2].data, joined([u64(3 * MIB), u32(MIB)]));
        const whole = await client.ask({ command: Cmd.read, flags: Flag.df, length: 8 * MIB });
        assert(isSame(whole.data, expected));
        assertEquals(whole.chunks.map(({ type }) => type), [DATA]);
        const hole = await client.ask({ command: Cmd.read, flags: Flag.df, length: MIB });
        assertEquals(hole.chunks.map(({ type }) => type), [HOLE]);

        const entries = async (request: Omit<RawRequest, "command">) => {
          const { chunks: [{ type, data }] } = await client.ask({
            command: Cmd.status,
            ...request,
          });
          const view = new DataView(data.buffer), extended = form === "extended";
          assertEquals([type, view.getUint32(0)], [extended ? STATUS_EXT : STATUS, 1]);
          const numbers: number[] = [];
          if (extended) assertEquals(data.length, 8 + view.getUint32(4) * 16);
          for (let at = extended ? 8 : 4; at < data.length; at += extended ? 8 : 4) {
            numbers.push(extended ? Number(view.getBigUint64(at)) : view.getUint32(at));
          }
          return numbers;
        };
        assertEquals(await entries({ length: 8 * MIB }), [
          ...[2 * MIB, 3, MIB, 0, MIB, 3, MIB, 0],
          ...[3 * MIB, 3],
        ]);
        assertEquals(await entries({ offset: MIB, length: 8 * MIB, flags: Flag.reqOne }), [MIB, 3]);
        assertEquals(await entries({ offset: 2 * MIB + 512, length: 1024 }), [1024, 0]);
        if (form === "extended") {
          const flags = Flag.payloadLen;
          const ask = (payload: Uint8Array) => ({ offset: 2 * MIB, flags, payload });
          assertEquals(await entries(ask(joined([u64(MIB), u32(1)]))), [MIB, 0]);
          for (
            const payload of [u64(MIB), joined([u64(MIB), u32(2)]), joined([u64(MIB), u32(1, 1)])]
          ) {
            assertEquals(await client.errnoOf({ command: Cmd.status, ...ask(payload) }), EINVAL);
          }
          const long = new Uint8Array(100_000);
          assertEquals(await client.errnoOf({ command: Cmd.status, ...ask(long) }), EINVAL);
        }
      }
    },
  );
}

eachServer("NbdServer: NO_HOLE keeps the space", memory, async ({ ctx, at }) => {
  await using client = await NbdClient.open(ctx, at);
  const flags = Flag.noHole | Flag.fua;
  assertEquals(await client.errnoOf({ command: Cmd.write, payload: pattern(MIB) }), 0);
  assertEquals(await client.errnoOf({ command: Cmd.zeroes, flags, length: 2 * MIB }), 0);
  const { data } = await client.ask({ command: Cmd.read, length: 2 * MIB });
  assert(data.every((byte) => byte === 0));
  const { chunks: [status] } = await client.ask({ command: Cmd.status, length: 2 * MIB });
  assertEquals(status.data, u32(1, 2 * MIB, 0));
});

eachServer("NbdServer: errors are those of the specification", () => [
  { name: "", device: new MemoryBlockDevice(SIZE) },
  { name: "ro", device: new MemoryBlockDevice(SIZE), readOnly: true },
  {
    name: "blocks",
    device: changed(new MemoryBlockDevice(SIZE), {
      blockSize: 512,
      canTrim: false,
      canZeroFast: false,
    }),
  },
], async ({ ctx, at, server }) => {
  for (const form of FORMS) {
    await using client = await NbdClient.open(ctx, at, form);
    const payload = pattern(1024);
    const cases: [number, RawRequest][] = [
      [EINVAL, { command: Cmd.read, offset: SIZE, length: 1 }],
      [EINVAL, { command: Cmd.read, offset: SIZE - 1, length: 2 }],
      [EINVAL, { command: Cmd.read, offset: 2n ** 64n - 1n, length: 2 }],
      [EINVAL, { command: Cmd.read, offset: 2 ** 53, length: 1 }],
      [0, { command: Cmd.read, offset: SIZE, length: 0 }],
      [EINVAL, { command: Cmd.read, length: 32 * MIB + 1 }],
      [EINVAL, { command: Cmd.read, length: 2 ** 32 - 1 }],
      [form === "simple" ? EINVAL : EOVERFLOW, {
        command: Cmd.read,
        flags: Flag.df,
        length: 40 * MIB,
      }],
      [ENOSPC, { command: Cmd.write, offset: SIZE - 1, payload }],
      [ENOSPC, { command: Cmd.write, offset: 2n ** 63n, payload }],
      [EINVAL, { command: Cmd.write, payload: new Uint8Array(33 * MIB) }],
      [ENOSPC, { command: Cmd.zeroes, offset: SIZE - 1, length: 2 }],
      [EINVAL, { command: Cmd.trim, offset: SIZE - 1, length: 2 }],
      [EINVAL, { command: Cmd.cache, offset: SIZE - 1, length: 2 }],
      [EINVAL, { command: Cmd.status, offset: SIZE - 1, length: 2 }],
      [EINVAL, { command: Cmd.status, length: 0 }],
      [EINVAL, { command: Cmd.flush, length: 1 }],
      [EINVAL, { command: Cmd.flush, offset: 1 }],
      [EINVAL, { command: 8, length: 1 }],
      [EINVAL, { command: 0xffff, length: 1 }],
      [EINVAL, { command: Cmd.read, flags: Flag.noHole, length: 1 }],
      [EINVAL, { command: Cmd.write, flags: Flag.df, payload }],
      [EINVAL, { command: Cmd.zeroes, flags: Flag.reqOne, length: 1 }],
      [EINVAL, { command: Cmd.flush, flags: 0x8000 }],
      // Its payload is one only where the client can say so.
      [EINVAL, {
        command: Cmd.trim,
        flags: Flag.payloadLen,
        ...(form === "extended" ? { payload } : { length: 512 }),
      }],
    ];
    for (const [errno, request] of cases) {
      const said = `${form} ${
        JSON.stringify({ ...request, payload: 0 }, (_, value) => String(value))
      }`;
      assertEquals(await client.errnoOf(request), errno, said);
    }
    if (form === "simple") {
      assertEquals(await client.errnoOf({ command: Cmd.status, length: 1 }), EINVAL);
    }

    await using readOnly = await NbdClient.open(ctx, at, form, "ro");
    for (const command of [Cmd.write, Cmd.zeroes, Cmd.trim]) {
      const request = command === Cmd.write ? { payload } : { length: 1024 };
      assertEquals(await readOnly.errnoOf({ command, ...request }), EPERM);
    }
    assertEquals(await readOnly.errnoOf({ command: Cmd.flush }), 0);
    await using blocks = await NbdClient.open(ctx, at, form, "blocks");
    assertEquals(await blocks.errnoOf({ command: Cmd.read, offset: 512, length: 512 }), 0);
    assertEquals(await blocks.errnoOf({ command: Cmd.read, offset: 1, length: 512 }), EINVAL);
    assertEquals(await blocks.errnoOf({ command: Cmd.write, payload: pattern(511) }), EINVAL);
    assertEquals(await blocks.errnoOf({ command: Cmd.trim, length: 512 }), EINVAL);
    const fast = { command: Cmd.zeroes, flags: Flag.fastZero, length: 512 };
    assertEquals(await blocks.errnoOf(fast), EINVAL);
  }
  assertEquals(server.stats().violations, 0);
});

const failing = () => {
  const fail = (errno: number) => () => Promise.reject(new AioError("Cannot", "test", errno));
  return [{
    name: "",
    device: changed(new MemoryBlockDevice(SIZE), {
      read: fail(61),
      write: fail(122),
      flush: fail(ENOTSUP),
      extents: () => {
        throw new TypeError("not even a promise");
      },
      zero: fail(30),
      trim: () => Promise.reject(new RangeError("out of memory")),
    }),
  }];
};

eachServer(
  "NbdServer: what a device throws is told in the protocol's words",
  failing,
  async ({ ctx, at, server }) => {
    for (const form of FORMS) {
      await using client = await NbdClient.open(ctx, at, form);
      const payload = pattern(512);
      const errnos = [
        await client.errnoOf({ command: Cmd.read, length: 512 }),
        await client.errnoOf({ command: Cmd.write, payload }),
        await client.errnoOf({ command: Cmd.zeroes, length: 512 }),
        await client.errnoOf({ command: Cmd.trim, length: 512 }),
        await client.errnoOf({ command: Cmd.flush }),
      ];
      assertEquals(errnos, [EIO, ENOSPC, EPERM, 12, ENOTSUP]);
      if (form !== "simple") {
        assertEquals(await client.errnoOf({ command: Cmd.status, length: 512 }), EIO);
        assertEquals(await client.errnoOf({ command: Cmd.read, length: MIB }), EIO);
      }
    }
    assertEquals(server.stats().errors, 19);
    // close() flushes, and says what that throws.
    await server.close().then(() => assert(false), (error) => assertEquals(error.errno, ENOTSUP));
  },
);

const odd = () => {
  const extents = [
    ...[{ length: 65_536, hole: false, zero: false }, { length: 1, hole: true, zero: true }],
    ...[{ length: 99, hole: true, zero: true }, { length: 10, hole: true, zero: false }],
    { length: SIZE, hole: false, zero: true },
  ];
  const device = changed(new MemoryBlockDevice(SIZE), {
    extents: () => Promise.resolve(extents),
    read: () => Promise.reject(new AioError("Cannot", "test", EIO)),
  });
  const silent = changed(new MemoryBlockDevice(SIZE), { extents: () => Promise.resolve([]) });
  return [{ name: "", device, default: true }, { name: "silent", device: silent }];
};

eachServer(
  "NbdServer: extents are merged and cut, and none after an error",
  odd,
  async ({ ctx, at }) => {
    await using client = await NbdClient.open(ctx, at);
    const status = { command: Cmd.status, length: MIB };
    const { chunks: [chunk] } = await client.ask(status);
    assertEquals(chunk.data, u32(1, 65_536, 0, 100, 3, 10, 1, MIB - 65_646, 2));
    const read = await client.ask({ command: Cmd.read, length: MIB });
    assertEquals([read.errno, read.chunks.length], [EIO, 1]);
    await using silent = await NbdClient.open(ctx, at, "structured", "silent");
    assertEquals((await silent.ask(status)).chunks[0].data, u32(1, MIB, 0));
    const { chunks } = await silent.ask({ command: Cmd.read, length: MIB });
    assertEquals(chunks.map(({ type }) => type), [DATA]);
  },
);

eachServer(
  "NbdServer: bad magic and endless payloads drop the connection alone",
  memory,
  async ({ ctx, at, server }) => {
    await using other = await NbdClient.open(ctx, at);
    for (const form of FORMS) {
      await using client = await NbdClient.open(ctx, at, form);
      await client.send(new Uint8Array(32).fill(0x25));
      assert(await client.isEnded());
    }
    await using client = await NbdClient.open(ctx, at, "extended");
    await client.sendRequest({ command: Cmd.write, flags: Flag.payloadLen, length: 2n ** 40n });
    assert(await client.isEnded());
    assertEquals(await other.errnoOf({ command: Cmd.read, length: 512 }), 0);
    assertEquals(server.stats().violations, 4);
  },
);

eachServer(
  `NbdServer: requests in flight are answered each once (AIO_TEST_SEED=${SEED})`,
  memory,
  async ({ ctx, at }) => {
    const random = new Random(SEED);
    for (const form of FORMS) {
      await using client = await NbdClient.open(ctx, at, form);
      const model = new Uint8Array(SIZE);
      await client.errnoOf({ command: Cmd.zeroes, length: SIZE });
      for (let round = 0; round < 5; round++) {
        // Disjoint ranges, so that it does not matter which request is first.
        const requests = new Map<bigint, { request: RawRequest; expected: Uint8Array }>();
        const bytes: Uint8Array[] = [];
        for (let slot = 0; slot < 100; slot++) {
          const offset = slot * 65_536 + random.below(1000);
          const length = 1 + random.below(random.once(3) ? 60_000 : 5000);
          const cookie = (BigInt(round) << 40n) + BigInt(slot);
          const payload = pattern(length, slot + round);
          const writes = random.once(2);
          const request = writes
            ? { command: Cmd.write, cookie, offset, payload }
            : { command: Cmd.read, cookie, offset, length };
          if (writes) model.set(payload, offset);
          requests.set(cookie, { request, expected: model.slice(offset, offset + length) });
          bytes.push(client.encode(request));
        }
        const sent = client.send(...bytes);
        const got = new Map<bigint, Uint8Array>();
        while (requests.size !== 0) {
          if (form === "simple") {
            // Only the cookie tells how long a simple reply is.
            const header = new DataView((await client.receive(16)).buffer);
            const cookie = header.getBigUint64(8);
            const { request, expected } = requests.get(cookie)!;
            assertEquals(header.getUint32(4), 0);
            const reads = request.command === Cmd.read;
            if (reads) assert(isSame(await client.receive(expected.length), expected));
            requests.delete(cookie);
            continue;
          }
          const chunk = await client.chunk();
          const { request, expected } = requests.get(chunk.cookie)!;
          const data = got.get(chunk.cookie) ?? new Uint8Array(expected.length);
          got.set(chunk.cookie, data);
          if (chunk.type === DATA && request.command === Cmd.read) {
            const at = new DataView(chunk.data.buffer).getBigUint64(0) - BigInt(request.offset!);
            data.set(chunk.data.subarray(8), Number(at));
          }
          if (!chunk.done) continue;
          if (request.command === Cmd.read) assert(isSame(data, expected));
          requests.delete(chunk.cookie);
        }
        await sent;
      }
    }
  },
);
