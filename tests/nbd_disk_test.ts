/**
 * Disks with something on them over the command `nbd`: a filesystem that is checked and read by its
 * own programs after it has gone through an export, and a disk of the system behind an export.
 */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { newFolder, run } from "./child.ts";
import { eachFdmon } from "./each_fdmon.ts";
import {
  allocatedBytes,
  assertSameFile,
  client,
  libnbd,
  MIB,
  NbdProgram,
  newFull,
  newSparse,
} from "./nbd_program.ts";
import { newPath, pattern } from "./test_files.ts";

// Whole paths, as not every user has these folders in PATH.
const MKE2FS = "/usr/sbin/mke2fs", E2FSCK = "/usr/sbin/e2fsck", DEBUGFS = "/usr/sbin/debugfs";
const LOSETUP = "/usr/sbin/losetup";

eachFdmon("nbd: a filesystem copied in and out is whole, and has its files", async (_, fdmon) => {
  const size = 16 * MIB, folder = newFolder(), image = newPath(), out = newPath();
  for (let number = 0; number < 20; number++) {
    await Deno.writeFile(`${folder}/file${number}`, pattern(number * 10_000 + 1, number));
  }
  await client(MKE2FS, "-q", "-F", "-t", "ext4", "-d", folder, image, "16M");
  const target = await newFull(size);
  await using server = await NbdProgram.start(fdmon, target);
  await client("nbdcopy", "--flush", image, server.uri());
  await client(E2FSCK, "-fn", target);
  // What e2fsck mends in its journal it writes to the file beneath, which clients then see.
  await client("nbdcopy", server.uri(), out);
  await assertSameFile(out, image);
  assert(await allocatedBytes(out) < size / 2);
  await client(E2FSCK, "-fn", out);
  const dumped = newPath();
  await client(DEBUGFS, "-R", `dump /file19 ${dumped}`, out);
  await assertSameFile(dumped, `${folder}/file19`);
}, ["io_uring", "epoll"]);

/** Makes a disk of a file; a reason where that is not possible. */
async function loopDevice(path: string): Promise<{ device: string } | { refused: string }> {
  const { code, stdout, stderr } = await run([LOSETUP, "-f", "--show", path]);
  if (code !== 0) return { refused: stderr.trim() };
  return { device: stdout.trim() };
}

async function whyRefused(): Promise<string | undefined> {
  const made = await loopDevice(await newSparse(MIB));
  if ("refused" in made) return made.refused;
  await run([LOSETUP, "-d", made.device]);
}

const refused = await whyRefused();

/** Registers a test with a disk of the system, whose contents are in a file. */
function testWithDisk(name: string, fn: (disk: string, path: string) => Promise<void>): void {
  Deno.test({
    name: refused === undefined ? name : `${name} (skipped: ${refused})`,
    ignore: refused !== undefined,
    fn: async () => {
      const path = await newSparse(16 * MIB);
      const made = await loopDevice(path);
      assert("device" in made);
      try {
        await fn(made.device, path);
      } finally {
        await client(LOSETUP, "-d", made.device);
      }
    },
  });
}

for (const options of [[], ["--direct"]]) {
  testWithDisk(
    `nbd: serves a disk of the system ${options.join(" ")}`.trim(),
    async (disk, path) => {
      const source = await newFull(16 * MIB), out = newPath();
      {
        await using server = await NbdProgram.start("io_uring", ...options, disk);
        const info = JSON.parse(await client("nbdinfo", "--json", server.uri())).exports[0];
        assertEquals([info["export-size"], info.is_read_only], [16 * MIB, false]);
        assertEquals(info.block_size_minimum > 1, options.length === 1);
        await client("nbdcopy", "--flush", source, server.uri());
        await client("nbdcopy", server.uri(), out);
        await assertSameFile(out, source);
        const commands = ["write -f -P 7 1M 64k", "write -z 2M 1M", "discard 8M 1M", "flush"];
        const words = [...commands, "read -P 7 1M 64k", "read -P 0 2M 1M"];
        await client("qemu-io", "-f", "raw", ...words.flatMap((one) => ["-c", one]), server.uri());
        await libnbd(
          `
h = connect()
fails("ENOSPC", h.pwrite, bytearray(4096), h.get_size())
fails("EINVAL", h.pread, 4096, h.get_size())
h.shutdown()
`,
          server.uri(),
        );
        assertMatch(await client("nbdinfo", "--map", server.uri()), /data/);
      }
      const bytes = await Deno.readFile(path);
      assertEquals([bytes[MIB], bytes[2 * MIB], bytes[4 * MIB]], [
        7,
        0,
        pattern(4 * MIB + 1)[4 * MIB],
      ]);
    },
  );
}
