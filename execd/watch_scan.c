/*
 * watch_scan.c - adding directories to a tree.
 *
 * A worker has `scan` (the directories to add, what it found in them) while the
 * tree is SCANNING; nothing is read meanwhile, the kernel's queue holds what
 * happens. A directory is watched before its names are read: what appears in
 * between is in both. The bytes that wait in the queue when the scan is done are
 * the window in which an event may repeat what the scan has told; `seen` has
 * those names until the window has been read.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>

#include "execd/file_info.h"
#include "execd/walk.h"
#include "execd/watch_priv.h"

#define MASK                                                                                                 \
	(IN_CREATE | IN_DELETE | IN_MODIFY | IN_ATTRIB | IN_MOVED_FROM | IN_MOVED_TO | IN_DELETE_SELF |      \
	 IN_MOVE_SELF | IN_ONLYDIR | IN_EXCL_UNLINK)

/* ---- scanning: worker --------------------------------------------------------------- */

static int add_watch(const struct watch_tree *t, int fd, const char *path)
{
	_cleanup_free_ char *full = NULL;
	char self[40];
	int wd;

	(void)snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	wd = inotify_add_watch(t->fd, self, MASK);
	if (wd < 0 && errno == ENOENT) { /* no /proc */
		if (asprintf(&full, "%s/%s", t->root, path) < 0) {
			full = NULL;
			return -ENOMEM;
		}
		wd = inotify_add_watch(t->fd, full, MASK | IN_DONT_FOLLOW);
	}
	return wd < 0 ? -errno : wd;
}

static int scan_put(struct watch_scan *s, int wd, bool top, const char *path)
{
	size_t n = strlen(path) + 1;
	struct watch_found f = {.wd = wd, .top = top, .size = (sizeof(f) + n + 7) & ~(size_t)7};

	if (buf_reserve(&s->found, f.size) < 0)
		return -ENOMEM;
	memset(buf_tail(&s->found), 0, f.size);
	memcpy(buf_tail(&s->found), &f, sizeof(f));
	memcpy(buf_tail(&s->found) + sizeof(f), path, n);
	s->found.len += f.size;
	return 0;
}

static int watch_err(const struct watch_tree *t, const char *path, int r, struct err *err)
{
	if (r == -ENOSPC)
		return err_set(
			err, ERR_LIMIT, "WATCH_LIMIT", ENOSPC,
			"watch '%s/%s': this user has no inotify watches left; the limit is the sysctl "
			"fs.inotify.max_user_watches",
			t->root, path);
	if (r == -E2BIG)
		return err_set(err, ERR_LIMIT, "WATCH_LIMIT", E2BIG, "watch '%s': more than %u directories",
			       t->root, WATCH_DIRS_MAX);
	return file_err(err, -r, "watch '%s%s%s'", t->root, path[0] ? "/" : "", path);
}

/* Watches the directory fd. What vanishes or may not be read is passed over; -errno concerns all. */
static int scan_dir(struct watch_tree *t, int fd, bool top, const char *path, struct err *err)
{
	struct watch_scan *s = &t->scan;
	int wd = s->dirs_n++ < WATCH_DIRS_MAX ? add_watch(t, fd, path) : -E2BIG;
	int r = wd;

	if (wd >= 0)
		r = scan_put(s, wd, top, path);
	if (r == -ENOSPC || r == -ENOMEM || r == -E2BIG || (r < 0 && path[0] == '\0'))
		return watch_err(t, path, r, err);
	return 0;
}

static int scan_entry(struct watch_tree *t, const char *top, const struct walk_entry *e, struct buf *path,
		      struct err *err)
{
	_cleanup_close_ int fd = -EBADF;

	if (!e->is_dir && t->scan.whole)
		return 0;
	buf_clear(path);
	(void)buf_puts(path, top);
	if (top[0])
		(void)buf_putc(path, '/');
	(void)buf_puts(path, e->path);
	if (path->failed || !buf_cstr(path))
		return watch_err(t, top, -ENOMEM, err);
	if (e->is_dir)
		fd = openat(e->dirfd, e->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd >= 0)
		return scan_dir(t, fd, false, (const char *)path->data, err);
	if (e->is_dir && walk_is_fatal(-errno))
		return watch_err(t, (const char *)path->data, -errno, err);
	if (t->scan.whole)
		return 0;
	return scan_put(&t->scan, -1, false, (const char *)path->data) < 0 ? watch_err(t, top, -ENOMEM, err)
									   : 0;
}

/* The directory `top` (fd is taken) and, when recursive, all below it. */
static int scan_from(struct watch_tree *t, int fd, const char *top, struct err *err)
{
	_cleanup_buf_ struct buf path = BUF_INIT(WATCH_PATHS_MAX);
	struct walk *walk = NULL;
	struct walk_entry e;
	int r = scan_dir(t, fd, true, top, err);

	if (r < 0 || !t->recursive) {
		fd_close(&fd);
		return r;
	}
	r = walk_new(fd, UINT64_MAX, &walk);
	if (r < 0)
		return walk_is_fatal(r) ? watch_err(t, top, r, err) : 0;
	while (r >= 0 && (r = walk_next(walk, &e)) > 0)
		r = scan_entry(t, top, &e, &path, err);
	walk_free(walk);
	return r < 0 && err->message[0] == '\0' ? watch_err(t, top, r, err) : r;
}

static void scan_run(struct pool_job *job)
{
	struct watch_scan *s = container_of(job, struct watch_scan, job);
	struct watch_tree *t = container_of(s, struct watch_tree, scan);
	const char *top = (const char *)s->dirs.data, *end = top + s->dirs.len;
	int flags = O_RDONLY | O_DIRECTORY | O_NONBLOCK | O_CLOEXEC;

	s->ran = true;
	for (; top < end && s->result >= 0; top += strlen(top) + 1) {
		_cleanup_close_ int root = open(t->root, flags);
		int fd;

		if (root < 0) {
			s->result = file_err(&s->err, errno, "watch '%s'", t->root);
			return;
		}
		fd = top[0] ? openat(root, top, flags | O_NOFOLLOW) : TAKE_FD(root);
		if (fd >= 0)
			s->result = scan_from(t, fd, top, &s->err);
		else if (walk_is_fatal(-errno))
			s->result = watch_err(t, top, -errno, &s->err);
	}
}

static void scan_done(struct pool_job *job);

/* ---- scanning: loop ------------------------------------------------------------------- */

/* Nothing is read until it is done. */
int watch_scan_start(struct watch_tree *t, struct err *err)
{
	struct watch_scan *s = &t->scan;
	int r;

	s->job = (struct pool_job){.run = scan_run, .done = scan_done};
	s->ran = false;
	s->result = 0;
	s->dirs_n = t->by_wd.len;
	s->err = (struct err){0};
	buf_done(&s->found);
	r = pool_submit(t->pool, &s->job);
	if (r < 0)
		return err_sys(err, "RUNTIME_ERROR", -r, "too many file operations wait already");
	t->state = SCANNING;
	(void)loop_io_set(&t->io, 0);
	return 0;
}

/* Takes over what the worker found, parents before children. */
static void scan_take(struct watch_tree *t)
{
	const struct watch_scan *s = &t->scan;
	size_t at = 0;

	while (at < s->found.len) {
		const struct watch_found *f = (const struct watch_found *)(s->found.data + at);
		const char *path = (const char *)(f + 1);
		/* What stands at the top of a scan has been told by its event. */
		if (!s->whole && !f->top) {
			watch_tell_change(t, "created", path, NULL, f->wd >= 0);
			watch_seen_add(t, path);
		}
		if (f->wd >= 0)
			(void)watch_node_put(t, f->wd, path);
		at += f->size;
	}
}

static void fail_waiting(struct watch_tree *t, const struct err *err)
{
	list_del(&t->link);
	list_foreach_safe (at, &t->watchers) {
		struct watch *w = list_entry(at, struct watch, link);

		w->spec.ready(w->spec.owner, err);
	}
}

static void scan_told(struct watch_tree *t)
{
	struct watch_scan *s = &t->scan;
	int pending = 0;

	scan_take(t);
	if (s->result < 0)
		watch_tell_overflow(t, s->err.message);
	if (!s->whole && ioctl(t->fd, FIONREAD, &pending) == 0)
		t->window = (size_t)pending;
	if (t->window == 0)
		watch_seen_clear(t);
	buf_done(&s->dirs);
	buf_done(&s->found);
	s->whole = false;
	t->begun = true;
	(void)loop_io_set(&t->io, EPOLLIN);
	list_foreach_safe (at, &t->watchers) {
		struct watch *w = list_entry(at, struct watch, link);

		if (!w->ready)
			watch_become_ready(w);
	}
}

static void scan_done(struct pool_job *job)
{
	struct watch_tree *t =
		container_of(container_of(job, struct watch_scan, job), struct watch_tree, scan);
	struct watch_scan *s = &t->scan;

	watch_tree_hold(t);
	t->state = LISTENING;
	if (!s->ran)
		s->result = err_set(&s->err, ERR_UNAVAILABLE, "RUNTIME_ERROR", ECANCELED,
				    "the agent is stopping");
	if (s->result < 0 && !t->begun) {
		t->state = ENDED;
		fail_waiting(t, &s->err);
	} else if (!list_empty(&t->watchers)) {
		scan_told(t);
	}
	watch_tree_release(t);
}
