/*
 * file_list.c - listings and searches.
 *
 *   new -> next* -> free
 *
 * The root is opened by the first next(), because that may block. Between two
 * calls only the walk's stack is held, so an answer of a million entries costs
 * no more memory than one of a thousand.
 */
#include "execd/file_list.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "execd/file_info.h"
#include "execd/glob.h"
#include "execd/walk.h"

#define STEPS_MAX 20000 /* entries looked at in one call: others wait for the worker */

struct file_list {
	char *root;
	uint64_t depth;
	struct glob *glob; /* NULL: a listing */
	struct accounts *accounts;
	struct walk *walk; /* NULL before the first call */
	struct jw w;
	uint64_t entries;
	atomic_bool cancelled;
};

static int list_new(const char *path, uint64_t depth, struct file_list **ret, struct err *err)
{
	struct file_list *l = calloc(1, sizeof(*l));

	if (l)
		l->root = strdup(path);
	if (!l || !l->root) {
		free(l);
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "list '%s'", path);
	}
	l->depth = depth;
	*ret = l;
	return 0;
}

int file_list_new(const char *path, uint64_t depth, struct file_list **ret, struct err *err)
{
	return list_new(path, depth, ret, err);
}

int file_search_new(const char *path, const char *pattern, struct file_list **ret, struct err *err)
{
	struct file_list *l = NULL;
	int r = list_new(path, UINT64_MAX, &l, err);

	if (r < 0)
		return r;
	r = glob_new(pattern, &l->glob, err);
	if (r < 0) {
		file_list_free(l);
		return r;
	}
	*ret = l;
	return 0;
}

void file_list_free(struct file_list *l)
{
	if (!l)
		return;
	walk_free(l->walk);
	glob_free(l->glob);
	accounts_free(l->accounts);
	free(l->root);
	free(l);
}

void file_list_cancel(struct file_list *l)
{
	atomic_store(&l->cancelled, true);
}

/* ---- the root ---------------------------------------------------------------- */

static int refuse(const struct file_list *l, mode_t mode, struct err *err)
{
	return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", ENOTDIR,
		       "list '%s': it is %s, not a directory", l->root, file_kind(mode));
}

/* Opens the root; *ret stays -EBADF for a search that begins (and ends) at a file. */
static int open_root(const struct file_list *l, struct statx *stx, int *ret, struct err *err)
{
	int r = file_stat(AT_FDCWD, l->root, stx), fd;
	int flags = O_RDONLY | O_DIRECTORY | O_NONBLOCK | O_CLOEXEC;

	if (r < 0)
		return file_err(err, -r, "list '%s'", l->root);
	if (!l->glob && !S_ISDIR(stx->stx_mode))
		return refuse(l, stx->stx_mode, err);
	/* A search may start at a link to a directory: the client has named it, it was not come across. */
	fd = open(l->root, l->glob ? flags : flags | O_NOFOLLOW);
	if (fd < 0 && l->glob && (errno == ENOTDIR || (errno == ENOENT && S_ISLNK(stx->stx_mode))))
		return 0;
	if (fd < 0)
		return file_err(err, errno, "list '%s'", l->root);
	*ret = fd;
	return 0;
}

static int walk_err(const struct file_list *l, int r, struct err *err)
{
	if (r == -E2BIG)
		return err_set(err, ERR_TOO_LARGE, "RUNTIME_ERROR", E2BIG,
			       "list '%s': the names of its directories are over %u bytes", l->root,
			       WALK_BYTES_MAX);
	if (r == -ENAMETOOLONG)
		return err_set(err, ERR_TOO_LARGE, "RUNTIME_ERROR", ENAMETOOLONG,
			       "list '%s': a path below it is over %u bytes", l->root, WALK_PATH_MAX);
	return file_err(err, -r, "list '%s'", l->root);
}

static int begin(struct file_list *l, struct err *err)
{
	struct statx stx;
	int fd = -EBADF;
	int r = open_root(l, &stx, &fd, err);

	if (r < 0)
		return r;
	(void)accounts_load(&l->accounts); /* without them owners are shown by number */
	jw_arr_begin(&l->w);
	if (fd < 0) {
		if (glob_match(l->glob, strrchr(l->root, '/') + 1))
			file_info_write(&l->w, l->root, &stx, l->accounts);
		jw_arr_end(&l->w);
		return 1;
	}
	if (l->depth == 0) {
		fd_close(&fd);
		jw_arr_end(&l->w);
		return 1;
	}
	r = walk_new(fd, l->depth, &l->walk);
	return r < 0 ? walk_err(l, r, err) : 0;
}

/* ---- entries ------------------------------------------------------------------- */

static bool wanted(struct file_list *l, const struct walk_entry *e)
{
	if (!l->glob)
		return true;
	if (e->is_dir)
		return false;
	return glob_match(l->glob, e->name) || (glob_has_slash(l->glob) && glob_match(l->glob, e->path));
}

static int tell(struct file_list *l, const struct walk_entry *e, struct err *err)
{
	_cleanup_free_ char *path = NULL;
	struct statx stx;

	int r = file_stat(e->dirfd, e->name, &stx);

	/* What has vanished since its name was read is not told. */
	if (r < 0)
		return walk_is_fatal(r) ? walk_err(l, r, err) : 0;
	if (l->entries++ >= FILE_LIST_ENTRIES_MAX)
		return err_set(err, ERR_TOO_LARGE, "RUNTIME_ERROR", E2BIG, "list '%s': more than %d entries",
			       l->root, FILE_LIST_ENTRIES_MAX);
	if (asprintf(&path, "%s/%s", strcmp(l->root, "/") == 0 ? "" : l->root, e->path) < 0) {
		path = NULL;
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "list '%s'", l->root);
	}
	file_info_write(&l->w, path, &stx, l->accounts);
	return 0;
}

static int go_on(struct file_list *l, struct buf *out, struct err *err)
{
	for (unsigned steps = 0; steps < STEPS_MAX && out->len < FILE_LIST_PIECE_SIZE; steps++) {
		struct walk_entry e;
		int r;

		if (atomic_load_explicit(&l->cancelled, memory_order_relaxed))
			return err_set(err, ERR_UNAVAILABLE, "RUNTIME_ERROR", ECANCELED, "cancelled");
		r = walk_next(l->walk, &e);
		if (r < 0)
			return walk_err(l, r, err);
		if (r == 0) {
			jw_arr_end(&l->w);
			return 1;
		}
		if (wanted(l, &e)) {
			r = tell(l, &e, err);
			if (r < 0)
				return r;
		}
	}
	return 0;
}

int file_list_next(struct file_list *l, struct buf *out, struct err *err)
{
	int r = 0;

	l->w.out = out;
	if (!l->walk)
		r = begin(l, err);
	if (r == 0)
		r = go_on(l, out, err);
	if (r >= 0 && out->failed)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "list '%s'", l->root);
	return r;
}
