/** DeviceQueue: what happens between the two sides of a race, which no other test can hit. */
import { assertEquals } from "@std/assert";
import { EventNotifier } from "../mod.ts";
import { USER_BASE, VhostDriver } from "../src/cli/vhost_driver.ts";
import { DeviceQueue, VirtioRequest } from "../src/virtio/device_queue.ts";
import { Virtqueue } from "../src/virtio/virtqueue.ts";
import { eachFdmon } from "./each_fdmon.ts";
import { pollUntil } from "./poll_until.ts";
import { mapMemory } from "./vhost_kit.ts";

/** Is answered at once. */
class EchoRequest extends VirtioRequest {
  start(): void {
    this.queue.complete(this, 1);
  }
}

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

for (const eventIndex of [true, false]) {
  eachFdmon(
    `DeviceQueue: a request that comes as kicks are switched on is served, ${
      eventIndex ? "with" : "without"
    } event index`,
    async (makeContext) => {
      using ctx = makeContext();
      ctx.setPollParams({ maxNs: 0 });
      using driver = new VhostDriver(ctx, { queueSize: 16, eventIndex });
      const memory = mapMemory(driver);
      const [guest] = driver.queues;
      const place = {
        size: 16,
        descriptors: USER_BASE + guest.descriptorsAt,
        avail: USER_BASE + guest.availAt,
        used: USER_BASE + guest.usedAt,
      };
      const virtqueue = new RacingQueue(memory, place, { eventIndex, indirect: true }, 0);
      using kick = new EventNotifier();
      const counts = { kicks: 0, requests: 0, calls: 0 };
      const queue = new DeviceQueue({
        ctx,
        virtqueue,
        kick,
        call: null,
        counts,
        log: null,
        usedLogAddress: null,
        makeRequest: (owner, head) => new EchoRequest(owner, head),
        reportBroken: (error) => {
          throw error;
        },
      });
      queue.start();
      for (let round = 0; round < 50; round++) {
        // One is seen as it is kicked for, the other by the last look alone: nobody kicks for it.
        virtqueue.race = () => {
          guest.post(1, 0);
          Atomics.store(guest.avail, 1, round * 2 + 2);
        };
        guest.post(0, 0);
        Atomics.store(guest.avail, 1, round * 2 + 1);
        kick.set();
        pollUntil(ctx, () => counts.requests === round * 2 + 2);
      }
      assertEquals(counts, { kicks: 50, requests: 100, calls: 0 });
      await queue.stop();
      memory.clear();
    },
  );

  eachFdmon(
    `DeviceQueue: a guest that never pauses does not keep the loop from others, ${
      eventIndex ? "with" : "without"
    } event index`,
    async (makeContext) => {
      using ctx = makeContext();
      using driver = new VhostDriver(ctx, { queueSize: 16, eventIndex });
      const memory = mapMemory(driver);
      const [guest] = driver.queues;
      const place = {
        size: 16,
        descriptors: USER_BASE + guest.descriptorsAt,
        avail: USER_BASE + guest.availAt,
        used: USER_BASE + guest.usedAt,
      };
      const virtqueue = new Virtqueue(memory, place, { eventIndex, indirect: true }, 0);
      using other = new EventNotifier();
      const counts = { kicks: 0, requests: 0, calls: 0 };
      let slot = 0;
      /** As it is answered the guest has asked for the next thing. */
      class EndlessRequest extends VirtioRequest {
        start(): void {
          this.queue.complete(this, 1);
          guest.post(slot = (slot + 1) % 16, 0);
          guest.publish();
        }
      }
      const queue = new DeviceQueue({
        ctx,
        virtqueue,
        kick: guest.kick,
        call: null,
        counts,
        log: null,
        usedLogAddress: null,
        makeRequest: (owner, head) => new EndlessRequest(owner, head),
        reportBroken: (error) => {
          throw error;
        },
      });
      queue.start();
      let turns = 0;
      ctx.setFdHandler(other.fd, { ioRead: () => turns++ });
      other.set();
      guest.post(0, 0);
      guest.publish();
      pollUntil(ctx, () => turns >= 100 && counts.requests > 1000);
      ctx.setFdHandler(other.fd, null);
      await queue.stop();
      memory.clear();
    },
  );
}
