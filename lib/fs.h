/*
 * fs.h - small file work that several modules need.
 */
#pragma once

#include <sys/types.h>

#include "lib/buf.h"
#include "lib/err.h"

/* All n bytes in spite of short writes and EINTR; -errno. */
int fs_write_all(int fd, const void *data, size_t n);
/* Up to n bytes, fewer only at the end of the file; -errno. */
ssize_t fs_read_full(int fd, void *to, size_t n);
/* Appends the whole file to out (bounded by out->max; -EFBIG over it). */
int fs_read_file(int dirfd, const char *path, struct buf *out);
/* Creates or truncates path and writes data. */
int fs_write_file(int dirfd, const char *path, const void *data, size_t n, mode_t mode);
/* Every missing parent and path itself, with mode. 0 also when it is there. */
int fs_mkdir_p(const char *path, mode_t mode);
struct statx;
/* statx(2), also under a container's old filter, which answers EPERM: then without birth time and attributes.
 */
int fs_statx(int dirfd, const char *path, int flags, struct statx *ret);
/* Removes a tree below dirfd without following links and without crossing into another file system. */
int fs_remove_tree(int dirfd, const char *path);
/*
 * Locks the whole file for this process until it ends. -EAGAIN: a living process has it. What a killed one
 * left is waited for, three seconds at most: a child on its way to exec may share its descriptors for a
 * moment longer (spawn.c). Uses SIGALRM, so it is for a program that starts and has no threads yet.
 */
int fs_lock(int fd);
/* Close-on-exec, non-blocking for the ends asked for. */
int fs_pipe(int ret[2], int nonblock_read, int nonblock_write);
int fs_set_nonblock(int fd);
