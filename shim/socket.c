/*
 * Sockets, and the other kinds of fd that an event loop watches: making them
 * and setting them up, each call returning a count or -errno. What transfers
 * data is in requests, or is one of the three calls at the end.
 */
#define _GNU_SOURCE
#include "aio.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

/* What a timespec is given at most: 292 years, the most of an int64_t. */
#define TIME_MAX_NS 9.2e18

static int32_t result(long value)
{
	return (int32_t)(value < 0 ? -errno : value);
}

int32_t aio_socket(int32_t domain, int32_t type, int32_t protocol)
{
	return result(socket(domain, type, protocol));
}

int32_t aio_bind(int32_t fd, const void *address, uint32_t length)
{
	return result(bind(fd, address, length));
}

int32_t aio_listen(int32_t fd, int32_t backlog)
{
	return result(listen(fd, backlog));
}

/* -EINPROGRESS: writable once it is decided, and SO_ERROR tells how. */
int32_t aio_connect(int32_t fd, const void *address, uint32_t length)
{
	return result(connect(fd, address, length));
}

int32_t aio_shutdown(int32_t fd, int32_t how)
{
	return result(shutdown(fd, how));
}

int32_t aio_setsockopt_int(int32_t fd, int32_t level, int32_t name,
			   int32_t value)
{
	return result(setsockopt(fd, level, name, &value, sizeof(value)));
}

int32_t aio_getsockopt_int(int32_t fd, int32_t level, int32_t name,
			   int32_t *value)
{
	socklen_t length = sizeof(*value);

	*value = 0;
	return result(getsockopt(fd, level, name, value, &length));
}

/* Both return the length of the whole address, also where it was cut. */
int32_t aio_getsockname(int32_t fd, void *address, uint32_t capacity)
{
	socklen_t length = capacity;

	if (getsockname(fd, address, &length) < 0)
		return -errno;
	return (int32_t)length;
}

int32_t aio_getpeername(int32_t fd, void *address, uint32_t capacity)
{
	socklen_t length = capacity;

	if (getpeername(fd, address, &length) < 0)
		return -errno;
	return (int32_t)length;
}

/* For commands that take an int or nothing: F_DUPFD_CLOEXEC, F_SETFL. */
int32_t aio_fcntl_int(int32_t fd, int32_t command, int32_t argument)
{
	return result(fcntl(fd, command, argument));
}

int32_t aio_pipe(int32_t *fds, int32_t flags)
{
	return result(pipe2(fds, flags));
}

int32_t aio_timerfd_create(int32_t clock, int32_t flags)
{
	return result(timerfd_create(clock, flags));
}

static struct timespec from_ns(double ns)
{
	int64_t whole = (int64_t)(ns < TIME_MAX_NS ? ns : TIME_MAX_NS);

	return (struct timespec){ .tv_sec = whole / 1000000000,
				  .tv_nsec = whole % 1000000000 };
}

/* A first_ns of 0 disarms, an interval_ns of 0 means once. */
int32_t aio_timerfd_settime(int32_t fd, int32_t flags, double first_ns,
			    double interval_ns)
{
	struct itimerspec times = { .it_value = from_ns(first_ns),
				    .it_interval = from_ns(interval_ns) };

	return result(timerfd_settime(fd, flags, &times, NULL));
}

int32_t aio_pidfd_open(int32_t pid, uint32_t flags)
{
	return result(syscall(SYS_pidfd_open, pid, flags));
}

int32_t aio_pidfd_send_signal(int32_t fd, int32_t signal)
{
	return result(syscall(SYS_pidfd_send_signal, fd, signal, NULL, 0));
}

int32_t aio_memfd_create(const char *name, uint32_t flags)
{
	return result(memfd_create(name, flags));
}

/* Beyond the limit of sizes the kernel would send SIGXFSZ, which kills. */
int32_t aio_ftruncate(int32_t fd, double length)
{
	struct rlimit limit;

	if (!getrlimit(RLIMIT_FSIZE, &limit) &&
	    length > (double)limit.rlim_cur)
		return -EFBIG;
	return result(ftruncate(fd, (off_t)length));
}

int32_t aio_read(int32_t fd, void *buffer, uint32_t length)
{
	return result(read(fd, buffer, length));
}

int32_t aio_sendmsg(int32_t fd, const void *message, int32_t flags)
{
	return result(sendmsg(fd, message, flags));
}

int32_t aio_recvmsg(int32_t fd, void *message, int32_t flags)
{
	return result(recvmsg(fd, message, flags));
}
