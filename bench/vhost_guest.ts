/**
 * How many 4 KiB reads a second does a real guest make on one busy disk beside 24 idle ones of 32
 * queues, all served by one process: this back end with and without idle removal, and
 * qemu-storage-daemon. Turn by turn, medians; each turn boots a guest under QEMU.
 *
 *     deno task guest    # once, as it gets QEMU and a kernel
 *     deno run -A bench/vhost_guest.ts [--idle-disks N] [--rounds N] [--seconds S] [--json]
 *         [--also="--poll-max-ns 0"]...
 *
 * `--also` measures this back end once more, with other options and idle removal.
 * A guest with 100 disks takes minutes to boot, as each wake-up of QEMU polls all of their fds.
 */
import { parseArgs } from "node:util";
import { newFolder } from "../tests/child.ts";
import { type MachineDisk, runMachine } from "../tests/guest/machine.ts";
import { median } from "../src/cli/median.ts";
import { OurBackEnd, type ServedDisk, StorageDaemon } from "./vhost_back_ends.ts";

const { values } = parseArgs({
  options: {
    "idle-disks": { type: "string", default: "24" },
    rounds: { type: "string", default: "3" },
    seconds: { type: "string", default: "4" },
    also: { type: "string", multiple: true, default: [] },
    json: { type: "boolean", default: false },
  },
});
const QUEUES = 32, MIB = 1 << 20, BUSY_MIB = 256;
/** In which idle queues leave the poll list, before the load begins. */
const IDLE_NS = 2e9, IDLE_WAIT_S = 3;
const SECONDS_MAX = 150, SECONDS_PER_DISK = 5;
/** A guest has requests for each queue ready. */
const MEMORY_MIB = 512, MEMORY_MIB_PER_DISK = 10;
const DEPTHS = [1, 32];

type Disk = MachineDisk & ServedDisk;

/** What a guest has measured; kicks only where the back end counts them. */
interface Row {
  readonly backEnd: string;
  readonly depth: number;
  readonly iops: number;
  readonly kicksPerRequest: number | null;
}

const idleDisks = Number(values["idle-disks"]);
const secondsMax = SECONDS_MAX + idleDisks * SECONDS_PER_DISK;
const memoryMib = MEMORY_MIB + idleDisks * MEMORY_MIB_PER_DISK;
const folder = newFolder();
const job = `${folder}/job`;
compile();
const files = Array.from({ length: idleDisks + 1 }, (_, index) => `${folder}/disk${index}`);
for (const [index, file] of files.entries()) fill(file, index === 0 ? BUSY_MIB : 1);

/** The busy disk comes first, so that the guest calls it vda. */
function makeDisks(turn: number): Disk[] {
  return files.map((file, index) => ({
    file,
    socket: `${folder}/${turn}_${index}`,
    numQueues: index === 0 ? 1 : QUEUES,
  }));
}

function compile(): void {
  const source = new URL("../tests/guest/job.c", import.meta.url).pathname;
  const args = ["-O2", "-static", "-pthread", "-o", job, source];
  const { success } = new Deno.Command("cc", { args }).outputSync();
  if (!success) throw new Error("the load does not compile");
}

function fill(path: string, mib: number): void {
  using file = Deno.openSync(path, { write: true, create: true });
  for (let index = 0; index < mib; index++) file.writeSync(new Uint8Array(MIB).fill(index));
}

/** Boots a guest that reads at each depth; what it found. */
async function guest(disks: readonly Disk[]): Promise<{ threads: number; iops: number }[]> {
  const jobs = DEPTHS.map((depth) => `say $(job /dev/vda ${depth} ${values.seconds})`);
  const lines = await runMachine({
    disks,
    script: [`sleep ${IDLE_WAIT_S}`, ...jobs].join("\n"),
    programs: { job },
    folder,
    memoryMib,
    secondsMax,
  });
  return lines.map((line) => JSON.parse(line));
}

async function ours(
  disks: readonly Disk[],
  backEnd: string,
  removal: boolean,
  options: readonly string[] = [],
): Promise<Row[]> {
  const idleNs = removal ? IDLE_NS : Number.MAX_SAFE_INTEGER;
  const args = ["--poll-idle-ns", `${idleNs}`, ...options];
  await using served = await OurBackEnd.start(disks, `${folder}/config`, args, secondsMax + 20);
  const jobs = await guest(disks);
  const [{ kicks, requests }] = await served.end();
  return jobs.map(({ threads, iops }) => ({
    backEnd,
    depth: threads,
    iops,
    kicksPerRequest: kicks / requests,
  }));
}

async function theirs(disks: readonly Disk[]): Promise<Row[]> {
  await using _daemon = await StorageDaemon.start(disks);
  const jobs = await guest(disks);
  return jobs.map(({ threads, iops }) => ({
    backEnd: "qemu-storage-daemon",
    depth: threads,
    iops,
    kicksPerRequest: null,
  }));
}

const OURS: Record<string, (disks: Disk[]) => Promise<Row[]>> = {
  "removal off": (disks) => ours(disks, "removal off", false),
  "removal on": (disks) => ours(disks, "removal on", true),
};
for (const options of values.also) {
  OURS[options] = (disks) => ours(disks, options, true, options.split(" "));
}

const rows: Row[] = [];
let turn = 0;
for (let round = 0; round < Number(values.rounds); round++) {
  for (const run of [...Object.values(OURS), theirs]) {
    const found = await run(makeDisks(turn++));
    for (const { backEnd, depth, iops, kicksPerRequest } of found) {
      console.error(
        `${backEnd}, depth ${depth}: ${Math.round(iops)} IOPS, kicks per request at all depths ` +
          `${kicksPerRequest?.toFixed(4) ?? "unknown"}`,
      );
    }
    rows.push(...found);
  }
}
if (values.json) console.log(JSON.stringify({ rows }));
else {
  for (const depth of DEPTHS) {
    const peer = medianOf("qemu-storage-daemon", depth);
    for (const backEnd of Object.keys(OURS)) {
      const iops = medianOf(backEnd, depth);
      console.log(
        `depth ${depth}, ${idleDisks} x ${QUEUES} idle queues, ${backEnd}: ` +
          `${Math.round(iops)} IOPS, ${(iops / peer).toFixed(2)} of qemu-storage-daemon's ` +
          `${Math.round(peer)}`,
      );
    }
  }
}

function medianOf(backEnd: string, depth: number): number {
  return median(
    rows.filter((row) => row.backEnd === backEnd && row.depth === depth).map(({ iops }) => iops),
  );
}
