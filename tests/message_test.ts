/** Messages with open files through socket pairs: all arrive, none is left open. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { Errno } from "../ffi/errno.ts";
import { loadShim } from "../ffi/library.ts";
import { allocateNative } from "../ffi/memory.ts";
import { FDS_MAX, Message, MESSAGE_FLAGS, SEGMENTS_MAX } from "../ffi/message.ts";
import { SocketLevel, SocketType } from "../ffi/socket.ts";
import { libc, makePair } from "./libc.ts";
import { countFds, countingFds } from "./open_files.ts";
import { Random } from "./random_values.ts";

const SEED = Number(Deno.env.get("AIO_TEST_SEED") ?? Math.floor(Math.random() * 2 ** 32));
const AF_UNIX = 1, SO_PASSCRED = 16;

const shim = loadShim();

function makeDatagramPair(): [number, number] {
  const fds = new Int32Array(2);
  assertEquals(libc.socketpair(AF_UNIX, SocketType.dgram, 0, fds), 0);
  return [fds[0], fds[1]];
}

/** Bytes that C may use, and where they are. */
function makeBytes(length: number): { bytes: Uint8Array; address: number } {
  const { buffer, address } = allocateNative(length);
  return { bytes: new Uint8Array(buffer, 0, length), address: Number(address) };
}

/** Which open file an fd is: no two pipes have the same number. */
function identify(fd: number): string {
  return Deno.readLinkSync(`/proc/self/fd/${fd}`);
}

function close(...fds: number[]): void {
  for (const fd of fds) assertEquals(libc.close(fd), 0, `fd ${fd}`);
}

const one = makeBytes(1);

/** A message of one byte. */
function oneByte(fdsMax: number): Message {
  const message = new Message(1, fdsMax);
  message.addSegment(one.address, 1);
  return message;
}

function send(socket: number, message: Message): number {
  return shim.aio_sendmsg(socket, message.pointer, MESSAGE_FLAGS);
}

function receive(socket: number, message: Message): number {
  message.expectFds(message.fdsMax);
  return shim.aio_recvmsg(socket, message.pointer, MESSAGE_FLAGS);
}

Deno.test(
  `Message: random segments and fds arrive as they were sent (AIO_TEST_SEED=${SEED})`,
  countingFds(() => {
    const random = new Random(SEED);
    const [near, far] = makePair("socket");
    const pipes = Array.from({ length: 4 }, () => makePair("pipe")).flat();
    const sent = new Message(8, 16), received = new Message(8, 16);
    for (let round = 0; round < 300; round++) {
      const out = makeBytes(1000), incoming = makeBytes(1000);
      for (let at = 0; at < 1000; at++) out.bytes[at] = random.below(256);
      const fds = Array.from({ length: random.below(17) }, () => random.pick(pipes));
      for (const [message, { address }] of [[sent, out], [received, incoming]] as const) {
        message.clear();
        const segments = random.below(7) + 1;
        let at = 0;
        for (let number = 0; number < segments; number++) {
          const length = random.below(1000 - at);
          message.addSegment(address + at, length);
          at += length;
        }
        message.addSegment(address + at, 1000 - at);
      }
      sent.setFds(fds);
      assertEquals(send(near, sent), 1000);
      assertEquals(receive(far, received), 1000);
      assertEquals(incoming.bytes, out.bytes);
      const arrived = received.takeFds();
      assertEquals(arrived.map(identify), fds.map(identify));
      for (const fd of arrived) assertEquals(shim.aio_fd_check(fd), 1, "FD_CLOEXEC");
      assertEquals([received.fdsTruncated, received.dataTruncated], [false, false]);
      assertEquals(received.takeFds(), [], "taken already");
      close(...arrived);
    }
    close(near, far, ...pipes);
  }),
);

Deno.test(
  "Message.takeFds: of more fds than there is room for, those that were let in",
  countingFds(() => {
    const [near, far] = makePair("socket");
    const [reader, writer] = makePair("pipe");
    for (let room = 0; room <= 5; room++) {
      const sent = oneByte(4), received = oneByte(room);
      sent.setFds([reader, writer, reader, writer]);
      assertEquals(send(near, sent), 1);
      const before = countFds();
      assertEquals(receive(far, received), 1);
      assertEquals(received.fdsTruncated, room < 4);
      const arrived = received.takeFds();
      assertEquals(arrived.length, Math.min(room, 4));
      assertEquals(countFds() - before, arrived.length, "nothing but what was told");
      assertEquals(
        arrived.map(identify),
        [reader, writer, reader, writer].slice(0, room).map(identify),
      );
      close(...arrived);
      // The flag is of the last message.
      sent.setFds([]);
      assertEquals(send(near, sent), 1);
      assertEquals(receive(far, received), 1);
      assertEquals([received.fdsTruncated, received.takeFds()], [false, []]);
    }
    close(near, far, reader, writer);
  }),
);

Deno.test(
  "Message: as many fds as the kernel takes, and not one more",
  countingFds(() => {
    const [near, far] = makePair("socket");
    const sent = oneByte(FDS_MAX), received = oneByte(FDS_MAX);
    sent.setFds(new Array(FDS_MAX).fill(near));
    assertEquals(send(near, sent), 1);
    assertEquals(receive(far, received), 1);
    const arrived = received.takeFds();
    assertEquals(arrived.length, FDS_MAX);
    close(...arrived, near, far);
  }),
);

Deno.test(
  "Message: the messages of a stream keep their fds apart",
  countingFds(() => {
    const [near, far] = makePair("socket");
    const [reader, writer] = makePair("pipe");
    const sent = oneByte(1), received = new Message(1, 2);
    for (const fd of [reader, writer]) {
      sent.setFds([fd]);
      assertEquals(send(near, sent), 1);
    }
    received.addSegment(makeBytes(8).address, 8);
    for (const fd of [reader, writer]) {
      assertEquals(receive(far, received), 1);
      const arrived = received.takeFds();
      assertEquals(arrived.map(identify), [identify(fd)]);
      close(...arrived);
    }
    close(near, far, reader, writer);
  }),
);

Deno.test(
  "Message: control messages of other kinds are passed over",
  countingFds(() => {
    const [near, far] = makeDatagramPair();
    assertEquals(shim.aio_setsockopt_int(far, SocketLevel.socket, SO_PASSCRED, 1), 0);
    const sent = oneByte(1), received = oneByte(16);
    sent.setFds([near]);
    assertEquals(send(near, sent), 1);
    assertEquals(receive(far, received), 1);
    const arrived = received.takeFds();
    assertEquals(arrived.map(identify), [identify(near)]);
    close(...arrived, near, far);
  }),
);

Deno.test(
  "Message.dataTruncated: a datagram that is longer than the segments",
  countingFds(() => {
    const [near, far] = makeDatagramPair();
    const sent = new Message(1, 0), received = oneByte(0);
    sent.addSegment(makeBytes(2).address, 2);
    assertEquals(send(near, sent), 2);
    assertEquals(receive(far, received), 1);
    assertEquals([received.dataTruncated, received.fdsTruncated], [true, false]);
    assertEquals(send(near, received), 1, "what was received may be sent on");
    assertEquals(receive(far, received), 1);
    assertEquals(received.dataTruncated, false);
    close(near, far);
  }),
);

Deno.test(
  "Message: a failed call is -errno, blocks nobody and kills nobody",
  countingFds(() => {
    const [near, far] = makePair("socket");
    const message = oneByte(1);
    message.setFds([near]);
    assertEquals(receive(far, message), -Errno.EAGAIN);
    assertEquals(message.takeFds(), [], "what is there was sent, not received");
    message.setFds([-1]);
    assertEquals(send(near, message), -Errno.EBADF);
    message.setFds([near]);
    close(far);
    const [reader, writer] = makePair("pipe");
    const SIGPIPE = 13;
    assertEquals(shim.aio_signal_take(SIGPIPE, writer), 0);
    assertEquals(send(near, message), -Errno.EPIPE);
    assertEquals(shim.aio_signal_release(SIGPIPE), 0);
    close(writer);
    assertEquals(Number(libc.read(reader, new Uint8Array(16), 16n)), 0, "no SIGPIPE came");
    close(reader);
    assertEquals(receive(near, message), 0);
    assertEquals(message.takeFds(), []);
    close(near);
    assertEquals(send(near, message), -Errno.EBADF);
  }),
);

Deno.test(
  "Message.setFds: with no data a stream drops them, which this documents",
  countingFds(() => {
    const [near, far] = makePair("socket");
    const sent = new Message(1, 1);
    sent.setFds([near]);
    assertEquals(send(near, sent), 0);
    assertEquals(receive(far, oneByte(1)), -Errno.EAGAIN);
    close(near, far);
  }),
);

Deno.test("Message: asserts that nothing goes beyond its memory", () => {
  const message = new Message(2, 2);
  message.addSegment(1, 1);
  message.addSegment(1, 1);
  const attempts = [
    () => message.addSegment(1, 1),
    () => message.setFds([1, 2, 3]),
    () => new Message(0, 0),
    () => new Message(SEGMENTS_MAX + 1, 0),
    () => new Message(1, FDS_MAX + 1),
    () => new Message(1, -1),
    () => new Message(NaN, 0),
  ];
  for (const attempt of attempts) assertThrows(attempt, Error, "assertion failed");
  message.clear();
  message.addSegment(1, 1);
  assert(message.address % 8 === 0);
});
