/*
 * layer.c - walking a pile of layers.
 *
 * A stack of levels, the root first. A level has the directories of all layers
 * that take part in this place of the merged view, topmost first, each with the
 * number of the layer it is of; those of the uppers are read, those below only
 * asked for the names found there - or read, too, where an upper hides them, for
 * then each of their names that no upper has is a deletion.
 *
 * Levels far above may have their directories closed; they are opened again by
 * their path from the roots and must then be what they were (device and inode),
 * else the rest of them is an error: somebody has moved the tree.
 */
#include "execd/isolated/layer.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>

#include "execd/isolated/layer_mark.h"
#include "lib/buf.h"

#define CHUNK_MAX 4000 /* of a path that is opened at once */

struct dir {
	int fd;
	unsigned layer; /* index into the view */
	bool xattr_whiteouts;
	dev_t dev;
	ino_t ino;
};

struct name {
	const char *s;
	unsigned dir;	    /* index into the level */
	unsigned char type; /* DT_* */
};

struct level {
	struct dir *dirs; /* the uppers' first */
	size_t dirs_n, uppers;
	bool open;
	bool hidden;	  /* what is below is not seen through */
	struct buf block; /* the names, each with its type before and its NUL after */
	struct name *names;
	size_t names_n, pos;
	size_t path_len; /* of this directory, with the slash at its end */
	size_t bytes;
	struct layer_entry entry; /* as it was told: for leave */
};

struct layer_walk {
	struct layer_view view;
	struct buf levels; /* struct level */
	struct buf path;
	size_t bytes, fds;
	bool begun;
	/* The entry told last is a directory to go into: which layers take part. */
	bool enter;
	struct layer_entry entry;
	unsigned parts[LAYERS_MAX]; /* index into the level's dirs */
	size_t parts_n, parts_uppers;
	bool parts_hidden;
};

static struct level *level_at(const struct layer_walk *w, size_t i)
{
	return (struct level *)w->levels.data + i;
}

static size_t depth(const struct layer_walk *w)
{
	return w->levels.len / sizeof(struct level);
}

int layer_err(struct err *err, int errnum, const char *path, const char *what)
{
	const char *shown = path[0] ? path : ".";
	size_t n = strlen(shown);

	/* The end of a long path says more than its beginning. */
	if (n > 200)
		shown += n - 200;
	return err_sys(err, "RUNTIME_ERROR", errnum, "'%s%s': %s", n > 200 ? "..." : "", shown, what);
}

static bool is_base(const struct layer_walk *w, unsigned layer)
{
	return w->view.n > w->view.uppers && layer + 1 == w->view.n;
}

/* Marks in the workspace itself mean nothing to us. */
static bool has_marks(const struct layer_walk *w, unsigned layer)
{
	return !w->view.plain && !is_base(w, layer);
}

static int base_of(const struct layer_walk *w, const struct level *l)
{
	const struct dir *last = l->dirs_n ? &l->dirs[l->dirs_n - 1] : NULL;

	return last && is_base(w, last->layer) ? last->fd : -EBADF;
}

/* ---- opening ----------------------------------------------------------------- */

static int open_at(int dirfd, const char *name, int flags)
{
	int fd;

	do
		fd = openat(dirfd, name, flags | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	while (fd < 0 && errno == EINTR);
	return fd < 0 ? -errno : fd;
}

/* Some components at once, where the kernel keeps us below dirfd; else one by one. */
static int open_chunk(int dirfd, char *chunk, int flags)
{
	struct open_how how = {
		.flags = (uint64_t)(flags | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC),
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS,
	};
	_cleanup_close_ int at = -EBADF;
	int fd;

	do
		fd = (int)syscall(SYS_openat2, dirfd, chunk, &how, sizeof(how));
	while (fd < 0 && (errno == EINTR || errno == EAGAIN));
	if (fd >= 0 || (errno != ENOSYS && errno != EPERM))
		return fd < 0 ? -errno : fd;
	for (char *p = chunk;;) {
		char *slash = strchrnul(p, '/');
		bool last = *slash == '\0';

		*slash = '\0';
		fd = open_at(at >= 0 ? at : dirfd, p, last ? flags : O_PATH);
		if (fd < 0 || last)
			return fd;
		fd_close(&at);
		at = fd;
		p = slash + 1;
	}
}

int layer_open_dir(int root, const char *path, size_t n, int flags)
{
	_cleanup_close_ int at = open_at(root, ".", n > 0 ? O_PATH : flags);
	char chunk[CHUNK_MAX + 1];

	while (at >= 0 && n > 0) {
		size_t take = n;
		int fd;

		if (take > CHUNK_MAX)
			for (take = CHUNK_MAX; take > 0 && path[take] != '/'; take--)
				;
		if (take == 0)
			return -ENAMETOOLONG;
		memcpy(chunk, path, take);
		chunk[take] = '\0';
		fd = open_chunk(at, chunk, take == n ? flags : O_PATH);
		fd_close(&at);
		at = fd;
		path += take;
		n -= take;
		while (n > 0 && *path == '/') {
			path++;
			n--;
		}
	}
	return TAKE_FD(at);
}

/* ---- levels ------------------------------------------------------------------- */

static void level_close(struct layer_walk *w, struct level *l)
{
	for (size_t i = 0; i < l->dirs_n; i++) {
		w->fds -= l->dirs[i].fd >= 0;
		fd_close(&l->dirs[i].fd);
	}
	l->open = false;
}

static void level_done(struct layer_walk *w, struct level *l)
{
	level_close(w, l);
	free(l->dirs);
	buf_done(&l->block);
	free(l->names);
}

static void pop(struct layer_walk *w)
{
	struct level *l = level_at(w, depth(w) - 1);

	w->bytes -= l->bytes;
	level_done(w, l);
	w->levels.len -= sizeof(*l);
}

int layer_walk_new(const struct layer_view *view, struct layer_walk **ret)
{
	struct layer_walk *w = calloc(1, sizeof(*w));

	if (!w)
		return -ENOMEM;
	w->view = *view;
	w->levels = BUF_INIT(LAYER_BYTES_MAX);
	w->path = BUF_INIT(LAYER_PATH_MAX + 1);
	*ret = w;
	return 0;
}

void layer_walk_free(struct layer_walk *w)
{
	if (!w)
		return;
	while (depth(w) > 0)
		pop(w);
	buf_done(&w->levels);
	buf_done(&w->path);
	free(w);
}

static int compare_names(const void *a, const void *b)
{
	const struct name *x = a, *y = b;
	int r = strcmp(x->s, y->s);

	return r ? r : (x->dir > y->dir) - (x->dir < y->dir);
}

/* Appends the names of one directory to the block: layer, type, name, NUL. */
static int read_names(struct level *l, unsigned index, size_t *n)
{
	int fd = open_at(l->dirs[index].fd, ".", O_RDONLY);
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	struct dirent *e;
	int r = 0;

	if (!dir) {
		r = fd < 0 ? fd : -errno;
		fd_close(&fd);
		return r;
	}
	while (r >= 0) {
		errno = 0;
		e = readdir(dir);
		if (!e) {
			r = -errno;
			break;
		}
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		(void)buf_putc(&l->block, (char)index);
		(void)buf_putc(&l->block, (char)e->d_type);
		if (buf_append(&l->block, e->d_name, strlen(e->d_name) + 1) < 0)
			r = l->block.len + NAME_MAX + 3 > l->block.max ? -E2BIG : -ENOMEM;
		++*n;
	}
	(void)closedir(dir);
	return r;
}

static int level_read(struct layer_walk *w, struct level *l)
{
	size_t n = 0, until = l->hidden ? l->dirs_n : l->uppers;
	const char *p;
	int r = 0;

	l->block = BUF_INIT(LAYER_BYTES_MAX - w->bytes);
	for (size_t i = 0; i < until && r >= 0; i++)
		r = read_names(l, (unsigned)i, &n);
	if (r < 0)
		return r;
	l->names = calloc(n ? n : 1, sizeof(*l->names));
	if (!l->names)
		return -ENOMEM;
	p = (const char *)l->block.data;
	for (size_t i = 0; i < n; i++) {
		l->names[i] =
			(struct name){.s = p + 2, .dir = (unsigned char)p[0], .type = (unsigned char)p[1]};
		p += strlen(p + 2) + 3;
	}
	l->names_n = n;
	qsort(l->names, n, sizeof(*l->names), compare_names);
	l->bytes = l->block.cap + n * sizeof(*l->names) + l->dirs_n * sizeof(*l->dirs) + sizeof(*l);
	w->bytes += l->bytes;
	return w->bytes > LAYER_BYTES_MAX ? -E2BIG : 0;
}

/* Those farthest up are closed first. */
static void close_far_levels(struct layer_walk *w)
{
	for (size_t i = 0; w->fds > LAYER_FDS_MAX && i + 1 < depth(w); i++)
		if (level_at(w, i)->open)
			level_close(w, level_at(w, i));
}

/* Opens the directories of a closed level again. */
static int level_reopen(struct layer_walk *w, struct level *l)
{
	size_t n = l->path_len ? l->path_len - 1 : 0;

	for (size_t i = 0; i < l->dirs_n; i++) {
		struct dir *d = &l->dirs[i];
		struct stat st;

		d->fd = layer_open_dir(w->view.fds[d->layer], (const char *)w->path.data, n, O_RDONLY);
		if (d->fd < 0)
			return d->fd;
		w->fds++;
		if (fstat(d->fd, &st) < 0)
			return -errno;
		if (st.st_dev != d->dev || st.st_ino != d->ino)
			return -ESTALE;
	}
	l->open = true;
	close_far_levels(w);
	return 0;
}

/* ---- down ------------------------------------------------------------------------ */

/* Opens name in the directory `from` of a level for layer `layer`. */
static int dir_open(struct layer_walk *w, int dirfd, const char *name, unsigned layer, struct dir *ret)
{
	struct dir d = {.layer = layer};
	struct stat st;
	int opaque;

	d.fd = open_at(dirfd, name, O_RDONLY);
	if (d.fd < 0)
		return d.fd;
	opaque = fstat(d.fd, &st) < 0 ? -errno
		 : is_base(w, layer)  ? LAYER_MERGED
				      : layer_opaque(d.fd, w->view.userxattr);
	if (opaque < 0) {
		fd_close(&d.fd);
		return opaque;
	}
	d.dev = st.st_dev;
	d.ino = st.st_ino;
	d.xattr_whiteouts = opaque == LAYER_XATTR_WHITEOUTS;
	w->fds++;
	*ret = d;
	return opaque == LAYER_OPAQUE;
}

/*
 * A level of the directories `name` in `from`, or of the roots when that is
 * NULL. What vanished meanwhile takes no part; what is there and cannot be read
 * is an error.
 */
static int level_open(struct layer_walk *w, const struct level *from, const char *name, struct level *l)
{
	bool opaque = false; /* an upper hides everything after it */

	l->dirs = calloc(w->parts_n ? w->parts_n : 1, sizeof(*l->dirs));
	if (!l->dirs)
		return -ENOMEM;
	l->hidden = w->parts_hidden;
	l->open = true;
	for (size_t i = 0; i < w->parts_n; i++) {
		const struct dir *above = from ? &from->dirs[w->parts[i]] : NULL;
		unsigned layer = above ? above->layer : w->parts[i];
		bool upper = i < w->parts_uppers;
		int r;

		if (upper && opaque)
			continue;
		r = dir_open(w, above ? above->fd : w->view.fds[layer], above ? name : ".", layer,
			     &l->dirs[l->dirs_n]);
		if (r == -ENOENT || (!upper && (r == -ENOTDIR || r == -ELOOP))) {
			/* Below, a layer's file ends the view; one that has no such directory does not. */
			if (r != -ENOENT)
				break;
			continue;
		}
		if (r < 0)
			return r;
		l->dirs_n++;
		if (upper)
			l->uppers++;
		else if (r > 0)
			break;
		if (upper && r > 0)
			opaque = l->hidden = true;
	}
	return 0;
}

static int push(struct layer_walk *w, const struct level *from, const char *name)
{
	struct level l = {.entry = w->entry};
	int r = level_open(w, from, name, &l);

	l.path_len = w->path.len;
	l.entry.path = l.entry.name = NULL;
	if (r >= 0)
		r = level_read(w, &l);
	if (r >= 0 && buf_append(&w->levels, &l, sizeof(l)) < 0) {
		w->bytes -= l.bytes;
		r = -ENOMEM;
	}
	if (r < 0) {
		level_done(w, &l);
		return r;
	}
	close_far_levels(w);
	return 0;
}

static int walk_err(const struct layer_walk *w, int r, struct err *err)
{
	const char *path = w->path.data ? (const char *)w->path.data : "";

	switch (-r) {
	case E2BIG:
		return err_set(err, ERR_TOO_LARGE, "RUNTIME_ERROR", E2BIG,
			       "the names of the directories on the way to '%.200s' are over %u bytes", path,
			       LAYER_BYTES_MAX);
	case ENAMETOOLONG:
		return err_set(err, ERR_TOO_LARGE, "RUNTIME_ERROR", ENAMETOOLONG,
			       "a path in the layer is over %u bytes", LAYER_PATH_MAX);
	case EUCLEAN:
		return err_set(err, ERR_NOT_SUPPORTED, "RUNTIME_ERROR", EUCLEAN,
			       "'%.200s': the layer was made with redirects or with metacopy", path);
	case ESTALE:
		return err_set(err, ERR_CONFLICT, "RUNTIME_ERROR", ESTALE,
			       "'%.200s': a directory on the way to it was moved meanwhile", path);
	case ECANCELED:
		return err_set(err, ERR_UNAVAILABLE, "RUNTIME_ERROR", ECANCELED, "cancelled");
	default:
		return layer_err(err, -r, path, "look at the layer");
	}
}

static int begin(struct layer_walk *w, struct layer_entry *ret)
{
	w->parts_n = w->view.n;
	w->parts_uppers = w->view.uppers;
	for (unsigned i = 0; i < w->view.n; i++)
		w->parts[i] = i;
	w->entry = (struct layer_entry){.dirfd = w->view.fds[0], .below_dirfd = -EBADF, .base_dirfd = -EBADF};
	if (fstat(w->view.fds[0], &w->entry.st) < 0)
		return -errno;
	if (w->view.n > w->view.uppers) {
		w->entry.below_dirfd = w->view.fds[w->view.uppers];
		w->entry.has_below = fstat(w->entry.below_dirfd, &w->entry.below) == 0;
		w->entry.base_dirfd = w->view.fds[w->view.n - 1];
	}
	if (!buf_cstr(&w->path))
		return -ENOMEM;
	w->entry.path = w->entry.name = (const char *)w->path.data;
	w->enter = true;
	*ret = w->entry;
	return 1;
}

static int down(struct layer_walk *w)
{
	struct level *l = depth(w) ? level_at(w, depth(w) - 1) : NULL;

	if (l && buf_putc(&w->path, '/') < 0)
		return -ENAMETOOLONG;
	return push(w, l, l ? l->names[l->pos - 1].s : NULL);
}

/* ---- one name ---------------------------------------------------------------------- */

/* 1: there, *st; 2: a whiteout; 0: not there. */
static int look(const struct layer_walk *w, const struct dir *d, const char *name, struct stat *st)
{
	int r;

	if (fstatat(d->fd, name, st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (layer_is_whiteout(st) && !w->view.plain)
		return 2;
	if (d->xattr_whiteouts && S_ISREG(st->st_mode) && st->st_size == 0) {
		r = layer_is_xattr_whiteout(d->fd, name, w->view.userxattr);
		if (r != 0)
			return r < 0 ? r : 2;
	}
	if (has_marks(w, d->layer) && S_ISREG(st->st_mode) && st->st_size > 0 && st->st_blocks == 0) {
		r = layer_is_metacopy(d->fd, name, w->view.userxattr);
		if (r != 0)
			return r < 0 ? r : -EUCLEAN;
	}
	return 1;
}

/* Fills in what the layers below the uppers have of this name. */
static int resolve_below(struct layer_walk *w, const struct level *l, const char *name, struct layer_entry *e)
{
	for (size_t i = l->uppers; i < l->dirs_n; i++) {
		struct stat st;
		int r = look(w, &l->dirs[i], name, &st);

		if (r < 0)
			return r;
		if (r == 2)
			return 0; /* hidden there, and nothing before it */
		if (r == 0)
			continue;
		if (!e->has_below) {
			e->has_below = true;
			e->below = st;
			e->below_dirfd = l->dirs[i].fd;
		}
		if (!S_ISDIR(st.st_mode))
			return 0;
		w->parts[w->parts_n++] = (unsigned)i;
	}
	return 0;
}

/*
 * What the uppers say of the names [first, end) of a level, which are the same
 * name in several of them. 0: nothing of the merged view is there.
 */
static int resolve_uppers(struct layer_walk *w, const struct level *l, size_t first, size_t end,
			  struct layer_entry *e, bool *hides)
{
	bool found = false;

	*hides = false;
	for (size_t i = first; i < end && l->names[i].dir < l->uppers; i++) {
		const struct dir *d = &l->dirs[l->names[i].dir];
		struct stat st;
		int r = look(w, d, e->name, &st);

		if (r < 0)
			return r;
		if (r == 0)
			continue;
		if (r == 2 || !S_ISDIR(st.st_mode)) {
			*hides = true;
			if (r == 1 && !found) {
				e->dirfd = d->fd;
				e->st = st;
				found = true;
			}
			break;
		}
		if (!found) {
			e->dirfd = d->fd;
			e->st = st;
			found = true;
		}
		w->parts[w->parts_n++] = l->names[i].dir;
	}
	return found;
}

/* Whether one of the uppers' directories of this name is opaque. */
static int is_opaque(const struct layer_walk *w, const struct level *l, const char *name)
{
	for (size_t i = 0; i < w->parts_uppers && !w->view.plain; i++) {
		_cleanup_close_ int fd = open_at(l->dirs[w->parts[i]].fd, name, O_RDONLY);
		int r = fd < 0 ? fd : layer_opaque(fd, w->view.userxattr);

		if (r < 0 && r != -ENOENT)
			return r;
		if (r == LAYER_OPAQUE)
			return 1;
	}
	return 0;
}

/* The next name of a level. 1: told; 0: it is nothing in either view. */
static int next_name(struct layer_walk *w, struct level *l)
{
	size_t first = l->pos, end = first;
	const char *name = l->names[first].s;
	struct layer_entry *e = &w->entry;
	bool hides;
	int r;

	while (end < l->names_n && strcmp(l->names[end].s, name) == 0)
		end++;
	l->pos = end;
	w->path.len = l->path_len;
	if (buf_puts(&w->path, name) < 0 || !buf_cstr(&w->path))
		return w->path.len + strlen(name) >= LAYER_PATH_MAX ? -ENAMETOOLONG : -ENOMEM;
	*e = (struct layer_entry){
		.path = (const char *)w->path.data,
		.name = (const char *)w->path.data + l->path_len,
		.hidden = l->hidden,
		.dirfd = -EBADF,
		.below_dirfd = -EBADF,
		.base_dirfd = base_of(w, l),
	};
	w->parts_n = w->parts_uppers = 0;
	r = resolve_uppers(w, l, first, end, e, &hides);
	if (r < 0)
		return r;
	e->deleted = r == 0;
	w->parts_uppers = w->parts_n;
	r = resolve_below(w, l, name, e);
	if (r < 0)
		return r;
	if (e->deleted)
		return e->has_below && (hides || l->hidden);
	if (!S_ISDIR(e->st.st_mode))
		return 1;
	r = is_opaque(w, l, name);
	if (r < 0)
		return r;
	w->parts_hidden = e->opaque = r > 0 || hides || l->hidden;
	/* Whoever merges makes the directory in the workspace before the next call. */
	if (w->view.n == w->view.uppers + 1 && e->base_dirfd >= 0 &&
	    !(e->has_below && S_ISDIR(e->below.st_mode)))
		w->parts[w->parts_n++] = (unsigned)l->dirs_n - 1;
	w->enter = true;
	return 1;
}

/* The directory of the uppers that has the entry just left. */
static int upper_of(const struct level *l, const struct layer_entry *e)
{
	for (size_t i = 0; i < l->uppers; i++) {
		struct stat st;

		if (fstatat(l->dirs[i].fd, e->name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
		    st.st_ino == e->st.st_ino && st.st_dev == e->st.st_dev)
			return l->dirs[i].fd;
	}
	return -EBADF;
}

/* Leaves the lowest level and tells so. */
static int leave(struct layer_walk *w, struct layer_entry *ret)
{
	struct level *l = level_at(w, depth(w) - 1), *above = depth(w) > 1 ? l - 1 : NULL;
	int r;

	*ret = l->entry;
	ret->leave = true;
	w->path.len = l->path_len ? l->path_len - 1 : 0;
	w->path.data[w->path.len] = '\0';
	pop(w);
	ret->path = ret->name = (const char *)w->path.data;
	if (!above)
		return 1;
	/* The descriptors it was told with may have been closed with their level. */
	r = above->open ? 0 : level_reopen(w, above);
	if (r < 0)
		return r;
	ret->name += above->path_len;
	ret->dirfd = upper_of(above, ret);
	ret->base_dirfd = base_of(w, above);
	ret->below_dirfd = -EBADF;
	return 1;
}

int layer_walk_next(struct layer_walk *w, struct layer_entry *ret, struct err *err)
{
	int r = 0;

	if (w->view.cancel && atomic_load_explicit(w->view.cancel, memory_order_relaxed))
		return walk_err(w, -ECANCELED, err);
	if (!w->begun) {
		w->begun = true;
		r = begin(w, ret);
		return r < 0 ? walk_err(w, r, err) : r;
	}
	if (w->enter) {
		w->enter = false;
		r = down(w);
	}
	while (r == 0 && depth(w) > 0) {
		struct level *l = level_at(w, depth(w) - 1);

		if (l->pos >= l->names_n) {
			r = leave(w, ret);
			return r < 0 ? walk_err(w, r, err) : r;
		}
		r = next_name(w, l);
		if (r > 0)
			*ret = w->entry;
	}
	return r < 0 ? walk_err(w, r, err) : r;
}

void layer_walk_skip(struct layer_walk *w)
{
	w->enter = false;
}
