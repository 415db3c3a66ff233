/*
 * file_copy.c - copying on the server. No state; workers.
 */
#include "execd/file_copy.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "execd/file_info.h"
#include "execd/graft.h"
#include "execd/path.h"
#include "execd/walk.h"
#include "lib/fs.h"

static struct graft_meta meta_of(const struct stat *st)
{
	return (struct graft_meta){
		.mode = st->st_mode & 07777, .uid = st->st_uid, .gid = st->st_gid, .mtime = st->st_mtim};
}

static int copy_file(struct file_copy *c, struct graft *g, int dirfd, const char *name, const char *to,
		     struct err *err)
{
	_cleanup_close_ int fd =
		openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	struct graft_meta meta;
	uint64_t bytes = 0;
	struct stat st;
	int r;

	if (fd < 0 || fstat(fd, &st) < 0)
		return file_err(err, errno, "read '%s'", name);
	if (!S_ISREG(st.st_mode)) {
		c->skipped++;
		return 0;
	}
	meta = meta_of(&st);
	r = graft_file_begin(g, to, &meta, err);
	if (r >= 0)
		r = graft_file_from(g, fd, c->cancel, &bytes, err);
	if (r >= 0)
		r = graft_file_end(g, err);
	if (r < 0)
		return r;
	c->files++;
	c->bytes += bytes;
	return 0;
}

static int copy_link(struct file_copy *c, struct graft *g, int dirfd, const char *name, const char *to,
		     const struct stat *st, struct err *err)
{
	const struct graft_meta meta = meta_of(st);
	char target[PATH_MAX];
	ssize_t n = readlinkat(dirfd, name, target, sizeof(target) - 1);
	int r;

	if (n < 0)
		return file_err(err, errno, "read the link '%s'", name);
	target[n] = '\0';
	r = graft_symlink(g, to, target, &meta, err);
	c->links += r >= 0;
	return r;
}

/* One entry, a directory without what is in it. */
static int copy_entry(struct file_copy *c, struct graft *g, int dirfd, const char *name, const char *to,
		      const struct stat *st, struct err *err)
{
	const struct graft_meta meta = meta_of(st);
	int r;

	if (S_ISREG(st->st_mode))
		return copy_file(c, g, dirfd, name, to, err);
	if (S_ISLNK(st->st_mode))
		return copy_link(c, g, dirfd, name, to, st, err);
	if (!S_ISDIR(st->st_mode)) {
		c->skipped++;
		return 0;
	}
	r = graft_dir(g, to, &meta, err);
	c->directories += r >= 0;
	return r;
}

static int copy_below(struct file_copy *c, struct graft *g, struct walk *walk, const char *name,
		      struct err *err)
{
	_cleanup_buf_ struct buf to = BUF_INIT(WALK_PATH_MAX + PATH_MAX);
	struct walk_entry e;
	struct stat st;
	int r;

	walk_strict(walk);
	while ((r = walk_next(walk, &e)) > 0) {
		if (atomic_load_explicit(c->cancel, memory_order_relaxed))
			return err_set(err, ERR_UNAVAILABLE, "RUNTIME_ERROR", ECANCELED, "cancelled");
		if (fstatat(e.dirfd, e.name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
			if (errno == ENOENT)
				continue; /* it has vanished */
			return file_err(err, errno, "copy '%s/%s'", c->src, e.path);
		}
		buf_clear(&to);
		(void)buf_printf(&to, "%s/", name);
		(void)buf_puts(&to, e.path);
		if (to.failed || !buf_cstr(&to))
			return err_sys(err, "RUNTIME_ERROR", ENOMEM, "copy '%s'", c->src);
		r = copy_entry(c, g, e.dirfd, e.name, (const char *)to.data, &st, err);
		if (r < 0)
			return r;
	}
	return r < 0 ? file_err(err, -r, "copy '%s'", c->src) : 0;
}

/* Whether the directory dir is src or below it: such a copy would never end. */
static int is_within(int dir, const struct stat *src)
{
	_cleanup_close_ int at = openat(dir, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct stat st, last = {0};

	while (at >= 0 && fstat(at, &st) == 0) {
		int up;

		if (st.st_dev == src->st_dev && st.st_ino == src->st_ino)
			return 1;
		if (st.st_dev == last.st_dev && st.st_ino == last.st_ino)
			return 0;
		last = st;
		up = openat(at, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);
		fd_close(&at);
		at = up;
	}
	return -errno;
}

static int copy_tree(struct file_copy *c, struct graft *g, int parent, const char *name, struct err *err)
{
	int fd = open(c->src, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC), r;
	struct walk *walk;
	struct stat st;

	if (fd < 0)
		return file_err(err, errno, "copy '%s'", c->src);
	r = fstat(fd, &st) < 0 ? -errno : is_within(parent, &st);
	if (r != 0) {
		fd_close(&fd);
		return r > 0 ? err_set(err, ERR_INVALID, "INVALID_FILE", EINVAL,
				       "copy '%s' to '%s': a directory cannot be copied into itself", c->src,
				       c->dest)
			     : file_err(err, -r, "copy '%s'", c->src);
	}
	r = walk_new(fd, UINT64_MAX, &walk);
	if (r < 0)
		return file_err(err, -r, "copy '%s'", c->src);
	r = copy_entry(c, g, parent, name, name, &st, err);
	if (r >= 0)
		r = copy_below(c, g, walk, name, err);
	walk_free(walk);
	return r;
}

static int check(const struct file_copy *c, struct stat *st, struct err *err)
{
	struct stat dest;

	if (lstat(c->src, st) < 0)
		return file_err(err, errno, "copy '%s'", c->src);
	if (S_ISDIR(st->st_mode) && !c->recursive)
		return err_set(err, ERR_INVALID, "INVALID_FILE", EISDIR,
			       "copy '%s': it is a directory and 'recursive' is not true", c->src);
	if (!S_ISREG(st->st_mode) && !S_ISDIR(st->st_mode) && !S_ISLNK(st->st_mode))
		return err_set(err, ERR_INVALID, "INVALID_FILE", EINVAL, "copy '%s': it is %s", c->src,
			       file_kind(st->st_mode));
	if (lstat(c->dest, &dest) < 0)
		return errno == ENOENT ? 0 : file_err(err, errno, "copy to '%s'", c->dest);
	if (!c->overwrite)
		return file_err(err, EEXIST, "copy '%s' to '%s'", c->src, c->dest);
	if (dest.st_dev == st->st_dev && dest.st_ino == st->st_ino)
		return err_set(err, ERR_INVALID, "INVALID_FILE", EINVAL,
			       "copy '%s' to '%s': they are the same", c->src, c->dest);
	if (S_ISDIR(st->st_mode) != S_ISDIR(dest.st_mode))
		return err_set(err, ERR_CONFLICT, "INVALID_FILE", S_ISDIR(dest.st_mode) ? EISDIR : ENOTDIR,
			       "copy '%s' to '%s', which is %s", c->src, c->dest, file_kind(dest.st_mode));
	return 0;
}

int file_copy(struct file_copy *c, struct err *err)
{
	const struct graft_options options = {.owner = geteuid() == 0, .overwrite = c->overwrite};
	const char *name = path_base(c->dest);
	_cleanup_free_ char *above = strndup(c->dest, (size_t)(name - c->dest));
	_cleanup_close_ int parent = -EBADF;
	struct graft *g;
	struct stat st;
	int fd, r = check(c, &st, err);

	if (r < 0)
		return r;
	if (!above || !name[0])
		return file_err(err, above ? EISDIR : ENOMEM, "copy to '%s'", c->dest);
	r = fs_mkdir_p(above, 0755);
	if (r < 0)
		return file_err(err, -r, "make the directory of '%s'", c->dest);
	parent = open(above, O_PATH | O_DIRECTORY | O_CLOEXEC);
	fd = parent < 0 ? -1 : openat(parent, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return file_err(err, errno, "copy to '%s'", c->dest);
	r = graft_new(fd, &options, &g);
	if (r < 0)
		return file_err(err, -r, "copy '%s'", c->src);
	r = S_ISDIR(st.st_mode) ? copy_tree(c, g, parent, name, err)
				: copy_entry(c, g, AT_FDCWD, c->src, name, &st, err);
	if (r >= 0)
		r = graft_finish(g, err);
	else
		(void)graft_finish(g, NULL);
	graft_free(g);
	return r;
}
