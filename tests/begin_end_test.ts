/**
 * ioPollBegin and ioPollEnd are strictly paired, whatever happens to a handler.
 *
 * Random operations from a printed seed; each device asserts the pairing itself at every call, and
 * no event may be lost although the guest kicks only while notifications are on.
 */
import { assert, assertEquals } from "@std/assert";
import { ManualClock } from "../mod.ts";
import { Device } from "./device.ts";
import { eachFdmon } from "./each_fdmon.ts";

const DEVICES = 24;
const STEPS = 4000;

for (const round of [1, 2, 3]) {
  eachFdmon(
    `ioPollBegin: paired with ioPollEnd under random operations, run ${round}`,
    (makeContext) => {
      const seed = Math.floor(Math.random() * 2 ** 31) | 1;
      let state = seed;
      const random = (limit: number) => {
        state = Math.imul(state, 48271) + 11 >>> 0;
        return (state >>> 8) % limit;
      };
      const clock = new ManualClock(1e9, 100);
      using ctx = makeContext({ clock, pollParams: { idleNs: 1e6, maxNs: 2_000 } });
      using stack = new DisposableStack();
      const devices = Array.from({ length: DEVICES }, (_, index) => {
        return stack.use(new Device(index % 3 === 0 ? "word" : "function"));
      });
      const attached = new Set<Device>();
      let externalDisabled = 0;

      const operate = (device: Device) => {
        switch (random(8)) {
          case 0:
            // A handler that is set anew hears of what is pending by its fd alone.
            device.attach(ctx, random(2) === 0);
            if (device.pending > 0) device.post();
            attached.add(device);
            break;
          case 1:
            ctx.setFdHandler(device.notifier.fd, null);
            attached.delete(device);
            break;
          case 2:
            clock.advance(random(2) === 0 ? 2e6 : 100);
            break;
          case 3:
            if (externalDisabled > 0 && random(2) === 0) {
              externalDisabled--;
              ctx.enableExternal();
            } else if (externalDisabled < 2) {
              externalDisabled++;
              ctx.disableExternal();
            }
            break;
          case 4:
            ctx.setPollParams({ maxNs: random(4) * 1000 });
            break;
          default:
            if (attached.has(device)) device.post();
        }
      };
      for (const device of devices) {
        device.whenReady = () => {
          if (random(4) === 0) operate(devices[random(DEVICES)]);
          if (random(16) === 0) ctx.poll(false);
        };
        device.whenEnded = () => {
          if (random(32) === 0 && attached.has(device)) device.postSilently();
        };
      }
      for (let step = 0; step < STEPS; step++) {
        operate(devices[random(DEVICES)]);
        const timer = ctx.timer(() => {});
        timer.arm(0);
        ctx.poll(random(2) === 0);
        timer.cancel();
      }
      for (const device of devices) device.whenEnded = null;
      while (externalDisabled-- > 0) ctx.enableExternal();
      // The last deletions may have dropped events that nobody kicks for.
      for (const device of attached) device.post();
      for (let poll = 0; poll < 1000; poll++) ctx.poll(false);
      for (const device of attached) {
        assertEquals(device.pending, 0, `seed ${seed}: an event was lost`);
      }
      for (const device of devices) ctx.setFdHandler(device.notifier.fd, null);
      for (const device of devices) {
        assert(device.notificationsOn, `seed ${seed}: notifications were left off`);
        assertEquals(device.count("begin"), device.count("end"), `seed ${seed}`);
      }
    },
  );
}
