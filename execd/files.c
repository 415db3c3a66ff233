/*
 * files.c - removing, moving, changing files and directories. No state; workers.
 */
#include "execd/files.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "execd/file_read.h"
#include "execd/file_write.h"
#include "execd/path.h"
#include "lib/fs.h"

#define PIECE_SIZE (256U << 10)

int file_remove(const char *path, struct err *err)
{
	if (unlink(path) == 0 || errno == ENOENT)
		return 0;
	return file_err(err, errno, "remove '%s'", path);
}

/* By its descriptor, which is a path only: through /proc, where there is one. */
static int set_mode(int fd, const char *path, mode_t mode)
{
	char link[32];

	(void)snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	if (chmod(link, mode) == 0)
		return 0;
	return errno == ENOENT ? chmod(path, mode) : -1;
}

/* Whoever owns its directory may put another file there meanwhile: what is changed is one file, found once.
 */
int file_set_perm(const char *path, const struct file_perm *perm, struct err *err)
{
	bool has_owner = perm->uid != (uid_t)-1 || perm->gid != (gid_t)-1;
	_cleanup_close_ int fd = open(path, O_PATH | O_CLOEXEC);

	/* Also with nothing to change, a path that is not there is told. */
	if (fd < 0)
		return file_err(err, errno, "look at '%s'", path);
	if (has_owner && fchownat(fd, "", perm->uid, perm->gid, AT_EMPTY_PATH) < 0)
		return file_err(err, errno, "change the owner of '%s'", path);
	/* After the owner, whose change takes the set-id bits away. */
	if (perm->has_mode && set_mode(fd, path, perm->mode) < 0)
		return file_err(err, errno, "change the mode of '%s'", path);
	return 0;
}

/* ---- directories -------------------------------------------------------------- */

int dir_make(const char *path, const struct file_perm *perm, struct err *err)
{
	_cleanup_free_ char *above = strdup(path);
	bool made = mkdir(path, 0777) == 0;
	int r = above ? 0 : -ENOMEM;

	if (r >= 0 && !made && errno == ENOENT) {
		above[path_base(above) - above] = '\0';
		r = fs_mkdir_p(above, 0777);
		made = r >= 0 && mkdir(path, 0777) == 0;
	}
	if (r >= 0 && !made)
		r = fs_mkdir_p(path, 0777); /* it is there, or we learn why it cannot be */
	if (r < 0)
		return file_err(err, -r, "make directory '%s'", path);
	/* Clients send 755 where nobody asked for a mode: /tmp or a home must not get it. */
	return made ? file_set_perm(path, perm, err) : 0;
}

int dir_remove(const char *path, struct err *err)
{
	int r;

	if (strcmp(path, "/") == 0)
		return err_set(err, ERR_FORBIDDEN, "RUNTIME_ERROR", EPERM,
			       "remove '/': the root is not removed");
	r = fs_remove_tree(AT_FDCWD, path);
	if (r < 0 && r != -ENOENT)
		return file_err(err, -r, "remove '%s'", path);
	return 0;
}

/* ---- moving ------------------------------------------------------------------- */

static int rename_noreplace(const char *src, const char *dest)
{
	struct stat st;

	if (renameat2(AT_FDCWD, src, AT_FDCWD, dest, RENAME_NOREPLACE) == 0)
		return 0;
	if (errno != EINVAL && errno != ENOSYS && errno != EPERM)
		return -errno;
	/* A file system, a kernel or a filter over us without the flag; or a directory into itself, which
	 * fails again. */
	if (lstat(dest, &st) == 0)
		return -EEXIST;
	return rename(src, dest) < 0 ? -errno : 0;
}

static int copy_to(int fd, struct file_write *to, const char *src, struct err *err)
{
	_cleanup_free_ char *piece = malloc(PIECE_SIZE);
	int r = 0;

	if (!piece)
		return file_err(err, ENOMEM, "copy '%s'", src);
	while (r >= 0) {
		ssize_t n = read(fd, piece, PIECE_SIZE);

		if (n == 0)
			return 0;
		if (n > 0)
			r = file_write_data(to, piece, (size_t)n, err);
		else if (errno != EINTR)
			r = file_err(err, errno, "read '%s'", src);
	}
	return r;
}

/* Across file systems: a copy with its mode, owner and times, then the original goes. */
static int move_by_copy(const char *src, const char *dest, struct err *err)
{
	_cleanup_close_ int fd = -EBADF;
	struct file_write *to = NULL;
	struct stat st;
	int r;

	if (lstat(src, &st) < 0)
		return file_err(err, errno, "move '%s'", src);
	if (!S_ISREG(st.st_mode))
		return err_set(err, ERR_INVALID, "INVALID_FILE", EXDEV,
			       "move '%s' to '%s': %s cannot be moved to another file system", src, dest,
			       file_kind(st.st_mode));
	r = file_read_open(src, &fd, &st, err);
	if (r < 0)
		return r;
	const struct file_perm perm = {
		.has_mode = true, .mode = st.st_mode & 07777, .uid = st.st_uid, .gid = st.st_gid};
	const struct timespec times[2] = {st.st_atim, st.st_mtim};

	r = file_write_open(dest, FILE_PARENTS_MUST_EXIST, &perm, &to, err);
	if (r >= 0)
		r = copy_to(fd, to, src, err);
	if (r >= 0)
		r = file_write_end(to, err);
	if (r >= 0)
		r = file_write_commit(to, err);
	file_write_free(to);
	if (r < 0)
		return r;
	(void)utimensat(AT_FDCWD, dest, times, AT_SYMLINK_NOFOLLOW);
	return unlink(src) < 0 ? file_err(err, errno, "remove '%s' after it was copied", src) : 0;
}

int file_move(const char *src, const char *dest, struct err *err)
{
	_cleanup_free_ char *parent = strdup(dest);
	struct stat st;
	int r;

	if (!parent)
		return file_err(err, ENOMEM, "move '%s'", src);
	if (lstat(src, &st) < 0)
		return file_err(err, errno, "move '%s'", src);
	if (lstat(dest, &st) == 0)
		return file_err(err, EEXIST, "move '%s' to '%s'", src, dest);
	parent[path_base(parent) - parent] = '\0';
	r = fs_mkdir_p(parent, 0755);
	if (r < 0)
		return file_err(err, -r, "make the directory of '%s'", dest);
	r = rename_noreplace(src, dest);
	if (r == -EXDEV)
		return move_by_copy(src, dest, err);
	return r < 0 ? file_err(err, -r, "move '%s' to '%s'", src, dest) : 0;
}

/* ---- replacing ----------------------------------------------------------------- */

/* A window that slides over the file and always holds a whole occurrence. */
struct window {
	int fd;
	const char *path;
	char *data;
	size_t len, cap;
	bool eof;
};

static int window_fill(struct window *w, struct err *err)
{
	while (!w->eof && w->len < w->cap) {
		ssize_t n = read(w->fd, w->data + w->len, w->cap - w->len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return file_err(err, errno, "read '%s'", w->path);
		w->eof = n == 0;
		w->len += (size_t)n;
	}
	return 0;
}

static void window_drop(struct window *w, size_t n)
{
	memmove(w->data, w->data + n, w->len - n);
	w->len -= n;
}

struct change {
	const char *old, *new;
	size_t old_n, new_n;
	uint64_t count;
};

/* Whether there is anything to do: most files of a batch have no occurrence and are left alone. */
static int occurs(struct window *w, const struct change *c, struct err *err)
{
	do {
		int r = window_fill(w, err);

		if (r < 0)
			return r;
		if (memmem(w->data, w->len, c->old, c->old_n))
			return 1;
		window_drop(w, w->len - MIN(w->len, c->old_n - 1));
	} while (!w->eof);
	return 0;
}

static int rewrite(struct window *w, struct change *c, struct file_write *to, struct err *err)
{
	int r = 0;

	do {
		const char *p = w->data, *found;
		size_t rest;

		r = window_fill(w, err);
		while (r >= 0 && (found = memmem(p, w->len - (size_t)(p - w->data), c->old, c->old_n))) {
			r = file_write_data(to, p, (size_t)(found - p), err);
			if (r >= 0)
				r = file_write_data(to, c->new, c->new_n, err);
			p = found + c->old_n;
			c->count++;
		}
		/* What stays may be the beginning of an occurrence. */
		rest = w->len - (size_t)(p - w->data);
		if (!w->eof)
			rest -= MIN(rest, c->old_n - 1);
		if (r >= 0)
			r = file_write_data(to, p, rest, err);
		window_drop(w, (size_t)(p - w->data) + rest);
	} while (r >= 0 && !w->eof);
	return r < 0 ? r : file_write_end(to, err);
}

static int replace_open(struct window *w, struct change *c, struct err *err)
{
	struct file_perm perm = FILE_PERM_NONE;
	struct file_write *to = NULL;
	int r = occurs(w, c, err);

	if (r <= 0)
		return r;
	if (lseek(w->fd, 0, SEEK_SET) < 0)
		return file_err(err, errno, "read '%s'", w->path);
	w->len = 0;
	w->eof = false;
	r = file_write_open(w->path, FILE_PARENTS_MUST_EXIST, &perm, &to, err);
	if (r >= 0)
		r = rewrite(w, c, to, err);
	if (r >= 0)
		r = file_write_commit(to, err);
	file_write_free(to);
	return r;
}

int file_replace(const char *path, const char *old, size_t old_n, const char *new, size_t new_n,
		 uint64_t *ret_count, struct err *err)
{
	struct change c = {.old = old, .old_n = old_n, .new = new, .new_n = new_n};
	_cleanup_close_ int fd = -EBADF;
	_cleanup_free_ char *data = NULL;
	struct window w = {.path = path};
	struct stat st;
	int r;

	r = file_read_open(path, &fd, &st, err);
	if (r < 0)
		return r;
	w.fd = fd;
	w.cap = MAX((size_t)PIECE_SIZE, 2 * old_n);
	w.data = data = malloc(w.cap);
	if (!data)
		return file_err(err, ENOMEM, "read '%s'", path);
	r = replace_open(&w, &c, err);
	if (r >= 0)
		*ret_count = c.count;
	return r < 0 ? r : 0;
}
