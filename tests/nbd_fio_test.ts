/**
 * The command `nbd` under fio, which checks what it reads by checksums it has written, and behind
 * nbdkit, whose plugin is a client for other clients.
 */
import { assertEquals, assertMatch } from "@std/assert";
import type { FdmonName } from "../mod.ts";
import { FOLDER } from "./child.ts";
import { eachFdmon, onIoUring } from "./each_fdmon.ts";
import {
  assertSameBytes,
  assertSameFile,
  client,
  libnbd,
  MIB,
  NbdProgram,
  newFull,
  newSparse,
} from "./nbd_program.ts";
import { newPath, pattern } from "./test_files.ts";

/** With AIO_SOAK this many times as much. */
const SOAK = Number(Deno.env.get("AIO_SOAK") || "1");

/** Random reads and writes by several jobs at depth 32, each in a part of its own, all verified. */
async function verify(uri: string, options: readonly string[] = []): Promise<void> {
  const jobMiB = 4 * SOAK;
  const said = await client(
    ...["fio", "--name=verify", "--ioengine=nbd", `--uri=${uri}`, "--rw=randrw", "--bs=4k"],
    ...[`--size=${jobMiB}m`, `--offset_increment=${jobMiB}m`, "--numjobs=2", "--iodepth=32"],
    ...["--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--verify_state_save=0"],
    ...["--randrepeat=0", "--group_reporting", "--output-format=json", `--aux-path=${FOLDER}`],
    ...options,
  );
  const { jobs: [{ error, read, write }] } = JSON.parse(said.slice(said.indexOf("{")));
  assertEquals([error, read.total_ios > 0, write.total_ios > 0], [0, true, true]);
}

const LOADS: Readonly<Record<string, { server: string[]; fio: string[]; fdmons: FdmonName[] }>> = {
  "through the page cache": { server: [], fio: [], fdmons: ["io_uring", "epoll", "poll"] },
  "past the page cache": { server: ["--direct"], fio: [], fdmons: ["io_uring"] },
  "of all sizes, with flushes": {
    server: [],
    fio: ["--bsrange=512-128k", "--bs_unaligned=0", "--fsync=32"],
    fdmons: ["io_uring"],
  },
};

for (const [what, { server: options, fio, fdmons }] of Object.entries(LOADS)) {
  eachFdmon(`fio: verifies what two jobs have written at depth 32, ${what}`, async (_, fdmon) => {
    const path = await newSparse(2 * 4 * SOAK * MIB);
    await using server = await NbdProgram.start(fdmon, ...options, path);
    await verify(server.uri(), fio);
  }, fdmons);
}

/** nbdkit as a client of the server, with filters between. */
function startNbdkit(
  server: NbdProgram,
  filters: readonly string[],
  ...values: readonly string[]
): Promise<NbdProgram> {
  return NbdProgram.startProgram((socketPath) => [
    ...["nbdkit", "-f", "-U", socketPath, ...filters.map((name) => `--filter=${name}`)],
    ...["nbd", `uri=${server.uri()}`, ...values],
  ]);
}

onIoUring("nbdkit: copies through its plugin, and counts", async () => {
  const size = 8 * MIB, source = await newFull(size), target = await newSparse(size);
  const statistics = newPath(), out = newPath();
  await using server = await NbdProgram.start("io_uring", target);
  {
    await using kit = await startNbdkit(server, ["stats"], `statsfile=${statistics}`);
    await client("nbdcopy", "--flush", source, kit.uri());
    await client("nbdcopy", kit.uri(), out);
    await verify(kit.uri(), ["--size=1m", "--offset_increment=1m"]);
  }
  await assertSameFile(out, source);
  const said = await Deno.readTextFile(statistics);
  for (const command of ["read", "write", "flush", "extents"]) {
    assertMatch(said, new RegExp(`^${command}: \\d+ ops`, "m"), said);
  }
  assertSameBytes((await Deno.readFile(target)).subarray(2 * MIB), pattern(size).subarray(2 * MIB));
});

onIoUring("nbdkit: requests that are late, and failures between, do no harm", async () => {
  const size = 4 * MIB, source = await newFull(size), target = await newSparse(size);
  await using server = await NbdProgram.start("io_uring", target);
  await using kit = await startNbdkit(
    server,
    ["error", "delay"],
    ...["error-pread-rate=20%", "error-pwrite-rate=20%", "delay-read=1ms", "delay-write=1ms"],
  );
  await libnbd(
    `
h, failures, BLOCK = connect(), 0, 32768
def persist(call, *rest):
    global failures
    while True:
        try:
            return call(*rest)
        except nbd.Error as error:
            same(error.errno, "EIO")
            failures += 1
data = bytearray(open(args[0], "rb").read())
for at in range(0, len(data), BLOCK):
    persist(h.pwrite, data[at:at + BLOCK], at)
h.flush()
for at in range(0, len(data), BLOCK):
    same(persist(h.pread, BLOCK, at) == data[at:at + BLOCK], True, "block at %d" % at)
same(failures > 0, True, "failures")
h.shutdown()
`,
    kit.uri(),
    source,
  );
  await assertSameFile(target, source);
});

onIoUring("nbdkit: what is written to an overlay does not get here", async () => {
  const size = 4 * MIB, path = await newFull(size);
  await using server = await NbdProgram.start("io_uring", path);
  await using kit = await startNbdkit(server, ["cow"]);
  await libnbd(
    `
h = connect()
before = h.pread(${MIB}, ${MIB})
h.pwrite(bytearray(b"x" * 5000), ${MIB})
h.flush()
same(h.pread(5000, ${MIB}), b"x" * 5000)
same(h.pread(${MIB} - 5000, ${MIB} + 5000) == before[5000:], True, "the rest")
h.shutdown()
direct = connect(to=args[0])
same(direct.pread(${MIB}, ${MIB}) == before, True, "what is beneath")
direct.shutdown()
`,
    kit.uri(),
    server.uri(),
  );
  assertSameBytes(await Deno.readFile(path), pattern(size));
});
