/*
 * What the spin promises: see selftest.c.
 */
#define _GNU_SOURCE
#include "aio.h"
#include "selftest.h"

#include <pthread.h>
#include <string.h>
#include <unistd.h>

#define WORDS 67 /* of each width: no multiple of a vector's or a line's */

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

int main(void)
{
	static const struct check checks[] = {
		{ "one pass", one_pass },
		{ "deadline", deadline },
		{ "time of a hit", time_of_a_hit },
		{ "each word", each_word },
		{ "several words", several_words },
		{ "queue and notifier", queue_and_notifier },
		{ "other thread", other_thread },
	};

	run_checks(checks, sizeof(checks) / sizeof(checks[0]));
	return 0;
}
