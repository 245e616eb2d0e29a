/** Sizes, offsets and numbers that TypeScript shares with C, compared with the C headers. */
import { assert, assertEquals } from "@std/assert";
import { PlaceLayout, RingLayout, SocketLayout, SpinLayout, SystemLayout } from "../ffi/layout.ts";
import { addressOfShared } from "../ffi/memory.ts";
import { SqFlag } from "../ffi/ring.ts";
import { SetupFlag } from "../ffi/ring_setup.ts";
import { MessageFlag } from "../ffi/message.ts";
import {
  Fcntl,
  Shutdown,
  SocketFlag,
  SocketLevel,
  SocketOption,
  SocketType,
  TcpOption,
} from "../ffi/socket.ts";
import { SocketDomain } from "../ffi/socket_address.ts";
import { CqeFlag, SqeFlag, SqeOp } from "../ffi/sqe.ts";
import type { Shim } from "../ffi/shim_symbols.ts";
import { EpollOp, PollEvent } from "../ffi/system.ts";
import { GuestMemory, RING_SLOTS } from "../src/cli/scale_guest.ts";
import { MemFdFlag, Seal } from "../src/io/mem_fd.ts";
import { SignalCode } from "../src/io/signal_fd.ts";
import { ClockId, TimerFlag } from "../src/io/timer_fd.ts";
import { run } from "./child.ts";
import { compile } from "./compile.ts";

/** Numbers by name; of a struct, its members and `sizeof`. */
type Numbers = Readonly<Record<string, number>>;

const SHIM_FOLDER = new URL("../shim/", import.meta.url).pathname;
const INCLUDES = [
  ...["stdio.h", "stddef.h", "poll.h", "sys/epoll.h", "fcntl.h", "sys/socket.h", "sys/un.h"],
  ...["sys/mman.h", "sys/timerfd.h", "signal.h", "time.h"],
  ...["netinet/in.h", "netinet/tcp.h", "liburing.h", "aio.h"],
];

/** Has C print the value of each expression. */
async function evaluate(expressions: readonly string[]): Promise<number[]> {
  const program = [
    "#define _GNU_SOURCE",
    ...INCLUDES.map((header) => `#include <${header}>`),
    "int main(void) {",
    ...expressions.map((expression) => `printf("%lld\\n", (long long)(${expression}));`),
    "return 0; }",
  ];
  const words = [await compile(program.join("\n"), [`-I${SHIM_FOLDER}`])];
  const { code, stdout } = await run(words);
  assertEquals(code, 0);
  return stdout.trim().split("\n").map(Number);
}

/** What C has for the structs and members of a table. */
async function measure<Structs extends Readonly<Record<string, Numbers>>>(
  structs: Structs,
): Promise<Structs> {
  const places = Object.entries(structs).flatMap(([struct, members]) =>
    Object.keys(members).map((member) => ({ struct, member }))
  );
  const values = await evaluate(places.map(({ struct, member }) => {
    return member === "sizeof"
      ? `sizeof(struct ${struct})`
      : `offsetof(struct ${struct}, ${member})`;
  }));
  const measured: Record<string, Record<string, number>> = {};
  places.forEach(({ struct, member }, index) => {
    (measured[struct] ??= {})[member] = values[index];
  });
  return measured as Structs;
}

/** Compares numbers with those that C has under the same name in capitals. */
async function compareConstants(prefix: string, numbers: Numbers): Promise<void> {
  const names = Object.keys(numbers).map((name) => {
    return prefix + name.replace(/[A-Z]/g, "_$&").toUpperCase();
  });
  assertEquals(await evaluate(names), Object.values(numbers), names.join());
}

Deno.test("RingLayout: agrees with liburing.h", async () => {
  assertEquals(RingLayout, await measure(RingLayout));
});

Deno.test("SystemLayout: agrees with poll.h and sys/epoll.h", async () => {
  assertEquals(SystemLayout, await measure(SystemLayout));
});

Deno.test("SpinLayout: agrees with shim/aio.h, and what stands in a row there does", async () => {
  assertEquals(SpinLayout, await measure(SpinLayout));
  const { words16, words32, words64, count16, count32, count64, ...others } = SpinLayout.aio_spin;
  assertEquals([words32 - words16, words64 - words32], [8, 8]);
  assertEquals([count32 - count16, count64 - count32], [4, 4]);
  assertEquals(others.deadline_ns - others.end_ns, 8);
});

Deno.test("struct aio_sqe, aio_cqe: are laid out as those of io_uring, under its names or ours", async () => {
  const sqe = ["opcode", "flags", "ioprio", "fd", "off", "addr", "len", "user_data", "buf_index"];
  const both = ["sizeof", ...sqe, "personality", "file_index", "addr3"];
  const ours = [...both, "op_flags"], theirs = [...both, "rw_flags"];
  const cqe = ["sizeof", "user_data", "res", "flags"];
  const zeros = (names: readonly string[]) => Object.fromEntries(names.map((name) => [name, 0]));
  const { aio_sqe, aio_cqe, io_uring_sqe, io_uring_cqe } = await measure({
    aio_sqe: zeros(ours),
    aio_cqe: zeros(cqe),
    io_uring_sqe: zeros(theirs),
    io_uring_cqe: zeros(cqe),
  });
  const offsets = (struct: Numbers, names: readonly string[]) => names.map((name) => struct[name]);
  assertEquals(offsets(aio_sqe, ours), offsets(io_uring_sqe, theirs));
  assertEquals(aio_cqe, io_uring_cqe);
});

Deno.test("enum aio_op: has the opcodes of SqeOp, all but those of a ring", async () => {
  const header = Deno.readTextFileSync(`${SHIM_FOLDER}aio.h`);
  const {
    readFixed: _f,
    writeFixed: _w,
    pollAdd: _a,
    pollRemove: _r,
    timeout: _t,
    asyncCancel: _c,
    ...ops
  } = SqeOp;
  await compareConstants("AIO_OP_", ops);
  assertEquals(header.match(/^\tAIO_OP_\w+ = \d+,/gm)!.length, Object.keys(ops).length);
});

Deno.test("SocketLayout: agrees with the headers of sockets, and of signals with shim/aio.h", async () => {
  assertEquals(SocketLayout, await measure(SocketLayout));
});

Deno.test("constants: agree with those of the C headers", async () => {
  // Debian 12's header ends before Linux 6.9, which has ftruncate; and extents are the shim's own.
  const { ftruncate: _f, extents: _e, ...ops } = SqeOp;
  await compareConstants("IORING_OP_", ops);
  const flags = Object.entries(SqeFlag).map(([name, flag]) => [name, flag >> 8]);
  await compareConstants("IOSQE_", Object.fromEntries(flags));
  await compareConstants("IORING_CQE_F_", CqeFlag);
  const { cqSize, ...otherFlags } = SetupFlag;
  await compareConstants("IORING_SETUP_", { ...otherFlags, cqsize: cqSize });
  await compareConstants("IORING_SQ_", SqFlag);
  await compareConstants("EPOLL_CTL_", {
    add: EpollOp.add,
    del: EpollOp.delete,
    mod: EpollOp.modify,
  });
  const { in: input, out, error, hangUp, invalid } = PollEvent;
  const events = { in: input, out, err: error, hup: hangUp };
  await compareConstants("POLL", { ...events, nval: invalid });
  await compareConstants("EPOLL", events);
  await compareConstants("AF_", SocketDomain);
  await compareConstants("SOCK_", { ...SocketType, ...SocketFlag });
  await compareConstants("SOL_", SocketLevel);
  await compareConstants("SO_", SocketOption);
  await compareConstants("TCP_", TcpOption);
  await compareConstants("SHUT_", Shutdown);
  await compareConstants("F_", Fcntl);
  await compareConstants("MSG_", MessageFlag);
  await compareConstants("CLOCK_", ClockId);
  await compareConstants("TFD_TIMER_", TimerFlag);
  await compareConstants("MFD_", MemFdFlag);
  await compareConstants("F_SEAL_", Seal);
  await compareConstants("SI_", SignalCode);
});

Deno.test("GuestMemory: agrees with struct aio_guest and struct aio_queue of shim/aio.h", async () => {
  const members = { sizeof: 0, stop: 0, event_fd: 0, depth: 0, blocks: 0, kicks: 0, latencies: 0 };
  const { aio_guest: guest, aio_queue: queue } = await measure({
    aio_guest: { ...members, queue: 0, ring: 0 },
    aio_queue: { sizeof: 0, avail: 0, used: 0, notifications_off: 0 },
  });
  const [alignment, latencies, slots] = await evaluate([
    "_Alignof(struct aio_guest)",
    "sizeof(((struct aio_guest *)0)->latencies) / 4",
    "AIO_GUEST_SLOTS",
  ]);
  const memory = new GuestMemory(2);
  const first = memory.busyQueue.avail * 4 - guest.queue - queue.avail;
  const offsetOf = (word: number) => word * 4 - first;
  assertEquals((Number(addressOfShared(memory.buffer)) + first) % alignment, 0);

  const queues = [memory.busyQueue, memory.idleQueue(0), memory.idleQueue(1)];
  [guest.queue, guest.sizeof, guest.sizeof + queue.sizeof].forEach((start, number) => {
    assertEquals(offsetOf(queues[number].avail), start + queue.avail);
    assertEquals(offsetOf(queues[number].used), start + queue.used);
    assertEquals(offsetOf(queues[number].notificationsOff), start + queue.notifications_off);
  });
  assertEquals([offsetOf(memory.ring), RING_SLOTS], [guest.ring, slots]);
  assert(first + guest.sizeof + 2 * queue.sizeof <= memory.buffer.byteLength);

  // What the guest is told is found by its value, what it counts by the index of its word.
  const shim = { aio_guest_run: () => Promise.resolve(0) } as unknown as Shim;
  await memory.runGuest(shim, { eventFd: 101, depth: 102, blocks: 103 });
  memory.stopGuest();
  const told = [101, 102, 103, 1].map((value) => offsetOf(memory.words.indexOf(value)));
  assertEquals(told, [guest.event_fd, guest.depth, guest.blocks, guest.stop]);
  memory.words.forEach((_, word) => memory.words[word] = word);
  const counts = memory.countGuest();
  assertEquals(offsetOf(counts.kicks), guest.kicks);
  assertEquals(offsetOf(counts.latencies[0]), guest.latencies);
  assertEquals(counts.latencies.length, latencies);
});

Deno.test("PlaceLayout: agrees with shim/aio.h", async () => {
  assertEquals(PlaceLayout, await measure(PlaceLayout));
});
