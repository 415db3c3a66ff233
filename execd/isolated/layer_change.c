/*
 * layer_change.c - what an entry of an upper is, compared with what is below it.
 */
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>

#include "execd/isolated/layer.h"
#include "execd/isolated/layer_mark.h"
#include "lib/fs.h"

#define PIECE_SIZE (64U << 10)

const char *layer_change_name(enum layer_change change)
{
	static const char *const names[] = {
		[LAYER_SAME] = "same",	       [LAYER_ADDED] = "added",	    [LAYER_MODIFIED] = "modified",
		[LAYER_METADATA] = "metadata", [LAYER_DELETED] = "deleted",
	};

	return names[change];
}

/* What is read must still be the regular file that was seen. */
static int open_file(int dirfd, const char *name)
{
	int fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	struct stat st;

	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
		return fd;
	fd_close(&fd);
	return -ESTALE;
}

static int same_bytes(const struct layer_view *view, const struct layer_entry *e)
{
	_cleanup_close_ int a = open_file(e->dirfd, e->name), b = open_file(e->below_dirfd, e->name);
	_cleanup_free_ char *pieces = malloc(2 * PIECE_SIZE);
	ssize_t n, m;

	if (a < 0 || b < 0)
		return a < 0 ? a : b;
	if (!pieces)
		return -ENOMEM;
	do {
		if (view->cancel && atomic_load_explicit(view->cancel, memory_order_relaxed))
			return -ECANCELED;
		n = fs_read_full(a, pieces, PIECE_SIZE);
		m = fs_read_full(b, pieces + PIECE_SIZE, PIECE_SIZE);
		if (n < 0 || m < 0)
			return (int)(n < 0 ? n : m);
		if (n != m || memcmp(pieces, pieces + PIECE_SIZE, (size_t)n) != 0)
			return 0;
	} while (n > 0);
	return 1;
}

static int same_target(const struct layer_entry *e)
{
	char a[PATH_MAX], b[PATH_MAX];
	ssize_t n = readlinkat(e->dirfd, e->name, a, sizeof(a));
	ssize_t m = n < 0 ? n : readlinkat(e->below_dirfd, e->name, b, sizeof(b));

	if (n < 0 || m < 0)
		return -errno;
	return n == m && memcmp(a, b, (size_t)n) == 0;
}

static bool same_time(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

/* 1: what it holds is the same, as far as its time allows. */
static int same_content(const struct layer_view *view, const struct layer_entry *e)
{
	if ((e->st.st_mode & S_IFMT) != (e->below.st_mode & S_IFMT))
		return 0;
	switch (e->st.st_mode & S_IFMT) {
	case S_IFREG:
		/* A time that differs has been written with, or set: then nobody reads both. */
		if (e->st.st_size != e->below.st_size || !same_time(&e->st.st_mtim, &e->below.st_mtim))
			return 0;
		return same_bytes(view, e);
	case S_IFLNK:
		return same_target(e);
	case S_IFCHR:
	case S_IFBLK:
		return e->st.st_rdev == e->below.st_rdev;
	default:
		return 1;
	}
}

static int same_metadata(const struct layer_entry *e)
{
	bool root = e->name[0] == '\0';

	if (e->st.st_mode != e->below.st_mode || e->st.st_uid != e->below.st_uid ||
	    e->st.st_gid != e->below.st_gid)
		return 0;
	if (S_ISLNK(e->st.st_mode))
		return 1;
	return root ? layer_xattrs_equal(e->dirfd, "", e->below_dirfd, "")
		    : layer_xattrs_equal(e->dirfd, e->name, e->below_dirfd, e->name);
}

int layer_change(const struct layer_view *view, const struct layer_entry *e, enum layer_change *ret,
		 struct err *err)
{
	int r;

	if (e->deleted || !e->has_below) {
		*ret = e->deleted ? LAYER_DELETED : LAYER_ADDED;
		return 0;
	}
	r = same_content(view, e);
	if (r == 0) {
		*ret = LAYER_MODIFIED;
		return 0;
	}
	if (r > 0)
		r = same_metadata(e);
	/* Gone or replaced since it was seen: it is being changed. */
	if (r == -ENOENT || r == -ESTALE || r == -ELOOP) {
		*ret = LAYER_MODIFIED;
		return 0;
	}
	if (r < 0)
		return layer_err(err, -r, e->path, "compare with what is below");
	*ret = r > 0 ? LAYER_SAME : LAYER_METADATA;
	return 0;
}

int layer_equal(const struct layer_view *view, const struct layer_entry *e, bool *ret, struct err *err)
{
	enum layer_change change = LAYER_SAME;
	int r = layer_change(view, e, &change, err);

	if (r >= 0)
		*ret = change == LAYER_SAME &&
		       (S_ISDIR(e->st.st_mode) || same_time(&e->st.st_mtim, &e->below.st_mtim));
	return r;
}
