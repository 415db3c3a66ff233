/*
 * watch_nodes.c - the directories of a tree that are watched, by path and by kernel watch.
 *
 * Owns the nodes, and the names that the last scan has told of. Loop only: a
 * scan hands over what it found.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>

#include "execd/watch_priv.h"

static void wd_key(int wd, char key[WATCH_WD_KEY_MAX])
{
	(void)snprintf(key, WATCH_WD_KEY_MAX, "%d", wd);
}

struct watch_node *watch_node_by_wd(const struct watch_tree *t, int wd)
{
	char key[WATCH_WD_KEY_MAX];
	struct map_node *node;

	wd_key(wd, key);
	node = map_get(&t->by_wd, key);
	return node ? container_of(node, struct watch_node, by_wd) : NULL;
}

void watch_node_drop(struct watch_tree *t, struct watch_node *n)
{
	map_del(&t->by_path, &n->by_path);
	map_del(&t->by_wd, &n->by_wd);
	free(n);
}

/* wd watches path now, whatever was known of either. */
int watch_node_put(struct watch_tree *t, int wd, const char *path)
{
	struct watch_node *n = watch_node_by_wd(t, wd);
	struct map_node *other;
	size_t size = strlen(path) + 1;

	if (n && strcmp(n->path, path) == 0)
		return 0;
	if (n)
		watch_node_drop(t, n);
	other = map_get(&t->by_path, path);
	if (other)
		watch_node_drop(t, container_of(other, struct watch_node, by_path));
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
static struct map_node *nodes_take(struct watch_tree *t, const char *dir)
{
	struct map_node *taken = NULL;
	size_t n = strlen(dir);

	for (size_t i = 0; i < t->by_path.buckets_n; i++) {
		struct map_node *at = t->by_path.buckets[i];

		while (at) {
			struct watch_node *node = container_of(at, struct watch_node, by_path);

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
void watch_nodes_drop(struct watch_tree *t, const char *dir)
{
	struct map_node *at = nodes_take(t, dir);

	while (at) {
		struct watch_node *node = container_of(at, struct watch_node, by_path);

		at = at->next;
		if (t->fd >= 0)
			(void)inotify_rm_watch(t->fd, node->wd);
		free(node);
	}
}

void watch_nodes_free(struct watch_tree *t)
{
	struct map_node *at = nodes_take(t, "");

	while (at) {
		struct map_node *next = at->next;

		free(container_of(at, struct watch_node, by_path));
		at = next;
	}
	map_done(&t->by_path);
	map_done(&t->by_wd);
}

void watch_nodes_rename(struct watch_tree *t, const char *from, const char *to)
{
	_cleanup_buf_ struct buf path = BUF_INIT(WATCH_PATHS_MAX);
	struct map_node *at = nodes_take(t, from);
	size_t from_n = strlen(from);

	while (at) {
		struct watch_node *node = container_of(at, struct watch_node, by_path);

		at = at->next;
		buf_clear(&path);
		(void)buf_puts(&path, to);
		(void)buf_puts(&path, node->path + from_n);
		if (path.failed || !buf_cstr(&path) ||
		    watch_node_put(t, node->wd, (const char *)path.data) < 0)
			(void)inotify_rm_watch(t->fd, node->wd);
		free(node);
	}
}

static void free_seen(struct map_node *node)
{
	free(container_of(node, struct watch_seen, node));
}

void watch_seen_clear(struct watch_tree *t)
{
	map_clear(&t->seen, free_seen);
	t->window = 0;
}

/* Without memory the event is told twice. */
void watch_seen_add(struct watch_tree *t, const char *path)
{
	size_t n = strlen(path) + 1;
	struct watch_seen *s = malloc(sizeof(*s) + n);

	if (!s)
		return;
	memcpy(s->path, path, n);
	if (map_add(&t->seen, &s->node, s->path) < 0)
		free(s);
}

/* Whether path was told by the scan; only its first event counts. */
bool watch_seen_take(struct watch_tree *t, const char *path)
{
	struct map_node *node = t->seen.len > 0 ? map_get(&t->seen, path) : NULL;

	if (!node)
		return false;
	map_del(&t->seen, node);
	free(container_of(node, struct watch_seen, node));
	return true;
}
