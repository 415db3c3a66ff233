/*
 * command.c - /command: run, interrupt, list, status, logs, exact output.
 *
 * Owns nothing beyond a request: what lives longer is a run or a command. An
 * interrupt is answered once the run has ended, so that whoever asks for the
 * status after it sees the end, as with the reference.
 */
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "execd/api/api.h"
#include "execd/api/query.h"
#include "execd/api/spec.h"
#include "execd/command.h"
#include "execd/isolated/undoable.h"
#include "execd/path.h"
#include "execd/run.h"
#include "lib/clock.h"
#include "proto/json.h"

#define CURSOR_HEADER "EXECD-COMMANDS-TAIL-CURSOR" /* the cursor of the next request */
#define HEAD_HEADER                                                                                          \
	"EXECD-COMMANDS-HEAD-CURSOR" /* where this answer begins, when older output was dropped              \
				      */

#define LIST_LIMIT     100 /* commands of one page */
#define LIST_LIMIT_MAX 1000
#define STATUS_MAX     (16U << 20) /* bytes of a status answer: the command line is in it */

static int not_found(struct err *err, const char *id)
{
	return err_set(err, ERR_NOT_FOUND, "COMMAND_NOT_FOUND", ENOENT, "there is no command '%s'", id);
}

/* ---- POST /command ------------------------------------------------------ */

/* The directory whose changes can be taken back: undo_root, or the command's own. *ret stays NULL: none. */
static int undo_root(json_t *body, struct command_spec *spec, char **ret, struct err *err)
{
	const char *root = NULL;
	bool undoable = false;
	int r = json_get_bool(body, "undoable", JSON_OPTIONAL, &undoable, err);
	if (r >= 0)
		r = json_get_str(body, "undo_root", JSON_OPTIONAL, &root, err);
	if (r < 0 || !undoable)
		return r;
	if (!root)
		root = spec->cwd;
	if (!root || !*root)
		return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL,
			       "undo_root: is required with undoable, unless there is a cwd");
	if (spec->confinement && !json_is_null(spec->confinement))
		return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL,
			       "confinement: an undoable command has that of its room");
	_cleanup_free_ char *path = NULL;
	r = path_canonical(root, &path, err);
	if (r >= 0)
		r = launch_cwd(path, NULL, NULL, ret, err);
	if (r >= 0 && !spec->cwd)
		spec->cwd = *ret;
	return r;
}

int command_post(struct http_req *req, struct err *err)
{
	const struct execd *execd = http_app(req);
	struct command_spec spec = {0};
	struct run *run;
	_cleanup_free_ char *root = NULL;
	int r = command_spec_parse(http_json(req), &spec, err);
	if (r >= 0)
		r = undo_root(http_json(req), &spec, &root, err);
	if (r >= 0 && root)
		r = undoable_new(execd->undoables, root, &spec, err);
	if (r >= 0)
		r = command_start(execd->commands, &spec, &run, err);
	if (r < 0) {
		if (spec.undoable)
			undoable_forget(spec.undoable);
		return r;
	}
	r = spec.background ? stream_reply_detached(req, run, err) : stream_reply(req, run, 0, err);
	return stream_told(run, r);
}

/* ---- DELETE /command ---------------------------------------------------- */

struct interrupt {
	struct run_watch watch;
	struct http_req *req;
};

static void interrupt_ended(struct run_watch *w)
{
	struct interrupt *i = container_of(w, struct interrupt, watch);
	http_reply_empty(i->req, 200);
	free(i);
}

static void interrupt_gone(struct http_req *req)
{
	struct interrupt *i = http_data(req);
	run_unwatch(&i->watch);
	free(i);
}

int command_delete(struct http_req *req, struct err *err)
{
	const struct execd *execd = http_app(req);
	const char *id;
	int r = query_need(req, "id", &id, err);
	if (r < 0)
		return r;
	struct run *run = runs_get(execd->runs, id);
	if (!run)
		return not_found(err, id);
	run = run_current(run);
	struct interrupt *i = calloc(1, sizeof(*i));
	if (!i)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "interrupt '%s'", id);
	if (run_interrupt(run) < 0) {
		free(i);
		return err_set(err, ERR_CONFLICT, "RUNTIME_ERROR", ESRCH, "command '%s' is not running", id);
	}
	if (run->state == RUN_ENDED) {
		free(i);
		http_reply_empty(req, 200);
		return 0;
	}
	i->req = req;
	http_set_data(req, i);
	http_on_gone(req, interrupt_gone);
	run_watch(run, &i->watch, interrupt_ended);
	return 0;
}

/* ---- GET /command/status/{id} ------------------------------------------- */

/* The reference's words for an end that is not exit code 0; empty when there is nothing to say. */
void run_end_message(const struct run_end *end, char *out, size_t size)
{
	const char *signal = end->signo ? sigdescr_np(end->signo) : NULL;
	out[0] = '\0';
	if (end->ename)
		(void)snprintf(out, size, "%s: %s", end->ename, end->evalue ? end->evalue : "");
	else if (signal)
		(void)snprintf(out, size, "signal: %c%s", /* but "CPU time limit exceeded" stays */
			       isupper((unsigned char)signal[1]) ? signal[0] : signal[0] | 0x20, signal + 1);
	else if (end->signo)
		(void)snprintf(out, size, "signal: %d", end->signo);
	else if (end->exit_code != 0)
		(void)snprintf(out, size, "exit status %d", end->exit_code);
}

static void put_time(struct jw *w, const char *key, uint64_t real_ms)
{
	char text[CLOCK_RFC3339_MAX];
	jw_kstr(w, key, clock_rfc3339(real_ms, text));
}

/* Whole, or cut at the border of a code point. */
static void put_content(struct jw *w, const struct run *run, size_t max)
{
	size_t n = strnlen(run->content, max + 1), cut = MIN(n, max);
	while (n > max && cut > 0 && ((unsigned char)run->content[cut] & 0xc0) == 0x80)
		cut--;
	jw_key(w, "content");
	jw_strn(w, run->content, cut);
	if (n > max)
		jw_kbool(w, "content_truncated", true);
}

static void put_status(struct jw *w, const struct run *run, size_t content_max)
{
	char message[256];
	jw_obj_begin(w);
	jw_kstr(w, "id", run->id);
	put_content(w, run, content_max);
	jw_kbool(w, "background", run->background);
	jw_kbool(w, "running", run->state != RUN_ENDED);
	jw_kraw(w, "limits", run->limits);
	jw_kraw(w, "confinement", run->confinement);
	if (run->state == RUN_ENDED) {
		run_end_message(&run->end, message, sizeof(message));
		jw_kint(w, "exit_code", run->end.exit_code);
		if (message[0])
			jw_kstr(w, "error", message);
	}
	put_time(w, "started_at", run->started_ms ? run->started_ms : run->created_ms);
	if (run->state == RUN_ENDED) {
		put_time(w, "finished_at", run->ended_ms);
		jw_key(w, "end");
		run_end_json(run, w);
	}
	jw_obj_end(w);
}

int command_status_get(struct http_req *req, struct err *err)
{
	const struct execd *execd = http_app(req);
	const char *id = http_param(req, "id");
	const struct run *run = runs_get(execd->runs, id);
	_cleanup_buf_ struct buf body = BUF_INIT(STATUS_MAX);
	struct jw w = JW_INIT(&body);
	if (!run)
		return not_found(err, id);
	put_status(&w, run, SIZE_MAX / 2);
	if (body.failed)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "status of '%s'", id);
	http_reply_buf(req, 200, "application/json", &body);
	return 0;
}

/* ---- GET /command -------------------------------------------------------- */

/* A number in the query, within bounds. *ret stays when there is none. */
static int query_number(struct http_req *req, const char *name, uint64_t min, uint64_t max, uint64_t *ret,
			struct err *err)
{
	const char *s = http_query(req, name);
	char *end;
	if (!s)
		return 0;
	errno = 0;
	unsigned long long v = strtoull(s, &end, 10);
	if (errno || *s < '0' || *s > '9' || *end || v < min || v > max)
		return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL,
			       "%s: '%.64s' is not a number from %" PRIu64 " to %" PRIu64, name, s, min, max);
	*ret = v;
	return 1;
}

/* *ret_any: both. */
static int query_running(struct http_req *req, bool *ret_any, bool *ret_running, struct err *err)
{
	const char *s = http_query(req, "running");
	*ret_any = !s;
	*ret_running = s && strcmp(s, "true") == 0;
	if (!s || *ret_running || strcmp(s, "false") == 0)
		return 0;
	return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL, "running: must be true or false");
}

int command_list_get(struct http_req *req, struct err *err)
{
	const struct execd *execd = http_app(req);
	struct buf body = BUF_INIT(STATUS_MAX);
	struct jw w = JW_INIT(&body);
	uint64_t limit = LIST_LIMIT, before = UINT64_MAX;
	bool any, running;
	int r = query_number(req, "limit", 1, LIST_LIMIT_MAX, &limit, err);
	if (r >= 0)
		r = query_number(req, "before", 1, INT64_MAX, &before, err);
	if (r >= 0)
		r = query_running(req, &any, &running, err);
	if (r < 0)
		return r;
	const struct run *run = runs_before(execd->runs, before);
	jw_obj_begin(&w);
	jw_key(&w, "items");
	jw_arr_begin(&w);
	for (uint64_t n = 0; run && n < limit; run = runs_before(execd->runs, before)) {
		before = run->number;
		if (!run->command || (!any && running != (run->state != RUN_ENDED)))
			continue;
		put_status(&w, run, RUN_CONTENT_MIN);
		n++;
	}
	jw_arr_end(&w);
	jw_key(&w, "next");
	if (run)
		jw_int(&w, (int64_t)before);
	else
		jw_str(&w, NULL);
	jw_obj_end(&w);
	http_reply_buf(req, 200, "application/json", &body);
	return 0;
}

/* ---- GET /command/{id}/logs --------------------------------------------- */

/* Standard output and error between two offsets, in order of arrival, as plain bytes. */
struct logs {
	struct http_source source;
	struct output *output;
	enum output_stream stream; /* for exact output */
	uint64_t offset, end;
};

static int logs_proceed(struct http_source *src, struct buf *out, size_t room)
{
	struct logs *l = container_of(src, struct logs, source);
	while (l->offset < l->end && room > 0) {
		struct output_slice slice;
		size_t max = (size_t)MIN(l->end - l->offset, (uint64_t)room);
		int r = output_read(l->output, l->offset, max, &slice);
		if (r <= 0) /* dropped before a slow client could take it: it must see the cut */
			return r < 0 ? r : -EIO;
		if (slice.stream != OUTPUT_EVENT && buf_append(out, slice.data, slice.len) < 0)
			return -ENOMEM;
		l->offset = slice.offset + slice.len;
		room -= slice.stream == OUTPUT_EVENT ? 0 : slice.len;
	}
	return l->offset >= l->end;
}

static void logs_stop(struct http_source *src, bool complete)
{
	struct logs *l = container_of(src, struct logs, source);
	(void)complete;
	output_unref(l->output);
	free(l);
}

/* A cursor is an offset in the log, as in a file; what it answers is the cursor to ask with next. */
static int logs_headers(struct http_req *req, const char *header, const struct logs *l, uint64_t asked)
{
	char text[24];
	(void)snprintf(text, sizeof(text), "%" PRIu64, l->end);
	int r = http_add_header(req, header, text);
	if (r < 0 || l->offset <= asked)
		return r;
	(void)snprintf(text, sizeof(text), "%" PRIu64, l->offset);
	return http_add_header(req, HEAD_HEADER, text);
}

int logs_reply(struct http_req *req, struct run *run, const char *header, struct err *err)
{
	uint64_t asked = 0;
	if (query_number(req, "cursor", 0, UINT64_MAX, &asked, err) < 0)
		return -EINVAL;
	struct logs *l = calloc(1, sizeof(*l));
	if (!l)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "logs of '%s'", run->id);
	l->source = (struct http_source){.proceed = logs_proceed, .stop = logs_stop};
	l->end = output_end(run->output);
	l->offset = MIN(MAX(asked, output_begin(run->output)), l->end);
	if (logs_headers(req, header, l, MIN(asked, l->end)) < 0) {
		free(l);
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "logs of '%s'", run->id);
	}
	l->output = output_ref(run->output);
	http_reply_source(req, 200, "text/plain; charset=utf-8", -1, &l->source);
	return 0;
}

int command_logs_get(struct http_req *req, struct err *err)
{
	const struct execd *execd = http_app(req);
	const char *id = http_param(req, "id");
	struct run *run = runs_get(execd->runs, id);
	return run ? logs_reply(req, run, CURSOR_HEADER, err) : not_found(err, id);
}

/* ---- GET /command/{id}/output ---------------------------------------------- */

/* The same bytes, of one stream or of both, by offsets of that stream. */
struct output_range {
	int stream; /* enum output_stream; -1: both */
	uint64_t begin, end, from, to;
};

static int parse_stream(struct http_req *req, int *ret, struct err *err)
{
	const char *s = http_query(req, "stream");
	if (!s || strcmp(s, "all") == 0)
		*ret = -1;
	else if (strcmp(s, "stdout") == 0)
		*ret = OUTPUT_STDOUT;
	else if (strcmp(s, "stderr") == 0)
		*ret = OUTPUT_STDERR;
	else
		return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL,
			       "stream: must be stdout, stderr or all");
	return 0;
}

static int find_range(struct http_req *req, struct output *o, struct output_range *ret, struct err *err)
{
	uint64_t offset = 0, limit = UINT64_MAX;
	int r = parse_stream(req, &ret->stream, err);
	if (r >= 0)
		r = query_number(req, "offset", 0, INT64_MAX, &offset, err);
	if (r >= 0)
		r = query_number(req, "limit", 1, INT64_MAX, &limit, err);
	if (r < 0)
		return r;
	ret->begin = output_begin(o);
	ret->end = output_end(o);
	if (ret->stream >= 0) {
		if (output_stream_offset(o, (enum output_stream)ret->stream, ret->begin, &ret->begin) < 0)
			return err_sys(err, "RUNTIME_ERROR", EIO, "output");
		ret->end = output_stream_end(o, (enum output_stream)ret->stream);
	}
	if (offset > ret->end)
		return err_set(err, ERR_RANGE, "INVALID_REQUEST_BODY", ERANGE,
			       "offset %" PRIu64 " is beyond the end of the output, %" PRIu64, offset,
			       ret->end);
	ret->from = MAX(offset, ret->begin);
	ret->to = limit < ret->end - ret->from ? ret->from + limit : ret->end;
	return 0;
}

static int put_header(struct http_req *req, const char *name, uint64_t value)
{
	char text[24];
	(void)snprintf(text, sizeof(text), "%" PRIu64, value);
	return http_add_header(req, name, text);
}

static int range_headers(struct http_req *req, const struct output_range *range, bool ended)
{
	int r = put_header(req, "Execd-Output-Offset", range->from);
	if (r >= 0)
		r = put_header(req, "Execd-Output-Next", range->to);
	if (r >= 0)
		r = put_header(req, "Execd-Output-Begin", range->begin);
	if (r >= 0)
		r = put_header(req, "Execd-Output-End", range->end);
	return r < 0 ? r : http_add_header(req, "Execd-Output-Ended", ended ? "true" : "false");
}

/* One stream, between two of its own offsets. */
static int stream_bytes_proceed(struct http_source *src, struct buf *out, size_t room)
{
	struct logs *l = container_of(src, struct logs, source);
	while (l->offset < l->end && room > 0) {
		struct output_slice slice;
		size_t max = (size_t)MIN(l->end - l->offset, (uint64_t)room);
		int r = output_read_stream(l->output, l->stream, l->offset, UINT64_MAX, max, &slice);
		if (r <= 0)
			return r < 0 ? r : -EIO;
		if (buf_append(out, slice.data, slice.len) < 0)
			return -ENOMEM;
		l->offset += slice.len;
		room -= slice.len;
	}
	return l->offset >= l->end;
}

int command_output_get(struct http_req *req, struct err *err)
{
	const struct execd *execd = http_app(req);
	const char *id = http_param(req, "id");
	struct run *run = runs_get(execd->runs, id);
	struct output_range range;
	if (!run)
		return not_found(err, id);
	int r = find_range(req, run->output, &range, err);
	if (r < 0)
		return r;
	struct logs *l = calloc(1, sizeof(*l));
	if (!l || range_headers(req, &range, output_closed(run->output)) < 0) {
		free(l);
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "output of '%s'", id);
	}
	l->source = (struct http_source){.proceed = range.stream < 0 ? logs_proceed : stream_bytes_proceed,
					 .stop = logs_stop};
	l->stream = range.stream < 0 ? OUTPUT_STDOUT : (enum output_stream)range.stream;
	l->offset = range.from;
	l->end = range.to;
	l->output = output_ref(run->output);
	/* Records between the lines of both are not output: how much that is shows only on the way. */
	http_reply_source(req, 200, "application/octet-stream",
			  range.stream < 0 ? -1 : (int64_t)(range.to - range.from), &l->source);
	return 0;
}
