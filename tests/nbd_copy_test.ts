/**
 * The command `nbd` as libnbd's programs see it: nbdinfo, which tells what there is, and nbdcopy.
 */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { eachFdmon } from "./each_fdmon.ts";
import {
  allocatedBytes,
  assertSameFile,
  client,
  KIB,
  MIB,
  NbdProgram,
  newFull,
  newSparse,
} from "./nbd_program.ts";
import { newPath, pattern } from "./test_files.ts";

/** One with data here and there: a map of it has six parts. */
async function newWithHoles(size: number): Promise<string> {
  const path = await newSparse(size);
  using file = await Deno.open(path, { write: true });
  for (const [at, length] of [[0, 64 * KIB], [MIB, 256 * KIB], [4 * MIB, MIB]]) {
    await file.seek(at, Deno.SeekMode.Start);
    await file.write(pattern(length, at));
  }
  await file.syncData();
  return path;
}

eachFdmon("nbdinfo: says of an export what the options have said", async (_, fdmon) => {
  const path = await newFull(100_000);
  const infoOf = async (...options: string[]) => {
    await using server = await NbdProgram.start(fdmon, ...options, path);
    const { exports: [info], protocol, structured } = JSON.parse(
      await client("nbdinfo", "--json", server.uri()),
    );
    assertEquals([protocol, structured], ["newstyle-fixed", true]);
    assertEquals(await client("nbdinfo", "--size", server.uri()), `${info["export-size"]}\n`);
    delete info.uri;
    // What the disk is like is for others to say.
    assert(typeof info.is_rotational === "boolean");
    delete info.is_rotational;
    return info;
  };
  const writable = { is_read_only: false, can_trim: true, can_zero: true, can_fast_zero: true };
  const always = { can_cache: true, can_df: true, can_flush: true, can_fua: true };
  const usual = {
    "export-name": path.slice(path.lastIndexOf("/") + 1),
    content: "data",
    contexts: ["base:allocation"],
    ...always,
    can_multi_conn: true,
    ...writable,
    ...{ block_size_minimum: 1, block_size_preferred: 4096, block_size_maximum: 32 * MIB },
    ...{ "export-size": 100_000, "export-size-str": "100000" },
  };
  assertEquals(await infoOf(), usual);
  assertEquals(await infoOf("--read-only"), {
    ...usual,
    ...{ is_read_only: true, can_trim: false, can_zero: false, can_fast_zero: false },
  });
  const direct = await infoOf("--direct");
  const block = direct.block_size_minimum;
  assert([512, 4096].includes(block));
  assertEquals(direct, {
    ...usual,
    block_size_minimum: block,
    "export-size": Math.floor(100_000 / block) * block,
    "export-size-str": direct["export-size-str"],
  });
}, ["io_uring"]);

eachFdmon("nbdinfo: lists exports with their descriptions", async (_, fdmon) => {
  const [one, two] = [await newFull(10_000), await newFull(20_000)];
  await using server = await NbdProgram.start(
    fdmon,
    ...["--export", `name=one,file=${one},description=The first`],
    ...["--export", `name=zw\u00f6lf / 12,file=${two},description=Und Gr\u00f6\u00dfe,read-only`],
  );
  const listed = JSON.parse(await client("nbdinfo", "--list", "--json", server.uri()));
  assertEquals(
    listed.exports.map((one: Record<string, unknown>) => [
      ...[one["export-name"], one.description, one["export-size"], one.is_read_only],
    ]),
    [["one", "The first", 10_000, false], ["zw\u00f6lf / 12", "Und Gr\u00f6\u00dfe", 20_000, true]],
  );
  // Who asks for no name gets the first.
  assertEquals(await client("nbdinfo", "--size", server.uri()), "10000\n");
  assertEquals(await client("nbdinfo", "--size", server.uri("zw\u00f6lf / 12")), "20000\n");
  // One that there is not is an error, and no more than that.
  const three = await client("sh", "-c", 'nbdinfo "$0" 2>&1 || echo refused', server.uri("three"));
  assertStringIncludes(three, "refused");
  assertEquals(await client("nbdinfo", "--size", server.uri("one")), "10000\n");
}, ["io_uring"]);

eachFdmon("nbdinfo: maps data and holes as they are in the file", async (_, fdmon) => {
  const path = await newWithHoles(8 * MIB);
  await using server = await NbdProgram.start(fdmon, path);
  const map = JSON.parse(await client("nbdinfo", "--map", "--json", server.uri()));
  const hole = { type: 3, description: "hole,zero" }, data = { type: 0, description: "data" };
  assertEquals(map, [
    { offset: 0, length: 64 * KIB, ...data },
    { offset: 64 * KIB, length: MIB - 64 * KIB, ...hole },
    { offset: MIB, length: 256 * KIB, ...data },
    { offset: MIB + 256 * KIB, length: 3 * MIB - 256 * KIB, ...hole },
    { offset: 4 * MIB, length: MIB, ...data },
    { offset: 5 * MIB, length: 3 * MIB, ...hole },
  ]);
});

eachFdmon("nbdcopy: copies out and in with several connections", async (_, fdmon) => {
  // No whole number of blocks of any kind.
  const size = 12 * MIB + 12_345;
  const source = await newFull(size), target = await newSparse(size), out = newPath();
  await using server = await NbdProgram.start(
    fdmon,
    "--export",
    `name=source,file=${source}`,
    target,
  );
  const many = ["--connections=4", "--threads=2", "--requests=16"];
  await client("nbdcopy", ...many, server.uri("source"), out);
  await assertSameFile(out, source);
  const name = target.slice(target.lastIndexOf("/") + 1);
  await client("nbdcopy", ...many, "--flush", source, server.uri(name));
  await assertSameFile(target, source);
}, ["io_uring", "epoll"]);

eachFdmon("nbdcopy: holes stay holes, out and in", async (_, fdmon) => {
  const size = 16 * MIB, sparse = await newWithHoles(size), full = await newFull(size);
  const out = newPath();
  await using server = await NbdProgram.start(
    fdmon,
    ...["--export", `name=sparse,file=${sparse}`, "--export", `name=full,file=${full}`],
  );
  // Without looking for zeros by itself.
  await client("nbdcopy", "--sparse=0", server.uri("sparse"), out);
  await assertSameFile(out, sparse);
  assert(await allocatedBytes(out) < 2 * MIB);
  // What was data there is not any more.
  await client("nbdcopy", "--sparse=0", "--flush", sparse, server.uri("full"));
  await assertSameFile(full, sparse);
  assert(await allocatedBytes(full) < 2 * MIB);
}, ["io_uring"]);
