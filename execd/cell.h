/*
 * cell.h - the cells of one context: those that wait, and the one that runs.
 *
 *   WAITING -> SENT -> STARTED -> ended
 *
 * A cell is a run (run.h); its events are written here. Which kernel runs it,
 * and when the next one may begin, is the context's to say. Loop thread only.
 */
#pragma once

#include <jansson.h>

#include "execd/context.h"
#include "execd/run.h"
#include "lib/loop.h"

struct cell;
struct kernel;

/* In place, in its context. */
struct cells {
	struct execd *execd;
	struct kernel *kernel; /* borrowed; NULL: there is none, and nothing may be running */
	int64_t count;	       /* cells begun in this kernel */
	struct list waiting;
	size_t waiting_n, waiting_bytes;
	struct cell *current;
	uint64_t output_max; /* bytes that one cell may write; 0: any number */
	uint64_t output_budget;
	struct loop_timer timeout, again;
};

void cells_init(struct cells *q, struct execd *execd);
/* Ends all of them as cancelled, with that error. */
void cells_done(struct cells *q, const char *ename, const char *evalue);

/* A new one at the end of the queue; context is the id that its init event names. *ret_run: for the caller.
 */
int cells_add(struct cells *q, const char *context, const struct context_cell *spec, struct run **ret_run,
	      struct err *err);
/* The first that waits is now the current one, though not sent yet: its run, borrowed. */
struct run *cells_begin(struct cells *q);
/* Sends it to the kernel; a failure ends it. */
int cells_send(struct cells *q);

/* What the kernel said of the current one. */
void cells_started(struct cells *q);
void cells_interrupted(struct cells *q);
void cells_overflow(struct cells *q);
void cells_result(struct cells *q, json_t *data);
void cells_ended(struct cells *q, json_t *message);

/* Ends the current one. *end's members are taken. */
void cells_end_current(struct cells *q, struct run_end *end);
void cells_end_waiting(struct cells *q, enum run_reason reason, const char *ename, const char *evalue);
void cells_end_all(struct cells *q, enum run_reason reason, const char *ename, const char *evalue);

/* -ESRCH when none runs. */
int cells_interrupt(struct cells *q);
/* The current one's, borrowed, or NULL. */
struct run *cells_current(const struct cells *q);

/* An event of type status. */
void cell_emit_status(struct run *run, const char *text);
/* Replaces the error of an end. */
void cell_set_error(struct run_end *end, const char *ename, const char *evalue);
