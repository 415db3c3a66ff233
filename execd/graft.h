/*
 * graft.h - makes files, directories and links below one directory, and nowhere else.
 *
 * Paths are relative and of any length. Each component is entered through a
 * descriptor of the one above and never through a link, so that neither a name
 * from an archive ("../x", "/x", a link it brought itself) nor a process that
 * swaps directories under our feet leads out of the tree. Directories that are
 * missing on the way are made.
 *
 * A file appears whole or not at all: it is written under a random dot-name and
 * renamed. Modes and times are kept, owners too when asked for and when the
 * agent is root. Workers; one thread at a time.
 */
#pragma once

#include <stdbool.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <time.h>

#include "lib/err.h"

#define GRAFT_DIRS_MAX (32U << 20) /* bytes of names of directories whose mode waits for the end */

struct graft;

struct graft_meta {
	mode_t mode;
	uid_t uid;
	gid_t gid;
	struct timespec mtime;
};

struct graft_options {
	bool owner;	/* set owners, and keep set-id bits */
	bool overwrite; /* what is there is replaced; else -EEXIST. A directory is never replaced, but used.
			 */
};

/* Consumes fd, a directory. */
int graft_new(int fd_consumed, const struct graft_options *options, struct graft **ret);
/* Drops the file at hand. NULL is fine. */
void graft_free(struct graft *g);

/* One that is there keeps its mode and owner. */
int graft_dir(struct graft *g, const char *path, const struct graft_meta *meta, struct err *err);
int graft_symlink(struct graft *g, const char *path, const char *target, const struct graft_meta *meta,
		  struct err *err);
/* A second name for what is at `existing` in the tree. */
int graft_hardlink(struct graft *g, const char *path, const char *existing, struct err *err);

/* One file at a time: begin, then data or from, then end. */
int graft_file_begin(struct graft *g, const char *path, const struct graft_meta *meta, struct err *err);
int graft_file_data(struct graft *g, const void *data, size_t n, struct err *err);
/* All of fd, as file_data_copy() does. */
int graft_file_from(struct graft *g, int fd, const atomic_bool *cancel, uint64_t *ret_bytes, struct err *err);
int graft_file_end(struct graft *g, struct err *err);

/* Gives the directories that were made their modes and times, also after an error. */
int graft_finish(struct graft *g, struct err *err);
