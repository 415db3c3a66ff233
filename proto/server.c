/*
 * server.c - listeners, and the connections as a whole: how many there may be and
 * what happens when there are too many or no descriptors are left.
 *
 * When the limit is reached, the connection that has been idle longest makes
 * room. If none is idle, accepting pauses; the kernel's backlog holds the rest.
 * When the process is out of descriptors, the reserved one is given up to accept
 * one connection and refuse it, so that the listener does not stay readable and
 * spin; if even that does not work, accepting pauses.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "lib/fs.h"
#include "lib/log.h"
#include "proto/http_priv.h"

#define ACCEPT_BATCH	32
#define ACCEPT_RETRY_MS 1000
#define ACCEPT_WARN_MS	60000
#define BACKLOG		4096
#define CONNS_LEAST	16U

struct listener {
	struct list link;
	struct loop_io io;
	struct http_server *server;
	int fd;
};

/* ---- accepting ------------------------------------------------------------- */

static void accept_timer(struct loop_timer *timer);

static void accept_set(struct http_server *s, bool on)
{
	if (s->accept_paused == !on)
		return;
	s->accept_paused = !on;
	list_foreach_safe (node, &s->listeners) {
		struct listener *l = list_entry(node, struct listener, link);

		(void)loop_io_set(&l->io, on ? EPOLLIN : 0);
	}
}

static void accept_pause(struct http_server *s, const char *why)
{
	uint64_t now_ms = loop_now_ms(s->loop);

	if (now_ms - s->accept_warned_ms >= ACCEPT_WARN_MS || !s->accept_warned_ms) {
		log_warn("new connections wait: %s", why);
		s->accept_warned_ms = now_ms;
	}
	accept_set(s, false);
	(void)loop_timer_set(s->loop, &s->accept_timer, now_ms + ACCEPT_RETRY_MS, accept_timer);
}

static void accept_timer(struct loop_timer *timer)
{
	struct http_server *s = container_of(timer, struct http_server, accept_timer);

	accept_set(s, true);
}

void server_conn_gone(struct http_server *s)
{
	accept_set(s, true);
	if (s->conns_n == 0 && s->config.on_empty)
		s->config.on_empty(s->config.app);
}

/* The longest idle connection gives way, else the one that has been sending its request the longest. */
static bool evict_idle(struct http_server *s)
{
	list_foreach_safe (node, &s->idle) {
		struct http_conn *c = list_entry(node, struct http_conn, link);

		if (conn_is_idle(c)) {
			conn_kill(c);
			return true;
		}
	}
	list_foreach_safe (node, &s->slow) {
		struct http_conn *c = list_entry(node, struct http_conn, link);

		if (conn_gives_way(c)) {
			conn_kill(c);
			return true;
		}
	}
	return false;
}

static int accept_from(int listen_fd)
{
	/* cppcheck-suppress nullPointer ; accept4(2): when addr is NULL, nothing is filled in */
	return accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
}

static void refuse_one(struct http_server *s, int listen_fd)
{
	int fd;

	fd_close(&s->reserve_fd);
	fd = accept_from(listen_fd);
	fd_close(&fd);
	s->reserve_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (!evict_idle(s) || s->reserve_fd < 0)
		accept_pause(s, "the process is out of descriptors");
}

/* Whether another one may be accepted at once. */
static bool accept_one(struct http_server *s, int listen_fd)
{
	int fd;

	if (s->conns_n >= s->config.conns_max) {
		struct pollfd waiting = {.fd = listen_fd, .events = POLLIN};

		if (poll(&waiting, 1, 0) == 1 && !evict_idle(s))
			accept_pause(s, "the limit on connections is reached");
		return false;
	}
	fd = accept_from(listen_fd);
	if (fd >= 0) {
		if (conn_new(s, fd) < 0)
			log_warn("no memory for a connection");
		return true;
	}
	switch (errno) {
	case EMFILE:
	case ENFILE:
		refuse_one(s, listen_fd);
		return false;
	case ENOBUFS:
	case ENOMEM:
		accept_pause(s, "the system is out of memory");
		return false;
	case EAGAIN:
		return false;
	default:
		/* That connection has failed, not the listener. */
		return errno == EINTR || errno == ECONNABORTED;
	}
}

static void listener_ready(struct loop_io *io, uint32_t events)
{
	struct listener *l = container_of(io, struct listener, io);
	int batch = ACCEPT_BATCH;

	(void)events;
	while (batch-- > 0 && accept_one(l->server, l->fd))
		;
}

bool http_server_is_empty(const struct http_server *s)
{
	return s->conns_n == 0;
}

/* ---- life ------------------------------------------------------------------ */

/* What the descriptor limit leaves when every request may need a few for itself. */
static unsigned default_conns_max(void)
{
	struct rlimit limit = {0};

	(void)getrlimit(RLIMIT_NOFILE, &limit);
	if (limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur > 65536)
		return 49152;
	return MAX((unsigned)(limit.rlim_cur / 4 * 3), CONNS_LEAST);
}

static void fill_defaults(struct http_config *config)
{
	if (!config->header_max)
		config->header_max = 65536;
	if (!config->json_max)
		config->json_max = 8U << 20;
	if (!config->conns_max)
		config->conns_max = default_conns_max();
	if (!config->head_timeout_ms)
		config->head_timeout_ms = 30000;
	if (!config->idle_timeout_ms)
		config->idle_timeout_ms = 120000;
}

int http_server_new(struct loop *loop, const struct http_config *config, struct http_server **ret,
		    struct err *err)
{
	struct http_server *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "start the HTTP server");
	s->loop = loop;
	s->config = *config;
	fill_defaults(&s->config);
	list_init(&s->listeners);
	list_init(&s->conns);
	list_init(&s->idle);
	list_init(&s->slow);
	list_init(&s->spare_reqs);
	s->reserve_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	r = lws_loop_new(loop, &s->lws, err);
	if (r < 0) {
		http_server_free(s);
		return r;
	}
	*ret = s;
	return 0;
}

static void close_all(struct list *conns)
{
	while (!list_empty(conns))
		conn_free(list_entry(conns->next, struct http_conn, link));
}

void http_server_free(struct http_server *s)
{
	if (!s)
		return;
	list_foreach_safe (node, &s->listeners) {
		struct listener *l = list_entry(node, struct listener, link);

		loop_io_del(&l->io);
		list_del(&l->link);
		fd_close(&l->fd);
		free(l);
	}
	close_all(&s->conns);
	close_all(&s->idle);
	close_all(&s->slow);
	loop_timer_del(&s->accept_timer);
	list_foreach_safe (node, &s->spare_reqs) {
		struct http_req *req = list_entry(node, struct http_req, link);

		list_del(&req->link);
		buf_done(&req->text);
		buf_done(&req->json_text);
		buf_done(&req->headers);
		free(req);
	}
	buf_done(&s->spare_in);
	buf_done(&s->spare_out);
	lws_loop_free(s->lws);
	fd_close(&s->reserve_fd);
	free(s);
}

int http_server_adopt(struct http_server *s, int fd, struct err *err)
{
	int r = fs_set_nonblock(fd);

	if (r < 0) {
		(void)close(fd);
		return err_sys(err, "RUNTIME_ERROR", -r, "take a connection");
	}
	r = conn_new(s, fd);
	return r < 0 ? err_sys(err, "RUNTIME_ERROR", -r, "take a connection") : 0;
}

int http_server_listen(struct http_server *s, int fd, struct err *err)
{
	static const int on = 1;
	struct listener *l = calloc(1, sizeof(*l));
	int flags, r = -ENOMEM;

	if (!l)
		goto fail;
	l->server = s;
	l->fd = fd;
	/* Accepted sockets inherit it. A Unix socket has no such option and no need of it. */
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) {
		r = -errno;
		goto fail;
	}
	r = loop_io_add(s->loop, &l->io, fd, s->accept_paused ? 0 : EPOLLIN, listener_ready);
	if (r < 0)
		goto fail;
	list_add_tail(&s->listeners, &l->link);
	return 0;

fail:
	free(l);
	fd_close(&fd);
	return err_sys(err, "RUNTIME_ERROR", -r, "listen on the socket");
}

int http_bind(const char *host, uint16_t port, int *ret_fd, uint16_t *ret_port, struct err *err)
{
	union {
		struct sockaddr any;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
	} a = {0};
	static const int on = 1, off = 0;
	_cleanup_close_ int fd = -EBADF;
	socklen_t n = sizeof(a);

	if (!host || !*host || strcmp(host, "*") == 0)
		host = "0.0.0.0";
	else if (strcmp(host, "localhost") == 0)
		host = "127.0.0.1";
	if (inet_pton(AF_INET, host, &a.in.sin_addr) == 1) {
		a.in.sin_family = AF_INET;
		a.in.sin_port = htons(port);
	} else if (inet_pton(AF_INET6, host, &a.in6.sin6_addr) == 1) {
		a.in6.sin6_family = AF_INET6;
		a.in6.sin6_port = htons(port);
	} else {
		return err_set(err, ERR_INVALID, "RUNTIME_ERROR", EINVAL, "'%s' is not an IP address", host);
	}
	fd = socket(a.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return err_sys(err, "RUNTIME_ERROR", errno, "make a socket for %s", host);
	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (a.any.sa_family == AF_INET6)
		(void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
	if (bind(fd, &a.any, sizeof(a)) < 0 || listen(fd, BACKLOG) < 0 || getsockname(fd, &a.any, &n) < 0)
		return err_sys(err, "RUNTIME_ERROR", errno, "listen on %s port %u", host, port);
	if (ret_port)
		*ret_port = ntohs(a.any.sa_family == AF_INET ? a.in.sin_port : a.in6.sin6_port);
	*ret_fd = TAKE_FD(fd);
	return 0;
}
