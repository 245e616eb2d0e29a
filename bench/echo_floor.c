/*
 * The floor of sockets: an echo server for a unix socket, with epoll. What has
 * come is sent back at once; what cannot be sent yet is kept, and nothing more
 * is read from that connection until it is. A floor, not a server: it knows
 * no limits, and any error but the loss of a connection ends it.
 *
 * It says "ready" when clients can connect and ends with its standard input.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define BUFFER_SIZE 65536
#define EVENTS_MAX 256

struct connection {
	int fd;
	/* What could not be sent yet; unsent is 0 while there is nothing. */
	char *kept;
	size_t unsent;
	size_t sent;
};

static char buffer[BUFFER_SIZE];

static void die(const char *what)
{
	fprintf(stderr, "echo_floor: error: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void watch(int epoll, int operation, int fd, uint32_t events, void *data)
{
	struct epoll_event event = { .events = events, .data.ptr = data };

	if (epoll_ctl(epoll, operation, fd, &event) < 0)
		die("epoll_ctl");
}

static void end(struct connection *connection)
{
	/* Closing it takes it out of the epoll instance. */
	close(connection->fd);
	free(connection->kept);
	free(connection);
}

/* Bytes that were sent, 0 when none can be now, -1 when the peer is gone. */
static ssize_t try_send(const struct connection *connection, const char *data,
			size_t length)
{
	ssize_t sent = send(connection->fd, data, length, MSG_NOSIGNAL);

	if (sent >= 0)
		return sent;
	return errno == EAGAIN || errno == EINTR ? 0 : -1;
}

/* Keeps the rest of the buffer until the connection takes more. */
static void keep(int epoll, struct connection *connection, const char *rest,
		 size_t length)
{
	if (!connection->kept)
		connection->kept = malloc(BUFFER_SIZE);
	if (!connection->kept)
		die("malloc");
	memcpy(connection->kept, rest, length);
	connection->unsent = length;
	connection->sent = 0;
	watch(epoll, EPOLL_CTL_MOD, connection->fd, EPOLLOUT, connection);
}

static void send_kept(int epoll, struct connection *connection)
{
	ssize_t sent = try_send(connection, connection->kept + connection->sent,
				connection->unsent);

	if (sent < 0) {
		end(connection);
		return;
	}
	connection->sent += (size_t)sent;
	connection->unsent -= (size_t)sent;
	if (!connection->unsent)
		watch(epoll, EPOLL_CTL_MOD, connection->fd, EPOLLIN,
		      connection);
}

static void echo(int epoll, struct connection *connection)
{
	ssize_t length = recv(connection->fd, buffer, BUFFER_SIZE, 0);
	ssize_t sent;

	if (length < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (length <= 0) {
		end(connection);
		return;
	}
	sent = try_send(connection, buffer, (size_t)length);
	if (sent < 0)
		end(connection);
	else if (sent < length)
		keep(epoll, connection, buffer + sent, (size_t)(length - sent));
}

static void accept_all(int epoll, int listener)
{
	for (;;) {
		int fd = accept4(listener, NULL, NULL,
				 SOCK_NONBLOCK | SOCK_CLOEXEC);
		struct connection *connection;

		if (fd < 0 && errno == EAGAIN)
			return;
		if (fd < 0 && (errno == EINTR || errno == ECONNABORTED))
			continue;
		connection = calloc(1, sizeof(*connection));
		if (fd < 0 || !connection)
			die("accept4");
		connection->fd = fd;
		watch(epoll, EPOLL_CTL_ADD, fd, EPOLLIN, connection);
	}
}

static int open_listener(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (strlen(path) >= sizeof(address.sun_path)) {
		errno = ENAMETOOLONG;
		die(path);
	}
	strcpy(address.sun_path, path);
	if (fd < 0 ||
	    bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    listen(fd, SOMAXCONN) < 0)
		die(path);
	return fd;
}

static void raise_file_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		die("getrlimit");
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
		die("setrlimit");
}

int main(int argc, char **argv)
{
	struct epoll_event events[EVENTS_MAX];
	/* Their addresses tell the two from connections. */
	static int listener, input = STDIN_FILENO;
	int epoll = epoll_create1(EPOLL_CLOEXEC);

	if (argc != 3 || strcmp(argv[1], "--socket")) {
		fprintf(stderr, "usage: echo_floor --socket PATH\n");
		return 2;
	}
	if (epoll < 0)
		die("epoll_create1");
	raise_file_limit();
	listener = open_listener(argv[2]);
	watch(epoll, EPOLL_CTL_ADD, listener, EPOLLIN, &listener);
	watch(epoll, EPOLL_CTL_ADD, input, EPOLLIN, &input);
	puts("ready");
	fflush(stdout);
	for (;;) {
		int count = epoll_wait(epoll, events, EVENTS_MAX, -1);

		for (int i = 0; i < count; i++) {
			void *data = events[i].data.ptr;

			if (data == &listener)
				accept_all(epoll, listener);
			else if (data != &input)
				(events[i].events & EPOLLOUT ? send_kept :
							       echo)(epoll,
								     data);
			else if (read(input, buffer, BUFFER_SIZE) <= 0)
				return 0;
		}
		if (count < 0 && errno != EINTR)
			die("epoll_wait");
	}
}
