/*
 * reply.c - replies. A small one is formatted into the connection's buffer, head
 * and body together, and leaves in one write. A source is pulled a piece at a
 * time while the socket takes what it is given; nothing is queued for it.
 */
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "lib/log.h"
#include "proto/http_priv.h"
#include "proto/json.h"

#define LENGTH_NONE    (-2) /* a reply that has no body by its status */
#define CHUNK_HEAD     7    /* "10000\r\n", the size of a full piece */
#define PUMP_ROUNDS    4    /* pieces before others get their turn */
#define ERROR_BODY_MAX 8192
#define KEEPALIVE_S    10 /* see watch_peer() */

_Static_assert(HTTP_PIECE_MAX >= 0x10000 && HTTP_PIECE_MAX <= 0xfffff, "CHUNK_HEAD is made for five digits");

/* ---- status line and headers ---------------------------------------------- */

static const char *reason(unsigned status)
{
	static const struct {
		unsigned status;
		const char *reason;
	} reasons[] = {
		{200, "OK"},
		{201, "Created"},
		{202, "Accepted"},
		{204, "No Content"},
		{206, "Partial Content"},
		{304, "Not Modified"},
		{400, "Bad Request"},
		{401, "Unauthorized"},
		{403, "Forbidden"},
		{404, "Not Found"},
		{405, "Method Not Allowed"},
		{408, "Request Timeout"},
		{409, "Conflict"},
		{410, "Gone"},
		{413, "Content Too Large"},
		{416, "Range Not Satisfiable"},
		{417, "Expectation Failed"},
		{426, "Upgrade Required"},
		{429, "Too Many Requests"},
		{431, "Request Header Fields Too Large"},
		{500, "Internal Server Error"},
		{501, "Not Implemented"},
		{502, "Bad Gateway"},
		{503, "Service Unavailable"},
		{504, "Gateway Timeout"},
		{505, "HTTP Version Not Supported"},
		{507, "Insufficient Storage"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(reasons); i++)
		if (reasons[i].status == status)
			return reasons[i].reason;
	return "";
}

static unsigned status_of(enum err_kind kind)
{
	switch (kind) {
	case ERR_INVALID:
		return 400;
	case ERR_UNAUTHORIZED:
		return 401;
	case ERR_FORBIDDEN:
		return 403;
	case ERR_NOT_FOUND:
		return 404;
	case ERR_METHOD:
		return 405;
	case ERR_CONFLICT:
		return 409;
	case ERR_GONE:
		return 410;
	case ERR_TOO_LARGE:
		return 413;
	case ERR_RANGE:
		return 416;
	case ERR_LIMIT:
		return 429;
	case ERR_UNAVAILABLE:
		return 503;
	case ERR_NOT_SUPPORTED:
		return 501;
	case ERR_BAD_GATEWAY:
		return 502;
	case ERR_TIMEOUT:
		return 504;
	case ERR_STORAGE:
		return 507;
	case ERR_UPGRADE:
		return 426;
	case ERR_INTERNAL:
		break;
	}
	return 500;
}

static void put_number(struct buf *out, uint64_t n)
{
	char digits[20], *p = digits + sizeof(digits);

	do
		*--p = (char)('0' + n % 10);
	while (n /= 10);
	(void)buf_append(out, p, (size_t)(digits + sizeof(digits) - p));
}

#define put(out, literal) ((void)buf_append((out), (literal), sizeof(literal) - 1))

static void put_connection(struct buf *out, const struct http_req *req)
{
	if (req->close)
		put(out, "Connection: close\r\n");
	else if (req->head.minor == 0)
		put(out, "Connection: keep-alive\r\n");
}

/* Decides on the framing and whether the connection goes on, and writes the head to match. */
static struct buf *reply_head(struct http_req *req, unsigned status, const char *content_type, int64_t length)
{
	struct http_conn *c = req->conn;
	struct buf *out = conn_out(c);

	req->replied = true;
	if (status == 204 || status == 304)
		length = LENGTH_NONE;
	req->head_only = length == LENGTH_NONE || strcmp(req->head.method, "HEAD") == 0;
	req->source_chunked = length == -1 && req->head.minor > 0;
	if (!req->head.keep_alive || req->continue_owed || !body_drainable(&c->body) ||
	    (length == -1 && !req->source_chunked))
		req->close = true;

	put(out, "HTTP/1.1 ");
	put_number(out, status);
	put(out, " ");
	(void)buf_puts(out, reason(status));
	put(out, "\r\n");
	if (content_type) {
		put(out, "Content-Type: ");
		(void)buf_puts(out,
			       strpbrk(content_type, "\r\n") ? "application/octet-stream" : content_type);
		put(out, "\r\n");
	}
	if (length >= 0) {
		put(out, "Content-Length: ");
		put_number(out, (uint64_t)length);
		put(out, "\r\n");
	} else if (req->source_chunked) {
		put(out, "Transfer-Encoding: chunked\r\n");
	}
	(void)buf_append(out, req->headers.data, req->headers.len);
	put_connection(out, req);
	put(out, "\r\n");
	return out;
}

int http_add_header(struct http_req *req, const char *name, const char *value)
{
	size_t len = req->headers.len;

	if (strpbrk(value, "\r\n") || strpbrk(name, "\r\n: ") || !*name)
		return -EINVAL;
	(void)buf_puts(&req->headers, name);
	put(&req->headers, ": ");
	(void)buf_puts(&req->headers, value);
	put(&req->headers, "\r\n");
	if (!req->headers.failed)
		return 0;
	req->headers.len = len;
	req->headers.failed = false;
	return -ENOBUFS;
}

/* ---- whole replies ---------------------------------------------------------- */

/* A body too large for one write, held until it is out. */
struct memory_source {
	struct http_source source;
	struct buf data;
	size_t offset;
};

static int memory_proceed(struct http_source *src, struct buf *out, size_t room)
{
	struct memory_source *m = container_of(src, struct memory_source, source);
	size_t n = MIN(room, m->data.len - m->offset);
	int r = buf_append(out, m->data.data + m->offset, n);

	m->offset += n;
	return r < 0 ? r : m->offset == m->data.len;
}

static void memory_stop(struct http_source *src, bool complete)
{
	struct memory_source *m = container_of(src, struct memory_source, source);

	(void)complete;
	buf_done(&m->data);
	free(m);
}

/* Consumes *body. */
static void reply_memory(struct http_req *req, unsigned status, const char *content_type, struct buf *body)
{
	struct memory_source *m = calloc(1, sizeof(*m));

	if (!m) {
		buf_done(body);
		conn_kill(req->conn);
		return;
	}
	m->source = (struct http_source){memory_proceed, memory_stop};
	m->data = *body;
	*body = BUF_INIT(body->max);
	http_reply_source(req, status, content_type, (int64_t)m->data.len, &m->source);
}

void http_reply(struct http_req *req, unsigned status, const char *content_type, const void *data, size_t n)
{
	struct buf *out;

	if (n > HTTP_PIECE_MAX) {
		struct buf copy = BUF_INIT(n);

		if (buf_append(&copy, data, n) < 0)
			conn_kill(req->conn);
		else
			reply_memory(req, status, content_type, &copy);
		return;
	}
	out = reply_head(req, status, content_type, (int64_t)n);
	if (!req->head_only)
		(void)buf_append(out, data, n);
	conn_replied(req->conn, !req->close);
}

void http_reply_empty(struct http_req *req, unsigned status)
{
	http_reply(req, status, NULL, NULL, 0);
}

void http_reply_buf(struct http_req *req, unsigned status, const char *content_type, struct buf *body)
{
	if (body->failed) {
		buf_done(body);
		reply_status(req, 500, "RUNTIME_ERROR", false, "the reply is too large");
	} else if (body->len > HTTP_PIECE_MAX) {
		reply_memory(req, status, content_type, body);
	} else {
		http_reply(req, status, content_type, body->data, body->len);
		buf_done(body);
	}
}

static int dump_json(const char *data, size_t n, void *arg)
{
	return buf_append(arg, data, n) < 0 ? -1 : 0;
}

void http_reply_json(struct http_req *req, unsigned status, json_t *json_consumed)
{
	struct buf body = BUF_INIT(SIZE_MAX / 2);

	if (json_dump_callback(json_consumed, dump_json, &body, JSON_COMPACT | JSON_ENCODE_ANY) < 0)
		body.failed = true;
	json_decref(json_consumed);
	http_reply_buf(req, status, "application/json", &body);
}

static void reply_error(struct http_req *req, unsigned status, const char *code, const char *message)
{
	uint8_t room[ERROR_BODY_MAX];
	struct buf body = {.data = room, .cap = sizeof(room) - 1, .max = sizeof(room) - 1};
	struct jw w = JW_INIT(&body);

	if (status >= 500)
		log_warn("%s %s: %u %s: %s", req->head.method, req->path ? req->path : "?", status, code,
			 message);
	jw_obj_begin(&w);
	jw_kstr(&w, "code", code);
	jw_kstr(&w, "message", message);
	jw_obj_end(&w);
	http_reply(req, status, "application/json", body.data, body.len);
}

void http_reply_err(struct http_req *req, const struct err *err)
{
	reply_error(req, status_of(err->kind), err->code ? err->code : "RUNTIME_ERROR",
		    err->message[0] ? err->message : "unknown error");
}

void reply_status(struct http_req *req, unsigned status, const char *code, bool close, const char *fmt, ...)
{
	const struct http_sink *sink = TAKE_PTR(req->sink);
	char message[ERR_MESSAGE_MAX];
	va_list ap;

	/* The framework ends what the handler has begun. */
	if (sink)
		sink->abort(req);
	va_start(ap, fmt);
	(void)vsnprintf(message, sizeof(message), fmt, ap);
	va_end(ap);
	if (close)
		req->close = true;
	reply_error(req, status, code, message);
}

/* ---- sources ------------------------------------------------------------------ */

void http_reply_source(struct http_req *req, unsigned status, const char *content_type, int64_t length,
		       struct http_source *src)
{
	struct http_conn *c = req->conn;

	(void)reply_head(req, status, content_type, length);
	req->source = src;
	req->source_left = length;
	req->source_idle = false;
	if (c->state == CONN_DEAD)
		return;
	c->state = CONN_SOURCE;
	c->deadline_ms = 0;
	conn_kick(c);
}

void http_tunnel_begin(struct http_req *req, struct http_tunnel *t)
{
	struct http_conn *c = req->conn;

	req->replied = req->silent = true;
	req->tunnel = t;
	req->source = &t->source;
	req->source_left = -1;
	req->source_chunked = req->source_idle = req->head_only = false;
	req->continue_owed = false; /* whether to ask for the body is the other side's to say */
	if (c->state == CONN_DEAD)
		return;
	c->state = CONN_TUNNEL;
	c->deadline_ms = 0;
	conn_kick(c);
}

void http_wake(struct http_req *req)
{
	req->source_idle = false;
	conn_kick(req->conn);
}

/* Without framing that shows the cut, only a reset tells the client that the reply is not whole. */
static void source_break(struct http_req *req)
{
	static const struct linger reset = {.l_onoff = 1, .l_linger = 0};

	bool framed = req->tunnel ? req->tunnel->framed : req->source_chunked || req->source_left >= 0;

	if (!framed)
		(void)setsockopt(req->conn->sock.io.fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	conn_kill(req->conn);
}

static void source_complete(struct http_req *req)
{
	struct http_source *src = TAKE_PTR(req->source);

	if (req->tunnel && (req->tunnel->raw || !req->tunnel->keep || !req->conn->body.complete))
		req->close = true;
	/* What the client may still be sending must not cut off what it has yet to read. */
	if (req->tunnel && req->tunnel->raw)
		req->conn->body.complete = false;
	src->stop(src, true);
	conn_replied(req->conn, !req->close);
}

/* Puts the chunk header before the n bytes that follow the room left for it at `at`. */
static void frame_chunk(struct buf *out, size_t at, size_t n)
{
	char header[CHUNK_HEAD + 1];
	size_t header_n;

	if (n == 0) {
		out->len = at;
		return;
	}
	header_n = (size_t)snprintf(header, sizeof(header), "%zx\r\n", n);
	if (header_n < CHUNK_HEAD)
		memmove(out->data + at + header_n, out->data + at + CHUNK_HEAD, n);
	memcpy(out->data + at, header, header_n);
	out->len = at + header_n + n;
	put(out, "\r\n");
}

/* Pulls one piece into out. 1: that was the last; 0 with *given 0: nothing now; -errno: broken. */
static int pull(struct http_req *req, struct buf *out, size_t *given)
{
	size_t at = out->len, room = HTTP_PIECE_MAX, start;
	int r;

	if (req->source_left >= 0 && (uint64_t)req->source_left < room)
		room = (size_t)req->source_left;
	if (req->source_chunked)
		put(out, "\0\0\0\0\0\0\0");
	start = out->len;
	/* Until it gives something it counts as idle; what wakes it in there is not lost. */
	req->source_idle = true;
	r = req->source->proceed(req->source, out, room);
	*given = out->len - start;
	if (*given > 0)
		req->source_idle = req->silent = false;
	if (r < 0 || out->failed)
		return r < 0 ? r : -ENOBUFS;
	if (*given > room) {
		log_error("%s: a source gave more than there was room for", req->path);
		return -EPROTO;
	}
	if (req->source_chunked)
		frame_chunk(out, at, *given);
	if (req->source_left >= 0) {
		req->source_left -= (int64_t)*given;
		if (r == 1 && req->source_left > 0) {
			log_error("%s: a source ended %" PRId64 " bytes short", req->path, req->source_left);
			return -EPROTO;
		}
		return req->source_left == 0;
	}
	return r;
}

bool reply_pump(struct http_req *req)
{
	struct http_conn *c = req->conn;

	if (req->head_only || req->source_left == 0) {
		source_complete(req);
		return true;
	}
	for (int round = 0; round < PUMP_ROUNDS && !req->source_idle; round++) {
		struct buf *out = conn_out(c);
		size_t given;
		int r = pull(req, out, &given);

		if (r < 0) {
			source_break(req);
			return false;
		}
		if (r == 1) {
			if (req->source_chunked)
				put(out, "0\r\n\r\n");
			source_complete(req);
			return true;
		}
		if (given == 0)
			continue;
		conn_flush(c);
		if (c->blocked || c->state == CONN_DEAD)
			return false;
	}
	if (!req->source_idle)
		lws_sock_want_write(&c->sock);
	return false;
}

/* The kernel asks for us: a client that has gone is found out when its system has forgotten the connection.
 */
static void watch_peer(int fd)
{
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &(int){KEEPALIVE_S}, sizeof(int));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &(int){KEEPALIVE_S}, sizeof(int));
	(void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &(int){1}, sizeof(int));
}

void reply_probe(struct http_conn *c)
{
	struct http_req *req = c->req;
	bool tunnel = c->state == CONN_TUNNEL && !req->tunnel->raw;
	bool nothing_said = c->state == CONN_WAIT ? !req->replied : tunnel && req->silent;

	if (nothing_said && req->head.minor > 0) {
		/* Any number of these may come before a reply, and every client knows it. */
		(void)buf_puts(conn_out(c), "HTTP/1.1 100 Continue\r\n\r\n");
		c->probed = true;
	} else if ((c->state == CONN_SOURCE || tunnel) && req->source_idle) {
		if (tunnel ? req->tunnel->between : req->source_chunked)
			put(conn_out(c), "0"); /* a leading zero of the next chunk's size */
		else if (tunnel || req->source_left >= 0)
			watch_peer(c->sock.io.fd); /* nothing may be put between these bytes */
		else
			conn_kill(c); /* HTTP/1.0 and a stream of our own: it will not be back */
		c->probed = true;
	}
}
