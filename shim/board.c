/*
 * Memory that all isolates of the process see: the board, where each context
 * has a place, the links, through which two of them pass messages, and the
 * table that says which thread has to close which fd.
 *
 * JavaScript cannot hand memory to a thread that it has no port to; what the
 * process has at one address is everybody's. Neither is ever unmapped, as any
 * thread may look at it at any time. All accesses are JavaScript's, which also
 * says who owns which word: see ffi/board.ts. Memory that nobody has touched
 * takes up none.
 */
#define _GNU_SOURCE
#include "aio.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define HEADS ((size_t)AIO_LINKS * AIO_LINK_HEAD)
#define RINGS ((size_t)2 * AIO_LINK_RING) /* of a link */
#define LINK_MEMORY (HEADS + AIO_LINKS * RINGS)

static struct aio_place board[AIO_PLACES];
static int32_t fd_owners[AIO_FDS];
static void *links;

struct aio_place *aio_board(void)
{
	return board;
}

/* By fd: the id of the thread that owns it, or 0. */
int32_t *aio_fd_owners(void)
{
	return fd_owners;
}

/* The memory of all links, reserved by whoever asks first; NULL if it cannot. */
void *aio_links(void)
{
	void *memory = __atomic_load_n(&links, __ATOMIC_ACQUIRE);
	void *nobodys = NULL;

	if (memory)
		return memory;
	memory = mmap(NULL, LINK_MEMORY, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (memory == MAP_FAILED)
		return NULL;
	if (__atomic_compare_exchange_n(&links, &nobodys, memory, 0,
					__ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
		return memory;
	munmap(memory, LINK_MEMORY);
	return nobodys;
}

/* Gives back what the messages of a link have taken up, but its head. */
int32_t aio_link_release(uint32_t link)
{
	char *memory = aio_links();

	if (!memory || link >= AIO_LINKS)
		return -EINVAL;
	memory += HEADS + link * RINGS;
	return madvise(memory, RINGS, MADV_DONTNEED) ? -errno : 0;
}

int32_t aio_thread_id(void)
{
	return (int32_t)syscall(SYS_gettid);
}

/* 1 while a thread of this process has that id, else 0. */
int32_t aio_thread_lives(int32_t id)
{
	/* EPERM cannot be, as it is a thread of one's own process. */
	return syscall(SYS_tgkill, getpid(), id, 0) == 0;
}

/* Puts this thread on the processors whose bits are set. */
int32_t aio_set_affinity(const void *mask, uint32_t length)
{
	return sched_setaffinity(0, length, mask) ? -errno : 0;
}

/* The processors that this thread may run on; the number of bytes, or -errno. */
int32_t aio_get_affinity(void *mask, uint32_t length)
{
	long count = syscall(SYS_sched_getaffinity, 0, (size_t)length, mask);

	return (int32_t)(count < 0 ? -errno : count);
}
