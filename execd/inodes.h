/*
 * inodes.h - the first name of each file that has several, for whoever tells hard links from copies.
 */
#pragma once

#include <sys/stat.h>

#include "lib/map.h"

#define INODES_MAX 1000000 /* files with several names that are told from copies */

struct inodes {
	struct map names;
};

void inodes_done(struct inodes *in);
/*
 * The path with which this device and inode came first, or NULL: then it is
 * `path` from now on. Over INODES_MAX, or without memory, always NULL: a copy
 * more, which is larger and not wrong.
 */
const char *inodes_first(struct inodes *in, const struct stat *st, const char *path);
