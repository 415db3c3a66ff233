/*
 * lws_loop.h - sockets that libwebsockets owns, on our loop.
 *
 * The one place that knows libwebsockets. A socket is adopted in the raw role:
 * lws reads, writes, keeps what a short write left over and closes; the HTTP
 * framing on top is ours, because lws's own HTTP role cannot take back bytes
 * that belong to the next request (chunked or absent bodies, pipelining), closes
 * on a half-closed client and decodes the request line before we see it. The
 * WebSocket role is lws's: such a socket is handed to lws with the head read so
 * far (lws_adopt_socket_vhost_readbuf).
 *
 * There is no timer of lws here: a raw socket has none, and the housekeeping of
 * its HTTP role (every 30 s) has nothing to do, so an idle server never wakes.
 */
#pragma once

#include <stdbool.h>

#include "lib/err.h"
#include "lib/loop.h"

/* Room that lws wants in front of what is written. */
#define LWS_SOCK_PRE 16
/* The most that one read delivers. */
#define LWS_SOCK_READ_MAX 65536

struct lws_loop;
struct lws_sock;

struct lws_sock_ops {
	/* Before lws acts: which of EPOLLIN and EPOLLOUT among events it may see. Zero keeps it out of it. */
	uint32_t (*ready)(struct lws_sock *sock, uint32_t events);
	/* What to wait for beside the EPOLLOUT that lws asks for itself: EPOLLIN, EPOLLRDHUP. */
	uint32_t (*interest)(struct lws_sock *sock);
	void (*rx)(struct lws_sock *sock, const void *data, size_t n);
	/* The socket has room and nothing is held back any more. */
	void (*writable)(struct lws_sock *sock);
	/* lws has closed it, for a failure of its own or for lws_sock_close(): sock may be freed in deferred
	 * work. */
	void (*closed)(struct lws_sock *sock);
};

struct lws_sock {
	struct loop_io io;
	struct lws_loop *owner;
	struct lws *wsi; /* NULL when not adopted, or closed */
	const struct lws_sock_ops *ops;
	uint32_t lws_wants; /* EPOLLOUT or 0 */
	bool adopted;
};

int lws_loop_new(struct loop *loop, struct lws_loop **ret, struct err *err);
/* Every socket must have been closed. */
void lws_loop_free(struct lws_loop *ll);

/* Consumes fd, also on failure. closed() is not called when this fails. */
int lws_sock_adopt(struct lws_loop *ll, struct lws_sock *sock, int fd, const struct lws_sock_ops *ops);
/* -errno when the socket is broken. buf has LWS_SOCK_PRE writable bytes before it. */
int lws_sock_write(struct lws_sock *sock, uint8_t *buf, size_t n);
/* Part of the last write is still held back: write nothing, read nothing. */
bool lws_sock_blocked(const struct lws_sock *sock);
/* Asks for writable(). */
void lws_sock_want_write(struct lws_sock *sock);
/* Takes over what interest() says now. */
void lws_sock_update(struct lws_sock *sock);
/* Not from within rx() or writable(). */
void lws_sock_close(struct lws_sock *sock);
