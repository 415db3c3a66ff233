/*
 * files.h - what is done to files and directories by name. Everything here may
 * block and belongs on a worker. Paths are canonical (path.h). Errors name the
 * path and the reason.
 */
#pragma once

#include "execd/file_info.h"

/* A file, a link (not what it points to), anything but a directory. One that is not there is fine. */
int file_remove(const char *path, struct err *err);
/* Links are followed. What perm does not give stays as it is. */
int file_set_perm(const char *path, const struct file_perm *perm, struct err *err);
/*
 * src becomes dest; the directories above dest are made. ERR_CONFLICT when
 * there is a dest. A regular file may go to another file system, a directory may not.
 */
int file_move(const char *src, const char *dest, struct err *err);
/* Every occurrence of old, found from the left without overlap. A file without one is not touched. */
int file_replace(const char *path, const char *old, size_t old_n, const char *new, size_t new_n,
		 uint64_t *ret_count, struct err *err);

/* With the directories above it. perm is given to path itself; one that is there stays as it is. */
int dir_make(const char *path, const struct file_perm *perm, struct err *err);
/* As rm -rf: also a file or a link, and what is not there is fine. The root is refused. */
int dir_remove(const char *path, struct err *err);
