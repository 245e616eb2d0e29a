/*
 * The load of a guest: random reads of a disk past the guest's page cache, each
 * thread with one in flight, for some seconds. Prints one line of JSON.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BLOCK 4096
#define THREADS_MAX 256

static uint64_t end_ns, blocks;
static int disk;

struct job {
	pthread_t thread;
	uint64_t reads;
	uint32_t state;
};

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ull + now.tv_nsec;
}

static void *read_blocks(void *argument)
{
	struct job *job = argument;
	void *buffer;

	if (posix_memalign(&buffer, BLOCK, BLOCK))
		exit(1);
	while (now_ns() < end_ns) {
		job->state = job->state * 1664525u + 1013904223u;
		off_t at = ((uint64_t)job->state * blocks >> 32) * BLOCK;

		if (pread(disk, buffer, BLOCK, at) != BLOCK) {
			fprintf(stderr, "pread: %s\n", strerror(errno));
			exit(1);
		}
		job->reads++;
	}
	return NULL;
}

int main(int argc, char **argv)
{
	static struct job jobs[THREADS_MAX];
	uint64_t reads = 0, start;
	int threads;

	if (argc != 4)
		return 2;
	threads = atoi(argv[2]);
	disk = open(argv[1], O_RDONLY | O_DIRECT);
	if (disk < 0 || threads < 1 || threads > THREADS_MAX) {
		perror(argv[1]);
		return 1;
	}
	blocks = lseek(disk, 0, SEEK_END) / BLOCK;
	start = now_ns();
	end_ns = start + atof(argv[3]) * 1e9;
	for (int i = 0; i < threads; i++) {
		jobs[i].state = i + 1;
		if (pthread_create(&jobs[i].thread, NULL, read_blocks, &jobs[i]))
			return 1;
	}
	for (int i = 0; i < threads; i++) {
		pthread_join(jobs[i].thread, NULL);
		reads += jobs[i].reads;
	}
	printf("{\"threads\":%d,\"reads\":%llu,\"iops\":%.0f}\n", threads,
	       (unsigned long long)reads, reads * 1e9 / (now_ns() - start));
	return 0;
}
