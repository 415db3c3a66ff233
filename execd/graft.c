/*
 * graft.c - entries below one directory.
 *
 * Owns the descriptor of the root, of the directory used last (entries come in
 * the order of a walk), and of the file being written.
 */
#include "execd/graft.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "execd/file_data.h"
#include "execd/file_info.h"
#include "lib/fs.h"
#include "lib/random.h"

#define TEMP_MAX 24

/* A directory whose mode and time are set at the end; followed by its path. */
struct made {
	struct graft_meta meta;
	size_t size; /* of this with its path */
};

struct graft {
	int root;
	struct graft_options options;

	char *parent_path; /* of parent; NULL: none */
	int parent;

	char *path; /* of the file at hand */
	char *name; /* its last component, in path */
	int dir;    /* its directory, a duplicate */
	int fd;
	char temp[TEMP_MAX];
	struct graft_meta meta;

	struct buf made;    /* struct made, each with its path, padded */
	struct buf offsets; /* size_t: where they begin */
};

int graft_new(int fd_consumed, const struct graft_options *options, struct graft **ret)
{
	struct graft *g = calloc(1, sizeof(*g));

	if (!g) {
		fd_close(&fd_consumed);
		return -ENOMEM;
	}
	g->root = fd_consumed;
	g->options = *options;
	g->parent = g->dir = g->fd = -EBADF;
	g->made = BUF_INIT(GRAFT_DIRS_MAX);
	g->offsets = BUF_INIT(GRAFT_DIRS_MAX);
	*ret = g;
	return 0;
}

static void file_drop(struct graft *g)
{
	if (g->fd >= 0)
		(void)unlinkat(g->dir, g->temp, 0);
	fd_close(&g->fd);
	fd_close(&g->dir);
	free(TAKE_PTR(g->path));
}

void graft_free(struct graft *g)
{
	if (!g)
		return;
	file_drop(g);
	fd_close(&g->parent);
	fd_close(&g->root);
	free(g->parent_path);
	buf_done(&g->made);
	buf_done(&g->offsets);
	free(g);
}

/* ---- paths ------------------------------------------------------------------ */

/*
 * path without "." and double slashes, "" for the root itself. -EINVAL with
 * *err for an absolute path and for "..", which no honest archive needs.
 */
static int clean(const char *path, char **ret, struct err *err)
{
	char *out = malloc(strlen(path) + 1), *to = out;
	const char *p = path;

	if (!out)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "'%s'", path);
	while (*p) {
		size_t n = strcspn(p, "/");

		if (p == path && n == 0) {
			free(out);
			return err_set(err, ERR_INVALID, "INVALID_FILE", EINVAL, "'%s': the path is absolute",
				       path);
		}
		if (n == 2 && p[0] == '.' && p[1] == '.') {
			free(out);
			return err_set(err, ERR_INVALID, "INVALID_FILE", EINVAL, "'%s': the path has '..'",
				       path);
		}
		if (n > 0 && !(n == 1 && p[0] == '.')) {
			if (to > out)
				*to++ = '/';
			memcpy(to, p, n);
			to += n;
		}
		p += n;
		p += strspn(p, "/");
	}
	*to = '\0';
	*ret = out;
	return 0;
}

static int enter(int dirfd, const char *name, bool make)
{
	int flags = O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
	int fd = openat(dirfd, name, flags);

	if (fd < 0 && errno == ENOENT && make) {
		if (mkdirat(dirfd, name, 0755) < 0 && errno != EEXIST)
			return -errno;
		fd = openat(dirfd, name, flags);
	}
	return fd < 0 ? -errno : fd;
}

/* The directory at the first n bytes of the clean path. *ret is new. */
static int descend(const struct graft *g, const char *path, size_t n, bool make, int *ret)
{
	_cleanup_close_ int at = openat(g->root, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	_cleanup_free_ char *names = strndup(path, n);
	char *p = names;

	if (at < 0 || !names)
		return at < 0 ? -errno : -ENOMEM;
	while (*p) {
		char *slash = strchrnul(p, '/');
		bool last = *slash == '\0';
		int fd;

		*slash = '\0';
		fd = enter(at, p, make);
		if (fd < 0)
			return fd;
		fd_close(&at);
		at = fd;
		p = last ? slash : slash + 1;
	}
	*ret = TAKE_FD(at);
	return 0;
}

/* Splits the clean path; *ret_fd is borrowed until the next call. */
static int parent_of(struct graft *g, char *path, int *ret_fd, char **ret_name, struct err *err)
{
	char *slash = strrchr(path, '/');
	size_t n = slash ? (size_t)(slash - path) : 0;
	int r = 0;

	*ret_name = slash ? slash + 1 : path;
	if (n == 0) {
		*ret_fd = g->root;
		return 0;
	}
	if (!g->parent_path || strlen(g->parent_path) != n || strncmp(g->parent_path, path, n) != 0) {
		fd_close(&g->parent);
		free(g->parent_path);
		g->parent_path = strndup(path, n);
		r = g->parent_path ? descend(g, path, n, true, &g->parent) : -ENOMEM;
	}
	if (r == 0) {
		*ret_fd = g->parent;
		return 0;
	}
	free(TAKE_PTR(g->parent_path));
	if (r == -ENOTDIR || r == -ELOOP)
		return err_set(err, ERR_CONFLICT, "INVALID_FILE", -r,
			       "'%s': a file or a link is where a directory above it should be", path);
	return file_err(err, -r, "the directory of '%s'", path);
}

/* ---- in place ------------------------------------------------------------------ */

static void make_temp(struct graft *g)
{
	char hex[17];

	(void)snprintf(g->temp, sizeof(g->temp), ".execd-%s", random_hex(hex, 16));
}

/* temp in dir gets its name. On failure it is gone. */
static int put_in_place(const struct graft *g, int dir, const char *name)
{
	struct stat st;
	int r = 0;

	if (g->options.overwrite) {
		if (renameat(dir, g->temp, dir, name) < 0)
			r = -errno;
	} else if (renameat2(dir, g->temp, dir, name, RENAME_NOREPLACE) < 0) {
		r = -errno;
		/* A file system, a kernel or a filter over us without the flag. */
		if (r == -EINVAL || r == -ENOSYS || r == -EPERM) {
			r = fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0 ? -EEXIST : 0;
			if (r == 0 && renameat(dir, g->temp, dir, name) < 0)
				r = -errno;
		}
	}
	/* Also after a success: two names of one file are left as they are by rename(2). */
	(void)unlinkat(dir, g->temp, 0);
	return r;
}

static mode_t mode_of(const struct graft *g, const struct graft_meta *meta)
{
	return meta->mode & (g->options.owner ? 07777 : 01777);
}

/* ---- directories and links ------------------------------------------------------- */

static int remember(struct graft *g, const char *path, const struct graft_meta *meta)
{
	size_t n = strlen(path) + 1, at = g->made.len;
	struct made made = {.meta = *meta, .size = (sizeof(made) + n + 15) & ~(size_t)15};

	if (buf_reserve(&g->made, made.size) < 0 || buf_append(&g->offsets, &at, sizeof(at)) < 0)
		return -ENOMEM;
	memset(buf_tail(&g->made), 0, made.size);
	memcpy(buf_tail(&g->made), &made, sizeof(made));
	memcpy(buf_tail(&g->made) + sizeof(made), path, n);
	g->made.len += made.size;
	return 0;
}

int graft_dir(struct graft *g, const char *path, const struct graft_meta *meta, struct err *err)
{
	_cleanup_free_ char *clean_path = NULL;
	struct stat st;
	char *name;
	int dir, r = clean(path, &clean_path, err);

	if (r < 0 || !clean_path[0])
		return r;
	r = parent_of(g, clean_path, &dir, &name, err);
	if (r < 0)
		return r;
	/* Until the end we must be able to write into it. */
	if (mkdirat(dir, name, 0700) < 0) {
		if (errno == EEXIST && fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
		    S_ISDIR(st.st_mode))
			return 0;
		return file_err(err, errno, "make directory '%s'", path);
	}
	r = remember(g, clean_path, meta);
	return r < 0 ? err_set(err, ERR_TOO_LARGE, "RUNTIME_ERROR", E2BIG,
			       "'%s': the names of the new directories are over %u bytes", path,
			       GRAFT_DIRS_MAX)
		     : 0;
}

int graft_symlink(struct graft *g, const char *path, const char *target, const struct graft_meta *meta,
		  struct err *err)
{
	const struct timespec times[2] = {meta->mtime, meta->mtime};
	_cleanup_free_ char *clean_path = NULL;
	char *name;
	int dir, r = clean(path, &clean_path, err);

	if (r >= 0 && !clean_path[0])
		r = err_set(err, ERR_INVALID, "INVALID_FILE", EINVAL, "'%s': a link without a name", path);
	if (r >= 0)
		r = parent_of(g, clean_path, &dir, &name, err);
	if (r < 0)
		return r;
	make_temp(g);
	if (symlinkat(target, dir, g->temp) < 0)
		return file_err(err, errno, "make the link '%s'", path);
	(void)utimensat(dir, g->temp, times, AT_SYMLINK_NOFOLLOW);
	if (g->options.owner && fchownat(dir, g->temp, meta->uid, meta->gid, AT_SYMLINK_NOFOLLOW) < 0) {
		r = -errno;
		(void)unlinkat(dir, g->temp, 0);
	} else {
		r = put_in_place(g, dir, name);
	}
	return r < 0 ? file_err(err, -r, "make the link '%s'", path) : 0;
}

int graft_hardlink(struct graft *g, const char *path, const char *existing, struct err *err)
{
	_cleanup_free_ char *clean_path = NULL, *from = NULL;
	_cleanup_close_ int from_dir = -EBADF;
	char *name, *slash;
	int dir, r = clean(path, &clean_path, err);

	if (r >= 0)
		r = clean(existing, &from, err);
	if (r >= 0 && (!clean_path[0] || !from[0]))
		r = err_set(err, ERR_INVALID, "INVALID_FILE", EINVAL, "'%s': a link without a name", path);
	if (r < 0)
		return r;
	slash = strrchr(from, '/');
	r = descend(g, from, slash ? (size_t)(slash - from) : 0, false, &from_dir);
	if (r < 0)
		return file_err(err, -r, "link '%s' to '%s'", path, existing);
	r = parent_of(g, clean_path, &dir, &name, err);
	if (r < 0)
		return r;
	make_temp(g);
	if (linkat(from_dir, slash ? slash + 1 : from, dir, g->temp, 0) < 0)
		return file_err(err, errno, "link '%s' to '%s'", path, existing);
	r = put_in_place(g, dir, name);
	return r < 0 ? file_err(err, -r, "link '%s' to '%s'", path, existing) : 0;
}

/* ---- files ----------------------------------------------------------------------- */

int graft_file_begin(struct graft *g, const char *path, const struct graft_meta *meta, struct err *err)
{
	int dir, r;

	file_drop(g);
	r = clean(path, &g->path, err);
	if (r >= 0 && !g->path[0])
		r = err_set(err, ERR_INVALID, "INVALID_FILE", EINVAL, "'%s': a file without a name", path);
	if (r >= 0)
		r = parent_of(g, g->path, &dir, &g->name, err);
	if (r < 0)
		return r;
	g->meta = *meta;
	make_temp(g);
	g->dir = openat(dir, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (g->dir >= 0)
		g->fd = openat(g->dir, g->temp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (g->fd < 0)
		return file_err(err, errno, "make '%s'", path);
	return 0;
}

int graft_file_data(struct graft *g, const void *data, size_t n, struct err *err)
{
	int r = fs_write_all(g->fd, data, n);

	return r < 0 ? file_err(err, -r, "write '%s'", g->path) : 0;
}

int graft_file_from(struct graft *g, int fd, const atomic_bool *cancel, uint64_t *ret_bytes, struct err *err)
{
	int r = file_data_copy(g->fd, fd, cancel, ret_bytes);

	return r < 0 ? file_err(err, -r, "write '%s'", g->path) : 0;
}

/* Owner first: its change takes set-id bits away. */
static int apply(const struct graft *g, int fd, const struct graft_meta *meta)
{
	const struct timespec times[2] = {meta->mtime, meta->mtime};

	if (g->options.owner && fchown(fd, meta->uid, meta->gid) < 0)
		return -errno;
	if (fchmod(fd, mode_of(g, meta)) < 0)
		return -errno;
	return futimens(fd, times) < 0 ? -errno : 0;
}

int graft_file_end(struct graft *g, struct err *err)
{
	int r = apply(g, g->fd, &g->meta);

	if (r >= 0) {
		/* Also where quota or network file systems tell of a failed write only now. */
		if (close(TAKE_FD(g->fd)) < 0 && errno != EINTR) {
			r = -errno;
			(void)unlinkat(g->dir, g->temp, 0);
		} else {
			r = put_in_place(g, g->dir, g->name);
		}
	}
	if (r < 0)
		(void)file_err(err, -r, "write '%s'", g->path);
	file_drop(g);
	return r;
}

int graft_finish(struct graft *g, struct err *err)
{
	const size_t *offsets = (const size_t *)g->offsets.data;
	int result = 0;

	file_drop(g);
	/* The deepest first: what is above may take away the right to get there. */
	for (size_t i = g->offsets.len / sizeof(*offsets); i-- > 0;) {
		const struct made *made = (const struct made *)(g->made.data + offsets[i]);
		const char *path = (const char *)(made + 1);
		_cleanup_close_ int dir = -EBADF, fd = -EBADF;
		int r = descend(g, path, strlen(path), false, &dir);

		if (r == 0) {
			fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
			r = fd < 0 ? -errno : apply(g, fd, &made->meta);
		}
		if (r < 0 && result == 0)
			result = file_err(err, -r, "set the mode of '%s'", path);
	}
	buf_clear(&g->made);
	buf_clear(&g->offsets);
	return result;
}
