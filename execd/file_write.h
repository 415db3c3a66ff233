/*
 * file_write.h - a new content for one path that appears whole or not at all.
 *
 * What is written goes to a nameless file (O_TMPFILE; where the file system has
 * none, to a random dot-name) in the target's directory and gets its name at
 * the commit. A client that vanishes, a full disk and a killed agent leave the
 * old file, or none. Directories that are missing are made at the commit only,
 * and removed again when it fails.
 *
 * Links: a link as target is followed as open(2) would, and what it points to
 * is replaced; the link stays. Only regular files can be written.
 *
 * Mode and owner: as asked for; else those of the file that is replaced; else
 * 0777 less the umask and the agent's own. The file is a new inode: hard links
 * to the old one keep the old content, extended attributes are not carried over.
 *
 * In place: where a name cannot be replaced (a bind-mounted file such as
 * /etc/hosts, a directory without write permission, a pseudo file system), the
 * content is collected elsewhere and copied into the existing file at the
 * commit; that copy alone is not atomic.
 *
 * Nothing is synced to the medium: a sandbox's files outlive the agent, not a
 * power failure.
 */
#pragma once

#include "execd/file_info.h"

struct file_write;

enum file_write_parents { FILE_PARENTS_MUST_EXIST, FILE_PARENTS_MAKE };

/* path: absolute. Short system calls only. */
int file_write_open(const char *path, enum file_write_parents parents, const struct file_perm *perm,
		    struct file_write **ret, struct err *err);
/* Small pieces are collected; errors of what was collected before may show here. */
int file_write_data(struct file_write *w, const void *data, size_t n, struct err *err);
/* All of the content has come: writes what is collected and lets go of its memory. */
int file_write_end(struct file_write *w, struct err *err);
const char *file_write_path(const struct file_write *w);
uint64_t file_write_size(const struct file_write *w); /* bytes so far */
/* After file_write_end(). May block (worker). Once; then only file_write_free() is left. */
int file_write_commit(struct file_write *w, struct err *err);
/* Without a commit nothing has happened. NULL is fine. */
void file_write_free(struct file_write *w);
