/* What the self-tests share: see selftest.c. */
#ifndef SELFTEST_H
#define SELFTEST_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define REQUIRE(condition)                                                    \
	do {                                                                  \
		if (condition)                                                \
			break;                                                \
		printf("not ok: line %d: %s\n", __LINE__, #condition);        \
		exit(1);                                                      \
	} while (0)

/* A memory address, as a request has it. */
static inline uint64_t address(const void *memory)
{
	return (uintptr_t)memory;
}

/* An open file that has no name. */
static inline int32_t temporary_file(void)
{
	char path[] = "/tmp/aio_selftest_XXXXXX";
	int32_t fd = mkstemp(path);

	REQUIRE(fd >= 0 && !unlink(path));
	return fd;
}

struct check {
	const char *name;
	void (*run)(void);
};

static inline void run_checks(const struct check *checks, size_t count)
{
	for (size_t n = 0; n < count; n++) {
		checks[n].run();
		printf("ok %zu %s\n", n + 1, checks[n].name);
		fflush(stdout);
	}
}
#endif
