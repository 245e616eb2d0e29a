/*
 * Busy-polling: one call watches thousands of words of shared memory together
 * with the completion queue, the SQ flags and the notifier, until something
 * changes or the time is up.
 *
 * A pass looks at everything once. The words come last and are scanned to the
 * end, so a hit never hides another one of the same pass. The clock costs as
 * much as a hundred words and is read only about that often.
 */
#define _GNU_SOURCE
#include "aio.h"

#include <time.h>

/* Work between two looks at the clock, in words; a pass costs some itself. */
#define WORDS_PER_CLOCK_READ 512
#define WORDS_PER_PASS 32

/* Where hits[] entries say which table an index belongs to. */
#define HIT_TABLE_SHIFT 30

static inline void cpu_relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ __volatile__("yield" ::: "memory");
#endif
}

double aio_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

/* For callers that would have to allocate for a double that is returned. */
void aio_now_into(double *now_ns)
{
	*now_ns = aio_now();
}

/*
 * The words are relaxed atomic loads: a hit is only a hint that sends the
 * caller to read the word again with an ordering of its own.
 */
#define DEFINE_SCAN(bits)                                                     \
	static uint32_t scan##bits(const struct aio_poll_word *words,         \
				   uint32_t count, uint32_t table,            \
				   uint32_t *hits)                            \
	{                                                                     \
		uint32_t found = 0;                                           \
                                                                              \
		for (uint32_t i = 0; i < count; i++) {                        \
			const uint##bits##_t *address =                       \
				(const uint##bits##_t *)words[i].address;     \
			uint##bits##_t value =                                \
				__atomic_load_n(address, __ATOMIC_RELAXED);   \
			if (__builtin_expect(                                 \
				    value != (uint##bits##_t)words[i].seen,   \
				    0))                                       \
				hits[found++] = table << HIT_TABLE_SHIFT | i; \
		}                                                             \
		return found;                                                 \
	}

DEFINE_SCAN(16)
DEFINE_SCAN(32)
DEFINE_SCAN(64)

static uint32_t scan_words(struct aio_spin *spin)
{
	uint32_t *hits = spin->hits;

	hits += scan16(spin->words16, spin->count16, 0, hits);
	hits += scan32(spin->words32, spin->count32, 1, hits);
	hits += scan64(spin->words64, spin->count64, 2, hits);
	return (uint32_t)(hits - spin->hits);
}

/*
 * Spins until a bit of the result is set or deadline_ns has passed; always
 * makes one full pass, and exactly one where deadline_ns is not above 0. On a
 * hit the time of the last look at the clock will do where that is less than
 * a microsecond ago: somebody waits for the caller to go on.
 *
 * The barrier of the last chance before sleeping orders the caller's "notify
 * me" stores before these loads; its partner is the one between a producer's
 * post and its look at "notify me". The partner of the notified load is the
 * waker's store; a lost race there is caught by the announcement before the
 * wait.
 */
int32_t aio_spin(struct aio_spin *spin)
{
	uint32_t words = spin->count16 + spin->count32 + spin->count64;
	double deadline_ns = spin->deadline_ns;
	uint32_t budget = 0;

	if (deadline_ns == AIO_SPIN_LAST_CHANCE)
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
	for (;;) {
		uint32_t result = 0;

		if (__atomic_load_n(spin->cq_tail, __ATOMIC_RELAXED) !=
		    *spin->cq_head)
			result |= AIO_SPIN_CQ;
		if (__atomic_load_n(spin->sq_flags, __ATOMIC_RELAXED) &
		    spin->sq_flags_mask)
			result |= AIO_SPIN_SQ_FLAGS;
		if (__atomic_load_n(spin->notified, __ATOMIC_RELAXED))
			result |= AIO_SPIN_NOTIFIED;
		spin->hit_count = scan_words(spin);
		if (spin->hit_count)
			result |= AIO_SPIN_HIT;
		if (deadline_ns <= 0) {
			if (!result && deadline_ns == AIO_SPIN_PASS)
				cpu_relax();
			return (int32_t)result;
		}
		if (result && words <= WORDS_PER_CLOCK_READ)
			return (int32_t)result;
		if (result || budget <= words + WORDS_PER_PASS) {
			spin->end_ns = aio_now();
			if (result)
				return (int32_t)result;
			budget = WORDS_PER_CLOCK_READ;
		} else {
			budget -= words + WORDS_PER_PASS;
		}
		cpu_relax();
		if (spin->end_ns >= deadline_ns)
			return 0;
	}
}
