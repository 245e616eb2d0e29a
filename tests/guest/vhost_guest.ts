/**
 * Real guests with disks of `vhost-user-blk`: Linux under QEMU finds them, reads, writes, makes
 * filesystems, and powers off.
 *
 * Not part of the suite, as QEMU and a kernel are a large download: `deno task guest` gets them first.
 */
import { assert, assertEquals } from "@std/assert";
import { newFolder, run } from "../child.ts";
import { VhostCommand } from "../vhost_command.ts";
import { runMachine } from "./machine.ts";

const MIB = 1 << 20;
const SECONDS_MAX = 170;

/** What a guest has said, by the word that each line begins with. */
function byWord(lines: readonly string[]): Record<string, string> {
  return Object.fromEntries(lines.map((line) => {
    const space = line.indexOf(" ");
    return [line.slice(0, space), line.slice(space + 1)];
  }));
}

function makeDisk(path: string, size: number, value: number): void {
  using file = Deno.openSync(path, { write: true, create: true });
  file.writeSync(new Uint8Array(MIB).fill(value));
  file.truncateSync(size);
}

async function md5(path: string, offsetMib: number, lengthMib: number): Promise<string> {
  const dd = `dd if=${path} bs=1M skip=${offsetMib} count=${lengthMib} 2>/dev/null | md5sum`;
  return (await run(["sh", "-c", dd])).stdout.split(" ")[0];
}

const ONE_DISK = `
disk=/sys/block/vda
say disks $(ls /sys/block)
say serial $(cat $disk/serial)
say size $(cat $disk/size)
say cache $(cat $disk/queue/write_cache)
say queues $(ls $disk/mq | wc -l)
say sectors $(cat $disk/queue/logical_block_size) $(cat $disk/queue/physical_block_size)
say discard $(cat $disk/queue/discard_max_bytes)
say first $(dd if=/dev/vda bs=512 count=1 2>/dev/null | od -An -tx1 -N2)

dd if=/dev/urandom of=/data bs=1M count=8 2>/dev/null
sum() { md5sum | cut -d' ' -f1; }
say data $(sum < /data)
# Large and direct, then small and cached, each read back past the cache.
dd if=/data of=/dev/vda bs=1M seek=40 oflag=direct conv=fsync 2>/dev/null
say direct $(dd if=/dev/vda bs=64k skip=640 count=128 iflag=direct 2>/dev/null | sum)
dd if=/data of=/dev/vda bs=512 seek=98304 conv=fsync 2>/dev/null
echo 3 > /proc/sys/vm/drop_caches
say cached $(dd if=/dev/vda bs=4k skip=12288 count=2048 2>/dev/null | sum)
# Four at a time on both processors.
for part in 0 1 2 3; do
  dd if=/data of=/dev/vda bs=16k skip=$((part*128)) seek=$((3584+part*128)) count=128 oflag=direct 2>/dev/null &
done
wait
say parallel $(dd if=/dev/vda bs=1M skip=56 count=8 iflag=direct 2>/dev/null | sum)

mke2fs -F /dev/vda 32768 >/dev/null 2>&1
mount -t ext4 /dev/vda /mnt && cp /data /mnt/file && sync -f /mnt/file 2>/dev/null || sync
umount /mnt && echo 3 > /proc/sys/vm/drop_caches
mount -t ext4 /dev/vda /mnt && say file $(sum < /mnt/file)
rm /mnt/file && umount /mnt
say errors $(dmesg | grep -ci 'i/o error')
`;

for (const args of [[], ["--direct"], ["--threads", "2"], ["--cache", "writethrough"]]) {
  Deno.test(`guest: a disk is found, read, written, formatted, mounted (${args.join(" ")})`, async () => {
    const folder = newFolder(), socket = `${folder}/s`, disk = `${folder}/disk`;
    makeDisk(disk, 64 * MIB, 0x5a);
    const options = ["--socket", socket, "--num-queues", "4", "--serial", "guest-1"];
    await using command = new VhostCommand([...args, ...options, disk], SECONDS_MAX);
    const { pid } = await command.next();
    const lines = await runMachine({
      disks: [{ socket, numQueues: 4 }],
      script: ONE_DISK,
      folder,
    });
    const { data, discard, sectors, ...said } = byWord(lines);
    assertEquals(said, {
      ...{ disks: "vda", serial: "guest-1", size: `${64 * 2048}`, queues: "4", first: "5a 5a" },
      cache: args.includes("writethrough") ? "write through" : "write back",
      ...{ direct: data, cached: data, parallel: data, file: data, errors: "0" },
    });
    assert(Number(discard) > 0 && sectors.startsWith("512 "), `${discard}, ${sectors}`);
    for (const at of [40, 48, 56]) assertEquals(await md5(disk, at, 8), data);
    Deno.kill(pid, "SIGTERM");
    const { devices: [report] } = await command.next();
    assertEquals(report.connections >= 1, true);
    assert(report.requests > 500, `${report.requests} requests`);
    assertEquals((await command.end()).code, 0);
  });
}

const MANY_DISKS = `
sum() { md5sum | cut -d' ' -f1; }
for disk in /sys/block/vd*; do
  name=\${disk##*/}
  say disk $name $(cat $disk/serial) $(ls $disk/mq | wc -l) $(dd if=/dev/$name bs=512 skip=8 count=1 iflag=direct 2>/dev/null | od -An -tu1 -N1)
  cat $disk/serial | dd of=/dev/$name bs=512 seek=16 conv=fsync 2>/dev/null &
done
wait
say errors $(dmesg | grep -ci 'i/o error')
`;

Deno.test("guest: 24 disks of 32 queues and one of one queue, all served by one process", async () => {
  const folder = newFolder();
  const disks = Array.from({ length: 25 }, (_, index) => ({
    socket: `${folder}/s${index}`,
    file: `${folder}/disk${index}`,
    serial: `guest-${index}`,
    numQueues: index === 24 ? 1 : 32,
  }));
  for (const [index, { file }] of disks.entries()) makeDisk(file, 16 * MIB, 100 + index);
  const devices = disks.map(({ numQueues, ...disk }) => ({ ...disk, "num-queues": numQueues }));
  Deno.writeTextFileSync(`${folder}/config`, JSON.stringify({ devices }));
  await using command = new VhostCommand(["--config", `${folder}/config`], SECONDS_MAX);
  const { pid } = await command.next();
  const lines = await runMachine({ disks, script: MANY_DISKS, folder });
  const found = lines.filter((line) => line.startsWith("disk "))
    .map((line) => line.replace(/^disk vd[a-z] /, "").replace(/ +/g, " "));
  assertEquals(
    found.sort(),
    disks.map(({ serial, numQueues }, index) => `${serial} ${numQueues} ${100 + index}`).sort(),
  );
  assertEquals(lines.at(-1), "errors 0");
  for (const { file, serial } of disks) {
    const bytes = Deno.readFileSync(file).subarray(16 * 512, 16 * 512 + serial.length);
    assertEquals(new TextDecoder().decode(bytes), serial);
  }
  Deno.kill(pid, "SIGTERM");
  const { devices: reports } = await command.next();
  assert(reports.every(({ requests }: { requests: number }) => requests > 1));
});

/** Sector that the host tells the guest by, which has the rest of the first 8 MiB. */
const STOP_SECTOR = 16_384;

const UNTIL_STOPPED = `
sum() { md5sum | cut -d' ' -f1; }
rounds=0 bad=0
until [ "$(dd if=/dev/vda bs=512 skip=${STOP_SECTOR} count=1 iflag=direct 2>/dev/null | head -c 4)" = stop ]; do
  dd if=/dev/urandom of=/data bs=1M count=4 2>/dev/null
  dd if=/dev/vda of=/dev/null bs=4k skip=2048 count=500 iflag=direct 2>/dev/null &
  dd if=/data of=/dev/vda bs=16k conv=fsync 2>/dev/null
  wait
  echo 3 > /proc/sys/vm/drop_caches
  [ "$(sum < /data)" = "$(dd if=/dev/vda bs=16k count=256 2>/dev/null | sum)" ] || bad=$((bad+1))
  rounds=$((rounds+1))
done
say rounds $rounds
say bad $bad
say errors $(dmesg | grep -ci 'i/o error')
`;

Deno.test("guest: nothing is lost when the back end is killed and started again", async () => {
  const folder = newFolder(), socket = `${folder}/s`, disk = `${folder}/disk`;
  makeDisk(disk, 64 * MIB, 0);
  const args = ["--socket", socket, "--num-queues", "2", disk];
  let command = new VhostCommand(args, SECONDS_MAX);
  try {
    let { pid } = await command.next();
    const machine = runMachine({
      disks: [{ socket, numQueues: 2 }],
      script: UNTIL_STOPPED,
      folder,
    });
    for (let kills = 0; kills < 3; kills++) {
      await servesRequests(command, pid, 1000);
      Deno.kill(pid, "SIGKILL");
      await command.end();
      command = new VhostCommand(args, SECONDS_MAX);
      ({ pid } = await command.next());
    }
    await servesRequests(command, pid, 1000);
    using file = Deno.openSync(disk, { write: true });
    file.seekSync(STOP_SECTOR * 512, Deno.SeekMode.Start);
    file.writeSync(new TextEncoder().encode("stop"));
    const { rounds, ...said } = byWord(await machine);
    assert(Number(rounds) > 0);
    assertEquals(said, { bad: "0", errors: "0" });
    Deno.kill(pid, "SIGTERM");
    while ((await command.next()).event !== "ended");
    assertEquals((await command.end()).code, 0);
  } finally {
    await command[Symbol.asyncDispose]();
  }
});

/** Waits until so many requests were served. */
async function servesRequests(command: VhostCommand, pid: number, count: number): Promise<void> {
  for (;;) {
    Deno.kill(pid, "SIGUSR1");
    const { devices: [{ requests }] } = await command.next();
    if (requests >= count) return;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
