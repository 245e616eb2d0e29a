/*
 * How long does a sleeping loop take to answer an eventfd? The thread that asks
 * is the same for our loop, which runs this file as a library, and for the
 * floor: an epoll_wait loop for exactly one fd, which is this file as a program.
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

/* Long enough for the loop to be asleep when it is asked. */
#define PAUSE_NS 60000.0
#define WAKE_UPS 500

/* One cache line for each writer. */
struct questions {
	uint32_t asked;
	_Alignas(64) uint32_t answered;
};

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

/* The median time to an answer, in ns; negative when it cannot ask. */
double wake_up_run(struct questions *questions, int32_t fd, uint32_t count)
{
	double *times = calloc(count, sizeof(*times));
	double median = -1;
	uint64_t one = 1;

	for (uint32_t i = 0; times && i < count; i++) {
		double start = now_ns();

		while (now_ns() - start < PAUSE_NS)
			;
		start = now_ns();
		__atomic_store_n(&questions->asked, i + 1, __ATOMIC_RELEASE);
		if (write(fd, &one, sizeof(one)) != sizeof(one))
			goto out;
		while (__atomic_load_n(&questions->answered,
				       __ATOMIC_ACQUIRE) != i + 1)
			;
		times[i] = now_ns() - start;
	}
	if (times) {
		qsort(times, count, sizeof(*times), compare);
		median = times[count / 2];
	}
out:
	free(times);
	return median;
}

struct asking {
	struct questions questions;
	int fd;
	double median_ns;
};

static void *ask(void *asking_)
{
	struct asking *asking = asking_;

	asking->median_ns =
		wake_up_run(&asking->questions, asking->fd, WAKE_UPS);
	return NULL;
}

int main(void)
{
	static struct asking asking;
	struct epoll_event event = { .events = EPOLLIN };
	struct questions *questions = &asking.questions;
	int epoll = epoll_create1(0);
	pthread_t thread;
	uint64_t value;

	asking.fd = eventfd(0, EFD_NONBLOCK);
	if (epoll < 0 || asking.fd < 0 ||
	    epoll_ctl(epoll, EPOLL_CTL_ADD, asking.fd, &event) < 0 ||
	    pthread_create(&thread, NULL, ask, &asking)) {
		perror("wake_up");
		return 1;
	}
	while (questions->answered != WAKE_UPS) {
		if (epoll_wait(epoll, &event, 1, -1) != 1 ||
		    read(asking.fd, &value, sizeof(value)) != sizeof(value))
			continue;
		__atomic_store_n(&questions->answered,
				 __atomic_load_n(&questions->asked,
						 __ATOMIC_ACQUIRE),
				 __ATOMIC_RELEASE);
	}
	pthread_join(thread, NULL);
	printf("{\"value\":%.1f}\n", asking.median_ns);
	return 0;
}
