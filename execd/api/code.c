/*
 * code.c - /code: cells and the contexts they run in.
 *
 * Ours beside the reference: `timeout` of a cell in ms; state, cwd and more of
 * a context; POST /code/contexts/{id}/restart and /fork. DELETE /code takes the
 * id from init, which is the context's, or the id of one cell's run.
 */
#include <string.h>

#include "execd/api/api.h"
#include "execd/api/query.h"
#include "execd/api/spec.h"
#include "execd/command.h"
#include "execd/context.h"
#include "execd/run.h"
#include "proto/json.h"

#define TIMEOUT_MAX_MS ((int64_t)1 << 53)
#define LIST_MAX       (4U << 20) /* bytes of a list of contexts */

static int invalid(struct err *err, const char *message)
{
	return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL, "%s", message);
}

static const char *unless_empty(const char *s)
{
	return s && *s ? s : NULL;
}

/* ---- POST /code ----------------------------------------------------------- */

static int parse_cell(json_t *body, struct context_cell *cell, struct err *err)
{
	json_t *context = NULL;
	int64_t timeout = 0;
	int r = json_need_obj(body, JSON_REQUIRED, err);
	if (r >= 0)
		r = json_get_str(body, "code", JSON_REQUIRED, &cell->code, err);
	if (r >= 0)
		r = json_get_obj(body, "context", JSON_OPTIONAL, &context, err);
	if (r >= 0)
		r = json_get_int(body, "timeout", JSON_OPTIONAL, 0, TIMEOUT_MAX_MS, &timeout, err);
	if (r >= 0 && context)
		r = json_get_str(context, "id", JSON_OPTIONAL, &cell->context, err);
	if (r >= 0 && context)
		r = json_get_str(context, "language", JSON_OPTIONAL, &cell->language, err);
	if (r < 0)
		return r;
	if (!cell->code[strspn(cell->code, " \t\r\n")])
		return invalid(err, "code: must not be empty");
	cell->context = unless_empty(cell->context);
	cell->language = unless_empty(cell->language);
	cell->timeout_ms = (uint64_t)timeout;
	return 0;
}

/* As the reference does, what names neither a context nor a language is a shell command. */
static int run_cell(const struct execd *execd, const struct context_cell *cell, struct run **ret,
		    struct err *err)
{
	const struct command_spec command = {.command = cell->code,
					     .limits.value[LIMIT_TIMEOUT] = cell->timeout_ms};
	if (cell->context || cell->language)
		return context_run(execd->contexts, cell, ret, err);
	return command_start(execd->commands, &command, ret, err);
}

int code_post(struct http_req *req, struct err *err)
{
	const struct execd *execd = http_app(req);
	struct context_cell cell = {0};
	struct run *run;
	int r = parse_cell(http_json(req), &cell, err);
	if (r >= 0)
		r = run_cell(execd, &cell, &run, err);
	if (r < 0)
		return r;
	r = http_add_header(req, "X-EXECD-RUN-ID", run->id);
	if (r >= 0)
		r = stream_reply(req, run, 0, err);
	else
		(void)err_sys(err, "RUNTIME_ERROR", -r, "run code");
	return stream_told(run, r);
}

/* ---- DELETE /code --------------------------------------------------------- */

int code_delete(struct http_req *req, struct err *err)
{
	const struct execd *execd = http_app(req);
	const char *id;
	int r = query_need(req, "id", &id, err);
	if (r < 0)
		return r;
	struct run *run = runs_get(execd->runs, id);
	bool context = context_get(execd->contexts, id) != NULL;
	if (!run)
		return err_set(err, ERR_NOT_FOUND, "CONTEXT_NOT_FOUND", ENOENT, "there is no context '%.64s'",
			       id);
	/* A context without a cell at hand has nothing to interrupt, and that is as the client wants it. */
	if (run_interrupt(run) < 0 && !context)
		return err_set(err, ERR_CONFLICT, "RUNTIME_ERROR", ESRCH, "'%.64s' is not running", id);
	http_reply_empty(req, 200);
	return 0;
}

/* ---- contexts that come to be ---------------------------------------------- */

struct birth {
	struct context_wait wait;
	struct http_req *req;
	bool again; /* a restart: the context stays whatever becomes of the client */
};

static void reply_context(struct http_req *req, const struct context *c)
{
	_cleanup_buf_ struct buf body = BUF_INIT(LIST_MAX);
	struct jw w = JW_INIT(&body);
	struct err err;
	context_json(c, &w);
	if (body.failed) {
		(void)err_sys(&err, "RUNTIME_ERROR", ENOMEM, "show a context");
		http_reply_err(req, &err);
		return;
	}
	http_reply_buf(req, 200, "application/json", &body);
}

static void birth_done(struct context_wait *w, const struct context *c, const struct err *err)
{
	struct birth *b = container_of(w, struct birth, wait);
	if (err)
		http_reply_err(b->req, err);
	else
		reply_context(b->req, c);
	free(b);
}

/* Nobody would ever learn the id of a new context. */
static void birth_gone(struct http_req *req)
{
	const struct execd *execd = http_app(req);
	struct birth *b = http_data(req);
	const struct context *c = b->wait.context;
	bool again = b->again;
	context_unwait(&b->wait);
	free(b);
	if (!again)
		(void)context_delete(execd->contexts, context_id(c), NULL);
}

static struct birth *birth_new(struct http_req *req, struct err *err)
{
	struct birth *b = calloc(1, sizeof(*b));
	if (!b) {
		(void)err_sys(err, "RUNTIME_ERROR", ENOMEM, "create a context");
		return NULL;
	}
	b->wait.done = birth_done;
	b->req = req;
	return b;
}

static int birth_wait(struct birth *b, int r)
{
	if (r < 0) {
		free(b);
		return r;
	}
	http_set_data(b->req, b);
	http_on_gone(b->req, birth_gone);
	return 0;
}

int code_context_post(struct http_req *req, struct err *err)
{
	const struct execd *execd = http_app(req);
	struct context_spec spec = {0};
	json_t *body = http_json(req);
	int r = json_need_obj(body, JSON_REQUIRED, err);
	if (r >= 0)
		r = json_get_str(body, "language", JSON_REQUIRED, &spec.language, err);
	if (r >= 0)
		r = json_get_str(body, "cwd", JSON_OPTIONAL, &spec.cwd, err);
	if (r >= 0)
		r = limits_parse(body, &spec.limits, err);
	if (r < 0)
		return r;
	spec.confinement = json_object_get(body, "confinement");
	struct birth *b = birth_new(req, err);
	return b ? birth_wait(b, context_create(execd->contexts, &spec, &b->wait, err)) : -ENOMEM;
}

int code_context_restart_post(struct http_req *req, struct err *err)
{
	const struct execd *execd = http_app(req);
	struct birth *b = birth_new(req, err);
	if (!b)
		return -ENOMEM;
	b->again = true;
	return birth_wait(b, context_restart(execd->contexts, http_param(req, "id"), &b->wait, err));
}

int code_context_fork_post(struct http_req *req, struct err *err)
{
	const struct execd *execd = http_app(req);
	struct birth *b = birth_new(req, err);
	return b ? birth_wait(b, context_fork(execd->contexts, http_param(req, "id"), &b->wait, err))
		 : -ENOMEM;
}

/* ---- contexts that are there ------------------------------------------------ */

int code_context_get(struct http_req *req, struct err *err)
{
	const struct execd *execd = http_app(req);
	const char *id = http_param(req, "id");
	const struct context *c = context_get(execd->contexts, id);
	if (!c)
		return err_set(err, ERR_NOT_FOUND, "CONTEXT_NOT_FOUND", ENOENT, "there is no context '%.64s'",
			       id);
	reply_context(req, c);
	return 0;
}

int code_context_delete(struct http_req *req, struct err *err)
{
	const struct execd *execd = http_app(req);
	int r = context_delete(execd->contexts, http_param(req, "id"), err);
	if (r >= 0)
		http_reply_empty(req, 200);
	return r;
}

static void put_context(void *arg, const struct context *c)
{
	context_json(c, arg);
}

int code_contexts_get(struct http_req *req, struct err *err)
{
	const struct execd *execd = http_app(req);
	const char *language = unless_empty(http_query(req, "language"));
	_cleanup_buf_ struct buf body = BUF_INIT(LIST_MAX);
	struct jw w = JW_INIT(&body);
	jw_arr_begin(&w);
	int r = contexts_each(execd->contexts, language, put_context, &w, err);
	if (r < 0)
		return r;
	jw_arr_end(&w);
	if (body.failed)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "list contexts");
	http_reply_buf(req, 200, "application/json", &body);
	return 0;
}

int code_contexts_delete(struct http_req *req, struct err *err)
{
	const struct execd *execd = http_app(req);
	const char *language;
	int r = query_need(req, "language", &language, err);
	if (r >= 0)
		r = contexts_delete(execd->contexts, language, err);
	if (r >= 0)
		http_reply_empty(req, 200);
	return r;
}
