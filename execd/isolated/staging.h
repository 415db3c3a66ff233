/*
 * staging.h - where a commit makes what it then moves to its name: a directory in the workspace.
 *
 * It is locked (flock) as long as its commit lives, in whichever container over
 * the same volume that is; so what nobody has locked is of one that was killed, and goes. Its
 * names, ".execd-commit-*", are reserved: what a room calls so is not committed. Only
 * one that is ours and open to nobody else is used or removed.
 *
 * What says nothing else blocks: workers.
 */
#pragma once

#include <stdbool.h>
#include <time.h>

#include "lib/pool.h"

#define STAGING_PREFIX ".execd-commit-"
#define STAGING_MAX    8 /* names that are looked at for what was left; when all are taken, one by chance */
#define STAGING_NEW    "new"

struct staging {
	int fd;	    /* in it STAGING_NEW is made; -EBADF: not open */
	int parent; /* ours */
	char name[40];
	struct timespec before[2], after; /* times of the parent, and its mtime once this was in it */
	bool kept; /* whoever moved something into the parent says so: the times stay */
};

#define STAGING_INIT ((struct staging){.fd = -EBADF, .parent = -EBADF})

/* Removes what was left first. -errno */
int staging_open(struct staging *s, int dirfd);
/* Removes it, and the trace in the parent's times. Also when it is not open. */
void staging_close(struct staging *s);

bool staging_is_name(const char *name);
/* Removes those of the dead. */
void staging_sweep(int dirfd);
/* By a worker, when there are any. Loop thread; dirfd is borrowed. */
void staging_sweep_later(struct pool *pool, int dirfd);
