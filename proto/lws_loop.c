/*
 * lws_loop.c - libwebsockets as a guest on our epoll loop.
 *
 * Owns the lws context with one vhost and one protocol, no listener. lws calls
 * the event operations below when it takes a socket, changes what it waits for
 * and lets go of one; readiness goes the other way through lws_service_fd().
 * lws sockets of its own (the pipe that wakes its service from other threads,
 * netlink) are not ours to serve: we have one thread, and they carry no
 * lws_sock.
 *
 * Runs on the loop thread only.
 */
#include "proto/lws_loop.h"

#include <libwebsockets.h>
#include <limits.h>
#include <string.h>
#include <sys/epoll.h>

#include "lib/log.h"

_Static_assert(LWS_SOCK_PRE >= LWS_PRE, "LWS_SOCK_PRE is too small");

/* One send(2) a write: lws cuts writes at this size. */
#define WRITE_MAX (1U << 20)

struct lws_loop {
	struct loop *loop;
	struct lws_context *context;
	struct lws_vhost *vhost;
};

/* ---- log --------------------------------------------------------------- */

static void lws_log(int level, const char *line)
{
	enum log_level ours = level & LLL_ERR ? LOG_ERROR : level & LLL_WARN ? LOG_WARN : LOG_DEBUG;
	size_t n = strlen(line);

	while (n > 0 && line[n - 1] == '\n')
		n--;
	log_at(ours, "libwebsockets: %.*s", (int)n, line);
}

/* ---- lws asks the loop --------------------------------------------------- */

static struct lws_sock *sock_of(struct lws *wsi)
{
	return lws_get_opaque_user_data(wsi);
}

static void sock_io(struct loop_io *io, uint32_t events)
{
	struct lws_sock *sock = container_of(io, struct lws_sock, io);
	struct lws_loop *ll = sock->owner;
	uint32_t pass = sock->ops->ready(sock, events);
	struct lws_pollfd pollfd = {.fd = io->fd, .events = LWS_POLLIN};

	if (!sock->wsi || !pass)
		return;
	if (pass & EPOLLIN)
		pollfd.revents |= LWS_POLLIN;
	if (pass & EPOLLOUT) {
		pollfd.events |= LWS_POLLOUT;
		pollfd.revents |= LWS_POLLOUT;
	}
	(void)lws_service_fd(ll->context, &pollfd);
}

static int event_accept(struct lws *wsi)
{
	struct lws_sock *sock = sock_of(wsi);
	uint32_t events;

	if (!sock)
		return 0;
	sock->wsi = wsi;
	events = sock->ops->interest(sock);
	return loop_io_add(sock->owner->loop, &sock->io, lws_get_socket_fd(wsi), events, sock_io) < 0;
}

static void event_io(struct lws *wsi, unsigned int flags)
{
	struct lws_sock *sock = sock_of(wsi);

	if (!sock || !(flags & LWS_EV_WRITE))
		return;
	sock->lws_wants = flags & LWS_EV_START ? EPOLLOUT : 0;
	lws_sock_update(sock);
}

static int event_close(struct lws *wsi)
{
	struct lws_sock *sock = sock_of(wsi);

	if (sock)
		loop_io_del(&sock->io);
	return 0;
}

static const struct lws_event_loop_ops event_ops = {
	.name = "loop",
	.init_vhost_listen_wsi = event_accept,
	.sock_accept = event_accept,
	.io = event_io,
	.wsi_logical_close = event_close,
	.evlib_size_pt = sizeof(void *), /* without a part of ours lws does not count its timers */
};

static const lws_plugin_evlib_t event_lib = {
	.hdr = {"loop", "lws_evlib_plugin", LWS_BUILD_HASH, LWS_PLUGIN_API_MAGIC},
	.ops = &event_ops,
};

/* ---- lws tells us -------------------------------------------------------- */

static void sock_closed(struct lws *wsi, struct lws_sock *sock)
{
	lws_set_opaque_user_data(wsi, NULL);
	loop_io_del(&sock->io);
	sock->wsi = NULL;
	if (sock->adopted)
		sock->ops->closed(sock);
}

static int protocol_callback(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in,
			     size_t n)
{
	struct lws_sock *sock = wsi ? sock_of(wsi) : NULL;

	(void)user;
	if (!sock)
		return 0;
	switch (reason) {
	case LWS_CALLBACK_RAW_RX:
		sock->ops->rx(sock, in, n);
		return 0;
	case LWS_CALLBACK_RAW_WRITEABLE:
		sock->ops->writable(sock);
		return 0;
	case LWS_CALLBACK_RAW_CLOSE:
		sock_closed(wsi, sock);
		return 0;
	default:
		return 0;
	}
}

static const struct lws_protocols protocols[] = {
	{.name = "http", .callback = protocol_callback, .tx_packet_size = WRITE_MAX},
	LWS_PROTOCOL_LIST_TERM,
};

/* ---- public -------------------------------------------------------------- */

int lws_loop_new(struct loop *loop, struct lws_loop **ret, struct err *err)
{
	struct lws_context_creation_info info = {0};
	struct lws_loop *ll = calloc(1, sizeof(*ll));
	void *loops[1] = {loop};

	if (!ll)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "start the HTTP server");
	ll->loop = loop;

	lws_set_log_level(LLL_ERR | LLL_WARN | (log_max >= LOG_DEBUG ? LLL_NOTICE : 0), lws_log);
	info.port = CONTEXT_PORT_NO_LISTEN;
	info.protocols = protocols;
	info.event_lib_custom = &event_lib;
	info.foreign_loops = loops;
	info.pt_serv_buf_size = LWS_SOCK_READ_MAX + LWS_PRE;
	info.options = LWS_SERVER_OPTION_EXPLICIT_VHOSTS;
	info.vhost_name = "http";
	/* fd_limit_per_thread stays unset: with it lws looks every descriptor up by a linear search. */
	ll->context = lws_create_context(&info);
	if (ll->context)
		ll->vhost = lws_create_vhost(ll->context, &info);
	if (!ll->vhost) {
		lws_loop_free(ll);
		return err_set(err, ERR_INTERNAL, "RUNTIME_ERROR", ENOMEM, "libwebsockets does not start");
	}
	/* Lets lws initialize its protocols, which it does when first asked how long to wait. */
	(void)lws_service_adjust_timeout(ll->context, INT_MAX / 1000, 0);
	*ret = ll;
	return 0;
}

void lws_loop_free(struct lws_loop *ll)
{
	if (!ll)
		return;
	if (ll->context)
		lws_context_destroy(ll->context);
	free(ll);
}

int lws_sock_adopt(struct lws_loop *ll, struct lws_sock *sock, int fd, const struct lws_sock_ops *ops)
{
	lws_adopt_desc_t desc = {0};
	struct lws *wsi;

	sock->owner = ll;
	sock->ops = ops;
	sock->wsi = NULL;
	sock->lws_wants = 0;
	sock->adopted = false;
	sock->io.fd = -EBADF;
	desc.vh = ll->vhost;
	desc.type = LWS_ADOPT_SOCKET; /* without LWS_ADOPT_HTTP: the raw role */
	desc.fd.sockfd = fd;
	desc.opaque = sock;
	wsi = lws_adopt_descriptor_vhost_via_info(&desc);
	sock->adopted = wsi;
	return wsi ? 0 : -ENOMEM;
}

int lws_sock_write(struct lws_sock *sock, uint8_t *buf, size_t n)
{
	if (!sock->wsi)
		return -EPIPE;
	return lws_write(sock->wsi, buf, n, LWS_WRITE_RAW) < 0 ? -EPIPE : 0;
}

bool lws_sock_blocked(const struct lws_sock *sock)
{
	return sock->wsi && lws_partial_buffered(sock->wsi);
}

void lws_sock_want_write(struct lws_sock *sock)
{
	if (sock->wsi)
		(void)lws_callback_on_writable(sock->wsi);
}

void lws_sock_update(struct lws_sock *sock)
{
	if (sock->io.fd >= 0)
		(void)loop_io_set(&sock->io, sock->ops->interest(sock) | sock->lws_wants);
}

void lws_sock_close(struct lws_sock *sock)
{
	if (sock->wsi)
		lws_set_timeout(sock->wsi, PENDING_TIMEOUT_USER_OK, LWS_TO_KILL_SYNC);
}
