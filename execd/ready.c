/*
 * ready.c - owns one listening socket; loop thread only.
 */
#include "execd/ready.h"

#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define READY_PORT     44771
#define READY_BACKLOG  64
#define ACCEPTS_A_TURN 64

struct ready {
	struct loop_io io;
	int fd;
};

static uint16_t ready_port(void)
{
	const char *text = getenv("JUPYTER_PORT");
	char *end;
	if (!text || *text < '0' || *text > '9')
		return READY_PORT;
	unsigned long port = strtoul(text, &end, 10);
	return *end || port < 1 || port > UINT16_MAX ? READY_PORT : (uint16_t)port;
}

static void on_connection(struct loop_io *io, uint32_t events)
{
	(void)events;
	for (int i = 0; i < ACCEPTS_A_TURN; i++) {
		_cleanup_close_ int fd = accept4(io->fd, NULL, NULL, SOCK_CLOEXEC);
		if (fd < 0)
			return;
	}
}

int ready_new(struct loop *loop, struct ready **ret)
{
	const struct sockaddr_in address = {.sin_family = AF_INET,
					    .sin_port = htons(ready_port()),
					    .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	_cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	const int one = 1;
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
	    bind(fd, (const struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, READY_BACKLOG) < 0)
		return -errno;
	struct ready *r = calloc(1, sizeof(*r));
	if (!r)
		return -ENOMEM;
	int rc = loop_io_add(loop, &r->io, fd, EPOLLIN, on_connection);
	if (rc < 0) {
		free(r);
		return rc;
	}
	r->fd = TAKE_FD(fd);
	*ret = r;
	return 0;
}

void ready_free(struct ready *r)
{
	if (!r)
		return;
	loop_io_del(&r->io);
	fd_close(&r->fd);
	free(r);
}
