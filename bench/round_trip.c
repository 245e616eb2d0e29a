/*
 * How long does a message take to a thread that sleeps in epoll_wait, and the
 * answer back to one that does as well? Each has an eventfd to be woken by;
 * what is said stands in memory they share.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define ROUND_TRIPS 5000

/* A thread's end: what it is told, and how it is woken. */
struct end {
	_Alignas(64) uint32_t message;
	int event_fd, epoll_fd;
};

static struct end ends[2];

static double now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

static int compare(const void *a, const void *b)
{
	double left = *(const double *)a, right = *(const double *)b;

	return (left > right) - (left < right);
}

static int open_end(struct end *end)
{
	struct epoll_event event = { .events = EPOLLIN };

	end->event_fd = eventfd(0, EFD_NONBLOCK);
	end->epoll_fd = epoll_create1(0);
	return end->event_fd < 0 || end->epoll_fd < 0 ||
	       epoll_ctl(end->epoll_fd, EPOLL_CTL_ADD, end->event_fd, &event);
}

static void tell(struct end *end, uint32_t message)
{
	uint64_t one = 1;

	__atomic_store_n(&end->message, message, __ATOMIC_SEQ_CST);
	if (write(end->event_fd, &one, sizeof(one)) != sizeof(one))
		abort();
}

static void wait_for(struct end *end, uint32_t message)
{
	struct epoll_event event;
	uint64_t value;

	while (__atomic_load_n(&end->message, __ATOMIC_SEQ_CST) != message) {
		if (epoll_wait(end->epoll_fd, &event, 1, -1) == 1 &&
		    read(end->event_fd, &value, sizeof(value)) < 0)
			abort();
	}
}

static void *answer(void *unused)
{
	for (uint32_t number = 1; number <= ROUND_TRIPS; number++) {
		wait_for(&ends[1], number);
		tell(&ends[0], number);
	}
	return unused;
}

int main(void)
{
	static double times[ROUND_TRIPS];
	pthread_t thread;

	if (open_end(&ends[0]) || open_end(&ends[1]) ||
	    pthread_create(&thread, NULL, answer, NULL)) {
		perror("round_trip");
		return 1;
	}
	for (uint32_t number = 1; number <= ROUND_TRIPS; number++) {
		double start = now_ns();

		tell(&ends[1], number);
		wait_for(&ends[0], number);
		times[number - 1] = now_ns() - start;
	}
	pthread_join(thread, NULL);
	qsort(times, ROUND_TRIPS, sizeof(*times), compare);
	printf("{\"value\":%.3f}\n", times[ROUND_TRIPS / 2] / 1e3);
	return 0;
}
