/*
 * What an event through an fd costs without a loop: an eventfd written, seen
 * by epoll_wait and read, on one thread. The baseline of iteration_bench.ts.
 */
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* An epoll instance that watches an eventfd, in the halves of the result. */
int64_t floor_open(void)
{
	struct epoll_event event = { .events = EPOLLIN };
	int fd = eventfd(0, EFD_NONBLOCK), epoll = epoll_create1(0);

	if (fd < 0 || epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event))
		return -1;
	return (int64_t)epoll << 32 | fd;
}

/* One event; 0, or -1 when it did not come through. */
int32_t floor_event(int32_t epoll, int32_t fd)
{
	struct epoll_event event;
	uint64_t value = 1;

	if (write(fd, &value, sizeof(value)) != sizeof(value) ||
	    epoll_wait(epoll, &event, 1, -1) != 1 ||
	    read(fd, &value, sizeof(value)) != sizeof(value))
		return -1;
	return 0;
}
