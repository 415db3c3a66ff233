/*
 * apply.h - puts a confinement on the calling thread: the part that runs in the child.
 *
 * A plan is one flat block of memory without pointers, made by confine.h from a
 * request: it can be used where it is, in a child that shares the agent's
 * memory, or sent to a process that does not. apply.c depends on nothing but the
 * kernel: it makes system calls, allocates nothing, locks nothing and writes to
 * its own stack only.
 *
 * Two phases. In between the child changes its user, directory and what else it
 * has to. The second phase must be the last thing before execve(2): from there on
 * the filter is in force, and of the calls that a start still needs it is sure to
 * let pass only sendmsg, seccomp, write, execve and exit_group.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define CONFINE_PLAN_VERSION 1

enum {
	CONFINE_NO_NEW_PRIVS = 1 << 0,
	CONFINE_CAPS = 1 << 1,	   /* keep those of `caps`, no others */
	CONFINE_LANDLOCK = 1 << 2, /* nothing but what the paths allow */
	CONFINE_NOTIFY = 1 << 3,   /* the filter wants a listener; without one it denies in silence */
	CONFINE_RECORD = 1 << 4,   /* without a listener there is no filter at all */
};

struct confine_block {
	uint32_t at, n; /* bytes from the beginning of the plan; elements */
};

struct confine_rlimit {
	uint64_t soft, hard;
	uint32_t resource, pad;
};

struct confine_plan {
	uint32_t size, version, flags, pad;
	uint64_t caps;
	uint64_t landlock_fs, landlock_net, landlock_scope; /* what is handled: all that this kernel knows */
	uint64_t landlock_read, landlock_write;		    /* what the two kinds of paths allow */
	struct confine_block read_paths, write_paths;	    /* n strings, each with its NUL */
	uint32_t read_optional, write_optional;		    /* of the first ones any may be missing */
	struct confine_block rlimits;			    /* struct confine_rlimit */
	struct confine_block notify;			    /* struct sock_filter: the one with a listener */
	struct confine_block
		rest; /* on top of it: what a start needs, and the profile denies; may be empty */
	struct confine_block plain; /* instead of both where there can be no listener */
};

enum confine_phase {
	CONFINE_BEFORE_IDS,  /* with all privileges, mounts in place: rlimits, bounding set, Landlock */
	CONFINE_BEFORE_EXEC, /* last of all: capabilities, the filter */
};

enum confine_step {
	CONFINE_STEP_NONE,
	CONFINE_STEP_PLAN, /* not one of ours */
	CONFINE_STEP_RLIMITS,
	CONFINE_STEP_BOUNDING,
	CONFINE_STEP_NO_NEW_PRIVS,
	CONFINE_STEP_LANDLOCK_RULESET,
	CONFINE_STEP_LANDLOCK_READ_PATH,
	CONFINE_STEP_LANDLOCK_WRITE_PATH,
	CONFINE_STEP_LANDLOCK,
	CONFINE_STEP_AMBIENT,
	CONFINE_STEP_CAPABILITIES,
	CONFINE_STEP_FILTER,
	CONFINE_STEP_LISTENER, /* send the listener home */
};

/*
 * What did not work; index: which path of the list. listener: the descriptor of the listener that was sent
 * home, close-on-exec, or -1; whoever runs on without an exec has to close it before anything of a user's is
 * run, for it answers for the filter.
 */
struct confine_fault {
	enum confine_step step;
	uint32_t index;
	int listener;
};

/*
 * socket: a connected AF_UNIX socket that takes the listener home, or -1: then there is none, and denied
 * calls are answered in silence. It becomes close-on-exec. 0, or -errno and *fault.
 */
int confine_apply(const struct confine_plan *plan, int socket, enum confine_phase phase,
		  struct confine_fault *fault);
