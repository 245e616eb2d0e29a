/*
 * What the pool of threads promises: see selftest.c. Also compiled together
 * with the library's source for the thread sanitizer.
 *
 * The functions of pthread_create() and pthread_join() defined here come
 * before the C library's, so that threads can be refused and counted, and a
 * request be released once the pool is certainly closing.
 */
#define _GNU_SOURCE
#include "aio.h"
#include "selftest.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define REQUESTS 20000u
#define CAPACITY 4096u
#define HERE ((uint64_t)-1)

/* What the functions that come before the C library's are told, and saw. */
static struct {
	uint32_t refuse_from; /* the next threads that fail; 0: none */
	uint32_t created;
	size_t stack_bytes;
	int all_blocked;
	int release_fd; /* gets bytes when a thread is joined; 0: none */
} threads;

typedef int create_call(pthread_t *, const pthread_attr_t *,
			void *(*)(void *), void *);
typedef int join_call(pthread_t, void **);

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
		   void *(*start)(void *), void *argument)
{
	create_call *real = (create_call *)dlsym(RTLD_NEXT, "pthread_create");
	sigset_t mask;

	threads.created++;
	if (threads.refuse_from && threads.created >= threads.refuse_from)
		return EAGAIN;
	pthread_sigmask(SIG_SETMASK, NULL, &mask);
	threads.all_blocked = 1;
	for (int number = 1; number < 32; number++)
		threads.all_blocked &= number == SIGKILL ||
				       number == SIGSTOP ||
				       sigismember(&mask, number);
	if (attributes)
		pthread_attr_getstacksize(attributes, &threads.stack_bytes);
	return real(thread, attributes, start, argument);
}

int pthread_join(pthread_t thread, void **result)
{
	join_call *real = (join_call *)dlsym(RTLD_NEXT, "pthread_join");

	if (threads.release_fd)
		REQUIRE(write(threads.release_fd, "!!!", 3) == 3);
	threads.release_fd = 0;
	return real(thread, result);
}

static struct {
	void *handle;
	int32_t event_fd;
	int fds[2]; /* a pipe that holds workers up */
	char bytes[CAPACITY];
	struct aio_cqe cqes[CAPACITY];
} pool;

static void open_pool(uint32_t workers, uint32_t capacity)
{
	memset(&threads, 0, sizeof(threads));
	memset(&pool, 0, sizeof(pool));
	pool.event_fd = aio_eventfd();
	REQUIRE(!pipe(pool.fds));
	REQUIRE(!aio_pool_open(workers, capacity, pool.event_fd,
			       &pool.handle));
}

static void close_pool(void)
{
	aio_pool_close(pool.handle);
	REQUIRE(!close(pool.event_fd));
	REQUIRE(!close(pool.fds[0]) && !close(pool.fds[1]));
}

static int32_t submit(enum aio_op opcode, int32_t fd, uint64_t user_data)
{
	struct aio_sqe sqe = {
		.opcode = (uint8_t)opcode, .fd = fd, .off = HERE, .len = 1,
		.addr = address(&pool.bytes[user_data % CAPACITY]),
		.user_data = user_data,
	};

	return aio_pool_submit(pool.handle, &sqe);
}


/* Sleeps until there is a completion; a lost one costs 30 s and fails. */
static uint32_t reap(uint32_t max)
{
	struct pollfd completed = { pool.event_fd, POLLIN, 0 };
	double lost_ns = 30e9;
	int32_t count;

	do {
		REQUIRE(aio_ppoll(&completed, 1, &lost_ns) == 1);
		count = aio_pool_reap(pool.handle, pool.cqes, max);
		REQUIRE(count >= 0 && count <= (int32_t)max);
	} while (!count);
	return (uint32_t)count;
}

static void require_next(uint64_t user_data, int32_t res)
{
	REQUIRE(reap(1) == 1);
	REQUIRE(pool.cqes[0].user_data == user_data);
	REQUIRE(pool.cqes[0].res == res && pool.cqes[0].flags == 0);
}

/* Has a worker wait for a byte from the pipe, in its call or on the way. */
static void hold(uint64_t user_data)
{
	REQUIRE(submit(AIO_OP_READ, pool.fds[0], user_data) == 0);
	while (aio_pool_cancel(pool.handle, user_data) != -EALREADY) {
		/* No worker had taken it yet: once more. */
		require_next(user_data, -ECANCELED);
		sched_yield();
		REQUIRE(submit(AIO_OP_READ, pool.fds[0], user_data) == 0);
	}
}

static void release(uint32_t count)
{
	while (count--)
		REQUIRE(write(pool.fds[1], "!", 1) == 1);
}

/* Every request completes once, with its own result and its own byte. */
static void run_requests(uint32_t workers, uint32_t capacity, uint32_t max)
{
	static uint8_t seen[REQUESTS];
	uint32_t sent = 0, completed = 0;
	int32_t fd = temporary_file();

	for (uint32_t n = 0; n < 256; n++)
		pool.bytes[n] = (char)n;
	REQUIRE(write(fd, pool.bytes, 256) == 256);
	open_pool(workers, capacity);
	memset(seen, 0, sizeof(seen));
	while (completed < REQUESTS) {
		struct aio_sqe sqe = { .fd = fd, .len = 1 };

		while (sent < REQUESTS) {
			sqe.opcode = sent % 3 ? AIO_OP_READ : AIO_OP_NOP;
			sqe.off = sent % 5 ? sent % 256 : 256;
			sqe.addr = address(&pool.bytes[sent % CAPACITY]);
			sqe.user_data = (uint64_t)sent << 32 | sent;
			if (aio_pool_submit(pool.handle, &sqe) == -EBUSY)
				break;
			sent++;
			REQUIRE(sent - completed <= capacity);
		}
		REQUIRE(sent == REQUESTS || sent - completed == capacity);
		for (uint32_t n = 0, count = reap(max); n < count; n++) {
			uint32_t number = (uint32_t)pool.cqes[n].user_data;

			REQUIRE(pool.cqes[n].user_data >> 32 == number);
			REQUIRE(number < sent && !seen[number]++);
			REQUIRE(pool.cqes[n].res ==
				(number % 3 && number % 5));
			if (pool.cqes[n].res)
				REQUIRE(pool.bytes[number % CAPACITY] ==
					(char)number);
			completed++;
		}
	}
	REQUIRE(threads.created <= workers);
	close_pool();
	REQUIRE(!close(fd));
}

static void many_requests(void)
{
	run_requests(1, 1, 1);
	run_requests(4, 7, 3);
	run_requests(2, 64, CAPACITY);
	run_requests(16, CAPACITY, 100);
}

static void open_limits(void)
{
	void *handle = NULL;

	REQUIRE(aio_pool_open(0, 1, -1, &handle) == -EINVAL);
	REQUIRE(aio_pool_open(257, 1, -1, &handle) == -EINVAL);
	REQUIRE(aio_pool_open(1, 0, -1, &handle) == -EINVAL);
	REQUIRE(aio_pool_open(1, 65537, -1, &handle) == -EINVAL);
	REQUIRE(aio_pool_open(UINT32_MAX, UINT32_MAX, -1, &handle) ==
		-EINVAL);
	REQUIRE(!handle);
	REQUIRE(aio_pool_open(256, 65536, -1, &handle) == 0 && handle);
	aio_pool_close(handle);
}

/* In the order of submission, and full until what has ended is reaped. */
static void order_and_room(void)
{
	struct pollfd completed = { 0, POLLIN, 0 };
	double now = 0;

	open_pool(1, 5);
	completed.fd = pool.event_fd;
	hold(1);
	for (uint64_t n = 2; n <= 5; n++)
		REQUIRE(submit(n % 2 ? AIO_OP_NOP : AIO_OP_CLOSE, -1, n) == 0);
	REQUIRE(submit(AIO_OP_NOP, -1, 6) == -EBUSY);
	REQUIRE(aio_pool_reap(pool.handle, pool.cqes, 5) == 0);
	REQUIRE(aio_ppoll(&completed, 1, &now) == 0);
	release(1);
	require_next(1, 1);
	REQUIRE(submit(AIO_OP_NOP, -1, 6) == 0);
	REQUIRE(submit(AIO_OP_NOP, -1, 7) == -EBUSY);
	for (uint64_t n = 2; n <= 6; n++)
		require_next(n, n % 2 || n == 6 ? 0 : -EBADF);
	/* No room in the caller's memory takes nothing away. */
	REQUIRE(submit(AIO_OP_NOP, -1, 8) == 0);
	while (aio_ppoll(&completed, 1, &now) == 0)
		sched_yield();
	REQUIRE(aio_pool_reap(pool.handle, pool.cqes, 0) == 0);
	require_next(8, 0);
	close_pool();
}

static void cancellation(void)
{
	open_pool(1, 8);
	hold(1);
	for (uint64_t n = 2; n <= 6; n++)
		REQUIRE(submit(AIO_OP_NOP, -1, n) == 0);
	REQUIRE(aio_pool_cancel(pool.handle, 1) == -EALREADY);
	REQUIRE(aio_pool_cancel(pool.handle, 7) == -ENOENT);
	REQUIRE(aio_pool_cancel(pool.handle, 1ull << 32 | 4) == -ENOENT);
	/* From the middle, the end and the beginning of the queue. */
	REQUIRE(aio_pool_cancel(pool.handle, 4) == 0);
	REQUIRE(aio_pool_cancel(pool.handle, 4) == -ENOENT);
	REQUIRE(aio_pool_cancel(pool.handle, 6) == 0);
	require_next(4, -ECANCELED);
	REQUIRE(submit(AIO_OP_NOP, -1, 8) == 0);
	REQUIRE(aio_pool_cancel(pool.handle, 2) == 0);
	require_next(6, -ECANCELED);
	require_next(2, -ECANCELED);
	REQUIRE(aio_pool_cancel(pool.handle, 2) == -ENOENT);
	release(1);
	require_next(1, 1);
	require_next(3, 0);
	require_next(5, 0);
	require_next(8, 0);
	REQUIRE(aio_pool_cancel(pool.handle, 1) == -ENOENT);
	close_pool();
}

static void close_while_running(void)
{
	for (uint32_t round = 0; round < 20; round++) {
		int fds[2];
		char byte;

		open_pool(2, 64);
		REQUIRE(!pipe2(fds, O_NONBLOCK));
		hold(0);
		hold(1);
		for (uint64_t n = 2; n < 64; n++)
			REQUIRE(submit(AIO_OP_WRITE, fds[1], n) == 0);
		threads.release_fd = pool.fds[1];
		close_pool();
		/* What ran has ended, what waited was never begun. */
		REQUIRE(pool.bytes[0] == '!' && pool.bytes[1] == '!');
		REQUIRE(read(fds[0], &byte, 1) == -1 && errno == EAGAIN);
		REQUIRE(!close(fds[0]) && !close(fds[1]));
	}
}

static void starting_threads(void)
{
	sigset_t mask;

	open_pool(3, 64);
	for (uint64_t n = 0; n < 10; n++) {
		REQUIRE(threads.created == (n > 0));
		REQUIRE(submit(AIO_OP_NOP, -1, n) == 0);
		require_next(n, 0);
	}
	for (uint64_t n = 1; n <= 3; n++) {
		hold(n);
		REQUIRE(threads.created == n);
	}
	for (uint64_t n = 4; n <= 20; n++)
		REQUIRE(submit(AIO_OP_NOP, -1, n) == 0);
	REQUIRE(threads.created == 3 && threads.all_blocked);
	REQUIRE(threads.stack_bytes == 128 * 1024);
	pthread_sigmask(SIG_SETMASK, NULL, &mask);
	REQUIRE(!sigismember(&mask, SIGTERM) && !sigismember(&mask, SIGPIPE));
	threads.release_fd = pool.fds[1];
	close_pool();
}

static void refused_threads(void)
{
	open_pool(3, 2);
	threads.refuse_from = 1;
	for (uint64_t n = 0; n < 5; n++)
		REQUIRE(submit(AIO_OP_NOP, -1, n) == -EAGAIN);
	REQUIRE(aio_pool_cancel(pool.handle, 0) == -ENOENT);
	REQUIRE(aio_pool_reap(pool.handle, pool.cqes, 1) == 0);
	/* One will do. */
	threads.refuse_from = 7;
	hold(1);
	REQUIRE(threads.created == 6);
	REQUIRE(submit(AIO_OP_NOP, -1, 2) == 0 && threads.created == 7);
	release(1);
	require_next(1, 1);
	require_next(2, 0);
	close_pool();
}

static double processor_ns(void)
{
	struct timespec used;

	REQUIRE(!clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used));
	return (double)used.tv_sec * 1e9 + (double)used.tv_nsec;
}

static void idle_threads(void)
{
	double sleep_ns = 1e8, before;

	open_pool(4, 8);
	for (uint64_t n = 0; n < 4; n++)
		hold(n);
	release(4);
	for (uint32_t count = 0; count < 4;)
		count += reap(4);
	before = processor_ns();
	REQUIRE(aio_ppoll(NULL, 0, &sleep_ns) == 0);
	REQUIRE(processor_ns() - before < sleep_ns / 2);
	close_pool();
}

int main(void)
{
	static const struct check checks[] = {
		{ "limits of open", open_limits },
		{ "order and room", order_and_room },
		{ "cancellation", cancellation },
		{ "close while running", close_while_running },
		{ "starting threads", starting_threads },
		{ "refused threads", refused_threads },
		{ "idle threads", idle_threads },
		{ "many requests", many_requests },
	};

	run_checks(checks, sizeof(checks) / sizeof(checks[0]));
	return 0;
}
