/*
 * confinement.c - what confines, and what a recorded command needs.
 */
#include "execd/confinement.h"

#include <string.h>

#include "execd/api/api.h"
#include "execd/run.h"

int confinement_get_all(struct http_req *req, struct err *err)
{
	const struct execd *execd = http_app(req);
	json_t *all = confinement_describe(execd->confinement);
	if (!all)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "list profiles");
	http_reply_json(req, 200, all);
	return 0;
}

int command_profile_get(struct http_req *req, struct err *err)
{
	const struct execd *execd = http_app(req);
	const char *id = http_param(req, "id");
	const struct run *run = runs_get(execd->runs, id);
	_cleanup_buf_ struct buf body = BUF_INIT(1 << 20);
	if (!run)
		return err_set(err, ERR_NOT_FOUND, "COMMAND_NOT_FOUND", ENOENT, "there is no command '%s'",
			       id);
	if (run->state != RUN_ENDED)
		return err_set(err, ERR_CONFLICT, "RUNTIME_ERROR", EBUSY,
			       "command '%s' is still being recorded: its profile is there when it has ended",
			       id);
	if (!run->profile)
		return err_set(err, ERR_CONFLICT, "NOT_RECORDED", ENODATA,
			       "command '%s' was not recorded (\"confinement\": {\"record\": true})", id);
	if (buf_puts(&body, run->profile) < 0)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "profile of '%s'", id);
	http_reply_buf(req, 200, "application/json", &body);
	return 0;
}
