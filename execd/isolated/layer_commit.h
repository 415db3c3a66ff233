/*
 * layer_commit.h - makes the workspace what the merged view shows.
 *
 * Each file is replaced by one rename, a change between a directory and
 * something else by one exchange; so after a crash each name has its old or its
 * new content, and the same commit may be made again: what is there already is
 * left alone. What a crash has left of it is in the workspace's staging.h, which the next
 * commit, or session over the workspace, removes.
 * Directories get their mode, owner and times when all in them is done. Devices
 * are not made, whoever asks. Nothing is written but below the workspace and
 * the inverse. Nothing is flushed: a power failure is not a crash of ours.
 *
 * The inverse is a layer of the same kind: committed to the same workspace it
 * takes the change back.
 */
#pragma once

#include "execd/isolated/layer.h"
#include "lib/buf.h"

#define LAYER_CONFLICTS_TOLD 100

/* From when to when changes were made by ourselves, ends included. */
struct layer_window {
	struct timespec from, to;
};

struct layer_commit_options {
	/*
	 * What in the workspace has a later change time than this has been
	 * changed by somebody else: then nothing is done (ERR_CONFLICT), unless it is
	 * changed to what would be written anyway. {0}: no questions.
	 */
	struct timespec since;
	const struct layer_window *own; /* what was changed in these counts as not changed */
	size_t own_n;
	/* Only these and what is below them, relative to the workspace; paths_n 0: all. */
	const char *const *paths;
	size_t paths_n;
	int inverse_fd; /* an empty directory, or -EBADF */
};

struct layer_commit_result {
	uint64_t added, modified, deleted; /* files, links and the like; a deleted tree is one */
	uint64_t directories;		   /* made */
	uint64_t same;			   /* there already */
	uint64_t skipped;		   /* devices */
	uint64_t bytes;			   /* copied */
	uint64_t conflicts;
	bool inverse_copied; /* the inverse is on another file system, so what it has was copied */
};

/*
 * Worker. The view has one layer below its uppers, the workspace. conflicts:
 * a JSON array of those that are told goes there (at most LAYER_CONFLICTS_TOLD).
 */
int layer_commit(const struct layer_view *view, const struct layer_commit_options *options,
		 struct layer_commit_result *ret, struct buf *conflicts, struct err *err);
