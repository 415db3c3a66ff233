/*
 * undo.c - GET /undo, GET /command/{id}/changes, POST /command/{id}/undo: single commands taken back.
 */
#include "execd/api/api.h"
#include "execd/isolated/undoable.h"
#include "proto/json.h"

static int find(struct http_req *req, struct undoable **ret, struct err *err)
{
	const struct execd *execd = http_app(req);
	return undoable_get(execd->undoables, http_param(req, "id"), ret, err);
}

static void list_one(void *arg, const struct undoable *u)
{
	undoable_json(u, false, arg);
}

int undo_list_get(struct http_req *req, struct err *err)
{
	const struct execd *execd = http_app(req);
	_cleanup_buf_ struct buf body = BUF_INIT(UNDOABLE_REPLY_MAX);
	struct jw w = JW_INIT(&body);
	(void)err;
	jw_obj_begin(&w);
	jw_key(&w, "commands");
	jw_arr_begin(&w);
	undoables_each(execd->undoables, list_one, &w);
	jw_arr_end(&w);
	jw_obj_end(&w);
	http_reply_buf(req, 200, "application/json", &body);
	return 0;
}

int command_changes_get(struct http_req *req, struct err *err)
{
	_cleanup_buf_ struct buf body = BUF_INIT(2 * UNDOABLE_REPLY_MAX);
	struct jw w = JW_INIT(&body);
	struct undoable *u;
	int r = find(req, &u, err);
	if (r < 0)
		return r;
	undoable_json(u, true, &w);
	http_reply_buf(req, 200, "application/json", &body);
	return 0;
}

struct asking {
	struct http_req *req; /* NULL: the client has gone */
};

static void asking_gone(struct http_req *req)
{
	((struct asking *)http_data(req))->req = NULL;
}

static void undone(void *arg, int r, const struct err *err)
{
	struct asking *a = arg;
	if (a->req && r < 0)
		http_reply_err(a->req, err);
	else if (a->req)
		http_reply_empty(a->req, 200);
	free(a);
}

int command_undo_post(struct http_req *req, struct err *err)
{
	json_t *body = http_json(req);
	struct undoable *u;
	bool force = false;
	int r = find(req, &u, err);
	if (r >= 0)
		r = json_need_obj(body, JSON_OPTIONAL, err);
	if (r >= 0)
		r = json_get_bool(body, "force", JSON_OPTIONAL, &force, err);
	if (r < 0)
		return r;
	struct asking *a = calloc(1, sizeof(*a));
	if (!a)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "undo");
	a->req = req;
	r = undoable_undo(u, force, undone, a, err);
	if (r < 0) {
		free(a);
		return r;
	}
	http_set_data(req, a);
	http_on_gone(req, asking_gone);
	return 0;
}
