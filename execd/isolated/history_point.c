/*
 * history_point.c - which run belongs to which point, and making one before a run.
 */
#include "execd/isolated/history_priv.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/vfs.h>

#include "execd/isolated/isolated.h"
#include "execd/run.h"
#include "lib/clock.h"
#include "lib/log.h"

struct point *history_point_at(const struct history *h, size_t i)
{
	return (struct point *)h->points.data + i;
}

size_t history_points_n(const struct history *h)
{
	return h->points.len / sizeof(struct point);
}

struct known *history_known_at(const struct history *h, size_t i)
{
	return (struct known *)h->runs.data + i;
}

size_t history_known_n(const struct history *h)
{
	return h->runs.len / sizeof(struct known);
}

/*
 * Whether the shell has files of an overlay open: through them it would go on in the layer it has them from.
 * One that hides it (a descriptor opened since) makes the remount fail, for all the overlays or, once some
 * are replaced, with the session.
 */
static bool holds_files(pid_t pid)
{
	char path[64];
	struct dirent *e;
	bool holds = false;
	(void)snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	DIR *dir = opendir(path);
	while (dir && !holds && (e = readdir(dir))) {
		struct statfs st;
		if (e->d_name[0] == '.')
			continue;
		(void)snprintf(path, sizeof(path), "/proc/%d/fd/%.10s", (int)pid, e->d_name);
		holds = statfs(path, &st) == 0 && st.f_type == OVERLAYFS_SUPER_MAGIC;
	}
	if (dir)
		(void)closedir(dir);
	return holds;
}

/* Nothing is in the room but its init and perhaps the shell, which has no children and no files. */
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
		if (depth == 0 && pid > 0 && (strtol(end, NULL, 10) > 0 || holds_files(pid)))
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
	for (size_t k = 0; k < history_known_n(h); k++) {
		struct known run = *history_known_at(h, k);
		if (run.point == 0 && i == 0)
			continue;
		run.point -= run.point >= i && run.point > 0;
		*history_known_at(h, kept++) = run;
	}
	h->runs.len = kept * sizeof(struct known);
	memmove(history_point_at(h, i), history_point_at(h, i + 1),
		(history_points_n(h) - i - 1) * sizeof(struct point));
	h->points.len -= sizeof(struct point);
}

static void add_point(struct history *h, unsigned layer, bool joined)
{
	struct point p = {.layer = layer, .created_ms = clock_real_ms()};
	/* The lowest two layers have become one. */
	for (size_t i = joined ? history_points_n(h) : 0; i-- > 0;) {
		if (history_point_at(h, i)->layer == 1)
			drop_point(h, i);
		else if (history_point_at(h, i)->layer > 1)
			history_point_at(h, i)->layer--;
	}
	(void)buf_append(&h->points, &p, sizeof(p));
}

void history_point_begin(struct history *h)
{
	unsigned top = history_mount_of(h, &h->overlays[0])->top;
	struct err err = {0};
	h->want_point = false;
	h->join = top + 1 >= h->points_max;
	h->layer = h->join ? top : top + 1;
	h->remounted = 0;
	int r = h->join && h->readers > 0
			? err_set(&err, ERR_CONFLICT, "RUNTIME_ERROR", EBUSY, "its changes are being read")
			: history_work_start(h, POINT, point_run, &err);
	if (r < 0) {
		h->result = r;
		h->err = err;
		history_point_over(h);
		isolated_resume(h->session);
	}
}

bool history_before_run(struct history *h, bool background)
{
	if (!h->points_max || h->overlays_n == 0)
		return false;
	if (h->fresh) {
		h->fresh = false;
		add_point(h, history_mount_of(h, &h->overlays[0])->top, false);
		return false;
	}
	if (background || isolated_runs(h->session) > 0)
		return false;
	/* One for a run that did not come to be may be on its way, or made. */
	if (h->want_point || h->doing == POINT || !is_alone(h))
		return true;
	h->want_point = true;
	isolated_hold(h->session);
	/* Otherwise as soon as that is done. */
	if (h->doing == IDLE)
		history_point_begin(h);
	return true;
}

void history_run(struct history *h, const struct run *run)
{
	/* A point that is being made comes after those that are. */
	size_t n = history_points_n(h) + (h->doing == POINT || h->want_point ? 1 : 0);
	struct known k = {.point = n - 1};
	/* Those that are not known any more go with the known ones before them. */
	if (!h->points_max || n == 0 || history_known_n(h) >= HISTORY_RUNS_MAX)
		return;
	(void)snprintf(k.id, sizeof(k.id), "%s", run->id);
	(void)buf_append(&h->runs, &k, sizeof(k));
}

void history_point_over(struct history *h)
{
	if (h->result >= 0) {
		add_point(h, h->layer, h->join);
	} else {
		log_warn("an isolated session gets no point before its run: %s", h->err.message);
		/* The run belongs to the point before it. */
		for (size_t i = 0; i < history_known_n(h); i++)
			history_known_at(h, i)->point =
				MIN(history_known_at(h, i)->point, history_points_n(h) - 1);
	}
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

int history_find_point(const struct history *h, const char *run, size_t *ret, struct err *err)
{
	if (!h->points_max)
		return err_set(err, ERR_CONFLICT, "NOT_UNDOABLE", EINVAL,
			       "the session was not created with \"undoable\": true");
	if (history_points_n(h) == 0)
		return err_set(err, ERR_CONFLICT, "NOT_UNDOABLE", ENOENT,
			       "there is no run to undo since the session began or was committed");
	if (!run || !run[0]) {
		*ret = history_points_n(h) - 1;
		return 0;
	}
	for (size_t i = history_known_n(h); i-- > 0;)
		if (same_id(history_known_at(h, i)->id, run)) {
			*ret = history_known_at(h, i)->point;
			return 0;
		}
	return err_set(err, ERR_NOT_FOUND, "COMMAND_NOT_FOUND", ENOENT,
		       "run '%.64s' is not one that can be undone in this session", run);
}

int history_check_first(const struct history *h, const char *run, size_t point, struct err *err)
{
	size_t i = 0;
	while (i < history_known_n(h) && history_known_at(h, i)->point != point)
		i++;
	if (!run || !run[0] || i == history_known_n(h) || same_id(history_known_at(h, i)->id, run))
		return 0;
	return err_set(
		err, ERR_CONFLICT, "NOT_UNDOABLE", EBUSY,
		"run '%.64s' cannot be undone alone: it shares its point with run %s before it (processes "
		"were left in the session, or the points were joined); undo that",
		run, history_known_at(h, i)->id);
}
