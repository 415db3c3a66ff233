/*
 * walk.c - walking a tree of any depth and width.
 *
 * A stack of levels, the root first; each holds the sorted names of its
 * directory and what has been told of them. Only the WALK_FDS_MAX lowest levels
 * and the root keep their directory open; on the way up a level is opened again
 * through ".." and must be the directory it was (device and inode), else the
 * rest of it is passed over: somebody has moved the tree.
 */
#include "execd/walk.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "lib/buf.h"

struct name {
	const char *s;
	unsigned char type; /* DT_* */
};

struct level {
	int fd; /* -EBADF: closed meanwhile */
	dev_t dev;
	ino_t ino;
	struct buf block;   /* the names, each with its NUL */
	struct name *names; /* sorted, into block */
	size_t names_n, pos;
	size_t path_len; /* of this directory, with the slash at its end */
	size_t bytes;	 /* held */
};

struct walk {
	struct buf levels; /* struct level */
	struct buf path;   /* of the entry told last */
	uint64_t depth_max;
	size_t bytes;
	bool enter;  /* the entry told last is a directory to go into */
	bool strict; /* see walk_strict() */
};

static struct level *level_at(struct walk *w, size_t i)
{
	return (struct level *)w->levels.data + i;
}

static size_t depth(const struct walk *w)
{
	return w->levels.len / sizeof(struct level);
}

static void level_done(struct level *l)
{
	fd_close(&l->fd);
	buf_done(&l->block);
	free(l->names);
}

static void pop(struct walk *w)
{
	struct level *l = level_at(w, depth(w) - 1);

	w->bytes -= l->bytes;
	level_done(l);
	w->levels.len -= sizeof(*l);
}

void walk_free(struct walk *w)
{
	if (!w)
		return;
	while (depth(w) > 0)
		pop(w);
	buf_done(&w->levels);
	buf_done(&w->path);
	free(w);
}

/* ---- reading a directory ---------------------------------------------------- */

static int compare_names(const void *a, const void *b)
{
	return strcmp(((const struct name *)a)->s, ((const struct name *)b)->s);
}

/* Each name in block has its type as a byte before it. */
static int read_names(DIR *dir, struct buf *block, size_t *ret_n)
{
	size_t n = 0;

	for (;;) {
		struct dirent *e;

		errno = 0;
		e = readdir(dir);
		if (!e)
			break;
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		(void)buf_putc(block, (char)e->d_type);
		(void)buf_append(block, e->d_name, strlen(e->d_name) + 1);
		if (block->failed)
			return block->len + NAME_MAX + 2 > block->max ? -E2BIG : -ENOMEM;
		n++;
	}
	/* A directory that was removed ends like any other. */
	if (errno != 0 && errno != ENOENT)
		return -errno;
	*ret_n = n;
	return 0;
}

static int sort_names(struct level *l, size_t n)
{
	const char *p = (const char *)l->block.data;

	l->names = calloc(n ? n : 1, sizeof(*l->names));
	if (!l->names)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		l->names[i] = (struct name){.s = p + 1, .type = (unsigned char)*p};
		p += strlen(p + 1) + 2;
	}
	l->names_n = n;
	qsort(l->names, n, sizeof(*l->names), compare_names);
	return 0;
}

static int level_read(struct level *l, size_t bytes_left)
{
	/* The stream has a description of its own, which closedir() closes. */
	int fd = openat(l->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r;
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	size_t n = 0;

	if (!dir) {
		r = -errno;
		fd_close(&fd);
		return r;
	}
	l->block = BUF_INIT(bytes_left);
	r = read_names(dir, &l->block, &n);
	(void)closedir(dir);
	if (r >= 0)
		r = sort_names(l, n);
	l->bytes = l->block.cap + n * sizeof(struct name) + sizeof(*l);
	return r;
}

bool walk_is_fatal(int r)
{
	return r == -ENOMEM || r == -EMFILE || r == -ENFILE || r == -E2BIG || r == -EIO;
}

/* Whether a directory that cannot be entered for this reason ends the walk. */
static bool ends(const struct walk *w, int r)
{
	return walk_is_fatal(r) || (w->strict && r != -ENOENT && r != -ENOTDIR && r != -ELOOP);
}

void walk_strict(struct walk *w)
{
	w->strict = true;
}

/* Enters the directory fd (taken): its names are read now. */
static int push(struct walk *w, int fd, size_t path_len)
{
	struct level l = {.fd = fd, .path_len = path_len};
	struct stat st = {0};
	int r;

	r = fstat(fd, &st) < 0 ? -errno : level_read(&l, WALK_BYTES_MAX - w->bytes);
	if (r >= 0 && w->bytes + l.bytes > WALK_BYTES_MAX)
		r = -E2BIG;
	l.dev = st.st_dev;
	l.ino = st.st_ino;
	if (r >= 0 && buf_append(&w->levels, &l, sizeof(l)) < 0)
		r = -ENOMEM;
	if (r < 0) {
		level_done(&l);
		return r;
	}
	w->bytes += l.bytes;
	/* The root stays open: it cannot be reached from below once the tree is moved. */
	if (depth(w) > WALK_FDS_MAX + 1)
		fd_close(&level_at(w, depth(w) - 1 - WALK_FDS_MAX)->fd);
	return 0;
}

int walk_new(int fd_consumed, uint64_t depth_max, struct walk **ret)
{
	struct walk *w = calloc(1, sizeof(*w));
	int r;

	if (!w) {
		fd_close(&fd_consumed);
		return -ENOMEM;
	}
	w->levels = BUF_INIT(WALK_BYTES_MAX);
	w->path = BUF_INIT(WALK_PATH_MAX);
	w->depth_max = depth_max;
	r = push(w, fd_consumed, 0);
	if (r < 0) {
		walk_free(w);
		return r;
	}
	*ret = w;
	return 0;
}

/* ---- up and down --------------------------------------------------------------- */

/* Into the directory told last. A directory that cannot be entered is passed over. */
static int down(struct walk *w)
{
	struct level *l = level_at(w, depth(w) - 1);
	const char *name = l->names[l->pos - 1].s;
	int fd, r;

	if (buf_putc(&w->path, '/') < 0)
		return -ENAMETOOLONG;
	fd = openat(l->fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	r = fd < 0 ? -errno : push(w, fd, w->path.len);
	return r < 0 && !ends(w, r) ? 0 : r;
}

/* Leaves the lowest level. */
static int up(struct walk *w)
{
	struct level *below = level_at(w, depth(w) - 1), *l;
	_cleanup_close_ int fd = -EBADF;
	struct stat st;

	l = depth(w) > 1 ? below - 1 : NULL;
	if (l && l->fd < 0) {
		fd = openat(below->fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (fd < 0 && ends(w, -errno))
			return -errno;
		if (fd >= 0 && fstat(fd, &st) == 0 && st.st_dev == l->dev && st.st_ino == l->ino)
			l->fd = TAKE_FD(fd);
	}
	pop(w);
	/* Moved away: what is above cannot be reached either, but for the root. */
	while (depth(w) > 0 && level_at(w, depth(w) - 1)->fd < 0)
		pop(w);
	return 0;
}

static int set_path(struct walk *w, const struct level *l, const char *name)
{
	w->path.len = l->path_len;
	if (buf_puts(&w->path, name) < 0 || !buf_cstr(&w->path))
		return w->path.len + strlen(name) >= WALK_PATH_MAX ? -ENAMETOOLONG : -ENOMEM;
	return 0;
}

static bool is_dir(int dirfd, const struct name *name)
{
	struct stat st;

	if (name->type != DT_UNKNOWN)
		return name->type == DT_DIR;
	return fstatat(dirfd, name->s, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode);
}

int walk_next(struct walk *w, struct walk_entry *ret)
{
	struct level *l;
	struct name *name;
	int r;

	if (w->enter) {
		w->enter = false;
		r = down(w);
		if (r < 0)
			return r;
	}
	while (depth(w) > 0) {
		l = level_at(w, depth(w) - 1);
		if (l->pos < l->names_n)
			break;
		r = up(w);
		if (r < 0)
			return r;
	}
	if (depth(w) == 0)
		return 0;

	name = &l->names[l->pos++];
	r = set_path(w, l, name->s);
	if (r < 0)
		return r;
	ret->dirfd = l->fd;
	ret->name = name->s;
	ret->path = (const char *)w->path.data;
	ret->is_dir = is_dir(l->fd, name);
	w->enter = ret->is_dir && depth(w) < w->depth_max;
	return 1;
}

void walk_skip(struct walk *w)
{
	w->enter = false;
}
