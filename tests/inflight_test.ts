/** InflightQueue: a device that ends leaves its successor exactly what was not answered. */
import { assertEquals, assertThrows } from "@std/assert";
import { VirtioError } from "../src/virtio/guest_memory.ts";
import { inflightBytes, InflightQueue } from "../src/virtio/inflight.ts";
import { MemoryViews } from "../src/virtio/memory_views.ts";
import { Random } from "./random_values.ts";
import { Sides, SIZE } from "./virtqueue_kit.ts";

const SEED = Number(Deno.env.get("AIO_TEST_SEED") ?? Math.floor(Math.random() * 2 ** 32));

Deno.test("InflightQueue: whenever the device ends, its successor does exactly what was not answered", () => {
  using sides = new Sides();
  const record = new MemoryViews(new SharedArrayBuffer(inflightBytes(SIZE)));
  const { guest, chain } = sides;
  // The steps of put() are those of a device that is killed in between.
  const kills = ["none", "before the index", "after the index", "after the record"] as const;
  const random = new Random(SEED);
  sides.queue = sides.makeQueue(new InflightQueue(record, 0, SIZE));
  assertEquals(sides.queue.recover(), []);
  const free = new Set(Array.from({ length: SIZE }, (_, slot) => slot));
  let inFlight: number[] = [];
  for (let round = 0; round < 3000; round++) {
    const { queue } = sides;
    for (const slot of [...free]) {
      if (random.once(2)) continue;
      free.delete(slot);
      guest.post(slot, 0);
    }
    guest.publish();
    for (let head = queue.take(); head !== -1; head = queue.take()) {
      queue.read(head, chain);
      inFlight.push(head);
    }
    const kill = kills[random.below(4)];
    while (inFlight.length !== 0 && !random.once(4)) {
      const [head] = inFlight.splice(random.below(inFlight.length), 1);
      queue.put(head, 1);
    }
    if (inFlight.length !== 0 && kill !== "none") {
      const place = random.below(inFlight.length), head = inFlight[place];
      const { halves, bytes } = record;
      const before = bytes.slice();
      const used = guest.used.slice();
      queue.put(head, 1);
      if (kill === "before the index") {
        // Only the note of the last chain is made.
        guest.used.set(used);
        const last = halves[6], next = halves[(16 + head * 16) / 2 + 3];
        bytes.set(before);
        halves[6] = last;
        halves[(16 + head * 16) / 2 + 3] = next;
      } else {
        inFlight.splice(place, 1);
        if (kill === "after the index") {
          bytes[16 + head * 16] = 1;
          halves[7] = before[14] | before[15] << 8;
        } else halves[7] = before[14] | before[15] << 8;
      }
    }
    while (guest.takeUsed()) free.add(guest.usedSlot);
    if (kill !== "none") {
      sides.queue = sides.makeQueue(new InflightQueue(record, 0, SIZE), random.below(65_536));
      const again = sides.queue.recover();
      assertEquals(again, inFlight.toSorted((a, b) => again.indexOf(a) - again.indexOf(b)));
      assertEquals(new Set(again), new Set(inFlight), `killed ${kill}`);
      inFlight = again;
    }
  }
});

Deno.test("InflightQueue: chains come back in the order they were taken; a record that is nonsense is refused", () => {
  const make = () => {
    const record = new MemoryViews(new SharedArrayBuffer(inflightBytes(SIZE)));
    const queue = new InflightQueue(record, 0, SIZE);
    queue.recover(5);
    return { record, queue };
  };
  const { record, queue } = make();
  for (const head of [3, 9, 0, 15]) queue.take(head);
  queue.beforePut(9);
  queue.afterPut(9, 6);
  assertEquals(new InflightQueue(record, 0, SIZE).recover(6), [3, 0, 15]);
  const breaks: ((halves: Uint16Array) => void)[] = [
    (halves) => halves[4] = 2,
    (halves) => halves[5] = 8,
    (halves) => halves[7] = 6, // One behind: 65,535 to do.
    (halves) => halves.set([SIZE, 4], 6), // A list of one, beyond the table.
  ];
  for (const break_ of breaks) {
    const { record } = make(), { halves } = record;
    break_(halves);
    assertThrows(() => new InflightQueue(record, 0, SIZE).recover(5), VirtioError);
  }
});
