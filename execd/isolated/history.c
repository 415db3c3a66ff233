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
#include "execd/isolated/history.h"

#include <ctype.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "execd/execd.h"
#include "execd/isolated/isolated.h"
#include "execd/isolated/layer_stack.h"
#include "execd/run.h"
#include "lib/clock.h"
#include "lib/fs.h"
#include "lib/log.h"
#include "proto/json.h"

#define RUN_ID_MAX 37

enum doing { IDLE, POINT, UNDO, COMMIT, LIST, MEASURE };

struct point {
	unsigned layer; /* its first */
	uint64_t created_ms;
};

/* A run, and where it belongs. */
struct known {
	char id[RUN_ID_MAX];
	size_t point;
};

/* What a worker needs of one overlay. */
struct overlay {
	size_t index; /* of the room's mounts */
	int stack, lower;
	bool userxattr;
	unsigned top;
	uint64_t size_max;
	struct timespec since; /* of the workspace, what is later is somebody else's */
};

struct history {
	unsigned refs;
	struct execd *execd;
	struct isolated *session; /* NULL: gone */
	struct room *room;
	unsigned points_max;
	struct buf points, runs; /* struct point, struct known */
	bool fresh;		 /* nothing has been written to the top layer since it was made */
	unsigned readers;
	char full[256]; /* which limit is passed; "": none */
	struct overlay overlays[ROOM_MOUNTS_MAX];
	size_t overlays_n;

	enum doing doing;
	struct pool_job job;
	atomic_bool cancelled;
	int result;
	struct err err;
	struct buf answer;
	history_done_fn *done;
	void *done_arg;
	/* POINT, UNDO: */
	size_t back_to; /* the point */
	unsigned layer; /* the one that is added */
	unsigned set_aside_top;
	bool want_point; /* once the work at hand is done */
	bool join, finishing;
	size_t remounted;
	/* COMMIT: */
	const struct overlay *target;
	json_t *paths;
	bool force;
};

static struct point *point_at(const struct history *h, size_t i)
{
	return (struct point *)h->points.data + i;
}

static size_t points_n(const struct history *h)
{
	return h->points.len / sizeof(struct point);
}

static struct known *known_at(const struct history *h, size_t i)
{
	return (struct known *)h->runs.data + i;
}

static size_t known_n(const struct history *h)
{
	return h->runs.len / sizeof(struct known);
}

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
	*ret = h;
	return 0;
}

static void history_unref(struct history *h)
{
	if (--h->refs > 0)
		return;
	json_decref(h->paths);
	buf_done(&h->points);
	buf_done(&h->runs);
	buf_done(&h->answer);
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

static struct room_mount *mount_of(const struct history *h, const struct overlay *o)
{
	size_t n;
	return &room_mounts(h->room, &n)[o->index];
}

/* The time of the file system the layers are on, as it is now. */
static int fs_now(int stack, struct timespec *ret)
{
	struct stat st;
	(void)unlinkat(stack, "mark", AT_REMOVEDIR);
	if (mkdirat(stack, "mark", 0700) < 0 || fstatat(stack, "mark", &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	(void)unlinkat(stack, "mark", AT_REMOVEDIR);
	*ret = st.st_ctim;
	return 0;
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
		if (fs_now(o->stack, &o->since) < 0)
			o->since = (struct timespec){.tv_sec = (time_t)(clock_real_ms() / 1000)};
	}
	h->fresh = true;
}

/* ---- work -------------------------------------------------------------------- */

static void work_done(struct pool_job *job);
static void work_over(struct history *h);

static int busy(const struct history *h, struct err *err)
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
		h->overlays[i].top = mount_of(h, &h->overlays[i])->top;
}

static int work_start(struct history *h, enum doing doing, void (*run)(struct pool_job *job), struct err *err)
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
	int r = room_remount(h->room, h->overlays[h->remounted].index, h->layer, remounted, h, &err);
	if (r < 0)
		remounted(h, r, &err);
}

/* ---- points ---------------------------------------------------------------------------- */

/* Nothing is in the room but its init and perhaps the shell, which has no children. */
static bool is_alone(const struct history *h)
{
	char path[64], text[64];
	pid_t pid = room_pid(h->room);
	for (unsigned depth = 0; depth < 2 && pid > 0; depth++) {
		(void)snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)pid, (int)pid);
		_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
		ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
		char *end;
		if (n < 0)
			return false;
		text[n] = '\0';
		pid = (pid_t)strtol(text, &end, 10);
		/* Each number is followed by a space. */
		if (depth == 0 && pid > 0 && strtol(end, NULL, 10) > 0)
			return false;
	}
	return pid == 0;
}

static void point_run(struct pool_job *job)
{
	struct history *h = container_of(job, struct history, job);
	h->result = 0;
	for (size_t i = 0; i < h->overlays_n && h->result >= 0; i++) {
		const struct overlay *o = &h->overlays[i];
		if (h->join)
			h->result = layer_squash(o->stack, 1, o->userxattr, &h->err);
		if (h->result >= 0)
			h->result = layer_push(o->stack, h->layer, o->lower, &h->err);
	}
}

/* The point at i is no more: its runs belong to the one before it, or, when it was the first, can no longer
 * be undone. */
static void drop_point(struct history *h, size_t i)
{
	size_t kept = 0;
	for (size_t k = 0; k < known_n(h); k++) {
		struct known run = *known_at(h, k);
		if (run.point == 0 && i == 0)
			continue;
		run.point -= run.point >= i && run.point > 0;
		*known_at(h, kept++) = run;
	}
	h->runs.len = kept * sizeof(struct known);
	memmove(point_at(h, i), point_at(h, i + 1), (points_n(h) - i - 1) * sizeof(struct point));
	h->points.len -= sizeof(struct point);
}

static void add_point(struct history *h, unsigned layer, bool joined)
{
	struct point p = {.layer = layer, .created_ms = clock_real_ms()};
	/* The lowest two layers have become one. */
	for (size_t i = joined ? points_n(h) : 0; i-- > 0;) {
		if (point_at(h, i)->layer == 1)
			drop_point(h, i);
		else if (point_at(h, i)->layer > 1)
			point_at(h, i)->layer--;
	}
	(void)buf_append(&h->points, &p, sizeof(p));
}

static void point_over(struct history *h);

static void point_begin(struct history *h)
{
	unsigned top = mount_of(h, &h->overlays[0])->top;
	struct err err = {0};
	h->want_point = false;
	h->join = top + 1 >= h->points_max;
	h->layer = h->join ? top : top + 1;
	h->remounted = 0;
	int r = h->join && h->readers > 0
			? err_set(&err, ERR_CONFLICT, "RUNTIME_ERROR", EBUSY, "its changes are being read")
			: work_start(h, POINT, point_run, &err);
	if (r < 0) {
		h->result = r;
		h->err = err;
		point_over(h);
	}
}

bool history_before_run(struct history *h, bool background)
{
	if (!h->points_max || h->overlays_n == 0)
		return false;
	if (h->fresh) {
		h->fresh = false;
		add_point(h, mount_of(h, &h->overlays[0])->top, false);
		return false;
	}
	if (background || h->want_point || isolated_runs(h->session) > 0 || !is_alone(h))
		return false;
	h->want_point = true;
	isolated_hold(h->session);
	/* Otherwise as soon as that is done. */
	if (h->doing == IDLE)
		point_begin(h);
	return true;
}

void history_run(struct history *h, const struct run *run)
{
	/* A point that is being made comes after those that are. */
	size_t n = points_n(h) + (h->doing == POINT || h->want_point ? 1 : 0);
	struct known k = {.point = n - 1};
	/* Those that are not known any more go with the known ones before them. */
	if (!h->points_max || n == 0 || known_n(h) >= HISTORY_RUNS_MAX)
		return;
	(void)snprintf(k.id, sizeof(k.id), "%s", run->id);
	(void)buf_append(&h->runs, &k, sizeof(k));
}

static void point_over(struct history *h)
{
	if (h->result >= 0) {
		add_point(h, h->layer, h->join);
	} else {
		log_warn("an isolated session gets no point before its run: %s", h->err.message);
		/* The run belongs to the point before it. */
		for (size_t i = 0; i < known_n(h); i++)
			known_at(h, i)->point = MIN(known_at(h, i)->point, points_n(h) - 1);
	}
	if (h->session)
		isolated_resume(h->session);
}

/* Two ids are the same with and without dashes. */
static bool same_id(const char *a, const char *b)
{
	for (;; a++, b++) {
		while (*a == '-')
			a++;
		while (*b == '-')
			b++;
		if (tolower((unsigned char)*a) != tolower((unsigned char)*b))
			return false;
		if (!*a)
			return true;
	}
}

static int find_point(const struct history *h, const char *run, size_t *ret, struct err *err)
{
	if (!h->points_max)
		return err_set(err, ERR_CONFLICT, "NOT_UNDOABLE", EINVAL,
			       "the session was not created with \"undoable\": true");
	if (points_n(h) == 0)
		return err_set(err, ERR_CONFLICT, "NOT_UNDOABLE", ENOENT,
			       "there is no run to undo since the session began or was committed");
	if (!run || !run[0]) {
		*ret = points_n(h) - 1;
		return 0;
	}
	for (size_t i = known_n(h); i-- > 0;)
		if (same_id(known_at(h, i)->id, run)) {
			*ret = known_at(h, i)->point;
			return 0;
		}
	return err_set(err, ERR_NOT_FOUND, "COMMAND_NOT_FOUND", ENOENT,
		       "run '%.64s' is not one that can be undone in this session", run);
}

/* Going back to a run takes along what shares its point: that must be later ones only. */
static int check_first(const struct history *h, const char *run, size_t point, struct err *err)
{
	size_t i = 0;
	while (i < known_n(h) && known_at(h, i)->point != point)
		i++;
	if (!run || !run[0] || i == known_n(h) || same_id(known_at(h, i)->id, run))
		return 0;
	return err_set(
		err, ERR_CONFLICT, "NOT_UNDOABLE", EBUSY,
		"run '%.64s' cannot be undone alone: it shares its point with run %s before it (processes "
		"were left in the session, or the points were joined); undo that",
		run, known_at(h, i)->id);
}

/* ---- reading ------------------------------------------------------------------------------ */

static int find_overlay(const struct history *h, const char *workspace, const struct overlay **ret,
			struct err *err)
{
	if (!room_is_ready(h->room) && h->overlays_n == 0)
		return err_set(err, ERR_CONFLICT, "RUNTIME_ERROR", EAGAIN, "the session is not ready yet");
	for (size_t i = 0; i < h->overlays_n; i++) {
		if (!workspace || !workspace[0] ||
		    strcmp(mount_of(h, &h->overlays[i])->path, workspace) == 0) {
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
	int r = busy(h, err);
	if (r >= 0)
		r = find_overlay(h, workspace, &o, err);
	if (r >= 0 && run && run[0])
		r = find_point(h, run, &point, err);
	if (r < 0)
		return r;
	top = mount_of(h, o)->top;
	if (run && run[0]) {
		first = point_at(h, point)->layer;
		if (point + 1 < points_n(h))
			top = point_at(h, point + 1)->layer - 1;
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

/* ---- undo ------------------------------------------------------------------------------------ */

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

/* The layers of the runs undone are removed, or, when that came to nothing, are as they were. */
static void undo_finish_run(struct pool_job *job)
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
	int r = h->session && room_is_ready(h->room) ? work_start(h, UNDO, undo_run, &h->err)
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
	int r = busy(h, err);
	if (r >= 0)
		r = find_point(h, run, &point, err);
	if (r >= 0)
		r = check_first(h, run, point, err);
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
	h->layer = point_at(h, point)->layer;
	h->doing = UNDO;
	h->refs++;
	return 0;
}

static void undo_over(struct history *h)
{
	size_t undone = 0;
	struct jw w = JW_INIT(&h->answer);
	if (h->result >= 0) {
		while (known_n(h) > 0 && known_at(h, known_n(h) - 1)->point >= h->back_to) {
			h->runs.len -= sizeof(struct known);
			undone++;
		}
		h->points.len = h->back_to * sizeof(struct point);
		h->fresh = true;
		h->full[0] = '\0';
		jw_obj_begin(&w);
		jw_kint(&w, "runs_undone", (int64_t)undone);
		jw_kint(&w, "points", (int64_t)points_n(h));
		jw_obj_end(&w);
	}
	if (h->session)
		isolated_resume(h->session);
}

/* ---- commit ------------------------------------------------------------------------------------- */

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
	int r = busy(h, err);
	if (r >= 0)
		r = find_overlay(h, workspace, &o, err);
	if (r >= 0 && isolated_runs(h->session) > 0)
		r = err_set(err, ERR_CONFLICT, "RUNTIME_ERROR", EBUSY,
			    "runs are on in the session; wait for their end, or interrupt them");
	if (r < 0)
		return r;
	json_decref(h->paths);
	h->paths = json_incref(paths);
	h->target = o;
	h->force = force;
	r = work_start(h, COMMIT, commit_run, err);
	if (r < 0)
		return r;
	h->done = done;
	h->done_arg = arg;
	isolated_hold(h->session);
	return 0;
}

static void commit_over(struct history *h)
{
	struct overlay *o = &h->overlays[h->target - h->overlays];
	if (h->result >= 0) {
		/* What is in the workspace is no longer the session's to take back. */
		buf_clear(&h->points);
		buf_clear(&h->runs);
		h->fresh = false;
		(void)fs_now(o->stack, &o->since);
	}
	if (h->session)
		isolated_resume(h->session);
}

/* ---- sizes ---------------------------------------------------------------------------------------- */

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

static void list_point(struct history *h, struct jw *w, size_t i)
{
	const struct point *p = point_at(h, i);
	unsigned last = i + 1 < points_n(h) ? point_at(h, i + 1)->layer - 1 : UINT32_MAX;
	char time[CLOCK_RFC3339_MAX];
	struct layer_usage usage;
	bool first = true;
	h->result = usage_of(h, p->layer, last, &usage);
	jw_obj_begin(w);
	for (size_t k = 0; k < known_n(h); k++) {
		if (known_at(h, k)->point != i)
			continue;
		if (first) {
			jw_kstr(w, "run_id", known_at(h, k)->id);
			jw_key(w, "run_ids");
			jw_arr_begin(w);
		}
		first = false;
		jw_str(w, known_at(h, k)->id);
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
	for (size_t i = 0; i < points_n(h) && h->result >= 0; i++)
		list_point(h, &w, i);
	jw_arr_end(&w);
	jw_obj_end(&w);
	if (h->result >= 0 && h->answer.failed)
		h->result = err_set(&h->err, ERR_TOO_LARGE, "RUNTIME_ERROR", ENOBUFS,
				    "the answer is over %u bytes", HISTORY_REPLY_MAX);
}

int history_list(struct history *h, history_done_fn *done, void *arg, struct err *err)
{
	int r = busy(h, err);
	if (r >= 0)
		r = work_start(h, LIST, list_run, err);
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
	if (work_start(h, MEASURE, measure_run, NULL) >= 0)
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

/* ---- the end of work ------------------------------------------------------------------------------- */

static void work_over(struct history *h)
{
	enum doing doing = h->doing;
	history_done_fn *done = h->done;
	if (doing == UNDO && !h->finishing) {
		h->finishing = true;
		h->job = (struct pool_job){.run = undo_finish_run, .done = work_done};
		if (pool_submit(h->execd->pool, &h->job) >= 0)
			return;
	}
	h->doing = IDLE;
	h->done = NULL;
	if (h->want_point && h->session && doing != POINT)
		point_begin(h);
	else if (doing == POINT)
		point_over(h);
	else if (doing == UNDO)
		undo_over(h);
	else if (doing == COMMIT)
		commit_over(h);
	else if (doing == MEASURE && h->session)
		isolated_resume(h->session);
	if (done)
		done(h->done_arg, h->result, &h->err, &h->answer);
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
