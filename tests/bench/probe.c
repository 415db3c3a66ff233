/*
 * probe.c - takes one measurement a line of its input and prints it in microseconds.
 *
 *   probe exec PROGRAM [ARG...]         fork, exec, wait: the floor of every command; its output is thrown away
 *   probe http HOST PORT TOKEN BODY     POST /command on one kept connection, until the stream ends
 *   probe code HOST PORT TOKEN BODY     the same of POST /code
 *   probe first HOST PORT TOKEN BODY    the same, until the first output has come
 *   probe load HOST PORT TOKEN BODY CLIENTS COUNT
 *                                       COUNT commands by CLIENTS connections at once
 *   probe get HOST PORT TOKEN PATH      GET, the body thrown away
 *   probe put HOST PORT TOKEN FILE DEST POST /files/upload of a file
 *   probe cat FILE                      cat of a file through a pipe and a socket: the floor of output
 *   probe sink FILE DEST                a file through a socket into another: the floor of uploads
 *
 * The driver writes the lines, so that two probes take turns in one run.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define REPLY_MAX 65536

static uint64_t now_usec(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

static void run_program(char **argv)
{
	int status;
	pid_t pid = fork();
	if (pid < 0)
		err(1, "fork");
	if (pid == 0) {
		int null = open("/dev/null", O_RDWR | O_CLOEXEC); /* stdout is for figures */
		dup2(null, 1);
		dup2(null, 2);
		execvp(argv[0], argv);
		_exit(127);
	}
	if (waitpid(pid, &status, 0) < 0 || status != 0)
		errx(1, "%s: status %d", argv[0], status);
}

static int connect_to(const char *host, const char *port)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
	int one = 1;
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	if (fd < 0 || inet_pton(AF_INET, host, &to.sin_addr) != 1 ||
	    connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0)
		err(1, "connect to %s:%s", host, port);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return fd;
}

static void send_all(int fd, const char *data, size_t n)
{
	while (n > 0) {
		ssize_t r = write(fd, data, n);
		if (r < 0)
			err(1, "write");
		data += r;
		n -= (size_t)r;
	}
}

static size_t make_request(char *out, size_t size, const char *method, const char *path, char **to,
			   const char *body)
{
	int n = snprintf(out, size,
			 "%s %s HTTP/1.1\r\nHost: %s:%s\r\nX-EXECD-ACCESS-TOKEN: %s\r\n"
			 "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
			 method, path, to[0], to[1], to[2], strlen(body), body);
	if (n < 0 || (size_t)n >= size)
		errx(1, "the request is too long");
	return (size_t)n;
}

/* ---- event streams: the last chunk of a chunked body ends each -------------- */

struct stream {
	int fd;
	char tail[1024]; /* of what has come: the terminal event is in it */
	size_t got;
};

/* Takes a piece of the reply. 1: that was the end. */
static int stream_take(struct stream *s, const char *data, size_t n)
{
	char seam[sizeof(s->tail) * 2 + 1];
	size_t keep = s->got < sizeof(s->tail) ? s->got : sizeof(s->tail);
	size_t add = n < sizeof(s->tail) ? n : sizeof(s->tail);
	if (s->got == 0 && (n < 12 || strncmp(data + 9, "200", 3) != 0))
		errx(1, "%.*s", (int)(n < 400 ? n : 400), data);
	memcpy(seam, s->tail + sizeof(s->tail) - keep, keep);
	memcpy(seam + keep, data + n - add, add);
	keep += add;
	if (keep > sizeof(s->tail)) {
		memmove(seam, seam + keep - sizeof(s->tail), sizeof(s->tail));
		keep = sizeof(s->tail);
	}
	memcpy(s->tail + sizeof(s->tail) - keep, seam, keep);
	s->got += n;
	if (s->got < 5 || memcmp(s->tail + sizeof(s->tail) - 5, "0\r\n\r\n", 5) != 0)
		return 0;
	if (!memmem(s->tail, sizeof(s->tail), "execution_complete", 18))
		errx(1, "not a command that ended well");
	return 1;
}

/* One exchange on a kept connection; returns when (stop_at is NULL, or has been seen) for the clock. */
static uint64_t exchange(int fd, const char *request, size_t n, const char *stop_at)
{
	static char reply[1 << 20];
	struct stream s = {.fd = fd};
	uint64_t seen = 0;
	int ended = 0;
	send_all(fd, request, n);
	while (!ended) {
		ssize_t r = read(fd, reply, sizeof(reply));
		if (r <= 0)
			errx(1, "the connection ended");
		if (!seen && stop_at && memmem(reply, (size_t)r, stop_at, strlen(stop_at)))
			seen = now_usec();
		ended = stream_take(&s, reply, (size_t)r);
	}
	return seen ? seen : now_usec();
}

static void load(char **to, const char *request, size_t n, int clients, int count)
{
	static char reply[REPLY_MAX];
	static struct stream streams[256];
	int ep = epoll_create1(0), sent = 0, done = 0;
	for (int i = 0; i < clients; i++) {
		streams[i] = (struct stream){.fd = connect_to(to[0], to[1])};
		struct epoll_event ev = {.events = EPOLLIN, .data.ptr = &streams[i]};
		epoll_ctl(ep, EPOLL_CTL_ADD, streams[i].fd, &ev);
		send_all(streams[i].fd, request, n);
		sent++;
	}
	while (done < count) {
		struct epoll_event ready[64];
		int k = epoll_wait(ep, ready, 64, -1);
		for (int i = 0; i < k; i++) {
			struct stream *s = ready[i].data.ptr;
			ssize_t r = read(s->fd, reply, sizeof(reply));
			if (r <= 0)
				errx(1, "a connection ended");
			if (!stream_take(s, reply, (size_t)r))
				continue;
			done++;
			s->got = 0;
			if (sent < count) {
				send_all(s->fd, request, n);
				sent++;
			}
		}
	}
	for (int i = 0; i < clients; i++)
		close(streams[i].fd);
	close(ep);
}

/* ---- bytes --------------------------------------------------------------------- */

/* Reads a reply with a Content-Length and throws the body away. */
static void get(int fd, const char *request, size_t n)
{
	static char reply[1 << 18];
	size_t got = 0;
	char *body = NULL;
	send_all(fd, request, n);
	while (!body) {
		ssize_t r = read(fd, reply + got, 16384);
		if (r <= 0)
			errx(1, "the connection ended");
		got += (size_t)r;
		reply[got] = '\0';
		body = strstr(reply, "\r\n\r\n");
	}
	char *length = strcasestr(reply, "\r\nContent-Length:");
	if (strncmp(reply + 9, "200", 3) != 0 || !length)
		errx(1, "%.300s", reply);
	uint64_t left = strtoull(length + 17, NULL, 10) - (got - (size_t)(body + 4 - reply));
	while (left > 0) {
		ssize_t r = read(fd, reply, sizeof(reply));
		if (r <= 0)
			errx(1, "the body ended early");
		left -= (uint64_t)r;
	}
}

static void send_file(int to, const char *path)
{
	struct stat st;
	int fd = open(path, O_RDONLY);
	if (fd < 0 || fstat(fd, &st) < 0)
		err(1, "%s", path);
	for (off_t at = 0; at < st.st_size;)
		if (sendfile(to, fd, &at, (size_t)(st.st_size - at)) <= 0)
			err(1, "sendfile");
	close(fd);
}

static void put(int fd, char **to, const char *file, const char *dest)
{
	static const char end[] = "\r\n--b--\r\n";
	char head[4096], parts[2048], reply[4096];
	struct stat st;
	if (stat(file, &st) < 0)
		err(1, "%s", file);
	int parts_n = snprintf(parts, sizeof(parts),
			       "--b\r\nContent-Disposition: form-data; name=\"metadata\"; filename=\"m\"\r\n"
			       "Content-Type: application/json\r\n\r\n{\"path\":\"%s\"}\r\n"
			       "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\n",
			       dest);
	int n = snprintf(head, sizeof(head),
			 "POST /files/upload HTTP/1.1\r\nHost: %s:%s\r\nX-EXECD-ACCESS-TOKEN: %s\r\n"
			 "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: %lld\r\n\r\n%s",
			 to[0], to[1], to[2], (long long)(parts_n + st.st_size + (long)sizeof(end) - 1),
			 parts);
	send_all(fd, head, (size_t)n);
	send_file(fd, file);
	send_all(fd, end, sizeof(end) - 1);
	ssize_t r = read(fd, reply, sizeof(reply) - 1);
	if (r < 12 || strncmp(reply + 9, "200", 3) != 0)
		errx(1, "upload: %.*s", (int)(r > 0 ? r : 0), reply);
}

/* A connected pair of TCP sockets. */
static void tcp_pair(int ret[2])
{
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t n = sizeof(at);
	int listener = socket(AF_INET, SOCK_STREAM, 0);
	if (bind(listener, (struct sockaddr *)&at, n) < 0 || listen(listener, 1) < 0 ||
	    getsockname(listener, (struct sockaddr *)&at, &n) < 0)
		err(1, "listen");
	ret[0] = socket(AF_INET, SOCK_STREAM, 0);
	if (connect(ret[0], (struct sockaddr *)&at, n) < 0)
		err(1, "connect");
	ret[1] = accept(listener, NULL, NULL);
	close(listener);
}

static pid_t start_cat(const char *file, int in, int out, int other)
{
	pid_t pid = fork();
	if (pid != 0)
		return pid;
	if (in >= 0)
		dup2(in, 0);
	dup2(out, 1);
	close(other);
	execlp("cat", "cat", file, (char *)NULL);
	_exit(127);
}

static void cat(const char *file)
{
	static char piece[1 << 18];
	int fds[2], sock[2];
	if (pipe2(fds, O_CLOEXEC) < 0)
		err(1, "pipe");
	tcp_pair(sock);
	pid_t first = start_cat(file, -1, fds[1], sock[1]), second = start_cat("-", fds[0], sock[0], sock[1]);
	close(fds[0]);
	close(fds[1]);
	close(sock[0]);
	while (read(sock[1], piece, sizeof(piece)) > 0)
		;
	close(sock[1]);
	waitpid(first, NULL, 0);
	waitpid(second, NULL, 0);
}

static void sink(const char *file, const char *dest)
{
	static char piece[1 << 16];
	int sock[2];
	tcp_pair(sock);
	pid_t pid = fork();
	if (pid == 0) {
		close(sock[1]);
		send_file(sock[0], file);
		_exit(0);
	}
	close(sock[0]);
	int out = open(dest, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	for (ssize_t n; (n = read(sock[1], piece, sizeof(piece))) > 0;)
		send_all(out, piece, (size_t)n);
	close(out);
	close(sock[1]);
	waitpid(pid, NULL, 0);
}

static void usage(void)
{
	errx(2, "see the head of probe.c");
}

int main(int argc, char **argv)
{
	static char request[16384];
	const char *mode = argc > 1 ? argv[1] : "";
	char **to = argv + 2;
	size_t n = 0;
	int fd = -1;
	if (argc == 6 || argc == 8 || (argc == 7 && strcmp(mode, "put") == 0)) {
		if (strcmp(mode, "get") == 0)
			n = make_request(request, sizeof(request), "GET", argv[5], to, "");
		else if (strcmp(mode, "put") != 0 && strcmp(mode, "exec") != 0)
			n = make_request(request, sizeof(request), "POST",
					 strcmp(mode, "code") == 0 ? "/code" : "/command", to, argv[5]);
		if (strcmp(mode, "exec") != 0 && strcmp(mode, "load") != 0)
			fd = connect_to(to[0], to[1]);
	}
	for (int c; (c = getchar()) != EOF;) {
		if (c != '\n')
			continue;
		uint64_t start = now_usec(), end = 0;
		if (strcmp(mode, "exec") == 0 && argc > 2)
			run_program(argv + 2);
		else if ((strcmp(mode, "http") == 0 || strcmp(mode, "code") == 0) && n)
			(void)exchange(fd, request, n, NULL);
		else if (strcmp(mode, "first") == 0 && n)
			end = exchange(fd, request, n, "\"stdout\"");
		else if (strcmp(mode, "load") == 0 && argc == 8)
			load(to, request, n, atoi(argv[6]), atoi(argv[7]));
		else if (strcmp(mode, "get") == 0 && n)
			get(fd, request, n);
		else if (strcmp(mode, "put") == 0 && argc == 7)
			put(fd, to, argv[5], argv[6]);
		else if (strcmp(mode, "cat") == 0 && argc == 3)
			cat(argv[2]);
		else if (strcmp(mode, "sink") == 0 && argc == 4)
			sink(argv[2], argv[3]);
		else
			usage();
		printf("%llu\n", (unsigned long long)((end ? end : now_usec()) - start));
		fflush(stdout);
	}
	return 0;
}
