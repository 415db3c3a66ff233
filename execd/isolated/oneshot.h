/*
 * oneshot.h - one call in a room of its own, which is gone afterwards.
 *
 * A call is a shell command, with an event on its standard input, or a Python
 * function that gets the event and returns a JSON value. Rooms that are there
 * already make both fast, for a function with a Python that waits in it: of each
 * kind four times as many as the agent keeps kernel spares, from the first call
 * of that kind on; each serves one call.
 *
 * What a call writes is in the log of its run, how it ended in its end.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>

#include "execd/isolated/isolated.h"

struct oneshots;
struct oneshot;

#define ONESHOT_RESULT_MAX (4U << 20) /* bytes of what a function returns */

int oneshots_new(struct execd *execd, struct rooms *rooms, struct oneshots **ret);
void oneshots_free(struct oneshots *os);

struct oneshot_spec {
	const struct isolated_spec *room; /* NULL: a plain strict one, of which some wait prepared */
	const char *command;		  /* for the shell; or */
	json_t *call;			  /* {"code" or "path", "handler", "event"}: a Python function */
	const char *event;		  /* of a command: its standard input; NULL: none */
	json_t *envs;			  /* of a command, or NULL */
	uint64_t timeout_ms;		  /* 0: none */
};

/* The run has ended, all it wrote is in its log; os is freed when this returns. */
typedef void oneshot_done_fn(void *arg, struct oneshot *o);
int oneshot_start(struct oneshots *os, const struct oneshot_spec *spec, oneshot_done_fn *done, void *arg,
		  struct oneshot **ret, struct err *err);
/* Nobody waits for it any more: it is ended. No done(). */
void oneshot_cancel(struct oneshot *o);

/* Why there was no room for it; NULL: there was one. Borrowed. */
const struct err *oneshot_failure(const struct oneshot *o);
struct run *oneshot_run(struct oneshot *o);
bool oneshot_timed_out(const struct oneshot *o);
/*
 * What the function has left: {"result": ...} or {"error": {...}}; *ret, the caller's, is NULL when it did
 * not get that far. An error: what it has left is no JSON (NaN is none), too large once parsed, or cannot be
 * read.
 */
int oneshot_result(struct oneshot *o, json_t **ret, struct err *err);
