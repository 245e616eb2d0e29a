/** The handshake of NbdServer: each option, well-formed and not. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { AioContext } from "../mod.ts";
import { MemoryBlockDevice } from "../src/block/mod.ts";
import { type NbdExport, NbdServer } from "../src/nbd/mod.ts";
import { Cmd, NbdClient, Opt, Rep, string, text, u16, u32, u64 } from "./nbd_client.ts";
import { changed, eachServer, memory, MIB } from "./nbd_server.ts";
import { joined } from "./test_sockets.ts";

const HAS_FLAGS = 1, READ_ONLY = 2, FLUSH = 4, FUA = 8, ROTATIONAL = 16, TRIM = 32, ZEROES = 64;
const DF = 128, MULTI_CONN = 256, CACHE = 1024, FAST_ZERO = 2048, STATUS_PAYLOAD = 4096;
const ALWAYS = HAS_FLAGS | FLUSH | FUA | MULTI_CONN | CACHE;

const types = (replies: readonly { type: number }[]) => replies.map(({ type }) => type);

/** Three exports, of which the second is the default. */
const three = (): NbdExport[] => [
  { name: "one", description: "the first", device: new MemoryBlockDevice(MIB) },
  { name: "zwei", device: new MemoryBlockDevice(2 * MIB), readOnly: true, default: true },
  {
    name: "three",
    device: changed(new MemoryBlockDevice(3 * MIB), {
      blockSize: 512,
      rotational: true,
      canTrim: false,
      canZeroFast: false,
    }),
  },
];

eachServer("NbdServer: LIST names all exports", three, async ({ ctx, at }) => {
  await using client = await NbdClient.connect(ctx, at);
  const replies = await client.option(Opt.list);
  assertEquals(replies.map(({ data }) => data), [
    joined([string("one"), text("the first")]),
    string("zwei"),
    string("three"),
    new Uint8Array(),
  ]);
  assertEquals(types(replies), [Rep.server, Rep.server, Rep.server, Rep.ack]);
  assertEquals(types(await client.option(Opt.list, u16(1))), [Rep.invalid]);
});

eachServer(
  "NbdServer: INFO and GO tell what is asked for, flags as they are",
  three,
  async ({ ctx, at }) => {
    await using client = await NbdClient.connect(ctx, at);
    const info = (name: string, ...wanted: number[]) =>
      client.option(Opt.info, joined([string(name), u16(wanted.length, ...wanted)]));
    const allFlags = ALWAYS | TRIM | ZEROES | FAST_ZERO;
    assertEquals((await info("one")).map(({ data }) => data), [
      joined([u16(0), u64(MIB), u16(allFlags)]),
      new Uint8Array(),
    ]);
    assertEquals((await info("", 1, 2, 3, 77)).map(({ data }) => data), [
      joined([u16(0), u64(2 * MIB), u16(ALWAYS | READ_ONLY)]),
      joined([u16(1), text("zwei")]),
      joined([u16(3), u32(1, 4096, 32 * MIB)]),
      new Uint8Array(),
    ]);
    // Block sizes that are not the usual ones are told in any case.
    assertEquals((await info("three")).map(({ data }) => data), [
      joined([u16(0), u64(3 * MIB), u16(ALWAYS | ROTATIONAL | ZEROES)]),
      joined([u16(3), u32(512, 4096, 32 * MIB)]),
      new Uint8Array(),
    ]);
    assertEquals((await info("one", 2))[1].data, joined([u16(2), text("the first")]));
    assertEquals(types(await info("four")), [Rep.unknown]);
    assertEquals(types(await client.option(Opt.go, joined([string("four"), u16(0)]))), [
      Rep.unknown,
    ]);
    await client.agree(Opt.structured);
    assertEquals((await info("one"))[0].data.subarray(10), u16(allFlags | DF));
    await client.agree(Opt.extended);
    assertEquals((await info("one"))[0].data.subarray(10), u16(allFlags | DF | STATUS_PAYLOAD));
    assertEquals(types(await client.option(Opt.go, joined([string("one"), u16(0)]))), [
      Rep.info,
      Rep.ack,
    ]);
    client.form = "extended";
    assertEquals(await client.errnoOf({ command: Cmd.read, length: 10 }), 0);
  },
);

eachServer("NbdServer: EXPORT_NAME begins, with zeros or without", three, async ({ ctx, at }) => {
  for (const flags of [1, 3]) {
    await using client = await NbdClient.connect(ctx, at, flags);
    await client.sendOption(Opt.exportName, text("zwei"));
    const zeros = new Uint8Array(flags === 3 ? 0 : 124);
    const expected = joined([u64(2 * MIB), u16(ALWAYS | READ_ONLY), zeros]);
    assertEquals(await client.receive(expected.length), expected);
    assertEquals(await client.errnoOf({ command: Cmd.read, length: 512 }), 0);
  }
  for (const [name, length] of [["nobody", 6], ["", 4097], ["", 2 ** 32 - 1]] as const) {
    await using client = await NbdClient.connect(ctx, at);
    await client.sendOption(Opt.exportName, text(name), length);
    assert(await client.isEnded());
  }
});

eachServer(
  "NbdServer: what is unknown or malformed is refused, and the next option heard",
  memory,
  async ({ ctx, at }) => {
    await using client = await NbdClient.connect(ctx, at);
    const answers = async (option: number, data?: Uint8Array) =>
      types(await client.option(option, data));
    assertEquals(await answers(99, text("data")), [Rep.unsup]);
    assertEquals(await answers(0), [Rep.unsup]);
    assertEquals(await answers(Opt.starttls), [Rep.policy]);
    assertEquals(await answers(Opt.starttls, u16(1)), [Rep.invalid]);
    const lies = [
      u16(0),
      u32(0),
      u32(9),
      joined([string("x"), u16(1)]),
      joined([string(""), u16(0, 0)]),
    ];
    for (const data of [...lies, u32(2 ** 32 - 1, 2 ** 32 - 1)]) {
      assertEquals(await answers(Opt.go, data), [Rep.invalid]);
    }
    assertEquals(await answers(Opt.setMeta, joined([string(""), u32(0)])), [Rep.invalid]);
    assertEquals(await answers(Opt.structured, u16(1)), [Rep.invalid]);
    assertEquals(await answers(Opt.structured), [Rep.ack]);
    assertEquals(await answers(Opt.structured), [Rep.invalid]);
    for (
      const data of [
        u16(1),
        string(""),
        joined([string(""), u32(2 ** 32 - 1)]),
        joined([string(""), u32(1, 5)]),
      ]
    ) {
      assertEquals(await answers(Opt.setMeta, data), [Rep.invalid]);
      assertEquals(await answers(Opt.listMeta, data), [Rep.invalid]);
    }
    assertEquals(await answers(Opt.extended), [Rep.ack]);
    assertEquals(await answers(Opt.extended), [Rep.invalid]);
    assertEquals(await answers(Opt.structured), [Rep.extRequired]);
    assertEquals(await answers(Opt.list, new Uint8Array(65_537)), [Rep.tooBig]);
    assertEquals(await answers(Opt.abort), [Rep.ack]);
    assert(await client.isEnded());
  },
);

eachServer(
  "NbdServer: drops who does not keep to the protocol",
  memory,
  async ({ ctx, at, server }) => {
    const drops = async (...bytes: Uint8Array[]) => {
      await using client = new NbdClient(await ctx.connect(at));
      await client.receive(18);
      await client.send(...bytes);
      assert(await client.isEnded());
    };
    await drops(u32(4));
    await drops(u32(3), text("IHAVENOT"), u32(1, 0));
    await drops(u32(3), text("IHAVEOPT"), u32(99, 2 ** 31));
    await drops(
      u32(3),
      text("IHAVEOPT"),
      u32(Opt.extended, 0),
      text("IHAVEOPT"),
      u32(Opt.exportName, 0),
    );
    assertEquals(server.stats().violations, 4);
  },
);

eachServer(
  "NbdServer: metadata contexts are listed and set for an export",
  three,
  async ({ ctx, at }) => {
    const base = text("base:allocation");
    const query = (name: string, ...queries: string[]) =>
      joined([string(name), u32(queries.length), ...queries.map(string)]);
    {
      await using client = await NbdClient.connect(ctx, at);
      await client.agree(Opt.structured);
      for (const queries of [[], ["base:"], ["x-y:z", "base:allocation"]]) {
        const replies = await client.option(Opt.listMeta, query("one", ...queries));
        assertEquals(types(replies), [Rep.meta, Rep.ack]);
        assertEquals(replies[0].data, joined([u32(0), base]));
      }
      assertEquals(types(await client.option(Opt.listMeta, query("one", "x-y:"))), [Rep.ack]);
      assertEquals(types(await client.option(Opt.setMeta, query("four", "base:allocation"))), [
        Rep.unknown,
      ]);
      for (const queries of [[], ["base:"], ["qemu:allocation-depth"]]) {
        assertEquals(types(await client.option(Opt.setMeta, query("one", ...queries))), [Rep.ack]);
      }
    }
    // Set for this export, for another one, and taken back.
    const cases: [string[][], number][] = [
      [[["one", "base:allocation"]], 0],
      [[["zwei", "base:allocation"]], 22],
      [[["one", "base:allocation"], ["one"]], 22],
      [[["one", "base:allocation"], ["four", "base:allocation"]], 22],
      [[], 22],
    ];
    for (const [sets, errno] of cases) {
      await using client = await NbdClient.connect(ctx, at);
      await client.agree(Opt.structured);
      for (const [name, ...queries] of sets) {
        await client.option(
          Opt.setMeta,
          query(name, ...queries),
        );
      }
      await client.option(Opt.go, joined([string("one"), u16(0)]));
      client.form = "structured";
      assertEquals(await client.errnoOf({ command: Cmd.status, length: 512 }), errno, `${sets}`);
    }
  },
);

Deno.test("NbdServer: refuses exports and options that cannot be", () => {
  using ctx = new AioContext();
  const device = new MemoryBlockDevice(512);
  const make = (exports: unknown, options?: unknown) => () =>
    new NbdServer(ctx, exports as NbdExport[], options as Record<string, number>);
  for (const exports of [null, [null], [{ device }], [{ name: "x" }], [{ name: 3, device }]]) {
    assertThrows(make(exports), TypeError);
  }
  const one = { name: "x", device };
  assertThrows(make([one, one]), TypeError, "same name");
  assertThrows(make([{ ...one, default: true }, { name: "y", device, default: true }]), TypeError);
  assertThrows(make([{ ...one, name: "x\0" }]), TypeError, "NUL");
  assertThrows(make([{ ...one, name: "ü".repeat(2049) }]), RangeError, "4098");
  assertThrows(make([{ ...one, readOnly: 1 }]), TypeError, "readOnly");
  assertThrows(make([{ ...one, device: { ...device, size: -1 } }]), RangeError);
  assertThrows(make([one], null), TypeError);
  assertThrows(make([one], { requestsMax: 0 }), RangeError, "requestsMax");
  assertThrows(make([one], { bytesMax: "1" }), TypeError, "bytesMax");
  assertThrows(() => new MemoryBlockDevice(1.5), RangeError);
});
