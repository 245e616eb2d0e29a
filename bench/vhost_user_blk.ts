/**
 * How many 4 KiB reads a second does a guest get of a vhost-user-blk disk, from this back end and
 * from qemu-storage-daemon? Same file, same driver, turn by turn; medians.
 *
 *     deno run -A bench/vhost_user_blk.ts [--idle-queues N] [--rounds N] [--seconds S]
 */
import { parseArgs } from "node:util";
import { AioContext } from "../mod.ts";
import { FileBlockDevice } from "../src/block/mod.ts";
import { VhostUserBlk } from "../src/virtio/mod.ts";
import { attachIdle } from "./vhost_idle.ts";
import { type GuestResult, startGuest } from "../src/cli/vhost_guest.ts";

const { values } = parseArgs({
  options: {
    "idle-queues": { type: "string", default: "0" },
    rounds: { type: "string", default: "3" },
    seconds: { type: "string", default: "1" },
    file: { type: "string" },
  },
});
const QUEUES_PER_DEVICE = 32;
const idleDevices = Math.ceil(Number(values["idle-queues"]) / QUEUES_PER_DEVICE);
const folder = Deno.makeTempDirSync();
const path = values.file ?? `${folder}/disk`;
if (values.file === undefined) {
  using file = Deno.openSync(path, { write: true, create: true });
  for (let piece = 0; piece < 256; piece++) file.writeSync(new Uint8Array(1 << 20).fill(piece));
}

const order = { queueSize: 128, blockSize: 4096, requests: Infinity, eventIndex: true };

/** Runs the guest against a socket. */
function guest(
  socket: string,
  depth: number,
  queues = 1,
  durationMs = 1000 * Number(values.seconds),
) {
  return startGuest({ ...order, path: socket, queues, depth, durationMs });
}

let runs = 0;

async function ours(depth: number): Promise<GuestResult> {
  const run = runs++;
  using ctx = new AioContext();
  return await ctx.run(async () => {
    const device = await FileBlockDevice.open(ctx, path, { readOnly: true });
    const disks = Array.from({ length: idleDevices + 1 }, (_, index) => ({
      socket: `${folder}/${run}_${index}`,
      disk: new VhostUserBlk(ctx, device, { numQueues: index === 0 ? 1 : QUEUES_PER_DEVICE }),
    }));
    const listeners = disks.map(({ socket }) => ctx.listen({ path: socket }));
    const serving = disks.map(({ disk }, index) => disk.serve(listeners[index]));
    const idle = await attachIdle(
      ctx,
      disks.slice(1).map(({ socket }) => socket),
      QUEUES_PER_DEVICE,
    );
    const before = ctx.stats();
    const result = await guest(disks[0].socket, depth);
    const after = ctx.stats();
    console.error(
      `    system calls/request ${
        ((after.systemCalls - before.systemCalls) / result.requests).toFixed(3)
      }`,
    );
    await idle[Symbol.asyncDispose]();
    for (const listener of listeners) await listener.close();
    for (const { disk } of disks) await disk.close();
    await Promise.all(serving);
    await device.close();
    return result;
  });
}

async function theirs(depth: number): Promise<GuestResult> {
  const socket = `${folder}/theirs_${runs++}`;
  const daemon = new Deno.Command("qemu-storage-daemon", {
    args: [
      "--blockdev",
      `driver=file,node-name=f0,filename=${path},aio=io_uring,read-only=on`,
      "--export",
      `type=vhost-user-blk,id=e0,node-name=f0,addr.type=unix,addr.path=${socket},num-queues=1`,
    ],
  }).spawn();
  try {
    for (let tries = 0; tries < 100; tries++) {
      try {
        Deno.statSync(socket);
        break;
      } catch {
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
    }
    return await guest(socket, depth);
  } finally {
    daemon.kill();
    await daemon.status;
  }
}

try {
  for (const depth of [1, 32]) {
    const rates: Record<string, number[]> = { ours: [], theirs: [] };
    for (let round = 0; round < Number(values.rounds); round++) {
      for (const [name, run] of Object.entries({ ours, theirs })) {
        const { requests, kicks, elapsedMs, failures } = await run(depth);
        rates[name].push(requests / elapsedMs * 1000);
        console.log(
          `depth ${depth} ${name.padEnd(6)} ${Math.round(requests / elapsedMs * 1000)} IOPS, ` +
            `${(kicks / requests).toFixed(4)} kicks/request, ${failures} failed`,
        );
      }
    }
    const [a, b] = Object.values(rates).map((all) => all.sort((x, y) => x - y)[all.length >> 1]);
    console.log(
      `depth ${depth}: medians ${Math.round(a)} and ${Math.round(b)}: ${(a / b).toFixed(2)}`,
    );
  }
} finally {
  Deno.removeSync(folder, { recursive: true });
}
