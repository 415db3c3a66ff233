/*
 * watch_priv.h - what the files of watch.h share: a tree, its nodes, its watchers.
 */
#pragma once

#include <limits.h>

#include "execd/walk.h"
#include "execd/watch.h"
#include "lib/list.h"
#include "lib/map.h"

#define WATCH_PATHS_MAX	 (WALK_PATH_MAX + PATH_MAX)
#define WATCH_WD_KEY_MAX 12

struct glob;

/* A directory that is watched. */
struct watch_node {
	struct map_node by_path, by_wd;
	int wd;
	char key[WATCH_WD_KEY_MAX];
	char path[]; /* below the root; "" is the root */
};

/* A path that the last scan has told of. */
struct watch_seen {
	struct map_node node;
	char path[];
};

/* The first half of a rename. */
struct watch_move {
	struct list link;
	uint32_t cookie;
	bool dir;
	uint64_t due_ms;
	char path[];
};

/* What a scan found; followed by the path. */
struct watch_found {
	int wd;	  /* -1: no directory */
	bool top; /* the scan began here */
	size_t size;
};

struct watch_scan {
	struct pool_job job;
	struct buf dirs;  /* paths to begin at, each with its NUL */
	struct buf found; /* struct watch_found... */
	bool whole;	  /* all of the tree: only its directories are handed over, nothing is told */
	bool ran;
	int result;
	size_t dirs_n;
	struct err err;
};

enum watch_state { SCANNING, LISTENING, ENDED };

struct watch_tree {
	struct list link; /* among the trees that may be joined */
	struct loop *loop;
	struct pool *pool;
	char *root;
	bool recursive;
	enum watch_state state;
	bool begun;    /* the first scan is done */
	unsigned held; /* callbacks stand in it: it is freed later */
	int fd;
	struct loop_io io;
	struct list watchers;
	struct map by_path, by_wd;
	struct list moves;
	struct loop_timer timer;
	struct watch_scan scan;
	struct map seen;
	size_t window; /* bytes of the queue in which seen counts */
	struct buf event;
};

struct watch {
	struct list link;
	struct watch_tree *tree;
	struct watch_spec spec;
	struct glob *glob;
	struct loop_defer defer; /* ready, when the tree was there already */
	bool ready;
	struct buf queue;
	size_t sent;
	bool overflow;	     /* events were dropped; told when the queue is empty */
	struct buf modified; /* the path of the last event in the queue, when that is `modified` */
};

struct watch_change {
	const char *type;
	const char *path, *from; /* below the root; from may be NULL */
	bool dir;
	const char *message; /* or NULL */
	int64_t directories; /* or -1 */
};

/* ---- watch.c: trees ---- */

/* Watchers may close themselves in their callbacks: the tree stays from hold to release. */
void watch_tree_hold(struct watch_tree *t);
void watch_tree_release(struct watch_tree *t);
/* The directory itself has gone. */
void watch_tree_end(struct watch_tree *t);

/* ---- watch_tell.c: the queues of the watchers ---- */

void watch_tell_change(struct watch_tree *t, const char *type, const char *path, const char *from, bool dir);
void watch_tell_overflow(struct watch_tree *t, const char *message);
/* all: also those whose pattern does not match. */
void watch_tell(struct watch_tree *t, const struct watch_change *c, bool all);
void watch_become_ready(struct watch *w);
/* To one watcher: the text is made in t->event, then queued. */
void watch_format(struct watch_tree *t, const struct watch_change *c);
void watch_queue(struct watch *w, const struct watch_change *c, const struct buf *event);

/* ---- watch_nodes.c: directories that are watched, names that a scan has told of ---- */

struct watch_node *watch_node_by_wd(const struct watch_tree *t, int wd);
/* wd watches path now, whatever was known of either. -ENOMEM. */
int watch_node_put(struct watch_tree *t, int wd, const char *path);
void watch_node_drop(struct watch_tree *t, struct watch_node *n);
/* Those at and below dir have left the tree: the kernel shall forget them. */
void watch_nodes_drop(struct watch_tree *t, const char *dir);
void watch_nodes_rename(struct watch_tree *t, const char *from, const char *to);
void watch_nodes_free(struct watch_tree *t);

/* Without memory the event is told twice. */
void watch_seen_add(struct watch_tree *t, const char *path);
/* Whether path was told by the scan; only its first event counts. */
bool watch_seen_take(struct watch_tree *t, const char *path);
void watch_seen_clear(struct watch_tree *t);

/* ---- watch_scan.c ---- */

/* What t->scan.dirs names. Nothing is read until it is done. */
int watch_scan_start(struct watch_tree *t, struct err *err);

/* ---- watch_event.c: what the kernel says ---- */

void watch_on_readable(struct loop_io *io, uint32_t events);
/* What was moved away has not come back within the tree. */
void watch_move_over(struct watch_tree *t, struct watch_move *m);
