/** Sockets on the shim's calls, with Deno's and node's own sockets at the other end. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { once } from "node:events";
import net from "node:net";
import { Errno } from "../ffi/errno.ts";
import { loadShim } from "../ffi/library.ts";
import {
  Fcntl,
  Shutdown,
  SocketFlag,
  SocketLevel,
  SocketOption,
  Sockets,
  SocketType,
  TcpOption,
} from "../ffi/socket.ts";
import { SocketDomain } from "../ffi/socket_address.ts";
import { AioError } from "../mod.ts";
import { newFolder } from "./child.ts";
import { eachFdmon } from "./each_fdmon.ts";
import { libc, makePair } from "./libc.ts";
import { countFds, countingFds } from "./open_files.ts";
import { pollUntil } from "./poll_until.ts";
import { Random } from "./random_values.ts";

const SEED = Number(Deno.env.get("AIO_TEST_SEED") ?? Math.floor(Math.random() * 2 ** 32));

const shim = loadShim();
const sockets = new Sockets(shim);

/** Runs a test with sockets that it opens, and closes them. */
function withSockets(
  test: (open: (domain: number, type?: number) => number) => void | Promise<void>,
): () => Promise<void> {
  return countingFds(async () => {
    const fds: number[] = [];
    try {
      await test((domain, type = SocketType.stream) => {
        fds.push(sockets.open(domain, type));
        return fds.at(-1)!;
      });
    } finally {
      for (const fd of fds) libc.close(fd);
    }
  });
}

/** Whether this machine has IPv6. */
function hasIpv6(): boolean {
  const fd = sockets.open(SocketDomain.inet6, SocketType.stream);
  try {
    sockets.bind(fd, { hostname: "::1", port: 0 });
    return true;
  } catch {
    return false;
  } finally {
    libc.close(fd);
  }
}

const ipv6 = hasIpv6();

Deno.test(
  "Sockets.open: closes on exec and does not block",
  withSockets((open) => {
    const fd = open(SocketDomain.inet, SocketType.dgram);
    assertEquals(shim.aio_fd_check(fd), 1, "FD_CLOEXEC");
    assert((shim.aio_fcntl_int(fd, Fcntl.getfl, 0) & SocketFlag.nonblock) !== 0);
    assertThrows(() => sockets.open(999, SocketType.stream), AioError, "EAFNOSUPPORT");
  }),
);

Deno.test(
  `Sockets.bind: Deno connects to random addresses and sees them as they are (AIO_TEST_SEED=${SEED})`,
  withSockets(async (open) => {
    const random = new Random(SEED);
    for (let round = 0; round < 10; round++) {
      const hostname = `127.${random.below(256)}.${random.below(256)}.${random.below(254) + 1}`;
      const fd = open(SocketDomain.inet);
      sockets.bind(fd, { hostname, port: 0 });
      sockets.listen(fd, 1);
      const local = sockets.localAddress(fd);
      assert("port" in local && local.port !== 0);
      assertEquals(local.hostname, hostname);
      using connection = await Deno.connect(local);
      assertEquals({ ...connection.remoteAddr }, { ...local, transport: "tcp" });
    }
  }),
);

Deno.test(
  `Sockets.connect: to Deno.listen, whose peer is our own address (AIO_TEST_SEED=${SEED})`,
  withSockets(async (open) => {
    const random = new Random(SEED);
    for (let round = 0; round < 10; round++) {
      using listener = Deno.listen({ hostname: `127.0.${random.below(256)}.1`, port: 0 });
      const { hostname, port } = listener.addr;
      const fd = open(SocketDomain.inet);
      const own = { hostname: `127.1.${random.below(256)}.1`, port: 0 };
      sockets.bind(fd, own);
      const accepted = listener.accept();
      sockets.connect(fd, { hostname, port });
      using connection = await accepted;
      assertEquals(sockets.peerAddress(fd), { hostname, port });
      const local = sockets.localAddress(fd);
      assertEquals({ ...connection.remoteAddr }, { ...local, transport: "tcp" });
      assertEquals("hostname" in local && local.hostname, own.hostname);
      assertEquals(sockets.takeError(fd), 0);
    }
  }),
);

Deno.test({
  name: `Sockets: IPv6 both ways${ipv6 ? "" : ", skipped: there is no ::1"}`,
  ignore: !ipv6,
  fn: withSockets(async (open) => {
    const fd = open(SocketDomain.inet6);
    sockets.bind(fd, { hostname: "::1", port: 0 });
    sockets.listen(fd, 1);
    const local = sockets.localAddress(fd);
    assert("port" in local && local.hostname === "::1");
    const socket = net.connect(local.port, "::1");
    await once(socket, "connect");
    assertEquals([socket.remoteAddress, socket.remotePort], ["::1", local.port]);
    socket.destroy();
    await once(socket, "close");

    using listener = Deno.listen({ hostname: "::1", port: 0 });
    const client = open(SocketDomain.inet6);
    const accepted = listener.accept();
    sockets.connect(client, { hostname: "::1", port: listener.addr.port });
    using connection = await accepted;
    const own = sockets.localAddress(client);
    assertEquals({ ...connection.remoteAddr }, { ...own, transport: "tcp" });

    // An IPv4 peer of an IPv6 socket.
    const both = open(SocketDomain.inet6);
    sockets.bind(both, { hostname: "::", port: 0 });
    sockets.listen(both, 1);
    const mapped = open(SocketDomain.inet6);
    const { port } = sockets.localAddress(both) as Deno.NetAddr;
    sockets.connect(mapped, { hostname: "::ffff:127.0.0.1", port });
    assertEquals(sockets.peerAddress(mapped), { hostname: "::ffff:127.0.0.1", port });
  }),
});

Deno.test(
  "Sockets: unix paths, up to the longest, and abstract names, both ways",
  withSockets(async (open) => {
    const folder = newFolder();
    const longest = `${folder}/`.padEnd(107, "x");
    for (const path of [`${folder}/short`, `${folder}/ä €`, longest, "\0aio/test/\0/ä"]) {
      const fd = open(SocketDomain.unix);
      sockets.bind(fd, { path });
      sockets.listen(fd, 1);
      assertEquals(sockets.localAddress(fd), { path });
      const client = open(SocketDomain.unix);
      assert(sockets.connect(client, { path }));
      assertEquals(sockets.peerAddress(client), { path });
      assertEquals(sockets.localAddress(client), { path: "" });
    }
    for (const path of [`${folder}/denos`, `${folder}/`.padEnd(107, "y")]) {
      using listener = Deno.listen({ transport: "unix", path });
      const fd = open(SocketDomain.unix);
      const accepted = listener.accept();
      assert(sockets.connect(fd, { path }));
      assertEquals(sockets.peerAddress(fd), { path });
      (await accepted).close();

      Deno.removeSync(path);
      const own = open(SocketDomain.unix);
      sockets.bind(own, { path });
      sockets.listen(own, 1);
      (await Deno.connect({ transport: "unix", path })).close();
    }
  }),
);

Deno.test(
  "Sockets: a failure names the address, the fd, the call and its errno",
  withSockets((open) => {
    const fd = open(SocketDomain.inet);
    sockets.bind(fd, { hostname: "127.0.0.1", port: 0 });
    sockets.listen(fd, 1);
    const local = sockets.localAddress(fd) as Deno.NetAddr;
    const second = open(SocketDomain.inet);
    assertThrows(
      () => sockets.bind(second, local),
      AioError,
      `Cannot bind fd ${second} to 127.0.0.1:${local.port} as bind failed: EADDRINUSE`,
    );
    assertThrows(
      () => sockets.connect(open(SocketDomain.unix), { path: "/nowhere" }),
      AioError,
      'to "/nowhere" as connect failed: ENOENT',
    );
    assertThrows(() => sockets.peerAddress(second), AioError, "as getpeername failed: ENOTCONN");
    assertThrows(
      () => sockets.bind(second, { hostname: "2001:db8::1", port: 1 }),
      AioError,
      "to [2001:db8::1]:1 as bind failed: E",
    );
    const closed = open(SocketDomain.inet);
    libc.close(closed);
    const attempts = [
      () => sockets.bind(closed, local),
      () => sockets.listen(closed, 1),
      () => sockets.connect(closed, local),
      () => sockets.shutdown(closed, Shutdown.rdwr),
      () => sockets.setOption(closed, SocketLevel.socket, SocketOption.reuseaddr, 1),
      () => sockets.takeError(closed),
      () => sockets.localAddress(closed),
      () => sockets.peerAddress(closed),
      () => sockets.setNonBlocking(closed),
      () => sockets.duplicate(closed),
    ];
    for (const attempt of attempts) {
      const error = assertThrows(attempt, AioError, `fd ${closed}`);
      assertEquals(error.code, "EBADF", String(attempt));
      assert(error.message.endsWith("(the file descriptor is not open)"), error.message);
    }
  }),
);

Deno.test(
  "Sockets.setOption: getOption reads it back",
  withSockets((open) => {
    const fd = open(SocketDomain.inet);
    for (
      const [level, name] of [
        [SocketLevel.socket, SocketOption.reuseaddr],
        [SocketLevel.tcp, TcpOption.nodelay],
      ]
    ) {
      assertEquals(sockets.getOption(fd, level, name), 0);
      sockets.setOption(fd, level, name, 1);
      assertEquals(sockets.getOption(fd, level, name), 1);
    }
    assertThrows(() => sockets.setOption(fd, 1, 9999, 1), AioError, "ENOPROTOOPT");
  }),
);

Deno.test("Sockets.shutdown: the other end reads its end", () => {
  const [one, other] = makePair("socket");
  sockets.shutdown(one, Shutdown.wr);
  assertEquals(Number(libc.read(other, new Uint8Array(1), 1n)), 0);
  assertEquals(Number(libc.write(other, new Uint8Array(1), 1n)), 1, "this direction is open");
  libc.close(one);
  libc.close(other);
});

Deno.test("Sockets.setNonBlocking: an adopted fd, of which other flags are kept", () => {
  const O_APPEND = 0o2000;
  const [reader, writer] = makePair("pipe");
  assertEquals(shim.aio_fcntl_int(writer, Fcntl.setfl, O_APPEND), 0);
  for (let times = 0; times < 2; times++) {
    sockets.setNonBlocking(writer);
    const flags = shim.aio_fcntl_int(writer, Fcntl.getfl, 0);
    assertEquals(flags & (O_APPEND | SocketFlag.nonblock), O_APPEND | SocketFlag.nonblock);
  }
  assertEquals(shim.aio_fcntl_int(reader, Fcntl.getfl, 0) & SocketFlag.nonblock, 0);
  libc.close(reader);
  libc.close(writer);
});

Deno.test("Sockets.duplicate: another fd of the same file, which closes on exec", () => {
  const before = countFds();
  const [reader, writer] = makePair("pipe");
  const copy = sockets.duplicate(writer);
  assertEquals(shim.aio_fd_check(copy), 1, "FD_CLOEXEC");
  libc.close(writer);
  libc.write(copy, Uint8Array.of(7), 1n);
  const bytes = new Uint8Array(1);
  assertEquals([Number(libc.read(reader, bytes, 1n)), bytes[0]], [1, 7]);
  libc.close(copy);
  libc.close(reader);
  assertEquals(countFds(), before);
});

eachFdmon(
  "Sockets.connect: is writable once decided, and takeError tells how",
  (makeContext) =>
    withSockets((open) => {
      using ctx = makeContext();
      const server = open(SocketDomain.inet);
      sockets.bind(server, { hostname: "127.0.0.1", port: 0 });
      const address = sockets.localAddress(server);
      const outcome = () => {
        const fd = open(SocketDomain.inet);
        assert(!sockets.connect(fd, address), "TCP connects in the background");
        let writable = false;
        ctx.setFdHandler(fd, { ioWrite: () => writable = true });
        pollUntil(ctx, () => writable);
        ctx.setFdHandler(fd, null);
        return sockets.takeError(fd);
      };
      assertEquals(outcome(), Errno.ECONNREFUSED, "nobody listens yet");
      sockets.listen(server, 4);
      assertEquals(outcome(), 0);
    })(),
);
