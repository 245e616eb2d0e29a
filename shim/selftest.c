/*
 * What the shim promises, checked in C: for machines on which Deno does not
 * run, as arm64 under an emulator. tests/selftest_test.ts links it against the
 * very bytes that are shipped. It is no part of the library.
 *
 * Each check prints "ok N name". The first failure says where and exits 1.
 */
#define _GNU_SOURCE
#include "aio.h"
#include "selftest.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define WORDS 67 /* of each width: no multiple of a vector's or a line's */
#define REQUESTS 20000
#define ROUNDS 200000

static struct {
	uint16_t w16[WORDS];
	uint32_t w32[WORDS];
	uint64_t w64[WORDS];
	struct aio_poll_word p16[WORDS], p32[WORDS], p64[WORDS];
	uint32_t head, tail, flags, notified, hits[3 * WORDS + 1];
	struct aio_spin spin;
} at;

/* A spin over all words, none of which has changed. */
static struct aio_spin *quiet(double deadline_ns)
{
	memset(&at, 0, sizeof(at));
	for (uint32_t i = 0; i < WORDS; i++) {
		at.w16[i] = (uint16_t)(i * 977);
		at.w32[i] = i * 40503u;
		at.w64[i] = i * 0x9e3779b97f4a7c15u;
		at.p16[i] = (struct aio_poll_word){ &at.w16[i], at.w16[i] };
		at.p32[i] = (struct aio_poll_word){ &at.w32[i], at.w32[i] };
		at.p64[i] = (struct aio_poll_word){ &at.w64[i], at.w64[i] };
	}
	at.hits[3 * WORDS] = 0xabcdef;
	at.spin = (struct aio_spin){
		.cq_head = &at.head, .cq_tail = &at.tail,
		.sq_flags = &at.flags, .notified = &at.notified,
		.words16 = at.p16, .words32 = at.p32, .words64 = at.p64,
		.hits = at.hits, .count16 = WORDS, .count32 = WORDS,
		.count64 = WORDS, .sq_flags_mask = 6,
		.deadline_ns = deadline_ns,
	};
	return &at.spin;
}

static void one_pass(void)
{
	double before = aio_now();

	REQUIRE(aio_spin(quiet(1)) == 0 && at.spin.hit_count == 0);
	REQUIRE(at.spin.end_ns >= before && at.spin.end_ns <= aio_now());
	for (double deadline_ns = AIO_SPIN_PASS;
	     deadline_ns <= AIO_SPIN_LAST_CHANCE; deadline_ns++) {
		REQUIRE(aio_spin(quiet(deadline_ns)) == 0);
		REQUIRE(at.spin.hit_count == 0 && at.spin.end_ns == 0);
		quiet(deadline_ns)->words32[1].seen++;
		REQUIRE(aio_spin(&at.spin) == AIO_SPIN_HIT);
		REQUIRE(at.spin.end_ns == 0);
	}
}

static void deadline(void)
{
	double until = aio_now() + 2e6;

	REQUIRE(aio_spin(quiet(until)) == 0);
	REQUIRE(at.spin.end_ns >= until);
	/* Without any words the clock is read as seldom as can be. */
	until = aio_now() + 1e5;
	quiet(until);
	at.spin.count16 = at.spin.count32 = at.spin.count64 = 0;
	REQUIRE(aio_spin(&at.spin) == 0 && at.spin.end_ns >= until);
}

/* A hit needs the time only where a pass takes long. */
static void time_of_a_hit(void)
{
	static struct aio_poll_word many[600];
	double before = aio_now();

	quiet(before + 1e12);
	at.tail = 1;
	REQUIRE(aio_spin(&at.spin) == AIO_SPIN_CQ && at.spin.end_ns == 0);
	for (uint32_t i = 0; i < 600; i++)
		many[i] = at.p16[0];
	at.spin.words16 = many;
	at.spin.count16 = 600;
	REQUIRE(aio_spin(&at.spin) == AIO_SPIN_CQ);
	REQUIRE(at.spin.end_ns >= before && at.spin.end_ns <= aio_now());
}

static void require_hit(uint32_t table, uint32_t index)
{
	REQUIRE(aio_spin(&at.spin) == AIO_SPIN_HIT);
	REQUIRE(at.spin.hit_count == 1);
	REQUIRE(at.hits[0] == (table << 30 | index));
}

/* Every bit of a word counts, and none of its neighbours. */
static void each_word(void)
{
	for (uint32_t i = 0; i < WORDS; i++) {
		for (uint32_t bit = 0; bit < 64; bit += 15) {
			double end = bit & 1 ? 0 : aio_now() + 1e12;

			quiet(end)->words16[i].seen ^= 1u << bit % 16;
			require_hit(0, i);
			quiet(end);
			at.w32[i] ^= 1u << bit % 32;
			require_hit(1, i);
			quiet(end);
			at.w64[i] ^= (uint64_t)1 << bit;
			require_hit(2, i);
		}
		/* What stands above the width of a word is not compared. */
		quiet(0)->words16[i].seen |= 0x10000;
		at.p32[i].seen |= (uint64_t)1 << 32;
		REQUIRE(aio_spin(&at.spin) == 0);
	}
	/* Words behind the counts are not looked at. */
	quiet(0);
	at.spin.count16 = at.spin.count32 = at.spin.count64 = WORDS - 1;
	at.w16[WORDS - 1]++, at.w32[WORDS - 1]++, at.w64[WORDS - 1]++;
	REQUIRE(aio_spin(&at.spin) == 0);
}

static void several_words(void)
{
	quiet(0);
	for (uint32_t i = 0; i < WORDS; i += WORDS - 1)
		at.w16[i]++, at.w32[i]++, at.w64[i]++;
	at.tail = 1;
	REQUIRE(aio_spin(&at.spin) == (AIO_SPIN_HIT | AIO_SPIN_CQ));
	REQUIRE(at.spin.hit_count == 6);
	for (uint32_t n = 0; n < 6; n++)
		REQUIRE(at.hits[n] ==
			(n / 2 << 30 | (n % 2 ? WORDS - 1 : 0)));
	quiet(0);
	for (uint32_t i = 0; i < WORDS; i++)
		at.w16[i]++, at.w32[i]++, at.w64[i]++;
	REQUIRE(aio_spin(&at.spin) == AIO_SPIN_HIT);
	REQUIRE(at.spin.hit_count == 3 * WORDS);
	REQUIRE(at.hits[3 * WORDS - 1] == (2u << 30 | (WORDS - 1)));
	REQUIRE(at.hits[3 * WORDS] == 0xabcdef);
}

static void queue_and_notifier(void)
{
	quiet(1e18)->cq_tail = &at.w32[1];
	REQUIRE(aio_spin(&at.spin) == AIO_SPIN_CQ);
	quiet(1e18);
	at.head = 0xffffffff;
	REQUIRE(aio_spin(&at.spin) == AIO_SPIN_CQ);
	quiet(0);
	at.flags = 1 | 8; /* outside the mask */
	REQUIRE(aio_spin(&at.spin) == 0);
	at.flags = 4;
	REQUIRE(aio_spin(&at.spin) == AIO_SPIN_SQ_FLAGS);
	quiet(1e18);
	at.notified = 1;
	REQUIRE(aio_spin(&at.spin) == AIO_SPIN_NOTIFIED);
}

static void *change_later(void *word)
{
	usleep(1000);
	__atomic_store_n((uint32_t *)word, 0x5eed, __ATOMIC_RELEASE);
	return NULL;
}

static void other_thread(void)
{
	uint32_t *words[] = { &at.w32[WORDS - 1], &at.tail, &at.flags,
			      &at.notified };
	int32_t bits[] = { AIO_SPIN_HIT, AIO_SPIN_CQ, AIO_SPIN_SQ_FLAGS,
			   AIO_SPIN_NOTIFIED };
	pthread_t thread;

	for (uint32_t n = 0; n < 4; n++) {
		quiet(1e18)->sq_flags_mask = UINT32_MAX;
		REQUIRE(!pthread_create(&thread, NULL, change_later, words[n]));
		REQUIRE(aio_spin(&at.spin) == bits[n]);
		REQUIRE(!pthread_join(thread, NULL));
	}
}

static void clock_twice(void)
{
	double into = 0, before = aio_now();

	aio_now_into(&into);
	REQUIRE(before > 0 && into >= before && aio_now() >= into);
}

static void event_fd(void)
{
	int32_t fd = aio_eventfd();

	REQUIRE(fd >= 0 && aio_fd_check(fd) == 1 /* FD_CLOEXEC */);
	REQUIRE(aio_eventfd_drain(fd) == 0);
	REQUIRE(aio_eventfd_signal(fd) == 8 && aio_eventfd_signal(fd) == 8);
	REQUIRE(aio_eventfd_drain(fd) == 1 && aio_eventfd_drain(fd) == 0);
	REQUIRE(aio_close(fd) == 0);
}

static void errors(void)
{
	int32_t fd = aio_eventfd(), epoll = aio_epoll_create();
	uint64_t most = UINT64_MAX - 1;
	double now = 0;
	char byte;

	REQUIRE(write(fd, &most, 8) == 8);
	REQUIRE(aio_eventfd_signal(fd) == -EAGAIN);
	REQUIRE(aio_pread(fd, &byte, 1, 0) == -ESPIPE);
	REQUIRE(aio_epoll_ctl(epoll, 2, fd, 0, 0) == -ENOENT);
	REQUIRE(aio_epoll_ctl(epoll, 99, fd, 0, 0) == -EINVAL);
	REQUIRE(aio_close(fd) == 0 && aio_close(fd) == -EBADF);
	REQUIRE(aio_fd_check(fd) == -EBADF && aio_fd_check(-1) == -EBADF);
	REQUIRE(aio_eventfd_signal(fd) == -EBADF);
	REQUIRE(aio_eventfd_drain(fd) == -EBADF);
	REQUIRE(aio_epoll_ctl(epoll, 1, fd, 1, 0) == -EBADF);
	REQUIRE(aio_epoll_wait(epoll, &byte, 0, &now) == -EINVAL);
	REQUIRE(aio_close(epoll) == 0);
	REQUIRE(aio_epoll_wait(epoll, &byte, 1, &now) == -EBADF);
}

static void epoll_events(void)
{
	int32_t epoll = aio_epoll_create(), fds[3];
	double timeouts[] = { 0, 3e6, -1 }, before;
	struct epoll_event events[4];
	uint32_t data = 0;

	for (uint32_t n = 0; n < 3; n++) {
		fds[n] = aio_eventfd();
		REQUIRE(!aio_epoll_ctl(epoll, 1, fds[n], EPOLLIN, 1u << n));
	}
	for (uint32_t n = 0; n < 2; n++) {
		before = aio_now();
		REQUIRE(aio_epoll_wait(epoll, events, 4, &timeouts[n]) == 0);
		REQUIRE(aio_now() - before >= timeouts[n]);
	}
	REQUIRE(aio_eventfd_signal(fds[0]) == 8);
	REQUIRE(aio_eventfd_signal(fds[2]) == 8);
	REQUIRE(!aio_epoll_ctl(epoll, 3, fds[2], EPOLLIN | EPOLLOUT, ~0u));
	for (uint32_t n = 0; n < 3; n++) {
		memset(events, 0, sizeof(events));
		REQUIRE(aio_epoll_wait(epoll, events, 4, &timeouts[n]) == 2);
		data = events[0].data.u32 == 1 ? 1 : 0;
		REQUIRE(events[1 - data].data.u32 == 1);
		REQUIRE(events[1 - data].events == EPOLLIN);
		REQUIRE(events[data].data.u32 == ~0u);
		REQUIRE(events[data].events == (EPOLLIN | EPOLLOUT));
	}
	REQUIRE(aio_epoll_wait(epoll, events, 1, &timeouts[0]) == 1);
	for (uint32_t n = 0; n < 3; n++)
		REQUIRE(!aio_epoll_ctl(epoll, 2, fds[n], 0, 0) &&
			!aio_close(fds[n]));
	REQUIRE(aio_epoll_wait(epoll, events, 4, &timeouts[0]) == 0);
	REQUIRE(aio_close(epoll) == 0);
}

static void ppoll_fds(void)
{
	struct pollfd fds[] = { { aio_eventfd(), POLLIN, 0 },
				{ aio_eventfd(), POLLIN | POLLOUT, 0 },
				{ -1, POLLIN, 0 } };
	double timeouts[] = { 0, 3e6, -1, 1e300 }, before = aio_now();

	REQUIRE(aio_ppoll(fds, 1, &timeouts[1]) == 0);
	REQUIRE(aio_now() - before >= timeouts[1]);
	REQUIRE(aio_ppoll(fds, 1, &timeouts[0]) == 0);
	for (uint32_t n = 0; n < 4; n++) {
		REQUIRE(aio_ppoll(fds, 3, &timeouts[n]) == 1);
		REQUIRE(!fds[0].revents && fds[1].revents == POLLOUT);
	}
	REQUIRE(aio_close(fds[1].fd) == 0);
	REQUIRE(aio_ppoll(fds, 2, &timeouts[2]) == 1);
	REQUIRE(fds[1].revents == POLLNVAL);
	REQUIRE(aio_close(fds[0].fd) == 0);
}

static void read_at_offset(void)
{
	FILE *file = tmpfile();
	char text[5] = "";
	int32_t got;

	REQUIRE(file && fputs("0123456789", file) >= 0 && !fflush(file));
	REQUIRE(aio_pread(fileno(file), text, 3, 4) == 3);
	REQUIRE(!strcmp(text, "456"));
	REQUIRE(aio_pread(fileno(file), text, 3, 8589934592.0) == 0);
	/* Just written, so it is cached, but not every kernel can tell. */
	memset(text, 0, sizeof(text));
	got = aio_pread_cached(fileno(file), (uint8_t *)text, 1, 3, 4);
	REQUIRE(got == 3 ? !memcmp(text, "\000456", 4) : got == -EOPNOTSUPP);
	fclose(file);
}

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

/* What SIGUSR1 does where nobody has taken it. */
static volatile sig_atomic_t missed;

static void miss(int signal)
{
	(void)signal;
	missed++;
}

static void signals_to_a_pipe(void)
{
	struct aio_signal record;
	int32_t fds[2];
	int count = 0;

	signal(SIGUSR1, miss);
	REQUIRE(aio_pipe(fds, O_CLOEXEC | O_NONBLOCK) == 0);
	REQUIRE(aio_signal_take(0, fds[1]) == -EINVAL);
	REQUIRE(aio_signal_take(AIO_SIGNAL_MAX + 1, fds[1]) == -EINVAL);
	REQUIRE(aio_signal_take(SIGUSR1, -1) == -EINVAL);
	for (int twice = 0; twice < 2; twice++)
		REQUIRE(aio_signal_take(SIGKILL, fds[1]) == -EINVAL);
	REQUIRE(aio_signal_take(SIGUSR1, fds[1]) == 0);
	REQUIRE(aio_signal_take(SIGUSR1, fds[1]) == -EBUSY);
	errno = 0;
	for (int n = 0; n < 5000; n++)
		raise(SIGUSR1);
	REQUIRE(errno == 0);
	while (aio_read(fds[0], &record, sizeof(record)) > 0) {
		REQUIRE(record.signal == SIGUSR1);
		REQUIRE(record.code == SI_TKILL);
		REQUIRE(record.pid == getpid());
		REQUIRE(record.uid == getuid());
		count++;
	}
	printf("# %d of 5000 signals had room in a pipe\n", count);
	REQUIRE(count >= 256 && count <= 4096);
	REQUIRE(missed == 0);
	REQUIRE(aio_signal_release(0) == -EINVAL);
	REQUIRE(aio_signal_release(SIGUSR1) == 0);
	raise(SIGUSR1);
	REQUIRE(missed == 1);
	REQUIRE(aio_read(fds[0], &record, sizeof(record)) == -EAGAIN);
	close(fds[0]);
	close(fds[1]);
}

static struct {
	int32_t raiser; /* its thread id */
	int32_t released;
} pending;

static void *raiser(void *unused)
{
	__atomic_store_n(&pending.raiser, gettid(), __ATOMIC_SEQ_CST);
	raise(SIGUSR1);
	return unused;
}

static void *releaser(void *unused)
{
	REQUIRE(aio_signal_release(SIGUSR1) == 0);
	__atomic_store_n(&pending.released, 1, __ATOMIC_SEQ_CST);
	return unused;
}

static int sleeps(int32_t thread)
{
	char path[64], state = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", thread);
	file = fopen(path, "r");
	REQUIRE(file && fscanf(file, "%*d (%*[^)]) %c", &state) == 1);
	fclose(file);
	return state == 'S';
}

/*
 * A handler that hangs in write() holds the fd, so releasing has to wait: or
 * the fd, closed afterwards, could be somebody else's when it is written to.
 */
static void released_signal(void)
{
	char page[4096] = { 0 };
	pthread_t threads[2];
	int32_t fds[2], thread;

	REQUIRE(aio_pipe(fds, O_CLOEXEC | O_NONBLOCK) == 0);
	while (write(fds[1], page, sizeof(page)) > 0)
		;
	REQUIRE(aio_fcntl_int(fds[1], F_SETFL, 0) == 0);
	REQUIRE(aio_signal_take(SIGUSR1, fds[1]) == 0);
	REQUIRE(!pthread_create(&threads[0], NULL, raiser, NULL));
	do
		thread = __atomic_load_n(&pending.raiser, __ATOMIC_SEQ_CST);
	while (!thread || !sleeps(thread));
	REQUIRE(!pthread_create(&threads[1], NULL, releaser, NULL));
	usleep(20000);
	REQUIRE(!__atomic_load_n(&pending.released, __ATOMIC_SEQ_CST));
	REQUIRE(aio_read(fds[0], page, sizeof(page)) == sizeof(page));
	REQUIRE(!pthread_join(threads[0], NULL));
	REQUIRE(!pthread_join(threads[1], NULL));
	REQUIRE(pending.released);
	close(fds[0]);
	close(fds[1]);
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
		{ "one pass", one_pass },
		{ "deadline", deadline },
		{ "time of a hit", time_of_a_hit },
		{ "each word", each_word },
		{ "several words", several_words },
		{ "queue and notifier", queue_and_notifier },
		{ "other thread", other_thread },
		{ "clock", clock_twice },
		{ "eventfd", event_fd },
		{ "errors", errors },
		{ "epoll", epoll_events },
		{ "ppoll", ppoll_fds },
		{ "pread", read_at_offset },
		{ "guest and device", guest_and_device },
		{ "signals", signals_to_a_pipe },
		{ "released signal", released_signal },
		{ "wake-up ordering", wake_up_ordering },
	};

	emulated = argc > 1 && !strcmp(argv[1], "emulated");
	run_checks(checks, sizeof(checks) / sizeof(checks[0]));
	return 0;
}
