/*
 * layer_mark.c - marks, attributes and the rest of what a file is but its bytes, by descriptor and name.
 *
 * There is no getxattrat() before Linux 6.13: a file that may not be opened (a
 * FIFO would wait, a device would act) is reached as /proc/self/fd/N/name, where
 * nothing but the name itself is looked up, and it is not followed.
 */
#include "execd/isolated/layer_mark.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#define VALUE_MAX 65536 /* XATTR_SIZE_MAX */
#define NAMES_MAX 65536 /* XATTR_LIST_MAX */
#define PATH_SIZE (NAME_MAX + 40)

static void path_of(char out[PATH_SIZE], int dirfd, const char *name)
{
	(void)snprintf(out, PATH_SIZE, "/proc/self/fd/%d%s%s", dirfd, name[0] ? "/" : "", name);
}

static ssize_t get(int dirfd, const char *name, const char *key, void *value, size_t n)
{
	char path[PATH_SIZE];
	ssize_t r;

	if (name[0]) {
		path_of(path, dirfd, name);
		r = lgetxattr(path, key, value, n);
	} else {
		r = fgetxattr(dirfd, key, value, n);
	}
	return r < 0 ? -errno : r;
}

static ssize_t list(int dirfd, const char *name, char *names)
{
	char path[PATH_SIZE];
	ssize_t r;

	if (name[0]) {
		path_of(path, dirfd, name);
		r = llistxattr(path, names, NAMES_MAX);
	} else {
		r = flistxattr(dirfd, names, NAMES_MAX);
	}
	return r < 0 ? -errno : r;
}

/* ---- marks ----------------------------------------------------------------- */

bool layer_is_whiteout(const struct stat *st)
{
	return S_ISCHR(st->st_mode) && st->st_rdev == makedev(0, 0);
}

int layer_make_whiteout(int dirfd, const char *name)
{
	return mknodat(dirfd, name, S_IFCHR, makedev(0, 0)) < 0 ? -errno : 0;
}

/* Whether the mark is there: 0, 1, -errno. */
static int has_mark(int dirfd, const char *name, const char *key)
{
	ssize_t r = get(dirfd, name, key, NULL, 0);

	if (r == -ENODATA || r == -EOPNOTSUPP || r == -ENOENT)
		return 0;
	return r < 0 ? (int)r : 1;
}

int layer_is_xattr_whiteout(int dirfd, const char *name, bool userxattr)
{
	return has_mark(dirfd, name, userxattr ? "user.overlay.whiteout" : "trusted.overlay.whiteout");
}

int layer_is_metacopy(int dirfd, const char *name, bool userxattr)
{
	return has_mark(dirfd, name, userxattr ? "user.overlay.metacopy" : "trusted.overlay.metacopy");
}

int layer_opaque(int fd, bool userxattr)
{
	char value;
	ssize_t r = has_mark(fd, "", userxattr ? "user.overlay.redirect" : "trusted.overlay.redirect");

	if (r != 0)
		return r < 0 ? (int)r : -EUCLEAN;
	r = get(fd, "", userxattr ? "user.overlay.opaque" : "trusted.overlay.opaque", &value, 1);
	if (r == 1 && value == 'y')
		return LAYER_OPAQUE;
	return r == 1 && value == 'x' ? LAYER_XATTR_WHITEOUTS : LAYER_MERGED;
}

int layer_set_opaque(int fd, bool userxattr)
{
	const char *key = userxattr ? "user.overlay.opaque" : "trusted.overlay.opaque";

	return fsetxattr(fd, key, "y", 1, 0) < 0 ? -errno : 0;
}

/* ---- attributes -------------------------------------------------------------- */

static bool is_own(const char *key)
{
	return strncmp(key, "trusted.overlay.", 16) != 0 && strncmp(key, "user.overlay.", 13) != 0;
}

int layer_xattrs(int dirfd, const char *name, layer_xattr_fn *fn, void *arg)
{
	_cleanup_free_ char *names = malloc(NAMES_MAX), *value = NULL;
	ssize_t names_n;

	if (!names)
		return -ENOMEM;
	names_n = list(dirfd, name, names);
	if (names_n == -EOPNOTSUPP || names_n == -ENOENT)
		return 0;
	if (names_n < 0)
		return (int)names_n;
	for (const char *key = names; key < names + names_n; key += strlen(key) + 1) {
		ssize_t n;
		int r;

		if (!is_own(key))
			continue;
		if (!value)
			value = malloc(VALUE_MAX);
		if (!value)
			return -ENOMEM;
		n = get(dirfd, name, key, value, VALUE_MAX);
		if (n < 0)
			continue;
		r = fn(arg, key, value, (size_t)n);
		if (r < 0)
			return r;
	}
	return 0;
}

struct pair {
	int dirfd; /* the other one, */
	const char *name;
	int dst_fd; /* what is changed */
	size_t seen;
};

static int on_set(void *arg, const char *key, const void *value, size_t n)
{
	const struct pair *pair = arg;

	/* What this file system or our rights do not take stays behind; want of space does not pass. */
	if (fsetxattr(pair->dst_fd, key, value, n, 0) < 0 && (errno == ENOSPC || errno == EDQUOT))
		return -errno;
	return 0;
}

static int on_prune(void *arg, const char *key, const void *value, size_t n)
{
	const struct pair *pair = arg;

	(void)value;
	(void)n;
	if (get(pair->dirfd, pair->name, key, NULL, 0) == -ENODATA)
		(void)fremovexattr(pair->dst_fd, key);
	return 0;
}

/* dst gets what src has, and loses what it has not. Attributes that dst's file system or our rights do not
 * take are passed over. */
static int xattrs_copy(int src_dirfd, const char *src, int dst_fd)
{
	struct pair pair = {.dirfd = src_dirfd, .name = src, .dst_fd = dst_fd};
	int r = layer_xattrs(dst_fd, "", on_prune, &pair);

	return r < 0 ? r : layer_xattrs(src_dirfd, src, on_set, &pair);
}

static int on_compare(void *arg, const char *key, const void *value, size_t n)
{
	struct pair *other = arg;
	_cleanup_free_ char *there = malloc(VALUE_MAX);
	ssize_t there_n;

	if (!there)
		return -ENOMEM;
	there_n = get(other->dirfd, other->name, key, there, VALUE_MAX);
	if (there_n < 0 || (size_t)there_n != n || memcmp(there, value, n) != 0)
		return -EXFULL;
	other->seen++;
	return 0;
}

static int on_count(void *arg, const char *key, const void *value, size_t n)
{
	struct pair *other = arg;

	(void)key;
	(void)value;
	(void)n;
	other->seen++;
	return 0;
}

int layer_xattrs_equal(int a_dirfd, const char *a, int b_dirfd, const char *b)
{
	struct pair in_b = {.dirfd = b_dirfd, .name = b}, of_b = {0};
	int r = layer_xattrs(a_dirfd, a, on_compare, &in_b);

	if (r == -EXFULL)
		return 0;
	if (r >= 0)
		r = layer_xattrs(b_dirfd, b, on_count, &of_b);
	return r < 0 ? r : in_b.seen == of_b.seen;
}

/* Owner first: its change takes set-id bits away. Who is not root owns what it makes, and that will do. */
int layer_set_metadata(int fd, int src_dirfd, const char *src, const struct stat *st)
{
	const struct timespec times[2] = {st->st_atim, st->st_mtim};
	int r;

	if (fchown(fd, st->st_uid, st->st_gid) < 0 && (errno != EPERM || geteuid() == 0))
		return -errno;
	r = xattrs_copy(src_dirfd, src, fd);
	if (r < 0)
		return r;
	if (fchmod(fd, st->st_mode & 07777) < 0)
		return -errno;
	return futimens(fd, times) < 0 ? -errno : 0;
}
