/*
 * drive.h - the loop and the HTTP server within a fuzz target: connections over socket pairs, turned by hand.
 *
 * Nothing waits for time: the loop is turned until nothing is ready, which a hook
 * tells it not to wait for.
 */
#pragma once

#include <sys/socket.h>

#include "lib/fs.h"
#include "lib/log.h"
#include "lib/loop.h"
#include "proto/http_priv.h"
#include "tests/fuzz/fuzz.h"

#define DRIVE_PIECE 8	  /* turns after each piece of input */
#define DRIVE_END   2000  /* turns in which all must have come to an end */
#define DRIVE_GONE  20000 /* of a millisecond at most: as long, where workers have a part in it */

struct drive {
	struct loop *loop;
	struct http_server *http;
	struct loop_prepare hook;
	unsigned turns;
	int wait_ms; /* of a turn; for those who have workers */
};

static inline int drive_hook(struct loop_prepare *p)
{
	struct drive *d = container_of(p, struct drive, hook);

	if (d->turns == 0)
		loop_stop(d->loop, 0);
	else
		d->turns--;
	return d->wait_ms;
}

static inline void drive_new(struct drive *d, const struct http_config *config)
{
	struct err err = {0};

	log_init(-EBADF, LOG_DEBUG); /* what is logged is made, and goes nowhere */
	must(loop_new(&d->loop) == 0);
	loop_prepare_add(d->loop, &d->hook, drive_hook);
	must(http_server_new(d->loop, config, &d->http, &err) == 0);
}

static inline void drive_turns(struct drive *d, unsigned turns)
{
	d->turns = turns;
	must(loop_run(d->loop) == 0);
}

/* Both ends do not block. */
static inline void drive_pair(int fds[2])
{
	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) == 0);
}

/* The client's end of a connection that the server has just got. */
static inline int drive_connect(struct drive *d)
{
	struct err err = {0};
	int fds[2];

	drive_pair(fds);
	must(http_server_adopt(d->http, fds[1], &err) == 0);
	return fds[0];
}

/* Takes what is there; false: the other side has ended. */
static inline bool drive_read(int fd, struct buf *out)
{
	ssize_t n;

	do {
		must(buf_reserve(out, 65536) == 0);
		n = recv(fd, buf_tail(out), 65536, MSG_DONTWAIT);
		if (n > 0)
			out->len += (size_t)n;
	} while (n > 0);
	return n < 0 && errno == EAGAIN;
}

/* All n bytes in pieces of that many; 0: at once. Stops when the other side has gone. */
static inline void drive_write(struct drive *d, int fd, const uint8_t *data, size_t n, size_t piece,
			       struct buf *out)
{
	for (size_t at = 0; at < n;) {
		size_t part = piece == 0 || piece > n - at ? n - at : piece;
		ssize_t r = send(fd, data + at, part, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (r < 0 && errno != EAGAIN)
			return;
		at += r > 0 ? (size_t)r : 0;
		drive_turns(d, DRIVE_PIECE);
		(void)drive_read(fd, out);
	}
}

/* Until the other side has ended. */
static inline void drive_end(struct drive *d, int fd, struct buf *out)
{
	unsigned left = DRIVE_END;

	(void)shutdown(fd, SHUT_WR);
	while (drive_read(fd, out)) {
		must(left-- > 0);
		drive_turns(d, 1);
	}
	must(close(fd) == 0);
	drive_turns(d, DRIVE_PIECE);
}

/* A whole request, and what comes of it within so many turns of a millisecond at most; then the client goes.
 */
static inline void drive_ask(struct drive *d, const struct buf *request, size_t piece, unsigned turns,
			     struct buf *out)
{
	int fd = drive_connect(d);

	d->wait_ms = 0;
	drive_write(d, fd, request->data, request->len, piece, out);
	d->wait_ms = 1;
	(void)shutdown(fd, SHUT_WR);
	for (; turns > 0 && drive_read(fd, out); turns--)
		drive_turns(d, 1);
	must(close(fd) == 0);
}

/* The clients have gone: so do their connections, and what else is said to be left. */
static inline void drive_gone(struct drive *d, bool (*is_left)(void))
{
	for (unsigned turns = DRIVE_GONE; d->http->conns_n > 0 || (is_left && is_left()); turns--) {
		must(turns > 0);
		drive_turns(d, 1);
	}
}

/* Takes the interim replies out: how many there are depends on when what came. */
static inline void drive_drop_interim(struct buf *out)
{
	static const char interim[] = "HTTP/1.1 100 Continue\r\n\r\n";
	size_t n = sizeof(interim) - 1;

	for (uint8_t *p; out->len > 0 && (p = memmem(out->data, out->len, interim, n));) {
		memmove(p, p + n, (size_t)(out->data + out->len - p) - n);
		out->len -= n;
	}
}

/* The request, with the length of its body for the star in "Content-Length: *", so that bodies can change. */
static inline void drive_fill_length(const uint8_t *data, size_t n, struct buf *out)
{
	static const char field[] = "\r\nContent-Length: *\r\n";
	const uint8_t *at = n > 0 ? memmem(data, n, field, sizeof(field) - 1) : NULL;
	const uint8_t *body = at ? memmem(data, n, "\r\n\r\n", 4) : NULL;
	size_t before;

	if (!at || !body || at > body) {
		(void)buf_append(out, data, n);
		return;
	}
	before = (size_t)(at - data) + sizeof(field) - 4;
	(void)buf_append(out, data, before);
	(void)buf_printf(out, "%zu", n - (size_t)(body + 4 - data));
	(void)buf_append(out, data + before + 1, n - before - 1);
}
