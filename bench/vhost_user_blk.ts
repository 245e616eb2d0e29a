/**
 * How many 4 KiB reads a second does a guest get of a vhost-user-blk disk, from this back end and
 * from qemu-storage-daemon, alone and beside idle queues? Same file, same driver. All back ends are
 * started at first, then the guest turns from one to the next, there and back; those whose turn it is
 * not sleep. Turns are short, so that neighbours have the same machine. Medians, and the median ratio
 * within a round.
 *
 *     deno run -A bench/vhost_user_blk.ts [--idle-queues N] [--rounds N] [--seconds S] [--polling]
 *         [--depths 1,32] [--file PATH]
 *
 * With `--polling` the daemon's export is measured once more in an iothread, which polls.
 */
import { parseArgs } from "node:util";
import { type GuestResult, startGuest } from "../src/cli/vhost_guest.ts";
import { newFolder } from "../tests/child.ts";
import { median } from "../src/cli/median.ts";
import { type BackEnd, OurBackEnd, type ServedDisk, StorageDaemon } from "./vhost_back_ends.ts";
import { IdleDrivers } from "./vhost_idle.ts";

const { values } = parseArgs({
  options: {
    "idle-queues": { type: "string", default: "0" },
    rounds: { type: "string", default: "21" },
    seconds: { type: "string", default: "0.5" },
    depths: { type: "string", default: "1,32" },
    file: { type: "string" },
    polling: { type: "boolean", default: false },
  },
});
const QUEUES_PER_DISK = 32, FILE_MIB = 256;
/** Idle queues leave the poll list after so much time, which is over when the first round begins. */
const IDLE_NS = 0.3e9, WARM_UP_MS = 300, FIRST_WARM_UP_MS = 1000;
/** What a turn takes beside its window at most; and with each peer alone and beside idle queues. */
const TURN_SECONDS_MAX = 5, PLACES_MAX = 6;
const rounds = Number(values.rounds), seconds = Number(values.seconds);
const depths = values.depths.split(",").map(Number);
const idleDisks = Math.ceil(Number(values["idle-queues"]) / QUEUES_PER_DISK);
const folder = newFolder();

/** Where a guest can read, and what was found there, round by round. */
interface Place {
  readonly name: string;
  readonly socket: string;
  /** The same back end without idle queues, where this has them. */
  readonly alone: Place | null;
  rates: number[];
  kicks: number[];
}

const places: Place[] = [];

/** Starts a back end with one busy disk, and idle ones, whose drivers are attached. */
async function add(
  stack: AsyncDisposableStack,
  kind: string,
  idleDisks: number,
  start: (disks: ServedDisk[], config: string) => Promise<BackEnd>,
): Promise<void> {
  const prefix = `${folder}/${places.length}_`;
  const disks = Array.from({ length: 1 + idleDisks }, (_, index) => ({
    file,
    socket: `${prefix}${index}`,
    numQueues: index === 0 ? 1 : QUEUES_PER_DISK,
  }));
  stack.use(await start(disks, `${prefix}config`));
  const [{ socket }, ...idle] = disks;
  if (idleDisks !== 0) {
    stack.use(await IdleDrivers.attach(idle.map(({ socket }) => socket), QUEUES_PER_DISK));
  }
  const alone = idleDisks === 0 ? null : places.find(({ name }) => name === kind) ?? null;
  const name = idleDisks === 0 ? kind : `${kind} beside ${idleDisks * QUEUES_PER_DISK} idle`;
  places.push({ name, socket, alone, rates: [], kicks: [] });
}

function run(socket: string, depth: number, warmUpMs = WARM_UP_MS): Promise<GuestResult> {
  return startGuest({
    path: socket,
    queues: 1,
    queueSize: 128,
    depth,
    blockSize: 4096,
    warmUpMs,
    durationMs: 1000 * seconds,
    requests: Infinity,
    eventIndex: true,
  });
}

async function measure(depth: number): Promise<void> {
  for (const place of places) {
    place.rates = [];
    place.kicks = [];
    await run(place.socket, depth, FIRST_WARM_UP_MS);
  }
  for (let round = 1; round <= rounds; round++) {
    for (const place of round % 2 === 1 ? places : places.toReversed()) {
      const { requests, failures, kicks, elapsedMs } = await run(place.socket, depth);
      if (failures !== 0) throw new Error(`${failures} requests have failed`);
      place.rates.push(requests / elapsedMs * 1000);
      place.kicks.push(kicks / requests);
    }
    const line = places.map(({ rates }) => Math.round(rates.at(-1)! / 1000)).join(", ");
    console.error(`depth ${depth}, round ${round}: ${line} thousand IOPS`);
  }
}

function report(depth: number): void {
  const ratio = (one: Place, other: Place) =>
    median(one.rates.map((rate, round) => rate / other.rates[round])).toFixed(2);
  for (const [index, place] of places.entries()) {
    const facts = [
      `${Math.round(median(place.rates)).toLocaleString("en")} IOPS`,
      `${median(place.kicks).toFixed(4)} kicks a request`,
    ];
    if (index === 0) {
      const peers = places.slice(1).filter(({ alone }) => alone === null);
      for (const peer of peers) facts.push(`${ratio(place, peer)} of ${peer.name}`);
    }
    const { alone } = place;
    if (alone !== null) facts.push(`${ratio(place, alone)} of that without idle queues`);
    console.log(`depth ${depth}, ${place.name}: ${facts.join(", ")}`);
  }
}

const file = values.file ?? `${folder}/disk`;
try {
  if (values.file === undefined) {
    using disk = Deno.openSync(file, { write: true, create: true });
    for (let mib = 0; mib < FILE_MIB; mib++) disk.writeSync(new Uint8Array(1 << 20).fill(mib));
  }
  await using stack = new AsyncDisposableStack();
  const secondsMax = rounds * depths.length * PLACES_MAX * (seconds + TURN_SECONDS_MAX);
  const options = ["--poll-idle-ns", `${IDLE_NS}`];
  // With idle queues and without are neighbours.
  const addBoth = async (
    kind: string,
    start: (disks: ServedDisk[], config: string) => Promise<BackEnd>,
  ) => {
    await add(stack, kind, 0, start);
    if (idleDisks !== 0) await add(stack, kind, idleDisks, start);
  };
  await addBoth("ours", (disks, config) => OurBackEnd.start(disks, config, options, secondsMax));
  await addBoth("qemu-storage-daemon", (disks) => StorageDaemon.start(disks));
  if (values.polling) {
    await addBoth("qemu-storage-daemon polling", (disks) => StorageDaemon.start(disks, true));
  }
  for (const depth of depths) {
    await measure(depth);
    report(depth);
  }
} finally {
  Deno.removeSync(folder, { recursive: true });
}
