/** Random requests, several in flight, against a plain array of bytes; and O_DIRECT. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import type { AioContext, AioFile, RequestView } from "../mod.ts";
import { eachFdmon } from "./each_fdmon.ts";
import { Random } from "./random_values.ts";
import { newPath, openNew, pattern, rejection } from "./test_files.ts";

const SEED = Number(Deno.env.get("AIO_FILE_SEED") ?? Date.now() % 1e6);
const ROUNDS = 400, IN_FLIGHT = 8, ZONE = 1 << 18, ZONES = 12;
const BLOCK = 4096;

/** One file and what it has to contain. Requests that overlap are never in flight together. */
class Model {
  readonly #random: Random;
  readonly #ctx: AioContext;
  readonly #file: AioFile;
  readonly #bytes = new Uint8Array(ZONE * ZONES);
  readonly #busy = new Set<number>();
  #size = 0;

  constructor(random: Random, ctx: AioContext, file: AioFile) {
    this.#random = random;
    this.#ctx = ctx;
    this.#file = file;
  }

  /** Picks a part of the file that no request is using, and uses it. */
  async step(): Promise<void> {
    const random = this.#random;
    if (this.#busy.size === 0 && random.once(4)) return this.#resize();
    const free = Array.from({ length: ZONES }, (_, zone) => zone).filter((zone) =>
      !this.#busy.has(zone)
    );
    const zone = random.pick(free);
    this.#busy.add(zone);
    const from = zone * ZONE + random.below(ZONE);
    const length = random.once(4)
      ? (zone + 1) * ZONE - from
      : Math.min(random.below(10_000), (zone + 1) * ZONE - from);
    if (random.once(2)) await this.#read(from, length);
    else await this.#write(from, length);
    this.#busy.delete(zone);
  }

  #memory(length: number): RequestView & Uint8Array {
    switch (this.#random.below(length === 0 ? 2 : 3)) {
      case 0:
        return new Uint8Array(length);
      case 1:
        return new Uint8Array(new SharedArrayBuffer(length + 3), 3);
      default:
        return this.#ctx.buffers.allocate(length);
    }
  }

  /** Memory for one part, or several. */
  #parts(length: number): Uint8Array[] {
    const parts: Uint8Array[] = [];
    for (let left = length; left > 0;) {
      const part = this.#random.once(2) ? left : 1 + this.#random.below(left);
      parts.push(this.#memory(part));
      left -= part;
    }
    return parts;
  }

  async #read(from: number, length: number): Promise<void> {
    const parts = this.#parts(length), size = this.#size;
    const options = this.#random.once(2) ? {} : undefined;
    const count = parts.length === 1
      ? await this.#file.read(parts[0], from, options)
      : await this.#file.readv(parts, from, options);
    // A write elsewhere may make the file larger meanwhile, and nothing makes it smaller.
    assert(count >= Math.min(length, Math.max(0, size - from)), `short: ${count} of ${length}`);
    const read = new Uint8Array(parts.flatMap((part) => [...part])).subarray(0, count);
    assertEquals(read, this.#bytes.slice(from, from + count));
  }

  async #write(from: number, length: number): Promise<void> {
    const parts = this.#parts(length);
    let at = from;
    for (const part of parts) {
      part.set(pattern(part.length, this.#random.below(256)));
      this.#bytes.set(part, at);
      at += part.length;
    }
    const count = parts.length === 1
      ? await this.#file.write(parts[0], from)
      : await this.#file.writev(parts, from);
    assertEquals(count, length);
    if (length !== 0) this.#size = Math.max(this.#size, from + length);
  }

  async #resize(): Promise<void> {
    const size = this.#random.below(ZONE * ZONES);
    for (let zone = 0; zone < ZONES; zone++) this.#busy.add(zone);
    await this.#file.truncate(size);
    this.#bytes.fill(0, size);
    this.#size = size;
    this.#busy.clear();
  }

  /** Whether any request may be made now. */
  get idle(): boolean {
    return this.#busy.size < ZONES;
  }

  async check(path: string): Promise<void> {
    assertEquals((await this.#file.stat()).size, this.#size);
    const bytes = await Deno.readFile(path);
    assertEquals(bytes.length, this.#size);
    const differs = bytes.findIndex((byte, at) => byte !== this.#bytes[at]);
    assertEquals(differs, -1, "first byte that differs");
  }
}

eachFdmon("AioFile: random requests in flight together leave what a plain model has", async (
  makeContext,
) => {
  const random = new Random(SEED);
  using ctx = makeContext();
  try {
    await ctx.run(async () => {
      const path = newPath();
      await using file = await ctx.openFile(path, { read: true, write: true, create: true });
      const model = new Model(random, ctx, file);
      const inFlight = new Set<Promise<void>>();
      for (let round = 0; round < ROUNDS; round++) {
        while (inFlight.size >= IN_FLIGHT || !model.idle) await Promise.race(inFlight);
        const step = model.step().finally(() => inFlight.delete(step));
        inFlight.add(step);
        if (random.once(8)) await Promise.all(inFlight);
      }
      await Promise.all(inFlight);
      await model.check(path);
    });
  } catch (error) {
    console.error(`AIO_FILE_SEED=${SEED}`);
    throw error;
  }
});

/** Why this filesystem has no O_DIRECT; null where it has. */
async function refusesDirect(ctx: AioContext): Promise<string | null> {
  try {
    await using file = await openNew(ctx, { direct: true });
    return (await file.stat()).directAlignment === null ? "statx knows no alignment" : null;
  } catch (error) {
    return (error as Error).message;
  }
}

eachFdmon("openFile: direct reads and writes blocks of any memory, and explains EINVAL", async (
  makeContext,
) => {
  using ctx = makeContext();
  await ctx.run(async () => {
    const refused = await refusesDirect(ctx);
    // Where tests run on a tmpfs there is nothing to see.
    if (refused !== null) return console.warn(`O_DIRECT was not tested: ${refused}`);
    const path = newPath();
    await using file = await ctx.openFile(path, {
      read: true,
      write: true,
      create: true,
      direct: true,
    });
    const { memory, offset } = (await file.stat()).directAlignment!;
    assert(memory > 0 && offset > 0 && BLOCK % offset === 0);
    const bytes = pattern(5 * BLOCK);
    const pooled = ctx.buffers.allocate(bytes.length);
    pooled.set(bytes);
    // A copy is aligned wherever the original was.
    const odd = new Uint8Array(bytes.length + 1).subarray(1);
    odd.set(bytes);
    for (const view of [pooled, odd]) {
      assertEquals(await file.write(view, BLOCK), bytes.length);
      for (const back of [ctx.buffers.allocate(bytes.length), new Uint8Array(bytes.length)]) {
        assertEquals(await file.read(back, BLOCK), bytes.length);
        assertEquals(back.slice(), bytes);
      }
      await file.truncate(0);
    }
    await file.write(pooled, 0);
    const large = pattern(3 << 20);
    assertEquals(await file.write(large, 0), large.length);
    assertEquals(await Deno.readFile(path), large);
    const advice =
      /^Cannot (read|write) fd \d+ as \w+ failed: EINVAL \(with `direct` the buffer's /;
    for (
      const request of [
        () => file.read(ctx.buffers.allocate(BLOCK), 1),
        () => file.read(ctx.buffers.allocate(BLOCK).subarray(0, 100), 0),
        () => file.write(ctx.buffers.allocate(BLOCK), 100),
        () => file.write(new Uint8Array(100), 0),
        () => file.readv([pooled.subarray(0, 7)], 0),
      ]
    ) assertMatch((await rejection(request())).message, advice);
    const other = await rejection(file.fallocate("allocate", 0, 0));
    assertMatch(other.message, /fallocate failed: EINVAL$/);
  });
});
