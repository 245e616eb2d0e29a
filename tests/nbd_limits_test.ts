/** What clients can make NbdServer hold, how connections end, and how the server does. */
import { assert, assertEquals } from "@std/assert";
import { MemoryBlockDevice } from "../src/block/mod.ts";
import { NbdServer, ProtocolViolation } from "../src/nbd/mod.ts";
import { Cmd, Flag, NbdClient, u32 } from "./nbd_client.ts";
import { changed, eachServer, memory, MIB } from "./nbd_server.ts";
import { pattern, rejection } from "./test_files.ts";
import { abstractName, adoptedPair, eachLoop, goOn, isSame, joined } from "./test_sockets.ts";

/** A device whose reads and writes wait until they are let through. */
class Gate {
  readonly waiting: (() => void)[] = [];
  readonly calls: string[] = [];
  readonly device = changed(new MemoryBlockDevice(64 * MIB), {
    sparse: false,
    read: () => this.#wait("read"),
    write: () => this.#wait("write"),
    flush: () => (this.calls.push("flush"), Promise.resolve()),
  });

  #wait(call: string): Promise<void> {
    this.calls.push(call);
    return new Promise((resolve) => this.waiting.push(resolve));
  }

  release(count = this.waiting.length): void {
    for (const goOn of this.waiting.splice(0, count)) goOn();
  }
}

/** Registers a test with a server of one gated device. */
function eachGate(
  name: string,
  options: ConstructorParameters<typeof NbdServer>[2],
  test: (parts: { gate: Gate; server: NbdServer; client: NbdClient }) => Promise<void>,
): void {
  eachLoop(name, async (ctx) => {
    const gate = new Gate();
    const server = new NbdServer(ctx, [{ name: "", device: gate.device }], options);
    const at = server.listen(abstractName());
    await using client = await NbdClient.open(ctx, at);
    await test({ gate, server, client });
    gate.release();
    await server.close();
  });
}

/** Waits until something is so. */
async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await goOn(1);
}

eachGate(
  "NbdServer: has no more requests in flight than requestsMax",
  { requestsMax: 5 },
  async ({ gate, client }) => {
    const request = { command: Cmd.read, length: 512 };
    const cookies: bigint[] = [];
    for (let sent = 0; sent < 50; sent++) cookies.push(await client.sendRequest(request));
    for (let answered = 0; answered < 50; answered++) {
      await until(() => gate.waiting.length === Math.min(5, 50 - answered));
      await goOn();
      assertEquals(gate.waiting.length, Math.min(5, 50 - answered));
      gate.release(1);
      assertEquals((await client.reply(cookies[answered], request)).errno, 0);
    }
  },
);

eachGate("NbdServer: takes no more memory for requests than bytesMax, but for one", {
  bytesMax: 4 * MIB,
}, async ({ gate, client }) => {
  const cases = [
    { command: Cmd.read, length: MIB, inFlight: 3 },
    { command: Cmd.write, payload: pattern(MIB), inFlight: 3 },
    { command: Cmd.read, length: 32 * MIB, inFlight: 1 },
  ];
  for (const { inFlight, ...request } of cases) {
    const sent = Array.from({ length: 6 }, () => client.sendRequest(request));
    for (let answered = 0; answered < 6;) {
      await until(() => gate.waiting.length === Math.min(inFlight, 6 - answered));
      await goOn();
      assertEquals(gate.waiting.length, Math.min(inFlight, 6 - answered));
      gate.release(1);
      assertEquals((await client.reply(await sent[answered++], request)).errno, 0);
    }
  }
});

eachLoop("NbdServer: a payload stays as it is until its write is over", async (ctx) => {
  const held: { buffers: readonly Uint8Array[]; end: () => void }[] = [];
  const device = changed(new MemoryBlockDevice(64 * MIB), {
    write: (buffers) => new Promise((end) => held.push({ buffers: [...buffers], end })),
  });
  const server = new NbdServer(ctx, [{ name: "", device }]);
  await using client = await NbdClient.open(ctx, server.listen(abstractName()));
  const lengths = Array.from({ length: 120 }, (_, index) => 1 + index * 977 % 9000);
  const writes = lengths.map((length, cookie) => ({
    command: Cmd.write,
    cookie,
    payload: pattern(length, cookie),
  }));
  // One by one, and as many as fit at once: in small buffers, in large ones, across their ends.
  for (const write of writes.slice(0, 40)) {
    await client.sendRequest(write);
    await goOn(1);
  }
  await client.send(...writes.slice(40).map((write) => client.encode(write)));
  await until(() => held.length === writes.length);
  for (const [index, { buffers, end }] of held.entries()) {
    assert(isSame(joined([...buffers]), writes[index].payload), `write ${index}`);
    end();
    assertEquals((await client.reply(BigInt(index), writes[index])).errno, 0);
  }
  await server.close();
});

eachServer(
  "NbdServer: connections that are idle hold one small buffer each",
  memory,
  async ({ ctx, at }) => {
    const clients: NbdClient[] = [];
    const { buffers } = ctx, allocate = buffers.allocate;
    let bytes = 0;
    buffers.allocate = (
      length,
      options,
    ) => (bytes += length, allocate.call(buffers, length, options));
    for (let made = 0; made < 100; made++) {
      const client = await NbdClient.open(ctx, at);
      clients.push(client);
      // A burst of small writes, which large buffers take in, and something long.
      const payload = pattern(3000);
      const writes = Array.from({ length: 100 }, (_, slot) => ({
        command: Cmd.write,
        cookie: slot,
        offset: slot * 3000,
        payload,
      }));
      await client.send(...writes.map((write) => client.encode(write)));
      for (const { cookie } of writes) {
        assertEquals((await client.reply(BigInt(cookie), { command: Cmd.write })).errno, 0);
      }
      assertEquals(await client.errnoOf({ command: Cmd.read, length: 2 * MIB }), 0);
    }
    buffers.allocate = allocate;
    // What the clients themselves borrow for copies is of the same pool, and bounded too.
    assert(bytes < 100 * 4160 + 12 * MIB, `${bytes} bytes`);
    for (const client of clients) await client.socket.close();
  },
);

eachServer(
  "NbdServer: clients that vanish in mid request leave nothing behind",
  memory,
  async ({ ctx, at, server }) => {
    await using other = await NbdClient.open(ctx, at);
    const write = other.encode({ command: Cmd.write, offset: 0, payload: pattern(50_000) });
    const reads = other.encode({ command: Cmd.read, length: MIB });
    // In the greeting, in an option, in a header, in payloads of all kinds, and with replies due.
    const ends: ((client: NbdClient) => Promise<void>)[] = [
      () => Promise.resolve(),
      (client) => client.send(reads.subarray(0, 11)),
      (client) => client.send(write.subarray(0, 100)),
      (client) => client.send(write.subarray(0, 6000)),
      (client) => client.send(write.subarray(0, 40_000)),
      (client) => client.send(...Array.from({ length: 100 }, () => reads)),
      (client) => client.send(client.encode({ command: Cmd.disc })),
    ];
    for (const end of ends) {
      const client = await NbdClient.open(ctx, at);
      await end(client);
      await client.socket.close();
    }
    for (const bytes of [new Uint8Array(), u32(3), new Uint8Array(2)]) {
      const client = new NbdClient(await ctx.connect(at));
      await client.send(bytes);
      await client.socket.close();
    }
    await until(() => server.stats().connections === 1);
    assertEquals(await other.errnoOf({ command: Cmd.read, length: 512 }), 0);
    assertEquals(server.stats().accepted, 11);
  },
);

eachGate("NbdServer: DISC waits for what is in flight", {}, async ({ gate, client, server }) => {
  const request = { command: Cmd.read, length: 512 };
  const cookie = await client.sendRequest(request);
  await client.sendRequest({ command: Cmd.disc });
  await until(() => gate.waiting.length === 1);
  await goOn();
  assertEquals(server.stats().connections, 1);
  gate.release();
  assertEquals((await client.reply(cookie, request)).errno, 0);
  assert(await client.isEnded());
});

eachGate(
  "NbdServer: close replies to what is in flight, then flushes, and no one is served",
  {},
  async ({ gate, client, server }) => {
    const request = { command: Cmd.write, payload: pattern(512), flags: Flag.fua };
    const cookie = await client.sendRequest(request);
    await until(() => gate.waiting.length === 1);
    let closed = false;
    const closing = server.close().then(() => closed = true);
    await goOn();
    assert(!closed);
    assertEquals(gate.calls, ["write"]);
    gate.release();
    assertEquals((await client.reply(cookie, request)).errno, 0);
    await closing;
    assertEquals(gate.calls, ["write", "flush"]);
    assert(await client.isEnded());
    assert(await rejection(server.serve(client.socket)) instanceof TypeError);
  },
);

eachGate("NbdServer: close does not wait longer than graceNs for who does not read", {
  graceNs: 1e6,
  bytesMax: 64 * MIB,
}, async ({ gate, client, server }) => {
  for (let sent = 0; sent < 2; sent++) {
    await client.sendRequest({ command: Cmd.read, length: 8 * MIB });
  }
  await until(() => gate.waiting.length === 2);
  gate.release();
  await server.close();
  assertEquals(server.stats().connections, 0);
});

eachServer(
  "NbdServer: those beyond connectionsMax wait, or are refused",
  memory,
  async ({ ctx, at, server }) => {
    const first = await NbdClient.open(ctx, at);
    const waiting = NbdClient.open(ctx, at);
    let served = false;
    waiting.then(() => served = true);
    await goOn(10);
    assertEquals([served, server.stats().connections], [false, 1]);
    const [near, far] = adoptedPair(ctx);
    await server.serve(near);
    assertEquals(await far.recv(new Uint8Array(1)), 0);
    await far.close();
    assertEquals(server.stats().refused, 1);
    await first.socket.close();
    await using second = await waiting;
    assertEquals(await second.errnoOf({ command: Cmd.flush }), 0);
  },
  { connectionsMax: 1 },
);

eachServer(
  "NbdServer: serves a connection that was accepted elsewhere",
  memory,
  async ({ ctx, server }) => {
    const [near, far] = adoptedPair(ctx);
    const serving = server.serve(near);
    const client = new NbdClient(far);
    await client.receive(18);
    await client.send(u32(3));
    await client.sendOption(1);
    await client.receive(10);
    const { data } = await client.ask({ command: Cmd.read, length: 9 });
    assertEquals(data, new Uint8Array(9));
    await far.close();
    await serving;
  },
);

eachServer("NbdServer: 500 connections come and go", memory, async ({ ctx, at, server }) => {
  for (let round = 0; round < 25; round++) {
    await Promise.all(Array.from({ length: 20 }, async (_, index) => {
      await using client = await NbdClient.open(ctx, at, index % 2 === 0 ? "simple" : "extended");
      assertEquals(await client.errnoOf({ command: Cmd.read, length: 100 }), 0);
    }));
  }
  await until(() => server.stats().connections === 0);
  assertEquals(server.stats().accepted, 500);
});

eachLoop("NbdServer: tells onConnectionError what clients do wrong, and goes on", async (ctx) => {
  const told: unknown[] = [];
  const onConnectionError = (error: unknown): void => void told.push(error);
  const server = new NbdServer(ctx, memory(), { onConnectionError });
  const at = server.listen(abstractName());
  const wrong = await NbdClient.connect(ctx, at, 0xff);
  await wrong.isEnded();
  await wrong.socket.close();
  const orderly = await NbdClient.open(ctx, at);
  await orderly.sendRequest({ command: Cmd.disc });
  await orderly.isEnded();
  await orderly.socket.close();
  await server.close();
  assertEquals(told.map(String), ["Error: flags that were not offered"]);
  assert(told[0] instanceof ProtocolViolation);
});

eachLoop("NbdServer: what onConnectionError throws comes out of close", async (ctx) => {
  const thrown = new Error("of the callback");
  const onConnectionError = (): never => {
    throw thrown;
  };
  const server = new NbdServer(ctx, memory(), { onConnectionError });
  const wrong = await NbdClient.connect(ctx, server.listen(abstractName()), 0xff);
  await wrong.isEnded();
  await wrong.socket.close();
  assertEquals(await rejection(server.close()), thrown);
});
