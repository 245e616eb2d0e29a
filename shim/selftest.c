/*
 * What the shim promises, checked in C: for machines on which Deno does not
 * run, as arm64 under an emulator. tests/selftest_test.ts links it against the
 * very bytes that are shipped. It is no part of the library.
 *
 * Each check prints "ok N name". The first failure says where and exits 1.
 */
#define _GNU_SOURCE
#include "aio.h"
#include "selftest.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

static void clock_twice(void)
{
	double into = 0, before = aio_now();

	aio_now_into(&into);
	REQUIRE(before > 0 && into >= before && aio_now() >= into);
}

static void event_fd(void)
{
	int32_t fd = aio_eventfd();

	REQUIRE(fd >= 0 && aio_fd_check(fd) == 1 /* FD_CLOEXEC */);
	REQUIRE(aio_eventfd_drain(fd) == 0);
	REQUIRE(aio_eventfd_signal(fd) == 8 && aio_eventfd_signal(fd) == 8);
	REQUIRE(aio_eventfd_drain(fd) == 1 && aio_eventfd_drain(fd) == 0);
	REQUIRE(aio_close(fd) == 0);
}

static void errors(void)
{
	int32_t fd = aio_eventfd(), epoll = aio_epoll_create();
	uint64_t most = UINT64_MAX - 1;
	double now = 0;
	char byte;

	REQUIRE(write(fd, &most, 8) == 8);
	REQUIRE(aio_eventfd_signal(fd) == -EAGAIN);
	REQUIRE(aio_pread(fd, &byte, 1, 0) == -ESPIPE);
	REQUIRE(aio_epoll_ctl(epoll, 2, fd, 0, 0) == -ENOENT);
	REQUIRE(aio_epoll_ctl(epoll, 99, fd, 0, 0) == -EINVAL);
	REQUIRE(aio_close(fd) == 0 && aio_close(fd) == -EBADF);
	REQUIRE(aio_fd_check(fd) == -EBADF && aio_fd_check(-1) == -EBADF);
	REQUIRE(aio_eventfd_signal(fd) == -EBADF);
	REQUIRE(aio_eventfd_drain(fd) == -EBADF);
	REQUIRE(aio_epoll_ctl(epoll, 1, fd, 1, 0) == -EBADF);
	REQUIRE(aio_epoll_wait(epoll, &byte, 0, &now) == -EINVAL);
	REQUIRE(aio_close(epoll) == 0);
	REQUIRE(aio_epoll_wait(epoll, &byte, 1, &now) == -EBADF);
}

static void epoll_events(void)
{
	int32_t epoll = aio_epoll_create(), fds[3];
	double timeouts[] = { 0, 3e6, -1 }, before;
	struct epoll_event events[4];
	uint32_t data = 0;

	for (uint32_t n = 0; n < 3; n++) {
		fds[n] = aio_eventfd();
		REQUIRE(!aio_epoll_ctl(epoll, 1, fds[n], EPOLLIN, 1u << n));
	}
	for (uint32_t n = 0; n < 2; n++) {
		before = aio_now();
		REQUIRE(aio_epoll_wait(epoll, events, 4, &timeouts[n]) == 0);
		REQUIRE(aio_now() - before >= timeouts[n]);
	}
	REQUIRE(aio_eventfd_signal(fds[0]) == 8);
	REQUIRE(aio_eventfd_signal(fds[2]) == 8);
	REQUIRE(!aio_epoll_ctl(epoll, 3, fds[2], EPOLLIN | EPOLLOUT, ~0u));
	for (uint32_t n = 0; n < 3; n++) {
		memset(events, 0, sizeof(events));
		REQUIRE(aio_epoll_wait(epoll, events, 4, &timeouts[n]) == 2);
		data = events[0].data.u32 == 1 ? 1 : 0;
		REQUIRE(events[1 - data].data.u32 == 1);
		REQUIRE(events[1 - data].events == EPOLLIN);
		REQUIRE(events[data].data.u32 == ~0u);
		REQUIRE(events[data].events == (EPOLLIN | EPOLLOUT));
	}
	REQUIRE(aio_epoll_wait(epoll, events, 1, &timeouts[0]) == 1);
	for (uint32_t n = 0; n < 3; n++)
		REQUIRE(!aio_epoll_ctl(epoll, 2, fds[n], 0, 0) &&
			!aio_close(fds[n]));
	REQUIRE(aio_epoll_wait(epoll, events, 4, &timeouts[0]) == 0);
	REQUIRE(aio_close(epoll) == 0);
}

static void ppoll_fds(void)
{
	struct pollfd fds[] = { { aio_eventfd(), POLLIN, 0 },
				{ aio_eventfd(), POLLIN | POLLOUT, 0 },
				{ -1, POLLIN, 0 } };
	double timeouts[] = { 0, 3e6, -1, 1e300 }, before = aio_now();

	REQUIRE(aio_ppoll(fds, 1, &timeouts[1]) == 0);
	REQUIRE(aio_now() - before >= timeouts[1]);
	REQUIRE(aio_ppoll(fds, 1, &timeouts[0]) == 0);
	for (uint32_t n = 0; n < 4; n++) {
		REQUIRE(aio_ppoll(fds, 3, &timeouts[n]) == 1);
		REQUIRE(!fds[0].revents && fds[1].revents == POLLOUT);
	}
	REQUIRE(aio_close(fds[1].fd) == 0);
	REQUIRE(aio_ppoll(fds, 2, &timeouts[2]) == 1);
	REQUIRE(fds[1].revents == POLLNVAL);
	REQUIRE(aio_close(fds[0].fd) == 0);
}

static void read_at_offset(void)
{
	FILE *file = tmpfile();
	char text[5] = "";
	int32_t got;

	REQUIRE(file && fputs("0123456789", file) >= 0 && !fflush(file));
	REQUIRE(aio_pread(fileno(file), text, 3, 4) == 3);
	REQUIRE(!strcmp(text, "456"));
	REQUIRE(aio_pread(fileno(file), text, 3, 8589934592.0) == 0);
	/* Just written, so it is cached, but not every kernel can tell. */
	memset(text, 0, sizeof(text));
	got = aio_pread_cached(fileno(file), (uint8_t *)text, 1, 3, 4);
	REQUIRE(got == 3 ? !memcmp(text, "\000456", 4) : got == -EOPNOTSUPP);
	fclose(file);
}

/* What SIGUSR1 does where nobody has taken it. */
static volatile sig_atomic_t missed;

static void miss(int signal)
{
	(void)signal;
	missed++;
}

static void signals_to_a_pipe(void)
{
	struct aio_signal record;
	int32_t fds[2];
	int count = 0;

	signal(SIGUSR1, miss);
	REQUIRE(aio_pipe(fds, O_CLOEXEC | O_NONBLOCK) == 0);
	REQUIRE(aio_signal_take(0, fds[1]) == -EINVAL);
	REQUIRE(aio_signal_take(AIO_SIGNAL_MAX + 1, fds[1]) == -EINVAL);
	REQUIRE(aio_signal_take(SIGUSR1, -1) == -EINVAL);
	for (int twice = 0; twice < 2; twice++)
		REQUIRE(aio_signal_take(SIGKILL, fds[1]) == -EINVAL);
	REQUIRE(aio_signal_take(SIGUSR1, fds[1]) == 0);
	REQUIRE(aio_signal_take(SIGUSR1, fds[1]) == -EBUSY);
	errno = 0;
	for (int n = 0; n < 5000; n++)
		raise(SIGUSR1);
	REQUIRE(errno == 0);
	while (aio_read(fds[0], &record, sizeof(record)) > 0) {
		REQUIRE(record.signal == SIGUSR1);
		REQUIRE(record.code == SI_TKILL);
		REQUIRE(record.pid == getpid());
		REQUIRE(record.uid == getuid());
		count++;
	}
	printf("# %d of 5000 signals had room in a pipe\n", count);
	REQUIRE(count >= 256 && count <= 4096);
	REQUIRE(missed == 0);
	REQUIRE(aio_signal_release(0) == -EINVAL);
	REQUIRE(aio_signal_release(SIGUSR1) == 0);
	raise(SIGUSR1);
	REQUIRE(missed == 1);
	REQUIRE(aio_read(fds[0], &record, sizeof(record)) == -EAGAIN);
	close(fds[0]);
	close(fds[1]);
}

static struct {
	int32_t raiser; /* its thread id */
	int32_t released;
} pending;

static void *raiser(void *unused)
{
	__atomic_store_n(&pending.raiser, gettid(), __ATOMIC_SEQ_CST);
	raise(SIGUSR1);
	return unused;
}

static void *releaser(void *unused)
{
	REQUIRE(aio_signal_release(SIGUSR1) == 0);
	__atomic_store_n(&pending.released, 1, __ATOMIC_SEQ_CST);
	return unused;
}

static int sleeps(int32_t thread)
{
	char path[64], state = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", thread);
	file = fopen(path, "r");
	REQUIRE(file && fscanf(file, "%*d (%*[^)]) %c", &state) == 1);
	fclose(file);
	return state == 'S';
}

/*
 * A handler that hangs in write() holds the fd, so releasing has to wait: or
 * the fd, closed afterwards, could be somebody else's when it is written to.
 */
static void released_signal(void)
{
	char page[4096] = { 0 };
	pthread_t threads[2];
	int32_t fds[2], thread;

	REQUIRE(aio_pipe(fds, O_CLOEXEC | O_NONBLOCK) == 0);
	while (write(fds[1], page, sizeof(page)) > 0)
		;
	REQUIRE(aio_fcntl_int(fds[1], F_SETFL, 0) == 0);
	REQUIRE(aio_signal_take(SIGUSR1, fds[1]) == 0);
	REQUIRE(!pthread_create(&threads[0], NULL, raiser, NULL));
	do
		thread = __atomic_load_n(&pending.raiser, __ATOMIC_SEQ_CST);
	while (!thread || !sleeps(thread));
	REQUIRE(!pthread_create(&threads[1], NULL, releaser, NULL));
	usleep(20000);
	REQUIRE(!__atomic_load_n(&pending.released, __ATOMIC_SEQ_CST));
	REQUIRE(aio_read(fds[0], page, sizeof(page)) == sizeof(page));
	REQUIRE(!pthread_join(threads[0], NULL));
	REQUIRE(!pthread_join(threads[1], NULL));
	REQUIRE(pending.released);
	close(fds[0]);
	close(fds[1]);
}

int main(void)
{
	static const struct check checks[] = {
		{ "clock", clock_twice },
		{ "eventfd", event_fd },
		{ "errors", errors },
		{ "epoll", epoll_events },
		{ "ppoll", ppoll_fds },
		{ "pread", read_at_offset },
		{ "signals", signals_to_a_pipe },
		{ "released signal", released_signal },
	};

	run_checks(checks, sizeof(checks) / sizeof(checks[0]));
	return 0;
}
