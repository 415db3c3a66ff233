/*
 * watch.c - watching trees.
 *
 * Owns the trees that are watched. Watchers of the same directory share one:
 * its inotify descriptor, its kernel watches, its events; each has a queue of
 * its own. One descriptor a tree, not one for the agent, because the kernel's
 * queue and its overflow are the descriptor's: a busy tree costs others
 * nothing, a kernel watch belongs to one path, and closing the descriptor lets
 * go of a hundred thousand watches at once. Its price, max_user_instances (128
 * by default), counts trees, not watchers.
 *
 *   SCANNING <-> LISTENING -> ENDED
 *
 * SCANNING: a worker has `scan` (the directories to add, what it found in
 * them); nothing is read meanwhile, the kernel's queue holds what happens. A
 * directory is watched before its names are read: what appears in between is in
 * both. The bytes that wait in the queue when the scan is done are the window in
 * which an event may repeat what the scan has told; `seen` has those names until
 * the window has been read.
 */
#include "execd/watch.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>

#include "execd/file_info.h"
#include "execd/glob.h"
#include "execd/path.h"
#include "execd/walk.h"
#include "lib/clock.h"
#include "lib/map.h"
#include "proto/json.h"

#define MASK                                                                                                 \
	(IN_CREATE | IN_DELETE | IN_MODIFY | IN_ATTRIB | IN_MOVED_FROM | IN_MOVED_TO | IN_DELETE_SELF |      \
	 IN_MOVE_SELF | IN_ONLYDIR | IN_EXCL_UNLINK)
#define READ_SIZE  65536
#define SCAN_MAX   (64U << 20) /* bytes of paths that one scan hands over */
#define EVENT_MAX  (16U << 10)
#define PATHS_MAX  (WALK_PATH_MAX + PATH_MAX)
#define WD_KEY_MAX 12

/* A directory that is watched. */
struct node {
	struct map_node by_path, by_wd;
	int wd;
	char key[WD_KEY_MAX];
	char path[]; /* below the root; "" is the root */
};

/* A path that the last scan has told of. */
struct seen {
	struct map_node node;
	char path[];
};

/* The first half of a rename. */
struct move {
	struct list link;
	uint32_t cookie;
	bool dir;
	uint64_t due_ms;
	char path[];
};

/* What a scan found; followed by the path. */
struct found {
	int wd;	  /* -1: no directory */
	bool top; /* the scan began here */
	size_t size;
};

struct scan {
	struct pool_job job;
	struct buf dirs;  /* paths to begin at, each with its NUL */
	struct buf found; /* struct found... */
	bool whole;	  /* all of the tree: only its directories are handed over, nothing is told */
	bool lost;	  /* kernel watches or memory ran out: err says which */
	bool ran;
	int result;
	size_t dirs_n;
	struct err err;
};

enum state { SCANNING, LISTENING, ENDED };

struct tree {
	struct list link; /* among the trees that may be joined */
	struct loop *loop;
	struct pool *pool;
	char *root;
	bool recursive;
	enum state state;
	bool begun;    /* the first scan is done */
	unsigned held; /* callbacks stand in it: it is freed later */
	int fd;
	struct loop_io io;
	struct list watchers;
	struct map by_path, by_wd;
	struct list moves;
	struct loop_timer timer;
	struct scan scan;
	struct map seen;
	size_t window; /* bytes of the queue in which seen counts */
	struct buf event;
};

struct watch {
	struct list link;
	struct tree *tree;
	struct watch_spec spec;
	struct glob *glob;
	struct loop_defer defer; /* ready, when the tree was there already */
	bool ready;
	struct buf queue;
	size_t sent;
	bool overflow;	     /* events were dropped; told when the queue is empty */
	struct buf modified; /* the path of the last event in the queue, when that is `modified` */
};

static struct list trees = {&trees, &trees};

/* ---- nodes ---------------------------------------------------------------------- */

static void wd_key(int wd, char key[WD_KEY_MAX])
{
	(void)snprintf(key, WD_KEY_MAX, "%d", wd);
}

static struct node *node_by_wd(const struct tree *t, int wd)
{
	char key[WD_KEY_MAX];
	struct map_node *node;

	wd_key(wd, key);
	node = map_get(&t->by_wd, key);
	return node ? container_of(node, struct node, by_wd) : NULL;
}

static void node_drop(struct tree *t, struct node *n)
{
	map_del(&t->by_path, &n->by_path);
	map_del(&t->by_wd, &n->by_wd);
	free(n);
}

/* wd watches path now, whatever was known of either. */
static int node_put(struct tree *t, int wd, const char *path)
{
	struct node *n = node_by_wd(t, wd);
	struct map_node *other;
	size_t size = strlen(path) + 1;

	if (n && strcmp(n->path, path) == 0)
		return 0;
	if (n)
		node_drop(t, n);
	other = map_get(&t->by_path, path);
	if (other)
		node_drop(t, container_of(other, struct node, by_path));
	n = malloc(sizeof(*n) + size);
	if (!n)
		return -ENOMEM;
	n->wd = wd;
	wd_key(wd, n->key);
	memcpy(n->path, path, size);
	if (map_add(&t->by_path, &n->by_path, n->path) < 0) {
		free(n);
		return -ENOMEM;
	}
	if (map_add(&t->by_wd, &n->by_wd, n->key) < 0) {
		map_del(&t->by_path, &n->by_path);
		free(n);
		return -ENOMEM;
	}
	return 0;
}

static bool is_below(const char *path, const char *dir, size_t dir_n)
{
	return strncmp(path, dir, dir_n) == 0 && (path[dir_n] == '\0' || path[dir_n] == '/' || dir_n == 0);
}

/* Takes the nodes at and below dir out of the tables: a list by by_path.next. */
static struct map_node *nodes_take(struct tree *t, const char *dir)
{
	struct map_node *taken = NULL;
	size_t n = strlen(dir);

	for (size_t i = 0; i < t->by_path.buckets_n; i++) {
		struct map_node *at = t->by_path.buckets[i];

		while (at) {
			struct node *node = container_of(at, struct node, by_path);

			at = at->next;
			if (!is_below(node->path, dir, n))
				continue;
			map_del(&t->by_path, &node->by_path);
			map_del(&t->by_wd, &node->by_wd);
			node->by_path.next = taken;
			taken = &node->by_path;
		}
	}
	return taken;
}

/* They have left the tree: the kernel shall forget them. */
static void nodes_drop(struct tree *t, const char *dir)
{
	struct map_node *at = nodes_take(t, dir);

	while (at) {
		struct node *node = container_of(at, struct node, by_path);

		at = at->next;
		if (t->fd >= 0)
			(void)inotify_rm_watch(t->fd, node->wd);
		free(node);
	}
}

static void nodes_rename(struct tree *t, const char *from, const char *to)
{
	_cleanup_buf_ struct buf path = BUF_INIT(PATHS_MAX);
	struct map_node *at = nodes_take(t, from);
	size_t from_n = strlen(from);

	while (at) {
		struct node *node = container_of(at, struct node, by_path);

		at = at->next;
		buf_clear(&path);
		(void)buf_puts(&path, to);
		(void)buf_puts(&path, node->path + from_n);
		if (path.failed || !buf_cstr(&path) || node_put(t, node->wd, (const char *)path.data) < 0)
			(void)inotify_rm_watch(t->fd, node->wd);
		free(node);
	}
}

static void seen_clear(struct tree *t)
{
	for (size_t i = 0; i < t->seen.buckets_n; i++) {
		struct map_node *at = t->seen.buckets[i];

		while (at) {
			struct map_node *next = at->next;

			free(container_of(at, struct seen, node));
			at = next;
		}
	}
	map_done(&t->seen);
	t->seen = (struct map){0};
	t->window = 0;
}

/* Without memory the event is told twice. */
static void seen_add(struct tree *t, const char *path)
{
	size_t n = strlen(path) + 1;
	struct seen *s = malloc(sizeof(*s) + n);

	if (!s)
		return;
	memcpy(s->path, path, n);
	if (map_add(&t->seen, &s->node, s->path) < 0)
		free(s);
}

/* Whether path was told by the scan; only its first event counts. */
static bool seen_take(struct tree *t, const char *path)
{
	struct map_node *node = t->seen.len > 0 ? map_get(&t->seen, path) : NULL;

	if (!node)
		return false;
	map_del(&t->seen, node);
	free(container_of(node, struct seen, node));
	return true;
}

/* ---- telling ---------------------------------------------------------------------- */

static void put_path(struct jw *w, const char *key, const struct tree *t, const char *path)
{
	_cleanup_buf_ struct buf full = BUF_INIT(PATHS_MAX + PATH_MAX);

	(void)buf_puts(&full, path[0] && strcmp(t->root, "/") == 0 ? "" : t->root);
	if (path[0])
		(void)buf_putc(&full, '/');
	(void)buf_puts(&full, path);
	jw_key(w, key);
	jw_strn(w, full.data, full.len);
}

struct change {
	const char *type;
	const char *path, *from; /* below the root; from may be NULL */
	bool dir;
	const char *message; /* or NULL */
	int64_t directories; /* or -1 */
};

static void format(struct tree *t, const struct change *c)
{
	struct jw w = JW_INIT(&t->event);

	buf_clear(&t->event);
	(void)buf_puts(&t->event, "data: ");
	jw_obj_begin(&w);
	jw_kstr(&w, "type", c->type);
	put_path(&w, "path", t, c->path);
	if (c->from)
		put_path(&w, "from", t, c->from);
	jw_kbool(&w, "directory", c->dir);
	if (c->message)
		jw_kstr(&w, "message", c->message);
	if (c->directories >= 0)
		jw_kint(&w, "directories", c->directories);
	jw_kint(&w, "timestamp", (int64_t)clock_real_ms());
	jw_obj_end(&w);
	(void)buf_puts(&t->event, "\n\n");
}

static bool matches(const struct watch *w, const char *path)
{
	return glob_match(w->glob, path_base(path)) || (glob_has_slash(w->glob) && glob_match(w->glob, path));
}

/* A writer in a loop is one event until it has been read. */
static bool repeats(struct watch *w, const struct change *c)
{
	bool modified = strcmp(c->type, "modified") == 0;
	size_t n = strlen(c->path);

	if (modified && w->modified.len == n && memcmp(w->modified.data, c->path, n) == 0)
		return true;
	buf_clear(&w->modified);
	if (modified)
		(void)buf_append(&w->modified, c->path, n);
	return false;
}

static void queue(struct watch *w, const struct change *c, const struct buf *event)
{
	if (!w->ready || w->overflow || repeats(w, c))
		return;
	if (event->failed || buf_append(&w->queue, event->data, event->len) < 0)
		w->overflow = true;
	w->spec.wake(w->spec.owner);
}

static void tell(struct tree *t, const struct change *c, bool all)
{
	bool formatted = false;

	list_foreach_safe (at, &t->watchers) {
		struct watch *w = list_entry(at, struct watch, link);

		if (!all && w->glob && !matches(w, c->path) && !(c->from && matches(w, c->from)))
			continue;
		if (!formatted)
			format(t, c);
		formatted = true;
		queue(w, c, &t->event);
	}
}

static void tell_change(struct tree *t, const char *type, const char *path, const char *from, bool dir)
{
	const struct change c = {.type = type, .path = path, .from = from, .dir = dir, .directories = -1};

	tell(t, &c, false);
}

static void tell_overflow(struct tree *t, const char *message)
{
	const struct change c = {
		.type = "overflow", .path = "", .dir = true, .message = message, .directories = -1};

	tell(t, &c, true);
}

static void become_ready(struct watch *w)
{
	const struct change c = {
		.type = "ready", .path = "", .dir = true, .directories = (int64_t)w->tree->by_wd.len};

	format(w->tree, &c);
	w->overflow = buf_append(&w->queue, w->tree->event.data, w->tree->event.len) < 0;
	w->ready = true;
	w->spec.ready(w->spec.owner, NULL);
}

/* Watchers may close themselves in their callbacks: the tree stays from hold to release. */
static void tree_free(struct tree *t);

static void tree_hold(struct tree *t)
{
	t->held++;
}

static void tree_release(struct tree *t)
{
	t->held--;
	if (t->held == 0 && list_empty(&t->watchers) && t->state != SCANNING)
		tree_free(t);
}

/* ---- scanning: worker --------------------------------------------------------------- */

static int add_watch(const struct tree *t, int fd, const char *path)
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

static int scan_put(struct scan *s, int wd, bool top, const char *path)
{
	size_t n = strlen(path) + 1;
	struct found f = {.wd = wd, .top = top, .size = (sizeof(f) + n + 7) & ~(size_t)7};

	if (buf_reserve(&s->found, f.size) < 0)
		return -ENOMEM;
	memset(buf_tail(&s->found), 0, f.size);
	memcpy(buf_tail(&s->found), &f, sizeof(f));
	memcpy(buf_tail(&s->found) + sizeof(f), path, n);
	s->found.len += f.size;
	return 0;
}

static int watch_err(const struct tree *t, const char *path, int r, struct err *err)
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
static int scan_dir(struct tree *t, int fd, bool top, const char *path, struct err *err)
{
	struct scan *s = &t->scan;
	int wd = s->dirs_n++ < WATCH_DIRS_MAX ? add_watch(t, fd, path) : -E2BIG;
	int r = wd;

	if (wd >= 0)
		r = scan_put(s, wd, top, path);
	if (r == -ENOSPC || r == -ENOMEM || r == -E2BIG)
		return watch_err(t, path, r, err);
	return 0;
}

static int scan_entry(struct tree *t, const char *top, const struct walk_entry *e, struct buf *path,
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
	if (t->scan.whole)
		return 0;
	return scan_put(&t->scan, -1, false, (const char *)path->data) < 0 ? watch_err(t, top, -ENOMEM, err)
									   : 0;
}

/* The directory `top` (fd is taken) and, when recursive, all below it. */
static int scan_from(struct tree *t, int fd, const char *top, struct err *err)
{
	_cleanup_buf_ struct buf path = BUF_INIT(PATHS_MAX);
	struct walk *walk = NULL;
	struct walk_entry e;
	int r = scan_dir(t, fd, true, top, err);

	if (r < 0 || !t->recursive) {
		fd_close(&fd);
		return r;
	}
	r = walk_new(fd, UINT64_MAX, &walk);
	if (r < 0)
		return r == -ENOMEM || r == -EMFILE || r == -ENFILE ? watch_err(t, top, r, err) : 0;
	while (r >= 0 && (r = walk_next(walk, &e)) > 0)
		r = scan_entry(t, top, &e, &path, err);
	walk_free(walk);
	return r < 0 && err->message[0] == '\0' ? watch_err(t, top, r, err) : r;
}

static void scan_run(struct pool_job *job)
{
	struct scan *s = container_of(job, struct scan, job);
	struct tree *t = container_of(s, struct tree, scan);
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
	}
}

/* ---- scanning: loop ------------------------------------------------------------------- */

static void tree_end(struct tree *t);
static void scan_done(struct pool_job *job);

/* Nothing is read until it is done. */
static int scan_start(struct tree *t, struct err *err)
{
	struct scan *s = &t->scan;
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
static void scan_take(struct tree *t)
{
	const struct scan *s = &t->scan;
	size_t at = 0;

	while (at < s->found.len) {
		const struct found *f = (const struct found *)(s->found.data + at);
		const char *path = (const char *)(f + 1);
		/* What stands at the top of a scan has been told by its event. */
		if (!s->whole && !f->top) {
			tell_change(t, "created", path, NULL, f->wd >= 0);
			seen_add(t, path);
		}
		if (f->wd >= 0)
			(void)node_put(t, f->wd, path);
		at += f->size;
	}
}

static void fail_waiting(struct tree *t, const struct err *err)
{
	list_del(&t->link);
	list_foreach_safe (at, &t->watchers) {
		struct watch *w = list_entry(at, struct watch, link);

		w->spec.ready(w->spec.owner, err);
	}
}

static void scan_told(struct tree *t)
{
	struct scan *s = &t->scan;
	int pending = 0;

	scan_take(t);
	if (s->result < 0)
		tell_overflow(t, s->err.message);
	if (!s->whole && ioctl(t->fd, FIONREAD, &pending) == 0)
		t->window = (size_t)pending;
	if (t->window == 0)
		seen_clear(t);
	buf_done(&s->dirs);
	buf_done(&s->found);
	s->whole = false;
	t->begun = true;
	(void)loop_io_set(&t->io, EPOLLIN);
	list_foreach_safe (at, &t->watchers) {
		struct watch *w = list_entry(at, struct watch, link);

		if (!w->ready)
			become_ready(w);
	}
}

static void scan_done(struct pool_job *job)
{
	struct tree *t = container_of(container_of(job, struct scan, job), struct tree, scan);
	struct scan *s = &t->scan;

	tree_hold(t);
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
	tree_release(t);
}

/* ---- events ------------------------------------------------------------------------------ */

static void scan_later(struct tree *t, const char *path)
{
	if (t->recursive && buf_append(&t->scan.dirs, path, strlen(path) + 1) < 0)
		tell_overflow(t, "no memory for the new directories");
}

/* What was moved away has not come back within the tree. */
static void move_over(struct tree *t, struct move *m)
{
	list_del(&m->link);
	tell_change(t, "deleted", m->path, NULL, m->dir);
	if (m->dir)
		nodes_drop(t, m->path);
	free(m);
}

static void moves_due(struct loop_timer *timer)
{
	struct tree *t = container_of(timer, struct tree, timer);

	tree_hold(t);
	while (!list_empty(&t->moves)) {
		struct move *m = list_entry(t->moves.next, struct move, link);

		if (m->due_ms > loop_now_ms(t->loop)) {
			(void)loop_timer_set(t->loop, &t->timer, m->due_ms, moves_due);
			break;
		}
		move_over(t, m);
	}
	tree_release(t);
}

static void moved_from(struct tree *t, const struct inotify_event *e, const char *path)
{
	size_t n = strlen(path) + 1;
	struct move *m = malloc(sizeof(*m) + n);

	if (!m) {
		tell_change(t, "deleted", path, NULL, e->mask & IN_ISDIR);
		return;
	}
	*m = (struct move){.cookie = e->cookie,
			   .dir = e->mask & IN_ISDIR,
			   .due_ms = loop_now_ms(t->loop) + WATCH_MOVE_MS};
	memcpy(m->path, path, n);
	list_add_tail(&t->moves, &m->link);
	if (!loop_timer_armed(&t->timer))
		(void)loop_timer_set(t->loop, &t->timer, m->due_ms, moves_due);
}

static void moved_to(struct tree *t, const struct inotify_event *e, const char *path)
{
	bool dir = e->mask & IN_ISDIR;

	list_foreach_safe (at, &t->moves) {
		struct move *m = list_entry(at, struct move, link);

		if (m->cookie != e->cookie)
			continue;
		list_del(&m->link);
		tell_change(t, "moved", path, m->path, dir);
		/* One that was not yet scanned under its old name is under its new one. */
		if (dir && map_get(&t->by_path, m->path))
			nodes_rename(t, m->path, path);
		else if (dir)
			scan_later(t, path);
		free(m);
		return;
	}
	tell_change(t, "created", path, NULL, dir);
	if (dir)
		scan_later(t, path);
}

/* What happened to `path`. */
static void on_child(struct tree *t, const struct inotify_event *e, const char *path)
{
	bool dir = e->mask & IN_ISDIR;
	bool repeated = seen_take(t, path);
	struct map_node *node;

	if (e->mask & IN_CREATE && !repeated) {
		tell_change(t, "created", path, NULL, dir);
		if (dir)
			scan_later(t, path);
	} else if (e->mask & IN_MOVED_TO && !repeated) {
		moved_to(t, e, path);
	} else if (e->mask & IN_MODIFY) {
		tell_change(t, "modified", path, NULL, dir);
	} else if (e->mask & IN_ATTRIB) {
		tell_change(t, "attrib", path, NULL, dir);
	} else if (e->mask & IN_MOVED_FROM) {
		moved_from(t, e, path);
	} else if (e->mask & IN_DELETE) {
		tell_change(t, "deleted", path, NULL, dir);
		node = dir ? map_get(&t->by_path, path) : NULL;
		if (node)
			node_drop(t, container_of(node, struct node, by_path));
	}
}

static void on_event(struct tree *t, const struct inotify_event *e)
{
	_cleanup_buf_ struct buf path = BUF_INIT(PATHS_MAX);
	struct node *n;

	if (e->mask & IN_Q_OVERFLOW) {
		tell_overflow(t, NULL);
		/* Directories may have come without our knowing. */
		buf_clear(&t->scan.dirs);
		t->scan.whole = t->recursive;
		scan_later(t, "");
		return;
	}
	n = node_by_wd(t, e->wd);
	if (!n)
		return;
	if (e->mask & (IN_IGNORED | IN_DELETE_SELF | IN_MOVE_SELF | IN_UNMOUNT)) {
		if (n->path[0] == '\0')
			tree_end(t);
		else if (e->mask & IN_IGNORED)
			node_drop(t, n);
		return;
	}
	if (e->len == 0) {
		if (n->path[0] == '\0')
			tell_change(t, "attrib", "", NULL, true);
		return;
	}
	(void)buf_puts(&path, n->path);
	if (n->path[0])
		(void)buf_putc(&path, '/');
	(void)buf_puts(&path, e->name);
	if (!path.failed && buf_cstr(&path))
		on_child(t, e, (const char *)path.data);
}

static void on_readable(struct loop_io *io, uint32_t events)
{
	struct tree *t = container_of(io, struct tree, io);
	_Alignas(struct inotify_event) char data[READ_SIZE];
	struct err err = {0};
	ssize_t n = read(t->fd, data, sizeof(data));

	(void)events;
	tree_hold(t);
	for (ssize_t at = 0; at < n && t->state != ENDED;) {
		const struct inotify_event *e = (const struct inotify_event *)(data + at);
		size_t size = sizeof(*e) + e->len;

		on_event(t, e);
		at += (ssize_t)size;
		if (t->window > 0) {
			t->window -= MIN(t->window, size);
			if (t->window == 0)
				seen_clear(t);
		}
	}
	if (t->state == LISTENING && t->scan.dirs.len > 0 && scan_start(t, &err) < 0) {
		buf_clear(&t->scan.dirs);
		tell_overflow(t, err.message);
	}
	tree_release(t);
}

/* ---- trees ---------------------------------------------------------------------------------- */

static void tree_stop(struct tree *t)
{
	list_del(&t->link);
	loop_io_del(&t->io);
	loop_timer_del(&t->timer);
	fd_close(&t->fd);
}

/* The directory itself has gone. */
static void tree_end(struct tree *t)
{
	const struct change c = {.type = "deleted", .path = "", .dir = true, .directories = -1};

	while (!list_empty(&t->moves))
		move_over(t, list_entry(t->moves.next, struct move, link));
	tell(t, &c, true);
	t->state = ENDED;
	tree_stop(t);
	list_foreach_safe (at, &t->watchers) {
		struct watch *w = list_entry(at, struct watch, link);

		w->spec.wake(w->spec.owner);
	}
}

static void tree_free(struct tree *t)
{
	struct map_node *at;

	tree_stop(t);
	while (!list_empty(&t->moves)) {
		struct move *m = list_entry(t->moves.next, struct move, link);

		list_del(&m->link);
		free(m);
	}
	at = nodes_take(t, "");
	while (at) {
		struct map_node *next = at->next;

		free(container_of(at, struct node, by_path));
		at = next;
	}
	seen_clear(t);
	map_done(&t->by_path);
	map_done(&t->by_wd);
	buf_done(&t->scan.dirs);
	buf_done(&t->scan.found);
	buf_done(&t->event);
	free(t->root);
	free(t);
}

static int tree_begin(struct tree *t, struct err *err)
{
	int r;

	t->fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	if (t->fd < 0 && errno == EMFILE)
		return err_set(err, ERR_LIMIT, "WATCH_LIMIT", EMFILE,
			       "watch '%s': this user has no inotify instances left (sysctl "
			       "fs.inotify.max_user_instances), or the agent no descriptors",
			       t->root);
	if (t->fd < 0)
		return err_sys(err, "RUNTIME_ERROR", errno, "watch '%s'", t->root);
	r = loop_io_add(t->loop, &t->io, t->fd, 0, on_readable);
	if (r < 0)
		return err_sys(err, "RUNTIME_ERROR", -r, "watch '%s'", t->root);
	t->scan.whole = true;
	if (buf_append(&t->scan.dirs, "", 1) < 0)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "watch '%s'", t->root);
	return scan_start(t, err);
}

static int tree_new(struct loop *loop, struct pool *pool, const struct watch_spec *spec, struct tree **ret,
		    struct err *err)
{
	struct tree *t = calloc(1, sizeof(*t));
	int r;

	if (!t)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "watch '%s'", spec->path);
	list_init(&t->link);
	list_init(&t->watchers);
	list_init(&t->moves);
	t->loop = loop;
	t->pool = pool;
	t->recursive = spec->recursive;
	t->fd = t->io.fd = -EBADF;
	t->event = BUF_INIT(EVENT_MAX + 12 * PATH_MAX);
	t->scan.dirs = BUF_INIT(SCAN_MAX);
	t->scan.found = BUF_INIT(SCAN_MAX);
	t->root = strdup(spec->path);
	r = t->root ? tree_begin(t, err) : err_sys(err, "RUNTIME_ERROR", ENOMEM, "watch '%s'", spec->path);
	if (r < 0) {
		tree_free(t);
		return r;
	}
	list_add_tail(&trees, &t->link);
	*ret = t;
	return 0;
}

static struct tree *tree_find(const struct watch_spec *spec)
{
	list_foreach_safe (at, &trees) {
		struct tree *t = list_entry(at, struct tree, link);

		if (t->recursive == spec->recursive && strcmp(t->root, spec->path) == 0)
			return t;
	}
	return NULL;
}

/* ---- watchers --------------------------------------------------------------------------------- */

static void on_joined(struct loop_defer *d)
{
	struct watch *w = container_of(d, struct watch, defer);
	struct tree *t = w->tree;

	tree_hold(t);
	/* One that is scanned for the first time says so itself. */
	if (t->begun && !w->ready)
		become_ready(w);
	tree_release(t);
}

static void watch_free(struct watch *w)
{
	glob_free(w->glob);
	buf_done(&w->queue);
	buf_done(&w->modified);
	free(w);
}

int watch_open(struct loop *loop, struct pool *pool, const struct watch_spec *spec, struct watch **ret,
	       struct err *err)
{
	struct watch *w = calloc(1, sizeof(*w));
	int r = 0;

	if (!w)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "watch '%s'", spec->path);
	w->spec = *spec;
	w->queue = BUF_INIT(WATCH_QUEUE_MAX);
	w->modified = BUF_INIT(PATHS_MAX);
	if (spec->pattern)
		r = glob_new(spec->pattern, &w->glob, err);
	w->spec.path = w->spec.pattern = NULL; /* borrowed for this call only */
	w->tree = r >= 0 ? tree_find(spec) : NULL;
	if (r >= 0 && w->tree)
		loop_defer(loop, &w->defer, on_joined);
	else if (r >= 0)
		r = tree_new(loop, pool, spec, &w->tree, err);
	if (r < 0) {
		watch_free(w);
		return r;
	}
	list_add_tail(&w->tree->watchers, &w->link);
	*ret = w;
	return 0;
}

void watch_close(struct watch *w)
{
	struct tree *t = w->tree;

	loop_defer_cancel(&w->defer);
	list_del(&w->link);
	watch_free(w);
	if (t->held == 0 && list_empty(&t->watchers) && t->state != SCANNING)
		tree_free(t);
}

static void queue_overflow(struct watch *w)
{
	const struct change c = {.type = "overflow", .path = "", .dir = true, .directories = -1};

	w->overflow = false;
	format(w->tree, &c);
	queue(w, &c, &w->tree->event);
}

int watch_next(struct watch *w, struct buf *out, size_t room)
{
	size_t n;
	int r;

	if (w->sent == w->queue.len) {
		buf_clear(&w->queue);
		buf_clear(&w->modified);
		w->sent = 0;
		if (w->overflow)
			queue_overflow(w);
	}
	n = MIN(room, w->queue.len - w->sent);
	r = n > 0 ? buf_append(out, w->queue.data + w->sent, n) : 0;
	if (r < 0)
		return r;
	w->sent += n;
	return w->tree->state == ENDED && w->sent == w->queue.len && !w->overflow;
}
