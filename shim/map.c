/*
 * Files mapped over memory that JavaScript owns.
 *
 * The memory stays JavaScript's for as long as it has views of it: a mapping
 * only replaces its pages, and unmapping puts empty ones in their place, so no
 * address ever becomes invalid. What is left is a file that is cut short while
 * it is mapped: a touch beyond its new end is SIGBUS, and would be the end of
 * the process. A handler puts an empty page there instead. As a handler is
 * given nothing it looks into a table, which belongs to the process.
 */
#define _GNU_SOURCE
#include "aio.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Mappings that are guarded at a time; a table a signal handler can search. */
#define GUARDED_MAX 8192u

static struct {
	uint32_t claimed;
	uintptr_t start;
	uintptr_t end; /* 0 while it guards nothing; stored last, cleared first */
} guarded[GUARDED_MAX];

static uint32_t guarded_used; /* entries beyond were never claimed */
static uint32_t state;        /* of the handler: 0 none, 1 being set, 2 set */
static struct sigaction previous;

static int is_guarded(uintptr_t address)
{
	uint32_t used = __atomic_load_n(&guarded_used, __ATOMIC_ACQUIRE);

	for (uint32_t i = 0; i < used; i++) {
		uintptr_t end = __atomic_load_n(&guarded[i].end,
						__ATOMIC_ACQUIRE);

		if (address < end && address >= guarded[i].start)
			return 1;
	}
	return 0;
}

/* Whose signal it is otherwise decides; to return without that is to loop. */
static void pass_on(int signal, siginfo_t *info, void *context)
{
	if (previous.sa_flags & SA_SIGINFO)
		previous.sa_sigaction(signal, info, context);
	else if (previous.sa_handler == SIG_DFL ||
		 previous.sa_handler == SIG_IGN)
		sigaction(signal, &(struct sigaction){ .sa_handler = SIG_DFL },
			  NULL);
	else
		previous.sa_handler(signal);
}

static void handle(int signal, siginfo_t *info, void *context)
{
	uintptr_t address = (uintptr_t)info->si_addr;
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
	int saved = errno;

	if (info->si_code == BUS_ADRERR && is_guarded(address) &&
	    mmap((void *)(address & ~(page - 1)), page, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED)
		errno = saved;
	else
		pass_on(signal, info, context);
}

static int32_t set_handler(void)
{
	struct sigaction action = {
		.sa_sigaction = handle,
		.sa_flags = SA_SIGINFO | SA_ONSTACK,
	};
	uint32_t none = 0;
	int32_t error = 0;

	if (__atomic_compare_exchange_n(&state, &none, 1, 0, __ATOMIC_SEQ_CST,
					__ATOMIC_SEQ_CST)) {
		if (sigaction(SIGBUS, &action, &previous))
			error = -errno;
		__atomic_store_n(&state, error ? 0 : 2, __ATOMIC_SEQ_CST);
		return error;
	}
	/* Another thread is between the two lines above. */
	while (__atomic_load_n(&state, __ATOMIC_SEQ_CST) == 1)
		;
	return 0;
}

static int32_t guard(uintptr_t start, uintptr_t end)
{
	for (uint32_t i = 0; i < GUARDED_MAX; i++) {
		uint32_t free = 0, used = i;

		if (!__atomic_compare_exchange_n(&guarded[i].claimed, &free, 1,
						 0, __ATOMIC_SEQ_CST,
						 __ATOMIC_SEQ_CST))
			continue;
		guarded[i].start = start;
		__atomic_store_n(&guarded[i].end, end, __ATOMIC_SEQ_CST);
		while (used <= i &&
		       !__atomic_compare_exchange_n(&guarded_used, &used, i + 1,
						    0, __ATOMIC_SEQ_CST,
						    __ATOMIC_SEQ_CST))
			;
		return 0;
	}
	return -ENOSPC;
}

static void unguard(uintptr_t start)
{
	uint32_t used = __atomic_load_n(&guarded_used, __ATOMIC_ACQUIRE);

	for (uint32_t i = 0; i < used; i++) {
		if (guarded[i].start != start || !guarded[i].end)
			continue;
		__atomic_store_n(&guarded[i].end, 0, __ATOMIC_SEQ_CST);
		__atomic_store_n(&guarded[i].claimed, 0, __ATOMIC_SEQ_CST);
	}
}

/* Puts empty pages where a file was mapped, or was about to be. */
int32_t aio_unmap(void *address, double length)
{
	size_t size = (size_t)length;

	if (mmap(address, size, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1,
		 0) == MAP_FAILED)
		return -errno;
	unguard((uintptr_t)address);
	return 0;
}

/* Maps a file over pages of the caller's, for reading and writing. */
int32_t aio_map(void *address, double length, int32_t fd, double offset)
{
	uintptr_t start = (uintptr_t)address;
	size_t size = (size_t)length;
	int32_t error = set_handler();

	if (!error)
		error = guard(start, start + size);
	if (error)
		return error;
	if (mmap(address, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
		 fd, (off_t)offset) != MAP_FAILED)
		return 0;
	error = -errno;
	/* A failure can have taken the pages that were there away. */
	aio_unmap(address, length);
	return error;
}

/* Tells one open file from others, if they are sockets; or -errno. */
double aio_fd_inode(int32_t fd)
{
	struct statx seen;

	if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_INO, &seen))
		return -errno;
	return (double)seen.stx_ino;
}

/* The mode of an open file; its size and the size of its pages or blocks. */
int32_t aio_fd_status(int32_t fd, double *status)
{
	struct statx seen;

	/* The C library has had these functions only since 2.28 and 2.33. */
	if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &seen))
		return -errno;
	status[0] = (double)seen.stx_size;
	status[1] = (double)seen.stx_blksize;
	return (int32_t)seen.stx_mode;
}
