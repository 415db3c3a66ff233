/*
 * http_echo.c - a small program around proto/http.h for tests/api/test_http.py:
 * one route for each thing that the server does for its handlers.
 *
 *   http_echo <name=value>...
 *
 * Prints the port it listens on, and a line for each event that a test waits
 * for: "gone", "stop 0|1", "abort". Ends when its standard input does.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "lib/log.h"
#include "lib/random.h"
#include "lib/spawn.h"
#include "proto/http.h"
#include "proto/json.h"

static struct loop *loop;

static void PRINTF_LIKE(1, 2) say(const char *fmt, ...)
{
	char line[64];
	va_list ap;
	int len;

	va_start(ap, fmt);
	len = vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	if (write(STDOUT_FILENO, line, (size_t)len) < 0)
		loop_stop(loop, 1);
}

static int authorize(struct http_req *req, struct err *err)
{
	const char *token = http_header(req, "X-Token");

	if (!http_app(req) || secret_equal(token, http_app(req)))
		return 0;
	return err_set(err, ERR_UNAUTHORIZED, "UNAUTHORIZED", EACCES, "the token is missing or wrong");
}

static int ping(struct http_req *req, struct err *err)
{
	(void)err;
	http_reply(req, 200, "text/plain", "pong", 4);
	return 0;
}

static int fail(struct http_req *req, struct err *err)
{
	int kind = atoi(http_param(req, "kind"));

	return err_set(err, (enum err_kind)kind, "CUSTOM_CODE", ENOENT, "\"quoted\" \xff message");
}

static int empty(struct http_req *req, struct err *err)
{
	(void)err;
	http_reply_empty(req, 204);
	return 0;
}

/* How often the loop has gone round: a server that spins gives itself away. */
static unsigned loop_turns;

static int count_turn(struct loop_prepare *p)
{
	(void)p;
	loop_turns++;
	return -1;
}

static int turns(struct http_req *req, struct err *err)
{
	(void)err;
	http_reply_json(req, 200, json_integer(loop_turns));
	return 0;
}

/* What the request looked like from in here. */
static int inspect(struct http_req *req, struct err *err)
{
	static const char *const params[] = {"a", "b", "*"};
	const char *values[8];
	struct buf body = BUF_INIT(1U << 20);
	struct jw w = JW_INIT(&body);
	size_t n = http_query_all(req, "q", values, ARRAY_SIZE(values));

	(void)err;
	jw_obj_begin(&w);
	jw_kstr(&w, "method", http_method(req));
	jw_kstr(&w, "path", http_path(req));
	jw_kstr(&w, "host", http_host(req));
	jw_kstr(&w, "request_id", http_request_id(req));
	jw_kstr(&w, "x", http_query(req, "x"));
	jw_kint(&w, "length", http_body_length(req));
	jw_kstr(&w, "header", http_header(req, "x-CUSTOM"));
	jw_key(&w, "q");
	jw_arr_begin(&w);
	for (size_t i = 0; i < MIN(n, ARRAY_SIZE(values)); i++)
		jw_str(&w, values[i]);
	jw_arr_end(&w);
	for (size_t i = 0; i < ARRAY_SIZE(params); i++)
		jw_kstr(&w, params[i], http_param(req, params[i]));
	jw_obj_end(&w);
	(void)http_add_header(req, "X-Seen", "yes");
	if (http_add_header(req, "X-Evil", "a\r\nX-Injected: 1") != -EINVAL)
		return err_set(err, ERR_INTERNAL, NULL, 0, "a header was injected");
	http_reply_buf(req, 200, "application/json", &body);
	return 0;
}

static int json_echo(struct http_req *req, struct err *err)
{
	const char *name = NULL;
	int r;

	if (!http_json(req)) {
		http_reply_json(req, 200, json_null());
		return 0;
	}
	if (json_is_object(http_json(req))) {
		r = json_get_str(http_json(req), "name", JSON_OPTIONAL, &name, err);
		if (r < 0)
			return r;
	}
	http_reply_json(req, 200, json_incref(http_json(req)));
	return 0;
}

static int big(struct http_req *req, struct err *err)
{
	const char *n = http_query(req, "n");
	size_t size = n ? (size_t)strtoul(n, NULL, 10) : 0;
	char *data = malloc(size + 1);

	if (!data)
		return err_sys(err, NULL, ENOMEM, "allocate");
	memset(data, 'b', size);
	http_reply(req, 200, "application/octet-stream", data, size);
	free(data);
	return 0;
}

/* ---- a generator of n bytes ------------------------------------------------ */

struct counted {
	struct http_source source;
	uint64_t left, offset;
	bool quick_end;
	bool breaks;
};

static int counted_proceed(struct http_source *src, struct buf *out, size_t room)
{
	struct counted *c = container_of(src, struct counted, source);
	size_t n = (size_t)MIN((uint64_t)room, c->left);

	if (c->breaks && c->offset > 0)
		return -EIO;
	if (n > 0 && buf_reserve(out, n) < 0)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++)
		buf_tail(out)[i] = (uint8_t)('a' + (c->offset + i) % 26);
	out->len += n;
	c->offset += n;
	c->left -= n;
	return c->left == 0;
}

static void counted_stop(struct http_source *src, bool complete)
{
	say("stop %d\n", complete);
	free(container_of(src, struct counted, source));
}

static int bytes(struct http_req *req, struct err *err)
{
	const char *n = http_query(req, "n");
	struct counted *c = calloc(1, sizeof(*c));

	(void)err;
	c->source = (struct http_source){counted_proceed, counted_stop};
	c->left = n ? strtoull(n, NULL, 10) : 0;
	c->breaks = http_query(req, "break");
	http_reply_source(req, 200, "application/octet-stream",
			  http_query(req, "chunked") ? -1 : (int64_t)c->left, &c->source);
	return 0;
}

/* ---- events, one each period, or none at all -------------------------------- */

struct events {
	struct http_source source;
	struct loop_timer timer;
	struct http_req *req;
	uint64_t period_ms;
	unsigned due, sent, last, pad;
};

static void events_tick(struct loop_timer *timer)
{
	struct events *e = container_of(timer, struct events, timer);

	e->due++;
	(void)loop_timer_set(loop, timer, loop_now_ms(loop) + e->period_ms, events_tick);
	http_wake(e->req);
}

static int events_proceed(struct http_source *src, struct buf *out, size_t room)
{
	struct events *e = container_of(src, struct events, source);

	for (size_t start = out->len; e->sent < e->due && out->len - start + e->pad + 32 < room;)
		(void)buf_printf(out, "data: %u%*s\n\n", e->sent++, (int)e->pad, "");
	return e->last && e->sent >= e->last;
}

static void events_stop(struct http_source *src, bool complete)
{
	struct events *e = container_of(src, struct events, source);

	say("stop %d\n", complete);
	loop_timer_del(&e->timer);
	free(e);
}

static int events(struct http_req *req, struct err *err)
{
	const char *period = http_query(req, "period"), *last = http_query(req, "last"),
		   *pad = http_query(req, "pad");
	struct events *e = calloc(1, sizeof(*e));

	(void)err;
	e->source = (struct http_source){events_proceed, events_stop};
	e->req = req;
	e->pad = pad ? (unsigned)atoi(pad) : 0;
	e->last = last ? (unsigned)atoi(last) : 0;
	if (period) {
		e->period_ms = strtoull(period, NULL, 10);
		(void)loop_timer_set(loop, &e->timer, loop_now_ms(loop) + e->period_ms, events_tick);
	}
	http_reply_source(req, 200, "text/event-stream", -1, &e->source);
	return 0;
}

/* ---- a reply that comes later ------------------------------------------------ */

struct late {
	struct loop_timer timer;
	struct http_req *req;
};

static void late_reply(struct loop_timer *timer)
{
	struct late *l = container_of(timer, struct late, timer);

	http_reply(l->req, 200, "text/plain", "late", 4);
	free(l);
}

static void late_gone(struct http_req *req)
{
	struct late *l = http_data(req);

	say("gone\n");
	loop_timer_del(&l->timer);
	free(l);
}

static int late(struct http_req *req, struct err *err)
{
	const char *ms = http_query(req, "ms");
	struct late *l = calloc(1, sizeof(*l));

	(void)err;
	l->req = req;
	http_set_data(req, l);
	http_on_gone(req, late_gone);
	if (ms)
		(void)loop_timer_set(loop, &l->timer, loop_now_ms(loop) + strtoull(ms, NULL, 10), late_reply);
	return 0;
}

/* ---- a sink that counts --------------------------------------------------------- */

struct counter {
	uint64_t n, sum, pieces, fail_at, pause_at;
	bool paused;
	struct loop_timer timer;
	struct http_req *req;
};

static void counter_resume(struct loop_timer *timer)
{
	struct counter *c = container_of(timer, struct counter, timer);

	c->paused = false;
	http_body_pause(c->req, false);
}

static int counter_data(struct http_req *req, const void *data, size_t n, struct err *err)
{
	struct counter *c = http_data(req);
	const uint8_t *p = data;

	if (c->paused)
		return err_set(err, ERR_INTERNAL, NULL, 0, "data came while paused");
	for (size_t i = 0; i < n; i++)
		c->sum = (c->sum * 31 + p[i]) & 0xffffffff;
	c->n += n;
	c->pieces++;
	if (c->fail_at && c->n >= c->fail_at)
		return err_set(err, ERR_STORAGE, "DISK_FULL", ENOSPC, "no space left");
	if (c->pause_at && c->n >= c->pause_at) {
		c->pause_at += c->n;
		c->paused = true;
		http_body_pause(req, true);
		return loop_timer_set(loop, &c->timer, loop_now_ms(loop) + 5, counter_resume);
	}
	return 0;
}

static int counter_end(struct http_req *req, struct err *err)
{
	struct counter *c = http_data(req);
	char text[128];
	int n = snprintf(text, sizeof(text), "{\"n\":%llu,\"sum\":%llu,\"pieces\":%llu}",
			 (unsigned long long)c->n, (unsigned long long)c->sum, (unsigned long long)c->pieces);

	(void)err;
	free(c);
	http_reply(req, 200, "application/json", text, (size_t)n);
	return 0;
}

static void counter_abort(struct http_req *req)
{
	struct counter *c = http_data(req);

	say("abort\n");
	loop_timer_del(&c->timer);
	free(c);
}

static int count(struct http_req *req, struct err *err)
{
	static const struct http_sink sink = {counter_data, counter_end, counter_abort};
	const char *fail_at = http_query(req, "fail"), *pause_at = http_query(req, "pause");
	struct counter *c;

	if (http_query(req, "refuse"))
		return err_set(err, ERR_CONFLICT, "REFUSED", EBUSY, "not now");
	c = calloc(1, sizeof(*c));
	c->req = req;
	c->fail_at = fail_at ? strtoull(fail_at, NULL, 10) : 0;
	c->pause_at = pause_at ? strtoull(pause_at, NULL, 10) : 0;
	http_set_data(req, c);
	http_set_sink(req, &sink);
	return 0;
}

/* ---------------------------------------------------------------------------------- */

static const struct http_route routes[] = {
	{"GET", "/ping", ping, HTTP_BODY_NONE, true},
	{"GET", "/turns", turns, HTTP_BODY_NONE, true},
	{"GET", "/private", ping, HTTP_BODY_NONE, false},
	{"GET", "/fail/{kind}", fail, HTTP_BODY_NONE, true},
	{"DELETE", "/empty", empty, HTTP_BODY_NONE, true},
	{"GET", "/inspect", inspect, HTTP_BODY_NONE, true},
	{"PUT", "/inspect", inspect, HTTP_BODY_NONE, true},
	{"GET", "/inspect/{a}", inspect, HTTP_BODY_NONE, true},
	{"GET", "/inspect/{a}/of/{b}", inspect, HTTP_BODY_NONE, true},
	{"GET", "/rest/{a}/*", inspect, HTTP_BODY_NONE, true},
	{"POST", "/json", json_echo, HTTP_BODY_JSON, true},
	{"PATCH", "/json", json_echo, HTTP_BODY_JSON, true},
	{"POST", "/private/json", json_echo, HTTP_BODY_JSON, false},
	{"GET", "/big", big, HTTP_BODY_NONE, true},
	{"GET", "/bytes", bytes, HTTP_BODY_NONE, true},
	{"GET", "/events", events, HTTP_BODY_NONE, true},
	{"GET", "/late", late, HTTP_BODY_NONE, true},
	{"POST", "/count", count, HTTP_BODY_STREAM, true},
	{"POST", "/private/count", count, HTTP_BODY_STREAM, false},
	{0},
};

static void stdin_ready(struct loop_io *io, uint32_t events)
{
	(void)io;
	(void)events;
	loop_stop(loop, 0);
}

static int unix_socket(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	(void)snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, 16) < 0)
		return -errno;
	return fd;
}

static uint64_t option(char **argv, const char *name, uint64_t otherwise)
{
	size_t n = strlen(name);

	for (; *argv; argv++)
		if (strncmp(*argv, name, n) == 0 && (*argv)[n] == '=')
			return strtoull(*argv + n + 1, NULL, 10);
	return otherwise;
}

static char *text_option(char **argv, const char *name)
{
	size_t n = strlen(name);

	for (; *argv; argv++)
		if (strncmp(*argv, name, n) == 0 && (*argv)[n] == '=')
			return *argv + n + 1;
	return NULL;
}

int main(int argc, char **argv)
{
	struct http_config config = {
		.routes = routes,
		.app = text_option(argv, "token"),
		.authorize = authorize,
		.prefix = text_option(argv, "prefix"),
		.request_id = option(argv, "request_id", 0),
		.header_max = option(argv, "header_max", 0),
		.json_max = option(argv, "json_max", 0),
		.conns_max = (unsigned)option(argv, "conns_max", 0),
		.head_timeout_ms = option(argv, "head_timeout_ms", 0),
		.idle_timeout_ms = option(argv, "idle_timeout_ms", 0),
	};
	struct http_server *server;
	struct loop_io in = {.fd = -EBADF};
	struct loop_prepare prepare = {0};
	struct err err = {0};
	uint16_t port;
	int fd, r;

	(void)argc;
	if (spawn_init(option(argv, "nofile", 4096)) < 0 || loop_new(&loop) < 0)
		return 1;
	if (http_server_new(loop, &config, &server, &err) < 0 ||
	    http_bind("127.0.0.1", 0, &fd, &port, &err) < 0 || http_server_listen(server, fd, &err) < 0) {
		log_error("%s", err.message);
		return 1;
	}
	if (text_option(argv, "unix") &&
	    http_server_listen(server, unix_socket(text_option(argv, "unix")), &err) < 0)
		return 1;
	if (loop_io_add(loop, &in, STDIN_FILENO, EPOLLIN, stdin_ready) < 0)
		return 1;
	loop_prepare_add(loop, &prepare, count_turn);
	say("%d\n", port);
	r = loop_run(loop);
	http_server_free(server);
	loop_prepare_del(&prepare);
	loop_io_del(&in);
	loop_free(loop);
	return r;
}
