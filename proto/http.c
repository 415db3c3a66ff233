/*
 * http.c - one request: from its head to its handler, and what a handler may ask
 * of it.
 *
 * A request object belongs to its connection from the head to the end of its
 * reply; then it goes to the server's few spare ones with the memory it has. A
 * handler's callbacks run from conn_run(), or in whatever callback of its own it
 * replies.
 */
#include "proto/http.h"

#include <arpa/inet.h>
#include <assert.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "lib/log.h"
#include "lib/random.h"
#include "proto/http_priv.h"
#include "proto/json.h"
#include "proto/query.h"

/* ---- life ---------------------------------------------------------------- */

struct http_req *req_new(struct http_conn *c)
{
	struct http_server *s = c->server;
	struct http_req *req;

	if (list_empty(&s->spare_reqs)) {
		req = calloc(1, sizeof(*req));
		if (!req)
			return NULL;
		list_init(&req->link);
	} else {
		req = list_entry(s->spare_reqs.next, struct http_req, link);
		list_del(&req->link);
		s->spare_reqs_n--;
	}
	req->conn = c;
	req->server = s;
	req->text.max = SIZE_MAX / 2;
	req->json_text.max = s->config.json_max;
	req->headers.max = HTTP_REPLY_HEAD_MAX;
	/* Until the head says otherwise, for a reply to what was no request. */
	req->head.method = "";
	req->head.minor = 1;
	req->source_left = -1;
	return req;
}

/* Empties b and keeps its memory unless that is uncommonly much. */
static void recycle(struct buf *b)
{
	if (b->cap > 4096)
		buf_done(b);
	buf_clear(b);
}

void req_free(struct http_req *req)
{
	struct http_server *s;
	struct buf text, json_text, headers;

	if (!req)
		return;
	s = req->server;
	if (req->json)
		json_decref(req->json);
	free(req->host);
	recycle(&req->text);
	recycle(&req->json_text);
	recycle(&req->headers);
	text = req->text;
	json_text = req->json_text;
	headers = req->headers;
	if (s->spare_reqs_n >= HTTP_REQUESTS_SPARE) {
		buf_done(&text);
		buf_done(&json_text);
		buf_done(&headers);
		free(req);
		return;
	}
	memset(req, 0, sizeof(*req));
	req->text = text;
	req->json_text = json_text;
	req->headers = headers;
	list_add_tail(&s->spare_reqs, &req->link);
	s->spare_reqs_n++;
}

void req_result(struct http_req *req, int r, const struct err *err)
{
	if (r < 0)
		http_reply_err(req, err);
}

/* ---- from the head to the handler ---------------------------------------- */

static void run_handler(struct http_req *req)
{
	struct http_conn *c = req->conn;
	const struct http_route *route = req->match.route;
	struct err err = {0};
	int r;

	c->state = CONN_WAIT;
	r = route->fn(req, &err);
	if (r < 0 && c->req != req) {
		log_error("%s %s: the handler failed after it had replied: %s", route->method, route->path,
			  err.message);
		return;
	}
	req_result(req, r, &err);
}

static void end_sink(struct http_req *req)
{
	const struct http_sink *sink = TAKE_PTR(req->sink);
	struct http_conn *c = req->conn;
	struct err err = {0};
	int r = sink->end(req, &err);

	if (r >= 0 || c->req != req)
		return;
	sink->abort(req);
	req_result(req, r, &err);
}

void req_body_done(struct http_req *req)
{
	struct err err = {0};
	int r = 0;

	req->conn->state = CONN_WAIT;
	req->conn->deadline_ms = 0;
	if (req->sink) {
		end_sink(req);
		return;
	}
	if (req->json_text.len > 0)
		r = json_parse(req->json_text.data, req->json_text.len, &req->json, &err);
	if (r < 0)
		req_result(req, r, &err);
	else
		run_handler(req);
}

static void await_body(struct http_req *req)
{
	struct http_conn *c = req->conn;

	if (c->body.complete) {
		req_body_done(req);
		return;
	}
	body_continue(req);
	c->state = CONN_BODY;
	conn_deadline(c, c->server->config.idle_timeout_ms);
}

static void dispatch(struct http_req *req)
{
	struct http_conn *c = req->conn;
	size_t json_max = req->server->config.json_max;

	switch (req->match.route->body) {
	case HTTP_BODY_NONE:
		run_handler(req);
		break;
	case HTTP_BODY_JSON:
		if (!c->body.chunked && (uint64_t)c->body.left > json_max)
			reply_status(req, 413, "PAYLOAD_TOO_LARGE", false,
				     "the JSON body is over the limit of %zu bytes", json_max);
		else
			await_body(req);
		break;
	case HTTP_BODY_STREAM:
		run_handler(req);
		if (c->req == req && c->state == CONN_WAIT && req->sink)
			await_body(req);
		break;
	}
}

static bool authorized(struct http_req *req)
{
	const struct http_config *config = &req->server->config;
	struct err err = {.kind = ERR_UNAUTHORIZED, .code = "UNAUTHORIZED", .message = "not authorized"};

	if (!config->authorize || (req->match.route && req->match.route->open))
		return true;
	if (config->authorize(req, &err) >= 0)
		return true;
	http_reply_err(req, &err);
	return false;
}

static void request_id(struct http_req *req)
{
	const char *given = http_header(req, "X-Request-ID");
	size_t n = given ? strlen(given) : 0;

	if (!req->server->config.request_id)
		return;
	if (n > 0 && n <= HTTP_REQUEST_ID_MAX)
		memcpy(req->request_id, given, n + 1);
	else
		random_uuid(req->request_id);
	(void)http_add_header(req, "X-Request-ID", req->request_id);
}

/*
 * Decodes path and query and finds the route. What is decoded goes behind the
 * head; req_begin() has made room for all of it.
 */
static int resolve(struct http_req *req, char *store)
{
	const char *target = req->head.target, *question = strchr(target, '?');
	size_t n = question ? (size_t)(question - target) : strlen(target);
	char *raw = store;
	ssize_t r, query_r = 0;

	memcpy(raw, target, n);
	raw[n] = '\0';
	store += n + 1;
	req->path = store;
	r = url_decode(store, raw, n, false);
	if (r < 0)
		return (int)r;
	store += r + 1;
	if (question) {
		req->query = store;
		query_r = query_decode(store, question + 1);
		req->query_n = (size_t)MAX(query_r, 0);
		store += req->query_n;
	}
	r = route_find(req->server->config.routes, req->server->config.prefix, req->head.method, raw, store,
		       &req->match);
	/* A route for any method passes the target on as it is: "?q=100%" is its own affair. */
	if (query_r < 0 && !(req->match.route && strcmp(req->match.route->method, "*") == 0))
		return (int)query_r;
	return (int)r;
}

void req_begin(struct http_req *req, size_t head_n)
{
	struct http_conn *c = req->conn;
	const char *why = "";
	size_t line_n;
	unsigned status;
	char *text;

	line_n = (size_t)((uint8_t *)memchr(req->text.data, '\n', head_n) - req->text.data);
	if (buf_reserve(&req->text, line_n + 1 + line_n + 1 + QUERY_ROOM(line_n) + ROUTE_STORE_ROOM(line_n)) <
	    0) {
		conn_kill(c);
		return;
	}
	text = (char *)req->text.data;
	status = head_parse(text, head_n, &req->head, &why);
	if (status) {
		c->body.complete = false;
		reply_status(req, status, "INVALID_REQUEST", true, "%s", why);
		return;
	}
	body_begin(&c->body, &req->head);
	req->continue_owed = req->head.expect_continue && !c->body.complete;
	request_id(req);
	if (resolve(req, text + head_n) < 0) {
		reply_status(req, 400, "INVALID_REQUEST", false,
			     "the request target holds a broken %%-escape");
		return;
	}
	if (!authorized(req))
		return;
	if (req->match.route) {
		dispatch(req);
	} else if (req->match.allow[0]) {
		(void)http_add_header(req, "Allow", req->match.allow);
		reply_status(req, 405, "METHOD_NOT_ALLOWED", false, "%s is not allowed on %s; allowed: %s",
			     req->head.method, req->path, req->match.allow);
	} else {
		reply_status(req, 404, "NOT_FOUND", false, "there is no %s", req->path);
	}
}

/* ---- what a handler asks --------------------------------------------------- */

void *http_app(struct http_req *req)
{
	return req->server->config.app;
}

const char *http_method(struct http_req *req)
{
	return req->head.method;
}

const char *http_path(struct http_req *req)
{
	return req->path;
}

const char *http_param(struct http_req *req, const char *name)
{
	size_t n = strlen(name);

	for (size_t i = 0; i < req->match.params_n; i++) {
		const struct route_param *p = &req->match.params[i];

		if (p->name_n == n && memcmp(p->name, name, n) == 0)
			return p->value;
	}
	return NULL;
}

const char *http_query(struct http_req *req, const char *name)
{
	const char *value = NULL;

	(void)query_get(req->query, req->query_n, name, &value, 1);
	return value;
}

size_t http_query_all(struct http_req *req, const char *name, const char **ret, size_t max)
{
	return query_get(req->query, req->query_n, name, ret, max);
}

const char *http_header(struct http_req *req, const char *name)
{
	return head_get(&req->head, name);
}

json_t *http_json(struct http_req *req)
{
	return req->json;
}

const char *http_request_id(struct http_req *req)
{
	return req->request_id[0] ? req->request_id : NULL;
}

const char *http_host(struct http_req *req)
{
	union {
		struct sockaddr any;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
		struct sockaddr_storage storage;
	} a = {0};
	socklen_t n = sizeof(a);
	char ip[INET6_ADDRSTRLEN] = "";
	int r = -1;

	if (req->head.host && *req->head.host)
		return req->head.host;
	if (req->host)
		return req->host;
	if (getsockname(req->conn->sock.io.fd, &a.any, &n) < 0)
		return "localhost";
	if (a.any.sa_family == AF_INET && inet_ntop(AF_INET, &a.in.sin_addr, ip, sizeof(ip)))
		r = asprintf(&req->host, "%s:%u", ip, ntohs(a.in.sin_port));
	else if (a.any.sa_family == AF_INET6 && inet_ntop(AF_INET6, &a.in6.sin6_addr, ip, sizeof(ip)))
		r = asprintf(&req->host, "[%s]:%u", ip, ntohs(a.in6.sin6_port));
	if (r < 0)
		req->host = NULL;
	return req->host ? req->host : "localhost";
}

/* "https://host:port" is a page of host:port. */
static bool is_page_of(const char *origin, const char *host)
{
	const char *authority = strstr(origin, "://");

	return authority && host && *host && strcasecmp(authority + 3, host) == 0;
}

bool http_cross_site(struct http_req *req)
{
	static const char *const harmless[] = {"GET", "HEAD", "OPTIONS"};
	const struct http_route *route = req->match.route;
	const char *site = http_header(req, "Sec-Fetch-Site"), *origin = http_header(req, "Origin");

	for (size_t i = 0; i < ARRAY_SIZE(harmless); i++)
		if (strcmp(req->head.method, harmless[i]) == 0)
			return false;
	if (route && strcmp(route->method, "*") == 0)
		return false;
	/* Browsers say so where they can; a script cannot. "same-site" is also another port of this host. */
	if (site)
		return strcmp(site, "same-origin") != 0 && strcmp(site, "none") != 0;
	return origin && !is_page_of(origin, req->head.host) &&
	       !is_page_of(origin, http_header(req, "X-Forwarded-Host"));
}

const char *http_target(struct http_req *req)
{
	return req->head.target;
}

unsigned http_minor(struct http_req *req)
{
	return req->head.minor;
}

bool http_keep_alive(struct http_req *req)
{
	return req->head.keep_alive;
}

const char *http_header_at(struct http_req *req, size_t i, const char **ret_value)
{
	if (i >= req->head.fields_n)
		return NULL;
	*ret_value = req->head.fields[i].value;
	return req->head.fields[i].name;
}

void http_set_data(struct http_req *req, void *data)
{
	req->data = data;
}

void *http_data(struct http_req *req)
{
	return req->data;
}

void http_on_gone(struct http_req *req, void (*fn)(struct http_req *req))
{
	req->on_gone = fn;
}

void http_set_sink(struct http_req *req, const struct http_sink *sink)
{
	assert(!req->sink);
	req->sink = sink;
}

void http_body_pause(struct http_req *req, bool pause)
{
	if (req->paused == pause)
		return;
	req->paused = pause;
	if (req->conn->state == CONN_BODY)
		conn_deadline(req->conn, pause ? 0 : req->server->config.idle_timeout_ms);
	conn_kick(req->conn);
}

int64_t http_body_length(struct http_req *req)
{
	return req->head.chunked ? -1 : MAX(req->head.length, (int64_t)0);
}
