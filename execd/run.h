/*
 * run.h - one execution: its id, its output log, its state and how it ended.
 *
 * A foreground or background command, a run in a shell session and a cell of a
 * code context are all runs; everything that shows an execution to a client
 * (event stream, status, logs) works on this noun alone.
 *
 *   QUEUED -> RUNNING -> ENDED
 *
 * Ended runs are kept, newest first, within runs_max and the age limit, so
 * that a client that comes back finds the result.
 */
#pragma once

#include <stdbool.h>
#include <sys/resource.h>

#include "execd/output.h"
#include "lib/map.h"

enum run_state { RUN_QUEUED, RUN_RUNNING, RUN_ENDED };

enum run_reason {
	RUN_EXITED,	 /* on its own, with an exit code */
	RUN_SIGNALLED,	 /* by a signal not ours */
	RUN_TIMEOUT,	 /* by its wall-time limit */
	RUN_OOM,	 /* by its memory limit */
	RUN_INTERRUPTED, /* by a client's interrupt */
	RUN_CANCELLED,	 /* its owner (session, context, agent) went away */
	RUN_OUTPUT_LIMIT,
	RUN_FAILED, /* a cell raised, a kernel died: see error */
};

/* "exited", "signalled", ... as the API names them. */
const char *run_reason_name(enum run_reason reason);

struct err;
struct jw;

struct run_end {
	enum run_reason reason;
	int exit_code; /* -1 when it did not exit */
	int signo;     /* 0 when no signal ended it */
	struct rusage usage;
	uint64_t processes_killed; /* by SIGKILL to the whole tree */
	uint64_t oom_kills;	   /* processes that its bound on memory has cost */
	/* For a cell: what was raised. Strings are owned by the run. NULL: none. */
	char *ename;
	char *evalue;
	char **traceback;
	size_t traceback_n;
};

struct run;

struct run_ops {
	/* A client asks it to stop. -ESRCH when it has ended. */
	int (*interrupt)(struct run *run);
	/* A run that stands for others (a session): the one an interrupt goes to, NULL: none. Optional. */
	struct run *(*current)(struct run *run);
	/* A signal for its process group, or for its first process alone. -ESRCH when that has ended.
	 * Optional. */
	int (*signal)(struct run *run, int signo, bool group);
};

struct run_watch {
	struct list link;
	void (*ended)(struct run_watch *w);
};

struct runs;

struct run {
	struct map_node node;
	struct list link; /* the registry's: live, or ended in order of end */
	struct list held; /* the registry's: ended runs whose output is still there */
	struct list all;  /* the registry's, in order of creation */
	size_t held_memory;
	uint64_t held_spill;
	struct runs *runs; /* NULL once the registry has gone */
	unsigned refs;

	uint64_t number; /* counts every run of the agent, from 1 */
	char *id;	 /* unique */
	char *init_text; /* text of the init event; the id when NULL */
	char *content; /* the command line or the code, as given; may be cut to RUN_CONTENT_MIN once ended */
	char *session; /* the isolated session it ran in; NULL: none */
	char *confinement; /* what confines it, as a JSON object (confinement.h); NULL: nothing does */
	char *denied;	   /* system calls that were denied, as a JSON array; NULL: none */
	char *profile;	   /* of a recorded command: what it needs, OCI JSON; NULL otherwise */
	char *limits;	   /* what bounds it, as a JSON object (limits.h); NULL: nothing does */
	bool background;
	bool command; /* one of POST /command and its kin */
	bool code;    /* a cell: ends with its own error, not CommandExecError */

	enum run_state state;
	uint64_t created_ms, started_ms, ended_ms; /* Unix milliseconds, 0: not yet */
	uint64_t started_mono_ms, ended_mono_ms;
	struct output *output;
	struct run_end end; /* valid when state is ENDED */
	struct list watches;

	const struct run_ops *ops;
	void *owner; /* the command, session or context; NULL once ended */
};

#define RUN_CONTENT_MIN 1024

struct runs_limits {
	size_t ended_max;      /* ended runs kept (0: 1024) */
	uint64_t ended_age_ms; /* and for how long (0: one hour) */
	/* What the outputs of ended runs may cost; over it the oldest lose theirs, and keep their end record.
	 */
	size_t ended_memory_max;  /* (0: 16 MiB) */
	uint64_t ended_spill_max; /* (0: 512 MiB) */
	size_t live_max;	  /* live runs at once (0: 4096); one more is -EAGAIN */
	struct output_limits output;
};

int runs_new(struct loop *loop, const struct runs_limits *limits, struct runs **ret);
void runs_free(struct runs *runs);

/* A run in state QUEUED with one reference for the caller, who must bring it to ENDED. */
int run_new(struct runs *runs, const char *content, const struct run_ops *ops, void *owner, struct run **ret,
	    struct err *err);
struct run *run_ref(struct run *run);
void run_unref(struct run *run);
struct runs_counts {
	size_t live, ended; /* now */
	uint64_t total;	    /* ever */
};
void runs_count(const struct runs *runs, struct runs_counts *ret);

/* Borrowed, or NULL. */
struct run *runs_get(struct runs *runs, const char *id);
/* The newest run with a number below `before` (UINT64_MAX: any), or NULL. Cheap when called with the number
 * it gave. */
struct run *runs_before(struct runs *runs, uint64_t before);

void run_started(struct run *run);
/* Takes the strings in *end. Closes the output, wakes readers and watches. Once; owner and ops are forgotten.
 */
void run_ended(struct run *run, struct run_end *end);
/* "SIGTERM"; in out, which is returned. */
#define RUN_SIGNAL_MAX 16
const char *run_signal_name(int signo, char out[RUN_SIGNAL_MAX]);
int run_interrupt(struct run *run);
/* -ESRCH when it has ended, -EOPNOTSUPP when it takes no signals. */
int run_signal(struct run *run, int signo, bool group);
/* The run that an interrupt of this one goes to: itself, or what it stands for at the moment. */
struct run *run_current(struct run *run);
/* What is kept of a run that has ended, as one JSON object: the terminal event and the status show the same.
 */
void run_end_json(const struct run *run, struct jw *w);

void run_watch(struct run *run, struct run_watch *w, void (*ended)(struct run_watch *w));
void run_unwatch(struct run_watch *w);
