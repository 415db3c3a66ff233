/*
 * kernel.h - a supervised language process that speaks the kernel protocol.
 *
 *   STARTING -> IDLE <-> BUSY
 *       └---------┴--------┴--> DEAD
 *
 * A kernel is either started from its program (kernel_start) or forked from
 * another one (kernel_fork); from its HELLO on there is no difference. What it
 * and its subprocesses write is pumped into one log; an event is told only
 * after everything that was written before it is in that log. Loop thread only.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <sys/resource.h>

#include "execd/language.h"
#include "lib/err.h"

struct execd;
struct kernel;
struct output;

#define KERNEL_CONTROL_FD	3
#define KERNEL_ASSETS_FD	4
#define KERNEL_NATIVE_FD	5
#define KERNEL_PROTOCOL		1
#define KERNEL_START_TIMEOUT_MS 60000 /* to HELLO; a cold image on a slow disk included */
#define KERNEL_REFUSED		(-2)  /* the wstatus of a fork that the kernel to be forked has refused */
#define KERNEL_DEATH_MAX	512   /* bytes of the message about an end */

/* Called on the loop. The kernel may be freed from each of them. */
struct kernel_events {
	/* HELLO: cells can be run. */
	void (*ready)(void *owner);
	/* The cell's own code begins now: from here on an interrupt reaches it. */
	void (*started)(void *owner);
	/* An interrupt has reached the user's code. */
	void (*interrupted)(void *owner);
	/* The cell has written more than its budget; told each time it does. */
	void (*overflow)(void *owner);
	/* A result or something displayed: an object from MIME type to value; borrowed. */
	void (*result)(void *owner, json_t *data);
	/* The cell is over. end: {"status", "ename"?, "evalue"?, "traceback"?}; borrowed. */
	void (*done)(void *owner, json_t *end);
	/*
	 * It has ended, or never came to be. message says how ("was killed by
	 * signal 9 (Killed)"); wstatus is -1 when it did not get that far,
	 * KERNEL_REFUSED when the kernel that was to be forked says no.
	 * Nothing follows.
	 */
	void (*died)(void *owner, const char *message, int wstatus, const struct rusage *usage);
};

struct kernel_spec {
	const struct language *language;
	char *const *envp;	 /* of a started kernel; a forked one has its parent's */
	const char *cwd;	 /* absolute; NULL: the agent's own */
	const char *mark;	 /* TREE_MARK of it and of what it starts */
	struct confine *confine; /* NULL: none; one that is forked from a confined one has its parent's */
	struct output *output;	 /* where its output goes while no cell runs; borrowed until it is freed */
	const struct kernel_events *events;
	void *owner;
};

/* -errno with *err when the language's program is not there or cannot be started. ready() or died() follows.
 */
int kernel_start(struct execd *execd, const struct kernel_spec *spec, struct kernel **ret, struct err *err);
/*
 * The same by forking parent, which must not be running a cell, now or once it is ready. A confinement, where
 * the parent has none, only of one that can put it on (kernel_confines()).
 */
int kernel_fork(struct kernel *parent, const struct kernel_spec *spec, struct kernel **ret, struct err *err);
/*
 * Makes a ready, idle kernel that has run no cell that of spec's owner: its mark, environment and program
 * stay, the rest is spec's. ready() or died() follows, as after a start.
 */
int kernel_take_over(struct kernel *k, const struct kernel_spec *spec, struct err *err);
/*
 * Hands a kernel that has run no cell to the owner, events and output of spec; the rest of spec is not
 * looked at. ready() follows, or died().
 */
void kernel_assign(struct kernel *k, const struct kernel_spec *spec);
/* Kills it and everything it has started. No event follows. NULL is allowed. */
void kernel_free(struct kernel *k);

/* Runs a cell in an idle kernel; out (borrowed until done or died) takes its output. */
int kernel_execute(struct kernel *k, int64_t cell, const char *code, struct output *out, struct err *err);
/* Of what the next cells write only *budget bytes are kept, which they count down; NULL: all. Borrowed. */
void kernel_set_budget(struct kernel *k, uint64_t *budget);
/* The log that is written to has room again. */
void kernel_resume(struct kernel *k);
/* SIGINT to its process group, or, when that seems lost, to itself again. -ESRCH when it is dead. */
int kernel_interrupt(struct kernel *k);
int kernel_interrupt_again(struct kernel *k);
/* SIGKILL to it and everything it has started; died() follows. */
void kernel_kill(struct kernel *k);

/* What has been denied since this was last asked (denials.h), on the heap, or NULL. */
char *kernel_denied(struct kernel *k);

bool kernel_ready(const struct kernel *k);	    /* HELLO has come */
bool kernel_confines(const struct kernel *k);	    /* and what is forked from it can confine itself */
pid_t kernel_pid(const struct kernel *k);	    /* 0: not known, or dead */
const char *kernel_version(const struct kernel *k); /* of the language, or NULL */
