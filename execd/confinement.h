/*
 * confinement.h - how what is started here is confined: profiles, defaults, the start itself.
 *
 * Whatever runs a client's code takes the field `confinement` of its request, or
 * the default of its kind, and starts through confined_spawn().
 */
#pragma once

#include <jansson.h>

#include "execd/denials.h"
#include "lib/child.h"
#include "seccomp/confine.h"

struct execd;

enum confined { CONFINED_COMMANDS, CONFINED_SESSIONS, CONFINED_PTYS, CONFINED_CONTEXTS, CONFINED_N };

/* Lives as long as the agent. */
struct confinement;

/*
 * defaults: "strict", or "commands=strict,contexts=default,..."; profiles: "name=path,..."; NULL: none.
 * -EINVAL with *err.
 */
int confinement_new(const char *defaults, const char *profiles, struct confinement **ret, struct err *err);
void confinement_free(struct confinement *c);

/*
 * given: the field `confinement` of a request, or NULL; *ret is a reference, NULL for "off". ERR_INVALID with
 * *err that names the place.
 */
int confinement_get(struct confinement *c, enum confined kind, json_t *given, struct confine **ret,
		    struct err *err);

/*
 * child_spawn() of what `confine` (NULL: nothing) confines. *ret_denials is the caller's to let go of with
 * confinement_let_go(); NULL when there is nothing to listen to. id: what the log calls it.
 */
int confined_spawn(struct execd *execd, struct child *c, const struct spawn *spec, struct confine *confine,
		   const char *id, child_exit_fn *on_exit, struct denials **ret_denials, struct err *err);
/*
 * The same for a process that has put it on by itself: *ret_denials is set when there is a listener. start
 * stays the caller's.
 */
void confinement_listen(struct execd *execd, struct confine_start *start, const struct confine *confine,
			const char *id, struct denials **ret_denials);
void confinement_let_go(struct execd *execd, struct denials *d);

/* Profiles, defaults, and what this kernel and process can do; NULL without memory. */
json_t *confinement_describe(const struct confinement *c);
/* What is applied, as a JSON object on the heap; NULL of nothing, or without memory. */
char *confinement_json(const struct confine *c);
