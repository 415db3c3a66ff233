/*
 * file_copy.h - copying on the server: a file, a link or a tree, by sharing
 * blocks where the file system can.
 *
 * dest is the new name itself, as with a move, and not a directory to copy
 * into. Modes and times are kept, owners when the agent is root; links are
 * copied as links, a link at dest is replaced and not followed. Devices, FIFOs
 * and sockets in a tree are left out and counted.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>

#include "lib/err.h"

struct file_copy {
	const char *src, *dest; /* canonical */
	bool recursive;		/* src may be a directory */
	bool overwrite; /* what is at dest is replaced; a directory is merged into one that is there */
	atomic_bool *cancel;
	uint64_t files, directories, links, skipped, bytes; /* done */
};

/* Worker. ERR_CONFLICT when there is a dest and overwrite is false. What was copied before an error stays. */
int file_copy(struct file_copy *c, struct err *err);
