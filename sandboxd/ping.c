/*
 * ping.c - owns one connection per question; on the loop thread.
 */
#include "sandboxd/ping.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

static const char request[] = "GET /ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

static void finish(struct ping *p, int result)
{
	ping_cancel(p);
	p->fn(p, result);
}

static int send_request(struct ping *p)
{
	ssize_t n = send(p->fd, request, sizeof(request) - 1, MSG_NOSIGNAL);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	if ((size_t)n < sizeof(request) - 1)
		return -EPROTO; /* an empty socket buffer holds more than that */
	p->sent = true;
	return loop_io_set(&p->io, EPOLLIN);
}

/* 1: the status line is complete. */
static int read_answer(struct ping *p)
{
	ssize_t n = recv(p->fd, p->answer + p->len, sizeof(p->answer) - p->len, 0);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	p->len += (size_t)n;
	if (p->len >= strlen("HTTP/1.1 200 "))
		return 1;
	return n == 0 ? -ECONNRESET : 0;
}

/* An agent with a token refuses whoever has none: it is up. */
static bool is_up(const struct ping *p)
{
	return memcmp(p->answer, "HTTP/1.", 7) == 0 &&
	       (memcmp(p->answer + 8, " 200 ", 5) == 0 || memcmp(p->answer + 8, " 401 ", 5) == 0);
}

static void on_io(struct loop_io *io, uint32_t events)
{
	struct ping *p = container_of(io, struct ping, io);
	int r;

	(void)events;
	if (!p->sent) {
		r = send_request(p);
		if (r < 0)
			finish(p, r);
		return;
	}
	r = read_answer(p);
	if (r < 0)
		finish(p, r);
	else if (r > 0)
		finish(p, is_up(p) ? 0 : -EPROTO);
}

int ping_start(struct loop *loop, struct ping *p, uint16_t port, ping_fn *fn)
{
	struct sockaddr_in to = {
		.sin_family = AF_INET,
		.sin_port = htons(port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	_cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0 && errno != EINPROGRESS)
		return -errno;
	*p = (struct ping){.fd = fd, .fn = fn, .io.fd = -EBADF};
	int r = loop_io_add(loop, &p->io, fd, EPOLLOUT, on_io);
	if (r < 0) {
		p->fd = -EBADF;
		return r;
	}
	(void)TAKE_FD(fd);
	return 0;
}

void ping_cancel(struct ping *p)
{
	if (p->fd < 0)
		return;
	loop_io_del(&p->io);
	fd_close(&p->fd);
}
