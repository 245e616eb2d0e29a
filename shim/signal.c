/*
 * Signals as bytes in a pipe: for each one taken, what came and from whom.
 *
 * signalfd(2) wants a signal blocked in every thread of the process, and the
 * threads of JavaScript runtimes are there before us: one sent to the process
 * would go to one of them, and mostly kill it. So it is a handler that writes
 * to the fd, on whichever thread. A handler is given nothing, hence the table,
 * state in this library; it belongs to the process, as signals do.
 */
#define _GNU_SOURCE
#include "aio.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <unistd.h>

static struct {
	int32_t fd_plus_1; /* 0: not taken */
	int32_t running;   /* handlers that may hold the fd */
	struct sigaction previous;
} taken[AIO_SIGNAL_MAX + 1];

/* A full pipe loses what comes: a handler cannot wait. */
static void handle(int signal, siginfo_t *info, void *context)
{
	struct aio_signal record = { .signal = signal, .code = info->si_code,
				     .pid = info->si_pid,
				     .uid = info->si_uid };
	int saved = errno, fd;

	(void)context;
	/* Ordered before the load; aio_signal_release() does the reverse. */
	__atomic_add_fetch(&taken[signal].running, 1, __ATOMIC_SEQ_CST);
	fd = __atomic_load_n(&taken[signal].fd_plus_1, __ATOMIC_SEQ_CST) - 1;
	if (fd >= 0 && write(fd, &record, sizeof(record)) < 0)
		errno = saved;
	__atomic_sub_fetch(&taken[signal].running, 1, __ATOMIC_SEQ_CST);
}

/* From now on the signal is written to fd, as a struct aio_signal. */
int32_t aio_signal_take(int32_t signal, int32_t fd)
{
	struct sigaction action = {
		.sa_sigaction = handle,
		.sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK,
	};
	int32_t nobody = 0;
	int error;

	if (signal < 1 || signal > AIO_SIGNAL_MAX || fd < 0)
		return -EINVAL;
	if (!__atomic_compare_exchange_n(&taken[signal].fd_plus_1, &nobody,
					 fd + 1, 0, __ATOMIC_SEQ_CST,
					 __ATOMIC_SEQ_CST))
		return -EBUSY;
	if (!sigaction(signal, &action, &taken[signal].previous))
		return 0;
	error = errno;
	__atomic_store_n(&taken[signal].fd_plus_1, 0, __ATOMIC_SEQ_CST);
	return -error;
}

/*
 * Gives the signal back to whom it belonged before, unless somebody has taken
 * it over since. Afterwards no handler holds the fd, which may be closed.
 */
int32_t aio_signal_release(int32_t signal)
{
	struct sigaction now;

	if (signal < 1 || signal > AIO_SIGNAL_MAX)
		return -EINVAL;
	if (!sigaction(signal, NULL, &now) && now.sa_sigaction == handle)
		sigaction(signal, &taken[signal].previous, NULL);
	__atomic_store_n(&taken[signal].fd_plus_1, 0, __ATOMIC_SEQ_CST);
	while (__atomic_load_n(&taken[signal].running, __ATOMIC_SEQ_CST))
		sched_yield();
	return 0;
}
