/*
 * conn.c - one connection: a state machine that is run whenever something
 * happened (data, room to write, a reply, a wake-up) until it can go no further;
 * then what has gathered in `out` leaves in one write.
 *
 *   HEAD -> BODY -> WAIT -> SOURCE -> DRAIN -> HEAD ...
 *                                  \-> CLOSING -> DEAD
 *
 * Any step may be left out. Reading stops by not waiting for EPOLLIN; a FIN is
 * watched for on its own (EPOLLRDHUP), so that a client that leaves is noticed
 * also while nothing is read from it. lws never sees the end of the input: it
 * would close at once, and a client that only has no more to ask (shutdown(2)
 * after its request) would lose its reply.
 *
 * A FIN alone does not tell that client from one that is gone. While we owe it a
 * reply and have nothing to send, one harmless write tells: a closed socket
 * answers it with a reset, which shows as EPOLLERR. Where the framing has no
 * room for one, the kernel's keepalive tells the same, a minute later.
 */
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "proto/http_priv.h"

static struct http_conn *conn_of(struct lws_sock *sock)
{
	return container_of(sock, struct http_conn, sock);
}

/* ---- buffers ----------------------------------------------------------- */

/* Takes the server's spare when b has no memory of its own. */
static void borrow(struct buf *b, struct buf *spare)
{
	size_t max = b->max;

	if (b->data || !spare->data)
		return;
	*b = *spare;
	*spare = (struct buf){0};
	b->max = max;
	buf_clear(b);
}

/* Gives an empty buffer's memory back; so an idle connection holds none. */
static void give_back(struct buf *b, struct buf *spare)
{
	size_t max = b->max;

	if (spare->data || b->cap > HTTP_SPARE_BUFFER_MAX * 2) {
		buf_done(b);
	} else {
		*spare = *b;
		*b = BUF_INIT(max);
	}
	b->failed = false;
}

struct buf *conn_out(struct http_conn *c)
{
	static const uint8_t room[LWS_SOCK_PRE];

	borrow(&c->out, &c->server->spare_out);
	if (c->out.len == 0)
		(void)buf_append(&c->out, room, sizeof(room));
	return &c->out;
}

/* Bytes that wait in out. */
static size_t conn_out_n(const struct http_conn *c)
{
	return c->out.len < LWS_SOCK_PRE ? 0 : c->out.len - LWS_SOCK_PRE;
}

void conn_flush(struct http_conn *c)
{
	size_t n = conn_out_n(c);

	if (c->out.failed) {
		conn_kill(c);
	} else if (n > 0 && c->state != CONN_DEAD) {
		if (lws_sock_write(&c->sock, c->out.data + LWS_SOCK_PRE, n) < 0)
			conn_kill(c);
		c->blocked = lws_sock_blocked(&c->sock);
	}
	if (c->out.data) {
		c->out.len = 0;
		give_back(&c->out, &c->server->spare_out);
	}
}

/* ---- time -------------------------------------------------------------- */

static void conn_expired(struct http_conn *c)
{
	bool head = c->state == CONN_HEAD && c->in.len > c->in_off && !c->blocked;

	if (head && !c->req)
		c->req = req_new(c);
	if (c->req && (head || c->state == CONN_BODY)) {
		reply_status(c->req, 408, "REQUEST_TIMEOUT", true, "the %s did not arrive in time",
			     head ? "request" : "request body");
	} else {
		conn_kill(c);
	}
}

static void conn_timer(struct loop_timer *timer)
{
	struct http_conn *c = container_of(timer, struct http_conn, timer);

	if (c->deadline_ms == 0 || c->state == CONN_DEAD)
		return;
	if (loop_now_ms(c->server->loop) >= c->deadline_ms)
		conn_expired(c);
	else
		(void)loop_timer_set(c->server->loop, timer, c->deadline_ms, conn_timer);
}

/* The timer is moved only when it would come too late: a busy connection costs no heap work. */
void conn_deadline(struct http_conn *c, uint64_t ms)
{
	struct loop *loop = c->server->loop;

	c->deadline_ms = ms ? loop_now_ms(loop) + ms : 0;
	if (ms && (!loop_timer_armed(&c->timer) || c->timer.due_ms > c->deadline_ms))
		if (loop_timer_set(loop, &c->timer, c->deadline_ms, conn_timer) < 0)
			conn_kill(c);
}

/* ---- states ------------------------------------------------------------ */

void conn_idle(struct http_conn *c)
{
	c->state = CONN_HEAD;
	c->scanned = 0;
	c->fresh = false;
	c->idle_since_ms = loop_now_ms(c->server->loop);
	list_del(&c->link);
	list_add_tail(&c->server->idle, &c->link);
	conn_deadline(c, c->server->config.idle_timeout_ms);
}

/* Its client is not served, or not yet: where there are too many connections, those of long ago give way. */
static void conn_slow(struct http_conn *c)
{
	c->idle_since_ms = loop_now_ms(c->server->loop);
	list_del(&c->link);
	list_add_tail(&c->server->slow, &c->link);
}

static void conn_busy(struct http_conn *c)
{
	list_del(&c->link);
	list_add_tail(&c->server->conns, &c->link);
	c->deadline_ms = 0;
}

void conn_close(struct http_conn *c)
{
	c->state = CONN_CLOSING;
	c->lingers = !c->eof && (!c->body.complete || c->in.len > c->in_off);
	conn_slow(c);
	conn_deadline(c, c->server->config.idle_timeout_ms);
}

void conn_replied(struct http_conn *c, bool keep)
{
	req_free(TAKE_PTR(c->req));
	if (c->state == CONN_DEAD)
		return;
	if (!keep) {
		conn_close(c);
	} else if (!c->body.complete) {
		c->state = CONN_DRAIN;
		conn_slow(c);
		conn_deadline(c, c->server->config.head_timeout_ms);
	} else {
		conn_idle(c);
	}
	conn_kick(c);
}

/* Each step does what its state can do now and returns whether another step may follow. */

static bool step_head(struct http_conn *c)
{
	const struct http_config *config = &c->server->config;
	const uint8_t *data = c->in.data + c->in_off;
	size_t n = c->in.len - c->in_off;
	ssize_t head_n;

	/* RFC 9112 section 2.2: an empty line before a request is a leftover of the one before. */
	while (n >= 2 && data[0] == '\r' && data[1] == '\n') {
		c->in_off += 2;
		data += 2;
		n -= 2;
		c->scanned = 0;
	}
	if (n == 0)
		return false;
	bool begins = c->scanned == 0;
	/* No further than the limit, so that the verdict does not depend on how much has come at once. */
	head_n = head_find(data, MIN(n, config->header_max + 1), &c->scanned);
	if (head_n == 0 && n <= config->header_max) {
		if (begins) {
			conn_slow(c);
			conn_deadline(c, config->head_timeout_ms);
		}
		return false;
	}

	conn_busy(c);
	c->req = req_new(c);
	if (!c->req) {
		conn_kill(c);
		return false;
	}
	c->body = (struct body){.complete = head_n > 0 && (size_t)head_n <= config->header_max};
	if (head_n < 0) {
		reply_status(c->req, 400, "INVALID_REQUEST", true,
			     "a line of the request does not end with CRLF");
	} else if (!c->body.complete) {
		reply_status(c->req, 431, "HEADERS_TOO_LARGE", true,
			     "the headers are over the limit of %zu bytes", config->header_max);
	} else {
		c->scanned = 0;
		(void)buf_append(&c->req->text, data, (size_t)head_n);
		c->in_off += (size_t)head_n;
		req_begin(c->req, (size_t)head_n);
	}
	return true;
}

static bool step_body(struct http_conn *c)
{
	size_t used = body_feed(c, c->in.data + c->in_off, c->in.len - c->in_off);

	c->in_off += used;
	return used > 0;
}

static bool step_closing(struct http_conn *c)
{
	c->in_off = c->in.len;
	if (conn_out_n(c) > 0)
		conn_flush(c);
	if (c->blocked || c->state == CONN_DEAD)
		return false;
	if (!c->lingers || c->eof) {
		conn_kill(c);
	} else if (!c->shut) {
		c->shut = true;
		(void)shutdown(c->sock.io.fd, SHUT_WR);
		conn_deadline(c, HTTP_LINGER_MS);
	}
	return false;
}

static bool step_tunnel(struct http_conn *c)
{
	size_t used = body_tunnel(c, c->in.data + c->in_off, c->in.len - c->in_off);

	c->in_off += used;
	if (c->state != CONN_TUNNEL)
		return false;
	return reply_pump(c->req) || used > 0;
}

static bool conn_step(struct http_conn *c)
{
	if (c->blocked)
		return false;
	if (conn_out_n(c) >= HTTP_PIECE_MAX) {
		conn_flush(c);
		if (c->blocked)
			return false;
	}
	switch (c->state) {
	case CONN_HEAD:
		return step_head(c);
	case CONN_BODY:
	case CONN_DRAIN:
		return step_body(c);
	case CONN_SOURCE:
		return reply_pump(c->req);
	case CONN_TUNNEL:
		return step_tunnel(c);
	case CONN_CLOSING:
		return step_closing(c);
	case CONN_WAIT:
	case CONN_DEAD:
		break;
	}
	return false;
}

static bool wants_input(const struct http_conn *c)
{
	if (c->eof || c->blocked)
		return false;
	switch (c->state) {
	case CONN_HEAD:
	case CONN_DRAIN:
	case CONN_CLOSING:
		return true;
	case CONN_BODY:
		return !c->req->paused && !c->body.complete;
	case CONN_TUNNEL:
		return !c->req->paused && (c->req->tunnel->raw || !c->body.complete);
	case CONN_WAIT:
	case CONN_SOURCE:
	case CONN_DEAD:
		break;
	}
	return false;
}

static void conn_in_trim(struct http_conn *c)
{
	if (!c->in.data)
		return;
	if (c->in_off == c->in.len) {
		c->in.len = 0;
		give_back(&c->in, &c->server->spare_in);
	} else {
		buf_consume(&c->in, c->in_off);
	}
	c->in_off = 0;
}

/* All that came is consumed and nothing more will come: what does that mean here? */
static void conn_at_eof(struct http_conn *c)
{
	switch (c->state) {
	case CONN_BODY:
		/* A sink that rests gets the remainder when it goes on. */
		if (!c->body.complete && !(c->req->paused && c->in.len > c->in_off))
			conn_kill(c);
		break;
	case CONN_HEAD:
	case CONN_DRAIN:
		if (!c->blocked)
			conn_kill(c);
		break;
	case CONN_TUNNEL:
		if (c->req->tunnel->raw && !c->req->paused && !c->fin_passed) {
			c->fin_passed = true; /* to the other side, which decides */
			c->req->tunnel->data(c->req->tunnel, NULL, 0);
		} else if (!c->req->tunnel->raw && !c->body.complete) {
			conn_kill(c);
		}
		break;
	case CONN_WAIT:
	case CONN_SOURCE:
	case CONN_CLOSING:
	case CONN_DEAD:
		break;
	}
}

static void conn_run(struct http_conn *c)
{
	enum conn_state before;

	if (c->running || c->state == CONN_DEAD)
		return;
	c->running = true;
	do
		before = c->state;
	while (conn_step(c) || c->state != before);
	conn_flush(c);
	if (c->fin_masked && !c->probed && !c->blocked) {
		reply_probe(c);
		conn_flush(c);
	}
	conn_in_trim(c);
	if (c->eof)
		conn_at_eof(c);
	if (wants_input(c))
		c->in_masked = false;
	c->running = false;
	lws_sock_update(&c->sock);
}

/* ---- what the socket says ------------------------------------------------ */

static uint32_t sock_interest(struct lws_sock *sock)
{
	struct http_conn *c = conn_of(sock);

	/* The loop does not report a failure of a socket of which nothing is awaited. */
	uint32_t events = EPOLLERR | EPOLLHUP;

	if (!c->in_masked && !c->eof)
		events |= EPOLLIN;
	if (!c->fin_masked)
		events |= EPOLLRDHUP;
	return events;
}

static bool at_end_of_input(int fd)
{
	char byte;

	return recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

bool conn_is_idle(const struct http_conn *c)
{
	uint64_t since_ms = loop_now_ms(c->server->loop) - c->idle_since_ms;
	char byte;

	if (c->state != CONN_HEAD || c->in.len > 0 || c->blocked || (c->fresh && since_ms < HTTP_FRESH_MS))
		return false;
	return recv(c->sock.io.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0;
}

bool conn_gives_way(const struct http_conn *c)
{
	uint64_t since_ms = loop_now_ms(c->server->loop) - c->idle_since_ms;

	return (c->state == CONN_HEAD || c->state == CONN_DRAIN || c->state == CONN_CLOSING) && !c->blocked &&
	       since_ms >= HTTP_FRESH_MS;
}

static uint32_t sock_ready(struct lws_sock *sock, uint32_t events)
{
	struct http_conn *c = conn_of(sock);
	uint32_t pass = events & EPOLLOUT;

	if (events & (EPOLLERR | EPOLLHUP)) {
		conn_kill(c);
		return 0;
	}
	if (events & EPOLLRDHUP)
		c->fin_masked = true;
	if (c->fin_masked && !c->eof && at_end_of_input(c->sock.io.fd))
		c->eof = true;
	else if (events & EPOLLIN && wants_input(c))
		pass |= EPOLLIN;
	else if (events & EPOLLIN)
		c->in_masked = true;
	/* The FIN changes what there is to do, also when there is nothing to read or write. */
	if (events & EPOLLRDHUP || (c->eof && !(pass & EPOLLOUT)))
		conn_kick(c);
	lws_sock_update(sock);
	return pass;
}

static void sock_rx(struct lws_sock *sock, const void *data, size_t n)
{
	struct http_conn *c = conn_of(sock);
	const uint8_t *p = data;

	if (c->state == CONN_DEAD)
		return;
	if (c->state == CONN_BODY)
		conn_deadline(c, c->server->config.idle_timeout_ms);
	/* A body is handed on from where it lies. */
	if (c->in.len == 0 && !c->blocked) {
		size_t used = 0;

		c->running = true;
		while (used < n && (c->state == CONN_BODY || c->state == CONN_DRAIN)) {
			size_t piece = body_feed(c, p + used, n - used);

			if (piece == 0)
				break;
			used += piece;
		}
		c->running = false;
		p += used;
		n -= used;
	}
	borrow(&c->in, &c->server->spare_in);
	if (c->state != CONN_CLOSING && buf_append(&c->in, p, n) < 0)
		conn_kill(c);
	conn_run(c);
}

/*
 * Input that has come while the socket was full is taken before more is written:
 * a source that never ends would fill it again each time, and the client that
 * asks it to end would not be heard.
 */
static bool hear_first(struct http_conn *c)
{
	if (c->state != CONN_TUNNEL || !c->in_masked || !wants_input(c))
		return false;
	c->in_masked = false;
	return true;
}

static void sock_writable(struct lws_sock *sock)
{
	struct http_conn *c = conn_of(sock);

	c->blocked = lws_sock_blocked(sock);
	if (c->blocked || hear_first(c))
		lws_sock_want_write(sock);
	else
		conn_run(c);
	lws_sock_update(sock);
}

static void sock_closed(struct lws_sock *sock)
{
	conn_kill(conn_of(sock));
}

static const struct lws_sock_ops sock_ops = {
	.ready = sock_ready,
	.interest = sock_interest,
	.rx = sock_rx,
	.writable = sock_writable,
	.closed = sock_closed,
};

/* ---- beginning and end --------------------------------------------------- */

static void conn_work(struct loop_defer *d)
{
	struct http_conn *c = container_of(d, struct http_conn, work);

	if (c->state == CONN_DEAD)
		conn_free(c);
	else
		conn_run(c);
}

void conn_kick(struct http_conn *c)
{
	if (!c->running)
		loop_defer(c->server->loop, &c->work, conn_work);
}

void conn_kill(struct http_conn *c)
{
	c->state = CONN_DEAD;
	loop_defer(c->server->loop, &c->work, conn_work);
}

/* The request that the client did not stay for. */
static void conn_abandon(struct http_conn *c)
{
	struct http_req *req = TAKE_PTR(c->req);

	if (!req)
		return;
	if (req->source)
		req->source->stop(TAKE_PTR(req->source), false);
	else if (req->sink)
		TAKE_PTR(req->sink)->abort(req);
	else if (!req->replied && req->on_gone)
		req->on_gone(req);
	req_free(req);
}

void conn_free(struct http_conn *c)
{
	struct http_server *s = c->server;

	c->state = CONN_DEAD;
	conn_abandon(c);
	lws_sock_close(&c->sock);
	loop_defer_cancel(&c->work);
	loop_timer_del(&c->timer);
	list_del(&c->link);
	buf_done(&c->in);
	buf_done(&c->out);
	free(c);
	s->conns_n--;
	server_conn_gone(s);
}

int conn_new(struct http_server *s, int fd)
{
	struct http_conn *c = calloc(1, sizeof(*c));
	int r;

	if (!c) {
		(void)close(fd);
		return -ENOMEM;
	}
	c->server = s;
	c->state = CONN_HEAD;
	c->fresh = true;
	c->idle_since_ms = loop_now_ms(s->loop);
	c->body.complete = true;
	c->in = BUF_INIT(s->config.header_max + 2 * LWS_SOCK_READ_MAX);
	c->out = BUF_INIT(HTTP_REPLY_HEAD_MAX + 2 * HTTP_PIECE_MAX);
	list_init(&c->link);
	r = lws_sock_adopt(s->lws, &c->sock, fd, &sock_ops);
	if (r < 0) {
		free(c);
		return r;
	}
	list_add_tail(&s->idle, &c->link);
	s->conns_n++;
	conn_deadline(c, s->config.head_timeout_ms);
	return 0;
}
