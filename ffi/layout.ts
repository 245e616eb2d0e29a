/**
 * Sizes and offsets, in bytes, of the C structures that TypeScript reads and writes.
 *
 * Structures and members have the names of their headers, so that a test can have the C compiler
 * print the same table and compare. Only what somebody here uses is listed. Turning bytes into
 * indexes of typed arrays is left to the user of a structure, who knows how wide a word is.
 */

/** Structures of liburing.h and of the kernel's header for io_uring. */
export const RingLayout = {
  io_uring: {
    sizeof: 216,
    "sq.khead": 0,
    "sq.ktail": 8,
    "sq.kflags": 32,
    "sq.array": 48,
    "sq.sqes": 56,
    "sq.ring_entries": 92,
    "cq.khead": 104,
    "cq.ktail": 112,
    "cq.kflags": 136,
    "cq.cqes": 152,
    "cq.ring_entries": 180,
    ring_fd: 196,
  },
  io_uring_params: { sizeof: 120, cq_entries: 4, flags: 8, features: 20 },
  io_uring_sqe: {
    sizeof: 64,
    opcode: 0,
    fd: 4,
    off: 8,
    addr: 16,
    len: 24,
    poll32_events: 28,
    user_data: 32,
    buf_index: 40,
  },
  io_uring_cqe: { sizeof: 16, user_data: 0, res: 8, flags: 12 },
  io_uring_probe: { sizeof: 16, ops: 16 },
  io_uring_probe_op: { sizeof: 8, flags: 2 },
  io_uring_getevents_arg: { sizeof: 24, ts: 16 },
  __kernel_timespec: { sizeof: 16, tv_sec: 0, tv_nsec: 8 },
} as const;

/** Structures of the system calls that the shim passes on; epoll's is packed on x86-64 only. */
export const SystemLayout = {
  epoll_event: Deno.build.arch === "x86_64"
    ? { sizeof: 12, events: 0, data: 4 }
    : { sizeof: 16, events: 0, data: 8 },
  pollfd: { sizeof: 8, fd: 0, events: 4, revents: 6 },
} as const;

/** Structures of shim/aio.h that the spin works on. */
export const SpinLayout = {
  aio_spin: {
    sizeof: 104,
    cq_head: 0,
    cq_tail: 8,
    sq_flags: 16,
    notified: 24,
    words16: 32,
    words32: 40,
    words64: 48,
    hits: 56,
    count16: 64,
    count32: 68,
    count64: 72,
    sq_flags_mask: 76,
    hit_count: 80,
    end_ns: 88,
    deadline_ns: 96,
  },
  aio_poll_word: { sizeof: 16, address: 0, seen: 8 },
} as const;

/** Structures of socket(7), ip(7), ipv6(7), unix(7) and sendmsg(2), and shim/aio.h's of signals. */
export const SocketLayout = {
  sockaddr_un: { sizeof: 110, sun_family: 0, sun_path: 2 },
  sockaddr_in: { sizeof: 16, sin_family: 0, sin_port: 2, sin_addr: 4 },
  sockaddr_in6: {
    sizeof: 28,
    sin6_family: 0,
    sin6_port: 2,
    sin6_flowinfo: 4,
    sin6_addr: 8,
    sin6_scope_id: 24,
  },
  iovec: { sizeof: 16, iov_base: 0, iov_len: 8 },
  msghdr: {
    sizeof: 56,
    msg_name: 0,
    msg_namelen: 8,
    msg_iov: 16,
    msg_iovlen: 24,
    msg_control: 32,
    msg_controllen: 40,
    msg_flags: 48,
  },
  cmsghdr: { sizeof: 16, cmsg_len: 0, cmsg_level: 8, cmsg_type: 12 },
  aio_signal: { sizeof: 16, signal: 0, code: 4, pid: 8, uid: 12 },
} as const;

/** Structures of shim/aio.h that all threads of the process share. */
export const PlaceLayout = {
  aio_place: {
    sizeof: 512,
    notified: 0,
    notify_me: 64,
    users: 68,
    fd: 72,
    generation: 76,
    owner: 80,
    groups: 128,
    links: 132,
    ring: 256,
    pool: 472,
    waiter_inode: 480,
    waiter_fd: 488,
  },
} as const;
