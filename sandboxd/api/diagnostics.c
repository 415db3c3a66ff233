/*
 * diagnostics.c - below /sandboxes/{id}/diagnostics: what there is to read when something is wrong.
 *
 * Source: diagnostic-api.yml for logs and events of a scope, delivered inline.
 * Without a scope they are plain text, and so are inspect and summary: the known
 * server's older form, which its command line still asks for. The container's own
 * output is read from its log while the sandbox exists; all else comes from the
 * store, as long as the tombstone stands.
 */
#include <stdio.h>
#include <string.h>

#include "lib/clock.h"
#include "proto/json.h"
#include "sandboxd/api/lifecycle.h"
#include "sandboxd/api/rows.h"

#define INVALID	    "SANDBOX::INVALID_PARAMETER"
#define TEXT_MAX    (1u << 20)
#define REPLY_MAX   (8u << 20)
#define EVENTS_MAX  500
#define WARNING_MAX 160
#define ROW_MAX	    (1u << 20)
#define LINES_MAX   10000 /* that may be asked for */

struct report {
	struct http_req *req;	  /* NULL: the client has gone */
	const char *kind, *scope; /* scope NULL: plain text */
	uint32_t tail;		  /* lines of the container's log */
	struct buf text;
	bool cut;
	char warning[WARNING_MAX]; /* or "" */
};

static int exists(const struct record *row, void *arg)
{
	(void)row;
	(void)arg;
	return 0;
}

struct lines {
	struct buf *out;
	unsigned n;
};

static void put_event(const struct store_event *e, void *arg)
{
	struct lines *l = arg;
	char at[CLOCK_RFC3339_MAX];

	l->n++;
	(void)buf_printf(l->out, "%s lifecycle %s%s%s%s%s\n", clock_rfc3339(e->at_ms, at), e->state,
			 e->reason ? " " : "", e->reason ? e->reason : "", e->message ? ": " : "",
			 e->message ? e->message : "");
}

/* Newest first in the store; the oldest is to be read first. */
static void reverse_lines(struct buf *b)
{
	_cleanup_buf_ struct buf out = BUF_INIT(TEXT_MAX);

	while (b->len > 0) {
		const uint8_t *newline = b->len > 1 ? memrchr(b->data, '\n', b->len - 1) : NULL;
		size_t begin = newline ? (size_t)(newline - b->data) + 1 : 0;
		(void)buf_append(&out, b->data + begin, b->len - begin);
		b->len = begin;
	}
	(void)buf_append(b, out.data, out.len);
}

static int add_events(struct report *r, uint32_t max, struct err *err)
{
	const struct lifecycle *l = http_app(r->req);
	_cleanup_buf_ struct buf text = BUF_INIT(TEXT_MAX);
	struct lines lines = {.out = &text};

	int e = store_events(sandboxes_store(l->sandboxes), http_param(r->req, "id"), max, put_event, &lines,
			     err);
	reverse_lines(&text);
	(void)buf_append(&r->text, text.data, text.len);
	r->cut |= lines.n == max || text.failed;
	return e;
}

static int render_row(const struct record *row, void *arg)
{
	struct jw w = JW_INIT(arg);
	write_sandbox(&w, row, true);
	return 0;
}

/* The sandbox as GET /sandboxes/{id} has it, for people. */
static int add_row(struct report *r, struct err *err)
{
	const struct lifecycle *l = http_app(r->req);
	_cleanup_buf_ struct buf b = BUF_INIT(ROW_MAX);

	int e = store_get(sandboxes_store(l->sandboxes), http_param(r->req, "id"), render_row, &b, err);
	if (e < 0)
		return e;
	json_t *row = json_loadb((const char *)b.data, b.len, 0, NULL);
	char *text = row ? json_dumps(row, JSON_INDENT(2)) : NULL;
	if (text)
		(void)buf_printf(&r->text, "%s\n", text);
	free(text);
	json_decref(row);
	return text ? 0 : err_set(err, ERR_INTERNAL, "SANDBOX::UNKNOWN_ERROR", ENOMEM, "out of memory");
}

/* The last `tail` lines of it. */
static void add_log(struct report *r, const struct buf *log)
{
	size_t begin = log->len, lines = 0;

	while (begin > 0 && (log->data[begin - 1] != '\n' || begin == log->len || ++lines < r->tail))
		begin--;
	r->cut |= begin > 0;
	(void)buf_append(&r->text, log->data + begin, log->len - begin);
}

static void warn_of_log(struct report *r, int e)
{
	(void)snprintf(r->warning, sizeof(r->warning), "the container's log: %s",
		       e == -ENOENT ? "there is none, or it went with the sandbox" : strerror(-e));
}

static int write_reply(const struct report *r, struct buf *b, struct err *err)
{
	struct jw w = JW_INIT(b);

	jw_obj_begin(&w);
	jw_kstr(&w, "sandboxId", http_param(r->req, "id"));
	jw_kstr(&w, "kind", r->kind);
	jw_kstr(&w, "scope", r->scope);
	jw_kstr(&w, "delivery", "inline");
	jw_kstr(&w, "contentType", "text/plain; charset=utf-8");
	jw_key(&w, "content");
	jw_strn(&w, r->text.data ? (const char *)r->text.data : "", r->text.len);
	jw_kbool(&w, "truncated", r->cut);
	if (*r->warning) {
		jw_key(&w, "warnings");
		jw_arr_begin(&w);
		jw_str(&w, r->warning);
		jw_arr_end(&w);
	}
	jw_obj_end(&w);
	return b->failed ? err_set(err, ERR_INTERNAL, "SANDBOX::UNKNOWN_ERROR", ENOMEM,
				   "the answer is too large")
			 : 0;
}

static void report_free(struct report *r)
{
	buf_done(&r->text);
	free(r);
}

static void reply(struct report *r)
{
	_cleanup_buf_ struct buf b = BUF_INIT(REPLY_MAX);
	struct err err;

	if (!r->scope && *r->warning)
		(void)buf_printf(&r->text, "(%s)\n", r->warning);
	if (r->req && !r->scope)
		http_reply_buf(r->req, 200, "text/plain; charset=utf-8", &r->text);
	else if (r->req && write_reply(r, &b, &err) < 0)
		http_reply_err(r->req, &err);
	else if (r->req)
		http_reply_buf(r->req, 200, "application/json", &b);
	report_free(r);
}

static void on_log(void *arg, const struct buf *text, bool cut, int result)
{
	struct report *r = arg;

	if (text)
		add_log(r, text);
	r->cut |= cut;
	if (result < 0)
		warn_of_log(r, result);
	reply(r);
}

static void on_gone(struct http_req *req)
{
	struct report *r = http_data(req);
	r->req = NULL;
}

/* The answer, when the container's log is at its end. */
static void finish_with_log(struct report *r)
{
	const struct lifecycle *l = http_app(r->req);

	http_set_data(r->req, r);
	http_on_gone(r->req, on_gone);
	int e = sandboxes_log(l->sandboxes, http_param(r->req, "id"), on_log, r);
	if (e < 0)
		on_log(r, NULL, false, e);
}

static int collect(struct report *r, struct err *err)
{
	const struct lifecycle *l = http_app(r->req);
	const char *id = http_param(r->req, "id");
	bool logs = strcmp(r->kind, "logs") == 0;
	bool all = strcmp(r->scope, "all") == 0, container = strcmp(r->scope, "container") == 0;
	bool lifecycle = strcmp(r->scope, "lifecycle") == 0 || (!logs && strcmp(r->scope, "runtime") == 0);

	if (all || lifecycle) {
		int e = add_events(r, EVENTS_MAX, err);
		if (e < 0)
			return e;
	}
	bool network = (all || strcmp(r->scope, "network") == 0) &&
		       sandboxes_network(l->sandboxes, id, &r->text) == 0;
	if (logs && (all || container)) {
		finish_with_log(r);
		return 0;
	}
	if (!all && !lifecycle && !network)
		(void)snprintf(r->warning, sizeof(r->warning), "nothing is collected for %s of scope '%s'",
			       r->kind, r->scope);
	reply(r);
	return 0;
}

static int collect_inspect(struct report *r, struct err *err)
{
	int e = add_row(r, err);
	if (e == 0)
		reply(r);
	return e;
}

static int collect_summary(struct report *r, struct err *err)
{
	uint32_t events = 20;

	r->tail = 50;
	int e = query_number(r->req, "tail", LINES_MAX, &r->tail, err);
	if (e == 0)
		e = query_number(r->req, "event_limit", EVENTS_MAX, &events, err);
	if (e == 0)
		e = add_row(r, err);
	(void)buf_printf(&r->text, "\nEVENTS\n");
	if (e == 0)
		e = add_events(r, events, err);
	(void)buf_printf(&r->text, "\nLOG\n");
	if (e == 0)
		finish_with_log(r);
	return e;
}

static int collect_log(struct report *r, struct err *err)
{
	r->tail = 100;
	int e = query_number(r->req, "tail", LINES_MAX, &r->tail, err);
	if (e == 0 && http_query(r->req, "since"))
		e = err_set(err, ERR_INVALID, INVALID, EINVAL,
			    "since: lines of the log have no times; use tail");
	if (e == 0)
		finish_with_log(r);
	return e;
}

static int collect_events(struct report *r, struct err *err)
{
	uint32_t limit = 50;
	int e = query_number(r->req, "limit", EVENTS_MAX, &limit, err);
	if (e == 0)
		e = add_events(r, limit, err);
	if (e == 0)
		reply(r);
	return e;
}

static int diagnose(struct http_req *req, const char *kind, const char *scope,
		    int (*collector)(struct report *r, struct err *err), struct err *err)
{
	const struct lifecycle *l = http_app(req);

	int e = store_get(sandboxes_store(l->sandboxes), http_param(req, "id"), exists, NULL, err);
	if (e < 0)
		return e;
	struct report *r = calloc(1, sizeof(*r));
	if (!r)
		return err_set(err, ERR_INTERNAL, "SANDBOX::UNKNOWN_ERROR", ENOMEM, "out of memory");
	*r = (struct report){
		.req = req, .kind = kind, .scope = scope, .tail = UINT32_MAX, .text = BUF_INIT(TEXT_MAX)};
	e = collector(r, err);
	if (e < 0)
		report_free(r);
	return e;
}

/* With a scope as the documents have it, or, without, by `plain`. */
static int scoped(struct http_req *req, const char *kind, int (*plain)(struct report *r, struct err *err),
		  struct err *err)
{
	static const char *const scopes[] = {"container", "lifecycle", "runtime",
					     "network",	  "process",   "all"};
	const char *scope = http_query(req, "scope");

	if (!scope) {
		(void)http_add_header(req, "Deprecation", "true");
		return diagnose(req, kind, NULL, plain, err);
	}
	for (size_t i = 0; i < ARRAY_SIZE(scopes); i++)
		if (strcmp(scope, scopes[i]) == 0)
			return diagnose(req, kind, scope, collect, err);
	return err_set(err, ERR_INVALID, INVALID, EINVAL,
		       "scope: '%.32s' is none of container, lifecycle, runtime, network, process, all",
		       scope);
}

int diagnostics_logs(struct http_req *req, struct err *err)
{
	return scoped(req, "logs", collect_log, err);
}

int diagnostics_events(struct http_req *req, struct err *err)
{
	return scoped(req, "events", collect_events, err);
}

static int render_context(const struct record *row, void *arg)
{
	struct jw w = JW_INIT(arg);

	jw_obj_begin(&w);
	jw_kstr(&w, "sandboxId", row->id);
	jw_kstr(&w, "state", sandbox_state_name(row->state));
	jw_kstr(&w, "backendType", row->runtime);
	jw_key(&w, "backendIdentifiers");
	jw_obj_begin(&w);
	if (row->handle)
		jw_kstr(&w, "handle", row->handle);
	jw_obj_end(&w);
	jw_obj_end(&w);
	return 0;
}

/* Who runs it, and what it is called there. */
int diagnostics_context(struct http_req *req, struct err *err)
{
	const struct lifecycle *l = http_app(req);
	_cleanup_buf_ struct buf b = BUF_INIT(ROW_MAX);

	int e = store_get(sandboxes_store(l->sandboxes), http_param(req, "id"), render_context, &b, err);
	return e < 0 ? e : reply_rows(req, &b, err);
}

int diagnostics_inspect(struct http_req *req, struct err *err)
{
	return diagnose(req, "inspect", NULL, collect_inspect, err);
}

int diagnostics_summary(struct http_req *req, struct err *err)
{
	return diagnose(req, "summary", NULL, collect_summary, err);
}
