/**
 * Functions of the C library, for tests that need fds Deno does not hand out, or take them away
 * behind its back. Opened once and for good; a result of -1 is for the test to notice.
 */

/** The opened C library. */
export const libc = Deno.dlopen("libc.so.6", {
  // int close(int fd)
  close: { parameters: ["i32"], result: "i32" },
  // int dup(int fd)
  dup: { parameters: ["i32"], result: "i32" },
  // int open(const char *path, int flags)
  open: { parameters: ["buffer", "i32"], result: "i32" },
  // int pipe(int fds[2])
  pipe: { parameters: ["buffer"], result: "i32" },
  // int socketpair(int domain, int type, int protocol, int fds[2])
  socketpair: { parameters: ["i32", "i32", "i32", "buffer"], result: "i32" },
  // int posix_openpt(int flags)
  posix_openpt: { parameters: ["i32"], result: "i32" },
  // ssize_t read(int fd, void *buffer, size_t length)
  read: { parameters: ["i32", "buffer", "usize"], result: "isize" },
  // ssize_t write(int fd, const void *buffer, size_t length)
  write: { parameters: ["i32", "buffer", "usize"], result: "isize" },
  // int eventfd(unsigned int value, int flags)
  eventfd: { parameters: ["u32", "i32"], result: "i32" },
}).symbols;

/** The two fds that pipe or socketpair makes. */
export function makePair(kind: "pipe" | "socket"): [number, number] {
  const fds = new Int32Array(2);
  const AF_UNIX = 1, SOCK_STREAM = 1;
  const result = kind === "pipe" ? libc.pipe(fds) : libc.socketpair(AF_UNIX, SOCK_STREAM, 0, fds);
  if (result !== 0) throw new Error(`Cannot make a ${kind} for a test`);
  return [fds[0], fds[1]];
}

/** Opens a path; read and write where `flags` are not given. */
export function openPath(path: string, flags = 2): number {
  const fd = libc.open(new TextEncoder().encode(`${path}\0`), flags);
  if (fd < 0) throw new Error(`Cannot open ${path} for a test`);
  return fd;
}
