/*
 * watch.c - watching trees: the trees there are, and their watchers.
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
 * watch_scan.c adds directories (SCANNING), watch_event.c reads what the kernel
 * says of them (LISTENING), watch_nodes.c knows which they are, watch_tell.c
 * puts what has happened into the queues.
 */
#include "execd/watch.h"

#include <limits.h>
#include <string.h>
#include <sys/inotify.h>

#include "execd/glob.h"
#include "execd/watch_priv.h"

#define SCAN_MAX  (64U << 20) /* bytes of paths that one scan hands over */
#define EVENT_MAX (16U << 10)

static struct list trees = {&trees, &trees};

/* Watchers may close themselves in their callbacks: the tree stays from hold to release. */
void watch_tree_hold(struct watch_tree *t)
{
	t->held++;
}

static void tree_free(struct watch_tree *t);

void watch_tree_release(struct watch_tree *t)
{
	t->held--;
	if (t->held == 0 && list_empty(&t->watchers) && t->state != SCANNING)
		tree_free(t);
}

/* ---- trees ---------------------------------------------------------------------------------- */

static void tree_stop(struct watch_tree *t)
{
	list_del(&t->link);
	loop_io_del(&t->io);
	loop_timer_del(&t->timer);
	fd_close(&t->fd);
}

/* The directory itself has gone. */
void watch_tree_end(struct watch_tree *t)
{
	const struct watch_change c = {.type = "deleted", .path = "", .dir = true, .directories = -1};

	while (!list_empty(&t->moves))
		watch_move_over(t, list_entry(t->moves.next, struct watch_move, link));
	watch_tell(t, &c, true);
	t->state = ENDED;
	tree_stop(t);
	list_foreach_safe (at, &t->watchers) {
		struct watch *w = list_entry(at, struct watch, link);

		w->spec.wake(w->spec.owner);
	}
}

static void tree_free(struct watch_tree *t)
{
	tree_stop(t);
	while (!list_empty(&t->moves)) {
		struct watch_move *m = list_entry(t->moves.next, struct watch_move, link);

		list_del(&m->link);
		free(m);
	}
	watch_nodes_free(t);
	watch_seen_clear(t);
	buf_done(&t->scan.dirs);
	buf_done(&t->scan.found);
	buf_done(&t->event);
	free(t->root);
	free(t);
}

static int tree_begin(struct watch_tree *t, struct err *err)
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
	r = loop_io_add(t->loop, &t->io, t->fd, 0, watch_on_readable);
	if (r < 0)
		return err_sys(err, "RUNTIME_ERROR", -r, "watch '%s'", t->root);
	t->scan.whole = true;
	if (buf_append(&t->scan.dirs, "", 1) < 0)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "watch '%s'", t->root);
	return watch_scan_start(t, err);
}

static int tree_new(struct loop *loop, struct pool *pool, const struct watch_spec *spec,
		    struct watch_tree **ret, struct err *err)
{
	struct watch_tree *t = calloc(1, sizeof(*t));
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

static struct watch_tree *tree_find(const struct watch_spec *spec)
{
	list_foreach_safe (at, &trees) {
		struct watch_tree *t = list_entry(at, struct watch_tree, link);

		if (t->recursive == spec->recursive && strcmp(t->root, spec->path) == 0)
			return t;
	}
	return NULL;
}

/* ---- watchers --------------------------------------------------------------------------------- */

static void on_joined(struct loop_defer *d)
{
	struct watch *w = container_of(d, struct watch, defer);
	struct watch_tree *t = w->tree;

	watch_tree_hold(t);
	/* One that is scanned for the first time says so itself. */
	if (t->begun && !w->ready)
		watch_become_ready(w);
	watch_tree_release(t);
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
	w->modified = BUF_INIT(WATCH_PATHS_MAX);
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
	struct watch_tree *t = w->tree;

	loop_defer_cancel(&w->defer);
	list_del(&w->link);
	watch_free(w);
	if (t->held == 0 && list_empty(&t->watchers) && t->state != SCANNING)
		tree_free(t);
}

static void queue_overflow(struct watch *w)
{
	const struct watch_change c = {.type = "overflow", .path = "", .dir = true, .directories = -1};

	w->overflow = false;
	watch_format(w->tree, &c);
	watch_queue(w, &c, &w->tree->event);
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
