/*
 * That no wake-up is lost between two threads, a guest and its device or a
 * waker and a sleeper: see selftest.c.
 */
#define _GNU_SOURCE
#include "aio.h"
#include "selftest.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

#define REQUESTS 20000
#define ROUNDS 200000

static void *run_guest(void *guest)
{
	return (void *)(intptr_t)aio_guest_run(guest);
}

static uint32_t serve(struct aio_guest *guest, uint32_t used, double *sleep_ns)
{
	struct pollfd kick = { guest->event_fd, POLLIN, 0 };
	struct aio_queue *queue = &guest->queue;
	uint32_t avail = __atomic_load_n(&queue->avail, __ATOMIC_ACQUIRE);

	if (avail == used) {
		/* Kicks on, fence, look again: the partner is publish(). */
		__atomic_store_n(&queue->notifications_off, 0,
				 __ATOMIC_RELAXED);
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		avail = __atomic_load_n(&queue->avail, __ATOMIC_ACQUIRE);
		if (avail == used)
			REQUIRE(aio_ppoll(&kick, 1, sleep_ns) == 1);
		aio_eventfd_drain(guest->event_fd);
		__atomic_store_n(&queue->notifications_off, 1,
				 __ATOMIC_RELAXED);
	}
	REQUIRE(avail - used <= guest->depth);
	for (uint32_t n = used; n != avail; n++)
		REQUIRE(guest->ring[n % AIO_GUEST_SLOTS] < guest->blocks);
	__atomic_store_n(&queue->used, avail, __ATOMIC_RELEASE);
	return avail;
}

/* A device that does nothing but answer; a lost kick costs 30 s and fails. */
static void guest_and_device(void)
{
	static struct aio_guest guest;
	double lost_ns = 30e9;
	pthread_t thread;

	for (uint32_t depth = 1; depth <= AIO_GUEST_SLOTS; depth *= 16) {
		uint32_t start = UINT32_MAX - REQUESTS / 2, used = start;
		uint64_t counted = 0;
		void *result;

		memset(&guest, 0, sizeof(guest));
		guest.queue.avail = guest.queue.used = start;
		guest.event_fd = aio_eventfd();
		guest.depth = depth;
		guest.blocks = 1000;
		REQUIRE(!pthread_create(&thread, NULL, run_guest, &guest));
		while (used - start < REQUESTS)
			used = serve(&guest, used, &lost_ns);
		__atomic_store_n(&guest.stop, 1, __ATOMIC_RELAXED);
		REQUIRE(!pthread_join(thread, &result) && !result);
		for (uint32_t n = 0; n < 896; n++)
			counted += guest.latencies[n];
		REQUIRE(guest.kicks > 0 && counted + depth >= REQUESTS);
		REQUIRE(counted <= guest.queue.avail - start);
		REQUIRE(aio_close(guest.event_fd) == 0);
	}
	/* A kick that fails ends it. */
	memset(&guest, 0, sizeof(guest));
	guest.event_fd = -1;
	guest.depth = guest.blocks = 1;
	REQUIRE(aio_guest_run(&guest) == -EBADF);
}

/*
 * The wake-up protocol of src/context_notifier.ts as a litmus test. In each
 * round a waker and a sleeper store their own word, then load the other's, at
 * the same moment. Both seeing nothing is a lost wake-up: the waker writes no
 * eventfd and the sleeper sleeps.
 */
static struct {
	_Alignas(64) uint32_t notified;
	_Alignas(64) uint32_t notify_me;
	_Alignas(64) uint32_t waker_round, waker_saw;
	_Alignas(64) uint32_t sleeper_round;
} race;

enum ordering { ACCESSES, FENCE, NONE };

static uint32_t store_then_load(enum ordering ordering, uint32_t *mine,
				const uint32_t *others)
{
	if (ordering == ACCESSES) {
		__atomic_store_n(mine, 1, __ATOMIC_SEQ_CST);
		return __atomic_load_n(others, __ATOMIC_SEQ_CST);
	}
	__atomic_store_n(mine, 1, __ATOMIC_RELAXED);
	if (ordering == FENCE)
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return __atomic_load_n(others, __ATOMIC_RELAXED);
}

static void meet(uint32_t *own, uint32_t *other, uint32_t round)
{
	__atomic_store_n(own, round, __ATOMIC_SEQ_CST);
	/* The other may be a step ahead already. */
	for (uint32_t n = 1; __atomic_load_n(other, __ATOMIC_ACQUIRE) < round;)
		if (n++ % 1000 == 0)
			sched_yield();
}

static void *waker(void *ordering)
{
	for (uint32_t round = 1; round < 2 * ROUNDS; round += 2) {
		meet(&race.waker_round, &race.sleeper_round, round);
		race.waker_saw = store_then_load(*(enum ordering *)ordering,
						 &race.notified,
						 &race.notify_me);
		meet(&race.waker_round, &race.sleeper_round, round + 1);
	}
	return NULL;
}

/* How many wake-ups were lost. */
static uint32_t run_race(enum ordering ordering)
{
	uint32_t lost = 0, saw;
	pthread_t thread;

	memset(&race, 0, sizeof(race));
	REQUIRE(!pthread_create(&thread, NULL, waker, &ordering));
	for (uint32_t round = 1; round < 2 * ROUNDS; round += 2) {
		race.notified = race.notify_me = 0;
		meet(&race.sleeper_round, &race.waker_round, round);
		saw = store_then_load(ordering, &race.notify_me,
				      &race.notified);
		meet(&race.sleeper_round, &race.waker_round, round + 1);
		lost += !saw && !race.waker_saw;
	}
	REQUIRE(!pthread_join(thread, NULL));
	return lost;
}

static int emulated;

/*
 * QEMU 7.2 on x86-64 puts no barrier between arm64's stlr and ldar, which the
 * architecture keeps in order: there only the fence (dmb) can be required.
 */
static void wake_up_ordering(void)
{
	uint32_t lost = run_race(ACCESSES);

	printf("# %u of %d wake-ups lost by accesses\n", lost, ROUNDS);
	REQUIRE(lost == 0 || emulated);
	REQUIRE(run_race(FENCE) == 0);
	/* Shows that the test can tell; one processor alone loses none. */
	printf("# %u lost without ordering\n", run_race(NONE));
}

/* The argument "emulated" is for emulators. */
int main(int argc, char **argv)
{
	static const struct check checks[] = {
		{ "guest and device", guest_and_device },
		{ "wake-up ordering", wake_up_ordering },
	};

	emulated = argc > 1 && !strcmp(argv[1], "emulated");
	run_checks(checks, sizeof(checks) / sizeof(checks[0]));
	return 0;
}
