/*
 * proxy.c - one proxied exchange.
 *
 *   CONNECT -> HEAD -> BODY -> end
 *                   \-> RAW (101) -> end
 *
 * Owns the upstream's socket, a buffer towards it (the request's head, then
 * what it has not yet taken of the body) and one for the head of its reply.
 * Towards the client it is a tunnel of http.h: the reply's body is read from
 * the upstream's socket straight into the client's buffer when that has room.
 *
 * The upstream's connection serves one exchange ("Connection: close"), ours
 * goes on when the length of the reply is known to the client. Interim replies
 * (1xx) pass. A reply that breaks off is broken off towards the client too.
 */
#include "proto/proxy.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>

#include "lib/list.h"
#include "lib/log.h"
#include "proto/chunked.h"
#include "proto/headers.h"
#include "proto/json.h"

enum state { CONNECT, HEAD, BODY, RAW };

enum framing { FRAMING_CLOSE, FRAMING_LENGTH, FRAMING_CHUNKED };

struct proxy {
	struct http_tunnel tunnel;
	struct http_req *req;
	struct loop *loop;
	struct loop_io io;
	int fd;
	struct sockaddr_storage addresses[PROXY_ADDRESSES_MAX]; /* not tried yet */
	size_t addresses_n;
	enum state state;
	char *what;
	struct buf out;	  /* towards the upstream */
	struct buf in;	  /* from it, while its head is not complete */
	struct buf ready; /* heads, and what came with them, for the client */
	size_t scanned;	  /* of `in` */
	bool client_done; /* raw: the client sends no more */
	bool upstream_eof;
	bool head_only;
	bool says_id; /* the reply has a request id */
	bool upgrade; /* the client has asked for one */
	bool coded;   /* the reply names a transfer coding */
	bool sized;   /* and, or, a length */
	enum framing framing;
	uint64_t left;
	struct chunked chunked;
	bool complete;	  /* all of the reply has been read */
	int broken;	  /* -errno: it will not be */
	char *request_id; /* said on every reply that does not say its own, or NULL */
};

/* ---- the request towards the upstream -------------------------------------- */

/* Belongs to one connection, or is said anew. */
static bool is_hop_by_hop(const char *name)
{
	static const char *const names[] = {"Connection", "Keep-Alive", "Proxy-Connection", "TE", "Upgrade"};
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (strcasecmp(name, names[i]) == 0)
			return true;
	return false;
}

static bool listed(const char *const *names, const char *name)
{
	for (; names && *names; names++)
		if (strcasecmp(*names, name) == 0)
			return true;
	return false;
}

/*
 * Named by the client as of its connection with us. Not what tells where the request ends, and to whom it
 * goes: without those, it would be another request.
 */
static bool named_by_connection(struct http_req *req, const char *field)
{
	static const char *const kept[] = {"Host", "Content-Length", "Transfer-Encoding", NULL};
	const size_t n = strlen(field);
	const char *name, *value;

	for (size_t i = 0; !listed(kept, field) && (name = http_header_at(req, i, &value)); i++) {
		if (strcasecmp(name, "Connection") != 0)
			continue;
		for (const char *word = value; *word; word += strcspn(word, ", \t")) {
			word += strspn(word, ", \t");
			if (strncasecmp(word, field, n) == 0 && strcspn(word, ", \t") == n)
				return true;
		}
	}
	return false;
}

static int put_request(struct proxy *p, const struct proxy_target *t)
{
	struct http_req *req = p->req;
	const char *name, *value, *upgrade = p->upgrade ? http_header(req, "Upgrade") : NULL;
	(void)buf_printf(&p->out, "%s %s HTTP/1.%u\r\n", http_method(req), t->target, http_minor(req));
	for (size_t i = 0; (name = http_header_at(req, i, &value)); i++)
		if (!is_hop_by_hop(name) && !listed(t->drop, name) && !named_by_connection(req, name))
			(void)buf_printf(&p->out, "%s: %s\r\n", name, value);
	if (upgrade)
		(void)buf_printf(&p->out, "Connection: Upgrade\r\nUpgrade: %s\r\n", upgrade);
	else
		(void)buf_puts(&p->out, "Connection: close\r\n");
	(void)buf_puts(&p->out, t->add ? t->add : "");
	(void)buf_puts(&p->out, "\r\n");
	return p->out.failed ? -ENOBUFS : 0;
}

/* ---- ends ------------------------------------------------------------------- */

static void proxy_free(struct proxy *p)
{
	loop_io_del(&p->io);
	fd_close(&p->fd);
	buf_done(&p->out);
	buf_done(&p->in);
	buf_done(&p->ready);
	free(p->what);
	free(p->request_id);
	free(p);
}

/*
 * What cannot go on. As long as nothing of a reply has been read the client gets
 * one of ours, after that it sees the cut.
 */
static void proxy_fail(struct proxy *p, int r)
{
	_cleanup_buf_ struct buf body = BUF_INIT(8192), message = BUF_INIT(1024);
	struct jw w = JW_INIT(&body);
	loop_io_del(&p->io);
	http_wake(p->req);
	if (p->state > HEAD) {
		p->broken = -EPIPE;
		return;
	}
	(void)buf_printf(&message, "%s: %s: %s", p->what,
			 p->state == CONNECT ? "cannot be reached" : "has not replied in HTTP/1.1",
			 strerror(-r));
	jw_obj_begin(&w);
	jw_kstr(&w, "code", "BAD_GATEWAY");
	jw_kstr(&w, "message", buf_cstr(&message));
	jw_obj_end(&w);
	(void)buf_printf(&p->ready,
			 "HTTP/1.1 502 Bad Gateway\r\nContent-Type: application/json\r\n"
			 "Content-Length: %zu\r\nConnection: close\r\n%s%s%s\r\n",
			 body.len, p->request_id ? "X-Request-ID: " : "", p->request_id ? p->request_id : "",
			 p->request_id ? "\r\n" : "");
	(void)buf_append(&p->ready, body.data, p->head_only ? 0 : body.len);
	p->tunnel.keep = false;
	p->complete = true;
	http_body_pause(p->req, true);
}

/* ---- the reply's head ------------------------------------------------------- */

/*
 * RFC 9112 section 6.3, and stricter: a reply that can be read in two ways could end for the client elsewhere
 * than for us, and what the sandbox has put there would be the answer to the client's next request.
 */
static int weigh(struct proxy *p, const char *name, const char *value)
{
	if (strcasecmp(name, "Transfer-Encoding") == 0) {
		if (p->coded || p->sized)
			return -EPROTO;
		p->coded = true;
		p->framing = strcasecmp(value, "chunked") == 0 ? FRAMING_CHUNKED : FRAMING_CLOSE;
	} else if (strcasecmp(name, "Content-Length") == 0) {
		char *end;
		errno = 0;
		uint64_t length = strtoull(value, &end, 10);
		if (*value < '0' || *value > '9' || *end || errno || length > INT64_MAX)
			return -EPROTO;
		if (p->coded || (p->sized && length != p->left))
			return -EPROTO;
		p->sized = true;
		p->left = length;
		p->framing = FRAMING_LENGTH;
	}
	return 0;
}

/* Copies a field to the head that the client gets, unless it is about the upstream's connection. */
static int pass_field(struct proxy *p, struct buf *head, char *line, bool raw)
{
	char *colon = strchr(line, ':');
	if (!colon || !is_token(line, (size_t)(colon - line)))
		return -EPROTO;
	*colon = '\0';
	char *value = colon + 1 + strspn(colon + 1, " \t"), *end = value + strlen(value);
	while (end > value && (end[-1] == ' ' || end[-1] == '\t'))
		*--end = '\0';
	int r = weigh(p, line, value);
	if (strcasecmp(line, "X-Request-ID") == 0 && !raw)
		p->says_id = true;
	if (r >= 0 && (raw || !is_hop_by_hop(line)))
		r = buf_printf(head, "%s: %s\r\n", line, value);
	return r;
}

static void decide_end(struct proxy *p, unsigned status)
{
	p->tunnel.raw = status == 101;
	if (status == 101) {
		p->state = RAW;
		return;
	}
	p->state = BODY;
	if (p->head_only || status == 204 || status == 304) {
		p->framing = FRAMING_LENGTH;
		p->left = 0;
	}
	p->tunnel.framed = p->framing != FRAMING_CLOSE;
	p->tunnel.keep = p->tunnel.framed && http_keep_alive(p->req) &&
			 (p->framing != FRAMING_CHUNKED || http_minor(p->req) > 0);
	p->complete = p->framing == FRAMING_LENGTH && p->left == 0;
}

/* RFC 9112 section 4, to the letter; the version becomes ours, as a gateway's has to be. */
static bool status_line(char *text, size_t n, unsigned *ret)
{
	static const char form[] = "HTTP/1.d ddd";
	size_t form_n = sizeof(form) - 1;
	if (n <= form_n || (text[form_n] != ' ' && text[form_n] != '\r'))
		return false;
	for (size_t i = 0; i < form_n; i++)
		if (form[i] == 'd' ? text[i] < '0' || text[i] > '9' : text[i] != form[i])
			return false;
	text[7] = '1';
	*ret = (unsigned)((text[9] - '0') * 100 + (text[10] - '0') * 10 + (text[11] - '0'));
	return *ret >= 100;
}

/* The n bytes of a head that are the first in `in`: rewritten onto `ready`. */
static int take_head(struct proxy *p, size_t n)
{
	char *text = (char *)p->in.data, *end = text + n, *line = text;
	unsigned status;
	p->framing = FRAMING_CLOSE;
	p->coded = p->sized = false;
	if (!status_line(text, n, &status))
		return -EPROTO;
	/* A client that has not asked for another protocol would send its next request into it. */
	if (status == 101 && !p->upgrade)
		return -EPROTO;
	bool raw = status < 200;
	size_t before = p->ready.len;
	for (int first = 1; line < end - 2; first = 0) {
		char *crlf = memchr(line, '\r', (size_t)(end - line));
		if (!crlf || crlf[1] != '\n' || memchr(line, '\0', (size_t)(crlf - line)))
			return -EPROTO;
		*crlf = '\0';
		int r = first ? buf_printf(&p->ready, "%s\r\n", line) : pass_field(p, &p->ready, line, raw);
		if (r < 0)
			return r;
		line = crlf + 2;
	}
	if (raw && http_minor(p->req) == 0)
		p->ready.len = before; /* HTTP/1.0 has no interim replies */
	if (!raw || status == 101)
		decide_end(p, status);
	if (p->state == BODY && !p->tunnel.keep)
		(void)buf_puts(&p->ready, "Connection: close\r\n");
	else if (p->state == BODY && http_minor(p->req) == 0)
		(void)buf_puts(&p->ready, "Connection: keep-alive\r\n");
	if (p->state == BODY && p->request_id && !p->says_id)
		(void)buf_printf(&p->ready, "X-Request-ID: %s\r\n", p->request_id);
	if (p->ready.len > before)
		(void)buf_puts(&p->ready, "\r\n");
	buf_consume(&p->in, n);
	p->scanned = 0;
	return p->ready.failed ? -ENOBUFS : 0;
}

/* How many of the n bytes that came belong to the reply. -EPROTO: broken chunks. */
static ssize_t body_extent(struct proxy *p, const uint8_t *data, size_t n)
{
	size_t total = 0, used, piece_n;
	const uint8_t *piece;
	switch (p->framing) {
	case FRAMING_CLOSE:
		return (ssize_t)n;
	case FRAMING_LENGTH:
		total = (size_t)MIN((uint64_t)n, p->left);
		p->left -= total;
		p->complete = p->left == 0;
		return (ssize_t)total;
	case FRAMING_CHUNKED:
		while (total < n && !p->complete) {
			int r = chunked_next(&p->chunked, data + total, n - total, &used, &piece, &piece_n);
			if (r < 0)
				return -EPROTO;
			total += used;
			p->complete = r > 0;
		}
		p->tunnel.between = !p->complete && chunked_between(&p->chunked);
		return (ssize_t)total;
	}
	return -EPROTO;
}

/* ---- from the upstream to the client ----------------------------------------- */

/* One read into b. >0: bytes, 0: the end, -EAGAIN, -errno. */
static ssize_t upstream_read(struct proxy *p, struct buf *b, size_t max)
{
	ssize_t n;
	if (buf_reserve(b, max) < 0)
		return -ENOMEM;
	do
		n = read(p->fd, buf_tail(b), max);
	while (n < 0 && errno == EINTR);
	if (n > 0)
		b->len += (size_t)n;
	p->upstream_eof = n == 0;
	return n < 0 ? -errno : n;
}

/* What came behind the head is the body's beginning. */
static int body_begin(struct proxy *p)
{
	ssize_t n = p->state == RAW ? (ssize_t)p->in.len : body_extent(p, p->in.data, p->in.len);
	int r = n < 0 ? (int)n : buf_append(&p->ready, p->in.data, (size_t)n);
	buf_done(&p->in);
	return r;
}

/* Reads as much of the head as there is. 1: complete, 0: not yet. */
static int head_read(struct proxy *p)
{
	ssize_t n = upstream_read(p, &p->in, PROXY_HEAD_MAX / 4);
	if (n == -EAGAIN)
		return 0;
	if (n <= 0)
		return n < 0 ? (int)n : -ECONNRESET;
	while (p->state == HEAD) {
		ssize_t head_n = head_find(p->in.data, p->in.len, &p->scanned);
		if (head_n < 0)
			return -EPROTO;
		if (head_n == 0)
			return p->in.len > PROXY_HEAD_MAX ? -EPROTO : 0;
		size_t before = p->ready.len;
		int r = take_head(p, (size_t)head_n);
		if (r < 0) {
			p->ready.len = before;
			return r;
		}
	}
	int r = body_begin(p);
	return r < 0 ? r : 1;
}

static void want(struct proxy *p)
{
	uint32_t events = p->out.len > 0 || p->state == CONNECT ? EPOLLOUT : 0;
	if (!p->upstream_eof && !p->complete)
		events |= EPOLLIN;
	if (loop_io_set(&p->io, events) < 0)
		log_error("proxy: the upstream's socket cannot be watched");
}

/* The upstream has ended: is that the end of the reply? */
static int at_upstream_eof(const struct proxy *p)
{
	if (p->state == RAW)
		return 1;
	return p->framing == FRAMING_CLOSE ? 1 : -ECONNRESET;
}

static int proxy_proceed(struct http_source *src, struct buf *out, size_t room)
{
	struct proxy *p = container_of(container_of(src, struct http_tunnel, source), struct proxy, tunnel);
	if (p->ready.len > 0) {
		size_t n = MIN(room, p->ready.len);
		int r = buf_append(out, p->ready.data, n);
		buf_consume(&p->ready, n);
		return r < 0 ? r : p->complete && p->ready.len == 0;
	}
	if (p->complete || p->broken)
		return p->broken ? p->broken : 1;
	if (p->state < BODY)
		return 0;
	size_t at = out->len;
	ssize_t n = upstream_read(p, out, room);
	if (n == -EAGAIN) {
		want(p);
		return 0;
	}
	if (n <= 0)
		return n < 0 ? (int)n : at_upstream_eof(p);
	n = p->state == RAW ? n : body_extent(p, out->data + at, (size_t)n);
	if (n < 0)
		return (int)n;
	out->len = at + (size_t)n;
	return p->complete;
}

static void proxy_stop(struct http_source *src, bool complete)
{
	struct proxy *p = container_of(container_of(src, struct http_tunnel, source), struct proxy, tunnel);
	(void)complete;
	proxy_free(p);
}

/* ---- from the client to the upstream ----------------------------------------- */

static void out_write(struct proxy *p)
{
	while (p->out.len > 0) {
		ssize_t n = send(p->fd, p->out.data, p->out.len, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n < 0) {
			/* It may have replied before it hung up: that is found by reading. */
			buf_clear(&p->out);
			return;
		}
		buf_consume(&p->out, (size_t)n);
	}
	if (p->client_done)
		(void)shutdown(p->fd, SHUT_WR);
}

static void tunnel_data(struct http_tunnel *t, const void *data, size_t n)
{
	struct proxy *p = container_of(t, struct proxy, tunnel);
	if (n == 0)
		p->client_done = true;
	(void)buf_append(&p->out, data, n);
	out_write(p);
	http_body_pause(p->req, p->out.len >= PROXY_BUFFER_MAX);
	want(p);
}

/* ---- the upstream's socket ----------------------------------------------------- */

static int connect_next(struct proxy *p);

static void proxy_connected(struct proxy *p)
{
	int error = 0;
	socklen_t n = sizeof(error);
	if (getsockopt(p->fd, SOL_SOCKET, SO_ERROR, &error, &n) < 0)
		error = errno;
	if (error) {
		int r = p->addresses_n > 0 ? connect_next(p) : -error;
		if (r < 0)
			proxy_fail(p, r);
		return;
	}
	p->state = HEAD;
	out_write(p);
	http_body_pause(p->req, p->out.len >= PROXY_BUFFER_MAX);
	want(p);
}

static void upstream_ready(struct loop_io *io, uint32_t events)
{
	struct proxy *p = container_of(io, struct proxy, io);
	if (p->state == CONNECT) {
		proxy_connected(p);
		return;
	}
	if (events & EPOLLOUT) {
		out_write(p);
		if (p->out.len < PROXY_BUFFER_MAX)
			http_body_pause(p->req, false);
	}
	if (p->state == HEAD && events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
		int r = head_read(p);
		if (r < 0) {
			proxy_fail(p, r);
			return;
		}
	}
	/* A body is read when the client has room for it: until then there is nothing to wait for. */
	if (p->state >= BODY || p->ready.len > 0)
		http_wake(p->req);
	if (p->state >= BODY && events & (EPOLLIN | EPOLLHUP | EPOLLERR))
		(void)loop_io_set(&p->io, p->out.len > 0 ? EPOLLOUT : 0);
	else
		want(p);
}

static int connect_next(struct proxy *p)
{
	if (p->addresses_n == 0) /* it is there */
		return loop_io_add(p->loop, &p->io, p->fd, EPOLLOUT, upstream_ready);
	struct sockaddr_storage address = p->addresses[0];
	socklen_t n =
		address.ss_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
	p->addresses_n--;
	memmove(&p->addresses[0], &p->addresses[1], p->addresses_n * sizeof(address));
	loop_io_del(&p->io);
	fd_close(&p->fd);
	p->fd = socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (p->fd < 0)
		return -errno;
	(void)setsockopt(p->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
	/* An error is found where the success is: in the loop. */
	if (connect(p->fd, (const struct sockaddr *)&address, n) < 0 && errno != EINPROGRESS) {
		int r = -errno;
		return p->addresses_n > 0 ? connect_next(p) : r;
	}
	return loop_io_add(p->loop, &p->io, p->fd, EPOLLOUT, upstream_ready);
}

int proxy_pass(struct loop *loop, struct http_req *req, const struct proxy_target *target, struct err *err)
{
	struct proxy *p = calloc(1, sizeof(*p));
	int given = target->addresses_n == 0 ? target->fd : -EBADF;
	if (!p) {
		fd_close(&given);
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "%s", target->what);
	}
	p->req = req;
	p->loop = loop;
	p->fd = given;
	p->io.fd = -EBADF;
	p->out = BUF_INIT(4 * PROXY_HEAD_MAX + PROXY_BUFFER_MAX);
	p->in = BUF_INIT(2 * PROXY_HEAD_MAX);
	p->ready = BUF_INIT(4 * PROXY_HEAD_MAX);
	p->tunnel = (struct http_tunnel){.source = {proxy_proceed, proxy_stop}, .data = tunnel_data};
	p->head_only = strcmp(http_method(req), "HEAD") == 0;
	p->upgrade = http_header(req, "Upgrade") && http_minor(req) > 0;
	memcpy(p->addresses, target->addresses, sizeof(p->addresses));
	p->addresses_n = target->addresses_n;
	p->what = strdup(target->what);
	if (http_request_id(req))
		p->request_id = strdup(http_request_id(req));
	int r = p->what ? put_request(p, target) : -ENOMEM;
	if (r < 0) {
		proxy_free(p);
		return err_sys(err, "RUNTIME_ERROR", -r, "%s", target->what);
	}
	http_tunnel_begin(req, &p->tunnel);
	http_body_pause(req, true);
	r = connect_next(p);
	if (r < 0)
		proxy_fail(p, r);
	return 0;
}
