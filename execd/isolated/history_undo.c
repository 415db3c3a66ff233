/*
 * history_undo.c - back to before a point: its layers are put aside, one is
 * added and mounted; then they are removed, or put back when that failed.
 */
#include "execd/isolated/history_priv.h"

#include <stdio.h>

#include "execd/isolated/isolated.h"
#include "lib/fs.h"
#include "proto/json.h"

static const char *aside(unsigned layer, char out[24])
{
	(void)snprintf(out, 24, "aside.%u", layer);
	return out;
}

static int put_aside(const struct overlay *o, unsigned first, bool back)
{
	char name[24], kept[24];
	for (unsigned i = first; i <= o->top; i++) {
		(void)snprintf(name, sizeof(name), "%u", i);
		(void)aside(i, kept);
		if (!back)
			(void)fs_remove_tree(o->stack, kept);
		if (renameat(o->stack, back ? kept : name, o->stack, back ? name : kept) < 0)
			return -errno;
	}
	return 0;
}

static void undo_run(struct pool_job *job)
{
	struct history *h = container_of(job, struct history, job);
	h->result = 0;
	for (size_t i = 0; i < h->overlays_n && h->result >= 0; i++) {
		const struct overlay *o = &h->overlays[i];
		int r = put_aside(o, h->layer, false);
		h->result = r < 0 ? err_sys(&h->err, "RUNTIME_ERROR", -r, "put layers aside")
				  : layer_push(o->stack, h->layer, o->lower, &h->err);
	}
}

void history_undo_finish(struct pool_job *job)
{
	struct history *h = container_of(job, struct history, job);
	for (size_t i = 0; i < h->overlays_n; i++) {
		const struct overlay *o = &h->overlays[i];
		char name[24];
		if (h->result < 0) {
			(void)layer_cut(o->stack, h->layer, h->layer, NULL);
			(void)put_aside(o, h->layer, true);
		}
		for (unsigned k = h->layer; h->result >= 0 && k <= o->top; k++)
			(void)fs_remove_tree(o->stack, aside(k, name));
	}
}

static void undo_quiet(void *arg)
{
	struct history *h = arg;
	h->remounted = 0;
	h->finishing = false;
	int r = h->session && room_is_ready(h->room) ? history_work_start(h, UNDO, undo_run, &h->err)
						     : err_set(&h->err, ERR_GONE, "RUNTIME_ERROR", ESRCH,
							       "the session has ended meanwhile");
	if (r < 0) {
		h->result = r;
		h->doing = IDLE;
		if (h->session)
			isolated_resume(h->session);
		h->done(h->done_arg, r, &h->err, NULL);
	}
	history_unref(h);
}

int history_undo(struct history *h, const char *run, history_done_fn *done, void *arg, struct err *err)
{
	size_t point;
	int r = history_busy(h, err);
	if (r >= 0)
		r = history_find_point(h, run, &point, err);
	if (r >= 0)
		r = history_check_first(h, run, point, err);
	if (r >= 0 && h->readers > 0)
		r = err_set(err, ERR_CONFLICT, "RUNTIME_ERROR", EBUSY,
			    "the session's changes are being read; try again");
	if (r >= 0)
		r = isolated_quiesce(h->session, undo_quiet, h, err);
	if (r < 0)
		return r;
	h->done = done;
	h->done_arg = arg;
	h->back_to = point;
	h->layer = history_point_at(h, point)->layer;
	h->doing = UNDO;
	h->refs++;
	return 0;
}

void history_undo_over(struct history *h)
{
	size_t undone = 0;
	struct jw w = JW_INIT(&h->answer);
	if (h->result >= 0) {
		while (history_known_n(h) > 0 &&
		       history_known_at(h, history_known_n(h) - 1)->point >= h->back_to) {
			h->runs.len -= sizeof(struct known);
			undone++;
		}
		h->points.len = h->back_to * sizeof(struct point);
		h->fresh = true;
		h->full[0] = '\0';
		jw_obj_begin(&w);
		jw_kint(&w, "runs_undone", (int64_t)undone);
		jw_kint(&w, "points", (int64_t)history_points_n(h));
		jw_obj_end(&w);
	}
}
