/**
 * The functions of liburing.so.2 this project calls, all of them exported since 2.3 and all
 * returning -errno. What liburing.h has as inline functions, TypeScript does itself on the mapped
 * rings.
 */

/** Symbol table for `Deno.dlopen` of liburing. */
export const liburingSymbols = {
  // int io_uring_queue_init_params(unsigned entries, struct io_uring *ring, struct io_uring_params *p)
  io_uring_queue_init_params: { parameters: ["u32", "buffer", "buffer"], result: "i32" },
  // void io_uring_queue_exit(struct io_uring *ring)
  io_uring_queue_exit: { parameters: ["buffer"], result: "void" },
  // int io_uring_enter2(unsigned fd, unsigned to_submit, unsigned min_complete, unsigned flags,
  //                     sigset_t *sig, size_t sz); sig is the EXT_ARG structure here
  io_uring_enter2: {
    parameters: ["u32", "u32", "u32", "u32", "pointer", "usize"],
    result: "i32",
  },
  // int io_uring_register_probe(struct io_uring *ring, struct io_uring_probe *p, unsigned nr)
  io_uring_register_probe: { parameters: ["buffer", "buffer", "u32"], result: "i32" },
  // int io_uring_register_eventfd(struct io_uring *ring, int fd)
  io_uring_register_eventfd: { parameters: ["buffer", "i32"], result: "i32" },
  // int io_uring_register_buffers_sparse(struct io_uring *ring, unsigned nr)
  io_uring_register_buffers_sparse: { parameters: ["buffer", "u32"], result: "i32" },
  // int io_uring_register_buffers_update_tag(struct io_uring *ring, unsigned off,
  //                                          const struct iovec *iovecs, const __u64 *tags, unsigned nr)
  io_uring_register_buffers_update_tag: {
    parameters: ["buffer", "u32", "buffer", "pointer", "u32"],
    result: "i32",
  },
} as const satisfies Deno.ForeignLibraryInterface;

/** The opened liburing. */
export type Liburing = Deno.DynamicLibrary<typeof liburingSymbols>["symbols"];
