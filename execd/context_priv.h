/*
 * context_priv.h - what context.c and context_kernel.c share.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "execd/cell.h"
#include "execd/context.h"
#include "execd/limits.h"
#include "lib/list.h"
#include "lib/loop.h"
#include "lib/map.h"

struct kernel_spec;

enum context_state { STARTING, IDLE, BUSY, DEAD };

struct context {
	struct map_node node;
	struct list link;
	struct contexts *contexts;
	const struct language *language;
	struct run *run; /* the context's own */
	enum context_state state;
	bool is_default;
	char *cwd;
	struct cells cells;
	struct loop_timer idle;
	struct list waits;
	uint64_t backlog; /* offset in the own log up to which cells have been told */
	char *epitaph;	  /* how the last kernel ended */
	bool reborn;	  /* the next cell says that this is a new kernel */
	bool had_waited;  /* its kernel, before it was this context's */
	bool evicted;	  /* it is dead because it was idle */
	struct limits limits;
	struct limits_hold *hold; /* NULL: none */
	struct confine *confine;  /* NULL: none */
	unsigned kernels;	  /* so far; tells their cgroups apart */
};

struct contexts {
	struct execd *execd;
	struct map by_id;
	struct list all;
	struct warm *warm;
	char *cwd;
	uint64_t oom_kills;	/* of the whole container, when last looked at */
	struct loop_defer kick; /* starts what waits, outside of the callbacks of a kernel */
};

/* ---- context.c ---- */

/* Whoever waits for its start is told: err NULL, it is ready. */
void context_tell_waits(struct context *c, const struct err *err);
/* Starts what waits in any context. */
void contexts_kick(struct loop_defer *d);
/* Its kernel and its cells end. */
void context_free(struct context *c);

/* ---- context_kernel.c ---- */

int context_begin_kernel(struct context *c, struct err *err);
void context_end_kernel(struct context *c);
/* What begin_kernel() does, in parts, for a kernel that is forked. */
void context_fill_spec(struct context *c, struct kernel_spec *spec);
int context_make_hold(struct context *c, struct err *err);
/* Its time without a cell begins. */
void context_arm_idle(struct context *c);
/* There is room in its own log again. */
void context_own_room(void *arg);
/* Has the system killed for want of memory in the container since this was last asked? -errno: nobody counts.
 */
int contexts_out_of_memory(struct contexts *cs);
