/**
 * What does an idle queue of a guest take of this back end's memory, and of qemu-storage-daemon's?
 * Anonymous memory of the process (RssAnon of /proc), from before the drivers attach to some time
 * after; at both ends V8 has had time to give back what it needed meanwhile. What is a guest's is not
 * counted.
 *
 *     deno run -A bench/vhost_memory.ts [--disks N] [--rest SECONDS]
 */
import { parseArgs } from "node:util";
import { newFolder } from "../tests/child.ts";
import { type BackEnd, OurBackEnd, type ServedDisk, StorageDaemon } from "./vhost_back_ends.ts";
import { IdleDrivers } from "./vhost_idle.ts";

const { values } = parseArgs({
  options: {
    disks: { type: "string", default: "100" },
    rest: { type: "string", default: "40" },
  },
});
const QUEUES = 32, ATTACH_SECONDS_MAX = 60;
const disks = Number(values.disks), rest = Number(values.rest);
const folder = newFolder();
const file = `${folder}/disk`;
Deno.writeFileSync(file, new Uint8Array(1 << 20));

function makeDisks(name: string): ServedDisk[] {
  return Array.from({ length: disks }, (_, index) => {
    return { file, socket: `${folder}/${name}${index}`, numQueues: QUEUES };
  });
}

function anonymousBytes(pid: number): number {
  const status = Deno.readTextFileSync(`/proc/${pid}/status`);
  return Number(/RssAnon:\s+(\d+) kB/.exec(status)![1]) * 1024;
}

function pass(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, rest * 1000));
}

/** Attaches idle drivers; prints what that took. */
async function measure(
  name: string,
  start: (disks: ServedDisk[]) => Promise<BackEnd>,
): Promise<void> {
  const served = makeDisks(name);
  await using backEnd = await start(served);
  await pass();
  const before = anonymousBytes(backEnd.pid);
  await using _idle = await IdleDrivers.attach(served.map(({ socket }) => socket), QUEUES);
  const attached = anonymousBytes(backEnd.pid);
  await pass();
  const rested = anonymousBytes(backEnd.pid);
  const [now, later] = [attached, rested].map((bytes) => (bytes - before) / disks / QUEUES);
  console.log(`${name}: ${now.toFixed(0)} bytes a queue, ${later.toFixed(0)} after ${rest} s`);
}

try {
  const secondsMax = 2 * rest + ATTACH_SECONDS_MAX;
  await measure("ours", (disks) => OurBackEnd.start(disks, `${folder}/config`, [], secondsMax));
  await measure("qemu-storage-daemon", (disks) => StorageDaemon.start(disks));
} finally {
  Deno.removeSync(folder, { recursive: true });
}
