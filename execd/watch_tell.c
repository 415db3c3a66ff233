/*
 * watch_tell.c - what has happened, as events in the queues of the watchers.
 *
 * An event is written once for all that want it. A queue that is full drops it
 * and says so when it has been read (watch_next). Loop only.
 */
#include <limits.h>
#include <string.h>

#include "execd/glob.h"
#include "execd/path.h"
#include "execd/watch_priv.h"
#include "lib/clock.h"
#include "proto/json.h"

static void put_path(struct jw *w, const char *key, const struct watch_tree *t, const char *path)
{
	_cleanup_buf_ struct buf full = BUF_INIT(WATCH_PATHS_MAX + PATH_MAX);

	(void)buf_puts(&full, path[0] && strcmp(t->root, "/") == 0 ? "" : t->root);
	if (path[0])
		(void)buf_putc(&full, '/');
	(void)buf_puts(&full, path);
	jw_key(w, key);
	jw_strn(w, full.data, full.len);
}

void watch_format(struct watch_tree *t, const struct watch_change *c)
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
static bool repeats(struct watch *w, const struct watch_change *c)
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

void watch_queue(struct watch *w, const struct watch_change *c, const struct buf *event)
{
	if (!w->ready || w->overflow || repeats(w, c))
		return;
	if (event->failed || buf_append(&w->queue, event->data, event->len) < 0)
		w->overflow = true;
	w->spec.wake(w->spec.owner);
}

void watch_tell(struct watch_tree *t, const struct watch_change *c, bool all)
{
	bool formatted = false;

	list_foreach_safe (at, &t->watchers) {
		struct watch *w = list_entry(at, struct watch, link);

		if (!all && w->glob && !matches(w, c->path) && !(c->from && matches(w, c->from)))
			continue;
		if (!formatted)
			watch_format(t, c);
		formatted = true;
		watch_queue(w, c, &t->event);
	}
}

void watch_tell_change(struct watch_tree *t, const char *type, const char *path, const char *from, bool dir)
{
	const struct watch_change c = {
		.type = type, .path = path, .from = from, .dir = dir, .directories = -1};

	watch_tell(t, &c, false);
}

void watch_tell_overflow(struct watch_tree *t, const char *message)
{
	const struct watch_change c = {
		.type = "overflow", .path = "", .dir = true, .message = message, .directories = -1};

	watch_tell(t, &c, true);
}

void watch_become_ready(struct watch *w)
{
	const struct watch_change c = {
		.type = "ready", .path = "", .dir = true, .directories = (int64_t)w->tree->by_wd.len};

	watch_format(w->tree, &c);
	w->overflow = buf_append(&w->queue, w->tree->event.data, w->tree->event.len) < 0;
	w->ready = true;
	w->spec.ready(w->spec.owner, NULL);
}
