/*
 * A connection from its first byte to its last, as the server composes it: heads, bodies, pipelined requests,
 * what is drained and what is refused. The same replies however the bytes are cut, and it always ends.
 */
#include "proto/ws.h"
#include "tests/fuzz/drive.h"

static struct drive drive;

static int echo_json(struct http_req *req, struct err *err)
{
	(void)err;
	http_reply_json(req, 200, http_json(req) ? json_incref(http_json(req)) : json_null());
	return 0;
}

/* What it asks of the request is what handlers ask. */
static int echo_any(struct http_req *req, struct err *err)
{
	json_t *said = json_object();
	const char *value, *all[3];

	(void)err;
	for (size_t i = 0; http_header_at(req, i, &value); i++)
		(void)http_add_header(req, "X-Echo", value);
	(void)json_object_set_new(said, "id", json_string(http_param(req, "id")));
	(void)json_object_set_new(said, "rest", json_string(http_param(req, "*")));
	(void)json_object_set_new(said, "n", json_integer((json_int_t)http_query_all(req, "n", all, 3)));
	(void)json_object_set_new(said, "host", json_string(http_host(req)));
	http_reply_json(req, 200, said);
	return 0;
}

/* ---- a body as a stream: it counts, rests now and then, and does not like everything ---- */

struct counter {
	uint64_t n, sum;
	struct loop_defer go_on;
	struct http_req *req;
};

static void counter_go_on(struct loop_defer *d)
{
	http_body_pause(container_of(d, struct counter, go_on)->req, false);
}

static void counter_free(struct http_req *req)
{
	struct counter *c = http_data(req);

	loop_defer_cancel(&c->go_on);
	free(c);
}

static int counter_data(struct http_req *req, const void *data, size_t n, struct err *err)
{
	struct counter *c = http_data(req);

	for (size_t i = 0; i < n; i++) {
		if (((const uint8_t *)data)[i] == '!')
			return err_set(err, ERR_INVALID, "BANG", EINVAL, "no");
		c->sum = c->sum * 31 + ((const uint8_t *)data)[i];
	}
	c->n += n;
	http_body_pause(req, true);
	loop_defer(drive.loop, &c->go_on, counter_go_on);
	return 0;
}

static int counter_end(struct http_req *req, struct err *err)
{
	const struct counter *c = http_data(req);
	char text[64];
	int n = snprintf(text, sizeof(text), "%llu %llx", (unsigned long long)c->n,
			 (unsigned long long)c->sum);

	(void)err;
	counter_free(req);
	http_reply(req, 200, "text/plain", text, (size_t)n);
	return 0;
}

static int count_body(struct http_req *req, struct err *err)
{
	static const struct http_sink sink = {counter_data, counter_end, counter_free};
	struct counter *c = calloc(1, sizeof(*c));

	(void)err;
	must(c);
	c->req = req;
	http_set_data(req, c);
	http_set_sink(req, &sink);
	return 0;
}

/* ---- a reply as a stream ---- */

struct letters {
	struct http_source source;
	unsigned left;
};

static int letters_proceed(struct http_source *src, struct buf *out, size_t room)
{
	struct letters *l = container_of(src, struct letters, source);

	(void)room;
	(void)buf_puts(out, "abcdefgh");
	return --l->left == 0;
}

static void letters_stop(struct http_source *src, bool complete)
{
	(void)complete;
	free(container_of(src, struct letters, source));
}

static int stream(struct http_req *req, struct err *err)
{
	struct letters *l = calloc(1, sizeof(*l));

	(void)err;
	must(l);
	*l = (struct letters){{letters_proceed, letters_stop}, 7};
	http_reply_source(req, 200, "text/plain", http_query(req, "length") ? 56 : -1, &l->source);
	return 0;
}

/* ---- a WebSocket that says what it hears ---- */

struct echo {
	struct buf said;
	bool text, due;
};

static void echo_message(struct ws *ws, bool text, const uint8_t *data, size_t n)
{
	struct echo *e = ws_arg(ws);

	buf_clear(&e->said);
	(void)buf_append(&e->said, data, n);
	e->text = text;
	e->due = true;
	if (n == 3 && memcmp(data, "bye", 3) == 0) {
		ws_close(ws, 1000, "as you wish");
		buf_done(&e->said);
		free(e);
		return;
	}
	ws_wake(ws);
}

static void echo_writable(struct ws *ws)
{
	struct echo *e = ws_arg(ws);
	struct iovec piece = {e->said.data, e->said.len};

	if (e->due && ws_send(ws, e->text, &piece, 1) == 0)
		e->due = false;
}

static void echo_closed(struct ws *ws)
{
	struct echo *e = ws_arg(ws);

	buf_done(&e->said);
	free(e);
}

static int echo_ws(struct http_req *req, struct err *err)
{
	static const struct ws_ops ops = {echo_message, echo_writable, echo_closed};
	struct echo *e = calloc(1, sizeof(*e));
	struct ws *ws;
	int r;

	must(e);
	e->said = BUF_INIT(WS_MESSAGE_MAX);
	r = ws_accept(req, &ops, e, &ws, err);
	if (r < 0)
		free(e);
	return r;
}

/* -------------------------------------------------------------------------------- */

static int authorize(struct http_req *req, struct err *err)
{
	const char *token = http_header(req, "T");

	return token && *token == 'n' ? err_set(err, ERR_UNAUTHORIZED, "UNAUTHORIZED", EACCES, "no") : 0;
}

static const struct http_route routes[] = {
	{"POST", "/json", echo_json, HTTP_BODY_JSON, false},
	{"GET", "/any/{id}", echo_any, HTTP_BODY_NONE, false},
	{"*", "/all/*", echo_any, HTTP_BODY_NONE, true},
	{"PUT", "/count", count_body, HTTP_BODY_STREAM, false},
	{"GET", "/stream", stream, HTTP_BODY_NONE, false},
	{"GET", "/ws", echo_ws, HTTP_BODY_NONE, false},
	{NULL, NULL, NULL, HTTP_BODY_NONE, false},
};

static void converse(const uint8_t *data, size_t n, size_t piece, struct buf *out)
{
	int fd = drive_connect(&drive);

	drive_write(&drive, fd, data, n, piece, out);
	drive_end(&drive, fd, out);
	drive_drop_interim(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	_cleanup_buf_ struct buf whole = BUF_INIT(FUZZ_OUT_MAX), pieces = BUF_INIT(FUZZ_OUT_MAX);
	static const struct http_config config = {.routes = routes,
						  .authorize = authorize,
						  .prefix = "/v1",
						  .header_max = 1024,
						  .json_max = 512};

	if (!drive.loop)
		drive_new(&drive, &config);
	if (n == 0)
		return 0;
	converse(data + 1, n - 1, 0, &whole);
	/* How many pings are answered depends on when they come, too. */
	if (whole.len > 0 && memmem(whole.data, whole.len, "101 Switching", 13))
		return 0;
	converse(data + 1, n - 1, (size_t)data[0] + 1, &pieces);
	must(whole.len == pieces.len && (whole.len == 0 || memcmp(whole.data, pieces.data, whole.len) == 0));
	return 0;
}
