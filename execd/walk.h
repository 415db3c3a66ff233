/*
 * walk.h - everything below a directory, parents before children, each
 * directory in the byte order of its names.
 *
 * Resumable: walk_next() may be called from one worker now and from another
 * later. Links are not followed and each level is entered through a descriptor
 * of the one above, so nothing that is renamed meanwhile leads out of the tree.
 * What vanishes is passed over, and what may not be read unless walk_strict().
 *
 * Memory: the names of the directories on the way down, WALK_BYTES_MAX in all;
 * at most WALK_FDS_MAX descriptors whatever the depth.
 */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "lib/err.h"

#define WALK_BYTES_MAX (64U << 20)
#define WALK_FDS_MAX   16
#define WALK_PATH_MAX  (1U << 20) /* bytes of one path below the root */

struct walk;

struct walk_entry {
	int dirfd;	  /* of the directory it is in; borrowed until the next call */
	const char *name; /* there */
	const char *path; /* relative to the root; both borrowed until the next call */
	bool is_dir;	  /* a real one: it will be entered, unless it is at depth_max */
};

/* fd: a directory, taken. depth_max: levels below it that are told, 1 is its own entries. */
int walk_new(int fd_consumed, uint64_t depth_max, struct walk **ret);
void walk_free(struct walk *w);
/* From now on a directory that may not be read ends the walk with its error. */
void walk_strict(struct walk *w);
/*
 * 1: *ret; 0: the end. -errno when the walk cannot go on: no memory, no
 * descriptors (EMFILE, ENFILE), a disk that fails (EIO), -E2BIG over
 * WALK_BYTES_MAX, -ENAMETOOLONG over WALK_PATH_MAX.
 */
int walk_next(struct walk *w, struct walk_entry *ret);
/* Whether such a failure with one entry says something of the rest, so that passing over it would be a lie.
 */
bool walk_is_fatal(int r);
/* The directory told last is not entered. */
void walk_skip(struct walk *w);
