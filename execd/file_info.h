/*
 * file_info.h - what is told about a file, and the mode numbers clients use.
 */
#pragma once

#include <stdbool.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "execd/account.h"
#include "lib/err.h"
#include "proto/json.h"

/* statx(2) of the thing itself, a link is not followed. -errno. */
int file_stat(int dirfd, const char *path, struct statx *ret);

/*
 * One FileInfo object: path, type, size, modified_at, created_at, owner,
 * group, mode. accounts: for names, or NULL (numbers).
 */
void file_info_write(struct jw *w, const char *path, const struct statx *stx,
		     const struct accounts *accounts);

/* A path that is not UTF-8 is shown under key with U+FFFD, and given exactly, percent-encoded, under
 * key_encoded. */
void file_path_write(struct jw *w, const char *key, const char *key_encoded, const char *path);

/* "file", "directory", "symlink", "other". */
const char *file_type(mode_t mode);
/* "a file", "a directory", "a FIFO", ...: for messages. */
const char *file_kind(mode_t mode);

/* 0644 is 644. */
unsigned file_mode_to_digits(mode_t mode);

/* RFC 3986: everything but letters, digits, "-._~" and what `keep` names becomes %XX. */
int file_percent_encode(struct buf *out, const char *s, const char *keep);

/*
 * err_sys() with the codes and kinds of the files API: ENOENT is
 * FILE_NOT_FOUND, a path that cannot be right is INVALID_FILE, a read-only
 * file system is forbidden, a file over a size limit too large.
 */
int file_err(struct err *err, int errnum, const char *fmt, ...) PRINTF_LIKE(3, 4);
#ifdef __clang_analyzer__
#define file_err(...) ERR_NEGATIVE(file_err(__VA_ARGS__))
#endif

/* Mode and owner as a request names them. */
struct file_perm {
	bool has_mode;
	mode_t mode;
	uid_t uid; /* (uid_t)-1: not given */
	gid_t gid;
};

#define FILE_PERM_NONE ((struct file_perm){.uid = (uid_t)-1, .gid = (gid_t)-1})

/* {"mode": 644, "owner": "name or id", "group": ...}, each optional; mode 0 is "not given". */
int file_perm_parse(json_t *obj, const struct accounts *accounts, struct file_perm *ret, struct err *err);
