/*
 * watch_event.c - what the kernel says of a tree.
 *
 * Owns the first halves of renames, which wait WATCH_MOVE_MS for the second.
 * Loop only.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>

#include "execd/watch_priv.h"

#define READ_SIZE 65536

static void scan_later(struct watch_tree *t, const char *path)
{
	if (t->recursive && buf_append(&t->scan.dirs, path, strlen(path) + 1) < 0)
		watch_tell_overflow(t, "no memory for the new directories");
}

/* What was moved away has not come back within the tree. */
void watch_move_over(struct watch_tree *t, struct watch_move *m)
{
	list_del(&m->link);
	watch_tell_change(t, "deleted", m->path, NULL, m->dir);
	if (m->dir)
		watch_nodes_drop(t, m->path);
	free(m);
}

static void moves_due(struct loop_timer *timer)
{
	struct watch_tree *t = container_of(timer, struct watch_tree, timer);

	watch_tree_hold(t);
	while (!list_empty(&t->moves)) {
		struct watch_move *m = list_entry(t->moves.next, struct watch_move, link);

		if (m->due_ms > loop_now_ms(t->loop)) {
			(void)loop_timer_set(t->loop, &t->timer, m->due_ms, moves_due);
			break;
		}
		watch_move_over(t, m);
	}
	watch_tree_release(t);
}

static void moved_from(struct watch_tree *t, const struct inotify_event *e, const char *path)
{
	size_t n = strlen(path) + 1;
	struct watch_move *m = malloc(sizeof(*m) + n);

	if (!m) {
		watch_tell_change(t, "deleted", path, NULL, e->mask & IN_ISDIR);
		return;
	}
	*m = (struct watch_move){.cookie = e->cookie,
				 .dir = e->mask & IN_ISDIR,
				 .due_ms = loop_now_ms(t->loop) + WATCH_MOVE_MS};
	memcpy(m->path, path, n);
	list_add_tail(&t->moves, &m->link);
	if (!loop_timer_armed(&t->timer))
		(void)loop_timer_set(t->loop, &t->timer, m->due_ms, moves_due);
}

static void moved_to(struct watch_tree *t, const struct inotify_event *e, const char *path)
{
	bool dir = e->mask & IN_ISDIR;

	list_foreach_safe (at, &t->moves) {
		struct watch_move *m = list_entry(at, struct watch_move, link);

		if (m->cookie != e->cookie)
			continue;
		list_del(&m->link);
		watch_tell_change(t, "moved", path, m->path, dir);
		/* One that was not yet scanned under its old name is under its new one. */
		if (dir && map_get(&t->by_path, m->path))
			watch_nodes_rename(t, m->path, path);
		else if (dir)
			scan_later(t, path);
		free(m);
		return;
	}
	watch_tell_change(t, "created", path, NULL, dir);
	if (dir)
		scan_later(t, path);
}

/* What happened to `path`. */
static void on_child(struct watch_tree *t, const struct inotify_event *e, const char *path)
{
	bool dir = e->mask & IN_ISDIR;
	bool repeated = watch_seen_take(t, path);
	struct map_node *node;

	if (e->mask & IN_CREATE && !repeated) {
		watch_tell_change(t, "created", path, NULL, dir);
		if (dir)
			scan_later(t, path);
	} else if (e->mask & IN_MOVED_TO && !repeated) {
		moved_to(t, e, path);
	} else if (e->mask & IN_MODIFY) {
		watch_tell_change(t, "modified", path, NULL, dir);
	} else if (e->mask & IN_ATTRIB) {
		watch_tell_change(t, "attrib", path, NULL, dir);
	} else if (e->mask & IN_MOVED_FROM) {
		moved_from(t, e, path);
	} else if (e->mask & IN_DELETE) {
		watch_tell_change(t, "deleted", path, NULL, dir);
		node = dir ? map_get(&t->by_path, path) : NULL;
		if (node)
			watch_node_drop(t, container_of(node, struct watch_node, by_path));
	}
}

static void on_event(struct watch_tree *t, const struct inotify_event *e)
{
	_cleanup_buf_ struct buf path = BUF_INIT(WATCH_PATHS_MAX);
	struct watch_node *n;

	if (e->mask & IN_Q_OVERFLOW) {
		watch_tell_overflow(t, NULL);
		/* Directories may have come without our knowing. */
		buf_clear(&t->scan.dirs);
		t->scan.whole = t->recursive;
		scan_later(t, "");
		return;
	}
	n = watch_node_by_wd(t, e->wd);
	if (!n)
		return;
	if (e->mask & (IN_IGNORED | IN_DELETE_SELF | IN_MOVE_SELF | IN_UNMOUNT)) {
		if (n->path[0] == '\0')
			watch_tree_end(t);
		else if (e->mask & IN_IGNORED)
			watch_node_drop(t, n);
		return;
	}
	if (e->len == 0) {
		if (n->path[0] == '\0')
			watch_tell_change(t, "attrib", "", NULL, true);
		return;
	}
	(void)buf_puts(&path, n->path);
	if (n->path[0])
		(void)buf_putc(&path, '/');
	(void)buf_puts(&path, e->name);
	if (!path.failed && buf_cstr(&path))
		on_child(t, e, (const char *)path.data);
}

void watch_on_readable(struct loop_io *io, uint32_t events)
{
	struct watch_tree *t = container_of(io, struct watch_tree, io);
	_Alignas(struct inotify_event) char data[READ_SIZE];
	struct err err = {0};
	ssize_t n = read(t->fd, data, sizeof(data));

	(void)events;
	watch_tree_hold(t);
	for (ssize_t at = 0; at < n && t->state != ENDED;) {
		const struct inotify_event *e = (const struct inotify_event *)(data + at);
		size_t size = sizeof(*e) + e->len;

		on_event(t, e);
		at += (ssize_t)size;
		if (t->window > 0) {
			t->window -= MIN(t->window, size);
			if (t->window == 0)
				watch_seen_clear(t);
		}
	}
	if (t->state == LISTENING && t->scan.dirs.len > 0 && watch_scan_start(t, &err) < 0) {
		buf_clear(&t->scan.dirs);
		watch_tell_overflow(t, err.message);
	}
	watch_tree_release(t);
}
