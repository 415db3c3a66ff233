/*
 * layer_copy.c - making a second one of a file, a link, a FIFO or a socket.
 */
#include "execd/isolated/layer_copy.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>

#include "execd/file_data.h"
#include "execd/isolated/layer_mark.h"

static int copy_regular(int src_dirfd, const char *src, int dst_dirfd, const char *dst,
			const atomic_bool *cancel, uint64_t *bytes_sum)
{
	_cleanup_close_ int from =
		openat(src_dirfd, src, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	_cleanup_close_ int to = -EBADF;
	uint64_t bytes = 0;
	struct stat st;
	int r;

	if (from < 0 || fstat(from, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -ESTALE;
	to = openat(dst_dirfd, dst, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (to < 0)
		return -errno;
	r = st.st_size > 0 ? file_data_copy(to, from, cancel, &bytes) : 0;
	if (r >= 0)
		r = layer_set_metadata(to, from, "", &st);
	*bytes_sum += bytes;
	/* Where quota or network file systems tell of a failed write only now. */
	if (close(TAKE_FD(to)) < 0 && errno != EINTR && r >= 0)
		r = -errno;
	return r;
}

static int copy_link(int src_dirfd, const char *src, const struct stat *st, int dst_dirfd, const char *dst)
{
	const struct timespec times[2] = {st->st_atim, st->st_mtim};
	char target[PATH_MAX];
	ssize_t n = readlinkat(src_dirfd, src, target, sizeof(target) - 1);

	if (n < 0)
		return -errno;
	target[n] = '\0';
	if (symlinkat(target, dst_dirfd, dst) < 0)
		return -errno;
	if (fchownat(dst_dirfd, dst, st->st_uid, st->st_gid, AT_SYMLINK_NOFOLLOW) < 0 && geteuid() == 0)
		return -errno;
	return utimensat(dst_dirfd, dst, times, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

int layer_chmod_at(int dirfd, const char *name, mode_t type, mode_t mode)
{
	_cleanup_close_ int fd = openat(dirfd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	char path[32];
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	if ((st.st_mode & S_IFMT) != type)
		return -ESTALE;
	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return chmod(path, mode) < 0 ? -errno : 0;
}

static int make_special(const struct stat *st, int dst_dirfd, const char *dst)
{
	const struct timespec times[2] = {st->st_atim, st->st_mtim};
	int r;

	if (mknodat(dst_dirfd, dst, (st->st_mode & S_IFMT) | 0600, 0) < 0)
		return -errno;
	if (fchownat(dst_dirfd, dst, st->st_uid, st->st_gid, AT_SYMLINK_NOFOLLOW) < 0 && geteuid() == 0)
		return -errno;
	r = layer_chmod_at(dst_dirfd, dst, st->st_mode & S_IFMT, st->st_mode & 07777);
	if (r < 0)
		return r;
	return utimensat(dst_dirfd, dst, times, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

int layer_copy_node(int src_dirfd, const char *src, const struct stat *st, int dst_dirfd, const char *dst,
		    const atomic_bool *cancel, uint64_t *bytes_sum)
{
	int r;

	switch (st->st_mode & S_IFMT) {
	case S_IFREG:
		r = copy_regular(src_dirfd, src, dst_dirfd, dst, cancel, bytes_sum);
		break;
	case S_IFLNK:
		r = copy_link(src_dirfd, src, st, dst_dirfd, dst);
		break;
	case S_IFIFO:
	case S_IFSOCK:
		r = make_special(st, dst_dirfd, dst);
		break;
	default:
		return -EOPNOTSUPP;
	}
	if (r < 0 && r != -EEXIST)
		(void)unlinkat(dst_dirfd, dst, 0);
	return r;
}
