/*
 * view.c - the files as a room sees them.
 *
 * Owns nothing beyond a call. Runs in the room's init before anybody else is in
 * there, in a mount namespace that begins as a copy of the container's. So
 * nothing is bound to a new root: the copy itself is sealed, and what the room
 * is to have of its own is mounted over it. Sources are opened before that.
 *
 * The cellar is a tmpfs at /proc, under the room's procfs that comes later: no
 * path leads there any more, only descriptors. It holds for each overlay i
 *
 *   i/stack   the layers: a tmpfs, or what lies on disk
 *   i/lower   what the workspace is in the container
 *
 * as mounts of this namespace that are not read-only, since overlayfs must
 * find its layers in the namespace it is mounted in, now and at a remount.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "execd/isolated/warden.h"
#include "lib/util.h"

#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif
#define TREE_CLONE  (OPEN_TREE_CLONE | O_CLOEXEC)
#define PLACE_MAX   4096
#define OPTIONS_MAX 4000 /* mount(2) takes a page */
#define CELLAR	    "/proc"
#define SHM_OPTIONS "mode=1777,size=268435456,nr_inodes=65536"
#define HARD	    (MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV)

static const char *const devices[] = {"null", "zero", "full", "random", "urandom", "tty"};

struct view {
	const struct plan *plan;
	int devices[ARRAY_SIZE(devices)];
	int cellar;
	int sources[VIEW_SOURCES_MAX];
	const char *empty; /* a place that is masked already */
};

static int set_attr(int dirfd, const char *path, unsigned flags, uint64_t set, uint64_t clear,
		    uint64_t propagation)
{
	struct mount_attr attr = {.attr_set = set, .attr_clr = clear, .propagation = propagation};
	return syscall(SYS_mount_setattr, dirfd, path, flags, &attr, sizeof(attr)) < 0 ? -errno : 0;
}

static int clone_tree(const char *path, bool recursive, int *ret)
{
	int fd = (int)syscall(SYS_open_tree, AT_FDCWD, path, TREE_CLONE | (recursive ? AT_RECURSIVE : 0));
	if (fd < 0)
		return -errno;
	*ret = fd;
	return 0;
}

static int attach(int tree, int dirfd, const char *path)
{
	return syscall(SYS_move_mount, tree, "", dirfd, path, MOVE_MOUNT_F_EMPTY_PATH) < 0 ? -errno : 0;
}

/* Every directory above path, and path itself as a directory or an empty file. */
static int make_place(const char *path, bool directory)
{
	char copy[PLACE_MAX];
	size_t n = strlen(path);
	if (n >= sizeof(copy))
		return -ENAMETOOLONG;
	memcpy(copy, path, n + 1);
	for (char *p = strchr(copy + 1, '/'); p; p = strchr(p + 1, '/')) {
		*p = '\0';
		if (mkdir(copy, 0755) < 0 && errno != EEXIST && errno != EROFS)
			return -errno;
		*p = '/';
	}
	if (directory)
		return mkdir(path, 0755) < 0 && errno != EEXIST ? -errno : 0;
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0644);
	if (fd < 0)
		return -errno;
	(void)close(fd);
	return 0;
}

static int place(int tree, const char *path)
{
	struct stat st;
	int r = attach(tree, AT_FDCWD, path);
	if (r != -ENOENT)
		return r;
	if (fstat(tree, &st) < 0)
		return -errno;
	r = make_place(path, S_ISDIR(st.st_mode));
	return r < 0 ? r : attach(tree, AT_FDCWD, path);
}

static int mount_tmpfs(const char *path, const char *options, unsigned long flags)
{
	if (mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV | flags, options) == 0)
		return 0;
	if (errno != ENOENT)
		return -errno;
	int r = make_place(path, true);
	if (r < 0)
		return r;
	return mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV | flags, options) < 0 ? -errno : 0;
}

/* ---- stacks --------------------------------------------------------------- */

static int build_cellar(struct view *v)
{
	int r = mount_tmpfs(CELLAR, "mode=0700", MS_NOEXEC);
	if (r < 0)
		return r;
	v->cellar = open(CELLAR, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return v->cellar < 0 ? -errno : 0;
}

/* The newest layer of a tmpfs looks like what it lies upon. */
static int first_layer(const char *stack, const char *lower)
{
	char path[64];
	struct stat st;
	(void)snprintf(path, sizeof(path), "%s/0", stack);
	if (stat(lower, &st) < 0 || mkdir(path, 0700) < 0)
		return -errno;
	/* An id that is not mapped cannot be given. */
	if (chown(path, st.st_uid, st.st_gid) < 0 && errno != EINVAL && errno != EPERM)
		return -errno;
	return chmod(path, st.st_mode & 07777) < 0 ? -errno : 0;
}

static int source_to(struct view *v, uint32_t n, const char *path)
{
	if (n >= VIEW_SOURCES_MAX || v->sources[n] < 0)
		return -EBADF;
	int r = attach(v->sources[n], AT_FDCWD, path);
	fd_close(&v->sources[n]);
	return r;
}

static int build_stack(struct view *v, const struct view_step *step)
{
	char stack[48], lower[48], options[64];
	(void)snprintf(stack, sizeof(stack), CELLAR "/%u/stack", step->n);
	(void)snprintf(lower, sizeof(lower), CELLAR "/%u/lower", step->n);
	int r = make_place(stack, true);
	if (r >= 0)
		r = make_place(lower, true);
	if (r >= 0)
		r = source_to(v, step->a, lower);
	if (r >= 0 && step->b != VIEW_NO_SOURCE)
		return source_to(v, step->b, stack);
	if (r < 0)
		return r;
	if (step->size)
		(void)snprintf(options, sizeof(options), "mode=0700,size=%llu",
			       (unsigned long long)step->size);
	r = mount_tmpfs(stack, step->size ? options : "mode=0700", 0);
	return r < 0 ? r : first_layer(stack, lower);
}

/* The kernel knows of every descriptor and mapping by which somebody could write, and of none that does so
 * later. */
static int end_writing(const char *path)
{
	int r = set_attr(AT_FDCWD, path, 0, MOUNT_ATTR_RDONLY, 0, 0);
	return r == -EINVAL || r == -ENOENT ? 0 : r; /* nothing is mounted there */
}

static int mount_overlay(int cellar, const struct view_step *step, const char *path, bool detach)
{
	char options[OPTIONS_MAX], stack[32], work[32];
	unsigned top = (unsigned)step->size;
	size_t n = 0;
	(void)snprintf(stack, sizeof(stack), "%u/stack", step->n);
	(void)snprintf(work, sizeof(work), "work%u", top);
	_cleanup_close_ int here = openat(cellar, stack, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (here < 0 || fchdir(here) < 0)
		return -errno;
	if (mkdir(work, 0700) < 0 && errno != EEXIST)
		return -errno;
	if (detach && step->flags & VIEW_LAST) {
		int r = end_writing(path);
		if (r < 0)
			return r;
	}
	if (detach && umount2(path, MNT_DETACH) < 0 && errno != EINVAL)
		return -errno;
	n = (size_t)snprintf(options, sizeof(options), "upperdir=%u,workdir=%s,lowerdir=", top, work);
	for (unsigned i = top; i-- > 0 && n < sizeof(options);)
		n += (size_t)snprintf(options + n, sizeof(options) - n, "%u:", i);
	if (n < sizeof(options))
		n += (size_t)snprintf(options + n, sizeof(options) - n, "../lower%s",
				      step->flags & VIEW_USERXATTR ? ",userxattr" : "");
	if (n >= sizeof(options))
		return -E2BIG;
	int r = mount("overlay", path, "overlay", MS_NOSUID | MS_NODEV, options) < 0 ? -errno : 0;
	if (r == -ENOENT && make_place(path, true) >= 0)
		r = mount("overlay", path, "overlay", MS_NOSUID | MS_NODEV, options) < 0 ? -errno : 0;
	return chdir("/") < 0 ? -errno : r;
}

int view_remount(int cellar, const struct view_step *step, const char *text)
{
	return mount_overlay(cellar, step, text + step->a, true);
}

/* ---- what a room has of its own ---------------------------------------------- */

/* Before the seal, which lets no device through. What the container lacks, the room lacks. */
static int open_devices(struct view *v)
{
	char path[32];
	for (size_t i = 0; i < ARRAY_SIZE(devices); i++) {
		(void)snprintf(path, sizeof(path), "/dev/%s", devices[i]);
		int r = clone_tree(path, false, &v->devices[i]);
		if (r == -ENOMEM || r == -EMFILE || r == -ENFILE)
			return r;
		if (r >= 0)
			(void)set_attr(v->devices[i], "", AT_EMPTY_PATH,
				       MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC, 0, MS_PRIVATE);
	}
	return 0;
}

static int build_dev(struct view *v)
{
	static const char *const links[][2] = {{"/proc/self/fd", "/dev/fd"},
					       {"/proc/self/fd/0", "/dev/stdin"},
					       {"/proc/self/fd/1", "/dev/stdout"},
					       {"/proc/self/fd/2", "/dev/stderr"},
					       {"pts/ptmx", "/dev/ptmx"}};
	int r = 0;
	char path[32];
	if (mount("tmpfs", "/dev", "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=0755,size=65536,nr_inodes=64") < 0)
		r = -errno;
	for (size_t i = 0; i < ARRAY_SIZE(devices); i++) {
		(void)snprintf(path, sizeof(path), "/dev/%s", devices[i]);
		if (r >= 0 && v->devices[i] >= 0)
			r = place(v->devices[i], path);
		fd_close(&v->devices[i]);
	}
	for (size_t i = 0; i < ARRAY_SIZE(links) && r >= 0; i++)
		r = symlink(links[i][0], links[i][1]) < 0 ? -errno : 0;
	if (r >= 0 && (mkdir("/dev/pts", 0755) < 0 || mkdir("/dev/shm", 01777) < 0))
		r = -errno;
	if (r >= 0 && mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC,
			    "newinstance,ptmxmode=0666,mode=0620") < 0)
		r = -errno;
	if (r >= 0)
		r = mount_tmpfs("/dev/shm", SHM_OPTIONS, 0);
	return r < 0 ? r : set_attr(AT_FDCWD, "/dev", 0, MOUNT_ATTR_RDONLY, 0, 0);
}

/*
 * Read-only as a whole, or in what is of the machine and not of a process: uid 0
 * may write there without any capability. Where the container has a whole procfs
 * only to read (sandboxd's have), a user namespace gets no other.
 */
static int build_proc(bool readonly)
{
	static const char *const frozen[] = {"/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus",
					     "/proc/fs"};
	static const unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
	if (!readonly && mount("proc", "/proc", "proc", flags, NULL) < 0) {
		if (errno != EPERM)
			return -errno;
		readonly = true;
	}
	if (readonly && mount("proc", "/proc", "proc", flags | MS_RDONLY, NULL) < 0)
		return -errno;
	for (size_t i = 0; i < ARRAY_SIZE(frozen) && !readonly; i++) {
		_cleanup_close_ int tree = -EBADF;
		int r = clone_tree(frozen[i], false, &tree);
		if (r == -ENOENT)
			continue;
		if (r >= 0)
			r = set_attr(tree, "", AT_EMPTY_PATH, HARD | MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOEXEC, 0,
				     0);
		if (r >= 0)
			r = attach(tree, AT_FDCWD, frozen[i]);
		if (r < 0)
			return r;
	}
	return 0;
}

static int mask(struct view *v, const char *path)
{
	_cleanup_close_ int tree = -EBADF;
	struct stat st;
	int r;
	if (lstat(path, &st) < 0)
		return errno == ENOENT || errno == ENOTDIR || errno == EACCES ? 0 : -errno;
	if (S_ISDIR(st.st_mode) && !v->empty) {
		v->empty = path;
		return mount_tmpfs(path, "mode=0555,size=4096,nr_inodes=2", MS_RDONLY | MS_NOEXEC);
	}
	r = clone_tree(S_ISDIR(st.st_mode) ? v->empty : "/dev/null", false, &tree);
	return r < 0 ? r : attach(tree, AT_FDCWD, path);
}

static int seal(struct view *v)
{
	int r = open_devices(v);
	return r < 0 ? r : set_attr(AT_FDCWD, "/", AT_RECURSIVE, HARD | MOUNT_ATTR_RDONLY, 0, MS_PRIVATE);
}

/* ---- sources ------------------------------------------------------------------ */

static int open_source(struct view *v, const struct view_step *step)
{
	const char *path = v->plan->text + step->a;
	if (step->n >= VIEW_SOURCES_MAX)
		return -E2BIG;
	bool alone = step->flags & VIEW_ALONE;
	int r = clone_tree(path, !alone, &v->sources[step->n]);
	if (r < 0)
		return r == -ENOENT && step->flags & VIEW_OPTIONAL ? 0 : r;
	uint64_t set = HARD | (step->flags & VIEW_READONLY ? MOUNT_ATTR_RDONLY : 0);
	return set_attr(v->sources[step->n], "", AT_EMPTY_PATH | (alone ? 0 : AT_RECURSIVE), set, 0,
			MS_PRIVATE);
}

static int place_source(struct view *v, const struct view_step *step)
{
	if (step->n >= VIEW_SOURCES_MAX || v->sources[step->n] < 0)
		return 0;
	int r = place(v->sources[step->n], v->plan->text + step->a);
	fd_close(&v->sources[step->n]);
	return r;
}

/* ---- all of it ------------------------------------------------------------------ */

static int do_step(struct view *v, const struct view_step *step)
{
	const char *text = v->plan->text, *a = text + step->a;
	int r;
	switch ((enum view_kind)step->kind) {
	case VIEW_CELLAR:
		return build_cellar(v);
	case VIEW_STACK:
		return build_stack(v, step);
	case VIEW_SOURCE:
		return open_source(v, step);
	case VIEW_SEAL:
		return seal(v);
	case VIEW_TMPFS:
		r = mount_tmpfs(a, text + step->b, 0);
		return r == -EROFS && step->flags & VIEW_OPTIONAL ? 0 : r;
	case VIEW_DEV:
		return build_dev(v);
	case VIEW_PROC:
		return build_proc(step->flags & VIEW_READONLY);
	case VIEW_MASK:
		return mask(v, a);
	case VIEW_PLACE:
		return place_source(v, step);
	case VIEW_OVERLAY:
		return mount_overlay(v->cellar, step, a, false);
	}
	return -EINVAL;
}

int view_build(const struct plan *plan, int *ret_cellar, uint32_t *ret_step)
{
	struct view v = {.plan = plan, .cellar = -EBADF};
	int r = set_attr(AT_FDCWD, "/", AT_RECURSIVE, 0, 0, MS_PRIVATE);
	for (size_t i = 0; i < VIEW_SOURCES_MAX; i++)
		v.sources[i] = -EBADF;
	for (size_t i = 0; i < ARRAY_SIZE(devices); i++)
		v.devices[i] = -EBADF;
	for (uint32_t i = 0; i < plan->head->steps_n && r >= 0; i++) {
		*ret_step = i;
		r = do_step(&v, &plan->steps[i]);
	}
	for (size_t i = 0; i < VIEW_SOURCES_MAX; i++)
		fd_close(&v.sources[i]);
	*ret_cellar = v.cellar;
	return r;
}
