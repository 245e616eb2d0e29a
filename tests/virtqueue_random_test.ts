/** Virtqueue: random tables are read as the simplest reader reads them, or refused. */
import { assert, assertEquals } from "@std/assert";
import { GUEST_BASE, writeDescriptor } from "../src/cli/vhost_driver_queue.ts";
import { VirtioError } from "../src/virtio/guest_memory.ts";
import { Random } from "./random_values.ts";
import { runsOf, Sides, SIZE } from "./virtqueue_kit.ts";

const SEED = Number(Deno.env.get("AIO_TEST_SEED") ?? Math.floor(Math.random() * 2 ** 32));
const CASES = Number(Deno.env.get("AIO_TEST_CASES") ?? 200_000);
const NEXT = 1, WRITE = 2, INDIRECT = 4;

/** What a chain should be, read in the simplest way: null where it must be refused. */
function expected(
  sides: Sides,
  head: number,
  indirectAgreed: boolean,
): [number, number, boolean][] | null {
  const { driver } = sides;
  const memory = new DataView(
    driver.memory.buffer,
    driver.memory.byteOffset,
    driver.memory.byteLength,
  );
  const end = GUEST_BASE + driver.memory.byteLength;
  const inside = (address: number, length: number) =>
    address >= GUEST_BASE && address + length <= end;
  let table = sides.guest.descriptorsAt, limit = SIZE, index = head, isIndirect = false;
  const found: [number, number, boolean][] = [];
  for (let count = 1;; count++) {
    if (index >= limit || count > limit) return null;
    const at = table + index * 16;
    const address = Number(memory.getBigUint64(at, true)), length = memory.getUint32(at + 8, true);
    const flags = memory.getUint16(at + 12, true), next = memory.getUint16(at + 14, true);
    if (flags & INDIRECT) {
      if (!indirectAgreed || isIndirect || flags & NEXT) return null;
      if (length === 0 || length % 16 || length > 16_384 || !inside(address, length)) return null;
      [table, limit, index, count, isIndirect] = [address - GUEST_BASE, length / 16, 0, 0, true];
      continue;
    }
    const writes = (flags & WRITE) !== 0;
    if (length === 0 || !inside(address, length)) return null;
    if (!writes && found.some(([, , earlier]) => earlier)) return null;
    found.push([address - GUEST_BASE, length, writes]);
    if (!(flags & NEXT)) return found;
    index = next;
  }
}

Deno.test(`Virtqueue: ${CASES} random tables are read as they should be, or refused (AIO_TEST_SEED=${SEED})`, () => {
  const random = new Random(SEED);
  let accepted = 0, refused = 0;
  for (const indirect of [true, false]) {
    using sides = new Sides({ indirect });
    const { guest, chain, driver } = sides;
    const length = driver.memory.byteLength;
    const address = () => {
      const near = random.pick([
        0,
        length,
        guest.descriptorsAt,
        guest.dataAt,
        2 ** 31,
        2 ** 40,
        -GUEST_BASE,
      ]);
      return random.once(12)
        ? random.below(2 ** 32) * 2 ** random.below(32)
        : GUEST_BASE + near + random.below(64) - random.pick([0, 0, 0, 32]);
    };
    const sizes = [1, 16, 32, 48, 512, 4096, 0, 17, length, 0xffff_ffff, 16_384, 16_400];
    for (let number = 0; number < CASES / 2; number++) {
      for (let change = 0; change < 4; change++) {
        const index = random.below(SIZE);
        const inTable = random.once(3);
        const table = inTable
          ? new Uint32Array(driver.memory.buffer, driver.memory.byteOffset + guest.dataAt, 64)
          : guest.descriptors;
        if (!inTable && random.once(4)) {
          writeDescriptor(
            table,
            index,
            GUEST_BASE + guest.dataAt,
            16 * (1 + random.below(4)),
            INDIRECT | (random.once(9) ? NEXT : 0),
            0,
          );
          continue;
        }
        const flags = random.pick([
          0,
          NEXT,
          NEXT,
          WRITE,
          WRITE | NEXT,
          WRITE | NEXT,
          INDIRECT,
          random.below(65_536),
        ]);
        const good = random.below(3) !== 0;
        const at = good ? GUEST_BASE + guest.dataAt + random.below(1000) : Math.max(0, address());
        const bytes = good ? 1 + random.below(600) : random.pick(sizes);
        writeDescriptor(
          table,
          index,
          at,
          bytes,
          flags,
          random.once(9) ? random.below(65_536) : random.below(SIZE),
        );
      }
      const head = random.once(20) ? random.below(65_536) : random.below(SIZE);
      const queue = sides.makeQueue(null, guest.avail[1]);
      guest.offer(head);
      guest.publish();
      let found: [number, number, boolean][] | null = null;
      try {
        const taken = queue.take();
        assertEquals(taken, head);
        queue.read(taken, chain);
        const base = driver.memory.byteOffset;
        found = [
          ...runsOf(chain.readable).map((
            [at, size],
          ): [number, number, boolean] => [at - base, size, false]),
          ...runsOf(chain.writable).map((
            [at, size],
          ): [number, number, boolean] => [at - base, size, true]),
        ];
        queue.put(taken, 0);
      } catch (error) {
        if (!(error instanceof VirtioError)) throw error;
      }
      const right = head < SIZE ? expected(sides, head, indirect) : null;
      if (JSON.stringify(found) !== JSON.stringify(right)) {
        assertEquals(found, right, `case ${number}`);
      }
      if (found === null) refused++;
      else accepted++;
    }
  }
  assert(accepted > CASES / 10 && refused > CASES / 10, `${accepted} accepted, ${refused} refused`);
});
