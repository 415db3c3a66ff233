/*
 * clerk.c - the file handlers of the agent in another process, which is in a room or somebody else, behind
 * connections that the agent hands over.
 *
 * The agent has checked the client before; nobody else can reach this server,
 * as it listens nowhere. One loop, one small pool. What has been begun when the
 * agent hands over no more is finished.
 */
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "execd/api/api.h"
#include "execd/env.h"
#include "execd/isolated/warden.h"

#define POOL_THREADS 2
#define POOL_QUEUE   256

struct clerk_server {
	struct execd execd;
	struct loop_io io;
	int socket;
	bool last; /* no more connections will come */
};

static void on_connection(struct loop_io *io, uint32_t events)
{
	struct clerk_server *c = container_of(io, struct clerk_server, io);
	int fds[MESSAGE_FDS_MAX];
	size_t fds_n;
	char byte = 0;
	long n = message_receive(c->socket, &byte, 1, fds, &fds_n, 0);
	(void)events;
	for (size_t i = 0; i < fds_n; i++)
		(void)http_server_adopt(c->execd.http, fds[i], NULL);
	if (n > 0 && fds_n > 0)
		return;
	c->last = true;
	loop_io_del(io);
	if (n > 0 || http_server_is_empty(c->execd.http))
		loop_stop(c->execd.loop, 0);
}

static void on_empty(void *app)
{
	struct clerk_server *c = container_of(app, struct clerk_server, execd);
	if (c->last)
		loop_stop(c->execd.loop, 0);
}

static int clerk_build(struct clerk_server *c, struct err *err)
{
	struct execd *e = &c->execd;
	const struct http_config http = {.routes = clerk_routes, .app = e, .on_empty = on_empty};
	int r = env_init(NULL);
	if (r >= 0)
		r = loop_new(&e->loop);
	if (r >= 0)
		r = pool_new(e->loop, POOL_THREADS, POOL_QUEUE, &e->pool);
	if (r >= 0)
		r = http_server_new(e->loop, &http, &e->http, err);
	if (r >= 0)
		r = loop_io_add(e->loop, &c->io, c->socket, EPOLLIN, on_connection);
	return r;
}

int clerk_main(int socket)
{
	struct clerk_server c = {.socket = socket, .io = {.fd = -EBADF}};
	struct err err;
	(void)signal(SIGPIPE, SIG_IGN);
	(void)signal(SIGXFSZ, SIG_IGN);
	if (clerk_build(&c, &err) < 0)
		return 1;
	(void)loop_run(c.execd.loop);
	loop_io_del(&c.io);
	http_server_free(c.execd.http);
	pool_free(c.execd.pool);
	loop_free(c.execd.loop);
	return 0;
}
