/*
 * isolated_run.c - runs in isolated sessions: live events, or a background run that is asked after.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "execd/api/api.h"
#include "execd/isolated/isolated.h"
#include "execd/run.h"
#include "lib/clock.h"
#include "proto/json.h"

#define TIMEOUT_MAX_S ((int64_t)1 << 43)
#define CURSOR_HEADER "EXECD-ISOLATED-TAIL-CURSOR"
#define UUID_MAX      37
#define STATUS_MAX    65536

/* 32 hex digits as clients like to read them. */
static const char *dashed(const char *key, char out[UUID_MAX])
{
	(void)snprintf(out, UUID_MAX, "%.8s-%.4s-%.4s-%.4s-%.12s", key, key + 8, key + 12, key + 16,
		       key + 20);
	return out;
}

static int reply_background(struct http_req *req, const struct isolated *s, const struct run *run)
{
	char id[UUID_MAX], started[CLOCK_RFC3339_MAX];
	http_reply_json(req, 202,
			json_pack("{s:s, s:s, s:s}", "session_id", isolated_id(s), "run_id",
				  dashed(run->id, id), "started_at",
				  clock_rfc3339(run->created_ms, started)));
	return 0;
}

static int parse_run(json_t *body, struct isolated_run_spec *spec, struct err *err)
{
	int64_t timeout = 0;
	int r = json_need_obj(body, JSON_REQUIRED, err);
	if (r >= 0)
		r = json_get_str(body, "code", JSON_REQUIRED, &spec->code, err);
	if (r >= 0)
		r = json_get_str(body, "cwd", JSON_OPTIONAL, &spec->cwd, err);
	if (r >= 0)
		r = json_get_str_map(body, "envs", JSON_OPTIONAL, &spec->envs, err);
	if (r >= 0)
		r = json_get_bool(body, "background", JSON_OPTIONAL, &spec->background, err);
	if (r >= 0)
		r = json_get_int(body, "timeout_seconds", JSON_OPTIONAL, 0, TIMEOUT_MAX_S, &timeout, err);
	if (r >= 0 && !*spec->code)
		r = err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL, "code: must not be empty");
	/* As the clients' documents have it: a background run is not bounded in time. */
	spec->timeout_ms = spec->background ? 0 : (uint64_t)timeout * 1000;
	return r;
}

int isolated_run_post(struct http_req *req, struct err *err)
{
	const struct execd *execd = http_app(req);
	struct isolated_run_spec spec = {0};
	struct isolated *s;
	struct run *run;
	int r = isolated_get(execd->isolateds, http_param(req, "id"), &s, err);
	if (r >= 0)
		r = parse_run(http_json(req), &spec, err);
	if (r >= 0)
		r = isolated_run(s, &spec, &run, err);
	if (r < 0)
		return r;
	r = spec.background ? reply_background(req, s, run) : stream_reply(req, run, 0, err);
	return stream_told(run, r);
}

static int find_run(struct http_req *req, struct isolated **ret, struct run **ret_run, struct err *err)
{
	const struct execd *execd = http_app(req);
	int r = isolated_get(execd->isolateds, http_param(req, "id"), ret, err);
	return r < 0 ? r : isolated_find_run(*ret, http_param(req, "run"), ret_run, err);
}

int isolated_run_status_get(struct http_req *req, struct err *err)
{
	struct isolated *s;
	struct run *run;
	char id[UUID_MAX], message[256], time[CLOCK_RFC3339_MAX];
	_cleanup_buf_ struct buf body = BUF_INIT(STATUS_MAX);
	struct jw w = JW_INIT(&body);
	int r = find_run(req, &s, &run, err);
	if (r < 0)
		return r;
	bool over = run->state == RUN_ENDED;
	jw_obj_begin(&w);
	jw_kstr(&w, "session_id", isolated_id(s));
	jw_kstr(&w, "run_id", dashed(run->id, id));
	jw_kbool(&w, "running", !over);
	jw_kstr(&w, "started_at", clock_rfc3339(run->started_ms ? run->started_ms : run->created_ms, time));
	if (over) {
		run_end_message(&run->end, message, sizeof(message));
		jw_kint(&w, "exit_code", run->end.exit_code);
		if (message[0])
			jw_kstr(&w, "error", message);
		jw_kstr(&w, "finished_at", clock_rfc3339(run->ended_ms, time));
		jw_key(&w, "end");
		run_end_json(run, &w);
	}
	jw_obj_end(&w);
	http_reply_buf(req, 200, "application/json", &body);
	return 0;
}

int isolated_run_logs_get(struct http_req *req, struct err *err)
{
	struct isolated *s;
	struct run *run;
	int r = find_run(req, &s, &run, err);
	return r < 0 ? r : logs_reply(req, run, CURSOR_HEADER, err);
}
