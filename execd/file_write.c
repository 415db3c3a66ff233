/*
 * file_write.c - writing a file so that it appears whole or not at all.
 *
 *   open -> data* -> end -> commit -> free      (free at any point drops everything)
 *
 * The sandbox's own processes may rename and relink under our feet. The target
 * is looked up step by step through directory descriptors, checked to be the
 * file that the kernel itself would open, and from then on only named relative
 * to its directory's descriptor: a link put there later is replaced, never
 * followed. One owner; opened on the loop, committed on a worker.
 */
#include "execd/file_write.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "execd/path.h"
#include "lib/fs.h"
#include "lib/random.h"

#define LINKS_MAX 40 /* as the kernel's MAXSYMLINKS */
#define COPY_SIZE (128U << 10)
/* A form's parser cuts the content wherever a boundary might begin: these are put together again. */
#define COLLECT_SIZE (64U << 10)
#define DIRECT_SIZE  (16U << 10)

struct file_write {
	char *path;    /* as asked for: for messages */
	int dirfd;     /* the target's directory, or its nearest ancestor that exists */
	char *missing; /* directories between dirfd and the target, "a/b", or NULL */
	char *name;    /* of the target in its directory */
	int fd;	       /* the new content */
	char *temp;    /* its name in dirfd; NULL: it has none */
	int target_fd; /* in place: the existing file */
	struct file_perm perm;
	struct buf collected;
	uint64_t size; /* collected or written */
};

const char *file_write_path(const struct file_write *w)
{
	return w->path;
}

uint64_t file_write_size(const struct file_write *w)
{
	return w->size;
}

void file_write_free(struct file_write *w)
{
	if (!w)
		return;
	if (w->temp)
		(void)unlinkat(w->dirfd, w->temp, 0);
	fd_close(&w->fd);
	fd_close(&w->target_fd);
	fd_close(&w->dirfd);
	buf_done(&w->collected);
	free(w->temp);
	free(w->missing);
	free(w->name);
	free(w->path);
	free(w);
}

static void file_write_freep(struct file_write **w)
{
	file_write_free(*w);
}
#define _cleanup_write_ _cleanup_(file_write_freep)

/* ---- finding the target ------------------------------------------------ */

static int open_dir(int dirfd, const char *path)
{
	int fd = openat(dirfd, path, O_PATH | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

/* Cuts path into its directory and its last component (borrowed from path). */
static int split(const char *path, char **ret_dir, const char **ret_name)
{
	const char *name = path_base(path);
	size_t n = (size_t)(name - path);

	if (name[0] == '\0' || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return -EISDIR;
	while (n > 1 && path[n - 1] == '/')
		n--;
	*ret_dir = n > 0 ? strndup(path, n) : strdup(".");
	if (!*ret_dir)
		return -ENOMEM;
	*ret_name = name;
	return 0;
}

static bool has_dot_dot(const char *path)
{
	while (*path) {
		size_t n = strcspn(path, "/");

		if (n == 2 && path[0] == '.' && path[1] == '.')
			return true;
		path += n;
		path += strspn(path, "/");
	}
	return false;
}

/*
 * The nearest ancestor of dir that exists is opened; what is missing below it
 * goes to *ret_missing. dir is absolute, so "/" ends the climb.
 */
static int open_ancestor(char *dir, int *ret_fd, char **ret_missing)
{
	_cleanup_close_ int fd = -ENOENT;
	size_t n = strlen(dir);
	struct stat st;
	char *rest;

	while (fd == -ENOENT && n > 1) {
		char cut;

		while (n > 1 && dir[n - 1] != '/')
			n--;
		while (n > 1 && dir[n - 1] == '/')
			n--;
		cut = dir[n];
		dir[n] = '\0';
		fd = open_dir(AT_FDCWD, dir);
		dir[n] = cut;
	}
	if (fd < 0)
		return fd;

	rest = strdup(dir + n + strspn(dir + n, "/"));
	if (!rest)
		return -ENOMEM;
	/* No directory can be made through a dangling link, nor be climbed out of before it exists. */
	dir[n + strspn(dir + n, "/") + strcspn(rest, "/")] = '\0';
	if (fstatat(fd, path_base(dir), &st, AT_SYMLINK_NOFOLLOW) == 0 || has_dot_dot(rest)) {
		free(rest);
		return -ENOENT;
	}
	*ret_missing = rest;
	*ret_fd = TAKE_FD(fd);
	return 0;
}

/* Follows links by hand from path until the last component is none. Fills dirfd, name, missing. */
static int find_target(struct file_write *w, const char *path, enum file_write_parents parents)
{
	_cleanup_free_ char *rest = strdup(path);

	for (unsigned links = 0; links <= LINKS_MAX; links++) {
		_cleanup_free_ char *dir = NULL;
		_cleanup_close_ int fd = -EBADF;
		char link[PATH_MAX];
		const char *name;
		ssize_t n;
		int r;

		if (!rest)
			return -ENOMEM;
		r = split(rest, &dir, &name);
		if (r < 0)
			return r;
		free(w->name);
		w->name = strdup(name);
		if (!w->name)
			return -ENOMEM;
		fd = open_dir(w->dirfd >= 0 ? w->dirfd : AT_FDCWD, dir);
		if (fd == -ENOENT && links == 0 && parents == FILE_PARENTS_MAKE)
			return open_ancestor(dir, &w->dirfd, &w->missing);
		if (fd < 0)
			return fd;
		fd_close(&w->dirfd);
		w->dirfd = TAKE_FD(fd);

		n = readlinkat(w->dirfd, name, link, sizeof(link));
		if (n < 0)
			return errno == EINVAL || errno == ENOENT ? 0 : -errno;
		if ((size_t)n == sizeof(link))
			return -ENAMETOOLONG;
		free(rest);
		rest = strndup(link, (size_t)n);
	}
	return -ELOOP;
}

/*
 * Lets the kernel follow path under its own rules (a foreign link in a sticky
 * directory is refused, say). 1 and *ret when there is a regular file, 0 when there is nothing.
 */
static int look_at_target(const char *path, struct stat *ret, struct err *err)
{
	_cleanup_close_ int fd = open(path, O_PATH | O_CLOEXEC);

	if (fd < 0 && errno == ENOENT)
		return 0;
	if (fd < 0 || fstat(fd, ret) < 0)
		return file_err(err, errno, "write '%s'", path);
	if (!S_ISREG(ret->st_mode))
		return err_set(err, ERR_INVALID, "INVALID_FILE", S_ISDIR(ret->st_mode) ? EISDIR : EINVAL,
			       "write '%s': it is %s, only regular files can be written", path,
			       file_kind(ret->st_mode));
	return 1;
}

/* ---- where the content is collected ------------------------------------- */

static int open_nameless(int dirfd, const char *dir, mode_t mode)
{
	int fd = openat(dirfd, dir, O_TMPFILE | O_RDWR | O_CLOEXEC, mode);

	return fd < 0 ? -errno : fd;
}

static int open_temp(struct file_write *w, mode_t mode)
{
	char name[32] = ".execd-", link[64];
	int fd = -EOPNOTSUPP;

	/* A nameless file can only be given its name through /proc. */
	(void)snprintf(link, sizeof(link), "/proc/self/fd/%d", w->dirfd);
	if (faccessat(AT_FDCWD, link, F_OK, 0) == 0)
		fd = open_nameless(w->dirfd, ".", mode);
	/* Old kernels and file systems without it say so in several ways. */
	if (fd != -EOPNOTSUPP && fd != -EISDIR && fd != -EINVAL && fd != -ENOENT)
		return fd;

	(void)random_hex(name + strlen(name), 16);
	fd = openat(w->dirfd, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
	if (fd < 0)
		return -errno;
	w->temp = strdup(name);
	if (!w->temp) {
		(void)unlinkat(w->dirfd, name, 0);
		fd_close(&fd);
		return -ENOMEM;
	}
	return fd;
}

/* The directory takes no new file, but the existing one may be writable. */
static int open_in_place(struct file_write *w)
{
	static const char *const places[] = {"/tmp", "/var/tmp", "/dev/shm"};

	w->target_fd = openat(w->dirfd, w->name, O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (w->target_fd < 0)
		return -errno;
	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		int fd = open_nameless(AT_FDCWD, places[i], 0600);

		if (fd >= 0)
			return fd;
	}
	fd_close(&w->target_fd);
	return -EROFS;
}

static int open_content(struct file_write *w, bool exists)
{
	/* Nobody else may read a file before its own mode is set; without one the umask decides. */
	int fd = open_temp(w, exists || w->perm.has_mode ? 0600 : 0777);

	if (fd >= 0 || !exists || fd == -ENOSPC || fd == -EDQUOT || fd == -EMFILE || fd == -ENFILE)
		return fd;
	int in_place = open_in_place(w);

	return in_place >= 0 ? in_place : fd;
}

static int verify_target(const struct file_write *w, const struct stat *expected)
{
	struct stat st;

	if (fstatat(w->dirfd, w->name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	return st.st_dev == expected->st_dev && st.st_ino == expected->st_ino ? 0 : -EAGAIN;
}

int file_write_open(const char *path, enum file_write_parents parents, const struct file_perm *perm,
		    struct file_write **ret, struct err *err)
{
	_cleanup_write_ struct file_write *w = calloc(1, sizeof(*w));
	struct stat st;
	int exists, r;

	if (!w)
		return file_err(err, ENOMEM, "write '%s'", path);
	w->dirfd = w->fd = w->target_fd = -EBADF;
	w->perm = *perm;
	w->collected = BUF_INIT(COLLECT_SIZE);
	w->path = strdup(path);
	if (!w->path)
		return file_err(err, ENOMEM, "write '%s'", path);

	exists = look_at_target(path, &st, err);
	if (exists < 0)
		return exists;
	r = find_target(w, path, parents);
	if (r >= 0 && exists)
		r = verify_target(w, &st);
	if (r < 0)
		return file_err(err, -r, "write '%s'", path);
	r = open_content(w, exists);
	if (r < 0)
		return file_err(err, -r, "write '%s': no new file can be made in its directory", path);
	w->fd = r;
	*ret = TAKE_PTR(w);
	return 0;
}

static int write_out(struct file_write *w, const void *data, size_t n, struct err *err)
{
	int r = fs_write_all(w->fd, data, n);

	return r < 0 ? file_err(err, -r, "write '%s', in its first %llu bytes", w->path,
				(unsigned long long)w->size)
		     : 0;
}

static int flush(struct file_write *w, struct err *err)
{
	size_t n = w->collected.len;

	buf_clear(&w->collected);
	return n > 0 ? write_out(w, w->collected.data, n, err) : 0;
}

int file_write_data(struct file_write *w, const void *data, size_t n, struct err *err)
{
	int r = 0;

	w->size += n;
	if (n >= DIRECT_SIZE || n > COLLECT_SIZE - w->collected.len)
		r = flush(w, err);
	if (r < 0 || n >= DIRECT_SIZE)
		return r < 0 ? r : write_out(w, data, n, err);
	r = buf_append(&w->collected, data, n);
	return r < 0 ? file_err(err, -r, "write '%s'", w->path) : 0;
}

int file_write_end(struct file_write *w, struct err *err)
{
	int r = flush(w, err);

	buf_done(&w->collected);
	return r;
}

/* ---- commit -------------------------------------------------------------- */

/* Removes what make_parents() made, the deepest first. */
static void unmake_parents(const struct file_write *w, size_t made_from)
{
	_cleanup_free_ char *dir = w->missing ? strdup(w->missing) : NULL;

	for (size_t n = dir ? strlen(dir) : 0; n > made_from; n--) {
		if (n < strlen(w->missing) && w->missing[n] != '/')
			continue;
		dir[n] = '\0';
		(void)unlinkat(w->dirfd, dir, AT_REMOVEDIR);
	}
}

/*
 * Makes the missing directories and opens the last one. *ret_from: length of
 * the part of `missing` that somebody else had made meanwhile.
 */
static int make_parents(const struct file_write *w, size_t *ret_from)
{
	_cleanup_close_ int fd = open_dir(w->dirfd, ".");
	const char *p = w->missing;
	bool made = false;

	*ret_from = 0;
	while (fd >= 0 && *p) {
		size_t n = strcspn(p, "/");
		_cleanup_free_ char *name = strndup(p, n);
		int next;

		if (!name)
			return -ENOMEM;
		if (mkdirat(fd, name, 0777) == 0)
			made = true;
		else if (errno != EEXIST)
			return -errno;
		p += n;
		if (!made)
			*ret_from = (size_t)(p - w->missing);
		p += strspn(p, "/");
		next = openat(fd, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (next < 0)
			return -errno;
		fd_close(&fd);
		fd = next;
	}
	return TAKE_FD(fd);
}

/* Mode and owner of the new file: as asked for, else of the one it replaces. */
static int set_perm(int fd, const struct file_perm *perm, const struct stat *old)
{
	uid_t uid = perm->uid;
	gid_t gid = perm->gid;
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (uid == (uid_t)-1 && old && old->st_uid != st.st_uid)
		uid = old->st_uid;
	if (gid == (gid_t)-1 && old && old->st_gid != st.st_gid)
		gid = old->st_gid;
	if ((uid != (uid_t)-1 || gid != (gid_t)-1) && fchown(fd, uid, gid) < 0)
		return -errno;
	/* After the owner, whose change takes the set-id bits away. */
	if (perm->has_mode || old)
		if (fchmod(fd, perm->has_mode ? perm->mode : old->st_mode & 07777) < 0)
			return -errno;
	return 0;
}

static int copy_all(int from, int to, uint64_t size)
{
	_cleanup_free_ char *piece = malloc(COPY_SIZE);
	uint64_t done = 0;
	int r = 0;

	if (!piece)
		return -ENOMEM;
	while (done < size) {
		ssize_t n = pread(from, piece, MIN(size - done, (uint64_t)COPY_SIZE), (off_t)done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		r = fs_write_all(to, piece, (size_t)n);
		if (r < 0)
			return r;
		done += (uint64_t)n;
	}
	return 0;
}

static int commit_in_place(struct file_write *w, struct err *err)
{
	struct stat st;
	int r;

	if (fstat(w->target_fd, &st) < 0)
		return file_err(err, errno, "write '%s'", w->path);
	/* First, so that a mode or owner that is refused leaves the content alone. */
	r = set_perm(w->target_fd, &w->perm, NULL);
	if (r < 0)
		return file_err(err, -r, "set mode and owner of '%s'", w->path);
	r = copy_all(w->fd, w->target_fd, w->size);
	/* What is no real file (sysfs, proc) has a size of its own and knows no truncation. */
	if (r >= 0 && (uint64_t)st.st_size > w->size && ftruncate(w->target_fd, (off_t)w->size) < 0 &&
	    errno != EINVAL && errno != EPERM)
		r = -errno;
	if (r < 0)
		return file_err(err, -r,
				"write '%s' in place (its name cannot be replaced; it may be cut short)",
				w->path);
	return 0;
}

/* Gives the nameless file a name: the target's own when nothing is there, else a temporary one. */
static int give_name(struct file_write *w, int dirfd, bool exists)
{
	char link[64], temp[32] = ".execd-";

	(void)snprintf(link, sizeof(link), "/proc/self/fd/%d", w->fd);
	if (!exists) {
		if (linkat(AT_FDCWD, link, dirfd, w->name, AT_SYMLINK_FOLLOW) == 0)
			return 1;
		if (errno != EEXIST)
			return -errno;
	}
	(void)random_hex(temp + strlen(temp), 16);
	w->temp = strdup(temp);
	if (!w->temp)
		return -ENOMEM;
	if (linkat(AT_FDCWD, link, w->dirfd, temp, AT_SYMLINK_FOLLOW) < 0) {
		int saved = errno;

		free(TAKE_PTR(w->temp));
		return -saved;
	}
	return 0;
}

static int put_in_place_of(struct file_write *w, int dirfd, bool exists)
{
	int r = w->temp ? 0 : give_name(w, dirfd, exists);

	if (r != 0)
		return r;
	if (renameat(w->dirfd, w->temp, dirfd, w->name) < 0)
		return -errno;
	free(TAKE_PTR(w->temp));
	return 0;
}

static int commit_by_name(struct file_write *w, int dirfd, struct err *err)
{
	const char *what = "set mode and owner of";
	struct stat st;
	bool exists = fstatat(dirfd, w->name, &st, AT_SYMLINK_NOFOLLOW) == 0;
	bool regular = exists && S_ISREG(st.st_mode);
	int r = set_perm(w->fd, &w->perm, regular ? &st : NULL);

	if (r >= 0) {
		what = "write";
		r = put_in_place_of(w, dirfd, exists);
	}
	if ((r == -EBUSY || r == -EPERM) && regular) {
		/* A mount point keeps its name; another's file keeps its owner. */
		w->target_fd =
			openat(dirfd, w->name, O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
		if (w->target_fd >= 0)
			return commit_in_place(w, err);
	}
	if (r < 0)
		return file_err(err, -r, "%s '%s'", what, w->path);
	return 0;
}

int file_write_commit(struct file_write *w, struct err *err)
{
	_cleanup_close_ int dirfd = -EBADF;
	size_t made_from = 0;
	int r;

	if (w->target_fd >= 0)
		return commit_in_place(w, err);
	dirfd = w->missing ? make_parents(w, &made_from) : open_dir(w->dirfd, ".");
	r = dirfd < 0 ? file_err(err, -dirfd, "make the directories of '%s'", w->path)
		      : commit_by_name(w, dirfd, err);
	if (r < 0)
		unmake_parents(w, made_from);
	return r;
}
