/*
 * session.c - /session: shell sessions.
 */
#include <string.h>

#include "execd/api/api.h"
#include "execd/run.h"
#include "execd/session.h"
#include "lib/clock.h"
#include "proto/json.h"

#define TIMEOUT_MAX_MS	 ((int64_t)1 << 53)
#define SESSION_LIST_MAX (4U << 20) /* bytes of the list */

int session_post(struct http_req *req, struct err *err)
{
	const struct execd *execd = http_app(req);
	struct session_spec spec = {0};
	json_t *body = http_json(req);
	const char *id;
	int r = json_need_obj(body, JSON_OPTIONAL, err);
	if (r >= 0)
		r = json_get_str(body, "cwd", JSON_OPTIONAL, &spec.cwd, err);
	if (r >= 0)
		r = json_get_str_map(body, "envs", JSON_OPTIONAL, &spec.envs, err);
	spec.confinement = json_object_get(body, "confinement");
	if (r >= 0)
		r = session_create(execd->sessions, &spec, &id, err);
	if (r < 0)
		return r;
	const char *confinement = session_confinement(execd->sessions, id);
	json_t *applied = confinement ? json_loads(confinement, 0, NULL) : NULL;
	http_reply_json(req, 200, json_pack("{s:s, s:o*}", "session_id", id, "confinement", applied));
	return 0;
}

int session_run_post(struct http_req *req, struct err *err)
{
	const struct execd *execd = http_app(req);
	struct session_run_spec spec = {0};
	json_t *body = http_json(req);
	int64_t timeout = 0;
	struct run *run;
	int r = json_need_obj(body, JSON_REQUIRED, err);
	if (r >= 0)
		r = json_get_str(body, "command", JSON_REQUIRED, &spec.command, err);
	if (r >= 0)
		r = json_get_str(body, "cwd", JSON_OPTIONAL, &spec.cwd, err);
	if (r >= 0)
		r = json_get_int(body, "timeout", JSON_OPTIONAL, 0, TIMEOUT_MAX_MS, &timeout, err);
	if (r >= 0 && !*spec.command)
		r = err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL, "command: must not be empty");
	spec.timeout_ms = (uint64_t)timeout;
	if (r >= 0)
		r = session_run(execd->sessions, http_param(req, "id"), &spec, &run, err);
	if (r < 0)
		return r;
	return stream_told(run, stream_reply(req, run, 0, err));
}

int session_delete_one(struct http_req *req, struct err *err)
{
	const struct execd *execd = http_app(req);
	int r = session_delete(execd->sessions, http_param(req, "id"), err);
	if (r >= 0)
		http_reply_empty(req, 200);
	return r;
}

static void put_session(void *arg, const struct run *run, size_t runs, const char *cwd)
{
	char created[CLOCK_RFC3339_MAX];
	struct jw *w = arg;
	jw_obj_begin(w);
	jw_kstr(w, "session_id", run->id);
	jw_kbool(w, "busy", runs > 0);
	jw_kint(w, "runs", (int64_t)runs);
	jw_kstr(w, "cwd", cwd);
	jw_kraw(w, "confinement", run->confinement);
	jw_kstr(w, "created_at", clock_rfc3339(run->created_ms, created));
	jw_obj_end(w);
}

int sessions_get(struct http_req *req, struct err *err)
{
	const struct execd *execd = http_app(req);
	_cleanup_buf_ struct buf body = BUF_INIT(SESSION_LIST_MAX);
	struct jw w = JW_INIT(&body);
	jw_arr_begin(&w);
	sessions_each(execd->sessions, put_session, &w);
	jw_arr_end(&w);
	if (body.failed)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "list sessions");
	http_reply_buf(req, 200, "application/json", &body);
	return 0;
}
