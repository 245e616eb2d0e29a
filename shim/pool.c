/*
 * A pool of threads for requests that block: the work of files on a loop that
 * has no io_uring.
 *
 * One thread, the loop's, opens, submits, reaps, cancels and closes; workers
 * only take requests and leave results. A request keeps its slot until its
 * completion is reaped, so there is room for every completion, and no
 * submission while all slots are taken. Free slots are the loop's, those in
 * the queue and in the list of completions are guarded by the lock; the sqe of
 * a running one is the worker's. The lock also orders what requests point to:
 * a worker sees what the loop wrote before submitting, the loop after reaping
 * what the worker's call wrote.
 *
 * The eventfd is readable while completions wait, or will be as soon as a
 * worker gets from its unlock to its write. Whoever makes their list non-empty
 * writes it, behind the lock. The partner is aio_pool_reap(), which drains it
 * inside the lock and only where the list is empty: every write it drains came
 * from a completion taken by then. A late write wakes the loop once for
 * nothing.
 */
#define _GNU_SOURCE
#include "aio.h"
#include "thread.h"

#include <errno.h>
#include <stdlib.h>

/* More would only wait for each other inside the kernel. */
#define THREADS_MAX 256u
/* A cancellation that finds nothing looks at every slot, under the lock. */
#define CAPACITY_MAX 65536u
struct slot {
	struct aio_sqe sqe;
	struct slot *next;
	int32_t res;
	int32_t running;
};

struct list {
	struct slot *head, **tail;
};

struct pool {
	/* Set by open. */
	uint32_t threads, capacity;
	int32_t event_fd;
	pthread_t *workers;
	/* The loop's thread alone. */
	struct slot *free;
	uint32_t used; /* slots that have ever been taken */
	uint32_t started;
	/* Guarded by the lock. */
	pthread_mutex_t lock;
	pthread_cond_t work; /* the queue is not empty, or closing */
	struct list queue, done;
	uint32_t unfinished; /* queued or running */
	uint32_t closing;
	struct slot slots[];
};

static void append(struct list *list, struct slot *slot)
{
	slot->next = NULL;
	*list->tail = slot;
	list->tail = &slot->next;
}

static struct slot *take(struct list *list, struct slot **link)
{
	struct slot *slot = *link;

	*link = slot->next;
	if (!*link)
		list->tail = link;
	return slot;
}

/* True where the eventfd is to be written, which is done without the lock. */
static int complete(struct pool *pool, struct slot *slot, int32_t res)
{
	int first = !pool->done.head;

	slot->res = res;
	pool->unfinished--;
	append(&pool->done, slot);
	return first;
}

static void *work(void *argument)
{
	struct pool *pool = argument;
	struct slot *slot;
	int32_t res;

	pthread_mutex_lock(&pool->lock);
	while (!pool->closing) {
		if (!pool->queue.head) {
			pthread_cond_wait(&pool->work, &pool->lock);
			continue;
		}
		slot = take(&pool->queue, &pool->queue.head);
		slot->running = 1;
		pthread_mutex_unlock(&pool->lock);
		res = aio_execute(&slot->sqe);
		pthread_mutex_lock(&pool->lock);
		slot->running = 0;
		if (complete(pool, slot, res)) {
			pthread_mutex_unlock(&pool->lock);
			aio_eventfd_signal(pool->event_fd);
			pthread_mutex_lock(&pool->lock);
		}
	}
	pthread_mutex_unlock(&pool->lock);
	return NULL;
}

static void start_worker(struct pool *pool)
{
	if (!aio_start_thread(&pool->workers[pool->started], work, pool))
		pool->started++;
}

int32_t aio_pool_open(uint32_t threads, uint32_t capacity, int32_t event_fd,
		      void **handle)
{
	struct pool *pool;

	if (!threads || threads > THREADS_MAX || !capacity ||
	    capacity > CAPACITY_MAX)
		return -EINVAL;
	pool = calloc(1, sizeof(*pool) + capacity * sizeof(struct slot) +
				 threads * sizeof(pthread_t));
	if (!pool)
		return -ENOMEM;
	pool->threads = threads;
	pool->capacity = capacity;
	pool->event_fd = event_fd;
	pool->workers = (pthread_t *)&pool->slots[capacity];
	pthread_mutex_init(&pool->lock, NULL);
	pthread_cond_init(&pool->work, NULL);
	pool->queue.tail = &pool->queue.head;
	pool->done.tail = &pool->done.head;
	*handle = pool;
	return 0;
}

/* -EBUSY: full until reaped; -EAGAIN: the system gave it not one thread. */
int32_t aio_pool_submit(void *handle, const struct aio_sqe *sqe)
{
	struct pool *pool = handle;
	struct slot *slot;
	int more;

	if (!pool->free && pool->used == pool->capacity)
		return -EBUSY;
	if (!pool->started)
		start_worker(pool);
	if (!pool->started)
		return -EAGAIN;
	if (pool->free) {
		slot = pool->free;
		pool->free = slot->next;
	} else {
		slot = &pool->slots[pool->used++];
	}
	slot->sqe = *sqe;
	pthread_mutex_lock(&pool->lock);
	append(&pool->queue, slot);
	more = ++pool->unfinished > pool->started;
	pthread_cond_signal(&pool->work);
	pthread_mutex_unlock(&pool->lock);
	/* Where it gets none it goes on with those there are. */
	if (more && pool->started < pool->threads)
		start_worker(pool);
	return 0;
}

/* Up to max completions, in the order in which they came. */
int32_t aio_pool_reap(void *handle, struct aio_cqe *completions, uint32_t max)
{
	struct pool *pool = handle;
	uint32_t count = 0;

	pthread_mutex_lock(&pool->lock);
	while (count < max && pool->done.head) {
		struct slot *slot = take(&pool->done, &pool->done.head);

		completions[count++] = (struct aio_cqe){
			.user_data = slot->sqe.user_data, .res = slot->res,
		};
		slot->next = pool->free;
		pool->free = slot;
	}
	if (!pool->done.head)
		aio_eventfd_drain(pool->event_fd);
	pthread_mutex_unlock(&pool->lock);
	return (int32_t)count;
}

/* The oldest that waits; -EALREADY: it runs; -ENOENT: ended, or never there. */
int32_t aio_pool_cancel(void *handle, uint64_t user_data)
{
	struct pool *pool = handle;
	struct slot **link = &pool->queue.head;
	int32_t result = -ENOENT;
	int first = 0;

	pthread_mutex_lock(&pool->lock);
	while (*link && (*link)->sqe.user_data != user_data)
		link = &(*link)->next;
	if (*link) {
		result = 0;
		first = complete(pool, take(&pool->queue, link), -ECANCELED);
	}
	for (uint32_t i = 0; result == -ENOENT && i < pool->used; i++) {
		struct slot *slot = &pool->slots[i];

		if (slot->running && slot->sqe.user_data == user_data)
			result = -EALREADY;
	}
	pthread_mutex_unlock(&pool->lock);
	if (first)
		aio_eventfd_signal(pool->event_fd);
	return result;
}

/* Drops what waits, and waits for what runs: the kernel uses its memory. */
void aio_pool_close(void *handle)
{
	struct pool *pool = handle;

	pthread_mutex_lock(&pool->lock);
	pool->closing = 1;
	pthread_cond_broadcast(&pool->work);
	pthread_mutex_unlock(&pool->lock);
	for (uint32_t i = 0; i < pool->started; i++)
		pthread_join(pool->workers[i], NULL);
	pthread_cond_destroy(&pool->work);
	pthread_mutex_destroy(&pool->lock);
	free(pool);
}

static void *close_abandoned(void *handle)
{
	struct pool *pool = handle;
	int32_t event_fd = pool->event_fd;

	aio_pool_close(pool);
	aio_close(event_fd);
	return NULL;
}

/*
 * Closes it, with its eventfd, once nothing runs any more; waits for nobody.
 * What runs may be a read of a pipe that nobody writes to.
 */
int32_t aio_pool_abandon(void *handle)
{
	pthread_t closer;
	int error = aio_start_thread(&closer, close_abandoned, handle);

	if (!error)
		pthread_detach(closer);
	return -error;
}
