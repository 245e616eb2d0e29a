/*
 * One request of io_uring, carried out with the plain system call: what a
 * worker of pool.c does where there is no io_uring, and what the loop's own
 * thread does with a socket that is ready.
 *
 * The result is what the completion would have in res. What a plain system
 * call cannot do (linked requests, fixed files and buffers, multishot) is
 * refused, never ignored. Sends and receives never block; accept, connect,
 * reads and writes do on an fd that is not O_NONBLOCK. No call raises SIGPIPE.
 */
#define _GNU_SOURCE
#include "aio.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define FSYNC_DATASYNC 1u

typedef ssize_t vector_call(int fd, const struct iovec *iov, int count,
			    off_t off, int flags);

static void *pointer(uint64_t address)
{
	return (void *)(uintptr_t)address;
}

/*
 * No flag of write(2) holds SIGPIPE back, so it is blocked and taken away. A
 * file with positions raises none, and one without refuses an offset first.
 */
static ssize_t write_quietly(int fd, const struct iovec *iov, int count,
			     off_t off, int flags)
{
	static const struct timespec now;
	sigset_t broken_pipe, before;
	ssize_t length;
	int error;

	if (off != -1)
		return pwritev2(fd, iov, count, off, flags);
	sigemptyset(&broken_pipe);
	sigaddset(&broken_pipe, SIGPIPE);
	sigprocmask(SIG_BLOCK, &broken_pipe, &before);
	length = pwritev2(fd, iov, count, off, flags);
	error = errno;
	if (length < 0 && error == EPIPE)
		sigtimedwait(&broken_pipe, NULL, &now);
	sigprocmask(SIG_SETMASK, &before, NULL);
	errno = error;
	return length;
}

/* As with io_uring, an offset means nothing where a file has no positions. */
static ssize_t transfer(const struct aio_sqe *sqe, vector_call *call,
			const struct iovec *iov, uint32_t count)
{
	int flags = (int)sqe->op_flags;
	ssize_t length = call(sqe->fd, iov, (int)count, (off_t)sqe->off, flags);

	if (length < 0 && errno == ESPIPE)
		length = call(sqe->fd, iov, (int)count, -1, flags);
	return length;
}

static long fail(int error)
{
	errno = error;
	return -1;
}

/*
 * What of a range is data and what is not: up to len extents, from off on. It
 * moves the position of the fd, which nobody uses who asks. What others change
 * meanwhile may be seen or not.
 */
static long extents(const struct aio_sqe *sqe)
{
	struct aio_extent *extent = pointer(sqe->addr);
	off_t at = (off_t)sqe->off, next, end;
	uint32_t count = 0;

	if (!sqe->len)
		return 0;
	end = at + (off_t)extent->length;
	while (at < end && count < sqe->len) {
		int hole = 1;

		next = lseek(sqe->fd, at, SEEK_DATA);
		if (next == at) {
			hole = 0;
			next = lseek(sqe->fd, at, SEEK_HOLE);
		}
		/* Beyond the end of the file, or nothing but hole up to it. */
		if (next < 0 && errno == ENXIO)
			next = end;
		if (next < 0)
			return -1;
		if (next > end)
			next = end;
		/* Data that has become a hole between the two calls. */
		if (next == at)
			continue;
		extent[count].length = (uint64_t)(next - at);
		extent[count++].hole = (uint64_t)hole;
		at = next;
	}
	return count;
}

/* -1 with errno set, as the system calls have it. */
static long call(const struct aio_sqe *sqe)
{
	int fd = sqe->fd, flags = (int)sqe->op_flags, error;
	int send_flags = flags | MSG_DONTWAIT | MSG_NOSIGNAL;
	void *addr = pointer(sqe->addr);
	struct iovec one = { addr, sqe->len };
	off_t off = (off_t)sqe->off;

	switch (sqe->opcode) {
	case AIO_OP_NOP:
		return 0;
	case AIO_OP_READV:
		return transfer(sqe, preadv2, addr, sqe->len);
	case AIO_OP_WRITEV:
		return transfer(sqe, write_quietly, addr, sqe->len);
	case AIO_OP_READ:
		return transfer(sqe, preadv2, &one, 1);
	case AIO_OP_WRITE:
		return transfer(sqe, write_quietly, &one, 1);
	case AIO_OP_FSYNC:
		if (sqe->op_flags & ~FSYNC_DATASYNC)
			return fail(EINVAL);
		return flags ? fdatasync(fd) : fsync(fd);
	case AIO_OP_SYNC_FILE_RANGE:
		return sync_file_range(fd, off, sqe->len, sqe->op_flags);
	case AIO_OP_SENDMSG:
		return sendmsg(fd, addr, send_flags);
	case AIO_OP_RECVMSG:
		return recvmsg(fd, addr, flags | MSG_DONTWAIT);
	case AIO_OP_SEND:
		return send(fd, addr, sqe->len, send_flags);
	case AIO_OP_RECV:
		return recv(fd, addr, sqe->len, flags | MSG_DONTWAIT);
	case AIO_OP_ACCEPT:
		return accept4(fd, addr, pointer(sqe->off), flags);
	case AIO_OP_CONNECT:
		return connect(fd, addr, (socklen_t)sqe->off);
	case AIO_OP_SHUTDOWN:
		return shutdown(fd, (int)sqe->len);
	case AIO_OP_FALLOCATE:
		return fallocate(fd, (int)sqe->len, off, (off_t)sqe->addr);
	case AIO_OP_FTRUNCATE:
		return ftruncate(fd, off);
	case AIO_OP_EXTENTS:
		return extents(sqe);
	case AIO_OP_FADVISE:
		error = posix_fadvise(fd, off, sqe->len, flags);
		return error ? fail(error) : 0;
	case AIO_OP_OPENAT:
		return openat(fd, addr, flags, (mode_t)sqe->len);
	case AIO_OP_STATX:
		/* The C library has had a function only since 2.28. */
		return syscall(SYS_statx, fd, addr, flags, sqe->len,
			       pointer(sqe->off));
	case AIO_OP_CLOSE:
		return close(fd);
	default:
		return fail(EOPNOTSUPP);
	}
}

int32_t aio_execute(const struct aio_sqe *sqe)
{
	/* After EINTR the fd is closed, and the connection goes on. */
	int again = sqe->opcode != AIO_OP_CLOSE &&
		    sqe->opcode != AIO_OP_CONNECT;
	long value;

	if (sqe->flags || sqe->ioprio || sqe->personality || sqe->file_index)
		return -EINVAL;
	do {
		value = call(sqe);
	} while (value < 0 && errno == EINTR && again);
	return (int32_t)(value < 0 ? -errno : value);
}
