/*
 * The system calls liburing does not wrap, each returning a count or -errno.
 * No retries and no policy: the caller decides what an error means.
 */
#define _GNU_SOURCE
#include "aio.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_epoll_pwait2
#define SYS_epoll_pwait2 441
#endif

/* Longer waits are cut to this; the caller then simply waits again. */
#define TIMEOUT_MAX_NS 4e18

static int32_t result(long value)
{
	return (int32_t)(value < 0 ? -errno : value);
}

/* A negative timeout waits forever, which the kernel spells NULL. */
static struct timespec *to_timespec(double ns, struct timespec *out)
{
	if (ns < 0)
		return NULL;
	if (ns > TIMEOUT_MAX_NS)
		ns = TIMEOUT_MAX_NS;
	out->tv_sec = (time_t)(ns / 1e9);
	out->tv_nsec = (long)(ns - (double)out->tv_sec * 1e9);
	if (out->tv_nsec > 999999999)
		out->tv_nsec = 999999999;
	return out;
}

int32_t aio_eventfd(void)
{
	return result(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
}

int32_t aio_eventfd_signal(int32_t fd)
{
	uint64_t one = 1;

	return result(write(fd, &one, sizeof(one)));
}

/* 1 when the counter was not 0, 0 when it was. */
int32_t aio_eventfd_drain(int32_t fd)
{
	uint64_t value;
	ssize_t length = read(fd, &value, sizeof(value));

	return length > 0 ? 1 : errno == EAGAIN ? 0 : -errno;
}

int32_t aio_close(int32_t fd)
{
	return result(close(fd));
}

/* -EBADF when the fd is not open, its flags when it is. */
int32_t aio_fd_check(int32_t fd)
{
	return result(fcntl(fd, F_GETFD));
}

int32_t aio_epoll_create(void)
{
	return result(epoll_create1(EPOLL_CLOEXEC));
}

int32_t aio_epoll_ctl(int32_t epoll_fd, int32_t op, int32_t fd,
		      uint32_t events, uint32_t data)
{
	struct epoll_event event = { .events = events, .data.u32 = data };

	return result(epoll_ctl(epoll_fd, op, fd, &event));
}

/*
 * Nanosecond timeouts need epoll_pwait2 of Linux 5.11. Before it, ppoll on the
 * epoll fd keeps the precision at the price of a second call.
 */
int32_t aio_epoll_wait(int32_t epoll_fd, void *events, uint32_t capacity,
		       const double *timeout_ns)
{
	struct timespec storage;
	struct timespec *timeout = to_timespec(*timeout_ns, &storage);
	struct pollfd self = { .fd = epoll_fd, .events = POLLIN };
	long count;

	if (*timeout_ns == 0)
		return result(epoll_wait(epoll_fd, events, (int)capacity, 0));
	count = syscall(SYS_epoll_pwait2, epoll_fd, events, (int)capacity,
			timeout, NULL, 0);
	if (count >= 0 || errno != ENOSYS)
		return result(count);
	count = ppoll(&self, 1, timeout, NULL);
	if (count <= 0)
		return result(count);
	return result(epoll_wait(epoll_fd, events, (int)capacity, 0));
}

int32_t aio_ppoll(void *fds, uint32_t count, const double *timeout_ns)
{
	struct timespec storage;

	return result(ppoll(fds, count, to_timespec(*timeout_ns, &storage),
			    NULL));
}

/*
 * What the page cache has, at once: -EAGAIN where a disk would have to be
 * waited for, and perhaps less than there is.
 */
int32_t aio_pread_cached(int32_t fd, uint8_t *buffer, uint32_t start,
			 uint32_t length, double offset)
{
	struct iovec part = { buffer + start, length };

	return result(preadv2(fd, &part, 1, (off_t)offset, RWF_NOWAIT));
}

int32_t aio_pread(int32_t fd, void *buffer, uint32_t length, double offset)
{
	return result(pread(fd, buffer, length, (off_t)offset));
}
