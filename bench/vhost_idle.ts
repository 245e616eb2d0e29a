/** Attaches drivers that never ask for anything, to as many back ends as there are sockets. */
import type { AioContext } from "../mod.ts";
import { VhostDriver } from "../src/cli/vhost_driver.ts";
import { VhostFrontEnd } from "../src/cli/vhost_front_end.ts";

/** Idle disks with all their queues started, until disposed. */
export async function attachIdle(
  ctx: AioContext,
  sockets: readonly string[],
  queues: number,
): Promise<AsyncDisposable> {
  const stack = new AsyncDisposableStack();
  for (const path of sockets) {
    const driver = stack.use(new VhostDriver(ctx, { queues, slotBytes: 4096, errors: false }));
    const frontEnd = stack.use(new VhostFrontEnd(await ctx.connect({ path })));
    await driver.attach(frontEnd);
  }
  return stack;
}
