/*
 * stack.c - directories for layers: made on the loop (a few small calls), removed by a worker.
 */
#include "execd/isolated/stack.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "execd/execd.h"
#include "lib/fs.h"
#include "lib/log.h"
#include "lib/removal.h"

#define OVERLAYFS_MAGIC 0x794c7630

struct stack_root {
	struct execd *execd;
	char *parent; /* NULL: no place was found */
	char *dir;    /* the agent's own */
	int lock_fd;  /* of dir, locked */
	char problem[256];
};

/* ---- the root ---------------------------------------------------------------- */

/* Those of agents that are no more: nobody holds their lock. */
static void remove_stale(const struct stack_root *root)
{
	DIR *dir = root->parent ? opendir(root->parent) : NULL;
	for (struct dirent *e; dir && (e = readdir(dir));) {
		char *path;
		if (strncmp(e->d_name, "rooms.", 6) != 0 ||
		    asprintf(&path, "%s/%s", root->parent, e->d_name) < 0)
			continue;
		_cleanup_close_ int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (strcmp(path, root->dir) != 0 && fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
			(void)remove_later(root->execd->pool, path);
		free(path);
	}
	if (dir)
		(void)closedir(dir);
}

static int make_own(struct stack_root *root, const char *parent)
{
	_cleanup_free_ char *dir = NULL;
	int r = fs_mkdir_p(parent, 0711);
	if (r < 0)
		return r;
	if (asprintf(&dir, "%s/rooms.XXXXXX", parent) < 0) {
		dir = NULL;
		return -ENOMEM;
	}
	if (!mkdtemp(dir))
		return -errno;
	root->lock_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (root->lock_fd < 0 || flock(root->lock_fd, LOCK_EX | LOCK_NB) < 0) {
		r = -errno;
		(void)rmdir(dir);
		fd_close(&root->lock_fd);
		return r;
	}
	root->parent = strdup(parent);
	if (!root->parent)
		return -ENOMEM;
	root->dir = TAKE_PTR(dir);
	return 0;
}

static void check_filesystem(struct stack_root *root)
{
	struct statfs st;
	if (fstatfs(root->lock_fd, &st) == 0 && st.f_type == OVERLAYFS_MAGIC)
		(void)snprintf(
			root->problem, sizeof(root->problem),
			"'%.128s' is itself on an overlay: mount a volume there (or name another place "
			"with --isolation-upper-root)",
			root->parent);
}

int stack_root_open(struct execd *execd, struct stack_root **ret, struct err *err)
{
	char own[64];
	if (*ret)
		return 0;
	struct stack_root *root = calloc(1, sizeof(*root));
	if (!root)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "make a place for layers");
	root->execd = execd;
	root->lock_fd = -EBADF;
	(void)snprintf(own, sizeof(own), "/var/tmp/execd-isolation-%u", geteuid());
	if (execd->isolation_root && execd->isolation_root[0] != '/') {
		free(root);
		return err_set(err, ERR_INVALID, "RUNTIME_ERROR", EINVAL,
			       "--isolation-upper-root: '%s' is not an absolute path", execd->isolation_root);
	}
	int r = make_own(root, execd->isolation_root ? execd->isolation_root : STACK_ROOT_DEFAULT);
	if (r < 0 && !execd->isolation_root)
		r = make_own(root, own);
	if (r < 0) {
		(void)snprintf(root->problem, sizeof(root->problem), "'%.128s' cannot be used: %s",
			       execd->isolation_root ? execd->isolation_root : STACK_ROOT_DEFAULT,
			       strerror(-r));
		log_info("layers of isolated sessions are kept in memory: %s", root->problem);
	} else {
		check_filesystem(root);
		remove_stale(root);
	}
	*ret = root;
	return 0;
}

void stack_root_close(struct stack_root *root)
{
	if (!root)
		return;
	if (root->dir)
		(void)fs_remove_tree(AT_FDCWD, root->dir);
	if (root->parent)
		(void)rmdir(root->parent); /* unless another agent is there */
	fd_close(&root->lock_fd);
	free(root->dir);
	free(root->parent);
	free(root);
}

const char *stack_root_path(const struct stack_root *root)
{
	return root->parent;
}

const char *stack_root_problem(const struct stack_root *root)
{
	return *root->problem ? root->problem : NULL;
}

/* ---- the stacks of one room ---------------------------------------------------- */

/* The first layer is what the workspace looks like from now on: as it does without it. */
static int make_stack(struct stacks *s, size_t i, const struct room_mount *m)
{
	_cleanup_free_ char *path = NULL;
	struct stat st;
	if (asprintf(&path, "%s/%zu", s->dir, i) < 0) {
		path = NULL;
		return -ENOMEM;
	}
	if (fstat(m->lower_fd, &st) < 0 || mkdir(path, 0700) < 0)
		return -errno;
	_cleanup_close_ int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || mkdirat(fd, "0", 0700) < 0)
		return -errno;
	if (geteuid() == 0 && fchownat(fd, "0", st.st_uid, st.st_gid, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if (fchmodat(fd, "0", st.st_mode & 07777, 0) < 0)
		return -errno;
	s->paths[i] = TAKE_PTR(path);
	return 0;
}

int stacks_make(struct stacks *s, struct stack_root *root, const char *id, struct room_mount *mounts,
		size_t n, struct err *err)
{
	int r = 0;
	s->root = root;
	for (size_t i = 0; i < n && r >= 0; i++) {
		struct room_mount *m = &mounts[i];
		if (m->mode != ROOM_OVERLAY || !m->persist)
			continue;
		if (*root->problem && m->persist_must)
			return err_set(err, ERR_NOT_SUPPORTED, "NOT_SUPPORTED", ENOTSUP,
				       "overlay '%s': persist: %s", m->path, root->problem);
		m->persist = !*root->problem;
		if (!m->persist)
			continue;
		if (!s->dir && asprintf(&s->dir, "%s/%s", root->dir, id) < 0) {
			s->dir = NULL;
			r = -ENOMEM;
		}
		if (r >= 0 && mkdir(s->dir, 0700) < 0 && errno != EEXIST)
			r = -errno;
		if (r >= 0)
			r = make_stack(s, i, m);
	}
	return r < 0 ? err_sys(err, "RUNTIME_ERROR", -r, "make a place for layers in '%s'", root->dir) : 0;
}

void stacks_done(struct stacks *s)
{
	for (size_t i = 0; i < ARRAY_SIZE(s->paths); i++) {
		free(s->paths[i]);
		s->paths[i] = NULL;
	}
	/* What is not removed now is when the agent ends, or by the next one. */
	if (s->dir)
		(void)remove_later(s->root->execd->pool, s->dir);
	free(TAKE_PTR(s->dir));
}
