/*
 * undoable.c - single commands that can be taken back.
 *
 * A room's stack has the command's own layer as 0 and the inverse as 1; once
 * merged, 0 is removed and the room is killed: what is kept is its directory,
 * until the command has been taken back.
 */
#include "execd/isolated/undoable.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "execd/execd.h"
#include "execd/isolated/isolated.h"
#include "execd/isolated/layer_commit.h"
#include "execd/isolated/layer_list.h"
#include "execd/isolated/layer_stack.h"
#include "execd/isolated/room.h"
#include "lib/clock.h"
#include "lib/list.h"
#include "lib/map.h"
#include "proto/json.h"

#define ID_MAX 40

enum state { RUNNING, MERGING, MERGED, UNDOING, UNDONE, FAILED };

struct undoables {
	struct execd *execd;
	struct map by_id;
	struct list all; /* the oldest first */
	size_t n;
	/* When commands were taken back: what that has written is what was there before. */
	struct layer_window windows[UNDOABLES_MAX];
	size_t windows_n; /* ever; the newest are kept */
};

struct undoable {
	struct map_node node;
	struct list link;
	struct undoables *all; /* NULL: not in the table */
	struct execd *execd;
	unsigned refs;
	char id[ID_MAX];
	char *root;
	struct room *room;
	enum state state;
	uint64_t created_ms;
	struct timespec merged_at; /* by the clock of the file system */
	struct layer_usage kept;
	struct buf changes; /* JSON */
	struct pool_job job;
	atomic_bool cancelled;
	bool force;
	struct layer_window windows[UNDOABLES_MAX], window;
	size_t windows_n;
	int result;
	struct err err;
	undoable_settled_fn *settled;
	undoable_undone_fn *undone;
	void *arg;
};

static const char *state_name(enum state state)
{
	static const char *const names[] = {
		[RUNNING] = "running", [MERGING] = "merging", [MERGED] = "merged",
		[UNDOING] = "undoing", [UNDONE] = "undone",   [FAILED] = "failed"};
	return names[state];
}

static void drop_room(struct undoable *u)
{
	struct room *room = TAKE_PTR(u->room);
	if (!room)
		return;
	room_set_events(room, NULL, NULL);
	room_kill(room);
	room_unref(room);
}

static void undoable_unref(struct undoable *u)
{
	if (--u->refs > 0)
		return;
	drop_room(u);
	buf_done(&u->changes);
	free(u->root);
	free(u);
}

/* ---- before ---------------------------------------------------------------- */

static int check_root(const char *root, struct err *err)
{
	static const char *const own[] = {"/proc", "/dev", "/sys"};
	if (strcmp(root, "/") == 0)
		return err_set(err, ERR_NOT_SUPPORTED, "NOT_SUPPORTED", ENOTSUP,
			       "undo_root: the root itself cannot be undone; name the directory that can");
	for (size_t i = 0; i < ARRAY_SIZE(own); i++) {
		size_t n = strlen(own[i]);
		if (strncmp(root, own[i], n) == 0 && (root[n] == '/' || root[n] == '\0'))
			return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL,
				       "undo_root: '%.128s' lies in '%s', which cannot be undone", root,
				       own[i]);
	}
	return 0;
}

int undoable_new(struct undoables *us, const char *root, struct command_spec *spec, struct err *err)
{
	static const struct room_events none = {0};
	struct limits limits = spec->limits;
	struct room_mount mount = {.path = (char *)root, .mode = ROOM_OVERLAY, .persist = true};
	struct room_spec room = {.profile = ROOM_BALANCED,
				 .uid = spec->has_uid ? spec->uid : (uid_t)-1,
				 .gid = spec->has_gid ? spec->gid : (gid_t)-1,
				 .share_net = true,
				 .mounts = &mount,
				 .mounts_n = 1,
				 .limits = &limits};
	int r = check_root(root, err);
	if (r < 0)
		return r;
	struct undoable *u = calloc(1, sizeof(*u));
	if (!u)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "start a command");
	u->refs = 1;
	u->execd = us->execd;
	u->changes = BUF_INIT(UNDOABLE_REPLY_MAX);
	u->created_ms = clock_real_ms();
	list_init(&u->link);
	u->root = strdup(root);
	limits.value[LIMIT_TIMEOUT] = limits.value[LIMIT_OUTPUT] = 0;
	r = u->root ? room_new(isolateds_rooms(us->execd->isolateds), &room, &none, u, &u->room, err)
		    : err_sys(err, "RUNTIME_ERROR", ENOMEM, "start a command");
	if (r < 0) {
		undoable_unref(u);
		return r;
	}
	/* What bounds the room bounds all of the command. */
	for (size_t i = 0; i < LIMITS_N; i++)
		if (i != LIMIT_TIMEOUT && i != LIMIT_OUTPUT)
			spec->limits.value[i] = 0;
	spec->room = u->room;
	spec->undoable = u;
	return 0;
}

static void table_drop(struct undoable *u)
{
	struct undoables *us = TAKE_PTR(u->all);
	if (!us)
		return;
	map_del(&us->by_id, &u->node);
	list_del(&u->link);
	us->n--;
	undoable_unref(u);
}

/* The oldest that nobody works on. */
static bool make_place(struct undoables *us)
{
	if (us->n < UNDOABLES_MAX)
		return true;
	list_foreach_safe (node, &us->all) {
		struct undoable *u = list_entry(node, struct undoable, link);
		if (u->state == MERGED || u->state == UNDONE || u->state == FAILED) {
			table_drop(u);
			return true;
		}
	}
	return false;
}

int undoable_started(struct undoable *u, const char *run_id, struct err *err)
{
	struct undoables *us = u->execd->undoables;
	if (!make_place(us))
		return err_set(err, ERR_LIMIT, "RUNTIME_ERROR", EAGAIN,
			       "%d undoable commands run already, the most at once", UNDOABLES_MAX);
	(void)snprintf(u->id, sizeof(u->id), "%s", run_id);
	if (map_add(&us->by_id, &u->node, u->id) < 0)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "start a command");
	list_add_tail(&us->all, &u->link);
	us->n++;
	u->all = us;
	u->refs++;
	return 0;
}

/* ---- the merge ----------------------------------------------------------------- */

static const struct room_mount *mount_of(const struct undoable *u)
{
	size_t n;
	return &room_mounts(u->room, &n)[0];
}

static int merge(struct undoable *u, const struct room_mount *m)
{
	struct layer_commit_options options = {.inverse_fd = -EBADF};
	struct layer_list list = {.limit = LAYER_LIST_DEFAULT};
	struct layer_commit_result result;
	struct layer_view view;
	int r = layer_view_open(&view, m->stack_fd, m->lower_fd, 0, 0, m->userxattr, &u->err);
	view.cancel = &u->cancelled;
	if (r >= 0)
		r = layer_list(&view, &list, &u->changes, &u->err);
	if (r >= 0)
		r = layer_push(m->stack_fd, 1, m->lower_fd, &u->err);
	if (r >= 0) {
		_cleanup_close_ int inverse =
			openat(m->stack_fd, "1", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		options.inverse_fd = inverse;
		r = inverse < 0 ? err_sys(&u->err, "RUNTIME_ERROR", errno, "keep what undo needs")
				: layer_commit(&view, &options, &result, NULL, &u->err);
	}
	layer_view_close(&view);
	return r;
}

static void settle_run(struct pool_job *job)
{
	struct undoable *u = container_of(job, struct undoable, job);
	const struct room_mount *m = mount_of(u);
	u->result = merge(u, m);
	if (u->result < 0)
		return;
	(void)layer_cut(m->stack_fd, 0, 0, NULL);
	u->result = layer_usage(m->stack_fd, 1, &u->cancelled, &u->kept, &u->err);
	if (u->result >= 0 && layer_now(m->stack_fd, &u->merged_at) < 0)
		u->result = err_sys(&u->err, "RUNTIME_ERROR", errno, "look at the time");
}

static void settle_over(struct undoable *u)
{
	undoable_settled_fn *settled = u->settled;
	u->settled = NULL;
	u->state = u->result < 0 ? FAILED : MERGED;
	room_kill(u->room);
	if (settled)
		settled(u->arg, u->result < 0 ? u->err.message : "");
	undoable_unref(u);
}

static void settle_done(struct pool_job *job)
{
	settle_over(container_of(job, struct undoable, job));
}

static void settle_clear(void *arg)
{
	struct undoable *u = arg;
	u->result = -ECANCELED;
	u->err = (struct err){
		.kind = ERR_UNAVAILABLE, .code = "RUNTIME_ERROR", .message = "the agent is stopping"};
	u->job = (struct pool_job){.run = settle_run, .done = settle_done};
	int r = mount_of(u)->stack_fd < 0 ? err_set(&u->err, ERR_INTERNAL, "RUNTIME_ERROR", ESRCH,
						    "its room did not come to be")
					  : pool_submit(u->execd->pool, &u->job);
	if (r >= 0)
		return;
	if (mount_of(u)->stack_fd >= 0)
		(void)err_sys(&u->err, "RUNTIME_ERROR", -r, "too many file operations wait already");
	u->result = r;
	settle_over(u);
}

int undoable_settle(struct undoable *u, undoable_settled_fn *done, void *arg)
{
	u->settled = done;
	u->arg = arg;
	u->state = MERGING;
	u->refs++;
	if (room_clear(u->room, settle_clear, u, NULL) >= 0)
		return 0;
	/* It has ended already, or never began: what it has written is there. */
	u->settled = NULL;
	settle_clear(u);
	if (u->state != MERGING)
		return -ECANCELED;
	u->settled = done;
	return 0;
}

void undoable_forget(struct undoable *u)
{
	u->settled = NULL;
	if (u->state == RUNNING) /* it has not come to be */
		table_drop(u);
	undoable_unref(u);
}

/* ---- back ------------------------------------------------------------------------ */

static void undo_run(struct pool_job *job)
{
	struct undoable *u = container_of(job, struct undoable, job);
	const struct room_mount *m = mount_of(u);
	struct layer_commit_options options = {.inverse_fd = -EBADF};
	struct layer_view view = {.n = 2, .uppers = 1, .userxattr = m->userxattr, .cancel = &u->cancelled};
	struct layer_commit_result result;
	if (!u->force)
		options.since = u->merged_at;
	options.own = u->windows;
	options.own_n = u->windows_n;
	(void)layer_now(m->stack_fd, &u->window.from);
	view.fds[0] = openat(m->stack_fd, "1", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	view.fds[1] = openat(m->lower_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	u->result = view.fds[0] < 0 || view.fds[1] < 0
			    ? err_sys(&u->err, "RUNTIME_ERROR", errno, "open what undo needs")
			    : layer_commit(&view, &options, &result, NULL, &u->err);
	layer_view_close(&view);
	(void)layer_now(m->stack_fd, &u->window.to);
	if (u->result >= 0 && layer_cut(m->stack_fd, 1, 1, NULL) >= 0)
		u->kept = (struct layer_usage){0};
}

static void undo_done(struct pool_job *job)
{
	struct undoable *u = container_of(job, struct undoable, job);
	struct undoables *us = u->execd->undoables;
	u->state = u->result < 0 ? MERGED : UNDONE;
	if (u->state == UNDONE)
		drop_room(u); /* its directory and descriptors: nothing is done with them any more */
	if (u->result >= 0 && us)
		us->windows[us->windows_n++ % UNDOABLES_MAX] = u->window;
	u->undone(u->arg, u->result, &u->err);
	undoable_unref(u);
}

int undoable_undo(struct undoable *u, bool force, undoable_undone_fn *done, void *arg, struct err *err)
{
	if (u->state != MERGED)
		return err_set(err, ERR_CONFLICT, "NOT_UNDOABLE", EBUSY,
			       "command '%s' cannot be undone: it is %s", u->id, state_name(u->state));
	u->result = -ECANCELED;
	u->err = (struct err){
		.kind = ERR_UNAVAILABLE, .code = "RUNTIME_ERROR", .message = "the agent is stopping"};
	u->job = (struct pool_job){.run = undo_run, .done = undo_done};
	u->force = force;
	u->windows_n = MIN(u->execd->undoables->windows_n, (size_t)UNDOABLES_MAX);
	memcpy(u->windows, u->execd->undoables->windows, sizeof(u->windows));
	int r = pool_submit(u->execd->pool, &u->job);
	if (r < 0)
		return err_sys(err, "RUNTIME_ERROR", -r, "too many file operations wait already");
	u->undone = done;
	u->arg = arg;
	u->state = UNDOING;
	u->refs++;
	return 0;
}

/* ---- what is known -------------------------------------------------------------------- */

int undoable_get(struct undoables *us, const char *run_id, struct undoable **ret, struct err *err)
{
	struct map_node *node = map_get(&us->by_id, run_id);
	if (!node)
		return err_set(err, ERR_NOT_FOUND, "COMMAND_NOT_FOUND", ENOENT,
			       "there is no undoable command '%.64s'; the last %d are kept", run_id,
			       UNDOABLES_MAX);
	*ret = container_of(node, struct undoable, node);
	return 0;
}

void undoable_json(const struct undoable *u, bool changes, struct jw *w)
{
	char time[CLOCK_RFC3339_MAX];
	jw_obj_begin(w);
	jw_kstr(w, "id", u->id);
	jw_kstr(w, "root", u->root);
	jw_kstr(w, "state", state_name(u->state));
	jw_kstr(w, "created_at", clock_rfc3339(u->created_ms, time));
	jw_kint(w, "bytes_kept", (int64_t)u->kept.bytes);
	if (u->state == FAILED)
		jw_kstr(w, "message", u->err.message);
	if (changes && u->changes.len > 0 && u->state != RUNNING && u->state != MERGING) {
		jw_key(w, "changed");
		jw_raw(w, u->changes.data, u->changes.len);
	}
	jw_obj_end(w);
}

void undoables_each(struct undoables *us, void (*fn)(void *arg, const struct undoable *u), void *arg)
{
	list_foreach_safe (node, &us->all)
		fn(arg, list_entry(node, struct undoable, link));
}

int undoables_new(struct execd *execd, struct undoables **ret)
{
	struct undoables *us = calloc(1, sizeof(*us));
	if (!us)
		return -ENOMEM;
	us->execd = execd;
	list_init(&us->all);
	*ret = us;
	return 0;
}

void undoables_free(struct undoables *us)
{
	if (!us)
		return;
	list_foreach_safe (node, &us->all)
		table_drop(list_entry(node, struct undoable, link));
	map_done(&us->by_id);
	free(us);
}
