/*
 * What the thread that waits promises: see selftest.c. Also compiled together
 * with the library's source for the thread sanitizer.
 */
#define _GNU_SOURCE
#include "aio.h"
#include "selftest.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#define ROUNDS 20000u
/* Long enough that only what is broken takes as long. */
#define PATIENCE_NS 2e10
#define FOR_EVER -1.0

static void *waiter;
static int32_t told_fd, event_fd;
static struct pollfd event;

static void open_waiter(void)
{
	event_fd = aio_eventfd();
	event = (struct pollfd){ event_fd, POLLIN, 0 };
	REQUIRE(event_fd >= 0);
	REQUIRE(aio_waiter_open(&told_fd, &waiter) == 0);
}

static void close_waiter(void)
{
	aio_waiter_close(waiter);
	REQUIRE(close(told_fd) == 0 && close(event_fd) == 0);
}

static void arm(double until_ns)
{
	REQUIRE(aio_waiter_arm(waiter, &event, 1, &until_ns) == 0);
}

/* Whether a byte comes within a time. */
static int told_within(double timeout_ns)
{
	struct pollfd told = { told_fd, POLLIN, 0 };

	return aio_ppoll(&told, 1, &timeout_ns) == 1;
}

/* Takes the byte there has to be, and no other. */
static void require_told(void)
{
	char bytes[8];

	REQUIRE(told_within(PATIENCE_NS));
	REQUIRE(recv(told_fd, bytes, sizeof(bytes), MSG_DONTWAIT) == 1);
}

static void ready_fd(void)
{
	open_waiter();
	for (int n = 0; n < 3; n++) {
		arm(FOR_EVER);
		REQUIRE(!told_within(1e6));
		REQUIRE(aio_eventfd_signal(event_fd) > 0);
		require_told();
		REQUIRE(aio_waiter_disarm(waiter) == 0);
		/* Once told it waits no more, though the fd is ready. */
		REQUIRE(!told_within(1e6));
		REQUIRE(aio_eventfd_drain(event_fd) == 1);
	}
	close_waiter();
}

static void time_that_is_up(void)
{
	double until_ns;

	open_waiter();
	until_ns = aio_now() + 2e6;
	arm(until_ns);
	require_told();
	REQUIRE(aio_now() >= until_ns);
	arm(1);
	require_told();
	close_waiter();
}

static void disarmed(void)
{
	open_waiter();
	arm(FOR_EVER);
	REQUIRE(aio_waiter_disarm(waiter) == 1);
	REQUIRE(aio_waiter_disarm(waiter) == 0);
	REQUIRE(aio_eventfd_signal(event_fd) > 0);
	REQUIRE(!told_within(2e6));
	/* What was ready before is found when it is armed again. */
	arm(FOR_EVER);
	require_told();
	close_waiter();
}

static void many_fds(void)
{
	struct pollfd fds[300];
	double until_ns = FOR_EVER;
	int ends[2];

	open_waiter();
	REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
	for (int n = 0; n < 300; n++)
		fds[n] = event;
	fds[299] = (struct pollfd){ ends[0], POLLIN, 0 };
	REQUIRE(aio_waiter_arm(waiter, fds, 300, &until_ns) == 0);
	REQUIRE(!told_within(1e6));
	REQUIRE(write(ends[1], "", 1) == 1);
	require_told();
	/* An array that was copied may change. */
	REQUIRE(aio_waiter_arm(waiter, fds, 299, &until_ns) == 0);
	fds[0].fd = ends[0];
	REQUIRE(!told_within(1e6));
	REQUIRE(close(ends[0]) == 0 && close(ends[1]) == 0);
	close_waiter();
}

/* Armed and disarmed at any moment, no event is missed and none told twice. */
static void any_moment(void)
{
	uint32_t seed = 1, told = 0, taken_back = 0;

	open_waiter();
	for (uint32_t n = 0; n < ROUNDS; n++) {
		char byte;

		seed = seed * 1664525u + 1013904223u;
		arm(FOR_EVER);
		REQUIRE(aio_eventfd_signal(event_fd) > 0);
		for (uint32_t spin = 0; spin < (seed >> 16) % 3000; spin++)
			__asm__ __volatile__("" ::: "memory");
		if (aio_waiter_disarm(waiter)) {
			taken_back++;
		} else {
			require_told();
			told++;
		}
		REQUIRE(recv(told_fd, &byte, 1, MSG_DONTWAIT) == -1);
		REQUIRE(aio_eventfd_drain(event_fd) == 1);
	}
	printf("# told %u times, disarmed before %u times\n", told, taken_back);
	close_waiter();
}

static uint32_t open_fds(void)
{
	DIR *folder = opendir("/proc/self/fd");
	uint32_t count = 0;

	REQUIRE(folder);
	while (readdir(folder))
		count++;
	closedir(folder);
	return count;
}

/* Nobody closes it, but the other end of its socket is closed. */
static void abandoned(void)
{
	uint32_t before = open_fds();

	open_waiter();
	arm(FOR_EVER);
	REQUIRE(close(told_fd) == 0 && close(event_fd) == 0);
	for (int n = 0; open_fds() != before; n++) {
		double pause_ns = 1e6;

		REQUIRE(n < 20000);
		aio_ppoll(NULL, 0, &pause_ns);
	}
}

int main(void)
{
	static const struct check checks[] = {
		{ "ready fd", ready_fd },
		{ "time that is up", time_that_is_up },
		{ "disarmed", disarmed },
		{ "many fds", many_fds },
		{ "any moment", any_moment },
		{ "abandoned", abandoned },
	};

	run_checks(checks, sizeof(checks) / sizeof(checks[0]));
	return 0;
}
