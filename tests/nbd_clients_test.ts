/**
 * Many clients of the command `nbd` at a time, clients that vanish, and a server that is killed.
 *
 * What has been acknowledged after FLUSH or with FUA has to be there afterwards. A kill leaves the
 * page cache alone and the power cannot be cut here, so the kernel is asked besides: of a range
 * that is on the disk no page is dirty (cachestat(2)).
 */
import { assert, assertEquals } from "@std/assert";
import { eachFdmon, onIoUring } from "./each_fdmon.ts";
import {
  assertSameBytes,
  KIB,
  libnbd,
  libnbdWords,
  MIB,
  NbdProgram,
  newSparse,
} from "./nbd_program.ts";
import { dirtyPages, testWithDirtyPages } from "./page_cache.ts";
import { Random } from "./random_values.ts";

const SEED = Number(Deno.env.get("AIO_KILL_SEED") ?? Date.now() % 1e6);
/** With AIO_SOAK this many times as much. */
const SOAK = Number(Deno.env.get("AIO_SOAK") || "1");

/** Less than a server waits for clients that do not take their replies. */
const GRACE_MS = 8000;

/** A program in the background whose lines are read as they come. */
class Background implements AsyncDisposable {
  readonly #process: Deno.ChildProcess;
  readonly #lines: ReadableStreamDefaultReader<string>;
  readonly #errors: Promise<string>;
  #rest = "";

  constructor(words: readonly string[]) {
    this.#process = new Deno.Command(words[0], {
      args: words.slice(1),
      ...{ stdin: "null", stdout: "piped", stderr: "piped" },
    }).spawn();
    this.#lines = this.#process.stdout.pipeThrough(new TextDecoderStream()).getReader();
    this.#errors = new Response(this.#process.stderr).text();
  }

  /** The next line; null at the end, where a line that was cut off is lost. */
  async line(): Promise<string | null> {
    while (!this.#rest.includes("\n")) {
      const { value, done } = await this.#lines.read();
      if (done) return null;
      this.#rest += value;
    }
    const end = this.#rest.indexOf("\n");
    const line = this.#rest.slice(0, end);
    this.#rest = this.#rest.slice(end + 1);
    return line;
  }

  /** Kills it, before which it must not have ended. */
  async killed(): Promise<void> {
    this.#process.kill("SIGKILL");
    while (await this.line() !== null);
    const { signal } = await this.#process.status;
    assertEquals(signal, "SIGKILL", await this.#errors);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#process.kill("SIGKILL");
    } catch {
      // It has ended already.
    }
    await this.#lines.cancel();
    await this.#errors;
    await this.#process.status;
  }
}

/** Writes every second block, many at a time, each with bytes of its own; then reads them. */
const EVERY_SECOND = `
first, blocks, BLOCK = int(args[0]), 256, 16384
handles = [connect(), connect()]
wanted = {at: bytes([(at + 1) % 251]) * BLOCK for at in range(first, blocks, 2)}
buffers = {at: nbd.Buffer.from_bytearray(bytearray(data)) for at, data in wanted.items()}
def drain(most):
    for h in handles:
        while h.aio_in_flight() > most:
            h.poll(-1)
for index, (at, buffer) in enumerate(buffers.items()):
    handles[index % 2].aio_pwrite(buffer, at * BLOCK, lambda error: 1)
    drain(16)
drain(0)
handles[0].flush()
for index, (at, data) in enumerate(wanted.items()):
    same(handles[index % 2].pread(BLOCK, at * BLOCK) == data, True, "block %d" % at)
for h in handles:
    h.shutdown()
`;

eachFdmon("nbd: two clients write to every second block at once", async (_, fdmon) => {
  const blocks = 256, path = await newSparse(blocks * 16 * KIB);
  await using server = await NbdProgram.start(fdmon, path);
  await Promise.all(["0", "1"].map((first) => libnbd(EVERY_SECOND, server.uri(), first)));
  const bytes = await Deno.readFile(path);
  const wanted = bytes.map((_, index) => ((index >>> 14) + 1) % 251);
  assertSameBytes(bytes, wanted);
}, ["io_uring", "epoll"]);

/** Connects again and again, and leaves in different ways at different times. */
const COME_AND_GO = `
import socket
path, times = args[0], int(args[1])
for number in range(times):
    way = number % 4
    if way == 0:
        h = connect()
        h.pread(512, 0)
        h.shutdown()
    elif way == 1:
        # Without a word, with a reply on its way.
        h = connect()
        h.aio_pread(nbd.Buffer(65536), 0)
        del h
    else:
        s = socket.socket(socket.AF_UNIX)
        s.connect(path)
        # In the middle of the greeting, or of an option.
        if way == 3:
            s.recv(18)
            s.sendall(bytes([0, 0, 0, 3]) + b"IHAVEOPT" + bytes([0, 0]))
        s.close()
`;

/** Waits until a server has let go of everything; clients may be faster. */
async function settle(server: NbdProgram, fds: number): Promise<void> {
  for (const endMs = performance.now() + 20_000; server.countFds() > fds;) {
    assert(performance.now() < endMs, `${server.countFds()} fds and not ${fds}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

eachFdmon("nbd: 1,000 clients come and go, and leave nothing behind", async (_, fdmon) => {
  const times = (fdmon === "io_uring" ? 1000 : 200) * SOAK;
  await using server = await NbdProgram.start(fdmon, await newSparse(MIB));
  const come = (times: number) => libnbd(COME_AND_GO, server.uri(), server.socketPath, `${times}`);
  // What is kept for the next ones is there after these.
  await come(300);
  const fds = server.countFds(), bytes = server.residentBytes();
  await come(times);
  await settle(server, fds);
  const grownBy = server.residentBytes() - bytes;
  assert(grownBy < 24 * MIB, `${grownBy} bytes more`);
  await libnbd("connect().shutdown()", server.uri());
});

/** Has as much in flight as a connection takes, and says so again and again. */
const BUSY = `
h = connect()
buffers = [nbd.Buffer(1 << 20) for _ in range(24)]
number = 0
while True:
    number += 1
    for at, buffer in enumerate(buffers):
        (h.aio_pwrite if (at + number) % 2 else h.aio_pread)(buffer, at << 20)
    print("busy", flush=True)
    while h.aio_in_flight() > 8:
        h.poll(-1)
`;

/** Checks what it has written, and nothing else, until it has done that often enough. */
const STEADY = `
h = connect()
at = h.get_size() - (1 << 20)
for number in range(int(args[0])):
    data = bytearray(os.urandom(4096))
    h.pwrite(data, at + number % 256 * 4096, nbd.CMD_FLAG_FUA if number % 8 == 0 else 0)
    same(h.pread(4096, at + number % 256 * 4096) == data, True, "round %d" % number)
h.shutdown()
`;

eachFdmon("nbd: clients that are killed in mid request trouble nobody", async (_, fdmon) => {
  const times = (fdmon === "io_uring" ? 10 : 4) * SOAK;
  await using server = await NbdProgram.start(fdmon, await newSparse(32 * MIB));
  const steady = libnbdWords(STEADY, server.uri(), "1000000000");
  const random = new Random(SEED);
  await libnbd(STEADY, server.uri(), "10");
  const fds = server.countFds();
  {
    await using other = new Background(steady);
    for (let time = 0; time < times; time++) {
      await using busy = new Background(libnbdWords(BUSY, server.uri()));
      for (let lines = 1 + random.below(3); lines > 0; lines--) {
        assertEquals(await busy.line(), "busy", `AIO_KILL_SEED=${SEED}`);
      }
      await busy.killed();
    }
    await other.killed();
  }
  await settle(server, fds);
  await libnbd(STEADY, server.uri(), "50");
}, ["io_uring", "epoll"]);

onIoUring(
  "nbd: connections that are idle or never begin hinder neither work nor the end",
  async () => {
    await using stack = new AsyncDisposableStack();
    const server = stack.use(await NbdProgram.start("io_uring", await newSparse(32 * MIB)));
    const idle = stack.use(
      new Background(libnbdWords(
        `
handles = [connect() for _ in range(150)]
for h in handles:
    h.pread(512, 0)
print("idle", flush=True)
import time
time.sleep(1000)
`,
        server.uri(),
      )),
    );
    assertEquals(await idle.line(), "idle");
    for (let number = 0; number < 50; number++) stack.use(await server.connect());
    await libnbd(STEADY, server.uri(), "200");
    // Connections are taken in the order in which they came.
    assert(server.countFds() > 200);
    // With all of them there it ends, and waits for none that has nothing to be waited for.
    const startMs = performance.now();
    await server.stop();
    assert(performance.now() - startMs < GRACE_MS);
  },
);

/** Writes records of which it says when they are acknowledged; \`args\`: path, "fua" or "flush". */
const RECORDS = `
how, RECORD, DEPTH = args[0], 3000, 8
handles = [connect(), connect()]
number, waiting = 0, {}
def write(h):
    global number
    mine, number = number, number + 1
    data = bytearray()
    word = mine
    for at in range(RECORD // 4):
        data += word.to_bytes(4, "little")
        word = (word * 31 + at + 1) & 0xffffffff
    buffer = nbd.Buffer.from_bytearray(data)
    def written(error):
        if error.value if hasattr(error, "value") else error:
            return 1
        if how == "fua":
            print(mine, flush=True)
        else:
            waiting.setdefault(h, []).append(mine)
        return 1
    h.aio_pwrite(buffer, mine * RECORD, written, nbd.CMD_FLAG_FUA if how == "fua" else 0)
def flush(h):
    # What has been replied to before this is asked is what it promises.
    mine = waiting.pop(h, [])
    def flushed(error):
        if not (error.value if hasattr(error, "value") else error):
            for one in mine:
                print(one, flush=True)
        return 1
    h.aio_flush(flushed)
while True:
    for h in handles:
        while h.aio_in_flight() < DEPTH:
            write(h)
        if how == "flush" and waiting.get(h):
            flush(h)
        try:
            h.poll(1)
        except nbd.Error:
            sys.exit(0)
`;

eachFdmon("nbd: what FUA or FLUSH has acknowledged is there after kill -9", async (_, fdmon) => {
  const random = new Random(SEED), recordBytes = 3000;
  const hows = { io_uring: ["fua", "flush"], epoll: ["fua"], poll: ["flush"] }[fdmon];
  for (const how of Array.from({ length: SOAK }, () => hows).flat()) {
    const path = await newSparse(64 * MIB);
    await using server = await NbdProgram.start(fdmon, path);
    await using writer = new Background(libnbdWords(RECORDS, server.uri(), how));
    const acknowledged: number[] = [];
    let killed: Promise<void> | null = null;
    const enough = 1 + random.below(100);
    for (let line; (line = await writer.line()) !== null;) {
      acknowledged.push(Number(line));
      if (acknowledged.length >= enough) killed ??= server.kill();
    }
    assert(killed !== null, "nothing was acknowledged");
    await killed;
    const bytes = await Deno.readFile(path);
    for (const number of acknowledged) {
      const record = bytes.slice(number * recordBytes, (number + 1) * recordBytes);
      const words = new Uint32Array(record.buffer);
      const good = words.every((word, at) =>
        word === (at === 0 ? number : (Math.imul(words[at - 1], 31) + at) >>> 0)
      );
      assert(good, `record ${number} is not what was written, ${how}, AIO_KILL_SEED=${SEED}`);
    }
  }
});

testWithDirtyPages(
  "nbd: what FUA or FLUSH has acknowledged is on the disk, and all at the end",
  async () => {
    const path = await newSparse(16 * MIB);
    const server = await NbdProgram.start("io_uring", path);
    const say = (text: string) => libnbd(`h = connect()\n${text}\nh.shutdown()`, server.uri());
    await say(`h.pwrite(bytearray(b"x" * ${MIB}), ${MIB}, nbd.CMD_FLAG_FUA)`);
    assertEquals(dirtyPages(path, MIB, MIB), 0, "after a write with FUA");
    await say(`h.pwrite(bytearray(b"y" * ${MIB}), ${4 * MIB})\nh.pwrite(bytearray(b"z"), 0)`);
    await say("h.flush()");
    assertEquals(dirtyPages(path), 0, "after a flush");
    // Zeros that have to be written at the edges of what is freed.
    await say(`h.zero(${MIB}, ${4 * MIB} + 100, nbd.CMD_FLAG_FUA)`);
    assertEquals(dirtyPages(path), 0, "after zeros with FUA");
    await say(`h.pwrite(bytearray(b"y" * ${MIB}), ${8 * MIB})`);
    await server.stop();
    assertEquals(dirtyPages(path), 0, "after the end");
  },
);
