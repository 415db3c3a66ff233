/*
 * history.c - points, the way back and the way into the workspace.
 *
 *   IDLE -> POINT  (join the oldest, add a layer) -> remount -> IDLE
 *        -> UNDO   (put layers aside, add one) -> remount -> (remove, or put back) -> IDLE
 *        -> COMMIT -> IDLE
 *        -> LIST, MEASURE -> IDLE
 *
 * Owns a reference to the room as long as it lives: the layers outlive the
 * processes. A piece of work holds the history; whoever asked for it may have gone.
 */
#include "execd/isolated/history_priv.h"

#include <string.h>

#include "execd/execd.h"
#include "execd/isolated/isolated.h"
#include "execd/isolated/staging.h"
#include "lib/clock.h"

/* ---- life ------------------------------------------------------------------ */

int history_new(struct execd *execd, struct isolated *s, unsigned points_max, struct history **ret)
{
	struct history *h = calloc(1, sizeof(*h));
	if (!h)
		return -ENOMEM;
	h->refs = 1;
	h->execd = execd;
	h->session = s;
	h->room = room_ref(isolated_room(s));
	h->points_max = points_max;
	h->points = BUF_INIT((HISTORY_POINTS_MAX + 1) * sizeof(struct point));
	h->runs = BUF_INIT((HISTORY_RUNS_MAX + 1) * sizeof(struct known));
	h->answer = BUF_INIT(HISTORY_REPLY_MAX);
	h->listed_points = BUF_INIT(h->points.max);
	h->listed_runs = BUF_INIT(h->runs.max);
	*ret = h;
	return 0;
}

void history_unref(struct history *h)
{
	if (--h->refs > 0)
		return;
	json_decref(h->paths);
	buf_done(&h->points);
	buf_done(&h->runs);
	buf_done(&h->answer);
	buf_done(&h->listed_points);
	buf_done(&h->listed_runs);
	room_unref(h->room);
	free(h);
}

void history_drop(struct history *h)
{
	if (!h)
		return;
	h->session = NULL;
	atomic_store(&h->cancelled, true);
	history_unref(h);
}

struct room_mount *history_mount_of(const struct history *h, const struct overlay *o)
{
	size_t n;
	return &room_mounts(h->room, &n)[o->index];
}

void history_ready(struct history *h)
{
	size_t n;
	struct room_mount *mounts = room_mounts(h->room, &n);
	for (size_t i = 0; i < n; i++) {
		const struct room_mount *m = &mounts[i];
		if (m->mode != ROOM_OVERLAY)
			continue;
		struct overlay *o = &h->overlays[h->overlays_n++];
		*o = (struct overlay){.index = i,
				      .stack = m->stack_fd,
				      .lower = m->lower_fd,
				      .userxattr = m->userxattr,
				      .size_max = m->persist ? m->size_max : 0};
		if (layer_now(o->stack, &o->since) < 0)
			o->since = (struct timespec){.tv_sec = (time_t)(clock_real_ms() / 1000)};
		staging_sweep_later(h->execd->pool, o->lower);
	}
	h->fresh = true;
}

/* ---- work -------------------------------------------------------------------- */

static void work_done(struct pool_job *job);
static void work_over(struct history *h);

int history_busy(const struct history *h, struct err *err)
{
	if (h->doing == IDLE)
		return 0;
	return err_set(err, ERR_CONFLICT, "RUNTIME_ERROR", EBUSY,
		       "the session's files are being worked on already; try again");
}

/* The tops as they are now, for the worker. */
static void take_tops(struct history *h)
{
	for (size_t i = 0; i < h->overlays_n; i++)
		h->overlays[i].top = history_mount_of(h, &h->overlays[i])->top;
}

int history_work_start(struct history *h, enum doing doing, void (*run)(struct pool_job *job),
		       struct err *err)
{
	take_tops(h);
	h->job = (struct pool_job){.run = run, .done = work_done};
	h->result = -ECANCELED;
	h->err = (struct err){
		.kind = ERR_UNAVAILABLE, .code = "RUNTIME_ERROR", .message = "the agent is stopping"};
	buf_clear(&h->answer);
	int r = pool_submit(h->execd->pool, &h->job);
	if (r < 0)
		return err_sys(err, "RUNTIME_ERROR", -r, "too many file operations wait already");
	h->doing = doing;
	h->refs++;
	return 0;
}

/* ---- remounting --------------------------------------------------------------------- */

static void remount_next(struct history *h);

static void remounted(void *arg, int r, const struct err *err)
{
	struct history *h = arg;
	if (r < 0) {
		h->result = r;
		h->err = *err;
		/* Half of the overlays in one time and half in another, or other layers than are mounted: no
		 * state to go on from. */
		if (h->remounted > 0 || (h->doing == POINT && h->join))
			room_kill(h->room);
		work_over(h);
		return;
	}
	h->remounted++;
	remount_next(h);
}

static void remount_next(struct history *h)
{
	if (h->remounted == h->overlays_n) {
		work_over(h);
		return;
	}
	struct err err = {0};
	int r = room_remount(h->room, h->overlays[h->remounted].index, h->layer, h->doing == POINT, remounted,
			     h, &err);
	if (r < 0)
		remounted(h, r, &err);
}

/* ---- reading ------------------------------------------------------------------------------ */

int history_find_overlay(const struct history *h, const char *workspace, const struct overlay **ret,
			 struct err *err)
{
	if (!room_is_ready(h->room) && h->overlays_n == 0)
		return err_set(err, ERR_CONFLICT, "RUNTIME_ERROR", EAGAIN, "the session is not ready yet");
	for (size_t i = 0; i < h->overlays_n; i++) {
		if (!workspace || !workspace[0] ||
		    strcmp(history_mount_of(h, &h->overlays[i])->path, workspace) == 0) {
			*ret = &h->overlays[i];
			return 0;
		}
	}
	if (workspace && workspace[0])
		return err_set(err, ERR_NOT_FOUND, "INVALID_REQUEST_BODY", ENOENT,
			       "'%.200s' is no overlay of this session", workspace);
	return err_set(err, ERR_CONFLICT, "NOT_AN_OVERLAY", EINVAL,
		       "the session has no overlay: its changes are in the workspace itself");
}

int history_read(struct history *h, const char *workspace, const char *run, struct layer_view *ret,
		 struct err *err)
{
	const struct overlay *o;
	unsigned first = 0, top;
	size_t point;
	int r = history_busy(h, err);
	if (r >= 0)
		r = history_find_overlay(h, workspace, &o, err);
	if (r >= 0 && run && run[0])
		r = history_find_point(h, run, &point, err);
	if (r < 0)
		return r;
	top = history_mount_of(h, o)->top;
	if (run && run[0]) {
		first = history_point_at(h, point)->layer;
		if (point + 1 < history_points_n(h))
			top = history_point_at(h, point + 1)->layer - 1;
	}
	r = layer_view_open(ret, o->stack, o->lower, top, first, o->userxattr, err);
	if (r < 0) {
		layer_view_close(ret);
		return r;
	}
	h->readers++;
	h->refs++;
	return 0;
}

void history_read_end(struct history *h, struct layer_view *view)
{
	layer_view_close(view);
	h->readers--;
	history_unref(h);
}

/* ---- the end of work ------------------------------------------------------------------------------- */

static void work_over(struct history *h)
{
	enum doing doing = h->doing;
	history_done_fn *done = h->done;
	if (doing == UNDO && !h->finishing) {
		h->finishing = true;
		h->job = (struct pool_job){.run = history_undo_finish, .done = work_done};
		if (pool_submit(h->execd->pool, &h->job) >= 0)
			return;
	}
	h->doing = IDLE;
	h->done = NULL;
	if (doing == POINT)
		history_point_over(h);
	else if (doing == UNDO)
		history_undo_over(h);
	else if (doing == COMMIT)
		history_commit_over(h);
	if (done)
		done(h->done_arg, h->result, &h->err, &h->answer);
	/* A run has come meanwhile that waits for its point; what has been told is overwritten by that. */
	if (h->want_point && h->session)
		history_point_begin(h);
	else if (doing != LIST && h->session)
		isolated_resume(h->session);
	history_unref(h);
}

static void work_done(struct pool_job *job)
{
	struct history *h = container_of(job, struct history, job);
	bool remount = (h->doing == POINT || (h->doing == UNDO && !h->finishing)) && h->result >= 0;
	if (remount)
		remount_next(h);
	else
		work_over(h);
}
