/*
 * layer_mark.h - the marks overlayfs puts into its layers, and the attributes it does not own.
 */
#pragma once

#include <stdbool.h>
#include <sys/stat.h>

#include "lib/util.h"

/* A 0:0 character device. */
bool layer_is_whiteout(const struct stat *st);
/* As an empty file in a directory whose opaque mark is "x". */
int layer_is_xattr_whiteout(int dirfd, const char *name, bool userxattr);
int layer_make_whiteout(int dirfd, const char *name);

enum layer_opaque { LAYER_MERGED, LAYER_OPAQUE, LAYER_XATTR_WHITEOUTS };
/* Of an open directory. -EUCLEAN: it is redirected. */
int layer_opaque(int fd, bool userxattr);
int layer_set_opaque(int fd, bool userxattr);
/* Whether a file's content is elsewhere. */
int layer_is_metacopy(int dirfd, const char *name, bool userxattr);

/* One extended attribute; value is borrowed. Negative results end the iteration. */
typedef int layer_xattr_fn(void *arg, const char *name, const void *value, size_t n);
/*
 * Everything that is the file's own: neither overlay marks nor what cannot be
 * read. name: in dirfd, "" for dirfd itself, which must then be open for reading.
 */
int layer_xattrs(int dirfd, const char *name, layer_xattr_fn *fn, void *arg);
/* 1: the same. */
int layer_xattrs_equal(int a_dirfd, const char *a, int b_dirfd, const char *b);

/*
 * fd becomes as st and the attributes of src say: owner, attributes, mode, times.
 * Who is not root keeps what it makes.
 */
int layer_set_metadata(int fd, int src_dirfd, const char *src, const struct stat *st);
