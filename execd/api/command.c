/*
 * command.c - /command: run, interrupt, status, logs.
 *
 * Owns nothing beyond a request: what lives longer is a run or a command. An
 * interrupt is answered once the run has ended, so that whoever asks for the
 * status after it sees the end, as with the reference.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "execd/api/api.h"
#include "execd/command.h"
#include "execd/run.h"
#include "lib/clock.h"
#include "proto/json.h"

#define CURSOR_HEADER "EXECD-COMMANDS-TAIL-CURSOR" /* the cursor of the next request */
#define HEAD_HEADER                                                                                          \
	"EXECD-COMMANDS-HEAD-CURSOR" /* where this answer begins, when older output was dropped              \
				      */

#define STATUS_MAX     (16U << 20) /* bytes of a status answer: the command line is in it */
#define TIMEOUT_MAX_MS ((int64_t)1 << 53)

static int invalid(struct err *err, const char *message)
{
	return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL, "%s", message);
}

static int not_found(struct err *err, const char *id)
{
	return err_set(err, ERR_NOT_FOUND, "COMMAND_NOT_FOUND", ENOENT, "there is no command '%s'", id);
}

/* ---- POST /command ------------------------------------------------------ */

static int get_id(json_t *body, const char *field, bool *has, uint32_t *ret, struct err *err)
{
	int64_t v = 0;
	/* (uid_t)-1 means "leave it as it is" to the kernel. */
	int r = json_get_int(body, field, JSON_OPTIONAL, 0, UINT32_MAX - 1, &v, err);
	if (r > 0) {
		*has = true;
		*ret = (uint32_t)v;
	}
	return r;
}

/* `argv` is the clients' name, `args` another for the same. */
static int get_program(json_t *body, struct command_spec *spec, struct err *err)
{
	json_t *args = NULL;
	int r = json_get_str(body, "command", JSON_OPTIONAL, &spec->command, err);
	if (r >= 0)
		r = json_get_str_arr(body, "argv", JSON_OPTIONAL, &spec->argv, err);
	if (r >= 0)
		r = json_get_str_arr(body, "args", JSON_OPTIONAL, &args, err);
	if (r < 0)
		return r;
	if (spec->argv && args)
		return invalid(err, "argv, args: only one of them can be given");
	if (args)
		spec->argv = args;
	if (spec->command && !*spec->command && spec->argv)
		spec->command = NULL;
	if (spec->command && spec->argv)
		return invalid(err, "command, argv: only one of them can be given");
	if (!spec->argv && (!spec->command || !*spec->command))
		return invalid(err, spec->command ? "command: must not be empty" : "command: is required");
	return 0;
}

static int parse_spec(json_t *body, struct command_spec *spec, struct err *err)
{
	int64_t timeout = 0;
	int r = json_need_obj(body, JSON_REQUIRED, err);
	if (r >= 0)
		r = get_program(body, spec, err);
	if (r >= 0)
		r = json_get_str(body, "cwd", JSON_OPTIONAL, &spec->cwd, err);
	if (r >= 0)
		r = json_get_bool(body, "background", JSON_OPTIONAL, &spec->background, err);
	if (r >= 0)
		r = json_get_int(body, "timeout", JSON_OPTIONAL, 0, TIMEOUT_MAX_MS, &timeout, err);
	if (r >= 0)
		r = get_id(body, "uid", &spec->has_uid, &spec->uid, err);
	if (r >= 0)
		r = get_id(body, "gid", &spec->has_gid, &spec->gid, err);
	if (r >= 0)
		r = json_get_str_map(body, "envs", JSON_OPTIONAL, &spec->envs, err);
	if (r < 0)
		return r;
	spec->timeout_ms = (uint64_t)timeout;
	if (spec->has_gid && !spec->has_uid)
		return invalid(err, "uid: is required when gid is given");
	return 0;
}

int command_post(struct http_req *req, struct err *err)
{
	const struct execd *execd = http_app(req);
	struct command_spec spec = {0};
	struct run *run;
	int r = parse_spec(http_json(req), &spec, err);
	if (r >= 0)
		r = command_start(execd->commands, &spec, &run, err);
	if (r < 0)
		return r;
	r = spec.background ? stream_reply_detached(req, run, err) : stream_reply(req, run, 0, err);
	if (r < 0) /* nobody has learnt its id */
		(void)run_interrupt(run);
	run_unref(run);
	return r;
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
	const char *id = http_query(req, "id");
	if (!id || !*id)
		return err_set(err, ERR_INVALID, "MISSING_QUERY", EINVAL, "query parameter 'id' is missing");
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
static void end_message(const struct run_end *end, char *out, size_t size)
{
	const char *signal = end->signo ? sigdescr_np(end->signo) : NULL;
	out[0] = '\0';
	if (end->ename)
		(void)snprintf(out, size, "%s: %s", end->ename, end->evalue ? end->evalue : "");
	else if (signal)
		(void)snprintf(out, size, "signal: %c%s", signal[0] | 0x20, signal + 1);
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

static void put_status(struct jw *w, const struct run *run)
{
	char message[256];
	jw_obj_begin(w);
	jw_kstr(w, "id", run->id);
	jw_kstr(w, "content", run->content);
	jw_kbool(w, "running", run->state != RUN_ENDED);
	if (run->state == RUN_ENDED) {
		end_message(&run->end, message, sizeof(message));
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
	put_status(&w, run);
	if (body.failed)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "status of '%s'", id);
	http_reply_buf(req, 200, "application/json", &body);
	return 0;
}

/* ---- GET /command/{id}/logs --------------------------------------------- */

/* Standard output and error between two offsets, in order of arrival, as plain bytes. */
struct logs {
	struct http_source source;
	struct output *output;
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

static int parse_cursor(const char *s, uint64_t *ret, struct err *err)
{
	char *end;
	errno = 0;
	unsigned long long v = strtoull(s, &end, 10);
	if (errno || *s < '0' || *s > '9' || *end)
		return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL,
			       "cursor: '%s' is not a number of bytes", s);
	*ret = v;
	return 0;
}

/* A cursor is an offset in the log, as in a file; what it answers is the cursor to ask with next. */
static int logs_headers(struct http_req *req, const struct logs *l, uint64_t asked)
{
	char text[24];
	(void)snprintf(text, sizeof(text), "%" PRIu64, l->end);
	int r = http_add_header(req, CURSOR_HEADER, text);
	if (r < 0 || l->offset <= asked)
		return r;
	(void)snprintf(text, sizeof(text), "%" PRIu64, l->offset);
	return http_add_header(req, HEAD_HEADER, text);
}

int command_logs_get(struct http_req *req, struct err *err)
{
	const struct execd *execd = http_app(req);
	const char *id = http_param(req, "id"), *cursor = http_query(req, "cursor");
	struct run *run = runs_get(execd->runs, id);
	uint64_t asked = 0;
	if (!run)
		return not_found(err, id);
	if (cursor && parse_cursor(cursor, &asked, err) < 0)
		return -EINVAL;
	struct logs *l = calloc(1, sizeof(*l));
	if (!l)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "logs of '%s'", id);
	l->source = (struct http_source){.proceed = logs_proceed, .stop = logs_stop};
	l->end = output_end(run->output);
	l->offset = MIN(MAX(asked, output_begin(run->output)), l->end);
	if (logs_headers(req, l, MIN(asked, l->end)) < 0) {
		free(l);
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "logs of '%s'", id);
	}
	l->output = output_ref(run->output);
	http_reply_source(req, 200, "text/plain; charset=utf-8", -1, &l->source);
	return 0;
}
