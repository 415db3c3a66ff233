/*
 * context.h - code contexts: a kernel with an id, and the cells that run in it.
 *
 * Cells of one context run one after the other, in order of arrival; contexts
 * run independently. A context is itself a run that lasts as long as it does:
 * its id is the context's, an interrupt of it goes to the cell at hand, and its
 * log holds what is written between cells; the next cell's output begins with
 * that.
 *
 *   STARTING -> IDLE <-> BUSY
 *       └---------┴--------┴--> DEAD -> (restart) STARTING
 *
 * A context without cells for execd's kernel_idle_ms is evicted: its kernel is
 * ended, and it is dead in the same sense.
 *
 * A kernel that dies ends its cell, and those that wait, with the error
 * KernelDied. The context is then dead until it is restarted; the default
 * context of a language does that by itself with its next cell.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>

#include "execd/limits.h"
#include "lib/err.h"
#include "lib/list.h"

struct context;
struct contexts;
struct execd;
struct jw;
struct run;

#define CONTEXTS_MAX		   1024		/* contexts at once */
#define CONTEXT_QUEUE_MAX	   256		/* cells that wait in one context */
#define CONTEXT_QUEUE_BYTES_MAX	   (64UL << 20) /* and their code in all */
#define CONTEXT_CODE_MAX	   (16UL << 20) /* bytes of one cell */
#define CONTEXT_BACKLOG_MAX	   (64UL << 10) /* bytes written between cells that the next one begins with */
#define CONTEXT_INTERRUPT_AGAIN_MS 100		/* to the second SIGINT when the first was not acknowledged */
#define CONTEXT_INTERRUPT_TRIES	   4		/* each waits four times as long */
#define CONTEXT_INTERRUPT_GRACE_MS 5000		/* from a timeout's SIGINT to the end of the kernel */

int contexts_new(struct execd *execd, struct contexts **ret);
/* Ends every context; their cells end as cancelled. */
void contexts_free(struct contexts *cs);

/* Told once: when the kernel is ready (err NULL), or has failed, or the context is deleted before that. */
struct context_wait {
	struct list link;
	struct context *context; /* borrowed, until told */
	void (*done)(struct context_wait *w, const struct context *c, const struct err *err);
};

struct context_spec {
	json_t *confinement; /* as given (confinement.h), or NULL */
	const char *language;
	const char *cwd; /* as the client wrote it, made when it is not there; NULL: the agent's own */
	struct limits
		limits; /* of its kernel and what that starts, all together; of each of its kernels anew */
};

/* w is told later, never from here. -errno with *err: there is no such language, no such program, ... */
int context_create(struct contexts *cs, const struct context_spec *spec, struct context_wait *w,
		   struct err *err);
/* A new kernel for the context; the cells of the old one end as cancelled. */
int context_restart(struct contexts *cs, const char *id, struct context_wait *w, struct err *err);
/* A second context with the state of the first. -EBUSY while cells run or wait in it. */
int context_fork(struct contexts *cs, const char *id, struct context_wait *w, struct err *err);
/* Nobody listens any more; the context stays. */
void context_unwait(struct context_wait *w);

struct context_cell {
	const char *context;  /* id, or NULL: the default context of the language */
	const char *language; /* may be NULL with an id; else it must be the context's */
	const char *code;
	uint64_t timeout_ms; /* from the moment it starts; 0: none */
};

/* *ret_run is a reference for the caller. */
int context_run(struct contexts *cs, const struct context_cell *cell, struct run **ret_run, struct err *err);

int context_delete(struct contexts *cs, const char *id, struct err *err);
int contexts_delete(struct contexts *cs, const char *language, struct err *err);

/* NULL when there is none. */
const struct context *context_get(struct contexts *cs, const char *id);
/* language NULL: all of them, oldest first. -EINVAL when there is no such language. */
int contexts_each(struct contexts *cs, const char *language, void (*fn)(void *arg, const struct context *c),
		  void *arg, struct err *err);
/* One JSON object: id, language, and what we have to say beside that. */
void context_json(const struct context *c, struct jw *w);
const char *context_id(const struct context *c);
