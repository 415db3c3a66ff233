/*
 * confine.h - what a started program is kept from: a seccomp filter, capabilities,
 * no_new_privs, rlimits, Landlock. One value for all of it, a confinement.
 *
 * Three steps, in three places:
 *
 *   confine_new()      once, in the agent: a name or an object from a request is checked,
 *                      and its filter compiled (or found in the cache)
 *   confine_start_*()  for each process, in the parent: what the child needs
 *   confine_apply()    in the child, between fork and exec, in two phases
 *
 * The child may share the parent's memory (vfork). confine_apply() makes only system calls, allocates nothing
 * and writes nothing but its own stack and its confine_start. The second phase must be the last thing before
 * execve(2): from there on the filter is in force, and of the calls that a start still needs it lets pass
 * only sendmsg, seccomp, write, execve and exit_group.
 *
 * A denied call is answered through a listener, a descriptor that the child sends to the parent over a socket
 * of its confine_start; execd/denials.h has it and counts. Threads: one for a struct confines and what is
 * made of it; confine_apply() where it likes.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <sys/types.h>

#include "lib/err.h"

#define CONFINE_PROFILE_MAX	  (256U << 10) /* bytes of a profile file */
#define CONFINE_PROFILES_MAX	  32	       /* loaded at start, beside those built in */
#define CONFINE_CACHE_MAX	  64	       /* compiled filters that wait for the next user */
#define CONFINE_NAME_MAX	  64	       /* bytes of a profile's name */
#define CONFINE_PATHS_MAX	  64	       /* of each Landlock list */
#define CONFINE_RLIMITS_MAX	  16
#define CONFINE_SYSCALL_NAMES_MAX 4096 /* of a profile, over all its rules */

/* ---- in the agent ------------------------------------------------------- */

/* The profiles by name, and the compiled filters. */
struct confines;
int confines_new(struct confines **ret);
void confines_free(struct confines *cs);
/* A profile file (OCI seccomp JSON) under a name of its own; -errno with *err that names file and place. */
int confines_load(struct confines *cs, const char *name, const char *path, struct err *err);

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

/* ---- for each process, in the parent ----------------------------------------- */

struct confine_start {
	struct confine *confine; /* a reference */
	int socket;		 /* ours: the listener comes through it */
	int child_socket;	 /* the child must have it, close-on-exec or not, as number child_fd */
	int child_fd;		 /* set by the caller before the child is made */
	bool had_ids;		 /* set by the caller: the child changes to another user than root */
	/* Written by confine_apply() when it fails; a copy of the memory (fork) has to bring it home itself.
	 */
	const char *step; /* static: "install the seccomp filter", ... */
};

/* c may be NULL: then everything below does nothing. confine_start_done() in any case. */
int confine_start_init(struct confine_start *s, struct confine *c, struct err *err);
/* Once the child has been made: closes the child's end. */
void confine_start_made(struct confine_start *s);
/*
 * Once the child has reached exec: the listener, owned by the caller; -ENOENT when there is none, because
 * nothing is denied or because this kernel, or a filter over us, does not allow one.
 */
int confine_start_listener(struct confine_start *s);
void confine_start_done(struct confine_start *s);
/* Words for the failed step: "install the seccomp filter: operation not permitted (needs ...)". */
int confine_start_fail(const char *step, int errnum, const char *program, struct err *err);

/* ---- in the child ------------------------------------------------------------ */

enum confine_phase {
	CONFINE_BEFORE_IDS,  /* with all privileges, mounts in place: bounding set, rlimits, Landlock */
	CONFINE_BEFORE_EXEC, /* last of all: capabilities, no_new_privs, the filter */
};

/* 0, or -1 with errno and s->step. */
int confine_apply(struct confine_start *s, enum confine_phase phase);

/* ---- denied calls ---------------------------------------------------------------- */

struct seccomp_data;
/* The answer to a notified call: a positive errno, or 0: let it go on (record mode). */
int confine_verdict(const struct confine *c, const struct seccomp_data *data);
/* The name of a system call as clients see it; static or in out, which is returned. arch: AUDIT_ARCH_*. */
#define CONFINE_SYSCALL_MAX 48
const char *confine_syscall_name(uint32_t arch, int nr, char out[CONFINE_SYSCALL_MAX]);
/* "x86_64", "i386", "x32", ... */
const char *confine_arch_name(uint32_t arch, int nr);
