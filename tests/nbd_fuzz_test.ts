/**
 * Clients that send what a random generator makes of handshakes and requests: the server survives,
 * memory stays bounded, and a client that keeps to the protocol is served beside them.
 */
import { assert, assertEquals } from "@std/assert";
import type { AioContext, SocketAddress } from "../mod.ts";
import { onIoUring } from "./each_fdmon.ts";
import { Cmd, type Form, NbdClient, Opt, string, u16, u32, u64 } from "./nbd_client.ts";
import { MemoryBlockDevice } from "../src/block/mod.ts";
import { NbdServer } from "../src/nbd/mod.ts";
import { Random } from "./random_values.ts";
import { pattern } from "./test_files.ts";
import { abstractName, goOn, isSame, joined } from "./test_sockets.ts";

const SEED = Number(Deno.env.get("AIO_NBD_SEED") ?? Math.floor(Math.random() * 2 ** 32));
const MESSAGES = Number(Deno.env.get("AIO_NBD_MESSAGES") ?? 100_000);
const MIB = 1 << 20, SIZE = 4 * MIB;
const CLIENTS = 8, REQUESTS = 200;
const MEMORY_MAX = 128 * MIB;

const NUMBERS = [0, 1, 2, 3, 5, 7, 11, 12, 28, 255, 4096, 65_535, 65_536, 2 ** 31, 2 ** 32 - 1];
const OFFSETS = [0, 1, 511, 4096, SIZE - 1, SIZE, 2 ** 32, 2 ** 53, 2 ** 64 - 2 ** 12];

class Fuzzer {
  readonly #random: Random;

  constructor(random: Random) {
    this.#random = random;
  }

  /** One client's life. */
  async run(ctx: AioContext, at: SocketAddress): Promise<void> {
    const random = this.#random;
    const client = new NbdClient(await ctx.connect(at));
    const ends = this.#receiveAll(client);
    try {
      await client.send(random.once(50) ? this.#bytes(4) : u32(random.below(4)));
      const options = random.below(12);
      for (let sent = 0; sent < options; sent++) await this.#sendOption(client);
      client.form = random.pick<Form>(["simple", "structured", "extended"]);
      if (client.form !== "simple") {
        await client.sendOption(client.form === "extended" ? Opt.extended : Opt.structured);
        await client.sendOption(
          Opt.setMeta,
          joined([string(""), u32(1), string("base:allocation")]),
        );
      }
      await client.sendOption(Opt.go, joined([string(""), u16(0)]));
      for (let sent = 0; sent < REQUESTS;) {
        // Many in one send, some with an end that is missing.
        const requests = Array.from({ length: 1 + random.below(40) }, () => this.#request(client));
        sent += requests.length;
        const bytes = joined(requests);
        await client.send(random.once(60) ? bytes.subarray(random.below(bytes.length)) : bytes);
      }
      if (random.once(2)) client.socket.shutdown("write");
      else await client.socket.close();
    } catch {
      // The server has had enough.
    }
    await ends;
    await client.socket.close();
  }

  /** Reads replies, whatever they are; some clients never do. */
  async #receiveAll(client: NbdClient): Promise<void> {
    if (this.#random.once(10)) return;
    const bytes = new Uint8Array(65_536);
    try {
      while (await client.socket.recv(bytes) !== 0);
    } catch {
      // Reset or closed.
    }
  }

  async #sendOption(client: NbdClient): Promise<void> {
    const random = this.#random;
    if (random.once(100)) return await client.send(this.#bytes(random.below(40)));
    // Not those that end it, most of the time.
    const option = random.once(20) ? random.below(14) : random.pick([3, 5, 6, 9, 10, 99]);
    const data = random.pick([
      () => new Uint8Array(),
      () => this.#bytes(random.below(300)),
      () => joined([string(""), u16(1, random.below(5))]),
      () => joined([string("x".repeat(random.below(5000))), u32(1), string("base:")]),
      () => u32(random.pick(NUMBERS), random.pick(NUMBERS)),
      () => new Uint8Array(random.once(20) ? 70_000 : 10),
    ])();
    const length = random.once(200) ? random.pick(NUMBERS) : data.length;
    await client.sendOption(option, data, length);
  }

  #request(client: NbdClient): Uint8Array {
    const random = this.#random;
    if (random.once(2000)) return this.#bytes(1 + random.below(64));
    const command = random.once(500) ? Cmd.disc : random.pick([0, 0, 1, 3, 4, 5, 6, 7, 8, 300]);
    const flags = random.once(4) ? random.below(128) : 0;
    const offset = random.once(3) ? BigInt(random.pick(OFFSETS)) : random.below(SIZE);
    const cookie = random.below(2 ** 32);
    const carries = command === Cmd.write || (client.form === "extended" && (flags & 32) !== 0);
    if (!carries) {
      const length = random.once(20) ? random.pick(NUMBERS) : random.below(8192);
      return client.encode({ command, flags, cookie, offset, length });
    }
    const payload = random.once(100)
      ? this.#bytes(random.below(200_000))
      : random.once(3)
      ? joined([u64(random.below(SIZE)), u32(1)])
      : this.#bytes(random.below(4000));
    // Who lies about a length loses the thread, and the rest is garbage.
    const length = random.once(2000) ? random.pick(NUMBERS) : payload.length;
    return client.encode({ command, flags, cookie, offset, length, payload });
  }

  #bytes(length: number): Uint8Array {
    return pattern(length, this.#random.below(256));
  }
}

onIoUring(
  `NbdServer: survives ${MESSAGES} random messages (AIO_NBD_SEED=${SEED})`,
  async (makeContext) => {
    using ctx = makeContext();
    await ctx.run(async () => {
      const scratch = new MemoryBlockDevice(SIZE), good = new MemoryBlockDevice(SIZE);
      const server = new NbdServer(ctx, [
        { name: "", device: scratch },
        { name: "good", device: good },
      ], { bytesMax: 2 * MIB, requestsMax: 32 });
      const at = server.listen(abstractName());
      await using witness = await NbdClient.open(ctx, at, "structured", "good");
      const fuzzer = new Fuzzer(new Random(SEED));
      let before = 0;
      const heard = () => Object.values(server.stats().requests).reduce((sum, one) => sum + one);
      // What was sent behind a violation nobody hears, and what is of no known command is not counted.
      for (let round = 0; heard() < MESSAGES; round++) {
        await Promise.all(Array.from({ length: CLIENTS }, () => fuzzer.run(ctx, at)));
        const payload = pattern(5000, round);
        assertEquals(await witness.errnoOf({ command: Cmd.write, offset: 77, payload }), 0);
        const { data } = await witness.ask({ command: Cmd.read, offset: 77, length: 5000 });
        assert(isSame(data, payload), "the witness has read what it wrote");
        if (round === 5) before = Deno.memoryUsage().rss;
      }
      while (server.stats().connections !== 1) await goOn(1);
      const grown = Deno.memoryUsage().rss - before;
      assert(grown < MEMORY_MAX, `${grown} bytes more`);
      const { requests, errors, violations } = server.stats();
      assert(Object.values(requests).every((count) => count > 0), JSON.stringify(requests));
      assert(errors > 0 && violations > 0);
      await witness.socket.close();
      await server.close();
    });
  },
);
