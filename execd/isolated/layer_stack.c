/*
 * layer_stack.c - opening, adding, joining and measuring layers.
 */
#include "execd/isolated/layer_stack.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "execd/inodes.h"
#include "execd/isolated/layer_mark.h"
#include "execd/walk.h"
#include "lib/fs.h"

#define NAME_SIZE 16

static const char *layer_name(unsigned index, char out[NAME_SIZE])
{
	(void)snprintf(out, NAME_SIZE, "%u", index);
	return out;
}

static int open_layer(int stack, unsigned index)
{
	char name[NAME_SIZE];
	int fd = openat(stack, layer_name(index, name), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

static int failed(struct err *err, int r, unsigned index, const char *what)
{
	return err_sys(err, "RUNTIME_ERROR", -r, "%s layer %u", what, index);
}

int layer_view_open(struct layer_view *v, int stack, int lower, unsigned top, unsigned first, bool userxattr,
		    struct err *err)
{
	*v = (struct layer_view){.userxattr = userxattr};
	if (top + 2 > LAYERS_MAX)
		return failed(err, -E2BIG, top, "open");
	for (unsigned i = top + 1; i-- > 0;) {
		int fd = open_layer(stack, i);

		if (fd < 0)
			return failed(err, fd, i, "open");
		v->fds[v->n++] = fd;
		v->uppers += i >= first;
	}
	if (lower >= 0) {
		int fd = openat(lower, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

		if (fd < 0)
			return err_sys(err, "RUNTIME_ERROR", errno, "open the workspace");
		v->fds[v->n++] = fd;
	}
	return 0;
}

void layer_view_close(struct layer_view *v)
{
	while (v->n > 0)
		fd_close(&v->fds[--v->n]);
}

int layer_cut(int stack, unsigned first, unsigned last, struct err *err)
{
	for (unsigned i = last + 1; i-- > first;) {
		char name[NAME_SIZE];
		int r = fs_remove_tree(stack, layer_name(i, name));

		if (r < 0 && r != -ENOENT)
			return failed(err, r, i, "remove");
	}
	return 0;
}

int layer_push(int stack, unsigned index, int lower, struct err *err)
{
	_cleanup_close_ int fd = -EBADF,
			    below = index > 0 ? open_layer(stack, index - 1)
					      : openat(lower, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	char name[NAME_SIZE];
	struct stat st;
	int r = below < 0 ? below : layer_cut(stack, index, index, err);

	if (r >= 0 && (fstat(below, &st) < 0 || mkdirat(stack, layer_name(index, name), 0700) < 0))
		r = -errno;
	if (r >= 0)
		r = fd = open_layer(stack, index);
	if (r >= 0)
		r = layer_set_metadata(fd, below, "", &st);
	return r < 0 ? failed(err, r, index, "add") : 0;
}

/* ---- joining ------------------------------------------------------------------- */

struct join {
	int from, to;
	bool userxattr;
	/* The directory in `to` used last. */
	int parent;
	struct buf parent_path;
};

/* Where in `to` the entry belongs; borrowed until the next call. */
static int parent_of(struct join *j, const struct layer_entry *e)
{
	size_t n = (size_t)(e->name - e->path);

	n = n ? n - 1 : 0;
	if (j->parent >= 0 && j->parent_path.len == n &&
	    (n == 0 || memcmp(j->parent_path.data, e->path, n) == 0))
		return j->parent;
	fd_close(&j->parent);
	buf_clear(&j->parent_path);
	if (buf_append(&j->parent_path, e->path, n) < 0)
		return -ENOMEM;
	j->parent = layer_open_dir(j->to, e->path, n, O_RDONLY);
	return j->parent;
}

/* Whether the directory hides what it is laid over: 0, 1, -errno. */
static int hides(const struct join *j, const struct layer_entry *e)
{
	_cleanup_close_ int fd = openat(e->dirfd, e->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	int r = fd < 0 ? -errno : layer_opaque(fd, j->userxattr);

	if (r == LAYER_XATTR_WHITEOUTS)
		return -EUCLEAN;
	return r < 0 ? r : r == LAYER_OPAQUE;
}

static int make_opaque(const struct join *j, const struct layer_entry *e)
{
	_cleanup_close_ int fd = openat(e->dirfd, e->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	return fd < 0 ? -errno : layer_set_opaque(fd, j->userxattr);
}

/* One entry of the upper layer into the lower one. 1: it is a directory in both, to go into. */
static int join_entry(struct join *j, const struct layer_entry *e)
{
	struct stat there;
	int fd = parent_of(j, e), r = 0;

	if (fd < 0)
		return fd;
	if (fstatat(fd, e->name, &there, AT_SYMLINK_NOFOLLOW) < 0) {
		if (errno != ENOENT)
			return -errno;
	} else if (S_ISDIR(there.st_mode)) {
		r = S_ISDIR(e->st.st_mode) ? hides(j, e) : 1;
		if (r <= 0)
			return r < 0 ? r : 1;
		r = fs_remove_tree(fd, e->name);
	} else if (S_ISDIR(e->st.st_mode)) {
		/* Over a whiteout or a file: it must not let through what that has hidden. */
		r = make_opaque(j, e);
		if (r >= 0 && unlinkat(fd, e->name, 0) < 0)
			r = -errno;
	}
	if (r >= 0 && renameat(e->dirfd, e->name, fd, e->name) < 0)
		r = -errno;
	return r < 0 ? r : 0;
}

/* Everything has gone down that had to: the directory that is in both is as the upper layer had it. */
static int join_leave(struct join *j, const struct layer_entry *e)
{
	_cleanup_close_ int to = layer_open_dir(j->to, e->path, strlen(e->path), O_RDONLY);

	return to < 0 ? to : layer_set_metadata(to, e->dirfd, e->name, &e->st);
}

static int join_all(struct join *j, struct err *err)
{
	/* As a tree like any other: whiteouts go down like files. */
	struct layer_view plain = {.fds = {j->from}, .n = 1, .uppers = 1, .plain = true};
	struct layer_entry e;
	struct layer_walk *w;
	int r = layer_walk_new(&plain, &w);

	if (r < 0)
		return err_sys(err, "RUNTIME_ERROR", -r, "join layers");
	while ((r = layer_walk_next(w, &e, err)) > 0) {
		if (e.leave)
			r = join_leave(j, &e);
		else if (e.path[0] && (r = join_entry(j, &e)) == 0)
			layer_walk_skip(w);
		if (r < 0) {
			r = layer_err(err, -r, e.path, "join it to the layer below");
			break;
		}
	}
	layer_walk_free(w);
	return r;
}

int layer_squash(int stack, unsigned index, bool userxattr, struct err *err)
{
	_cleanup_close_ int from = open_layer(stack, index), to = open_layer(stack, index - 1);
	struct join j = {.from = from,
			 .to = to,
			 .userxattr = userxattr,
			 .parent = -EBADF,
			 .parent_path = BUF_INIT(LAYER_PATH_MAX)};
	char above[NAME_SIZE], name[NAME_SIZE];
	int r = from < 0 || to < 0 ? failed(err, from < 0 ? from : to, index, "open") : join_all(&j, err);

	fd_close(&j.parent);
	buf_done(&j.parent_path);
	if (r >= 0)
		r = layer_cut(stack, index, index, err);
	for (unsigned i = index; r >= 0; i++)
		if (renameat(stack, layer_name(i + 1, above), stack, layer_name(i, name)) < 0) {
			if (errno != ENOENT)
				r = failed(err, -errno, i + 1, "move");
			break;
		}
	return r;
}

/* ---- measuring -------------------------------------------------------------------- */

int layer_usage(int stack, unsigned index, const atomic_bool *cancel, struct layer_usage *ret,
		struct err *err)
{
	struct layer_usage usage = {0};
	struct inodes links = {0};
	struct walk_entry e;
	struct walk *w;
	int fd = open_layer(stack, index), r = fd < 0 ? fd : walk_new(fd, UINT64_MAX, &w);

	if (r < 0)
		return failed(err, r, index, "measure");
	while ((r = walk_next(w, &e)) > 0) {
		struct stat st;

		if (cancel && atomic_load_explicit(cancel, memory_order_relaxed)) {
			r = -ECANCELED;
			break;
		}
		if (fstatat(e.dirfd, e.name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			continue;
		usage.entries++;
		if (S_ISDIR(st.st_mode) || st.st_nlink == 1 || !inodes_first(&links, &st, ""))
			usage.bytes += (uint64_t)st.st_blocks * 512;
	}
	walk_free(w);
	inodes_done(&links);
	if (r < 0)
		return failed(err, r, index, "measure");
	*ret = usage;
	return 0;
}

int layer_now(int stack, struct timespec *ret)
{
	struct stat st;

	(void)unlinkat(stack, "mark", AT_REMOVEDIR);
	if (mkdirat(stack, "mark", 0700) < 0 || fstatat(stack, "mark", &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	(void)unlinkat(stack, "mark", AT_REMOVEDIR);
	*ret = st.st_ctim;
	return 0;
}
