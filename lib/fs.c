/*
 * fs.c - small file work. Stateless, safe from any thread.
 *
 * What lies in a sandbox is hostile: opens never wait for the other end of a
 * FIFO, and the removal of a tree holds one descriptor and one heap node a
 * level, however deep the tree is and however its owner renames it meanwhile.
 */
#include "lib/fs.h"

#include <assert.h>
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <unistd.h>

#include "lib/util.h"

#define REMNANT_S 3 /* that a dead process's child may take to its exec */

int fs_write_all(int fd, const void *data, size_t n)
{
	const uint8_t *p = data;

	while (n > 0) {
		ssize_t r = write(fd, p, n);

		if (r < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		if (r == 0)
			return -EIO;
		p += r;
		n -= (size_t)r;
	}
	return 0;
}

static struct statx_timestamp timestamp(const struct timespec *t)
{
	return (struct statx_timestamp){.tv_sec = t->tv_sec, .tv_nsec = (uint32_t)t->tv_nsec};
}

int fs_statx(int dirfd, const char *path, int flags, struct statx *ret)
{
	struct stat st;

	/* glibc itself does without where it is ENOSYS. */
	if (statx(dirfd, path, flags, STATX_BASIC_STATS | STATX_BTIME, ret) == 0)
		return 0;
	if (errno != EPERM)
		return -errno;
	if (fstatat(dirfd, path, &st, flags) < 0)
		return -errno;
	*ret = (struct statx){
		.stx_mask = STATX_BASIC_STATS,
		.stx_blksize = (uint32_t)st.st_blksize,
		.stx_nlink = (uint32_t)st.st_nlink,
		.stx_uid = st.st_uid,
		.stx_gid = st.st_gid,
		.stx_mode = (uint16_t)st.st_mode,
		.stx_ino = st.st_ino,
		.stx_size = (uint64_t)st.st_size,
		.stx_blocks = (uint64_t)st.st_blocks,
		.stx_atime = timestamp(&st.st_atim),
		.stx_ctime = timestamp(&st.st_ctim),
		.stx_mtime = timestamp(&st.st_mtim),
		.stx_rdev_major = major(st.st_rdev),
		.stx_rdev_minor = minor(st.st_rdev),
		.stx_dev_major = major(st.st_dev),
		.stx_dev_minor = minor(st.st_dev),
	};
	return 0;
}

static int open_retry(int dirfd, const char *path, int flags, mode_t mode)
{
	int fd;

	do
		fd = openat(dirfd, path, flags | O_CLOEXEC, mode);
	while (fd < 0 && errno == EINTR);
	return fd < 0 ? -errno : fd;
}

/* One read into out; 0 at the end of the file. */
static int read_some(int fd, struct buf *out)
{
	size_t room = out->max - out->len;
	uint8_t probe;
	ssize_t n;
	int r;

	if (room > 0) {
		room = MIN(room, MAX(out->cap - out->len, (size_t)4096));
		r = buf_reserve(out, room);
		if (r < 0)
			return r;
	}
	do
		n = room > 0 ? read(fd, buf_tail(out), room) : read(fd, &probe, 1);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	if (n > 0 && room == 0)
		return -EFBIG;
	out->len += (size_t)n;
	return n > 0;
}

ssize_t fs_read_full(int fd, void *to, size_t n)
{
	char *at = to;
	size_t have = 0;

	while (have < n) {
		ssize_t r = read(fd, at + have, n - have);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return -errno;
		if (r == 0)
			break;
		have += (size_t)r;
	}
	return (ssize_t)have;
}

int fs_read_file(int dirfd, const char *path, struct buf *out)
{
	size_t before = out->len;
	_cleanup_close_ int fd = open_retry(dirfd, path, O_RDONLY | O_NOCTTY | O_NONBLOCK, 0);
	int r;

	if (fd < 0)
		return fd;
	do
		r = read_some(fd, out);
	while (r > 0);
	if (r < 0)
		out->len = before;
	return r;
}

int fs_write_file(int dirfd, const char *path, const void *data, size_t n, mode_t mode)
{
	_cleanup_close_ int fd =
		open_retry(dirfd, path, O_WRONLY | O_CREAT | O_TRUNC | O_NOCTTY | O_NONBLOCK, mode);
	int r;

	if (fd < 0)
		return fd;
	r = fs_write_all(fd, data, n);
	if (r < 0)
		return r;
	/* Some file systems tell only here that there was no room. */
	if (close(TAKE_FD(fd)) < 0 && errno != EINTR)
		return -errno;
	return 0;
}

int fs_mkdir_p(const char *path, mode_t mode)
{
	char part[PATH_MAX];
	size_t n = strlen(path);
	struct stat st;

	if (n == 0)
		return -ENOENT;
	if (n >= sizeof(part))
		return -ENAMETOOLONG;
	memcpy(part, path, n + 1);
	for (size_t i = 1; i <= n; i++) {
		if (part[i] != '/' && part[i] != '\0')
			continue;
		part[i] = '\0';
		if (mkdir(part, mode) < 0 && errno != EEXIST) {
			int saved = errno;

			/* A parent that is there may be refused for another reason (read-only, no right). */
			if (stat(part, &st) < 0 || !S_ISDIR(st.st_mode))
				return -saved;
		}
		part[i] = i < n ? '/' : '\0';
	}
	if (stat(path, &st) < 0)
		return -errno;
	return S_ISDIR(st.st_mode) ? 0 : -ENOTDIR;
}

/* ---- removal of trees -------------------------------------------------- */

/* Subdirectories noted per look at a directory: bounds the memory of a level. */
#define REMOVE_BATCH_MAX 1024
/* Second looks, all together, at directories that others fill while they are emptied. */
#define REMOVE_RETRIES_MAX 1024

/* A directory between the root of the tree and the one at hand. */
struct level {
	struct level *parent;
	dev_t dev;
	ino_t ino;
	char *names; /* subdirectories still to do, each with its NUL */
	size_t names_len, names_pos;
	bool cut;      /* there were more than a batch holds */
	bool progress; /* something went since the last look */
};

struct removal {
	struct level *top;
	int fd;	   /* of top */
	int error; /* the first one; the work goes on */
	unsigned retries;
};

static void note_error(struct removal *rm, int r)
{
	if (r < 0 && rm->error == 0)
		rm->error = r;
}

static void level_pop(struct removal *rm)
{
	struct level *l = rm->top;

	rm->top = l->parent;
	free(l->names);
	free(l);
}

/* Enters the directory fd (taken). */
static int level_push(struct removal *rm, int fd)
{
	struct level *l;
	struct stat st;

	if (fstat(fd, &st) < 0) {
		int r = -errno;

		fd_close(&fd);
		return r;
	}
	l = calloc(1, sizeof(*l));
	if (!l) {
		fd_close(&fd);
		return -ENOMEM;
	}
	l->parent = rm->top;
	l->dev = st.st_dev;
	l->ino = st.st_ino;
	rm->top = l;
	fd_close(&rm->fd);
	rm->fd = fd;
	return 0;
}

/* Opens a real directory of the same mount. */
static int open_below(const struct removal *rm, const char *name)
{
	struct open_how how = {
		.flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC,
		.resolve = RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH,
	};
	_cleanup_close_ int fd = -EBADF;
	struct statx stx;
	int r;

	do
		fd = (int)syscall(SYS_openat2, rm->fd, name, &how, sizeof(how));
	while (fd < 0 && (errno == EINTR || errno == EAGAIN));
	if (fd >= 0)
		return TAKE_FD(fd);
	if (errno == EXDEV)
		return -EBUSY;
	if (errno != ENOSYS && errno != EPERM)
		return -errno;

	/* An older kernel, or a container's filter. */
	fd = open_retry(rm->fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
	if (fd < 0)
		return fd;
	r = fs_statx(fd, "", AT_EMPTY_PATH, &stx);
	if (r < 0)
		return r;
	if (makedev(stx.stx_dev_major, stx.stx_dev_minor) != rm->top->dev ||
	    (stx.stx_attributes & STATX_ATTR_MOUNT_ROOT))
		return -EBUSY;
	return TAKE_FD(fd);
}

/* Unlinks what is no directory, or notes a directory in names. */
static int remove_entry(struct removal *rm, const struct dirent *e, struct buf *names, size_t *n_names)
{
	struct level *l = rm->top;

	if (e->d_type != DT_DIR) {
		if (unlinkat(rm->fd, e->d_name, 0) == 0) {
			l->progress = true;
			return 0;
		}
		if (errno == ENOENT)
			return 0;
		if (errno != EISDIR) {
			note_error(rm, -errno);
			return 0;
		}
	}
	if (*n_names >= REMOVE_BATCH_MAX) {
		l->cut = true;
		return 0;
	}
	(*n_names)++;
	return buf_append(names, e->d_name, strlen(e->d_name) + 1);
}

/* Looks through the directory at hand: files go at once, subdirectories are noted. */
static void level_scan(struct removal *rm)
{
	_cleanup_buf_ struct buf names = BUF_INIT(SIZE_MAX / 2);
	struct level *l = rm->top;
	size_t n_names = 0;
	struct dirent *e;
	int r = 0;
	DIR *dir;
	/* A description of its own: each look begins at the beginning. */
	int fd = open_retry(rm->fd, ".", O_RDONLY | O_DIRECTORY, 0);

	assert(l);
	l->cut = l->progress = false;
	dir = fd >= 0 ? fdopendir(fd) : NULL;
	if (!dir) {
		note_error(rm, fd < 0 ? fd : -errno);
		fd_close(&fd);
		return;
	}
	while (r >= 0) {
		errno = 0;
		e = readdir(dir);
		if (!e) {
			r = -errno;
			break;
		}
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			r = remove_entry(rm, e, &names, &n_names);
	}
	(void)closedir(dir);
	note_error(rm, r);
	free(l->names);
	l->names_len = names.len;
	l->names_pos = 0;
	l->names = (char *)TAKE_PTR(names.data);
}

/* Back to the directory above: when it is not the one we came from, nothing is touched. */
static int level_up(struct removal *rm)
{
	_cleanup_close_ int fd = -EBADF;
	struct stat st;

	level_pop(rm);
	fd = open_retry(rm->fd, "..", O_RDONLY | O_DIRECTORY, 0);
	if (fd < 0)
		return fd;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (st.st_dev != rm->top->dev || st.st_ino != rm->top->ino)
		return -EBUSY;
	fd_close(&rm->fd);
	rm->fd = TAKE_FD(fd);
	return 0;
}

static const char *level_name(const struct level *l)
{
	return l->names + l->names_pos;
}

static void level_next(struct level *l)
{
	l->names_pos += strlen(level_name(l)) + 1;
}

/* Enters the subdirectory at names_pos. */
static void enter(struct removal *rm)
{
	struct level *l = rm->top;
	int fd = open_below(rm, level_name(l)), r = fd;

	if (fd >= 0) {
		r = level_push(rm, fd);
		if (r >= 0) {
			level_scan(rm);
			return;
		}
	}
	/* A directory that may not be read goes all the same when it is empty. */
	if (fd == -EACCES && unlinkat(rm->fd, level_name(l), AT_REMOVEDIR) == 0)
		l->progress = true;
	else if (r != -ENOENT)
		note_error(rm, r);
	level_next(l);
}

/* Leaves a subdirectory that has been emptied, as far as it could be. */
static int leave(struct removal *rm)
{
	bool progress = rm->top->progress;
	int r = level_up(rm);

	if (r < 0)
		return r;
	if (unlinkat(rm->fd, level_name(rm->top), AT_REMOVEDIR) == 0) {
		rm->top->progress = true;
	} else if (errno == ENOTEMPTY && progress && rm->error == 0 && rm->retries < REMOVE_RETRIES_MAX) {
		rm->retries++;
		return 0;
	} else if (errno != ENOENT) {
		note_error(rm, -errno);
	}
	level_next(rm->top);
	return 0;
}

/* Empties the directory fd (taken). */
static int remove_below(int fd)
{
	struct removal rm = {.fd = -EBADF};
	int r = level_push(&rm, fd);

	if (r < 0)
		return r;
	level_scan(&rm);
	while (r >= 0) {
		struct level *l = rm.top;

		if (l->names_pos < l->names_len)
			enter(&rm);
		else if (l->cut && l->progress)
			level_scan(&rm);
		else if (l->parent)
			r = leave(&rm);
		else
			break;
	}
	note_error(&rm, r);
	while (rm.top)
		level_pop(&rm);
	fd_close(&rm.fd);
	return rm.error;
}

int fs_remove_tree(int dirfd, const char *path)
{
	_cleanup_free_ char *name = strdup(path);
	const char *base;
	size_t n;
	int fd, r = 0;

	if (!name)
		return -ENOMEM;
	/* With a slash at its end a link would be followed. */
	for (n = strlen(name); n > 1 && name[n - 1] == '/'; n--)
		name[n - 1] = '\0';
	base = strrchr(name, '/');
	base = base ? base + 1 : name;
	if (base[0] == '\0' || strcmp(base, ".") == 0 || strcmp(base, "..") == 0)
		return n == 0 ? -ENOENT : -EINVAL;

	if (unlinkat(dirfd, name, 0) == 0)
		return 0;
	if (errno != EISDIR)
		return -errno;
	fd = open_retry(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
	if (fd >= 0)
		r = remove_below(fd);
	else if (fd != -EACCES)
		return fd;
	if (r < 0)
		return r;
	if (unlinkat(dirfd, name, AT_REMOVEDIR) == 0)
		return 0;
	return fd < 0 ? fd : -errno;
}

/* ---- descriptors ------------------------------------------------------- */

int fs_set_nonblock(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0)
		return -errno;
	if (!(flags & O_NONBLOCK) && fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return -errno;
	return 0;
}

/* Also when its parent has not collected it yet. */
static bool is_dead(pid_t pid)
{
	_cleanup_close_ int pidfd = pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -EBADF;
	struct pollfd p = {.fd = pidfd, .events = POLLIN};

	if (pidfd < 0)
		return pid > 0 && errno == ESRCH;
	return poll(&p, 1, 0) > 0;
}

static void on_alarm(int signal)
{
	(void)signal;
}

/* F_SETLKW, broken off after REMNANT_S with -EAGAIN. */
static int lock_in_time(int fd, const struct flock *lock)
{
	const struct sigaction wake = {.sa_handler = on_alarm}; /* no SA_RESTART: EINTR ends the wait */
	const struct itimerval limit = {/* again, should the first fire before the wait has begun */
					.it_interval = {.tv_sec = 1},
					.it_value = {REMNANT_S}};
	const struct itimerval none = {0};
	struct sigaction kept;

	if (sigaction(SIGALRM, &wake, &kept) < 0 || setitimer(ITIMER_REAL, &limit, NULL) < 0)
		return -errno;
	int r = fcntl(fd, F_SETLKW, lock) < 0 ? -errno : 0;
	(void)setitimer(ITIMER_REAL, &none, NULL);
	(void)sigaction(SIGALRM, &kept, NULL);
	return r == -EINTR ? -EAGAIN : r;
}

int fs_lock(int fd)
{
	const struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

	while (fcntl(fd, F_SETLK, &lock) < 0) {
		struct flock holder = lock;
		if (errno != EAGAIN && errno != EACCES)
			return -errno;
		if (fcntl(fd, F_GETLK, &holder) < 0)
			return -errno;
		if (holder.l_type == F_UNLCK)
			continue;
		/* In a PID namespace the kernel calls a dead one 0, as it does one that lives outside. */
		return holder.l_pid <= 0 || is_dead(holder.l_pid) ? lock_in_time(fd, &lock) : -EAGAIN;
	}
	return 0;
}

int fs_pipe(int ret[2], int nonblock_read, int nonblock_write)
{
	int fds[2], r = 0;

	if (pipe2(fds, O_CLOEXEC) < 0)
		return -errno;
	if (nonblock_read)
		r = fs_set_nonblock(fds[0]);
	if (r >= 0 && nonblock_write)
		r = fs_set_nonblock(fds[1]);
	if (r < 0) {
		fd_close(&fds[0]);
		fd_close(&fds[1]);
		return r;
	}
	ret[0] = fds[0];
	ret[1] = fds[1];
	return 0;
}
