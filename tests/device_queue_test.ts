/**
 * DeviceQueue: when kicks and calls are wanted, and what happens between the two sides of a race,
 * which no other test can hit.
 */
import { assert, assertEquals } from "@std/assert";
import { type AioContext, EventNotifier } from "../mod.ts";
import { VhostDriver } from "../src/cli/vhost_driver.ts";
import type { DriverQueue } from "../src/cli/vhost_driver_queue.ts";
import { DeviceQueue, VirtioRequest } from "../src/virtio/device_queue.ts";
import { Virtqueue } from "../src/virtio/virtqueue.ts";
import { eachFdmon, type MakeContext } from "./each_fdmon.ts";
import { pollUntil } from "./poll_until.ts";
import { mapMemory, placeOf } from "./vhost_kit.ts";

/** A queue into which the guest posts a request just before kicks are on again. */
class RacingQueue extends Virtqueue {
  race: (() => void) | null = null;

  override enableKicks(): boolean {
    const { race } = this;
    this.race = null;
    race?.();
    return super.enableKicks();
  }
}

/** A started queue with its guest. */
class Sides implements Disposable {
  readonly ctx: AioContext;
  readonly driver: VhostDriver;
  readonly guest: DriverQueue;
  readonly virtqueue: RacingQueue;
  readonly queue: DeviceQueue;
  readonly counts = { kicks: 0, requests: 0, calls: 0 };
  /** The device does not answer any more. */
  holds = false;
  readonly #memory;

  /** @param answered called when a request is answered */
  constructor(
    makeContext: MakeContext,
    eventIndex: boolean,
    answered = (_sides: Sides) => {},
    size = 16,
  ) {
    this.ctx = makeContext();
    this.driver = new VhostDriver(this.ctx, { queueSize: size, eventIndex });
    this.#memory = mapMemory(this.driver);
    this.guest = this.driver.queues[0];
    const { kick } = this.guest, place = placeOf(this.guest);
    this.virtqueue = new RacingQueue(this.#memory, place, { eventIndex, indirect: true }, 0);
    const told = () => answered(this);
    const isHeld = () => this.holds;
    /** Is answered at once, unless the device holds it. */
    class EchoRequest extends VirtioRequest {
      start(): void {
        if (isHeld()) return;
        this.queue.complete(this, 1);
        told();
      }
    }
    this.queue = new DeviceQueue({
      ctx: this.ctx,
      virtqueue: this.virtqueue,
      kick,
      call: this.guest.call,
      counts: this.counts,
      log: null,
      usedLogAddress: null,
      makeRequest: (owner, head) => new EchoRequest(owner, head),
      reportBroken: (error) => {
        throw error;
      },
    });
    this.queue.start();
  }

  /** Shows what was posted, and kicks for nothing. */
  publishQuietly(): void {
    Atomics.add(this.guest.avail, 1, 1);
  }

  /** Polls until the guest is to kick for its next request. */
  pollUntilKicksAreOn(): void {
    const { used, avail, size } = this.guest;
    const areOn = this.driver.options.eventIndex
      ? () => Atomics.load(used, 2 + size * 4) === avail[1]
      : () => Atomics.load(used, 0) === 0;
    pollUntil(this.ctx, areOn);
  }

  /** Polls until so many requests were taken. */
  pollUntilTaken(requests: number): void {
    pollUntil(this.ctx, () => this.counts.requests >= requests);
  }

  [Symbol.dispose](): void {
    this.ctx[Symbol.dispose]();
    this.#memory.clear();
    this.driver[Symbol.dispose]();
  }
}

for (const eventIndex of [true, false]) {
  const rings = `${eventIndex ? "with" : "without"} event index`;

  eachFdmon(
    `DeviceQueue: a request that comes as kicks are switched on is served, ${rings}`,
    (makeContext) => {
      using sides = new Sides(makeContext, eventIndex);
      const { ctx, guest, virtqueue, counts } = sides;
      ctx.setPollParams({ maxNs: 0 });
      for (let round = 0; round < 50; round++) {
        virtqueue.race = () => {
          guest.post(1, 0);
          sides.publishQuietly();
        };
        guest.post(0, 0);
        sides.publishQuietly();
        guest.kick.set();
        // The other one is seen by the last look alone.
        sides.pollUntilTaken(round * 2 + 2);
      }
      assertEquals([counts.kicks, counts.requests], [50, 100]);
    },
  );

  eachFdmon(
    `DeviceQueue: after the last look before sleeping the guest kicks again, ${rings}`,
    (makeContext) => {
      using sides = new Sides(makeContext, eventIndex);
      const { ctx, guest, virtqueue } = sides;
      ctx.setPollParams({ maxNs: 1e9 });
      guest.post(0, 0);
      guest.publish();
      sides.pollUntilTaken(1);
      // The loop polls now for a while, and is told in vain that this one need not kick.
      virtqueue.race = () => {
        guest.post(1, 0);
        sides.publishQuietly();
      };
      sides.pollUntilTaken(2);
      ctx.setPollParams({ maxNs: 0 });
      guest.post(2, 0);
      guest.publish();
      sides.pollUntilTaken(3);
    },
  );

  eachFdmon(
    `DeviceQueue: a guest with one request at a time kicks for each and is called for each, ${rings}`,
    (makeContext) => {
      using sides = new Sides(makeContext, eventIndex);
      const { ctx, guest, counts } = sides;
      ctx.setPollParams({ maxNs: 0 });
      guest.wantCall();
      for (let round = 1; round <= 100; round++) {
        guest.post(round % 16, 0);
        assert(guest.publish(), `round ${round}`);
        sides.pollUntilTaken(round);
        assert(guest.call.testAndClear(), `round ${round}`);
        assert(guest.takeUsed());
        guest.wantCall();
      }
      assertEquals(counts, { kicks: 100, requests: 100, calls: 100 });
    },
  );

  eachFdmon(
    `DeviceQueue: a guest that is late need not kick for what it adds, ${rings}`,
    async (makeContext) => {
      using sides = new Sides(makeContext, eventIndex);
      const { ctx, guest, counts, queue } = sides;
      ctx.setPollParams({ maxNs: 0 });
      let requests = 0;
      const add = (): boolean => {
        guest.post(requests++ % 16, 0);
        const kicked = guest.publish();
        sides.pollUntilTaken(requests);
        return kicked;
      };
      for (let round = 0; round < 20; round++) {
        const before = counts.calls;
        guest.wantCall();
        // It is called, and does not come: then it has others in flight.
        sides.pollUntilKicksAreOn();
        assert(add());
        guest.refuseCalls();
        sides.pollUntilKicksAreOn();
        assert(add());
        assertEquals([add(), add()], [false, false], `round ${round}`);
        assertEquals(counts.calls, before + 1);
        while (guest.takeUsed());
      }
      sides.pollUntilKicksAreOn();
      assert(add());
      await queue.stop();
      assertEquals(ctx.stats().timers, 0);
      guest.post(0, 0);
      sides.publishQuietly();
      for (const endNs = ctx.now() + 1e6; ctx.now() < endNs;) ctx.poll(false);
      assertEquals(counts.requests, requests, "a queue that is stopped looks no more");
    },
  );

  eachFdmon(
    `DeviceQueue: what a guest that is late has asked for already does not wait, ${rings}`,
    (makeContext) => {
      using sides = new Sides(makeContext, eventIndex, () => {}, 256);
      const { ctx, guest } = sides;
      ctx.setPollParams({ maxNs: 0 });
      guest.wantCall();
      for (const slot of [0, 1]) {
        guest.post(slot, 0);
        assert(guest.publish());
        sides.pollUntilTaken(slot + 1);
        guest.refuseCalls();
        sides.pollUntilKicksAreOn();
      }
      // More than are taken in one turn.
      sides.holds = true;
      for (let slot = 2; slot < 202; slot++) guest.post(slot, 0);
      assert(guest.publish());
      sides.pollUntilTaken(3);
      assertEquals([sides.counts.requests, ctx.stats().timers], [130, 0]);
      sides.pollUntilTaken(202);
    },
  );

  eachFdmon(
    `DeviceQueue: a guest that never pauses does not keep the loop from others, ${rings}`,
    (makeContext) => {
      let slot = 0;
      using sides = new Sides(makeContext, eventIndex, ({ guest }) => {
        guest.post(slot = (slot + 1) % 16, 0);
        guest.publish();
      });
      const { ctx, guest, counts } = sides;
      using other = new EventNotifier();
      let turns = 0;
      ctx.setFdHandler(other.fd, { ioRead: () => turns++ });
      other.set();
      guest.post(0, 0);
      guest.publish();
      pollUntil(ctx, () => turns >= 100 && counts.requests > 1000);
      ctx.setFdHandler(other.fd, null);
    },
  );
}
