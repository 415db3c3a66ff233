/*
 * cgroup.h - control groups of sandboxes, on cgroup v1, v2, both mixed, or none.
 *
 * They are made here and not by the OCI runtime, so that limits, out-of-memory
 * kills and the removal work the same whatever runtime and hierarchy there are.
 * One group a sandbox, `sandboxd/<id>`, in the unified hierarchy or in each v1
 * controller we use. What cannot be enforced is told, never silently dropped.
 *
 * The struct is constant after cgroups_probe(); the functions may run on
 * worker threads.
 */
#pragma once

#include "lib/err.h"
#include "sandboxd/runtime.h"

#define CGROUP_PATH_MAX	 256
#define CGROUP_NOTES_MAX 192

enum cgroup_controller { CGROUP_CPU, CGROUP_MEMORY, CGROUP_PIDS, CGROUP_FREEZER, CGROUP_CONTROLLERS };

struct cgroups {
	bool unified;			    /* v2: base[0] for all */
	bool freeze_v2;			    /* base[CGROUP_FREEZER] has cgroup.freeze, also beside v1 */
	bool usable[CGROUP_CONTROLLERS];    /* the controller's limits can be set */
	char base[CGROUP_CONTROLLERS][128]; /* "" where there is no group */
};

void cgroups_probe(struct cgroups *cg);
/* Removes the base directories when they are empty. */
void cgroups_done(const struct cgroups *cg);

/* Makes the groups and sets the limits. notes: what is not enforced, or "". */
int cgroups_create(const struct cgroups *cg, const char *id, const struct runtime_limits *limits,
		   char notes[CGROUP_NOTES_MAX], struct err *err);
/* Sets them on groups that are there. notes: as above. */
void cgroups_limit(const struct cgroups *cg, const char *id, const struct runtime_limits *limits,
		   char notes[CGROUP_NOTES_MAX]);
/* The cgroup.procs files a process joins by writing to them; returns how many. */
size_t cgroups_join_files(const struct cgroups *cg, const char *id,
			  char ret[CGROUP_CONTROLLERS][CGROUP_PATH_MAX]);
/*
 * Stops every process of the group, or lets them go on; returns when it is so. Blocks for at most
 * FREEZE_WAIT_MS: -ETIMEDOUT (and they go on). -ESRCH: there is no process. -ENOTSUP: no freezer.
 */
#define FREEZE_WAIT_MS 10000
int cgroups_freeze(const struct cgroups *cg, const char *id, bool on);
/* Lets them go on, without waiting; harmless where nothing is frozen. What is to die must be able to. */
void cgroups_thaw(const struct cgroups *cg, const char *id);
/* The memory limit has killed something in it. */
bool cgroups_oom(const struct cgroups *cg, const char *id);
/* Kills what is in them and removes them; harmless where there are none. -EBUSY when they do not empty. */
int cgroups_remove(const struct cgroups *cg, const char *id);
