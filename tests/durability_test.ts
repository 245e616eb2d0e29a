/**
 * What a program has written and synced, and says so, is in the file after it was killed.
 *
 * A kill leaves the page cache alone, so this is not about disks: it shows that a promise does not
 * resolve before its request is complete, and that its bytes are the ones that were to be written.
 */
import { assert, assertEquals } from "@std/assert";
import { importLine, programWords } from "./child.ts";
import { FDMONS } from "./each_fdmon.ts";
import { Random } from "./random_values.ts";
import { newPath } from "./test_files.ts";

const SEED = Number(Deno.env.get("AIO_KILL_SEED") ?? Date.now() % 1e6);
const ROUNDS = 3, RECORD_BYTES = 3000, IN_FLIGHT = 8;

/** Writes records in no order, each with its number and a checksum, and says which are synced. */
const text = (fdmon: string, path: string) => `
  ${importLine("AioContext", "mod.ts")}
  using ctx = new AioContext({ fdmon: "${fdmon}" });
  const out = new TextEncoder();
  await ctx.run(async () => {
    const file = await ctx.openFile(${JSON.stringify(path)}, { write: true, create: true });
    let next = 0;
    const writer = async () => {
      const plain = next % 2 === 0;
      for (;;) {
        const number = next++;
        const { buffer, byteOffset } = plain
          ? new Uint8Array(${RECORD_BYTES})
          : ctx.buffers.allocate(${RECORD_BYTES});
        const words = new Uint32Array(buffer, byteOffset, ${RECORD_BYTES / 4});
        words.forEach((_, at) => words[at] = at === 0 ? number : Math.imul(words[at - 1], 31) + at);
        const count = await file.write(words, number * ${RECORD_BYTES});
        if (count !== ${RECORD_BYTES}) throw new Error("short write");
        await file.fdatasync();
        Deno.stdout.writeSync(out.encode(number + "\\n"));
      }
    };
    await Promise.all(Array.from({ length: ${IN_FLIGHT} }, writer));
  });`;

/** Runs the program until it has acknowledged so many records, kills it, and returns them all. */
async function killAfter(words: string[], count: number): Promise<number[]> {
  const child = new Deno.Command(words[0], { args: words.slice(1), stdout: "piped" }).spawn();
  let said = "", killed = false;
  const watchdog = setTimeout(() => child.kill("SIGKILL"), 30_000);
  for await (const chunk of child.stdout.pipeThrough(new TextDecoderStream())) {
    said += chunk;
    if (killed || said.split("\n").length <= count) continue;
    killed = true;
    child.kill("SIGKILL");
  }
  clearTimeout(watchdog);
  assertEquals((await child.status).signal, "SIGKILL");
  assert(killed, "nothing was acknowledged");
  // The last line may have been cut off.
  return said.split("\n").slice(0, -1).map(Number);
}

for (const fdmon of FDMONS) {
  Deno.test(`fdatasync: what was acknowledged is there after kill -9 (${fdmon})`, async () => {
    const random = new Random(SEED);
    for (let round = 0; round < ROUNDS; round++) {
      const path = newPath();
      const acknowledged = await killAfter(
        programWords(text(fdmon, path)),
        1 + random.below(200),
      );
      const bytes = await Deno.readFile(path);
      for (const number of acknowledged) {
        const record = bytes.slice(number * RECORD_BYTES, (number + 1) * RECORD_BYTES);
        assertEquals(record.length, RECORD_BYTES, `record ${number}, AIO_KILL_SEED=${SEED}`);
        const words = new Uint32Array(record.buffer);
        const good = words.every((word, at) =>
          word === (at === 0 ? number : (Math.imul(words[at - 1], 31) + at) >>> 0)
        );
        assert(good, `record ${number} is not what was written, AIO_KILL_SEED=${SEED}`);
      }
    }
  });
}
