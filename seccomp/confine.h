/*
 * confine.h - what a started program is kept from: a seccomp filter, capabilities,
 * no_new_privs, rlimits, Landlock. One value for all of it, a confinement.
 *
 * Three steps, in three places:
 *
 *   confine_new()      once, in the agent: a name or an object from a request is checked,
 *                      and its filter compiled (or found in the cache)
 *   confine_start_*()  for each process, in the parent: what the child needs
 *   confine_apply()    in the child, between fork and exec, in two phases (apply.h)
 *
 * A denied call is answered through a listener, a descriptor that the child
 * sends to the parent over a socket; execd/denials.h has it and counts. Threads:
 * one for a struct confines and what is made of it; confine_apply() where it likes.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <sys/types.h>

#include "lib/err.h"
#include "seccomp/apply.h"

#define CONFINE_PROFILE_MAX  (256U << 10) /* bytes of a profile file */
#define CONFINE_PROFILES_MAX 32		  /* loaded at start, beside those built in */
#define CONFINE_CACHE_MAX    64		  /* compiled filters that wait for the next user */
#define CONFINE_NAME_MAX     64		  /* bytes of a profile's name */
#define CONFINE_PATHS_MAX    64		  /* of each Landlock list */
#define CONFINE_RLIMITS_MAX  16

/* ---- in the agent ------------------------------------------------------- */

/* The profiles by name, and the compiled filters. */
struct confines;
int confines_new(struct confines **ret);
void confines_free(struct confines *cs);
/* A profile file (OCI seccomp JSON) under a name of its own; -errno with *err that names file and place. */
int confines_load(struct confines *cs, const char *name, const char *path, struct err *err);

/* Their names, "off" among them: a new array. */
json_t *confines_names(const struct confines *cs);

/* A checked confinement: immutable, counted references. NULL stands for none everywhere ("off"). */
struct confine;
/*
 * value: a JSON string (the name of a profile) or an object {profile, capabilities, noNewPrivileges, rlimits,
 * landlock, record}; where: how messages call it ("confinement"). *ret is NULL when it confines nothing.
 * ERR_INVALID with *err that names the place; ERR_NOT_SUPPORTED what this kernel does not have.
 */
int confine_new(struct confines *cs, json_t *value, const char *where, struct confine **ret, struct err *err);
struct confine *confine_ref(struct confine *c);
void confine_unref(struct confine *c);

/* Records which calls are made instead of denying any. */
bool confine_records(const struct confine *c);
/* What it comes to, for an answer: a new object, NULL without memory; of no confinement {"profile": "off"}.
 */
json_t *confine_describe(const struct confine *c);
/* What this kernel and this process can do of it, probed: {"seccomp": {...}, "landlock": {...}, ...}. */
json_t *confine_capabilities(void);

/* The flat block for the child; lives as long as c. NULL of none. */
const struct confine_plan *confine_plan(const struct confine *c);

/* ---- for each process, in the parent ----------------------------------------- */

struct confine_start {
	int socket;	  /* ours: the listener comes through it; -EBADF: nothing is to come */
	int child_socket; /* to be given to the child, which names it in confine_apply() */
};

/* c may be NULL: both descriptors are -EBADF then. confine_start_done() in any case. */
int confine_start_init(struct confine_start *s, const struct confine *c, struct err *err);
/*
 * Once the child has reached exec: the listener, owned by the caller; -ENOENT when there is none, because
 * nothing is denied or because this kernel, or a filter over us, does not allow one. Does not wait.
 */
int confine_start_listener(struct confine_start *s);
void confine_start_done(struct confine_start *s);
/* Words for a failed confine_apply(): "start 'x': install the seccomp filter: ...". Returns -errnum. */
int confine_fault_err(const struct confine *c, const struct confine_fault *fault, int errnum,
		      const char *program, struct err *err);

/* ---- denied calls ---------------------------------------------------------------- */

enum confine_answer { CONFINE_LET_PASS, CONFINE_DENY, CONFINE_KILL };

struct seccomp_data;
/* What a call that the listener was told of gets; *ret_errnum of CONFINE_DENY, 0 to 4095. */
enum confine_answer confine_verdict(const struct confine *c, const struct seccomp_data *data,
				    int *ret_errnum);
