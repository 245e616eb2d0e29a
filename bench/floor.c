/*
 * The floor: the work of `scale` with no idle devices, written by hand in C for
 * exactly one queue. It shows what the machine gives, so that the loop's own
 * cost is the distance to it. The load is the same guest, from shim/guest.c.
 *
 * The device spins on the avail index for as long as the loop would at most.
 * On a miss it turns notifications on, looks once more and blocks in
 * epoll_wait. It knows no other fds, timers or handlers: a floor, not a loop.
 */
#define _GNU_SOURCE
#include "../shim/aio.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

#define POLL_MAX_NS 32768.0
/* Clock reads cost as much as ten looks at a word that stays in the cache. */
#define LOOKS_PER_CLOCK_READ 16
#define LATENCY_BUCKETS 896

struct device {
	struct aio_guest *guest;
	int file;
	int epoll;
	uint32_t block_size;
	uint32_t used;
	char *buffer;
};

static void die(const char *what)
{
	fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void *guest_thread(void *guest)
{
	return (void *)(intptr_t)aio_guest_run(guest);
}

static int has_work(const struct device *device)
{
	return __atomic_load_n(&device->guest->queue.avail, __ATOMIC_ACQUIRE) !=
	       device->used;
}

static void process(struct device *device)
{
	struct aio_guest *guest = device->guest;

	while (has_work(device)) {
		uint32_t block = guest->ring[device->used % AIO_GUEST_SLOTS];

		if (pread(device->file, device->buffer, device->block_size,
			  (off_t)block * device->block_size) !=
		    (ssize_t)device->block_size)
			die("pread");
		__atomic_store_n(&guest->queue.used, ++device->used,
				 __ATOMIC_RELEASE);
	}
}

static int spin(const struct device *device)
{
	double deadline_ns = aio_now() + POLL_MAX_NS;

	do {
		for (int i = 0; i < LOOKS_PER_CLOCK_READ; i++) {
			if (has_work(device))
				return 1;
#if defined(__aarch64__)
			__asm__ __volatile__("yield" ::: "memory");
#else
			__builtin_ia32_pause();
#endif
		}
	} while (aio_now() < deadline_ns);
	return 0;
}

/*
 * The second look is fenced against the store that turns notifications on; its
 * partner is the fence in the guest's publish().
 */
static void wait_for_kick(struct device *device)
{
	struct aio_queue *queue = &device->guest->queue;
	struct epoll_event event;

	__atomic_store_n(&queue->notifications_off, 0, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (!has_work(device)) {
		epoll_wait(device->epoll, &event, 1, 100);
		aio_eventfd_drain(device->guest->event_fd);
	}
	__atomic_store_n(&queue->notifications_off, 1, __ATOMIC_RELAXED);
}

static uint64_t requests(const struct aio_guest *guest)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < LATENCY_BUCKETS; i++)
		sum += guest->latencies[i];
	return sum;
}

/* The middle of the bucket that holds the slowest of 99 in 100 requests. */
static double p99_ns(const struct aio_guest *guest)
{
	uint64_t left = requests(guest) * 99 / 100;
	uint32_t i = 0;

	while (i < LATENCY_BUCKETS - 1 && left >= guest->latencies[i])
		left -= guest->latencies[i++];
	if (i < 64)
		return i;
	return ((i & 31) + 32.5) * (double)(1u << ((i >> 5) - 1));
}

static void open_device(struct device *device, const char *path, uint32_t depth)
{
	struct epoll_event event = { .events = EPOLLIN };
	struct aio_guest *guest = device->guest;
	struct stat status;
	int kick_fd = aio_eventfd();

	device->file = open(path, O_RDONLY | O_CLOEXEC);
	if (device->file < 0 || fstat(device->file, &status) < 0)
		die(path);
	guest->depth = depth;
	guest->blocks = (uint32_t)(status.st_size / device->block_size);
	guest->event_fd = kick_fd;
	guest->queue.notifications_off = 1;
	device->epoll = aio_epoll_create();
	device->buffer = aligned_alloc(4096, device->block_size);
	if (kick_fd < 0 || device->epoll < 0 || !device->buffer ||
	    epoll_ctl(device->epoll, EPOLL_CTL_ADD, kick_fd, &event) < 0)
		die("setup");
}

static void run(struct device *device, double seconds)
{
	struct aio_guest *guest = device->guest;
	double start_ns = aio_now();
	double end_ns = start_ns + seconds * 1e9;
	double elapsed_ns;
	pthread_t thread;

	if (pthread_create(&thread, NULL, guest_thread, guest))
		die("pthread_create");
	while (aio_now() < end_ns) {
		process(device);
		if (!spin(device))
			wait_for_kick(device);
	}
	elapsed_ns = aio_now() - start_ns;
	__atomic_store_n(&guest->stop, 1, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	printf("{\"iops\":%.1f,\"usPerRequest\":%.4f,\"p99Us\":%.3f,"
	       "\"kicksPerRequest\":%.6f}\n",
	       requests(guest) / elapsed_ns * 1e9,
	       elapsed_ns / 1e3 / requests(guest), p99_ns(guest) / 1e3,
	       (double)guest->kicks / requests(guest));
}

int main(int argc, char **argv)
{
	static struct aio_guest guest;
	struct device device = { .guest = &guest, .block_size = 4096 };
	const char *path = NULL;
	double seconds = 5;
	uint32_t depth = 1;

	for (int i = 1; i + 1 < argc; i += 2) {
		if (!strcmp(argv[i], "--file"))
			path = argv[i + 1];
		else if (!strcmp(argv[i], "--seconds"))
			seconds = atof(argv[i + 1]);
		else if (!strcmp(argv[i], "--iodepth"))
			depth = (uint32_t)atoi(argv[i + 1]);
		else if (!strcmp(argv[i], "--bs"))
			device.block_size = (uint32_t)atoi(argv[i + 1]);
	}
	if (!path || seconds <= 0 || !depth || depth > AIO_GUEST_SLOTS ||
	    !device.block_size || device.block_size % 4096) {
		fprintf(stderr, "usage: floor --file PATH [--seconds 5] "
				"[--iodepth 1] [--bs 4096]\n");
		return 2;
	}
	open_device(&device, path, depth);
	run(&device, seconds);
	return 0;
}
