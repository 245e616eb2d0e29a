/*
 * What aio_execute() promises of each opcode: see selftest.c.
 */
#define _GNU_SOURCE
#include "aio.h"
#include "selftest.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#define HERE ((uint64_t)-1)

/* Opcode, fd, off, addr, len and op_flags, in the order of the structure. */
static int32_t execute(enum aio_op opcode, int32_t fd, uint64_t off,
		       const void *addr, uint32_t len, uint32_t op_flags)
{
	struct aio_sqe sqe = { .opcode = (uint8_t)opcode, .fd = fd, .off = off,
			       .addr = address(addr), .len = len,
			       .op_flags = op_flags };

	return aio_execute(&sqe);
}

static void refused(void)
{
	struct aio_sqe sqe = { 0 };

	REQUIRE(aio_execute(&sqe) == 0);
	for (uint32_t bit = 0; bit < 8; bit++) {
		sqe = (struct aio_sqe){ .flags = (uint8_t)(1u << bit) };
		REQUIRE(aio_execute(&sqe) == -EINVAL);
	}
	sqe = (struct aio_sqe){ .ioprio = 1 };
	REQUIRE(aio_execute(&sqe) == -EINVAL);
	sqe = (struct aio_sqe){ .personality = 1 };
	REQUIRE(aio_execute(&sqe) == -EINVAL);
	sqe = (struct aio_sqe){ .file_index = 1 };
	REQUIRE(aio_execute(&sqe) == -EINVAL);
	REQUIRE(execute(6 /* POLL_ADD */, 0, 0, NULL, 0, 0) == -EOPNOTSUPP);
	REQUIRE(execute(255, 0, 0, NULL, 0, 0) == -EOPNOTSUPP);
}

static void reads_and_writes(void)
{
	int32_t fd = temporary_file(), event_fd = aio_eventfd();
	char left[3] = "", right[4] = "";
	struct iovec parts[] = { { left, 2 }, { right, 3 } };
	uint64_t counter = 7;

	REQUIRE(execute(AIO_OP_WRITE, fd, HERE, "01234", 5, 0) == 5);
	REQUIRE(execute(AIO_OP_WRITE, fd, HERE, "56789", 5, 0) == 5);
	REQUIRE(execute(AIO_OP_WRITE, fd, 3, "x", 1, 0) == 1);
	REQUIRE(execute(AIO_OP_READV, fd, 2, parts, 2, 0) == 5);
	REQUIRE(!strcmp(left, "2x") && !strcmp(right, "456"));
	REQUIRE(execute(AIO_OP_WRITEV, fd, 8, parts, 2, 0) == 5);
	REQUIRE(lseek(fd, 0, SEEK_CUR) == 10);
	REQUIRE(lseek(fd, 7, SEEK_SET) == 7);
	REQUIRE(execute(AIO_OP_READV, fd, HERE, parts, 2, 0) == 5);
	REQUIRE(!strcmp(left, "72") && !strcmp(right, "x45"));
	REQUIRE(execute(AIO_OP_READ, fd, HERE, left, 2, 0) == 1);
	REQUIRE(execute(AIO_OP_READ, fd, 1ull << 40, left, 2, 0) == 0);
	REQUIRE(execute(AIO_OP_READ, fd, HERE - 1, left, 2, 0) == -EINVAL);
	REQUIRE(execute(AIO_OP_READ, fd, 0, NULL, 2, 0) == -EFAULT);
	REQUIRE(execute(AIO_OP_READ, fd, 0, left, 2, 1u << 30) == -EOPNOTSUPP);
	REQUIRE(execute(AIO_OP_WRITE, fd, 0, left, 2, 1u << 30) ==
		-EOPNOTSUPP);
	/* Where a file has no positions any offset will do. */
	REQUIRE(execute(AIO_OP_WRITE, event_fd, 5, &counter, 8, 0) == 8);
	REQUIRE(execute(AIO_OP_READ, event_fd, 5, &counter, 8, 0) == 8);
	REQUIRE(counter == 7);
	REQUIRE(execute(AIO_OP_READ, event_fd, 0, &counter, 8, 0) == -EAGAIN);
	REQUIRE(execute(AIO_OP_CLOSE, event_fd, 0, NULL, 0, 0) == 0);
	REQUIRE(execute(AIO_OP_CLOSE, fd, 0, NULL, 0, 0) == 0);
	REQUIRE(execute(AIO_OP_CLOSE, fd, 0, NULL, 0, 0) == -EBADF);
	REQUIRE(execute(AIO_OP_READ, fd, 0, left, 2, 0) == -EBADF);
}

static void files(void)
{
	char folder[] = "/tmp/aio_selftest_XXXXXX";
	uint32_t mask = STATX_SIZE | STATX_MODE;
	struct statx status;
	int32_t at, fd;

	REQUIRE(mkdtemp(folder) && (at = open(folder, O_PATH)) >= 0);
	umask(0);
	fd = execute(AIO_OP_OPENAT, at, 0, "file", 0617,
		     O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC);
	REQUIRE(fd >= 0 && aio_fd_check(fd) == FD_CLOEXEC);
	REQUIRE(execute(AIO_OP_OPENAT, at, 0, "file", 0,
			O_RDWR | O_CREAT | O_EXCL) == -EEXIST);
	REQUIRE(execute(AIO_OP_FTRUNCATE, fd, 5000000000, NULL, 0, 0) == 0);
	REQUIRE(execute(AIO_OP_STATX, at, address(&status), "file", mask,
			AT_STATX_SYNC_AS_STAT) == 0);
	REQUIRE(status.stx_size == 5000000000);
	REQUIRE((status.stx_mode & 0777) == 0617);
	REQUIRE(execute(AIO_OP_STATX, fd, address(&status), "", mask,
			AT_EMPTY_PATH) == 0);
	REQUIRE(execute(AIO_OP_STATX, fd, address(&status), "", mask, 0) ==
		-ENOENT);
	REQUIRE(execute(AIO_OP_FTRUNCATE, fd, 0, NULL, 0, 0) == 0);
	/* Mode 1 keeps the size, mode 0 does not. */
	REQUIRE(execute(AIO_OP_FALLOCATE, fd, 4096, (void *)8192, 1, 0) == 0);
	REQUIRE(lseek(fd, 0, SEEK_END) == 0);
	REQUIRE(execute(AIO_OP_FALLOCATE, fd, 4096, (void *)8192, 0, 0) == 0);
	REQUIRE(lseek(fd, 0, SEEK_END) == 12288);
	REQUIRE(execute(AIO_OP_FSYNC, fd, 0, NULL, 0, 0) == 0);
	REQUIRE(execute(AIO_OP_FSYNC, fd, 0, NULL, 0, 1) == 0);
	REQUIRE(execute(AIO_OP_FSYNC, fd, 0, NULL, 0, 2) == -EINVAL);
	REQUIRE(execute(AIO_OP_FSYNC, -1, 0, NULL, 0, 1) == -EBADF);
	REQUIRE(execute(AIO_OP_SYNC_FILE_RANGE, fd, 0, NULL, 4096, 7) == 0);
	REQUIRE(execute(AIO_OP_SYNC_FILE_RANGE, fd, 0, NULL, 4096, 8) ==
		-EINVAL);
	REQUIRE(execute(AIO_OP_FADVISE, fd, 0, NULL, 4096, 3) == 0);
	REQUIRE(execute(AIO_OP_FADVISE, fd, 0, NULL, 4096, 99) == -EINVAL);
	REQUIRE(execute(AIO_OP_CLOSE, fd, 0, NULL, 0, 0) == 0);
	REQUIRE(!unlinkat(at, "file", 0) && !close(at) && !rmdir(folder));
}

static void finds_extents(void)
{
	int32_t fd = temporary_file(), ends[2];
	struct aio_extent extents[4] = { { 1 << 20, 7 } };

	REQUIRE(!ftruncate(fd, 1 << 20));
	REQUIRE(pwrite(fd, "x", 1, 256 << 10) == 1);
	REQUIRE(execute(AIO_OP_EXTENTS, fd, 0, extents, 4, 0) == 3);
	REQUIRE(extents[0].length == 256 << 10 && extents[0].hole == 1);
	REQUIRE(extents[1].length >= 1 && extents[1].hole == 0);
	REQUIRE(extents[2].hole == 1);
	REQUIRE(extents[0].length + extents[1].length + extents[2].length ==
		1 << 20);
	/* No more than there is room for, from off on, and cut at the end. */
	extents[0].length = 4096;
	REQUIRE(execute(AIO_OP_EXTENTS, fd, 4096, extents, 4, 0) == 1);
	REQUIRE(extents[0].length == 4096 && extents[0].hole == 1);
	extents[0].length = 1 << 20;
	REQUIRE(execute(AIO_OP_EXTENTS, fd, 256 << 10, extents, 1, 0) == 1);
	REQUIRE(extents[0].hole == 0);
	/* What is beyond the end is no data. */
	extents[0].length = 4096;
	REQUIRE(execute(AIO_OP_EXTENTS, fd, 2 << 20, extents, 4, 0) == 1);
	REQUIRE(extents[0].length == 4096 && extents[0].hole == 1);
	extents[0].length = 0;
	REQUIRE(execute(AIO_OP_EXTENTS, fd, 0, extents, 4, 0) == 0);
	REQUIRE(execute(AIO_OP_EXTENTS, fd, 0, NULL, 0, 0) == 0);
	extents[0].length = 1;
	REQUIRE(!pipe(ends));
	REQUIRE(execute(AIO_OP_EXTENTS, ends[0], 0, extents, 4, 0) == -ESPIPE);
	REQUIRE(!close(ends[0]) && !close(ends[1]) && !close(fd));
}

static void sockets(void)
{
	struct sockaddr_un name = { AF_UNIX, "" }, peer;
	socklen_t size = sizeof(peer);
	int32_t listener = socket(AF_UNIX, SOCK_STREAM, 0), client, ends[2];
	char text[4] = "";
	struct iovec part = { text, 3 };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
	uint32_t bound = sizeof(name.sun_family) + 16;

	snprintf(name.sun_path + 1, 16, "aio%d", getpid());
	REQUIRE(!bind(listener, (struct sockaddr *)&name, bound));
	client = socket(AF_UNIX, SOCK_STREAM, 0);
	REQUIRE(execute(AIO_OP_CONNECT, client, bound, &name, 0, 0) ==
		-ECONNREFUSED);
	REQUIRE(!listen(listener, 1));
	REQUIRE(execute(AIO_OP_CONNECT, client, bound, &name, 0, 0) == 0);
	REQUIRE(execute(AIO_OP_CONNECT, client, bound, &name, 0, 0) ==
		-EISCONN);
	ends[0] = execute(AIO_OP_ACCEPT, listener, address(&size), &peer, 0,
			  SOCK_CLOEXEC | SOCK_NONBLOCK);
	REQUIRE(ends[0] >= 0 && size == sizeof(name.sun_family));
	REQUIRE(fcntl(ends[0], F_GETFL) & O_NONBLOCK);
	REQUIRE(aio_fd_check(ends[0]) == FD_CLOEXEC);
	REQUIRE(execute(AIO_OP_SEND, ends[0], 0, "abc", 3, 0) == 3);
	REQUIRE(execute(AIO_OP_RECV, client, 0, text, 3, MSG_PEEK) == 3);
	REQUIRE(execute(AIO_OP_RECVMSG, client, 0, &message, 1, 0) == 3);
	REQUIRE(!strcmp(text, "abc"));
	/* The client's end is a blocking one. */
	REQUIRE(execute(AIO_OP_RECV, client, 0, text, 3, 0) == -EAGAIN);
	REQUIRE(execute(AIO_OP_RECVMSG, client, 0, &message, 1, 0) == -EAGAIN);
	REQUIRE(execute(AIO_OP_SENDMSG, client, 0, &message, 1, 0) == 3);
	while (execute(AIO_OP_SEND, client, 0, &name, sizeof(name), 0) > 0)
		;
	REQUIRE(execute(AIO_OP_SEND, client, 0, text, 3, 0) == -EAGAIN);
	REQUIRE(execute(AIO_OP_SENDMSG, client, 0, &message, 1, 0) == -EAGAIN);
	REQUIRE(execute(AIO_OP_SHUTDOWN, ends[0], 0, NULL, SHUT_WR, 0) == 0);
	REQUIRE(execute(AIO_OP_RECV, client, 0, text, 3, 0) == 0);
	REQUIRE(execute(AIO_OP_SHUTDOWN, ends[0], 0, NULL, 9, 0) == -EINVAL);
	REQUIRE(!close(client) && !close(ends[0]));
	client = socket(AF_UNIX, SOCK_STREAM, 0);
	REQUIRE(execute(AIO_OP_CONNECT, client, bound, &name, 0, 0) == 0);
	ends[0] = execute(AIO_OP_ACCEPT, listener, 0, NULL, 0, 0);
	REQUIRE(ends[0] >= 0 && !(fcntl(ends[0], F_GETFL) & O_NONBLOCK));
	REQUIRE(!close(client) && !close(ends[0]) && !close(listener));
}

/* SIGPIPE has its default action, which would end this program. */
static void broken_pipes(void)
{
	struct iovec part = { "abc", 3 };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
	sigset_t before, after;
	int fds[2];

	pthread_sigmask(SIG_SETMASK, NULL, &before);
	for (uint32_t kind = 0; kind < 2; kind++) {
		REQUIRE(!(kind ? pipe(fds) :
				 socketpair(AF_UNIX, SOCK_STREAM, 0, fds)));
		REQUIRE(!close(fds[0]));
		for (uint64_t off = HERE; off != 1; off++) {
			REQUIRE(execute(AIO_OP_WRITE, fds[1], off, "abc", 3,
					0) == -EPIPE);
			REQUIRE(execute(AIO_OP_WRITEV, fds[1], off, &part, 1,
					0) == -EPIPE);
		}
		REQUIRE(execute(AIO_OP_SEND, fds[1], 0, "abc", 3, 0) ==
			(kind ? -ENOTSOCK : -EPIPE));
		REQUIRE(execute(AIO_OP_SENDMSG, fds[1], 0, &message, 1, 0) ==
			(kind ? -ENOTSOCK : -EPIPE));
		REQUIRE(!close(fds[1]));
	}
	pthread_sigmask(SIG_SETMASK, NULL, &after);
	REQUIRE(!sigismember(&after, SIGPIPE));
	REQUIRE(!sigpending(&after) && !sigismember(&after, SIGPIPE));
}

static volatile sig_atomic_t interruptions;

static void interrupt(int number)
{
	(void)number;
	interruptions++;
}

static void *read_byte(void *fd)
{
	char byte;

	return (void *)(intptr_t)execute(AIO_OP_READ, *(int *)fd, HERE, &byte,
					 1, 0);
}

static void interrupted_read(void)
{
	struct sigaction action = { .sa_handler = interrupt };
	pthread_t thread;
	void *result;
	int fds[2];

	REQUIRE(!sigaction(SIGUSR1, &action, NULL) && !pipe(fds));
	REQUIRE(!pthread_create(&thread, NULL, read_byte, &fds[0]));
	for (int sent = 1; sent <= 100; sent++) {
		REQUIRE(!pthread_kill(thread, SIGUSR1));
		while (interruptions < sent)
			sched_yield();
	}
	REQUIRE(write(fds[1], "!", 1) == 1);
	REQUIRE(!pthread_join(thread, &result) && (intptr_t)result == 1);
	REQUIRE(!close(fds[0]) && !close(fds[1]));
}

int main(void)
{
	static const struct check checks[] = {
		{ "refused requests", refused },
		{ "reads and writes", reads_and_writes },
		{ "files", files },
		{ "extents", finds_extents },
		{ "sockets", sockets },
		{ "broken pipes", broken_pipes },
		{ "interrupted read", interrupted_read },
	};

	run_checks(checks, sizeof(checks) / sizeof(checks[0]));
	return 0;
}
