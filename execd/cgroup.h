/*
 * cgroup.h - where the agent stands in the cgroup hierarchies, and how their files are read.
 *
 * Sources: cgroups(7), Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/.
 */
#pragma once

#include "lib/buf.h"

#define CGROUP_PATH_MAX 4096
#define CGROUP_FILE_MAX 65536

enum cgroup_version { CGROUP_1, CGROUP_2 };

/*
 * The directory of our cgroup in the hierarchy that has the controller, under
 * /sys/fs/cgroup. -ENOENT when the container does not show it.
 */
int cgroup_find(const char *controller, char ret_path[CGROUP_PATH_MAX], enum cgroup_version *ret_version);

/* The whole file as text in b, or NULL. */
const char *cgroup_text(int dirfd, const char *path, struct buf *b);
/* The number that follows key at the start of a line. */
int cgroup_field(const char *text, const char *key, uint64_t *ret);
/* A file that is one number. */
int cgroup_number(int dirfd, const char *path, struct buf *b, uint64_t *ret);

/* Processes killed for want of memory in the cgroup of a memory controller. */
int cgroup_oom_kills(int dirfd, uint64_t *ret);
