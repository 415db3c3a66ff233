/*
 * layer_commit.c - merging a view into its workspace, and keeping the inverse.
 *
 * Two walks: one looks for conflicts, one writes. What is written is made in a
 * staging directory at the workspace's root, one thing at a time, and then moved.
 * Where that cannot be (another file system or project below, a root that
 * is not ours to write to) a second one is made beside the entry.
 */
#include "execd/isolated/layer_commit.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "execd/inodes.h"
#include "execd/isolated/layer_copy.h"
#include "execd/isolated/layer_mark.h"
#include "execd/isolated/staging.h"
#include "execd/walk.h"
#include "lib/fs.h"
#include "proto/json.h"

struct commit {
	const struct layer_view *view;
	const struct layer_commit_options *options;
	struct layer_commit_result *result;
	int base;		    /* the workspace */
	struct staging main, local; /* at its root; in the directory that is being written */
	bool main_failed;
	int staged; /* the one in use, borrowed */
	struct inodes links;
	/* Of the inverse: the directory used last, and the path from which on there is nothing to keep. */
	int inverse;
	struct buf inverse_path;
	char *new_dir; /* a directory that was not there: nothing in it was */
};

/* ---- which --------------------------------------------------------------------- */

enum chosen { CHOSEN_NOT, CHOSEN_ON_THE_WAY, CHOSEN };

static bool is_below(const char *path, const char *above)
{
	size_t n = strlen(above);

	return n == 0 || (strncmp(path, above, n) == 0 && (path[n] == '\0' || path[n] == '/'));
}

static enum chosen chosen(const struct layer_commit_options *o, const char *path)
{
	enum chosen best = o->paths_n ? CHOSEN_NOT : CHOSEN;

	for (size_t i = 0; i < o->paths_n && best != CHOSEN; i++) {
		if (is_below(path, o->paths[i]))
			best = CHOSEN;
		else if (is_below(o->paths[i], path))
			best = CHOSEN_ON_THE_WAY;
	}
	return best;
}

/* ---- conflicts ------------------------------------------------------------------- */

static bool is_later(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec != b->tv_sec ? a->tv_sec > b->tv_sec : a->tv_nsec > b->tv_nsec;
}

/* Changed since by somebody else, as far as a change time tells. */
static bool is_foreign(const struct layer_commit_options *o, const struct timespec *changed)
{
	if (!is_later(changed, &o->since))
		return false;
	for (size_t i = 0; i < o->own_n; i++)
		if (!is_later(&o->own[i].from, changed) && !is_later(changed, &o->own[i].to))
			return false;
	return true;
}

/* Whether anything in the directory was changed. A directory's own change time tells of its entries. */
static int tree_changed(const struct layer_view *view, int dirfd, const char *name,
			const struct layer_commit_options *o)
{
	int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), r;
	struct walk_entry e;
	struct walk *walk;

	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	r = walk_new(fd, UINT64_MAX, &walk);
	if (r < 0)
		return r;
	while ((r = walk_next(walk, &e)) > 0) {
		struct stat st;

		if (view->cancel && atomic_load_explicit(view->cancel, memory_order_relaxed)) {
			r = -ECANCELED;
			break;
		}
		if (fstatat(e.dirfd, e.name, &st, AT_SYMLINK_NOFOLLOW) == 0 && is_foreign(o, &st.st_ctim))
			break;
	}
	walk_free(walk);
	return r;
}

/* 1: somebody else has changed what this entry would replace or take away. */
static int is_conflict(const struct commit *c, const struct layer_entry *e, struct err *err)
{
	bool below_dir = e->has_below && S_ISDIR(e->below.st_mode), equal = false;
	int r;

	if (!e->has_below || (below_dir && !e->deleted && S_ISDIR(e->st.st_mode)))
		return 0;
	if (is_foreign(c->options, &e->below.st_ctim)) {
		r = e->deleted ? 0 : layer_equal(c->view, e, &equal, err);
		return r < 0 ? r : !equal;
	}
	if (!below_dir)
		return 0;
	r = tree_changed(c->view, e->below_dirfd, e->name, c->options);
	return r < 0 ? layer_err(err, -r, e->path, "look for changes") : r > 0;
}

static int find_conflicts(struct commit *c, struct buf *out, struct err *err)
{
	struct jw w = JW_INIT(out);
	struct layer_walk *walk;
	struct layer_entry e;
	char first[200] = "";
	int r = layer_walk_new(c->view, &walk);

	if (r < 0)
		return err_sys(err, "RUNTIME_ERROR", -r, "commit");
	jw_arr_begin(&w);
	while ((r = layer_walk_next(walk, &e, err)) > 0) {
		enum chosen which = chosen(c->options, e.path);

		if (which == CHOSEN_NOT && !e.leave)
			layer_walk_skip(walk);
		if (which != CHOSEN || e.leave)
			continue;
		r = is_conflict(c, &e, err);
		if (r < 0)
			break;
		if (r == 0)
			continue;
		if (c->result->conflicts++ == 0)
			(void)snprintf(first, sizeof(first), "%s", e.path);
		if (c->result->conflicts <= LAYER_CONFLICTS_TOLD)
			jw_strn(&w, e.path, strlen(e.path));
	}
	jw_arr_end(&w);
	layer_walk_free(walk);
	if (r == 0 && c->result->conflicts > 0)
		r = err_set(err, ERR_CONFLICT, "COMMIT_CONFLICT", EBUSY,
			    "%" PRIu64 " paths were changed in the workspace since the session began, '%s' "
			    "first: nothing was committed; force overrides",
			    c->result->conflicts, first);
	return r;
}

/* ---- the inverse ------------------------------------------------------------------------ */

/* A directory with all that is in it, made anew: for an inverse on another file system. */
static int copy_tree(struct commit *c, int src_dirfd, const char *src, int dst_dirfd, const char *dst,
		     struct err *err)
{
	_cleanup_close_ int from = openat(src_dirfd, src, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	_cleanup_close_ int to = -EBADF;
	struct layer_commit_options options = {.inverse_fd = -EBADF};
	struct layer_commit_result result = {0};
	struct layer_view view = {.n = 2, .uppers = 1, .plain = true, .cancel = c->view->cancel};
	int r;

	if (from < 0 || (mkdirat(dst_dirfd, dst, 0700) < 0 && errno != EEXIST))
		return err_sys(err, "RUNTIME_ERROR", errno, "keep the inverse of '%s'", src);
	to = openat(dst_dirfd, dst, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (to < 0)
		return err_sys(err, "RUNTIME_ERROR", errno, "keep the inverse of '%s'", src);
	view.fds[0] = from;
	view.fds[1] = to;
	r = layer_commit(&view, &options, &result, NULL, err);
	c->result->bytes += result.bytes;
	return r;
}

static bool keeps_inverse(const struct commit *c, const char *path)
{
	return c->options->inverse_fd >= 0 && !(c->new_dir && is_below(path, c->new_dir));
}

static int make_dir_at(int dirfd, const char *name)
{
	int fd;

	if (mkdirat(dirfd, name, 0700) < 0 && errno != EEXIST)
		return -errno;
	fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* Each directory of the path, which is written to and restored. */
static int make_dirs(int root, char *path)
{
	_cleanup_close_ int at = -EBADF;

	for (char *p = path, *slash; p; p = slash ? slash + 1 : NULL) {
		int fd;

		slash = strchr(p, '/');
		if (slash)
			*slash = '\0';
		fd = make_dir_at(at >= 0 ? at : root, p);
		if (slash)
			*slash = '/';
		if (fd < 0)
			return fd;
		fd_close(&at);
		at = fd;
	}
	return TAKE_FD(at);
}

/* The directory `path` (n bytes) of the inverse, made when it is missing; borrowed until the next call. */
static int inverse_dir(struct commit *c, const char *path, size_t n)
{
	int fd;

	if (c->inverse >= 0 && c->inverse_path.len == n &&
	    (n == 0 || memcmp(c->inverse_path.data, path, n) == 0))
		return c->inverse;
	fd_close(&c->inverse);
	buf_clear(&c->inverse_path);
	if (buf_append(&c->inverse_path, path, n) < 0 || !buf_cstr(&c->inverse_path))
		return -ENOMEM;
	fd = layer_open_dir(c->options->inverse_fd, path, n, O_RDONLY);
	if (fd == -ENOENT)
		fd = make_dirs(c->options->inverse_fd, (char *)c->inverse_path.data);
	c->inverse = fd;
	return fd;
}

/* The directory of the inverse in which the entry has its place. */
static int inverse_parent(struct commit *c, const struct layer_entry *e)
{
	size_t n = (size_t)(e->name - e->path);

	return inverse_dir(c, e->path, n ? n - 1 : 0);
}

static int inverse_failed(const struct layer_entry *e, int r, struct err *err)
{
	return layer_err(err, -r, e->path, "keep what undo needs");
}

/* The entry is new: undone, it will be gone. */
static int keep_nothing(struct commit *c, const struct layer_entry *e, struct err *err)
{
	int fd, r;

	if (!keeps_inverse(c, e->path))
		return 0;
	fd = inverse_parent(c, e);
	r = fd < 0 ? fd : layer_make_whiteout(fd, e->name);
	/* Kept already: it is made a second time, from another place. */
	return r < 0 && r != -EEXIST ? inverse_failed(e, r, err) : 0;
}

/*
 * What is at name in dirfd (and is about to go) as the entry of the inverse.
 * move: it may be taken away; else it stays where it is.
 */
static int keep(struct commit *c, const struct layer_entry *e, int dirfd, const char *name, bool move,
		struct err *err)
{
	struct stat st;
	int fd, r;

	if (!keeps_inverse(c, e->path))
		return 0;
	fd = inverse_parent(c, e);
	if (fd < 0)
		return inverse_failed(e, fd, err);
	if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return inverse_failed(e, -errno, err);
	if (move && renameat(dirfd, name, fd, e->name) == 0)
		return 0;
	/* A second name will do where nobody else has one with which to write to it. */
	if (!move && S_ISREG(st.st_mode) && st.st_nlink == 1 && linkat(dirfd, name, fd, e->name, 0) == 0)
		return 0;
	if (S_ISDIR(st.st_mode))
		r = copy_tree(c, dirfd, name, fd, e->name, err);
	else
		r = layer_copy_node(dirfd, name, &st, fd, e->name, c->view->cancel, &c->result->bytes);
	c->result->inverse_copied = true;
	return r < 0 ? inverse_failed(e, r, err) : 0;
}

/* ---- in the workspace --------------------------------------------------------------------- */

static int remove_any(int dirfd, const char *name)
{
	int r;

	if (unlinkat(dirfd, name, 0) == 0 || errno == ENOENT)
		return 0;
	if (errno != EISDIR && errno != EPERM)
		return -errno;
	r = fs_remove_tree(dirfd, name);
	return r == -ENOENT ? 0 : r;
}

static bool is_dir_at(int dirfd, const char *name)
{
	struct stat st;

	return fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode);
}

/* c->staged: where what gets the entry's name is made, on the file system it is on. */
static int stage(struct commit *c, const struct layer_entry *e, struct err *err)
{
	int r = 0;

	c->staged = c->local.fd >= 0 ? c->local.fd : c->main.fd;
	if (c->staged < 0 && !c->main_failed) {
		r = staging_open(&c->main, c->base);
		c->main_failed = r < 0;
		c->staged = c->main.fd;
	}
	if (c->staged < 0) {
		r = staging_open(&c->local, e->base_dirfd);
		c->staged = c->local.fd;
	}
	return c->staged < 0 ? layer_err(err, -r, e->path, "make a place for it") : 0;
}

/* rename(2), also of a directory that its owner may not write to, and who is no root cannot give another
 * parent. */
static int move(int from, const char *name, int to, const char *as, unsigned flags)
{
	struct stat st;
	bool opened = geteuid() != 0 && fstatat(from, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
		      S_ISDIR(st.st_mode) && !(st.st_mode & 0200) &&
		      layer_chmod_at(from, name, S_IFDIR, (st.st_mode & 07777) | 0200) >= 0;
	int r = renameat2(from, name, to, as, flags) < 0 ? -errno : 0;

	if (opened)
		(void)layer_chmod_at(r < 0 ? from : to, r < 0 ? name : as, S_IFDIR, st.st_mode & 07777);
	return r;
}

/* Takes what is there out of sight at once, then keeps or removes it. */
static int take_away(struct commit *c, const struct layer_entry *e, struct err *err)
{
	int fd = e->base_dirfd, r;

	if (!is_dir_at(fd, e->name)) {
		r = keep(c, e, fd, e->name, true, err);
		if (r >= 0)
			r = remove_any(fd, e->name);
		return r < 0 ? layer_err(err, -r, e->path, "delete it") : 0;
	}
	r = stage(c, e, err);
	if (r < 0)
		return r;
	r = move(fd, e->name, c->staged, STAGING_NEW, 0);
	if (r < 0)
		return layer_err(err, -r, e->path, "delete it");
	r = keep(c, e, c->staged, STAGING_NEW, true, err);
	/* What cannot be kept comes back. */
	if (r < 0 && move(c->staged, STAGING_NEW, fd, e->name, 0) == 0)
		return r;
	r = remove_any(c->staged, STAGING_NEW);
	return r < 0 ? layer_err(err, -r, e->path, "delete it") : 0;
}

/* What is staged gets the entry's name, and what had it goes. */
static int put_in_place(struct commit *c, const struct layer_entry *e, bool dir, struct err *err)
{
	int fd = e->base_dirfd, r;
	struct stat st;

	if (fstatat(fd, e->name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
		r = keep_nothing(c, e, err);
		if (r >= 0 && renameat(c->staged, STAGING_NEW, fd, e->name) < 0)
			r = layer_err(err, errno, e->path, "write it");
		return r;
	}
	if (!dir && !S_ISDIR(st.st_mode)) {
		r = keep(c, e, fd, e->name, false, err);
		if (r >= 0 && renameat(c->staged, STAGING_NEW, fd, e->name) < 0)
			r = layer_err(err, errno, e->path, "write it");
		/* Two names of one file are left as they are by rename(2). */
		if (e->st.st_nlink > 1)
			(void)unlinkat(c->staged, STAGING_NEW, 0);
		return r;
	}
	r = move(fd, e->name, c->staged, STAGING_NEW, RENAME_EXCHANGE);
	if (r < 0)
		return layer_err(err, -r, e->path, "exchange it");
	r = keep(c, e, c->staged, STAGING_NEW, true, err);
	if (r < 0) {
		(void)move(c->staged, STAGING_NEW, fd, e->name, RENAME_EXCHANGE);
		return r;
	}
	r = remove_any(c->staged, STAGING_NEW);
	return r < 0 ? layer_err(err, -r, e->path, "delete what it replaces") : 0;
}

static bool is_device(mode_t mode)
{
	return S_ISCHR(mode) || S_ISBLK(mode);
}

/* Another name of a file committed before. 1: done; 0: it has to be copied. */
static int link_first(struct commit *c, const struct layer_entry *e, const char *first)
{
	const char *slash = strrchr(first, '/');
	_cleanup_close_ int dir = layer_open_dir(c->base, first, slash ? (size_t)(slash - first) : 0, O_PATH);
	const char *name = slash ? slash + 1 : first;
	struct stat st, there;

	if (dir < 0 || fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode) ||
	    st.st_size != e->st.st_size)
		return 0;
	if (fstatat(e->base_dirfd, e->name, &there, AT_SYMLINK_NOFOLLOW) == 0 && there.st_ino == st.st_ino &&
	    there.st_dev == st.st_dev)
		return 2;
	return linkat(dir, name, c->staged, STAGING_NEW, 0) == 0;
}

static int put_file(struct commit *c, const struct layer_entry *e, struct err *err)
{
	const char *first = S_ISREG(e->st.st_mode) && e->st.st_nlink > 1
				    ? inodes_first(&c->links, &e->st, e->path)
				    : NULL;
	bool equal = false;
	int r;

	if (is_device(e->st.st_mode)) {
		c->result->skipped++;
		return 0;
	}
	if (!first && e->has_below) {
		r = layer_equal(c->view, e, &equal, err);
		if (r < 0)
			return r;
	}
	r = equal ? 0 : stage(c, e, err);
	if (r < 0)
		return r;
	r = first ? link_first(c, e, first) : 0;
	if (r == 2 || equal) {
		c->result->same++;
		return 0;
	}
	if (r == 0)
		r = layer_copy_node(e->dirfd, e->name, &e->st, c->staged, STAGING_NEW, c->view->cancel,
				    &c->result->bytes);
	/* Gone meanwhile: the session goes on. */
	if (r == -ENOENT)
		return 0;
	if (r == -ESTALE || r == -ELOOP || r == -ENXIO || r == -EINVAL)
		return err_set(
			err, ERR_CONFLICT, "RUNTIME_ERROR", EBUSY,
			"'%.200s' became something else while it was read: what is left in the session "
			"writes to it",
			e->path);
	if (r < 0)
		return layer_err(err, -r, e->path, "write it");
	r = put_in_place(c, e, false, err);
	if (r < 0) {
		(void)remove_any(c->staged, STAGING_NEW);
		return r;
	}
	*(e->has_below ? &c->result->modified : &c->result->added) += 1;
	return 0;
}

/* Sees to it that there is a directory to go into. */
static int enter_dir(struct commit *c, const struct layer_entry *e, struct err *err)
{
	struct stat st;
	int r = 0;

	if (e->name[0] == '\0')
		return 0;
	if (fstatat(e->base_dirfd, e->name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode)) {
		/* Whoever is not root cannot write into one that forbids it; it gets its mode at the end. */
		if (geteuid() != 0 && (st.st_mode & 0700) != 0700)
			(void)layer_chmod_at(e->base_dirfd, e->name, S_IFDIR, (st.st_mode & 07777) | 0700);
		return 0;
	}
	r = stage(c, e, err);
	if (r < 0)
		return r;
	if (mkdirat(c->staged, STAGING_NEW, 0700) < 0)
		return layer_err(err, errno, e->path, "make the directory");
	r = put_in_place(c, e, true, err);
	if (r < 0) {
		(void)remove_any(c->staged, STAGING_NEW);
		return r;
	}
	c->result->directories++;
	if (!c->new_dir && c->options->inverse_fd >= 0) {
		c->new_dir = strdup(e->path);
		if (!c->new_dir)
			return err_sys(err, "RUNTIME_ERROR", ENOMEM, "commit");
	}
	return 0;
}

/* The directory is done: it becomes as the session has it, and the inverse's as it was. */
static int leave_dir(struct commit *c, const struct layer_entry *e, bool whole, struct err *err)
{
	_cleanup_close_ int fd = openat(e->base_dirfd, e->name[0] ? e->name : ".",
					O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	int r = fd < 0 ? -errno : 0, inverse;

	if (r >= 0 && keeps_inverse(c, e->path) && e->has_below && S_ISDIR(e->below.st_mode)) {
		inverse = inverse_dir(c, e->path, strlen(e->path));
		r = inverse < 0 ? inverse : layer_set_metadata(inverse, fd, "", &e->below);
	}
	if (c->new_dir && strcmp(c->new_dir, e->path) == 0)
		free(TAKE_PTR(c->new_dir));
	/* One that is only on the way to what was chosen keeps what it has, unless it is new. */
	if (r >= 0 && (whole || !e->has_below || !S_ISDIR(e->below.st_mode)))
		r = e->dirfd < 0 ? -ESTALE : layer_set_metadata(fd, e->dirfd, e->name, &e->st);
	return r < 0 ? layer_err(err, -r, e->path, "set mode, owner and times") : 0;
}

static int apply(struct commit *c, const struct layer_entry *e, enum chosen which, struct err *err)
{
	if (e->base_dirfd < 0)
		return layer_err(err, ESTALE, e->path, "its directory in the workspace is gone");
	if (e->leave)
		return leave_dir(c, e, which == CHOSEN, err);
	if (e->deleted && which == CHOSEN_ON_THE_WAY)
		return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL,
			       "'%.200s' is deleted with all that is in it: name it, and not a part of it",
			       e->path);
	if (e->deleted) {
		int r = take_away(c, e, err);

		c->result->deleted += r >= 0;
		return r;
	}
	if (!S_ISDIR(e->st.st_mode))
		return put_file(c, e, err);
	return enter_dir(c, e, err);
}

/* What is called as what commits leave is not committed, and our own is not deleted. */
static bool is_ours(struct commit *c, const struct layer_entry *e)
{
	if (e->leave || !staging_is_name(e->name))
		return false;
	c->result->skipped += !e->deleted;
	return true;
}

static int apply_here(struct commit *c, const struct layer_entry *e, enum chosen which, struct err *err)
{
	bool dir = !e->deleted && S_ISDIR(e->st.st_mode);
	int r;

	if (e->leave) {
		staging_close(&c->local);
		if (e->path[0] == '\0')
			staging_close(&c->main);
	}
	c->main.kept |=
		e->path[0] && e->name == e->path && !(dir && e->has_below && S_ISDIR(e->below.st_mode));
	r = apply(c, e, which, err);
	/* Not from the root to there: then from beside it. */
	if (r == -EXDEV && c->local.fd < 0 && !e->leave && e->base_dirfd >= 0 &&
	    staging_open(&c->local, e->base_dirfd) >= 0) {
		c->local.kept = true;
		r = apply(c, e, which, err);
	}
	if (dir)
		staging_close(&c->local);
	return r;
}

static int write_all(struct commit *c, struct err *err)
{
	struct layer_walk *walk;
	struct layer_entry e;
	int r = layer_walk_new(c->view, &walk);

	if (r < 0)
		return err_sys(err, "RUNTIME_ERROR", -r, "commit");
	while ((r = layer_walk_next(walk, &e, err)) > 0) {
		enum chosen which = chosen(c->options, e.path);

		if (which == CHOSEN_NOT || is_ours(c, &e) ||
		    (which == CHOSEN_ON_THE_WAY && !e.deleted && !S_ISDIR(e.st.st_mode))) {
			layer_walk_skip(walk);
			continue;
		}
		r = apply_here(c, &e, which, err);
		if (r < 0)
			break;
	}
	layer_walk_free(walk);
	return r;
}

/* What is done stays, and the message says that it may be done again. */
static void explain(const struct layer_commit_result *r, struct err *err)
{
	char message[ERR_MESSAGE_MAX];

	if (!err)
		return;
	(void)snprintf(message, sizeof(message), "%s", err->message);
	(void)snprintf(err->message, sizeof(err->message),
		       "%.380s (%" PRIu64 " changes are in the workspace already; it may be repeated)",
		       message, r->added + r->modified + r->deleted + r->directories);
}

int layer_commit(const struct layer_view *view, const struct layer_commit_options *options,
		 struct layer_commit_result *ret, struct buf *conflicts, struct err *err)
{
	struct commit c = {.view = view,
			   .options = options,
			   .result = ret,
			   .base = view->fds[view->n - 1],
			   .main = STAGING_INIT,
			   .local = STAGING_INIT,
			   .inverse = -EBADF,
			   .inverse_path = BUF_INIT(LAYER_PATH_MAX + 1)};
	_cleanup_buf_ struct buf unheard = BUF_INIT(LAYER_CONFLICTS_TOLD * (size_t)LAYER_PATH_MAX * 6);
	int r = 0;

	*ret = (struct layer_commit_result){0};
	if (options->since.tv_sec)
		r = find_conflicts(&c, conflicts ? conflicts : &unheard, err);
	if (r >= 0) {
		r = write_all(&c, err);
		if (r < 0)
			explain(ret, err);
	}
	staging_close(&c.local);
	staging_close(&c.main);
	inodes_done(&c.links);
	fd_close(&c.inverse);
	buf_done(&c.inverse_path);
	free(c.new_dir);
	return r;
}
