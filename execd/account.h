/*
 * account.h - names, groups and homes from /etc/passwd and /etc/group, without NSS.
 *
 * The static agent runs in any image and never asks NSS. A snapshot of both
 * files is loaded for one request or job and freed with it, so it may be used
 * on a worker thread and always shows what the files say now. A file that is
 * missing is empty; lines that make no sense are skipped.
 */
#pragma once

#include <sys/types.h>

#include "lib/util.h"

#define ACCOUNT_FILE_MAX   (8U << 20) /* bytes of either file that are looked at */
#define ACCOUNT_GROUPS_MAX 65536      /* NGROUPS_MAX of Linux */

struct accounts;

/* -errno when a file is there and cannot be read, -EFBIG over ACCOUNT_FILE_MAX, -ENOMEM. */
int accounts_load(struct accounts **ret);
int accounts_load_from(const char *passwd_path, const char *group_path, struct accounts **ret);
void accounts_free(struct accounts *a); /* NULL is fine */

/* Borrowed from a, or NULL when the id has no entry. The first entry of an id wins, as with NSS. */
const char *accounts_user_name(const struct accounts *a, uid_t uid);
const char *accounts_user_home(const struct accounts *a, uid_t uid);
const char *accounts_group_name(const struct accounts *a, gid_t gid);

/* By name; a name without an entry that is a decimal number is taken as the id itself. -ENOENT. */
int accounts_user_id(const struct accounts *a, const char *name, uid_t *ret);
int accounts_group_id(const struct accounts *a, const char *name, gid_t *ret);

/* The primary group of uid: -ENOENT when uid has no entry. */
int accounts_primary_group(const struct accounts *a, uid_t uid, gid_t *ret);
/*
 * The groups of uid: its primary group and every group that lists its name,
 * each once. *ret is malloc'd (NULL and 0 for a uid without an entry).
 */
int accounts_groups(const struct accounts *a, uid_t uid, gid_t **ret, size_t *ret_n);
