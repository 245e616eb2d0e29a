/**
 * How many 4 KiB reads a second does a guest get of a vhost-user-blk disk, from this back end and
 * from qemu-storage-daemon, alone and beside idle queues? Same file, same driver, turn by turn;
 * medians, and the median ratio of neighbours in a round.
 *
 *     deno run -A bench/vhost_user_blk.ts [--idle-queues N] [--rounds N] [--seconds S] [--polling]
 *         [--depths 1,32] [--file PATH]
 *
 * With `--polling` the daemon's export is measured once more in an iothread, which polls.
 */
import { parseArgs } from "node:util";
import { AioContext } from "../mod.ts";
import { FileBlockDevice } from "../src/block/mod.ts";
import { VhostUserBlk } from "../src/virtio/mod.ts";
import { StorageDaemon } from "./vhost_daemon.ts";
import { attachIdle } from "./vhost_idle.ts";
import { type GuestResult, startGuest } from "../src/cli/vhost_guest.ts";

const { values } = parseArgs({
  options: {
    "idle-queues": { type: "string", default: "0" },
    rounds: { type: "string", default: "5" },
    seconds: { type: "string", default: "1" },
    depths: { type: "string", default: "1,32" },
    file: { type: "string" },
    polling: { type: "boolean", default: false },
  },
});
const QUEUES_PER_DEVICE = 32, FILE_MIB = 256;
/** Idle queues leave the poll list after so much time, which is over when the window begins. */
const IDLE_NS = 0.3e9, WARM_UP_MS = 700;
const idleDisks = Math.ceil(Number(values["idle-queues"]) / QUEUES_PER_DEVICE);
const folder = Deno.makeTempDirSync();
const path = values.file ?? `${folder}/disk`;
if (values.file === undefined) {
  using file = Deno.openSync(path, { write: true, create: true });
  for (let mib = 0; mib < FILE_MIB; mib++) file.writeSync(new Uint8Array(1 << 20).fill(mib));
}

/** Who serves, and how many disks are idle. */
interface Scenario {
  readonly name: string;
  readonly run: (depth: number, idle: number) => Promise<GuestResult>;
  readonly idle: number;
}

let sockets = 0;

/** The busy disk's socket comes first. */
function newSockets(idle: number): string[] {
  return Array.from({ length: idle + 1 }, () => `${folder}/${sockets++}`);
}

function queuesOf(index: number): number {
  return index === 0 ? 1 : QUEUES_PER_DEVICE;
}

/** Attaches idle drivers and runs the guest against the first socket. */
async function load(ctx: AioContext, paths: string[], depth: number): Promise<GuestResult> {
  await using _idle = await attachIdle(ctx, paths.slice(1), QUEUES_PER_DEVICE);
  return await startGuest({
    path: paths[0],
    queues: 1,
    queueSize: 128,
    depth,
    blockSize: 4096,
    warmUpMs: WARM_UP_MS,
    durationMs: 1000 * Number(values.seconds),
    requests: Infinity,
    eventIndex: true,
  });
}

async function ours(depth: number, idle: number): Promise<GuestResult> {
  const paths = newSockets(idle);
  using ctx = new AioContext({ pollParams: { idleNs: IDLE_NS } });
  return await ctx.run(async () => {
    const device = await FileBlockDevice.open(ctx, path, { readOnly: true });
    await using stack = new AsyncDisposableStack();
    stack.defer(() => device.close());
    for (const [index, path] of paths.entries()) {
      const disk = new VhostUserBlk(ctx, device, { numQueues: queuesOf(index) });
      const listener = ctx.listen({ path });
      const serving = disk.serve(listener);
      stack.defer(async () => {
        await listener.close();
        await disk.close();
        await serving;
      });
    }
    return await load(ctx, paths, depth);
  });
}

async function theirs(depth: number, idle: number, polling = false): Promise<GuestResult> {
  const paths = newSockets(idle);
  const blockdev = `driver=file,node-name=f0,filename=${path},aio=io_uring,read-only=on`;
  const args = polling ? ["--object", "iothread,id=t0,poll-max-ns=32768"] : [];
  args.push("--blockdev", blockdev);
  for (const [index, path] of paths.entries()) {
    const place = `addr.type=unix,addr.path=${path},num-queues=${queuesOf(index)}`;
    const thread = polling ? ",iothread=t0" : "";
    args.push("--export", `type=vhost-user-blk,id=e${index},node-name=f0,${place}${thread}`);
  }
  await using _daemon = await StorageDaemon.start(args, paths);
  using ctx = new AioContext();
  return await ctx.run(() => load(ctx, paths, depth));
}

function median(values: readonly number[]): number {
  return values.toSorted((one, other) => one - other)[values.length >> 1];
}

const scenarios: Scenario[] = [
  { name: "ours", run: ours, idle: 0 },
  { name: "qemu-storage-daemon", run: theirs, idle: 0 },
];
if (values.polling) {
  const run = (depth: number, idle: number) => theirs(depth, idle, true);
  scenarios.push({ name: "qemu-storage-daemon polling", run, idle: 0 });
}
if (idleDisks !== 0) {
  const beside = `beside ${idleDisks * QUEUES_PER_DEVICE} idle`;
  for (const scenario of [...scenarios]) {
    scenarios.push({ ...scenario, name: `${scenario.name} ${beside}`, idle: idleDisks });
  }
}

try {
  for (const depth of values.depths.split(",").map(Number)) {
    const rates = scenarios.map((): number[] => []);
    const kicks = scenarios.map((): number[] => []);
    for (let round = 0; round < Number(values.rounds); round++) {
      for (const [index, { run, idle }] of scenarios.entries()) {
        const result = await run(depth, idle);
        if (result.failures !== 0) throw new Error(`${result.failures} requests have failed`);
        rates[index].push(result.requests / result.elapsedMs * 1000);
        kicks[index].push(result.kicks / result.requests);
      }
      const line = rates.map((rates) => Math.round(rates[round] / 1000)).join(", ");
      console.error(`depth ${depth}, round ${round + 1}: ${line} thousand IOPS`);
    }
    const ratio = (one: number, other: number) =>
      median(rates[one].map((rate, round) => rate / rates[other][round])).toFixed(2);
    for (const [index, { name, idle }] of scenarios.entries()) {
      const facts = [
        `${Math.round(median(rates[index])).toLocaleString("en")} IOPS`,
        `${median(kicks[index]).toFixed(4)} kicks a request`,
      ];
      if (index === 0) {
        for (const peer of scenarios.keys()) {
          if (peer !== 0 && scenarios[peer].idle === 0) {
            facts.push(`${ratio(0, peer)} of ${scenarios[peer].name}`);
          }
        }
      }
      if (idle !== 0) {
        facts.push(`${ratio(index, index - scenarios.length / 2)} of that without idle queues`);
      }
      console.log(`depth ${depth}, ${name}: ${facts.join(", ")}`);
    }
  }
} finally {
  Deno.removeSync(folder, { recursive: true });
}
