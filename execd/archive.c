/*
 * archive.c - trees as tar streams.
 *
 * Out: the walk and the file at hand are kept from one piece to the next.
 * In: bytes -> codec -> tar reader -> graft, all pushed.
 */
#include "execd/archive.h"

#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "execd/file_info.h"
#include "execd/graft.h"
#include "execd/inodes.h"
#include "execd/tar_out.h"
#include "execd/walk.h"
#include "lib/fs.h"

#define WORK_SIZE (4U << 20) /* bytes read for one piece, however well they compress */

struct archive_out {
	char *root;
	struct tar_out tar;
	struct walk *walk; /* NULL before the first piece */
	struct inodes links;
	bool over;
	atomic_bool cancelled;
};

/* ---- out ------------------------------------------------------------------------ */

int archive_out_new(const char *path, enum codec codec, struct archive_out **ret, struct err *err)
{
	struct archive_out *a = calloc(1, sizeof(*a));
	int r = a ? tar_out_init(&a->tar, codec) : -ENOMEM;

	if (a)
		a->root = strdup(path);
	if (r < 0 || !a->root) {
		archive_out_free(a);
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "archive '%s'", path);
	}
	*ret = a;
	return 0;
}

void archive_out_free(struct archive_out *a)
{
	if (!a)
		return;
	tar_out_done(&a->tar);
	walk_free(a->walk);
	inodes_done(&a->links);
	free(a->root);
	free(a);
}

void archive_out_cancel(struct archive_out *a)
{
	atomic_store(&a->cancelled, true);
}

static int out_begin(struct archive_out *a, struct err *err)
{
	struct statx stx;
	int fd, r = file_stat(AT_FDCWD, a->root, &stx);

	if (r < 0)
		return file_err(err, -r, "archive '%s'", a->root);
	/* The client has named it: a link to a directory will do. */
	fd = open(a->root, O_RDONLY | O_DIRECTORY | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0 && errno == ENOTDIR)
		return err_set(err, ERR_INVALID, "INVALID_FILE", ENOTDIR,
			       "archive '%s': it is %s, not a directory", a->root, file_kind(stx.stx_mode));
	if (fd < 0)
		return file_err(err, errno, "archive '%s'", a->root);
	r = walk_new(fd, UINT64_MAX, &a->walk);
	return r < 0 ? file_err(err, -r, "archive '%s'", a->root) : 0;
}

/* 1: e is filled and worth an entry; 0: it is left out; fd stays open for content. */
static int describe(struct archive_out *a, const struct walk_entry *w, struct tar_entry *e, int *fd,
		    char link[PATH_MAX])
{
	const char *first;
	struct stat st;
	ssize_t n;

	if (fstatat(w->dirfd, w->name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return walk_is_fatal(-errno) ? -errno : 0;
	if (S_ISREG(st.st_mode)) {
		*fd = openat(w->dirfd, w->name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
		if (*fd < 0 || fstat(*fd, &st) < 0)
			return walk_is_fatal(-errno) ? -errno : 0;
		if (!S_ISREG(st.st_mode))
			return 0;
		e->type = TAR_FILE;
		e->size = (uint64_t)st.st_size;
		first = st.st_nlink > 1 ? inodes_first(&a->links, &st, w->path) : NULL;
		if (first) {
			e->type = TAR_HARDLINK;
			e->size = 0;
			e->link = first;
		}
	} else if (S_ISLNK(st.st_mode)) {
		n = readlinkat(w->dirfd, w->name, link, PATH_MAX - 1);
		if (n < 0)
			return walk_is_fatal(-errno) ? -errno : 0;
		link[n] = '\0';
		e->type = TAR_SYMLINK;
		e->link = link;
	} else if (S_ISDIR(st.st_mode)) {
		e->type = TAR_DIR;
	} else {
		return 0;
	}
	e->mode = st.st_mode & 07777;
	e->uid = st.st_uid;
	e->gid = st.st_gid;
	e->mtime = st.st_mtim.tv_sec;
	return 1;
}

static int next_entry(struct archive_out *a, struct buf *out, struct err *err)
{
	_cleanup_close_ int fd = -EBADF;
	char link[PATH_MAX];
	struct walk_entry w;
	struct tar_entry e = {.link = ""};
	int r = walk_next(a->walk, &w);

	if (r == 0) {
		a->over = true;
		r = tar_out_end(&a->tar, out);
		return r < 0 ? err_sys(err, "RUNTIME_ERROR", -r, "archive '%s'", a->root) : 0;
	}
	if (r > 0) {
		e.path = w.path;
		r = describe(a, &w, &e, &fd, link);
	}
	if (r < 0)
		return file_err(err, -r, "archive '%s'", a->root);
	if (r == 0)
		return 0;
	r = tar_out_entry(&a->tar, &e, &fd, out);
	if (r == -ENAMETOOLONG)
		return err_set(err, ERR_TOO_LARGE, "RUNTIME_ERROR", ENAMETOOLONG,
			       "archive '%s': a path below it is over %u bytes", a->root, TAR_PATH_MAX);
	return r < 0 ? err_sys(err, "RUNTIME_ERROR", -r, "archive '%s'", a->root) : 0;
}

static int next_bytes(struct archive_out *a, struct buf *out, size_t *done, struct err *err)
{
	int r = tar_out_content(&a->tar, out, done);
	return r < 0 ? file_err(err, -r, "archive '%s': read a file", a->root) : 0;
}

int archive_out_next(struct archive_out *a, struct buf *out, struct err *err)
{
	size_t done = 0;
	int r = 0;

	if (!a->walk)
		r = out_begin(a, err);
	while (r >= 0 && !a->over && out->len < ARCHIVE_PIECE_SIZE && done < WORK_SIZE) {
		if (atomic_load_explicit(&a->cancelled, memory_order_relaxed))
			return err_set(err, ERR_UNAVAILABLE, "RUNTIME_ERROR", ECANCELED, "cancelled");
		/* A directory of empty files is work, too. */
		done += TAR_BLOCK;
		r = tar_out_within(&a->tar) ? next_bytes(a, out, &done, err) : next_entry(a, out, err);
	}
	return r < 0 ? r : a->over;
}

/* ---- in -------------------------------------------------------------------------- */

struct archive_in {
	char *root;
	struct archive_in_options options;
	struct codec_in *codec;
	struct tar_reader *tar;
	struct graft *graft; /* NULL before the first bytes */
	uint64_t entries, files, directories, links, skipped, bytes;
	atomic_bool cancelled;
	int failed; /* -errno of the first failure, which is what every later call gets */
	struct err failure;
};

static int on_entry(void *arg, const struct tar_entry *e, struct err *err);
static int on_data(void *arg, const void *data, size_t n, struct err *err);
static int on_end(void *arg, struct err *err);

static int on_plain(void *arg, const void *data, size_t n, struct err *err)
{
	struct archive_in *a = arg;

	return tar_reader_feed(a->tar, data, n, err);
}

int archive_in_new(const char *path, const struct archive_in_options *options, struct archive_in **ret,
		   struct err *err)
{
	static const struct tar_events events = {on_entry, on_data, on_end};
	struct archive_in *a = calloc(1, sizeof(*a));
	int r = -ENOMEM;

	if (a) {
		a->options = *options;
		a->root = strdup(path);
		r = a->root ? tar_reader_new(&events, a, &a->tar) : -ENOMEM;
	}
	if (r >= 0)
		r = codec_in_new(on_plain, a, &a->codec);
	if (r < 0) {
		archive_in_free(a);
		return err_sys(err, "RUNTIME_ERROR", -r, "unpack into '%s'", path);
	}
	*ret = a;
	return 0;
}

void archive_in_free(struct archive_in *a)
{
	if (!a)
		return;
	codec_in_free(a->codec);
	tar_reader_free(a->tar);
	graft_free(a->graft);
	free(a->root);
	free(a);
}

void archive_in_cancel(struct archive_in *a)
{
	atomic_store(&a->cancelled, true);
}

static int in_begin(struct archive_in *a, struct err *err)
{
	const struct graft_options options = {.owner = a->options.owner, .overwrite = a->options.overwrite};
	int fd, r = fs_mkdir_p(a->root, 0777);

	if (r < 0)
		return file_err(err, -r, "unpack into '%s'", a->root);
	fd = open(a->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return file_err(err, errno, "unpack into '%s'", a->root);
	r = graft_new(fd, &options, &a->graft);
	return r < 0 ? err_sys(err, "RUNTIME_ERROR", -r, "unpack into '%s'", a->root) : 0;
}

/* What has been done stays, and the error says how much that is. */
static int told(struct archive_in *a, int r, struct err *err)
{
	char message[ERR_MESSAGE_MAX];

	if (a->graft)
		(void)graft_finish(a->graft, NULL);
	(void)snprintf(message, sizeof(message), "%s", err->message);
	(void)snprintf(err->message, sizeof(err->message),
		       "unpack into '%.100s': %.300s (%" PRIu64 " entries are unpacked)", a->root, message,
		       a->entries);
	a->failed = r;
	a->failure = *err;
	return r;
}

static int failed_before(const struct archive_in *a, struct err *err)
{
	if (a->failed)
		*err = a->failure;
	return a->failed;
}

static int limit(struct archive_in *a, const struct tar_entry *e, struct err *err)
{
	if (a->entries + a->skipped >= ARCHIVE_ENTRIES_MAX)
		return err_set(err, ERR_TOO_LARGE, "INVALID_FILE_CONTENT", E2BIG, "more than %d entries",
			       ARCHIVE_ENTRIES_MAX);
	if (e->size > a->options.bytes_max || a->bytes > a->options.bytes_max - e->size)
		return err_set(err, ERR_TOO_LARGE, "INVALID_FILE_CONTENT", EFBIG,
			       "'%s': the files are over the limit of %" PRIu64 " bytes (max_bytes)", e->path,
			       a->options.bytes_max);
	if (a->options.owner && (e->uid >= UINT32_MAX || e->gid >= UINT32_MAX))
		return err_set(err, ERR_INVALID, "INVALID_FILE_CONTENT", EINVAL,
			       "'%s': its owner is no user id of this system", e->path);
	return 0;
}

static int on_entry(void *arg, const struct tar_entry *e, struct err *err)
{
	struct archive_in *a = arg;
	const struct graft_meta meta = {
		.mode = e->mode,
		.uid = (uid_t)e->uid,
		.gid = (gid_t)e->gid,
		.mtime = {.tv_sec = e->mtime, .tv_nsec = (long)e->mtime_nsec},
	};
	int r = limit(a, e, err);

	if (r < 0)
		return r;
	switch (e->type) {
	case TAR_FILE:
		a->bytes += e->size;
		return graft_file_begin(a->graft, e->path, &meta, err);
	case TAR_DIR:
		r = graft_dir(a->graft, e->path, &meta, err);
		a->directories += r >= 0;
		break;
	case TAR_SYMLINK:
		r = graft_symlink(a->graft, e->path, e->link, &meta, err);
		a->links += r >= 0;
		break;
	case TAR_HARDLINK:
		r = graft_hardlink(a->graft, e->path, e->link, err);
		a->links += r >= 0;
		break;
	default:
		a->skipped++;
		return 0;
	}
	a->entries += r >= 0;
	return r;
}

static int on_data(void *arg, const void *data, size_t n, struct err *err)
{
	struct archive_in *a = arg;

	return graft_file_data(a->graft, data, n, err);
}

static int on_end(void *arg, struct err *err)
{
	struct archive_in *a = arg;
	int r = graft_file_end(a->graft, err);

	a->files += r >= 0;
	a->entries += r >= 0;
	return r;
}

int archive_in_feed(struct archive_in *a, const void *data, size_t n, struct err *err)
{
	int r = failed_before(a, err);

	if (r >= 0 && !a->graft)
		r = in_begin(a, err);

	if (r < 0)
		return r;
	if (atomic_load_explicit(&a->cancelled, memory_order_relaxed))
		return err_set(err, ERR_UNAVAILABLE, "RUNTIME_ERROR", ECANCELED, "cancelled");
	r = codec_in_push(a->codec, data, n, err);
	return r < 0 ? told(a, r, err) : 0;
}

static void write_counts(const struct archive_in *a, struct buf *out)
{
	struct jw w = JW_INIT(out);

	jw_obj_begin(&w);
	jw_kint(&w, "entries", (int64_t)a->entries);
	jw_kint(&w, "files", (int64_t)a->files);
	jw_kint(&w, "directories", (int64_t)a->directories);
	jw_kint(&w, "links", (int64_t)a->links);
	jw_kint(&w, "skipped", (int64_t)a->skipped);
	jw_kint(&w, "bytes", (int64_t)a->bytes);
	jw_obj_end(&w);
}

int archive_in_end(struct archive_in *a, struct buf *out, struct err *err)
{
	int r = failed_before(a, err);

	if (r < 0)
		return r;
	r = codec_in_finish(a->codec, err);

	if (r >= 0)
		r = tar_reader_finish(a->tar, err);
	if (r >= 0 && a->graft)
		r = graft_finish(a->graft, err);
	if (r < 0)
		return told(a, r, err);
	write_counts(a, out);
	return 0;
}
