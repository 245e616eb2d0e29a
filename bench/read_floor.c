/*
 * The floor of reads: random 4 KiB blocks of a file, through io_uring with
 * liburing, for exactly one file and one window of time. All requests that are
 * complete are reaped at once and go out again with one system call.
 *
 * Blocks come from the same generator as ours and from the same part of the
 * file. For reads of the page cache that part is read once before.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define READ_SIZE 4096u
/* Of a larger file as much is read: 256 MiB. */
#define BLOCKS_MAX 65536u
#define DEPTH_MAX 4096u
#define WARM_UP_SECONDS 0.05
/* What the clock costs is then shared by as many requests as in ours. */
#define REQUESTS_PER_CLOCK_READ 64u

struct floor {
	struct io_uring ring;
	char *buffers;
	int file;
	uint32_t depth;
	uint32_t blocks;
	uint32_t random;
};

static void die(const char *what, int error)
{
	fprintf(stderr, "read_floor: error: %s: %s\n", what, strerror(error));
	exit(1);
}

static double now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

/* Marsaglia's xorshift of 32 bits. */
static uint32_t next_block(struct floor *floor)
{
	uint32_t random = floor->random;

	random ^= random << 13;
	random ^= random >> 17;
	random ^= random << 5;
	floor->random = random;
	return random % floor->blocks;
}

static void prepare(struct floor *floor, uint32_t slot)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&floor->ring);

	if (!sqe)
		die("io_uring_get_sqe", EBUSY);
	io_uring_prep_read(sqe, floor->file,
			   floor->buffers + (size_t)slot * READ_SIZE,
			   READ_SIZE,
			   (uint64_t)next_block(floor) * READ_SIZE);
	io_uring_sqe_set_data64(sqe, slot);
}

/* Submits, waits for one, and reaps all there are; asks for more if again. */
static uint32_t step(struct floor *floor, int again)
{
	struct io_uring_cqe *cqe;
	uint32_t head, reaped = 0;
	int result = io_uring_submit_and_wait(&floor->ring, 1);

	if (result == -EINTR)
		return 0;
	if (result < 0)
		die("io_uring_submit_and_wait", -result);
	io_uring_for_each_cqe(&floor->ring, head, cqe) {
		if (cqe->res < 0)
			die("read", -cqe->res);
		if (cqe->res != (int32_t)READ_SIZE)
			die("read of a file that has become shorter", EIO);
		reaped++;
		if (again)
			prepare(floor, (uint32_t)cqe->user_data);
	}
	io_uring_cq_advance(&floor->ring, reaped);
	return reaped;
}

/* Reads for some time, until nothing is in flight; prints when told to. */
static void measure(struct floor *floor, double seconds, int print)
{
	double start_ns = now_ns(), end_ns = start_ns + seconds * 1e9;
	uint64_t requests = 0, clock_read_at = 0;
	uint32_t in_flight = floor->depth;
	double elapsed_ns;

	for (uint32_t slot = 0; slot < floor->depth; slot++)
		prepare(floor, slot);
	for (;;) {
		requests += step(floor, 1);
		if (requests < clock_read_at)
			continue;
		clock_read_at = requests + REQUESTS_PER_CLOCK_READ;
		if (now_ns() >= end_ns)
			break;
	}
	while (in_flight) {
		uint32_t reaped = step(floor, 0);

		requests += reaped;
		in_flight -= reaped;
	}
	elapsed_ns = now_ns() - start_ns;
	if (print)
		printf("{\"iops\":%.1f,\"usPerRequest\":%.4f}\n",
		       (double)requests / elapsed_ns * 1e9,
		       elapsed_ns / 1e3 / (double)requests);
}

static void open_file(struct floor *floor, const char *path, int direct)
{
	struct stat status;
	uint64_t blocks;

	floor->file = open(path, O_RDONLY | O_CLOEXEC | (direct ? O_DIRECT : 0));
	if (floor->file < 0 || fstat(floor->file, &status) < 0)
		die(path, errno);
	blocks = (uint64_t)status.st_size / READ_SIZE;
	if (!blocks)
		die("the file is smaller than one read", EINVAL);
	floor->blocks = blocks < BLOCKS_MAX ? (uint32_t)blocks : BLOCKS_MAX;
}

static void fill_page_cache(const struct floor *floor)
{
	for (uint32_t block = 0; block < floor->blocks; block++) {
		if (pread(floor->file, floor->buffers, READ_SIZE,
			  (off_t)block * READ_SIZE) < 0)
			die("pread", errno);
	}
}

static void open_ring(struct floor *floor)
{
	struct io_uring_params params = {
		.flags = IORING_SETUP_SINGLE_ISSUER |
			 IORING_SETUP_DEFER_TASKRUN,
	};
	int result = io_uring_queue_init_params(floor->depth, &floor->ring,
						&params);

	/* A kernel before 6.1 does not know them. */
	if (result == -EINVAL)
		result = io_uring_queue_init(floor->depth, &floor->ring, 0);
	if (result < 0)
		die("io_uring_queue_init", -result);
}

int main(int argc, char **argv)
{
	struct floor floor = { .depth = 1, .random = 2463534242u };
	const char *path = NULL;
	double seconds = 5;
	int direct = 0;

	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--direct"))
			direct = 1;
		else if (i + 1 == argc)
			break;
		else if (!strcmp(argv[i], "--file"))
			path = argv[++i];
		else if (!strcmp(argv[i], "--seconds"))
			seconds = atof(argv[++i]);
		else if (!strcmp(argv[i], "--iodepth"))
			floor.depth = (uint32_t)atoi(argv[++i]);
	}
	if (!path || seconds <= 0 || !floor.depth || floor.depth > DEPTH_MAX) {
		fprintf(stderr, "usage: read_floor --file PATH [--seconds 5] "
				"[--iodepth 1] [--direct]\n");
		return 2;
	}
	floor.buffers = aligned_alloc(READ_SIZE,
				      (size_t)floor.depth * READ_SIZE);
	if (!floor.buffers)
		die("aligned_alloc", ENOMEM);
	open_file(&floor, path, direct);
	open_ring(&floor);
	if (!direct)
		fill_page_cache(&floor);
	measure(&floor, WARM_UP_SECONDS, 0);
	measure(&floor, seconds, 1);
	return 0;
}
