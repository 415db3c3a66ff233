/*
 * layer.h - what overlayfs layers change of what is below them.
 *
 * A view is a pile of directories, the topmost first: `uppers` of them are the
 * layers whose changes are asked for, the others are what they were laid over,
 * the last one usually the workspace itself. Nothing is mounted for it. Each
 * directory is entered through a descriptor of the one above and never through
 * a link, so whatever the code in a room renames or links meanwhile leads nowhere.
 *
 * Understood are whiteouts (a 0:0 device; in a directory marked "x" an empty
 * file with the whiteout attribute) and opaque directories. What a mount of ours
 * never makes (redirects, files that have only metadata) is refused by name, not
 * misread. Sources: Documentation/filesystems/overlayfs.rst of Linux.
 *
 * Memory: the names of the directories on the way down, LAYER_BYTES_MAX in all;
 * about LAYER_FDS_MAX descriptors. Workers; one thread at a time.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <sys/stat.h>

#include "lib/err.h"

#define LAYERS_MAX	65 /* uppers and the workspace; see ROOM_LAYERS_MAX */
#define LAYER_BYTES_MAX (64U << 20)
#define LAYER_FDS_MAX	256
#define LAYER_PATH_MAX	16384 /* bytes of one path below the root */

struct layer_view {
	int fds[LAYERS_MAX]; /* directories, topmost first; borrowed */
	size_t n, uppers;
	bool userxattr;		   /* marks are user.overlay.*, else trusted.overlay.* */
	bool plain;		   /* the uppers have no marks and no whiteouts: they are ordinary trees */
	const atomic_bool *cancel; /* may be NULL */
};

struct layer_entry {
	/* Relative to the root, and its last component (the end of the same string); until the next call. */
	const char *path, *name;
	bool leave;	/* the directory `path` has been told with all that is in it */
	bool deleted;	/* gone in the merged view: only `below` is there */
	int dirfd;	/* of the directory of the upper that has it; -EBADF when deleted */
	struct stat st; /* there */
	bool opaque;	/* a directory that hides all of `below` */
	bool hidden;	/* it is in one that does: `below` is not seen, whatever is here */
	bool has_below;
	int below_dirfd; /* of the directory of the layer below that has it, -EBADF: none */
	struct stat below;
	/* The directory of the last layer where this entry is or would be; -EBADF: it is not there either. */
	int base_dirfd;
};

struct layer_walk;
/* The root's own mode, owner and times are told as a directory with the path "". */
int layer_walk_new(const struct layer_view *view, struct layer_walk **ret);
void layer_walk_free(struct layer_walk *w);
/*
 * 1: *ret, parents before what is in them, by the order of names; each directory
 * of an upper is told a second time when it is left. 0: the end. -errno with *err
 * when something that is there cannot be looked at; -ECANCELED.
 * A directory below is opened only when the next entry is asked for: whoever
 * makes it in between has its base_dirfd from then on.
 */
int layer_walk_next(struct layer_walk *w, struct layer_entry *ret, struct err *err);
/* The directory told last is not entered, nor told again. */
void layer_walk_skip(struct layer_walk *w);

enum layer_change {
	LAYER_SAME, /* copied up and not changed, or a directory on the way to a change */
	LAYER_ADDED,
	LAYER_MODIFIED,
	LAYER_METADATA, /* mode, owner or attributes alone */
	LAYER_DELETED,
};
/* "added", ... */
const char *layer_change_name(enum layer_change change);
/* Compares; reads both files when only their bytes can tell. Not for an entry with `leave`. */
int layer_change(const struct layer_view *view, const struct layer_entry *e, enum layer_change *ret,
		 struct err *err);
/* Whether type, size, bytes, mode, owner, time and attributes are the same. Of directories: mode, owner,
 * attributes. */
int layer_equal(const struct layer_view *view, const struct layer_entry *e, bool *ret, struct err *err);

/*
 * Opens a directory below root, -ENOENT, -ENOTDIR, ...; n bytes of path, which
 * may be longer than PATH_MAX. Neither links nor "..".
 */
int layer_open_dir(int root, const char *path, size_t n, int flags);

/* "'path': <what>", the path shown as far as it fits. */
int layer_err(struct err *err, int errnum, const char *path, const char *what);
