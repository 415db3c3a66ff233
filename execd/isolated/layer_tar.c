/*
 * layer_tar.c - a view as a tar stream, in pieces.
 *
 * Two walks: the first adds up what is to come, so that a limit is an error and
 * not a stream that breaks off; the second writes. What changes between the two
 * is the session's affair, and what the second finds is bounded as well.
 */
#include "execd/isolated/layer_tar.h"

#include <fcntl.h>
#include <inttypes.h>
#include <linux/limits.h>
#include <stdio.h>
#include <string.h>

#include "execd/inodes.h"
#include "execd/isolated/layer_mark.h"
#include "execd/tar_out.h"

#define WORK_SIZE   (4U << 20) /* bytes read for one piece, however well they compress */
#define RECORDS_MAX (TAR_HEADER_MAX - TAR_PATH_MAX)
#define XATTR_KEY   "SCHILY.xattr."

struct layer_tar {
	struct layer_view view;
	struct tar_out tar;
	uint64_t bytes_max, bytes;
	struct layer_walk *walk; /* NULL before the first piece */
	struct inodes links;
	struct buf records;
	bool over;
	atomic_bool cancelled;
};

int layer_tar_new(const struct layer_view *view, enum codec codec, uint64_t bytes_max, struct layer_tar **ret)
{
	struct layer_tar *t = calloc(1, sizeof(*t));
	int r;

	if (!t)
		return -ENOMEM;
	t->view = *view;
	t->view.cancel = &t->cancelled;
	t->bytes_max = bytes_max;
	t->records = BUF_INIT(RECORDS_MAX);
	r = tar_out_init(&t->tar, codec);
	if (r < 0) {
		layer_tar_free(t);
		return r;
	}
	*ret = t;
	return 0;
}

void layer_tar_free(struct layer_tar *t)
{
	if (!t)
		return;
	tar_out_done(&t->tar);
	layer_walk_free(t->walk);
	inodes_done(&t->links);
	buf_done(&t->records);
	free(t);
}

void layer_tar_cancel(struct layer_tar *t)
{
	atomic_store(&t->cancelled, true);
}

/* ---- before the first byte --------------------------------------------------------- */

static int too_large(const struct layer_tar *t, struct err *err)
{
	return err_set(err, ERR_TOO_LARGE, "RUNTIME_ERROR", EFBIG,
		       "the changed files are over the limit of %" PRIu64 " bytes (isolated_diff_max_bytes)",
		       t->bytes_max);
}

static int check(struct layer_tar *t, const struct layer_entry *e, struct err *err)
{
	if (e->leave)
		return 0;
	/* "." + "wh." : what begins like this is a deletion to whoever unpacks it. */
	if (!e->deleted && strncmp(e->name, ".wh.", 4) == 0)
		return err_set(err, ERR_CONFLICT, "RUNTIME_ERROR", EILSEQ,
			       "'%.200s' has a name that means a deletion in an OCI layer: rename it, or use "
			       "commit",
			       e->path);
	if (!e->deleted && S_ISREG(e->st.st_mode) &&
	    (e->st.st_nlink == 1 || !inodes_first(&t->links, &e->st, e->path)))
		t->bytes += (uint64_t)e->st.st_size;
	return t->bytes > t->bytes_max ? too_large(t, err) : 0;
}

static int measure(struct layer_tar *t, struct err *err)
{
	struct layer_walk *walk;
	struct layer_entry e;
	int r = layer_walk_new(&t->view, &walk);

	if (r < 0)
		return err_sys(err, "RUNTIME_ERROR", -r, "diff");
	while ((r = layer_walk_next(walk, &e, err)) > 0) {
		r = check(t, &e, err);
		if (r < 0)
			break;
	}
	layer_walk_free(walk);
	inodes_done(&t->links);
	t->bytes = 0;
	if (r >= 0)
		r = layer_walk_new(&t->view, &t->walk);
	return r;
}

/* ---- entries ------------------------------------------------------------------------ */

static int put(struct layer_tar *t, const struct tar_entry *e, int *fd, struct buf *out, struct err *err)
{
	int r = tar_out_entry(&t->tar, e, fd, out);
	return r < 0 ? layer_err(err, -r, e->path, "write its tar header") : 0;
}

static int on_xattr(void *arg, const char *key, const void *value, size_t n)
{
	struct buf *records = arg;
	char name[sizeof(XATTR_KEY) + XATTR_NAME_MAX];

	/* POSIX ACLs as text and not as the kernel's bytes would need libacl; they stay behind. */
	if (strncmp(key, "system.", 7) == 0)
		return 0;
	(void)snprintf(name, sizeof(name), XATTR_KEY "%s", key);
	tar_record(records, name, value, n);
	return 0;
}

static int put_whiteout(struct layer_tar *t, const struct layer_entry *e, const char *name, struct buf *out,
			struct err *err)
{
	_cleanup_buf_ struct buf path = BUF_INIT(LAYER_PATH_MAX + NAME_MAX);
	struct tar_entry whiteout = {.type = TAR_FILE, .link = ""};
	int none = -EBADF;

	/* name NULL: of the entry itself; else a file in the directory the entry is. */
	if (!name) {
		(void)buf_append(&path, e->path, (size_t)(e->name - e->path));
		(void)buf_puts(&path, ".wh.");
		(void)buf_puts(&path, e->name);
	} else {
		(void)buf_printf(&path, "%s%s%s", e->path, e->path[0] ? "/" : "", name);
	}
	whiteout.path = buf_cstr(&path);
	if (!whiteout.path)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "diff");
	return put(t, &whiteout, &none, out, err);
}

/* 1: worth an entry; *fd is open for a file with content. */
static int describe(struct layer_tar *t, const struct layer_entry *e, struct tar_entry *te, int *fd,
		    char link[PATH_MAX])
{
	struct stat st = e->st;
	const char *first;
	ssize_t n;

	switch (st.st_mode & S_IFMT) {
	case S_IFREG:
		*fd = openat(e->dirfd, e->name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
		if (*fd < 0)
			return errno == ENOENT || errno == ELOOP ? 0 : -errno;
		if (fstat(*fd, &st) < 0 || !S_ISREG(st.st_mode))
			return 0;
		first = st.st_nlink > 1 ? inodes_first(&t->links, &st, e->path) : NULL;
		te->type = first ? TAR_HARDLINK : TAR_FILE;
		te->link = first ? first : "";
		te->size = first ? 0 : (uint64_t)st.st_size;
		break;
	case S_IFLNK:
		n = readlinkat(e->dirfd, e->name, link, PATH_MAX - 1);
		if (n < 0)
			return errno == ENOENT || errno == EINVAL ? 0 : -errno;
		link[n] = '\0';
		te->type = TAR_SYMLINK;
		te->link = link;
		break;
	case S_IFDIR:
		te->type = TAR_DIR;
		break;
	case S_IFSOCK:
		return 0;
	default:
		te->type = S_ISFIFO(st.st_mode)	 ? TAR_FIFO
			   : S_ISCHR(st.st_mode) ? TAR_CHAR
						 : TAR_BLOCK_DEVICE;
		te->device = st.st_rdev;
	}
	te->mode = st.st_mode & 07777;
	te->uid = st.st_uid;
	te->gid = st.st_gid;
	te->mtime = st.st_mtim.tv_sec;
	return 1;
}

static int put_entry(struct layer_tar *t, const struct layer_entry *e, struct buf *out, struct err *err)
{
	_cleanup_close_ int fd = -EBADF;
	char link[PATH_MAX];
	struct tar_entry te = {.path = e->path[0] ? e->path : ".", .link = ""};
	int r = describe(t, e, &te, &fd, link);

	if (r == 0)
		return 0;
	buf_clear(&t->records);
	if (r > 0 && te.type != TAR_SYMLINK && te.type != TAR_HARDLINK)
		r = layer_xattrs(e->dirfd, e->name, on_xattr, &t->records);
	if (r >= 0 && t->records.failed)
		r = -E2BIG;
	if (r < 0)
		return layer_err(err, -r, e->path, "read it for the diff");
	if (t->records.len > 0)
		te.records = &t->records;
	if (te.size > t->bytes_max || t->bytes > t->bytes_max - te.size)
		return too_large(t, err);
	t->bytes += te.size;
	return put(t, &te, &fd, out, err);
}

static int next_entry(struct layer_tar *t, struct buf *out, struct err *err)
{
	struct layer_entry e;
	bool below_is_dir;
	int r = layer_walk_next(t->walk, &e, err);

	if (r < 0)
		return r;
	if (r == 0) {
		t->over = true;
		r = tar_out_end(&t->tar, out);
		return r < 0 ? err_sys(err, "RUNTIME_ERROR", -r, "diff") : 0;
	}
	if (e.leave)
		return 0;
	/* In an opaque directory everything is hidden already. */
	below_is_dir = e.has_below && !e.hidden && S_ISDIR(e.below.st_mode);
	if (e.deleted)
		return e.hidden ? 0 : put_whiteout(t, &e, NULL, out, err);
	/* For readers that know of nothing in the way but deletions: a link there is not to be written
	 * through. */
	if (e.has_below && !e.hidden && (e.below.st_mode & S_IFMT) != (e.st.st_mode & S_IFMT)) {
		r = put_whiteout(t, &e, NULL, out, err);
		if (r < 0)
			return r;
	}
	r = put_entry(t, &e, out, err);
	if (r >= 0 && e.opaque && below_is_dir)
		r = put_whiteout(t, &e, ".wh..wh..opq", out, err);
	return r;
}

static int next_bytes(struct layer_tar *t, struct buf *out, size_t *done, struct err *err)
{
	int r = tar_out_content(&t->tar, out, done);
	return r < 0 ? err_sys(err, "RUNTIME_ERROR", -r, "diff: read a file") : 0;
}

int layer_tar_next(struct layer_tar *t, struct buf *out, struct err *err)
{
	size_t done = 0;
	int r = 0;

	if (!t->walk)
		r = measure(t, err);
	while (r >= 0 && !t->over && out->len < LAYER_TAR_PIECE && done < WORK_SIZE) {
		if (atomic_load_explicit(&t->cancelled, memory_order_relaxed))
			return err_set(err, ERR_UNAVAILABLE, "RUNTIME_ERROR", ECANCELED, "cancelled");
		/* A directory of empty files is work, too. */
		done += TAR_BLOCK;
		r = tar_out_within(&t->tar) ? next_bytes(t, out, &done, err) : next_entry(t, out, err);
	}
	return r < 0 ? r : t->over;
}
