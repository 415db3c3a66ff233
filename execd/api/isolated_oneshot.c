/*
 * isolated_oneshot.c - POST /v1/isolated/run: one command or one function call in a room of its own, answered
 * whole.
 *
 * A client that vanishes ends its call.
 */
#include <string.h>

#include "execd/api/isolated_spec.h"
#include "execd/isolated/oneshot.h"
#include "execd/run.h"
#include "proto/json.h"

#define TIMEOUT_MAX_S ((int64_t)1 << 43)
#define OUTPUT_MAX    (1U << 20) /* bytes of either stream in the answer: the last ones */
#define ANSWER_MAX    (64U << 20)

struct call {
	struct http_req *req;
	struct oneshot *oneshot;
	char *event;
};

static void call_free(struct call *c)
{
	free(c->event);
	free(c);
}

/* ---- the answer --------------------------------------------------------------- */

static void put_stream(struct jw *w, const char *key, struct output *o, enum output_stream stream)
{
	_cleanup_buf_ struct buf text = BUF_INIT(OUTPUT_MAX);
	uint64_t end = output_stream_end(o, stream), at = 0;
	(void)output_stream_offset(o, stream, output_begin(o), &at);
	bool cut = at > 0 || end - at > OUTPUT_MAX;
	at = MAX(at, end - MIN(end, (uint64_t)OUTPUT_MAX));
	while (at < end) {
		struct output_slice slice;
		if (output_read_stream(o, stream, at, UINT64_MAX, (size_t)(end - at), &slice) <= 0 ||
		    buf_append(&text, slice.data, slice.len) < 0)
			break;
		at += slice.len;
	}
	jw_key(w, key);
	jw_strn(w, text.len ? text.data : (const uint8_t *)"", text.len);
	if (cut)
		jw_kbool(w, stream == OUTPUT_STDOUT ? "stdout_truncated" : "stderr_truncated", true);
}

static void put_no_result(struct jw *w, const struct err *err)
{
	jw_key(w, "error");
	jw_obj_begin(w);
	jw_kstr(w, "ename", "ResultError");
	jw_kstr(w, "evalue", err->message);
	jw_key(w, "traceback");
	jw_arr_begin(w);
	jw_arr_end(w);
	jw_obj_end(w);
}

static void put_result(struct jw *w, struct oneshot *o)
{
	json_t *result, *value;
	const char *key;
	struct err err;
	if (oneshot_result(o, &result, &err) < 0) {
		put_no_result(w, &err);
		return;
	}
	json_object_foreach(result, key, value)
	{
		char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
		if (strcmp(key, "result") == 0 || strcmp(key, "error") == 0)
			jw_kraw(w, key, text);
		free(text);
	}
	json_decref(result);
}

static void call_done(void *arg, struct oneshot *o)
{
	struct call *c = arg;
	struct run *run = oneshot_run(o);
	_cleanup_buf_ struct buf body = BUF_INIT(ANSWER_MAX);
	struct jw w = JW_INIT(&body);
	if (oneshot_failure(o)) {
		http_reply_err(c->req, oneshot_failure(o));
		call_free(c);
		return;
	}
	jw_obj_begin(&w);
	put_result(&w, o);
	put_stream(&w, "stdout", run->output, OUTPUT_STDOUT);
	put_stream(&w, "stderr", run->output, OUTPUT_STDERR);
	jw_kint(&w, "exit_code", run->end.exit_code);
	jw_kbool(&w, "timed_out", oneshot_timed_out(o));
	jw_key(&w, "end");
	run_end_json(run, &w);
	jw_obj_end(&w);
	if (body.failed) {
		struct err err;
		(void)err_sys(&err, "RUNTIME_ERROR", ENOMEM, "answer a call");
		http_reply_err(c->req, &err);
	} else {
		http_reply_buf(c->req, 200, "application/json", &body);
	}
	call_free(c);
}

static void call_gone(struct http_req *req)
{
	struct call *c = http_data(req);
	oneshot_cancel(c->oneshot);
	call_free(c);
}

/* ---- the request ------------------------------------------------------------------ */

static int parse_call(json_t *body, struct oneshot_spec *spec, struct err *err)
{
	const char *code = NULL, *path = NULL, *handler = NULL;
	int64_t timeout = 0;
	int r = json_need_obj(body, JSON_REQUIRED, err);
	if (r >= 0)
		r = json_get_str(body, "command", JSON_OPTIONAL, &spec->command, err);
	if (r >= 0)
		r = json_get_str(body, "code", JSON_OPTIONAL, &code, err);
	if (r >= 0)
		r = json_get_str(body, "path", JSON_OPTIONAL, &path, err);
	if (r >= 0)
		r = json_get_str(body, "handler", JSON_OPTIONAL, &handler, err);
	if (r >= 0)
		r = json_get_str_map(body, "envs", JSON_OPTIONAL, &spec->envs, err);
	if (r >= 0)
		r = json_get_int(body, "timeout_seconds", JSON_OPTIONAL, 0, TIMEOUT_MAX_S, &timeout, err);
	if (r < 0)
		return r;
	if ((spec->command != NULL) + (code != NULL) + (path != NULL) != 1)
		return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL,
			       "command, code, path: exactly one of them is to be given");
	if (spec->envs && !spec->command)
		return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL,
			       "envs: are for a command; a function gets its event");
	spec->timeout_ms = (uint64_t)timeout * 1000;
	spec->call = spec->command ? NULL : body;
	return 0;
}

static int start_call(struct http_req *req, struct oneshot_spec *spec, struct err *err)
{
	const struct execd *execd = http_app(req);
	json_t *event = json_object_get(http_json(req), "event");
	struct call *c = calloc(1, sizeof(*c));
	if (c && event && spec->command)
		spec->event = c->event = json_dumps(event, JSON_COMPACT | JSON_ENCODE_ANY);
	if (!c || (event && spec->command && !c->event)) {
		free(c);
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "call");
	}
	c->req = req;
	int r = oneshot_start(isolateds_oneshots(execd->isolateds), spec, call_done, c, &c->oneshot, err);
	if (r < 0) {
		call_free(c);
		return r;
	}
	http_set_data(req, c);
	http_on_gone(req, call_gone);
	return 0;
}

int isolated_oneshot_post(struct http_req *req, struct err *err)
{
	struct isolated_request rq = {0};
	struct oneshot_spec spec = {0};
	json_t *body = http_json(req);
	int r = parse_call(body, &spec, err);
	if (r >= 0 && isolated_request_has(body)) {
		r = isolated_request_parse(&rq, http_app(req), body, false, err);
		spec.room = &rq.spec;
	}
	if (r >= 0)
		r = start_call(req, &spec, err);
	isolated_request_done(&rq);
	return r;
}
