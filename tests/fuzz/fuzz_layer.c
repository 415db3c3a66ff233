/*
 * Layers that code in a room has left: any names, marks and kinds of files. The walk is in order and comes to
 * its end; what is told as a tar stream is one, with no path out of it and the bytes it announces.
 *
 * The input is lines: a layer, a kind of file, its path, "=" and its content.
 */
#include <ftw.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include "execd/isolated/layer_tar.h"
#include "execd/tar.h"
#include "tests/fuzz/jail.h"

#define LAYERS	   3
#define OPS_MAX	   64
#define ROOT	   "/w/l"
#define PIECES_MAX 10000

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *where)
{
	(void)st, (void)flag, (void)where;
	return remove(path);
}

static bool is_inside(const char *path)
{
	return *path && *path != '/' && !strstr(path, "..") && strlen(path) < 300;
}

static void make_parents(char *path)
{
	for (char *c = path + strlen(ROOT) + 3; (c = strchr(c, '/')); c++) {
		*c = '\0';
		(void)mkdir(path, 0755);
		*c = '/';
	}
}

static void make_one(char layer, char kind, const char *name, const char *content)
{
	char path[512], other[512];

	if (!is_inside(name))
		return;
	(void)snprintf(path, sizeof(path), ROOT "/%d/%s", layer % LAYERS, name);
	(void)snprintf(other, sizeof(other), ROOT "/%d/%s", layer % LAYERS,
		       is_inside(content) ? content : "a");
	make_parents(path);
	switch (kind) {
	case 'd':
		(void)mkdir(path, 0700);
		break;
	case 'l':
		(void)!symlink(content, path);
		break;
	case 'h':
		(void)!link(other, path);
		break;
	case 'w':
		(void)mknod(path, S_IFCHR, makedev(0, 0));
		break;
	case 'c':
		(void)mknod(path, S_IFBLK | 0600, makedev(7, (unsigned char)content[0]));
		break;
	case 'p':
		(void)mkfifo(path, 0600);
		break;
	case 'o':
		(void)setxattr(path, "trusted.overlay.opaque", content, strlen(content), 0);
		break;
	case 'r':
		(void)setxattr(path, "trusted.overlay.redirect", content, strlen(content), 0);
		break;
	case 'x':
		(void)setxattr(path, "trusted.overlay.whiteout", content, strlen(content), 0);
		break;
	case 'u':
		(void)setxattr(path, "security.some", content, strlen(content), 0);
		break;
	case 's': /* it has a hole */
		(void)fs_write_file(AT_FDCWD, path, content, strlen(content), 0644);
		(void)!truncate(path, 100000 + content[0]);
		break;
	default:
		(void)fs_write_file(AT_FDCWD, path, content, strlen(content), 0644);
		break;
	}
}

static void make_layers(const uint8_t *data, size_t n)
{
	char *copy = fuzz_copy(data, n), *rest = copy, *line, *content;

	(void)nftw(ROOT, remove_one, 64, FTW_DEPTH | FTW_PHYS);
	(void)mkdir(ROOT, 0755);
	for (int i = 0; i < LAYERS; i++) {
		char path[32];

		(void)snprintf(path, sizeof(path), ROOT "/%d", i);
		must(mkdir(path, 0755) == 0);
	}
	for (int i = 0; i < OPS_MAX && (line = strsep(&rest, "\n")); i++) {
		if (strlen(line) < 3)
			continue;
		content = strchr(line + 2, '=');
		if (content)
			*content++ = '\0';
		make_one(line[0], line[1], line + 2, content ? content : "");
	}
	free(copy);
}

/* ---- what comes of it ---------------------------------------------------------- */

static void walk(const struct layer_view *view)
{
	struct layer_walk *w;
	struct layer_entry e;
	enum layer_change change;
	unsigned depth = 0, count = 0;
	struct err err = {0};
	int r;

	must(layer_walk_new(view, &w) == 0);
	while ((r = layer_walk_next(w, &e, &err)) == 1) {
		must(count++ < PIECES_MAX && !strstr(e.path, "../") && e.path[0] != '/');
		if (e.leave) {
			must(depth-- > 0);
			continue;
		}
		depth += !e.deleted && S_ISDIR(e.st.st_mode);
		r = layer_change(view, &e, &change, &err);
		if (r < 0)
			must_be_told(&err);
		else
			must(*layer_change_name(change));
		err = (struct err){0};
	}
	if (r < 0)
		must_be_told(&err);
	else
		must(depth == 0);
	layer_walk_free(w);
}

static int on_entry(void *arg, const struct tar_entry *e, struct err *err)
{
	(void)arg, (void)err;
	must(e->path[0] != '/' && strncmp(e->path, "../", 3) != 0 && !strstr(e->path, "/../"));
	return 0;
}

static int on_data(void *arg, const void *data, size_t n, struct err *err)
{
	(void)arg, (void)data, (void)n, (void)err;
	return 0;
}

static int on_end(void *arg, struct err *err)
{
	(void)arg, (void)err;
	return 0;
}

static void tell(const struct layer_view *view)
{
	static const struct tar_events tar = {on_entry, on_data, on_end};
	_cleanup_buf_ struct buf out = BUF_INIT(FUZZ_OUT_MAX), piece = BUF_INIT(FUZZ_OUT_MAX);
	struct tar_reader *reader;
	struct layer_tar *t;
	struct err err = {0};
	int r, pieces = 0;

	must(layer_tar_new(view, CODEC_NONE, FUZZ_OUT_MAX / 2, &t) == 0);
	do {
		buf_clear(&piece);
		r = layer_tar_next(t, &piece, &err);
		(void)buf_append(&out, piece.data, piece.len);
		must(pieces++ < PIECES_MAX);
	} while (r == 0);
	if (r < 0) {
		must_be_told(&err);
	} else {
		must(out.len % TAR_BLOCK == 0 && !out.failed);
		must(tar_reader_new(&tar, NULL, &reader) == 0);
		must(tar_reader_feed(reader, out.data, out.len, &err) == 0 &&
		     tar_reader_finish(reader, &err) == 0);
		tar_reader_free(reader);
	}
	layer_tar_free(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct layer_view view = {.n = LAYERS, .uppers = 2};
	static bool begun;

	if (n == 0 || !jail())
		return 0;
	if (!begun)
		jail_open_proc(); /* nothing here opens a path that the input names but below ROOT */
	begun = true;
	view.plain = data[0] & 1;
	make_layers(data + 1, n - 1);
	for (int i = 0; i < LAYERS; i++) {
		char path[32];

		(void)snprintf(path, sizeof(path), ROOT "/%d", i);
		view.fds[i] = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		must(view.fds[i] >= 0);
	}
	walk(&view);
	tell(&view);
	for (int i = 0; i < LAYERS; i++)
		(void)close(view.fds[i]);
	return 0;
}
