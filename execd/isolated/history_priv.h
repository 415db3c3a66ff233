/*
 * history_priv.h - what a history is made of, for the files that make it.
 */
#pragma once

#include "execd/isolated/history.h"
#include "execd/isolated/layer_stack.h"
#include "execd/isolated/room.h"
#include "lib/pool.h"

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
	struct buf listed_points,
		listed_runs; /* LIST: as they were when it began, for runs may come meanwhile */
	history_done_fn *done;
	void *done_arg;
	/* POINT, UNDO: */
	size_t back_to;	 /* the point */
	unsigned layer;	 /* the one that is added */
	bool want_point; /* once the work at hand is done */
	bool join, finishing;
	size_t remounted;
	/* COMMIT: */
	const struct overlay *target;
	json_t *paths;
	bool force;
};

void history_unref(struct history *h);
struct room_mount *history_mount_of(const struct history *h, const struct overlay *o);
int history_find_overlay(const struct history *h, const char *workspace, const struct overlay **ret,
			 struct err *err);
/* ERR_CONFLICT while something is being done. */
int history_busy(const struct history *h, struct err *err);
/* run() on a worker; then, for POINT and UNDO, h->layer is mounted. */
int history_work_start(struct history *h, enum doing doing, void (*run)(struct pool_job *job),
		       struct err *err);

/* ---- history_point.c */
struct point *history_point_at(const struct history *h, size_t i);
size_t history_points_n(const struct history *h);
struct known *history_known_at(const struct history *h, size_t i);
size_t history_known_n(const struct history *h);
/* The one the run (NULL: the last) belongs to. */
int history_find_point(const struct history *h, const char *run, size_t *ret, struct err *err);
/* Going back to a run takes along what shares its point: that must be later ones only. */
int history_check_first(const struct history *h, const char *run, size_t point, struct err *err);
void history_point_begin(struct history *h);
void history_point_over(struct history *h);

/* ---- history_undo.c */
/* Worker: the layers undone are removed, or, when that came to nothing, as they were. */
void history_undo_finish(struct pool_job *job);
void history_undo_over(struct history *h);

/* ---- history_commit.c */
void history_commit_over(struct history *h);
