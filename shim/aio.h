/*
 * The C side of AioContext for Deno: what JavaScript cannot do well.
 *
 * It spins on memory, reads the clock cheaply, makes the few system calls that
 * liburing does not wrap, and carries out requests on threads of its own where
 * there is no io_uring. It keeps no state but what board.c, map.c, pool.c,
 * signal.c and waiter.c say: every function works on what it is given and
 * returns a count or -errno. Times are nanoseconds of CLOCK_MONOTONIC in a
 * double, which is exact for 104 days.
 */
#ifndef AIO_H
#define AIO_H

#include <stdint.h>

#define AIO_EXPORT __attribute__((visibility("default")))

/* Bits of aio_spin()'s result; several can be set at once. */
#define AIO_SPIN_HIT 1u      /* poll words changed: see hits[] */
#define AIO_SPIN_CQ 2u       /* the completion queue is not empty */
#define AIO_SPIN_SQ_FLAGS 4u /* the kernel asks to be entered */
#define AIO_SPIN_NOTIFIED 8u /* somebody called notify() */

/* Values of deadline_ns that ask for one pass without a look at the clock. */
#define AIO_SPIN_LAST_CHANCE 0.0 /* behind a full memory barrier */
#define AIO_SPIN_HASTY_PASS -1.0
#define AIO_SPIN_PASS -2.0 /* with a pause at its end, where nothing is found */

/* One watched word: a hit when the value at address is not seen. */
struct aio_poll_word {
	const volatile void *address;
	uint64_t seen;
};

/*
 * What one aio_spin() call watches. Lives in memory owned by the caller,
 * who rewrites it between calls and never during one.
 */
struct aio_spin {
	const uint32_t *cq_head;     /*   0: owned by the caller's thread */
	const uint32_t *cq_tail;     /*   8: written by the kernel */
	const uint32_t *sq_flags;    /*  16: written by the kernel */
	const uint32_t *notified;    /*  24: written by any thread */
	struct aio_poll_word *words16; /* 32 */
	struct aio_poll_word *words32; /* 40 */
	struct aio_poll_word *words64; /* 48 */
	uint32_t *hits;              /*  56: room for all words */
	uint32_t count16;            /*  64 */
	uint32_t count32;            /*  68 */
	uint32_t count64;            /*  72 */
	uint32_t sq_flags_mask;      /*  76: the SQ flags that end the spin */
	uint32_t hit_count;          /*  80: out */
	uint32_t reserved;           /*  84 */
	double end_ns;               /*  88: out, its last look at the clock */
	double deadline_ns;          /*  96: when to end, or one of these */
};

AIO_EXPORT double aio_now(void);
AIO_EXPORT void aio_now_into(double *now_ns);
AIO_EXPORT int32_t aio_spin(struct aio_spin *spin);

AIO_EXPORT int32_t aio_eventfd(void);
AIO_EXPORT int32_t aio_eventfd_signal(int32_t fd);
AIO_EXPORT int32_t aio_eventfd_drain(int32_t fd);
AIO_EXPORT int32_t aio_close(int32_t fd);
AIO_EXPORT int32_t aio_fd_check(int32_t fd);
AIO_EXPORT int32_t aio_epoll_create(void);
AIO_EXPORT int32_t aio_epoll_ctl(int32_t epoll_fd, int32_t op, int32_t fd,
				 uint32_t events, uint32_t data);
AIO_EXPORT int32_t aio_epoll_wait(int32_t epoll_fd, void *events,
				  uint32_t capacity, const double *timeout_ns);
AIO_EXPORT int32_t aio_ppoll(void *fds, uint32_t count,
			     const double *timeout_ns);
AIO_EXPORT int32_t aio_pread(int32_t fd, void *buffer, uint32_t length,
			     double offset);
AIO_EXPORT int32_t aio_pread_cached(int32_t fd, uint8_t *buffer, uint32_t start,
				    uint32_t length, double offset);

/* Opcodes that aio_execute() knows; io_uring has the numbers but the last. */
enum aio_op {
	AIO_OP_NOP = 0,
	AIO_OP_READV = 1,
	AIO_OP_WRITEV = 2,
	AIO_OP_FSYNC = 3,
	AIO_OP_SYNC_FILE_RANGE = 8,
	AIO_OP_SENDMSG = 9,
	AIO_OP_RECVMSG = 10,
	AIO_OP_ACCEPT = 13,
	AIO_OP_CONNECT = 16,
	AIO_OP_FALLOCATE = 17,
	AIO_OP_OPENAT = 18,
	AIO_OP_CLOSE = 19,
	AIO_OP_STATX = 21,
	AIO_OP_READ = 22,
	AIO_OP_WRITE = 23,
	AIO_OP_FADVISE = 24,
	AIO_OP_SEND = 26,
	AIO_OP_RECV = 27,
	AIO_OP_SHUTDOWN = 34,
	AIO_OP_FTRUNCATE = 55,
	AIO_OP_EXTENTS = 200, /* io_uring's numbers do not get there soon */
};

/* A part of a file, as AIO_OP_EXTENTS finds it. */
struct aio_extent {
	uint64_t length; /* 0: of the first one, the range's before the call */
	uint64_t hole;   /* 8: 1, or 0 where there is data */
};

/* A request, laid out as struct io_uring_sqe; what is not used is 0. */
struct aio_sqe {
	uint8_t opcode;       /*  0: enum aio_op */
	uint8_t flags;        /*  1 */
	uint16_t ioprio;      /*  2 */
	int32_t fd;           /*  4 */
	uint64_t off;         /*  8: also called addr2 */
	uint64_t addr;        /* 16 */
	uint32_t len;         /* 24 */
	uint32_t op_flags;    /* 28: rw_flags, msg_flags and so on */
	uint64_t user_data;   /* 32 */
	uint16_t buf_index;   /* 40 */
	uint16_t personality; /* 42 */
	int32_t file_index;   /* 44: also called splice_fd_in */
	uint64_t addr3;       /* 48 */
	uint64_t reserved;    /* 56 */
};

/* How a request ended, laid out as struct io_uring_cqe. */
struct aio_cqe {
	uint64_t user_data; /*  0 */
	int32_t res;        /*  8 */
	uint32_t flags;     /* 12: always 0 */
};

AIO_EXPORT int32_t aio_execute(const struct aio_sqe *sqe);

/* All but aio_execute() on the thread that opened the pool: see pool.c. */
AIO_EXPORT int32_t aio_pool_open(uint32_t threads, uint32_t capacity,
				 int32_t event_fd, void **pool);
AIO_EXPORT int32_t aio_pool_submit(void *pool, const struct aio_sqe *sqe);
AIO_EXPORT int32_t aio_pool_reap(void *pool, struct aio_cqe *completions,
				 uint32_t max);
AIO_EXPORT int32_t aio_pool_cancel(void *pool, uint64_t user_data);
AIO_EXPORT void aio_pool_close(void *pool);
/* On any thread, where the one that opened it is gone. */
AIO_EXPORT int32_t aio_pool_abandon(void *pool);

/* All on the thread that opened the waiter: see waiter.c. */
AIO_EXPORT int32_t aio_waiter_open(int32_t *fd, void **waiter);
AIO_EXPORT int32_t aio_waiter_arm(void *waiter, const void *fds, uint32_t count,
				  const double *until_ns);
AIO_EXPORT int32_t aio_waiter_disarm(void *waiter);
AIO_EXPORT void aio_waiter_close(void *waiter);

AIO_EXPORT int32_t aio_socket(int32_t domain, int32_t type, int32_t protocol);
AIO_EXPORT int32_t aio_bind(int32_t fd, const void *address, uint32_t length);
AIO_EXPORT int32_t aio_listen(int32_t fd, int32_t backlog);
AIO_EXPORT int32_t aio_connect(int32_t fd, const void *address,
			       uint32_t length);
AIO_EXPORT int32_t aio_shutdown(int32_t fd, int32_t how);
AIO_EXPORT int32_t aio_setsockopt_int(int32_t fd, int32_t level, int32_t name,
				      int32_t value);
AIO_EXPORT int32_t aio_getsockopt_int(int32_t fd, int32_t level, int32_t name,
				      int32_t *value);
AIO_EXPORT int32_t aio_getsockname(int32_t fd, void *address,
				   uint32_t capacity);
AIO_EXPORT int32_t aio_getpeername(int32_t fd, void *address,
				   uint32_t capacity);
AIO_EXPORT int32_t aio_fcntl_int(int32_t fd, int32_t command,
				 int32_t argument);
AIO_EXPORT int32_t aio_pipe(int32_t *fds, int32_t flags);
AIO_EXPORT int32_t aio_timerfd_create(int32_t clock, int32_t flags);
AIO_EXPORT int32_t aio_timerfd_settime(int32_t fd, int32_t flags,
				       double first_ns, double interval_ns);
AIO_EXPORT int32_t aio_pidfd_open(int32_t pid, uint32_t flags);
AIO_EXPORT int32_t aio_pidfd_send_signal(int32_t fd, int32_t signal);
AIO_EXPORT int32_t aio_memfd_create(const char *name, uint32_t flags);
AIO_EXPORT int32_t aio_ftruncate(int32_t fd, double length);
AIO_EXPORT int32_t aio_read(int32_t fd, void *buffer, uint32_t length);

/* Files mapped over memory of the caller's, in whole pages: see map.c. */
AIO_EXPORT int32_t aio_map(void *address, double length, int32_t fd,
			   double offset);
AIO_EXPORT int32_t aio_unmap(void *address, double length);
AIO_EXPORT double aio_fd_inode(int32_t fd);
AIO_EXPORT int32_t aio_fd_status(int32_t fd, double *status);

AIO_EXPORT int32_t aio_sendmsg(int32_t fd, const void *message, int32_t flags);
AIO_EXPORT int32_t aio_recvmsg(int32_t fd, void *message, int32_t flags);

/* A signal that has come, as it is written to the fd of its taker. */
struct aio_signal {
#define AIO_SIGNAL_MAX 64
	int32_t signal;              /*  0 */
	int32_t code;                /*  4: si_code */
	int32_t pid;                 /*  8: of the sender, if code says so */
	uint32_t uid;                /* 12: likewise */
};

AIO_EXPORT int32_t aio_signal_take(int32_t signal, int32_t fd);
AIO_EXPORT int32_t aio_signal_release(int32_t signal);

/* A queue, one cache line for each writer; the indexes wrap at 2^32. */
struct aio_queue {
	_Alignas(64) uint32_t avail; /*  0: guest releases, device acquires */
	_Alignas(64) uint32_t used;  /* 64: device releases, guest acquires */
	uint32_t notifications_off;  /* 68: device to guest, see guest.c */
};

/* The busy queue and its guest, which alone writes from kicks on. */
struct aio_guest {
#define AIO_GUEST_SLOTS 256u
	struct aio_queue queue;
	uint32_t stop;               /* 128: owner, at any time, relaxed */
	int32_t event_fd;            /* 132: owner, before the start, to 140 */
	uint32_t depth;              /* 136: requests in flight, to SLOTS */
	uint32_t blocks;             /* 140: size of the device, not 0 */
	_Alignas(64) uint32_t kicks; /* 192: counted, relaxed, so latencies */
	uint32_t latencies[896];     /* 196: requests by time, see record() */
	uint32_t ring[AIO_GUEST_SLOTS]; /* 3780: blocks, ordered by avail */
};

AIO_EXPORT int32_t aio_guest_run(struct aio_guest *guest);

/*
 * The place of a context on the board; who writes which word stands in
 * ffi/board.ts. What a spin looks at has a cache line for itself.
 */
struct aio_place {
#define AIO_PLACES 8192u
	_Alignas(64) uint32_t notified; /*   0 */
	_Alignas(64) uint32_t notify_me; /* 64 */
	uint32_t users;              /*  68 */
	int32_t fd;                  /*  72 */
	uint32_t generation;         /*  76 */
	int32_t owner;               /*  80: thread that has the place, or 0 */
	_Alignas(64) uint32_t groups; /* 128: which of the following are set */
	uint32_t links[31];          /* 132: bits of links with something new */
	_Alignas(64) uint64_t ring[27]; /* 256: struct io_uring, or zeros */
	uint64_t pool;               /* 472: of the thread pool, or 0 */
	double waiter_inode;         /* 480: of the next, or 0 */
	int32_t waiter_fd;           /* 488: Deno's end of a waiter's socket */
};

/* Fds whose owners are known, by number. */
#define AIO_FDS 1048576u

/* Links of two contexts: the heads of all, then two rings for each. */
#define AIO_LINKS 992u /* 32 for each word of bits */
#define AIO_LINK_HEAD 512u /* see ffi/link.ts */
#define AIO_LINK_RING 65536u

AIO_EXPORT struct aio_place *aio_board(void);
AIO_EXPORT int32_t *aio_fd_owners(void);
AIO_EXPORT void *aio_links(void);
AIO_EXPORT int32_t aio_link_release(uint32_t link);
AIO_EXPORT int32_t aio_thread_id(void);
AIO_EXPORT int32_t aio_thread_lives(int32_t id);
AIO_EXPORT int32_t aio_set_affinity(const void *mask, uint32_t length);
AIO_EXPORT int32_t aio_get_affinity(void *mask, uint32_t length);
#endif
