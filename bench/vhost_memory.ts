/**
 * What does an idle queue of a guest take of this back end's memory, and of qemu-storage-daemon's?
 * Anonymous memory of the process (RssAnon of /proc), from before the drivers attach to some time
 * after; at both ends V8 has had time to give back what it needed meanwhile. What is a guest's is not
 * counted.
 *
 *     deno run -A bench/vhost_memory.ts [--disks N] [--rest SECONDS]
 */
import { parseArgs } from "node:util";
import { AioContext } from "../mod.ts";
import { newFolder } from "../tests/child.ts";
import { VhostCommand } from "../tests/vhost_command.ts";
import { StorageDaemon } from "./vhost_daemon.ts";
import { attachIdle } from "./vhost_idle.ts";

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

/** The sockets of a back end. */
function socketsOf(name: string): string[] {
  return Array.from({ length: disks }, (_, index) => `${folder}/${name}${index}`);
}

function anonymousBytes(pid: number): number {
  const status = Deno.readTextFileSync(`/proc/${pid}/status`);
  return Number(/RssAnon:\s+(\d+) kB/.exec(status)![1]) * 1024;
}

/** Attaches idle drivers; prints what that took. */
async function measure(name: string, pid: number, sockets: readonly string[]): Promise<void> {
  using ctx = new AioContext();
  await ctx.run(async () => {
    const pass = () =>
      new Promise<void>((resolve) => ctx.timer(resolve).arm(ctx.now() + rest * 1e9));
    await pass();
    const before = anonymousBytes(pid);
    await using _idle = await attachIdle(ctx, sockets, QUEUES);
    const attached = anonymousBytes(pid);
    await pass();
    const rested = anonymousBytes(pid);
    const [now, later] = [attached, rested].map((bytes) => (bytes - before) / disks / QUEUES);
    console.log(`${name}: ${now.toFixed(0)} bytes a queue, ${later.toFixed(0)} after ${rest} s`);
  });
}

async function ours(): Promise<void> {
  const sockets = socketsOf("ours");
  const config = `${folder}/config`;
  const devices = sockets.map((socket) => ({ socket, file, "num-queues": QUEUES }));
  Deno.writeTextFileSync(config, JSON.stringify({ devices }));
  const args = ["--config", config, "--read-only"];
  await using command = new VhostCommand(args, 2 * rest + ATTACH_SECONDS_MAX);
  const { pid } = await command.next();
  await measure("ours", pid, sockets);
}

async function theirs(): Promise<void> {
  const sockets = socketsOf("theirs");
  const blockdev = `driver=file,node-name=f0,filename=${file},aio=io_uring,read-only=on`;
  const exports = sockets.flatMap((socket, index) => [
    "--export",
    `type=vhost-user-blk,id=e${index},node-name=f0,addr.type=unix,addr.path=${socket},` +
    `num-queues=${QUEUES}`,
  ]);
  await using daemon = await StorageDaemon.start(["--blockdev", blockdev, ...exports], sockets);
  await measure("qemu-storage-daemon", daemon.pid, sockets);
}

try {
  await ours();
  await theirs();
} finally {
  Deno.removeSync(folder, { recursive: true });
}
