/*
 * The guest: the thread that drives a device when it is measured, in C so that
 * our loop and the C floor meet the same load. It posts random block numbers
 * as a virtio driver would, kicks the device's eventfd unless told not to and
 * spins for completions; it never blocks, so it stops at once when asked.
 */
#include "aio.h"

/* Buckets are 1 ns wide below 64 ns, 1/32 of their power of two above. */
static void record(struct aio_guest *guest, double ns)
{
	uint32_t value = ns < UINT32_MAX ? (uint32_t)ns : UINT32_MAX;
	uint32_t shift = value < 64 ? 0 : 26 - (uint32_t)__builtin_clz(value);

	guest->latencies[(shift << 5) + (value >> shift)]++;
}

/*
 * The fence stands between publishing avail and reading notifications_off. Its
 * partner is the device, which clears notifications_off, fences and looks at
 * avail again: one of the two sees the other, so no request lacks its kick.
 */
static int32_t publish(struct aio_guest *guest, uint32_t avail)
{
	__atomic_store_n(&guest->queue.avail, avail, __ATOMIC_RELEASE);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (__atomic_load_n(&guest->queue.notifications_off, __ATOMIC_RELAXED))
		return 0;
	guest->kicks++;
	return aio_eventfd_signal(guest->event_fd);
}

/* Returns 0 once stop is set, or -errno when a kick fails. */
int32_t aio_guest_run(struct aio_guest *guest)
{
	double posted[AIO_GUEST_SLOTS], now;
	uint32_t avail = guest->queue.avail, used = avail, random = 1, done;
	int32_t error = 0;

	while (!__atomic_load_n(&guest->stop, __ATOMIC_RELAXED) && error >= 0) {
		done = __atomic_load_n(&guest->queue.used, __ATOMIC_ACQUIRE);
		if (avail - done == guest->depth)
			continue;
		now = aio_now();
		while (used != done)
			record(guest, now - posted[used++ % AIO_GUEST_SLOTS]);
		for (; avail - used < guest->depth; avail++) {
			random = random * 1664525 + 1013904223;
			guest->ring[avail % AIO_GUEST_SLOTS] =
				(uint64_t)random * guest->blocks >> 32;
			posted[avail % AIO_GUEST_SLOTS] = now;
		}
		error = publish(guest, avail);
	}
	return error < 0 ? error : 0;
}
