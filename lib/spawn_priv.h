/*
 * spawn_priv.h - what spawn.c (the parent) and spawn_child.c (the child, up to its exec) share.
 */
#pragma once

#include <sys/types.h>

#include "lib/spawn.h"

#define SPAWN_OOM_FILE "/proc/self/oom_score_adj"

enum stage {
	STAGE_NONE, /* exec was reached */
	STAGE_SESSION,
	STAGE_CGROUP,
	STAGE_FDS,
	STAGE_LIMITS,
	STAGE_IDS,
	STAGE_TERMINAL,
	STAGE_PARENT,
	STAGE_CWD,
	STAGE_HOOK,
	STAGE_EXEC,
};

struct report {
	enum stage stage;
	int errnum;
	uint32_t detail[2]; /* of the hook */
};

/* All that the child needs, prepared by the parent. */
struct plan {
	const struct spawn *spec;
	struct spawn_fd fds[SPAWN_FDS_MAX + 3];
	size_t fds_n;
	int fd_above;	/* greater than every child_fd */
	int keep_below; /* the table is shared: take a copy of this much of it; 0 when it is ours */
	int cgroup_fds[SPAWN_CGROUPS_MAX];
	char *programs;		     /* paths to try, each with its NUL; an empty one ends them */
	const struct rlimit *nofile; /* its limit of descriptors; NULL: ours */
	const char *oom_score;	     /* its oom_score_adj; empty: ours */
	pid_t parent;
	int report_fd; /* -EBADF when memory is shared */
	struct report report;
};

/* For clone(2); arg is a struct plan. Ends in the exec or in a report. */
int spawn_child(void *arg);
