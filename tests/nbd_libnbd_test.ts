/**
 * The command `nbd` under programs that use libnbd, whose module for python can say what
 * well-behaved clients never would.
 */
import type { FdmonName } from "../mod.ts";
import { eachFdmon } from "./each_fdmon.ts";
import { assertSameBytes, libnbd, MIB, NbdProgram, newFull, newSparse } from "./nbd_program.ts";
import { pattern } from "./test_files.ts";

/** Takes the path of the file, "structured" or "simple", and "discard" where space is freed. */
const COMMANDS = `
path, form = args
h = connect(form == "structured")
size, KIB, MIB = h.get_size(), 1024, 1024 ** 2
fd = os.open(path, os.O_RDONLY)
in_file = lambda count, offset: os.pread(fd, count, offset)
# In MiB, as the filesystem may take a block more or less for itself.
allocated = lambda: round(os.fstat(fd).st_blocks * 512 / MIB)
same(size, os.fstat(fd).st_size, "size")
for can in ["flush", "fua", "trim", "zero", "fast_zero", "cache", "multi_conn"]:
    same(getattr(h, "can_" + can)(), True, can)
same(h.can_df(), form == "structured", "df")

# WRITE and READ, aligned or not, with and without flags, up to the longest there may be.
data = bytearray(os.urandom(32 * MIB))
for count, offset, flags in [(64 * KIB, 0, 0), (1, 4095, 0), (3, 70000, nbd.CMD_FLAG_FUA),
                             (12345, 100001, 0), (len(data), 512, nbd.CMD_FLAG_FUA), (1, size - 1, 0)]:
    h.pwrite(data[:count], offset, flags)
    same(in_file(count, offset) == data[:count], True, "written %d at %d" % (count, offset))
    same(h.pread(count, offset) == data[:count], True, "read")
    if form == "structured":
        same(h.pread(count, offset, nbd.CMD_FLAG_DF) == data[:count], True, "read with DF")
h.flush()
before = in_file(MIB, 0)
h.cache(MIB, 0)
same(in_file(MIB, 0) == before, True, "cache changes nothing")

# TRIM and WRITE_ZEROES: zeros, with or without space.
before = allocated()
h.trim(4 * MIB, 4 * MIB, nbd.CMD_FLAG_FUA)
same(before - allocated(), 4, "MiB that trim frees")
h.zero(4 * MIB, 8 * MIB)
same(before - allocated(), 8, "MiB that zero frees")
h.zero(4 * MIB, 12 * MIB, nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_FUA)
same(before - allocated(), 12, "MiB that fast zero frees")
same(h.pread(12 * MIB, 4 * MIB) == bytes(12 * MIB), True, "zeros")
h.zero(4 * MIB, 24 * MIB, nbd.CMD_FLAG_NO_HOLE)
same(before - allocated(), 12, "MiB freed as before with NO_HOLE")
same(h.pread(4 * MIB, 24 * MIB) == bytes(4 * MIB), True, "zeros without a hole")
h.zero(5, 20 * MIB + 1)
same(h.pread(7, 20 * MIB), in_file(1, 20 * MIB) + bytes(5) + in_file(1, 20 * MIB + 6), "few zeros")

if form == "simple":
    same(h.can_meta_context(nbd.CONTEXT_BASE_ALLOCATION), False, "contexts")
    fails("EINVAL", h.block_status, MIB, 0, lambda *_: 0)
    sys.exit(0)

# READ in parts: holes are told and not sent.
HOLE = nbd.STATE_HOLE | nbd.STATE_ZERO
def read(flags=0):
    parts = []
    note = lambda part, offset, kind, error: parts.append((offset, len(part), kind))
    same(h.pread_structured(4 * MIB, 2 * MIB, note, flags) == in_file(4 * MIB, 2 * MIB), True, "data")
    return parts
same(read(), [(2 * MIB, 2 * MIB, nbd.READ_DATA), (4 * MIB, 2 * MIB, nbd.READ_HOLE)], "parts")
same(read(nbd.CMD_FLAG_DF), [(2 * MIB, 4 * MIB, nbd.READ_DATA)], "one part with DF")

# BLOCK_STATUS.
def status(count, offset, flags=0):
    found = []
    note = lambda context, at, entries, error: found.append((context, at, entries))
    h.block_status(count, offset, note, flags)
    same([(context, at) for context, at, _ in found], [("base:allocation", offset)], "context")
    return found[0][2]
same(status(20 * MIB, 0), [4 * MIB, 0, 12 * MIB, HOLE, 4 * MIB, 0], "extents")
same(status(20 * MIB, 0, nbd.CMD_FLAG_REQ_ONE), [4 * MIB, 0], "one extent")
same(status(MIB, 9 * MIB), [MIB, HOLE], "within a hole")
same(status(1, size - 1), [1, 0], "last byte")
h.shutdown()
`;

/** Everything that is refused, after which the connection is as good as before. */
const ERRORS = `
form, = args
h = connect(form == "structured")
size, MIB, MAX = h.get_size(), 1024 ** 2, 32 * 1024 ** 2
# Past the end, or across it: ENOSPC for what would write data there.
for count, offset in [(1, size), (2, size - 1), (4096, size + 4096), (4096, 2 ** 63), (4096, 2 ** 64 - 4096)]:
    fails("ENOSPC", h.pwrite, bytearray(count), offset)
    fails("ENOSPC", h.zero, count, offset)
    fails("EINVAL", h.trim, count, offset)
    fails("EINVAL", h.pread, count, offset)
    fails("EINVAL", h.cache, count, offset)
    if form == "structured":
        fails("EINVAL", h.block_status, count, offset, lambda *_: 0)
# Longer than the longest that clients are told of.
fails("EINVAL", h.pread, MAX + 1, 0)
fails("EINVAL", h.pwrite, bytearray(MAX + 1), 0)
h.zero(MAX + 1, 0)
h.trim(MAX + 1, 0)
# Flags that mean nothing there.
DF, NO_HOLE, FAST, ONE = nbd.CMD_FLAG_DF, nbd.CMD_FLAG_NO_HOLE, nbd.CMD_FLAG_FAST_ZERO, nbd.CMD_FLAG_REQ_ONE
for flags in [NO_HOLE, FAST, ONE, 1 << 15] + ([DF] if form == "simple" else []):
    fails("EINVAL", h.pread, 4096, 0, flags)
for flags in [NO_HOLE, FAST, ONE, DF]:
    fails("EINVAL", h.pwrite, bytearray(4096), 0, flags)
    fails("EINVAL", h.trim, 4096, 0, flags)
    fails("EINVAL", h.flush, flags)
    fails("EINVAL", h.cache, 4096, 0, flags)
for flags in [ONE, DF]:
    fails("EINVAL", h.zero, 4096, 0, flags)
if form == "structured":
    fails("EOVERFLOW", h.pread, MAX + 1, 0, DF)
    for flags in [DF, NO_HOLE, FAST]:
        fails("EINVAL", h.block_status, 4096, 0, lambda *_: 0, flags)
h.pwrite(bytearray(b"still there"), 5)
same(h.pread(11, 5), bytearray(b"still there"), "after all errors")
h.shutdown()
`;

// What is special to a backend shows with either form.
const FORMS: Readonly<Record<string, FdmonName[]>> = {
  structured: ["io_uring", "epoll", "poll"],
  simple: ["io_uring"],
};

for (const [form, fdmons] of Object.entries(FORMS)) {
  eachFdmon(
    `libnbd: each command and flag does what it says, ${form} replies`,
    async (_, fdmon) => {
      const path = await newSparse(40 * MIB);
      await using server = await NbdProgram.start(fdmon, path);
      await libnbd(COMMANDS, server.uri(), path, form);
    },
    fdmons,
  );

  eachFdmon(`libnbd: each mistake gets its error, ${form} replies`, async (_, fdmon) => {
    await using server = await NbdProgram.start(fdmon, await newSparse(40 * MIB));
    await libnbd(ERRORS, server.uri(), form);
  }, fdmons);
}

const READ_ONLY = `
for structured in [True, False]:
    h = connect(structured)
    same(h.is_read_only(), True)
    fails("EPERM", h.pwrite, bytearray(4096), 0)
    fails("EPERM", h.pwrite, bytearray(4096), 0, nbd.CMD_FLAG_FUA)
    fails("EPERM", h.zero, 4096, 0)
    fails("EPERM", h.trim, 4096, 0)
    fails("EPERM", h.pwrite, bytearray(4096), 2 ** 60)
    h.flush()
    h.cache(4096, 0)
    same(h.pread(4096, 4096), open(args[0], "rb").read()[4096:8192], "what there is")
    h.shutdown()
`;

eachFdmon("libnbd: nothing can be changed with --read-only", async (_, fdmon) => {
  const path = await newFull(100_000);
  await using server = await NbdProgram.start(fdmon, "--read-only", path);
  await libnbd(READ_ONLY, server.uri(), path);
  assertSameBytes(await Deno.readFile(path), pattern(100_000));
}, ["io_uring"]);

const UNALIGNED = `
for structured in [True, False]:
    h = connect(structured)
    block = h.get_block_size(nbd.SIZE_MINIMUM)
    same(block in [512, 4096], True, "block size")
    data = bytearray(os.urandom(4 * block))
    h.pwrite(data, 8 * block)
    for count, offset in [(block, 1), (block - 1, 0), (block + 1, 0), (1, block - 1)]:
        fails("EINVAL", h.pread, count, offset)
        fails("EINVAL", h.pwrite, bytearray(count), offset)
        fails("EINVAL", h.zero, count, offset)
        fails("EINVAL", h.trim, count, offset)
    same(h.pread(4 * block, 8 * block), data, "what was written")
    h.pwrite(data[:block], 64 * block, nbd.CMD_FLAG_FUA)
    h.zero(block, 9 * block)
    same(h.pread(3 * block, 8 * block), data[:block] + bytes(block) + data[2 * block:3 * block])
    h.shutdown()
`;

eachFdmon("libnbd: what is not of whole blocks is refused with --direct", async (_, fdmon) => {
  await using server = await NbdProgram.start(fdmon, "--direct", await newSparse(4 * MIB));
  await libnbd(UNALIGNED, server.uri());
}, ["io_uring", "epoll"]);

const NEGOTIATION = `
def begin():
    h = nbd.NBD()
    h.set_opt_mode(True)
    h.set_full_info(True)
    h.connect_uri(uri)
    return h

h = begin()
listed = []
same(h.opt_list(lambda name, description: listed.append((name, description))), 2)
same(listed, [("one", "The first"), ("two", "")])
# Names that there are not are errors, after which one may try another.
h.set_export_name("three")
fails("ENOENT", h.opt_info)
fails("ENOENT", h.opt_go)
h.set_export_name("one")
h.opt_info()
same((h.get_size(), h.get_export_description()), (10000, "The first"))
h.add_meta_context("base:")
h.add_meta_context("qemu:dirty-bitmap:none")
contexts = []
same(h.opt_list_meta_context(lambda name: contexts.append(name)), 1)
same(contexts, ["base:allocation"])
h.set_export_name("two")
h.clear_meta_contexts()
h.add_meta_context("base:allocation")
h.add_meta_context("nobody:knows")
h.opt_go()
same((h.get_size(), h.is_read_only()), (20000, True))
same((h.can_meta_context("base:allocation"), h.can_meta_context("nobody:knows")), (True, False))
same(len(h.pread(20000, 0)), 20000)
h.shutdown()

h = begin()
h.opt_abort()

# Clients of old ask by name only, and get what there is.
h = nbd.NBD()
h.set_handshake_flags(0)
h.set_request_structured_replies(False)
h.set_export_name("two")
h.connect_unix(args[0])
same((h.get_protocol(), h.get_size()), ("newstyle", 20000))
same(len(h.pread(20000, 0)), 20000)
h.shutdown()

if nbd.NBD().supports_tls():
    h = nbd.NBD()
    h.set_tls(nbd.TLS_REQUIRE)
    h.set_tls_psk_file("/dev/null")
    try:
        h.connect_unix(args[0])
    except nbd.Error:
        pass
    else:
        raise AssertionError("TLS where there is none")
`;

eachFdmon("libnbd: names, contexts and options are negotiated", async (_, fdmon) => {
  const [one, two] = [await newFull(10_000), await newFull(20_000)];
  await using server = await NbdProgram.start(
    fdmon,
    ...["--export", `name=one,file=${one},description=The first`],
    ...["--export", `name=two,file=${two},read-only`],
  );
  await libnbd(NEGOTIATION, server.uri(), server.socketPath);
}, ["io_uring"]);

const IN_FLIGHT = `
CONNECTIONS, DEPTH, BLOCK = 4, 32, 16384
handles = [connect() for _ in range(CONNECTIONS)]
buffers = {}
for number in range(CONNECTIONS * DEPTH):
    data = os.urandom(BLOCK)
    buffers[number] = (data, nbd.Buffer.from_bytearray(bytearray(data)))
done = []
def finished(number):
    def call(error):
        same(error.value if hasattr(error, "value") else error, 0, "error of %d" % number)
        done.append(number)
        return 1
    return call
def drain():
    while any(h.aio_in_flight() for h in handles):
        for h in handles:
            if h.aio_in_flight():
                h.poll(-1)
# All of the writes are in flight before anybody looks for a reply.
for number, (_, buffer) in buffers.items():
    handles[number % CONNECTIONS].aio_pwrite(buffer, number * BLOCK, finished(number))
drain()
same(sorted(done), list(buffers), "writes")
# One flushes for all, and each sees what the others have written.
handles[0].flush()
done.clear()
found = {number: nbd.Buffer(BLOCK) for number in buffers}
for number, buffer in found.items():
    handles[(number + 1) % CONNECTIONS].aio_pread(buffer, number * BLOCK, finished(number))
drain()
same(sorted(done), list(buffers), "reads")
for number, buffer in found.items():
    same(bytes(buffer.to_bytearray()) == buffers[number][0], True, "block %d" % number)
for h in handles:
    h.shutdown()
`;

eachFdmon("libnbd: 128 requests in flight on 4 connections", async (_, fdmon) => {
  await using server = await NbdProgram.start(fdmon, await newSparse(4 * MIB));
  await libnbd(IN_FLIGHT, server.uri());
});
