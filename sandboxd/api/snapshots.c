/*
 * snapshots.c - /snapshots, and /sandboxes/{id}/snapshots: create, list, get, delete.
 */
#include <stdio.h>
#include <string.h>

#include "sandboxd/api/answer.h"
#include "sandboxd/api/rows.h"
#include "sandboxd/api/wait.h"

#define INVALID	       "SANDBOX::INVALID_PARAMETER"
#define NAME_MAX_BYTES 1024

static int render(const struct snapshot_record *row, void *arg)
{
	struct jw *w = arg;

	jw_obj_begin(w);
	jw_kstr(w, "id", row->id);
	jw_kstr(w, "sandboxId", row->sandbox);
	if (row->name)
		jw_kstr(w, "name", row->name);
	write_status(w, snapshot_state_name(row->state), row->reason, row->message, row->transition_ms);
	write_time(w, "createdAt", row->created_ms);
	jw_obj_end(w);
	return 0;
}

static int create_answer(struct http_req *req, struct answer *a, struct err *err)
{
	const struct lifecycle *l = http_app(req);
	json_t *body = http_json(req), *value;
	const char *name = NULL, *key = NULL;
	char id[RANDOM_UUID_MAX];
	struct jw w = JW_INIT(&a->body);

	int r = json_need_obj(body, JSON_OPTIONAL, err);
	if (r >= 0)
		r = json_get_str(body, "name", JSON_OPTIONAL, &name, err);
	if (r < 0)
		return r;
	json_object_foreach(body, key, value) if (strcmp(key, "name") != 0) return err_set(
		err, ERR_INVALID, INVALID, EINVAL, "field '%.64s' is not known", key);
	if (name && (!*name || strlen(name) > NAME_MAX_BYTES))
		return err_set(err, ERR_INVALID, INVALID, EINVAL, "name: must have 1 to %d bytes",
			       NAME_MAX_BYTES);
	r = sandboxes_snapshot(l->sandboxes, http_param(req, "id"), name, id, err);
	if (r < 0)
		return r;
	a->status = 202;
	(void)snprintf(a->location, sizeof(a->location), "/v1/snapshots/%s", id);
	return store_snapshot_get(sandboxes_store(l->sandboxes), id, render, &w, err);
}

int snapshot_post(struct http_req *req, struct err *err)
{
	return answer_once(req, create_answer, err);
}

static int reply_one(struct http_req *req, const char *id, struct err *err)
{
	const struct lifecycle *l = http_app(req);
	_cleanup_buf_ struct buf b = BUF_INIT(ROWS_MAX);
	struct jw w = JW_INIT(&b);

	int r = store_snapshot_get(sandboxes_store(l->sandboxes), id, render, &w, err);
	return r < 0 ? r : reply_rows(req, &b, err);
}

static int see_state(const struct snapshot_record *row, void *arg)
{
	*(enum snapshot_state *)arg = row->state;
	return 0;
}

static int look(struct http_req *req, struct err *err)
{
	const struct lifecycle *l = http_app(req);
	const char *id = http_param(req, "id");
	enum snapshot_state state = SNAPSHOT_READY;

	int r = store_snapshot_get(sandboxes_store(l->sandboxes), id, see_state, &state, err);
	if (r < 0 || (state != SNAPSHOT_READY && state != SNAPSHOT_FAILED))
		return r;
	r = reply_one(req, id, err);
	return r < 0 ? r : 1;
}

/* With ?wait the answer comes when it is Ready, Failed, or gone (404). */
int snapshot_get(struct http_req *req, struct err *err)
{
	const char *id = http_param(req, "id");

	return http_query(req, "wait") ? wait_for(req, id, look, err) : reply_one(req, id, err);
}

int snapshot_delete(struct http_req *req, struct err *err)
{
	const struct lifecycle *l = http_app(req);

	int r = sandboxes_snapshot_delete(l->sandboxes, http_param(req, "id"), err);
	if (r == 0)
		http_reply_empty(req, 204);
	return r;
}

static int parse_state(const char *word, unsigned *ret)
{
	enum snapshot_state state;
	int r = snapshot_state_parse(word, &state);
	if (r == 0)
		*ret = state;
	return r;
}

int snapshots_get(struct http_req *req, struct err *err)
{
	const struct lifecycle *l = http_app(req);
	_cleanup_buf_ struct buf b = BUF_INIT(ROWS_MAX);
	struct jw w = JW_INIT(&b);
	struct page page;
	uint64_t total = 0;
	unsigned states = 0;

	int r = page_query(req, &page, err);
	if (r == 0)
		r = query_states(req, "state", parse_state, &states, err);
	if (r < 0)
		return r;
	page_begin(&w);
	r = store_snapshot_list(
		sandboxes_store(l->sandboxes), states ? states : STATE_BIT(SNAPSHOT_STATES) - 1,
		http_query(req, "sandboxId"), page_offset(&page), page.size, render, &w, &total, err);
	return r < 0 ? r : page_reply(req, &w, &b, &page, total, err);
}
