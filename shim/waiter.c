/*
 * A thread that waits for fds in place of a loop whose own thread belongs to
 * somebody else meanwhile, and then sends that one a byte.
 *
 * The loop's thread arms it with a copy of what to wait for, and disarms it
 * when it has found something to do by itself. All but the thread's own array
 * is guarded by the lock. The eventfd gets the thread out of its wait; it is
 * written after every change and drained before the change is looked at, so
 * none is missed. A byte that was on its way when the loop disarmed still
 * comes: whoever gets it has to see for himself whether he waits.
 *
 * Nobody has to be there to close it: where the other end of its socket is
 * closed, as when the loop's thread is killed, it gives all back and ends.
 */
#define _GNU_SOURCE
#include "aio.h"
#include "thread.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* Places of fds of its own in front of those it waits for. */
#define WAKE 0
#define PEER 1
#define OWN 2

struct waiter {
	/* Set by open. */
	pthread_t thread;
	int32_t wake_fd, peer_fd;
	/* Guarded by the lock. */
	pthread_mutex_t lock;
	struct pollfd *fds;
	uint32_t count, capacity;
	double until_ns; /* negative: for ever */
	uint32_t armed;  /* number of the arming; 0: not armed */
	uint32_t armings, closing;
};

static void release(struct waiter *waiter)
{
	pthread_mutex_destroy(&waiter->lock);
	aio_close(waiter->wake_fd);
	aio_close(waiter->peer_fd);
	free(waiter->fds);
	free(waiter);
}

/* Its own fds and, where it is armed, a copy of the others. */
static struct pollfd *copy_fds(const struct waiter *waiter, uint32_t count,
			       struct pollfd *copy)
{
	struct pollfd *fds = realloc(copy, (count + OWN) * sizeof(*fds));

	if (!fds)
		return NULL;
	fds[WAKE] = (struct pollfd){ waiter->wake_fd, POLLIN, 0 };
	/* Its end is told of without being asked for. */
	fds[PEER] = (struct pollfd){ waiter->peer_fd, 0, 0 };
	memcpy(fds + OWN, waiter->fds, count * sizeof(*fds));
	return fds;
}

/* True where something has happened that was waited for. */
static int wait_for(struct pollfd *fds, uint32_t count, double until_ns)
{
	double left_ns = until_ns < 0 ? -1 : until_ns - aio_now();
	int32_t ready, own;

	if (until_ns >= 0 && left_ns < 0)
		left_ns = 0;
	ready = aio_ppoll(fds, count, &left_ns);
	own = (fds[WAKE].revents != 0) + (fds[PEER].revents != 0);
	return ready != -EINTR && (ready <= 0 || ready > own);
}

static void *wait_and_tell(void *argument)
{
	struct waiter *waiter = argument;
	struct pollfd *fds = NULL;
	int abandoned = 0;

	pthread_mutex_lock(&waiter->lock);
	while (!waiter->closing && !abandoned) {
		uint32_t arming = waiter->armed;
		uint32_t count = arming ? waiter->count : 0;
		double until_ns = arming ? waiter->until_ns : -1;
		struct pollfd *copy = copy_fds(waiter, count, fds);
		/* Without memory for a copy the loop has to look by itself. */
		int happened = 1;

		pthread_mutex_unlock(&waiter->lock);
		if (copy) {
			fds = copy;
			happened = wait_for(fds, count + OWN, until_ns);
			abandoned = fds[PEER].revents != 0;
		}
		aio_eventfd_drain(waiter->wake_fd);
		pthread_mutex_lock(&waiter->lock);
		if (happened && arming && waiter->armed == arming) {
			waiter->armed = 0;
			/* A full socket has bytes enough. */
			send(waiter->peer_fd, "", 1,
			     MSG_DONTWAIT | MSG_NOSIGNAL);
		}
	}
	abandoned = !waiter->closing;
	pthread_mutex_unlock(&waiter->lock);
	free(fds);
	if (abandoned) {
		pthread_detach(pthread_self());
		release(waiter);
	}
	return NULL;
}

/* fd is the end of the socket that gets the bytes; the caller closes it. */
int32_t aio_waiter_open(int32_t *fd, void **handle)
{
	struct waiter *waiter = calloc(1, sizeof(*waiter));
	int ends[2];
	int error;

	if (!waiter)
		return -ENOMEM;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends)) {
		error = errno;
		free(waiter);
		return -error;
	}
	waiter->peer_fd = ends[0];
	waiter->wake_fd = aio_eventfd();
	error = waiter->wake_fd < 0 ? -waiter->wake_fd : 0;
	pthread_mutex_init(&waiter->lock, NULL);
	if (!error)
		error = aio_start_thread(&waiter->thread, wait_and_tell,
					 waiter);
	if (error) {
		close(ends[1]);
		release(waiter);
		return -error;
	}
	*fd = ends[1];
	*handle = waiter;
	return 0;
}

/* Waits for one of the fds, or until the clock has got to until_ns. */
int32_t aio_waiter_arm(void *handle, const void *fds, uint32_t count,
		       const double *until_ns)
{
	struct waiter *waiter = handle;

	pthread_mutex_lock(&waiter->lock);
	if (count > waiter->capacity) {
		struct pollfd *larger;

		larger = realloc(waiter->fds, count * sizeof(*larger));
		if (!larger) {
			pthread_mutex_unlock(&waiter->lock);
			return -ENOMEM;
		}
		waiter->fds = larger;
		waiter->capacity = count;
	}
	memcpy(waiter->fds, fds, count * sizeof(*waiter->fds));
	waiter->count = count;
	waiter->until_ns = *until_ns;
	if (!++waiter->armings)
		waiter->armings = 1;
	waiter->armed = waiter->armings;
	pthread_mutex_unlock(&waiter->lock);
	/* It cannot fail: an eventfd that is full is readable. */
	aio_eventfd_signal(waiter->wake_fd);
	return 0;
}

/* 1 where it was still waiting, 0 where a byte has been sent. */
int32_t aio_waiter_disarm(void *handle)
{
	struct waiter *waiter = handle;
	int32_t armed;

	pthread_mutex_lock(&waiter->lock);
	armed = waiter->armed != 0;
	waiter->armed = 0;
	pthread_mutex_unlock(&waiter->lock);
	/* The thread need not know at once: it finds out when it wakes up. */
	return armed;
}

/* To be called while the other end of the socket is open. */
void aio_waiter_close(void *handle)
{
	struct waiter *waiter = handle;

	pthread_mutex_lock(&waiter->lock);
	waiter->closing = 1;
	pthread_mutex_unlock(&waiter->lock);
	aio_eventfd_signal(waiter->wake_fd);
	pthread_join(waiter->thread, NULL);
	release(waiter);
}
