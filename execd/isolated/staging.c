/*
 * staging.c - making, finding and removing the directories of commits.
 */
#include "execd/isolated/staging.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/fs.h"
#include "lib/util.h"

bool staging_is_name(const char *name)
{
	return strncmp(name, STAGING_PREFIX, strlen(STAGING_PREFIX)) == 0;
}

static void name_of(unsigned n, char out[40])
{
	uint64_t chance = 0;

	if (n >= STAGING_MAX && getrandom(&chance, sizeof(chance), GRND_NONBLOCK) == sizeof(chance))
		(void)snprintf(out, 40, STAGING_PREFIX "%" PRIx64, chance);
	else
		(void)snprintf(out, 40, STAGING_PREFIX "%u", n);
}

/* Ours alone, and nobody has it: its descriptor. -EAGAIN: a living one; -ESTALE: it went meanwhile. */
static int take(int dirfd, const char *name)
{
	_cleanup_close_ int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	struct stat st, there;

	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	if (st.st_uid != geteuid() || (st.st_mode & 0777) != 0700)
		return -EPERM;
	if (flock(fd, LOCK_EX | LOCK_NB) < 0)
		return -errno;
	/* Whoever had it may have removed it, and another made one since. */
	if (fstatat(dirfd, name, &there, AT_SYMLINK_NOFOLLOW) < 0 || there.st_ino != st.st_ino ||
	    there.st_dev != st.st_dev)
		return -ESTALE;
	return TAKE_FD(fd);
}

void staging_sweep(int dirfd)
{
	char name[40];

	for (unsigned n = 0; n < STAGING_MAX; n++) {
		name_of(n, name);
		_cleanup_close_ int fd = take(dirfd, name);
		if (fd >= 0)
			(void)fs_remove_tree(dirfd, name);
	}
}

int staging_open(struct staging *s, int dirfd)
{
	_cleanup_close_ int parent = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct stat before, after;
	int r = -EEXIST;

	if (parent < 0 || fstat(parent, &before) < 0)
		return -errno;
	staging_sweep(parent);
	*s = STAGING_INIT;
	for (unsigned n = 0; n <= STAGING_MAX && (r == -EEXIST || r == -EAGAIN || r == -ESTALE); n++) {
		name_of(n, s->name);
		r = mkdirat(parent, s->name, 0700) < 0 ? -errno : 0;
		if (r >= 0)
			r = take(parent, s->name);
	}
	if (r < 0)
		return r;
	s->fd = r;
	s->before[0] = before.st_atim;
	s->before[1] = before.st_mtim;
	s->after = fstat(parent, &after) < 0 ? (struct timespec){0} : after.st_mtim;
	s->parent = TAKE_FD(parent);
	return 0;
}

void staging_close(struct staging *s)
{
	struct stat now;

	if (s->fd < 0)
		return;
	bool same = !s->kept && fstat(s->parent, &now) == 0 && now.st_mtim.tv_sec == s->after.tv_sec &&
		    now.st_mtim.tv_nsec == s->after.tv_nsec;

	(void)fs_remove_tree(s->parent, s->name);
	if (same)
		(void)futimens(s->parent, s->before);
	fd_close(&s->fd);
	fd_close(&s->parent);
}

struct sweep {
	struct pool_job job;
	int fd;
};

static void sweep_run(struct pool_job *job)
{
	staging_sweep(container_of(job, struct sweep, job)->fd);
}

static void sweep_done(struct pool_job *job)
{
	struct sweep *s = container_of(job, struct sweep, job);

	fd_close(&s->fd);
	free(s);
}

static bool is_there(int dirfd)
{
	struct stat st;
	char name[40];

	for (unsigned n = 0; n < STAGING_MAX; n++) {
		name_of(n, name);
		if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) == 0)
			return true;
	}
	return false;
}

/* What is not removed now is by the next commit. */
void staging_sweep_later(struct pool *pool, int dirfd)
{
	struct sweep *s = is_there(dirfd) ? calloc(1, sizeof(*s)) : NULL;

	if (!s)
		return;
	s->job = (struct pool_job){.run = sweep_run, .done = sweep_done};
	s->fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (s->fd < 0 || pool_submit(pool, &s->job) < 0)
		sweep_done(&s->job);
}
