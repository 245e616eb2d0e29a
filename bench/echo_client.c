/*
 * The client of echo servers, ours and the floor alike: many connections to a
 * unix socket with one message in flight on each. Each answer is compared with
 * what was sent, and each message differs from the one before.
 *
 * It connects, sends one message through each connection and says "ready". For
 * each line on its standard input it then keeps all connections busy for a
 * while and prints what came; between that and until the end of its input they
 * are idle.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define BUFFER_SIZE 65536
#define EVENTS_MAX 256
#define MESSAGES_PER_CLOCK_READ 64
/* An answer that takes longer never comes. */
#define ANSWER_LIMIT_MS 20000

struct connection {
	int fd;
	uint32_t events;
	char *message;
	size_t sent;
	size_t received;
};

struct client {
	int epoll;
	size_t bytes;
	uint32_t count;
	struct connection *connections;
	uint64_t messages;
	uint32_t in_flight;
	/* Whether an answer is followed by another message. */
	int again;
};

static void die(const char *what, int error)
{
	fprintf(stderr, "echo_client: error: %s: %s\n", what, strerror(error));
	exit(1);
}

static double now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

static void watch(const struct client *client, struct connection *connection,
		  uint32_t events)
{
	struct epoll_event event = { .events = events,
				     .data.ptr = connection };
	int operation = connection->events ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;

	if (connection->events == events)
		return;
	if (epoll_ctl(client->epoll, operation, connection->fd, &event) < 0)
		die("epoll_ctl", errno);
	connection->events = events;
}

static void send_rest(const struct client *client,
		      struct connection *connection)
{
	ssize_t sent = send(connection->fd,
			    connection->message + connection->sent,
			    client->bytes - connection->sent, MSG_NOSIGNAL);

	if (sent < 0 && errno != EAGAIN && errno != EINTR)
		die("send", errno);
	if (sent > 0)
		connection->sent += (size_t)sent;
	watch(client, connection,
	      connection->sent < client->bytes ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

static void send_message(struct client *client, struct connection *connection)
{
	/* Counts in its first bytes, so that no two in a row are the same. */
	for (size_t i = 0; i < client->bytes && i < 4; i++) {
		if (++connection->message[i])
			break;
	}
	connection->sent = 0;
	connection->received = 0;
	client->in_flight++;
	send_rest(client, connection);
}

static void receive(struct client *client, struct connection *connection)
{
	static char buffer[BUFFER_SIZE];
	/* All that can be read, so that more than was sent is seen too. */
	ssize_t length = recv(connection->fd, buffer, BUFFER_SIZE, 0);
	size_t end;

	if (length < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (length <= 0)
		die("the server has ended a connection",
		    length < 0 ? errno : ECONNRESET);
	end = connection->received + (size_t)length;
	if (end > connection->sent ||
	    memcmp(buffer, connection->message + connection->received,
		   (size_t)length))
		die("an answer differs from its message", EBADMSG);
	connection->received = end;
	if (end < client->bytes)
		return;
	client->messages++;
	client->in_flight--;
	if (client->again)
		send_message(client, connection);
}

static void wait_for_answers(struct client *client)
{
	struct epoll_event events[EVENTS_MAX];
	int count = epoll_wait(client->epoll, events, EVENTS_MAX,
			       ANSWER_LIMIT_MS);

	if (count < 0 && errno != EINTR)
		die("epoll_wait", errno);
	if (!count)
		die("an answer does not come", ETIMEDOUT);
	for (int i = 0; i < count; i++) {
		struct connection *connection = events[i].data.ptr;

		if (events[i].events & EPOLLOUT)
			send_rest(client, connection);
		if (events[i].events & ~(uint32_t)EPOLLOUT)
			receive(client, connection);
	}
}

/* Returns when all messages have been answered. */
static void exchange(struct client *client, double seconds)
{
	double end_ns = now_ns() + seconds * 1e9;
	uint64_t clock_read_at = MESSAGES_PER_CLOCK_READ;

	client->messages = 0;
	client->again = seconds > 0;
	for (uint32_t i = 0; i < client->count; i++)
		send_message(client, &client->connections[i]);
	while (client->in_flight) {
		wait_for_answers(client);
		if (client->messages < clock_read_at)
			continue;
		clock_read_at = client->messages + MESSAGES_PER_CLOCK_READ;
		if (now_ns() >= end_ns)
			client->again = 0;
	}
}

static void connect_all(struct client *client, const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	if (strlen(path) >= sizeof(address.sun_path))
		die(path, ENAMETOOLONG);
	strcpy(address.sun_path, path);
	for (uint32_t i = 0; i < client->count; i++) {
		struct connection *connection = &client->connections[i];

		/* It blocks until the server has room for one more. */
		connection->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (connection->fd < 0 ||
		    connect(connection->fd, (struct sockaddr *)&address,
			    sizeof(address)) < 0 ||
		    fcntl(connection->fd, F_SETFL, O_NONBLOCK) < 0)
			die("connect", errno);
		connection->message = malloc(client->bytes);
		if (!connection->message)
			die("malloc", ENOMEM);
		for (size_t at = 0; at < client->bytes; at++)
			connection->message[at] = (char)(i * 31 + at);
		/* The answer to this one says that it has been accepted. */
		client->again = 0;
		send_message(client, connection);
		while (client->in_flight)
			wait_for_answers(client);
	}
}

static void raise_file_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		die("getrlimit", errno);
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
		die("setrlimit", errno);
}

int main(int argc, char **argv)
{
	struct client client = { .bytes = 64, .count = 1 };
	const char *path = NULL;
	double seconds = 5;
	char line[16];

	for (int i = 1; i + 1 < argc; i += 2) {
		if (!strcmp(argv[i], "--socket"))
			path = argv[i + 1];
		else if (!strcmp(argv[i], "--seconds"))
			seconds = atof(argv[i + 1]);
		else if (!strcmp(argv[i], "--connections"))
			client.count = (uint32_t)atoi(argv[i + 1]);
		else if (!strcmp(argv[i], "--bytes"))
			client.bytes = (size_t)atol(argv[i + 1]);
	}
	if (!path || seconds <= 0 || !client.count || !client.bytes) {
		fprintf(stderr,
			"usage: echo_client --socket PATH [--seconds 5] "
			"[--connections 1] [--bytes 64]\n");
		return 2;
	}
	raise_file_limit();
	client.epoll = epoll_create1(EPOLL_CLOEXEC);
	client.connections = calloc(client.count, sizeof(*client.connections));
	if (client.epoll < 0 || !client.connections)
		die("epoll_create1", errno);
	connect_all(&client, path);
	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		double start_ns = now_ns(), elapsed_ns;

		exchange(&client, seconds);
		elapsed_ns = now_ns() - start_ns;
		printf("{\"messagesPerSecond\":%.1f,\"usPerMessage\":%.4f}\n",
		       (double)client.messages / elapsed_ns * 1e9,
		       elapsed_ns / 1e3 / (double)client.messages);
		fflush(stdout);
	}
	return 0;
}
