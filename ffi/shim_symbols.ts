/**
 * The shim's functions as Deno sees them: one entry for each declaration in shim/aio.h.
 *
 * Crossings are kept cheap: i32, u32, f64 and pointer arguments only, which V8 calls without a
 * conversion. Every i32 result is a count or -errno.
 */

/** Symbol table for `Deno.dlopen` of the shim. */
export const shimSymbols = {
  // double aio_now(void)
  aio_now: { parameters: [], result: "f64" },
  // void aio_now_into(double *now_ns)
  aio_now_into: { parameters: ["pointer"], result: "void" },
  // int32_t aio_spin(struct aio_spin *spin)
  aio_spin: { parameters: ["pointer"], result: "i32" },
  // int32_t aio_eventfd(void)
  aio_eventfd: { parameters: [], result: "i32" },
  // int32_t aio_eventfd_signal(int32_t fd)
  aio_eventfd_signal: { parameters: ["i32"], result: "i32" },
  // int32_t aio_eventfd_drain(int32_t fd)
  aio_eventfd_drain: { parameters: ["i32"], result: "i32" },
  // int32_t aio_close(int32_t fd)
  aio_close: { parameters: ["i32"], result: "i32" },
  // int32_t aio_fd_check(int32_t fd)
  aio_fd_check: { parameters: ["i32"], result: "i32" },
  // int32_t aio_epoll_create(void)
  aio_epoll_create: { parameters: [], result: "i32" },
  // int32_t aio_epoll_ctl(int32_t epoll_fd, int32_t op, int32_t fd, uint32_t events, uint32_t data)
  aio_epoll_ctl: { parameters: ["i32", "i32", "i32", "u32", "u32"], result: "i32" },
  // int32_t aio_epoll_wait(int32_t epoll_fd, void *events, uint32_t capacity, const double *timeout_ns)
  aio_epoll_wait: { parameters: ["i32", "pointer", "u32", "pointer"], result: "i32" },
  // int32_t aio_ppoll(void *fds, uint32_t count, const double *timeout_ns)
  aio_ppoll: { parameters: ["pointer", "u32", "pointer"], result: "i32" },
  // int32_t aio_pread(int32_t fd, void *buffer, uint32_t length, double offset)
  aio_pread: { parameters: ["i32", "pointer", "u32", "f64"], result: "i32" },
  // int32_t aio_pread_cached(int32_t fd, uint8_t *buffer, uint32_t start, uint32_t length, double
  // offset): the buffer is used during the call alone, so it can be anybody's
  aio_pread_cached: { parameters: ["i32", "buffer", "u32", "u32", "f64"], result: "i32" },
  // int32_t aio_execute(const struct aio_sqe *sqe)
  aio_execute: { parameters: ["pointer"], result: "i32" },
  // int32_t aio_pool_open(uint32_t threads, uint32_t capacity, int32_t event_fd, void **pool)
  aio_pool_open: { parameters: ["u32", "u32", "i32", "pointer"], result: "i32" },
  // int32_t aio_pool_submit(void *pool, const struct aio_sqe *sqe)
  aio_pool_submit: { parameters: ["pointer", "pointer"], result: "i32" },
  // int32_t aio_pool_reap(void *pool, struct aio_cqe *completions, uint32_t max)
  aio_pool_reap: { parameters: ["pointer", "pointer", "u32"], result: "i32" },
  // int32_t aio_pool_cancel(void *pool, uint64_t user_data)
  aio_pool_cancel: { parameters: ["pointer", "u64"], result: "i32" },
  // void aio_pool_close(void *pool): waits for requests that run
  aio_pool_close: { parameters: ["pointer"], result: "void" },
  // int32_t aio_pool_abandon(void *pool)
  aio_pool_abandon: { parameters: ["pointer"], result: "i32" },
  // int32_t aio_socket(int32_t domain, int32_t type, int32_t protocol)
  aio_socket: { parameters: ["i32", "i32", "i32"], result: "i32" },
  // int32_t aio_bind(int32_t fd, const void *address, uint32_t length)
  aio_bind: { parameters: ["i32", "pointer", "u32"], result: "i32" },
  // int32_t aio_listen(int32_t fd, int32_t backlog)
  aio_listen: { parameters: ["i32", "i32"], result: "i32" },
  // int32_t aio_connect(int32_t fd, const void *address, uint32_t length)
  aio_connect: { parameters: ["i32", "pointer", "u32"], result: "i32" },
  // int32_t aio_shutdown(int32_t fd, int32_t how)
  aio_shutdown: { parameters: ["i32", "i32"], result: "i32" },
  // int32_t aio_setsockopt_int(int32_t fd, int32_t level, int32_t name, int32_t value)
  aio_setsockopt_int: { parameters: ["i32", "i32", "i32", "i32"], result: "i32" },
  // int32_t aio_getsockopt_int(int32_t fd, int32_t level, int32_t name, int32_t *value)
  aio_getsockopt_int: { parameters: ["i32", "i32", "i32", "pointer"], result: "i32" },
  // int32_t aio_getsockname(int32_t fd, void *address, uint32_t capacity)
  aio_getsockname: { parameters: ["i32", "pointer", "u32"], result: "i32" },
  // int32_t aio_getpeername(int32_t fd, void *address, uint32_t capacity)
  aio_getpeername: { parameters: ["i32", "pointer", "u32"], result: "i32" },
  // int32_t aio_fcntl_int(int32_t fd, int32_t command, int32_t argument)
  aio_fcntl_int: { parameters: ["i32", "i32", "i32"], result: "i32" },
  // int32_t aio_pipe(int32_t *fds, int32_t flags)
  aio_pipe: { parameters: ["pointer", "i32"], result: "i32" },
  // int32_t aio_timerfd_create(int32_t clock, int32_t flags)
  aio_timerfd_create: { parameters: ["i32", "i32"], result: "i32" },
  // int32_t aio_timerfd_settime(int32_t fd, int32_t flags, double first_ns, double interval_ns)
  aio_timerfd_settime: { parameters: ["i32", "i32", "f64", "f64"], result: "i32" },
  // int32_t aio_pidfd_open(int32_t pid, uint32_t flags)
  aio_pidfd_open: { parameters: ["i32", "u32"], result: "i32" },
  // int32_t aio_pidfd_send_signal(int32_t fd, int32_t signal)
  aio_pidfd_send_signal: { parameters: ["i32", "i32"], result: "i32" },
  // int32_t aio_memfd_create(const char *name, uint32_t flags)
  aio_memfd_create: { parameters: ["pointer", "u32"], result: "i32" },
  // int32_t aio_ftruncate(int32_t fd, double length)
  aio_ftruncate: { parameters: ["i32", "f64"], result: "i32" },
  // int32_t aio_read(int32_t fd, void *buffer, uint32_t length)
  aio_read: { parameters: ["i32", "pointer", "u32"], result: "i32" },
  // int32_t aio_map(void *address, double length, int32_t fd, double offset)
  aio_map: { parameters: ["pointer", "f64", "i32", "f64"], result: "i32" },
  // int32_t aio_unmap(void *address, double length)
  aio_unmap: { parameters: ["pointer", "f64"], result: "i32" },
  // double aio_fd_inode(int32_t fd)
  aio_fd_inode: { parameters: ["i32"], result: "f64" },
  // int32_t aio_fd_status(int32_t fd, double *status)
  aio_fd_status: { parameters: ["i32", "pointer"], result: "i32" },
  // int32_t aio_sendmsg(int32_t fd, const void *message, int32_t flags)
  aio_sendmsg: { parameters: ["i32", "pointer", "i32"], result: "i32" },
  // int32_t aio_recvmsg(int32_t fd, void *message, int32_t flags)
  aio_recvmsg: { parameters: ["i32", "pointer", "i32"], result: "i32" },
  // int32_t aio_signal_take(int32_t signal, int32_t fd)
  aio_signal_take: { parameters: ["i32", "i32"], result: "i32" },
  // int32_t aio_signal_release(int32_t signal)
  aio_signal_release: { parameters: ["i32"], result: "i32" },
  // int32_t aio_waiter_open(int32_t *fd, void **waiter)
  aio_waiter_open: { parameters: ["pointer", "pointer"], result: "i32" },
  // int32_t aio_waiter_arm(void *waiter, const void *fds, uint32_t count, const double *until_ns)
  aio_waiter_arm: { parameters: ["pointer", "pointer", "u32", "pointer"], result: "i32" },
  // int32_t aio_waiter_disarm(void *waiter)
  aio_waiter_disarm: { parameters: ["pointer"], result: "i32" },
  // void aio_waiter_close(void *waiter)
  aio_waiter_close: { parameters: ["pointer"], result: "void" },
  // int32_t aio_guest_run(struct aio_guest *guest): runs until told to stop, so on its own thread
  aio_guest_run: { parameters: ["pointer"], result: "i32", nonblocking: true },
  // struct aio_place *aio_board(void)
  aio_board: { parameters: [], result: "pointer" },
  // int32_t *aio_fd_owners(void)
  aio_fd_owners: { parameters: [], result: "pointer" },
  // void *aio_links(void)
  aio_links: { parameters: [], result: "pointer" },
  // int32_t aio_link_release(uint32_t link)
  aio_link_release: { parameters: ["u32"], result: "i32" },
  // int32_t aio_thread_id(void)
  aio_thread_id: { parameters: [], result: "i32" },
  // int32_t aio_thread_lives(int32_t id)
  aio_thread_lives: { parameters: ["i32"], result: "i32" },
  // int32_t aio_set_affinity(const void *mask, uint32_t length)
  aio_set_affinity: { parameters: ["buffer", "u32"], result: "i32" },
  // int32_t aio_get_affinity(void *mask, uint32_t length)
  aio_get_affinity: { parameters: ["buffer", "u32"], result: "i32" },
} as const satisfies Deno.ForeignLibraryInterface;

/** The opened shim. */
export type Shim = Deno.DynamicLibrary<typeof shimSymbols>["symbols"];
