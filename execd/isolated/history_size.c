/*
 * history_size.c - what the layers take on disk: told, and held against a limit.
 */
#include "execd/isolated/history_priv.h"

#include <inttypes.h>
#include <stdio.h>

#include "execd/isolated/isolated.h"
#include "lib/clock.h"
#include "proto/json.h"

static int usage_of(struct history *h, unsigned first, unsigned last, struct layer_usage *ret)
{
	*ret = (struct layer_usage){0};
	for (size_t i = 0; i < h->overlays_n; i++)
		for (unsigned k = first; k <= MIN(last, h->overlays[i].top); k++) {
			struct layer_usage usage;
			int r = layer_usage(h->overlays[i].stack, k, &h->cancelled, &usage, &h->err);
			if (r < 0)
				return r;
			ret->bytes += usage.bytes;
			ret->entries += usage.entries;
		}
	return 0;
}

/* Worker. */
static void list_point(struct history *h, struct jw *w, size_t i)
{
	const struct point *p = (const struct point *)h->listed_points.data + i;
	const struct known *runs = (const struct known *)h->listed_runs.data;
	size_t points_n = h->listed_points.len / sizeof(*p), runs_n = h->listed_runs.len / sizeof(*runs);
	char time[CLOCK_RFC3339_MAX];
	struct layer_usage usage;
	bool first = true;
	h->result = usage_of(h, p->layer, i + 1 < points_n ? p[1].layer - 1 : UINT32_MAX, &usage);
	jw_obj_begin(w);
	for (size_t k = 0; k < runs_n; k++) {
		if (runs[k].point != i)
			continue;
		if (first) {
			jw_kstr(w, "run_id", runs[k].id);
			jw_key(w, "run_ids");
			jw_arr_begin(w);
		}
		first = false;
		jw_str(w, runs[k].id);
	}
	if (!first)
		jw_arr_end(w);
	jw_kstr(w, "created_at", clock_rfc3339(p->created_ms, time));
	jw_kint(w, "bytes", (int64_t)usage.bytes);
	jw_kint(w, "entries", (int64_t)usage.entries);
	jw_obj_end(w);
}

static void list_run(struct pool_job *job)
{
	struct history *h = container_of(job, struct history, job);
	struct jw w = JW_INIT(&h->answer);
	struct layer_usage all;
	h->result = usage_of(h, 0, UINT32_MAX, &all);
	jw_obj_begin(&w);
	jw_kbool(&w, "undoable", h->points_max > 0);
	jw_kint(&w, "points_max", h->points_max);
	jw_kint(&w, "bytes", (int64_t)all.bytes);
	jw_kint(&w, "entries", (int64_t)all.entries);
	jw_key(&w, "points");
	jw_arr_begin(&w);
	for (size_t i = 0; i < h->listed_points.len / sizeof(struct point) && h->result >= 0; i++)
		list_point(h, &w, i);
	jw_arr_end(&w);
	jw_obj_end(&w);
	if (h->result >= 0 && h->answer.failed)
		h->result = err_set(&h->err, ERR_TOO_LARGE, "RUNTIME_ERROR", ENOBUFS,
				    "the answer is over %u bytes", HISTORY_REPLY_MAX);
}

int history_list(struct history *h, history_done_fn *done, void *arg, struct err *err)
{
	int r = history_busy(h, err);
	if (r < 0)
		return r;
	buf_clear(&h->listed_points);
	buf_clear(&h->listed_runs);
	if (buf_append(&h->listed_points, h->points.data, h->points.len) < 0 ||
	    buf_append(&h->listed_runs, h->runs.data, h->runs.len) < 0)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "list the points");
	r = history_work_start(h, LIST, list_run, err);
	if (r < 0)
		return r;
	h->done = done;
	h->done_arg = arg;
	return 0;
}

static void measure_run(struct pool_job *job)
{
	struct history *h = container_of(job, struct history, job);
	h->result = 0;
	h->full[0] = '\0';
	for (size_t i = 0; i < h->overlays_n && h->result >= 0; i++) {
		const struct overlay *o = &h->overlays[i];
		uint64_t bytes = 0;
		for (unsigned k = 0; o->size_max && k <= o->top && h->result >= 0; k++) {
			struct layer_usage usage = {0};
			h->result = layer_usage(o->stack, k, &h->cancelled, &usage, &h->err);
			bytes += usage.bytes;
		}
		if (o->size_max && bytes > o->size_max)
			(void)snprintf(h->full, sizeof(h->full),
				       "the changes in workspace %zu are %" PRIu64
				       " bytes, over its size_bytes of %" PRIu64,
				       o->index, bytes, o->size_max);
	}
}

void history_run_ended(struct history *h)
{
	bool limited = false;
	for (size_t i = 0; i < h->overlays_n; i++)
		limited |= h->overlays[i].size_max > 0;
	if (!limited || h->doing != IDLE || !h->session)
		return;
	if (history_work_start(h, MEASURE, measure_run, NULL) >= 0)
		isolated_hold(h->session);
}

int history_check_run(const struct history *h, struct err *err)
{
	if (h->doing == UNDO || h->doing == COMMIT)
		return err_set(err, ERR_CONFLICT, "RUNTIME_ERROR", EBUSY,
			       "the session's files are being worked on; try again");
	if (h->doing == MEASURE || !h->full[0])
		return 0;
	return err_set(err, ERR_TOO_LARGE, "SIZE_LIMIT", EFBIG,
		       "%s: undo the last run, or delete the session", h->full);
}
