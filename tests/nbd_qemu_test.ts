/**
 * The command `nbd` as qemu sees it: its images are copied in and out, compared and mapped, and its
 * program for single requests checks the patterns that it has written.
 */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { eachFdmon, onIoUring } from "./each_fdmon.ts";
import {
  allocatedBytes,
  assertSameBytes,
  assertSameFile,
  client,
  KIB,
  MIB,
  NbdProgram,
  newFull,
  newSparse,
} from "./nbd_program.ts";
import { newPath, pattern } from "./test_files.ts";

const SIZE = 8 * MIB;

/** With data at both ends and in the middle. */
async function newDisk(): Promise<string> {
  const path = await newSparse(SIZE);
  using file = await Deno.open(path, { write: true });
  for (const [at, length] of [[0, MIB], [3 * MIB, 128 * KIB], [SIZE - 64 * KIB, 64 * KIB]]) {
    await file.seek(at, Deno.SeekMode.Start);
    await file.write(pattern(length, at));
  }
  await file.syncData();
  return path;
}

const image = (command: string, ...words: string[]) => client("qemu-img", command, ...words);

onIoUring("qemu-img: finds the same size and map over NBD as in the file", async () => {
  const path = await newDisk();
  await using server = await NbdProgram.start("io_uring", path);
  const info = JSON.parse(await image("info", "-f", "raw", "--output=json", server.uri()));
  assertEquals([info["virtual-size"], info.format], [SIZE, "raw"]);
  const mapOf = async (what: string) => {
    const parts = JSON.parse(await image("map", "-f", "raw", "--output=json", what));
    return parts.map(({ start, length, data, zero }: Record<string, unknown>) => [
      ...[start, length, data, zero],
    ]);
  };
  const map = await mapOf(path);
  assertEquals(map.length, 5);
  assertEquals(await mapOf(server.uri()), map);
});

eachFdmon("qemu-img: converts raw and qcow2 images in and out", async (_, fdmon) => {
  const path = await newDisk(), target = await newFull(SIZE, 7);
  const out = newPath(), qcow2 = newPath();
  await using server = await NbdProgram.start(
    fdmon,
    ...["--export", `name=disk,file=${path}`, "--export", `name=target,file=${target}`],
  );
  const disk = server.uri("disk"), into = server.uri("target");
  const compare = (one: string, other: string, format = "raw") =>
    image("compare", "-f", format, "-F", "raw", one, other);
  // Out of it, with 8 requests at a time in any order.
  await image("convert", "-m", "8", "-W", "-f", "raw", "-O", "raw", disk, out);
  await assertSameFile(out, path);
  assert(await allocatedBytes(out) < 2 * MIB);
  await image("convert", "-c", "-f", "raw", "-O", "qcow2", disk, qcow2);
  await compare(qcow2, disk, "qcow2");
  // Into it, over what was there.
  await image("convert", "-n", "-m", "8", "-W", "-f", "qcow2", "-O", "raw", qcow2, into);
  await assertSameFile(target, path);
  await compare(into, disk);
  // A difference is one.
  await using changed = await NbdProgram.start(fdmon, await newFull(SIZE, 9));
  const differs = `qemu-img compare -f raw -F raw "$0" "$1"; test $? = 1`;
  assertMatch(await client("sh", "-c", differs, disk, changed.uri()), /mismatch/);
}, ["io_uring", "epoll"]);

onIoUring("qemu-img: an export holds a qcow2 image, with a snapshot", async () => {
  const path = await newDisk(), target = await newSparse(2 * SIZE), out = newPath();
  await using server = await NbdProgram.start("io_uring", target);
  await image("convert", "-n", "-f", "raw", "-O", "raw", path, server.uri());
  await image("create", "-f", "qcow2", server.uri(), `${SIZE}`);
  await image("convert", "-n", "-f", "raw", "-O", "qcow2", path, server.uri());
  await image("snapshot", "-c", "before", server.uri());
  await client("qemu-io", "-f", "qcow2", "-c", "write -P 0x5a 1M 1M", server.uri());
  await image("check", "-f", "qcow2", server.uri());
  await image("convert", "-l", "before", "-f", "qcow2", "-O", "raw", server.uri(), out);
  await assertSameFile(out, path);
  // The image is whole in the file, also without us.
  await client("qemu-io", "-f", "qcow2", "-c", "read -P 0x5a 1M 1M", target);
});

/** Runs commands of qemu-io; it fails where a pattern is not found. */
async function qemuIo(uri: string, commands: readonly string[], ...options: string[]) {
  const words = commands.flatMap((command) => ["-c", command]);
  const said = await client("qemu-io", "-f", "raw", ...options, ...words, uri);
  assert(!/fail|error|invalid/i.test(said), said);
  return said;
}

eachFdmon("qemu-io: patterns are found where they were written", async (_, fdmon) => {
  const path = await newSparse(SIZE);
  await using server = await NbdProgram.start(fdmon, path);
  await qemuIo(server.uri(), [
    ...["write -P 0x11 0 64k", "write -f -P 0x22 64k 64k", "write -P 0x33 1M 1M"],
    ...["writev -P 0x44 2M 4k 8k 512 64k", "write -P 0x55 3000001 12345"],
    ...["read -P 0x11 0 64k", "read -P 0x22 64k 64k", "readv -P 0x44 2M 4k 8k 512 64k"],
    ...["read -P 0x55 3000001 12345", "read -P 0x33 1500k 100k"],
    // Zeros: as they come, with space kept, freed, and past a cache.
    ...["write -z 1M 256k", "write -z -u 1280k 256k", "write -z -f 1536k 128k"],
    ...["read -P 0 1M 640k", "read -P 0x33 1664k 384k"],
    ...["discard 1664k 128k", "read -P 0 1664k 128k", "read -P 0x33 1792k 256k", "flush"],
  ]);
  const bytes = await Deno.readFile(path);
  assertEquals([bytes[0], bytes[64 * KIB], bytes[3_000_001]], [0x11, 0x22, 0x55]);
  assertEquals([bytes[MIB], bytes[1664 * KIB], bytes[1792 * KIB]], [0, 0, 0x33]);
  // Many at a time.
  const at = Array.from({ length: 64 }, (_, index) => index);
  await qemuIo(server.uri(), [
    ...at.map((index) => `aio_write -P ${index + 1} ${4 * MIB + index * 64 * KIB} 64k`),
    "aio_flush",
    ...at.map((index) => `aio_read -P ${index + 1} ${4 * MIB + index * 64 * KIB} 64k`),
    "aio_flush",
  ]);
});

onIoUring("qemu-io: says what is wrong, and that nothing can be written", async () => {
  const path = await newFull(SIZE);
  await using server = await NbdProgram.start("io_uring", "--read-only", path);
  const fails = `qemu-io -f raw "$@" -c "write 0 4k" "$0" 2>&1; test $? != 0`;
  const said = await client("sh", "-c", fails, server.uri());
  assertMatch(said, /permission denied/i);
  await qemuIo(server.uri(), ["read 0 4k"], "-r");
  await using writable = await NbdProgram.start("io_uring", await newSparse(MIB));
  const beyond = `qemu-io -f raw -c "write 1M 4k" "$0" 2>&1; test $? != 0`;
  assertMatch(await client("sh", "-c", beyond, writable.uri()), /space|input\/output|invalid/i);
  await qemuIo(writable.uri(), ["write -P 3 0 4k", "read -P 3 0 4k"]);
});

onIoUring("qemu-io: all that goes past the page cache too", async () => {
  const path = await newSparse(SIZE);
  await using server = await NbdProgram.start("io_uring", "--direct", path);
  await qemuIo(server.uri(), [
    ...["write -P 0x11 0 64k", "write -f -P 0x22 1M 1M", "write -z 1M 64k", "discard 1152k 64k"],
    // Not of whole blocks: qemu reads and writes those for itself.
    ...["write -P 0x44 100 1000", "read -P 0x44 100 1000", "read -P 0x11 0 100"],
    ...["read -P 0 1M 64k", "read -P 0x22 1088k 64k", "flush"],
  ]);
});

onIoUring("qemu-img bench: writes at depth 32 with flushes among them", async () => {
  const path = await newSparse(SIZE), count = 2000, bytes = 4096;
  await using server = await NbdProgram.start("io_uring", path);
  const words = ["-w", "-c", `${count}`, "-d", "32", "-s", `${bytes}`, "--flush-interval=100"];
  await image("bench", "-f", "raw", ...words, "--pattern=90", server.uri());
  assertSameBytes(await Deno.readFile(path), new Uint8Array(SIZE).fill(90, 0, count * bytes));
});
