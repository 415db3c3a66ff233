/*
 * diagnostics.c - /sandboxes/{id}/diagnostics/{logs,events}: what there is to read when something is wrong.
 *
 * Source: diagnostic-api.yml. Text is delivered inline. The container's own
 * output is read from its log while the sandbox exists; lifecycle text comes
 * from the store, as long as the tombstone stands.
 */
#include <stdio.h>
#include <string.h>

#include "lib/clock.h"
#include "proto/json.h"
#include "sandboxd/api/lifecycle.h"

#define INVALID	    "SANDBOX::INVALID_PARAMETER"
#define TEXT_MAX    (1u << 20)
#define REPLY_MAX   (8u << 20)
#define EVENTS_MAX  500
#define WARNING_MAX 160

struct report {
	struct http_req *req; /* NULL: the client has gone */
	const char *kind, *scope;
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

static int add_events(const struct lifecycle *l, const char *id, struct report *r, struct err *err)
{
	_cleanup_buf_ struct buf text = BUF_INIT(TEXT_MAX);
	struct lines lines = {.out = &text};

	int e = store_events(sandboxes_store(l->sandboxes), id, EVENTS_MAX, put_event, &lines, err);
	reverse_lines(&text);
	(void)buf_append(&r->text, text.data, text.len);
	r->cut |= lines.n == EVENTS_MAX || text.failed;
	return e;
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

	if (r->req && write_reply(r, &b, &err) < 0)
		http_reply_err(r->req, &err);
	else if (r->req)
		http_reply_buf(r->req, 200, "application/json", &b);
	report_free(r);
}

static void on_log(void *arg, const struct buf *text, bool cut, int result)
{
	struct report *r = arg;

	if (text)
		(void)buf_append(&r->text, text->data, text->len);
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

static int collect(struct report *r, bool logs, struct err *err)
{
	const struct lifecycle *l = http_app(r->req);
	const char *id = http_param(r->req, "id");
	bool all = strcmp(r->scope, "all") == 0, container = strcmp(r->scope, "container") == 0;
	bool lifecycle = strcmp(r->scope, "lifecycle") == 0 || (!logs && strcmp(r->scope, "runtime") == 0);

	int e = store_get(sandboxes_store(l->sandboxes), id, exists, NULL, err);
	if (e == 0 && (all || lifecycle))
		e = add_events(l, id, r, err);
	if (e < 0)
		return e;
	bool network = (all || strcmp(r->scope, "network") == 0) &&
		       sandboxes_network(l->sandboxes, id, &r->text) == 0;
	if (logs && (all || container)) {
		http_set_data(r->req, r);
		http_on_gone(r->req, on_gone);
		e = sandboxes_log(l->sandboxes, id, on_log, r);
		if (e == 0)
			return 0; /* on_log answers, or has answered */
		warn_of_log(r, e);
	} else if (!all && !lifecycle && !network) {
		(void)snprintf(r->warning, sizeof(r->warning), "nothing is collected for %s of scope '%s'",
			       r->kind, r->scope);
	}
	reply(r);
	return 0;
}

static int diagnose(struct http_req *req, const char *kind, bool logs, struct err *err)
{
	static const char *const scopes[] = {"container", "lifecycle", "runtime",
					     "network",	  "process",   "all"};
	const char *scope = http_query(req, "scope");
	bool known = false;

	for (size_t i = 0; scope && i < ARRAY_SIZE(scopes); i++)
		known |= strcmp(scope, scopes[i]) == 0;
	if (!known)
		return err_set(
			err, ERR_INVALID, INVALID, EINVAL,
			"scope: '%.32s' is none of container, lifecycle, runtime, network, process, all",
			scope ? scope : "");
	struct report *report = calloc(1, sizeof(*report));
	if (!report)
		return err_set(err, ERR_INTERNAL, "SANDBOX::UNKNOWN_ERROR", ENOMEM, "out of memory");
	*report = (struct report){.req = req, .kind = kind, .scope = scope, .text = BUF_INIT(TEXT_MAX)};
	int r = collect(report, logs, err);
	if (r < 0)
		report_free(report);
	return r;
}

int diagnostics_logs(struct http_req *req, struct err *err)
{
	return diagnose(req, "logs", true, err);
}

int diagnostics_events(struct http_req *req, struct err *err)
{
	return diagnose(req, "events", false, err);
}
