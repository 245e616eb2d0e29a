/*
 * Waking a context from a thread of C: what wakeContext() in
 * src/context_notifier.ts does, for tests and as an example to copy.
 *
 * The numbers of ctx.remote() are all a thread needs: the context's place stands
 * in memory that is never unmapped, 4 * place bytes from the address that board
 * is; generation tells the context from others that have the place afterwards.
 */
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>
#include <unistd.h>

/* The beginning of struct aio_place in shim/aio.h. */
struct remote_context {
	_Atomic uint32_t notified;  /* a wake-up since the loop last looked */
	_Alignas(64) _Atomic uint32_t notify_me; /* the loop sleeps or is about to */
	_Atomic uint32_t users;     /* threads in here, and CLOSED */
	int32_t fd;
	_Atomic uint32_t generation; /* how many contexts have had the place */
};

#define CLOSED 0x80000000u

/*
 * Returns 1, or 0 when the context is disposed. The plain operators of C11
 * atomics are sequentially consistent, and have to be: the store of notified
 * must be visible before notify_me is loaded. Whatever the loop shall find
 * must be stored before the call.
 */
static int wake_context(struct remote_context *remote, uint32_t generation)
{
	uint32_t users = remote->users++;
	uint64_t one = 1;
	int open = !(users & CLOSED) && remote->generation == generation;

	if (open) {
		remote->notified = 1;
		/* EAGAIN means readable already, which is all it takes. */
		if (remote->notify_me && write(remote->fd, &one, 8) < 0)
			one = 0;
	}
	remote->users--;
	return open;
}

static int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ll + now.tv_nsec;
}

struct post {
	_Atomic uint32_t posted, seen;
};

#define LOST_NS 20000000000ll

/*
 * Posts the numbers up to wake_ups, each with a wake-up. Now and then,
 * on average each time in wait_every, waits until the loop has seen the last
 * one and then for up to pause_ns, so that the next finds the loop anywhere
 * between awake and asleep. Returns how many it posted: fewer when the context is disposed;
 * -number when that wake-up was lost.
 */
int32_t run_waker(struct remote_context *remote, uint32_t generation,
		  struct post *post, uint32_t wake_ups, uint32_t wait_every, uint32_t pause_ns,
		  uint32_t seed)
{
	for (uint32_t number = 1; number <= wake_ups; number++) {
		int64_t start;

		post->posted = number;
		if (!wake_context(remote, generation))
			return (int32_t)number - 1;
		seed = seed * 1664525 + 1013904223;
		if ((uint64_t)seed * wait_every >> 32)
			continue;
		start = now_ns();
		while (post->seen != number) {
			if (remote->users & CLOSED || remote->generation != generation)
				return (int32_t)number;
			if (now_ns() - start > LOST_NS)
				return -(int32_t)number;
			/* The loop needs the processor more than we do. */
			usleep(20);
		}
		seed = seed * 1664525 + 1013904223;
		start = now_ns() + ((uint64_t)seed * pause_ns >> 32);
		while (now_ns() < start)
			;
	}
	return (int32_t)wake_ups;
}
