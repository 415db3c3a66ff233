/*
 * body.c - the body of a request: where it ends, and to whom it goes. The bytes
 * are handed on from where they lie; only JSON is collected.
 */
#include "proto/http_priv.h"

#include <string.h>

void body_begin(struct body *b, const struct head *head)
{
	*b = (struct body){.chunked = head->chunked, .left = MAX(head->length, (int64_t)0)};
	b->complete = !b->chunked && b->left == 0;
}

bool body_drainable(const struct body *b)
{
	return b->complete || b->chunked || b->left <= HTTP_DRAIN_MAX;
}

void body_continue(struct http_req *req)
{
	struct http_conn *c = req->conn;

	if (!req->continue_owed)
		return;
	req->continue_owed = false;
	/* A client that has begun to send does not wait. */
	if (c->in.len == c->in_off)
		(void)buf_puts(conn_out(c), "HTTP/1.1 100 Continue\r\n\r\n");
}

static void json_piece(struct http_req *req, const uint8_t *data, size_t n)
{
	size_t max = req->server->config.json_max;

	if (n > max || req->json_text.len > max - n)
		reply_status(req, 413, "PAYLOAD_TOO_LARGE", false,
			     "the JSON body is over the limit of %zu bytes", max);
	else if (buf_append(&req->json_text, data, n) < 0)
		reply_status(req, 503, "RUNTIME_ERROR", true, "no memory for the request body");
}

static void sink_piece(struct http_req *req, const uint8_t *data, size_t n)
{
	const struct http_sink *sink = req->sink;
	struct http_conn *c = req->conn;
	struct err err = {0};
	int r = sink->data(req, data, n, &err);

	if (r >= 0 || c->req != req)
		return;
	req->sink = NULL;
	sink->abort(req);
	req_result(req, r, &err);
}

static void body_piece(struct http_conn *c, const uint8_t *data, size_t n)
{
	if (c->state != CONN_BODY || n == 0)
		return;
	if (c->req->sink)
		sink_piece(c->req, data, n);
	else
		json_piece(c->req, data, n);
}

/* The next piece of content, and whether it is the last; -EINVAL for broken chunks. */
static int body_next(struct body *b, const uint8_t *data, size_t n, size_t *used, const uint8_t **ret,
		     size_t *ret_n)
{
	if (b->chunked)
		return chunked_next(&b->decoder, data, n, used, ret, ret_n);
	*ret = data;
	*used = *ret_n = (uint64_t)b->left < n ? (size_t)b->left : n;
	b->left -= (int64_t)*used;
	return b->left == 0;
}

static bool takes_body(const struct http_conn *c)
{
	return c->state == CONN_DRAIN || (c->state == CONN_BODY && !c->req->paused);
}

size_t body_tunnel(struct http_conn *c, const uint8_t *data, size_t n)
{
	struct http_tunnel *t = c->req->tunnel;
	size_t used = 0, total = 0, piece_n;
	const uint8_t *piece;
	int r = 0;

	if (c->req->paused || n == 0)
		return 0;
	if (t->raw) {
		t->data(t, data, n);
		return n;
	}
	while (!c->body.complete && total < n && r == 0) {
		r = body_next(&c->body, data + total, n - total, &used, &piece, &piece_n);
		total += used;
		c->body.complete = r > 0;
	}
	if (r < 0)
		conn_kill(c); /* what has gone on of it cannot be taken back */
	else if (total > 0)
		t->data(t, data, total);
	return total;
}

size_t body_feed(struct http_conn *c, const uint8_t *data, size_t n)
{
	struct body *b = &c->body;
	size_t total = 0;

	while (takes_body(c) && !b->complete && total < n) {
		const uint8_t *piece;
		size_t used, piece_n;
		int r = body_next(b, data + total, n - total, &used, &piece, &piece_n);

		total += used;
		b->complete = r > 0;
		if (c->state == CONN_DRAIN)
			b->drained += used;
		body_piece(c, piece, piece_n);
		if (r < 0 && c->state == CONN_BODY)
			reply_status(c->req, 400, "INVALID_REQUEST_BODY", true,
				     "the chunked body is malformed");
		else if (c->state == CONN_DRAIN && (r < 0 || b->drained > HTTP_DRAIN_MAX))
			conn_close(c);
	}
	if (b->complete && takes_body(c)) {
		if (c->state == CONN_DRAIN)
			conn_idle(c);
		else
			req_body_done(c->req);
	}
	return total;
}
