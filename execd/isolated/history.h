/*
 * history.h - the layers of a session in time: which of them is of which run,
 * the way back, and the way into the workspace.
 *
 * A session that is undoable gets a *point* before a run: from there on its
 * overlays are written to in a new layer. What that needs is that nobody stands
 * in the mount that is replaced but the idle shell, which is sent to its
 * directory anew. So a run belongs to the point of the run before it when that
 * has left processes behind or files of an overlay open in the shell, when other
 * runs are on, or when it is a background run; going back to a point takes all its runs along. At most
 * points_max are kept; then the oldest two become one.
 *
 * Nothing here blocks: layers are worked on by workers, one piece of work at a
 * time, while the session is held. Loop thread only.
 */
#pragma once

#include <jansson.h>

#include "execd/isolated/layer_commit.h"

#define HISTORY_POINTS_DEFAULT 32
#define HISTORY_POINTS_MAX     60   /* ROOM_LAYERS_MAX, and room for the layers of commits */
#define HISTORY_RUNS_MAX       4096 /* runs that are known by their id */
#define HISTORY_REPLY_MAX      (4U << 20)

struct execd;
struct history;
struct isolated;
struct run;

/* points_max 0: not undoable. The session is borrowed until history_drop(). */
int history_new(struct execd *execd, struct isolated *s, unsigned points_max, struct history **ret);
/* The session is going. NULL is fine. */
void history_drop(struct history *h);
/* The room is ready. */
void history_ready(struct history *h);

/*
 * A run is about to be made. true: what it stands in may have been replaced, or
 * is being for a point before it (the session is held until then): it must go to
 * its directory anew.
 */
bool history_before_run(struct history *h, bool background);
/* It has been made. */
void history_run(struct history *h, const struct run *run);
/* A run has ended: what is on disk is measured against its limit. */
void history_run_ended(struct history *h);
/*
 * Whether a run may begin: ERR_CONFLICT during commit and undo; ERR_TOO_LARGE
 * when a workspace on disk is over its size_bytes, until that is undone.
 */
int history_check_run(const struct history *h, struct err *err);

/*
 * What the session has changed in `workspace` (a path; NULL: its first overlay),
 * or what the runs of one point have (run: the id of any of them, NULL: all).
 * history_read_end() in any case where it returned 0; until then nothing is joined or undone.
 */
int history_read(struct history *h, const char *workspace, const char *run, struct layer_view *ret,
		 struct err *err);
void history_read_end(struct history *h, struct layer_view *view);

/* done(arg, 0 or -errno with *err, the JSON of the answer). */
typedef void history_done_fn(void *arg, int r, const struct err *err, struct buf *answer);

/* paths: array of strings, or NULL; shared. */
int history_commit(struct history *h, const char *workspace, json_t *paths, bool force, history_done_fn *done,
		   void *arg, struct err *err);
/* Back to before the run (NULL: the last one). */
int history_undo(struct history *h, const char *run, history_done_fn *done, void *arg, struct err *err);
/* The points with their runs and sizes. */
int history_list(struct history *h, history_done_fn *done, void *arg, struct err *err);
