/** Virtqueue: what a guest has described is what is read, and its nonsense is refused. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { MemFd } from "../mod.ts";
import { USER_BASE } from "../src/cli/vhost_driver.ts";
import { GUEST_BASE, writeDescriptor } from "../src/cli/vhost_driver_queue.ts";
import { VirtioError } from "../src/virtio/guest_memory.ts";
import { Virtqueue } from "../src/virtio/virtqueue.ts";
import { placeOf } from "./vhost_kit.ts";
import { runsOf, Sides, SIZE } from "./virtqueue_kit.ts";

const NEXT = 1, WRITE = 2, INDIRECT = 4;

Deno.test("Virtqueue: a chain is what the guest has described, in its order", () => {
  for (const indirect of [false, true]) {
    using sides = new Sides({ indirect });
    const { guest, queue, chain } = sides;
    guest.describe(2, 0, 1024);
    guest.post(2, 5);
    assertEquals(queue.take(), -1, "not before it is published");
    guest.publish();
    const head = queue.take();
    assertEquals(head, indirect ? 2 : 6);
    assertEquals(queue.take(), -1);
    queue.read(head, chain);
    const slot = sides.driver.memory.byteOffset + guest.slotsAt + 2 * 128;
    const { byteOffset } = guest.data(2);
    assertEquals(runsOf(chain.readable), [[slot, 16]]);
    assertEquals(runsOf(chain.writable), [[byteOffset, 1024], [slot + 16, 1]]);
    chain.writable.setLast(0);
    assert(!guest.takeUsed());
    queue.put(head, 1025);
    assert(guest.takeUsed());
    assertEquals([guest.usedSlot, guest.usedStatus, guest.usedWritten], [2, 0, 1025]);
    assert(!guest.takeUsed());
  }
});

Deno.test("Virtqueue: indexes wrap, and every slot comes back, for 200,000 requests", () => {
  using sides = new Sides({ eventIndex: true });
  const { guest, queue, chain } = sides;
  let kicks = 0;
  queue.enableKicks();
  for (let count = 0; count < 200_000; count++) {
    guest.post(count % SIZE, count);
    if (guest.publish()) kicks++;
    const head = queue.take();
    queue.read(head, chain);
    queue.put(head, 1);
    if (count % 3 === 0) assert(!queue.enableKicks());
    assert(guest.takeUsed());
    assertEquals(guest.usedSlot, count % SIZE);
  }
  // Only the one behind each enableKicks has to, and that was called once more before.
  assertEquals(kicks, 1 + Math.ceil(200_000 / 3));
});

const BROKEN: readonly [name: string, message: string, break_: (sides: Sides) => void][] = [
  ["head beyond the table", "descriptor 16 is beyond 16", (sides) => sides.readOffered(16)],
  ["head far beyond", "descriptor 65535 is beyond", (sides) => sides.readOffered(0xffff)],
  ["available index ahead by more than the size", "17 requests at once", ({ guest, queue }) => {
    guest.avail[1] = 17;
    queue.take();
  }],
  ["available index behind", "65535 requests at once", ({ guest, queue }) => {
    guest.avail[1] = 0xffff;
    queue.take();
  }],
  ["chain that is itself's next", "more than 16 descriptors", (sides) => {
    sides.describe(0, NEXT, 0);
    sides.readOffered(0);
  }],
  ["chain in a circle", "more than 16 descriptors", (sides) => {
    for (let index = 0; index < 3; index++) sides.describe(index, NEXT, (index + 1) % 3);
    sides.readOffered(0);
  }],
  ["next beyond the table", "descriptor 16 as there are 16", (sides) => {
    sides.describe(0, NEXT, SIZE);
    sides.readOffered(0);
  }],
  ["empty descriptor", "as it is empty", (sides) => {
    sides.describe(0, 0, 0, 0);
    sides.readOffered(0);
  }],
  ["data to read behind room to write", "behind room to write", (sides) => {
    sides.describe(0, NEXT | WRITE, 1);
    sides.describe(1, 0);
    sides.readOffered(0);
  }],
  ["address below the memory", "not in memory: 0x3fffffff", (sides) => {
    writeDescriptor(sides.guest.descriptors, 0, GUEST_BASE - 1, 512, 0, 0);
    sides.readOffered(0);
  }],
  ["address at the end of memory", "not in memory", (sides) => {
    const end = GUEST_BASE + sides.driver.memory.byteLength;
    writeDescriptor(sides.guest.descriptors, 0, end, 1, 0, 0);
    sides.readOffered(0);
  }],
  ["buffer across the end of memory", "not in memory", (sides) => {
    const end = GUEST_BASE + sides.driver.memory.byteLength;
    writeDescriptor(sides.guest.descriptors, 0, end - 511, 512, 0, 0);
    sides.readOffered(0);
  }],
  ["buffer that wraps at 2^64", "not in memory", (sides) => {
    sides.guest.descriptors.set([0xffff_fe00, 0xffff_ffff, 0x400, 0], 0);
    sides.readOffered(0);
  }],
  ["chain longer than 4 GiB", "longer than 4 GiB", (sides) => {
    // Each buffer is inside, so only their sum is wrong.
    const region = { guestAddress: 2 ** 40, userAddress: 2 ** 40, size: 2 ** 31, offset: 0 };
    using file = new MemFd("large", { size: region.size });
    sides.memory.add(region, file.fd);
    for (let index = 0; index < 3; index++) {
      writeDescriptor(sides.guest.descriptors, index, 2 ** 40, 2 ** 31 - 1, NEXT, index + 1);
    }
    sides.readOffered(0);
  }],
  ["head of a request in flight", "descriptor 0 is of one in flight", (sides) => {
    sides.describe(0, 0);
    sides.readOffered(0);
    sides.readOffered(0);
  }],
  ["indirect descriptor with a next one", "another one follows", (sides) => {
    sides.describe(0, INDIRECT | NEXT, 1, 32);
    sides.readOffered(0);
  }],
  ["indirect table of no length", "its length is 0", (sides) => {
    sides.describe(0, INDIRECT, 0, 0);
    sides.readOffered(0);
  }],
  ["indirect table of a broken length", "its length is 17", (sides) => {
    sides.describe(0, INDIRECT, 0, 17);
    sides.readOffered(0);
  }],
  ["indirect table of 1,025 descriptors", "its length is 16400", (sides) => {
    sides.describe(0, INDIRECT, 0, 1025 * 16);
    sides.readOffered(0);
  }],
  ["indirect table outside of memory", "not in memory", (sides) => {
    writeDescriptor(sides.guest.descriptors, 0, 16, 32, INDIRECT, 0);
    sides.readOffered(0);
  }],
  ["indirect table in an indirect table", "inside an indirect table", (sides) => {
    sides.describe(0, INDIRECT, 0, 16);
    sides.guest.data(0).set(new Uint8Array(sides.guest.descriptors.slice(0, 4).buffer));
    sides.readOffered(0);
  }],
  ["circle in an indirect table", "more than 2 descriptors", (sides) => {
    sides.describe(0, NEXT, 0);
    sides.guest.data(0).set(new Uint8Array(sides.guest.descriptors.slice(0, 4).buffer));
    sides.describe(0, INDIRECT, 0, 32);
    sides.readOffered(0);
  }],
  ["next beyond an indirect table", "descriptor 2 as there are 2", (sides) => {
    sides.describe(0, NEXT, 2);
    sides.guest.data(0).set(new Uint8Array(sides.guest.descriptors.slice(0, 4).buffer));
    sides.describe(0, INDIRECT, 0, 32);
    sides.readOffered(0);
  }],
];

for (const [name, message, break_] of BROKEN) {
  Deno.test(`Virtqueue: refuses a ${name}`, () => {
    using sides = new Sides({ indirect: true });
    assertThrows(() => break_(sides), VirtioError, message);
  });
}

Deno.test("Virtqueue: refuses an indirect descriptor that was not agreed on", () => {
  using sides = new Sides({ indirect: false });
  sides.describe(0, INDIRECT, 0, 32);
  assertThrows(() => sides.readOffered(0), VirtioError, "not agreed");
});

Deno.test("Virtqueue: as many descriptors as there are make a chain, also in an indirect table", () => {
  using sides = new Sides();
  const { guest, chain } = sides;
  for (let index = 0; index < SIZE; index++) {
    sides.describe(index, index + 1 < SIZE ? NEXT : 0, index + 1, 1, index);
  }
  sides.readOffered(0);
  assertEquals([chain.readable.count, chain.readable.byteLength], [SIZE, SIZE]);
  using large = new Sides({ slotBytes: 65_536 });
  const table = new Uint32Array(1024 * 4);
  for (let index = 0; index < 1024; index++) {
    const address = GUEST_BASE + large.guest.dataAt + index;
    writeDescriptor(table, index, address, 1, index < 1023 ? NEXT | WRITE : WRITE, index + 1);
  }
  // At an odd address too, where words cannot be read.
  for (const at of [0, 1, 4]) {
    large.driver.memory.bytes.set(new Uint8Array(table.buffer), large.guest.dataAt + at);
    large.describe(at, INDIRECT, 0, 1024 * 16, at);
    large.readOffered(at);
    assertEquals(large.chain.writable.count, 1024);
  }
  guest.takeUsed();
});

Deno.test("Virtqueue: refuses rings that are not in memory, not aligned, or of no size", () => {
  using sides = new Sides();
  const end = sides.driver.memory.byteLength;
  const make = (changes: Record<string, number>) => () => {
    const place = { ...placeOf(sides.guest), ...changes };
    new Virtqueue(sides.memory, place, sides.driver.options, 0);
  };
  make({})();
  for (const size of [0, 3, 65_536, -2, 2 ** 32]) {
    assertThrows(make({ size }), VirtioError, "its size is no power of two");
  }
  const places: [string, string, number, number][] = [
    ["descriptors", "descriptor table", 16, SIZE * 16],
    ["avail", "available ring", 2, SIZE * 2 + 6],
    ["used", "used ring", 4, SIZE * 8 + 6],
  ];
  for (const [name, what, alignment, length] of places) {
    for (const at of [0, USER_BASE - 16, USER_BASE + end, USER_BASE + end - length + alignment]) {
      const outside = at - at % alignment;
      assertThrows(make({ [name]: outside }), VirtioError, `the ${what} as it is not in memory`);
    }
    const inside = USER_BASE + end - length - (end - length) % alignment;
    make({ [name]: inside })();
    const odd = USER_BASE + alignment / 2;
    assertThrows(
      make({ [name]: odd }),
      VirtioError,
      `its address is not a multiple of ${alignment}`,
    );
  }
});

Deno.test("Virtqueue.wantsCall: once for all that was put, and not where the guest looks itself", () => {
  for (const eventIndex of [false, true]) {
    using sides = new Sides({ eventIndex });
    const { guest, queue, chain } = sides;
    const serve = (count: number) => {
      for (let slot = 0; slot < count; slot++) guest.post(slot, 0);
      guest.publish();
      for (let slot = 0; slot < count; slot++) {
        const head = queue.take();
        queue.read(head, chain);
        queue.put(head, 1);
      }
    };
    const takeAll = () => {
      while (guest.takeUsed());
    };
    guest.wantCall();
    serve(3);
    assert(queue.wantsCall());
    takeAll();
    guest.refuseCalls();
    serve(5);
    assert(!queue.wantsCall());
    takeAll();
    assert(!guest.wantCall());
    serve(1);
    assert(guest.wantCall(), "one is back already");
    assert(queue.wantsCall());
    takeAll();
    // Not asked for again: with an event index that is over, without one it holds on.
    serve(1);
    assertEquals(queue.wantsCall(), !eventIndex);
  }
});

Deno.test("Virtqueue.enableKicks: tells of a request that came in before", () => {
  for (const eventIndex of [false, true]) {
    using sides = new Sides({ eventIndex });
    const { guest, queue } = sides;
    assert(!queue.enableKicks());
    guest.post(0, 0);
    assert(guest.publish(), "kicks");
    queue.take();
    queue.disableKicks();
    for (let slot = 1; slot < 5; slot++) {
      guest.post(slot, 0);
      assert(!guest.publish(), "does not kick");
    }
    assert(queue.enableKicks());
    for (let slot = 1; slot < 5; slot++) queue.take();
    assert(!queue.enableKicks());
    guest.post(5, 0);
    assert(guest.publish(), "kicks again");
  }
});
