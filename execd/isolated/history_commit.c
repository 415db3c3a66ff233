/*
 * history_commit.c - the session's changes into its workspace.
 */
#include "execd/isolated/history_priv.h"

#include "execd/isolated/isolated.h"
#include "proto/json.h"

static int commit_view(struct history *h, struct layer_view *view, struct layer_commit_result *result,
		       struct buf *conflicts)
{
	_cleanup_free_ const char **paths = calloc(json_array_size(h->paths) + 1, sizeof(*paths));
	struct layer_commit_options options = {.inverse_fd = -EBADF};
	json_t *item;
	size_t i;
	if (!paths)
		return err_sys(&h->err, "RUNTIME_ERROR", ENOMEM, "commit");
	json_array_foreach(h->paths, i, item) paths[i] = json_string_value(item);
	options.paths = paths;
	options.paths_n = json_array_size(h->paths);
	if (!h->force)
		options.since = h->target->since;
	view->cancel = &h->cancelled;
	return layer_commit(view, &options, result, conflicts, &h->err);
}

static void commit_run(struct pool_job *job)
{
	struct history *h = container_of(job, struct history, job);
	const struct overlay *o = h->target;
	struct layer_commit_result result = {0};
	struct layer_view view;
	struct jw w = JW_INIT(&h->answer);
	h->result = layer_view_open(&view, o->stack, o->lower, o->top, 0, o->userxattr, &h->err);
	if (h->result >= 0)
		h->result = commit_view(h, &view, &result, NULL);
	layer_view_close(&view);
	if (h->result < 0)
		return;
	jw_obj_begin(&w);
	jw_kint(&w, "added", (int64_t)result.added);
	jw_kint(&w, "modified", (int64_t)result.modified);
	jw_kint(&w, "deleted", (int64_t)result.deleted);
	jw_kint(&w, "directories", (int64_t)result.directories);
	jw_kint(&w, "unchanged", (int64_t)result.same);
	jw_kint(&w, "skipped", (int64_t)result.skipped);
	jw_kint(&w, "bytes", (int64_t)result.bytes);
	jw_obj_end(&w);
}

int history_commit(struct history *h, const char *workspace, json_t *paths, bool force, history_done_fn *done,
		   void *arg, struct err *err)
{
	const struct overlay *o;
	int r = history_busy(h, err);
	if (r >= 0)
		r = history_find_overlay(h, workspace, &o, err);
	if (r >= 0 && isolated_runs(h->session) > 0)
		r = err_set(err, ERR_CONFLICT, "RUNTIME_ERROR", EBUSY,
			    "runs are on in the session; wait for their end, or interrupt them");
	if (r < 0)
		return r;
	json_decref(h->paths);
	h->paths = json_incref(paths);
	h->target = o;
	h->force = force;
	r = history_work_start(h, COMMIT, commit_run, err);
	if (r < 0)
		return r;
	h->done = done;
	h->done_arg = arg;
	isolated_hold(h->session);
	return 0;
}

void history_commit_over(struct history *h)
{
	struct overlay *o = &h->overlays[h->target - h->overlays];
	if (h->result >= 0) {
		/* What is in the workspace is no longer the session's to take back. */
		buf_clear(&h->points);
		buf_clear(&h->runs);
		h->fresh = false;
		(void)layer_now(o->stack, &o->since);
	}
}
