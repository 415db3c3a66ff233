/*
 * Layers against the kernel: what an overlay mount shows, what layer_walk() tells of its upper, what
 * layer_commit() makes of the workspace and what GNU tar and the whiteout rules of OCI make of the diff must
 * be the same tree; and an inverse must bring back the one before.
 */
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#include <cmocka.h>

#include "execd/inodes.h"
#include "execd/isolated/layer_commit.h"
#include "execd/isolated/layer_mark.h"
#include "execd/isolated/layer_stack.h"
#include "execd/isolated/layer_tar.h"
#include "execd/walk.h"
#include "lib/buf.h"
#include "lib/fs.h"
#include "lib/sha256.h"

#define LAYERS 4

static char dir[] = "/tmp/test_layer.XXXXXX";
static bool can_mount;
static bool userxattr;

/* ---- a tree as text ------------------------------------------------------------ */

static void describe_content(struct buf *out, const struct walk_entry *e, const struct stat *st)
{
	char text[4096];
	ssize_t n;

	if (S_ISLNK(st->st_mode)) {
		n = readlinkat(e->dirfd, e->name, text, sizeof(text) - 1);
		assert_true(n >= 0);
		text[n] = '\0';
		(void)buf_printf(out, " -> %s", text);
	} else if (S_ISREG(st->st_mode)) {
		_cleanup_close_ int fd = openat(e->dirfd, e->name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
		struct sha256 hash;
		uint8_t digest[SHA256_SIZE];
		char value[256];

		assert_true(fd >= 0);
		sha256_init(&hash);
		while ((n = read(fd, text, sizeof(text))) > 0)
			sha256_add(&hash, text, (size_t)n);
		assert_int_equal(n, 0);
		sha256_end(&hash, digest);
		(void)buf_printf(out, " %lld %02x%02x%02x%02x", (long long)st->st_size, digest[0], digest[1],
				 digest[2], digest[3]);
		n = fgetxattr(fd, "user.t", value, sizeof(value));
		if (n >= 0)
			(void)buf_printf(out, " t=%.*s", (int)n, value);
	}
}

/* One line an entry. seconds: times as a tar has them. What a tar cannot have (sockets) is left out then. */
static char *told(const char *path, bool seconds)
{
	struct buf out = BUF_INIT(64U << 20);
	struct inodes links = {0};
	struct walk_entry e;
	struct walk *w;
	int r, fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(walk_new(fd, UINT64_MAX, &w), 0);
	while ((r = walk_next(w, &e)) > 0) {
		struct stat st;
		const char *first = NULL;

		assert_int_equal(fstatat(e.dirfd, e.name, &st, AT_SYMLINK_NOFOLLOW), 0);
		if (seconds && S_ISSOCK(st.st_mode))
			continue;
		if (S_ISREG(st.st_mode) && st.st_nlink > 1)
			first = inodes_first(&links, &st, e.path);
		(void)buf_printf(&out, "%s %o %u:%u %lld.%09ld", e.path, st.st_mode, st.st_uid, st.st_gid,
				 (long long)st.st_mtim.tv_sec, seconds ? 0 : st.st_mtim.tv_nsec);
		describe_content(&out, &e, &st);
		if (first)
			(void)buf_printf(&out, " = %s", first);
		(void)buf_putc(&out, '\n');
	}
	assert_int_equal(r, 0);
	walk_free(w);
	inodes_done(&links);
	assert_non_null(buf_cstr(&out));
	return (char *)out.data;
}

static void same_trees(const char *a, const char *b, bool seconds)
{
	_cleanup_free_ char *x = told(a, seconds), *y = told(b, seconds);

	if (strcmp(x, y) != 0) {
		(void)fs_write_file(AT_FDCWD, "/tmp/test_layer.a", x, strlen(x), 0600);
		(void)fs_write_file(AT_FDCWD, "/tmp/test_layer.b", y, strlen(y), 0600);
		fail_msg("%s and %s differ: see /tmp/test_layer.a and .b", a, b);
	}
}

/* ---- a room without a room -------------------------------------------------------- */

static void run(const char *command)
{
	int status = system(command); /* NOLINT: a test's own text */

	if (status != 0)
		fail_msg("%s: status %d", command, status);
}

static int open_dir(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		fail_msg("%s: %s", path, strerror(errno));
	return fd;
}

/* A fresh place: ws, stack/0..; everything on one tmpfs that goes with it. */
static void place_up(void)
{
	run("mkdir -p p && mount -t tmpfs -o size=200m tmpfs p && mkdir -p p/ws p/m p/stack/0 p/inverse");
}

static void place_down(void)
{
	run("umount p");
}

/* The merged view with layer `top` as the one that is written to. */
static void overlay(unsigned top)
{
	char options[1024], *p = options;

	run("rm -rf p/stack/work && mkdir p/stack/work");
	/* With userxattr there are neither, and it does not like to be told. */
	p += sprintf(p, "index=off,%s,lowerdir=", userxattr ? "userxattr" : "metacopy=off,redirect_dir=off");
	for (unsigned i = top; i-- > 0;)
		p += sprintf(p, "p/stack/%u:", i);
	p += sprintf(p, "p/ws,upperdir=p/stack/%u,workdir=p/stack/work", top);
	if (mount("overlay", "p/m", "overlay", 0, options) < 0)
		fail_msg("mount overlay %s: %s", options, strerror(errno));
}

static void overlay_down(void)
{
	assert_int_equal(umount("p/m"), 0);
}

static void view_open(struct layer_view *v, unsigned top)
{
	*v = (struct layer_view){.userxattr = userxattr};
	for (unsigned i = top + 1; i-- > 0;) {
		char path[32];

		(void)snprintf(path, sizeof(path), "p/stack/%u", i);
		v->fds[v->n++] = open_dir(path);
	}
	v->uppers = v->n;
	v->fds[v->n++] = open_dir("p/ws");
}

static void view_close(struct layer_view *v)
{
	for (size_t i = 0; i < v->n; i++)
		fd_close(&v->fds[i]);
}

/* The changes as text: "A path", ... */
static const char *changes(struct buf *out, const struct layer_view *v)
{
	struct layer_entry e;
	struct layer_walk *w;
	struct err err;
	int r;

	buf_clear(out);
	assert_int_equal(layer_walk_new(v, &w), 0);
	while ((r = layer_walk_next(w, &e, &err)) > 0) {
		enum layer_change change;

		if (e.leave)
			continue;
		assert_int_equal(layer_change(v, &e, &change, &err), 0);
		if (change != LAYER_SAME)
			(void)buf_printf(out, "%c %s\n", "=AMmD"[change], e.path);
	}
	if (r < 0)
		fail_msg("%s", err.message);
	layer_walk_free(w);
	return buf_cstr(out);
}

static void commit(const struct layer_view *v, const struct layer_commit_options *o,
		   struct layer_commit_result *result)
{
	struct err err = {0};

	if (layer_commit(v, o, result, NULL, &err) < 0)
		fail_msg("%s", err.message);
}

static void write_diff(const struct layer_view *v, const char *path)
{
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	_cleanup_buf_ struct buf out = BUF_INIT(16U << 20);
	struct layer_tar *t;
	struct err err;
	int r;

	assert_true(fd >= 0);
	assert_int_equal(layer_tar_new(v, CODEC_NONE, UINT64_MAX, &t), 0);
	do {
		buf_clear(&out);
		r = layer_tar_next(t, &out, &err);
		if (r < 0)
			fail_msg("%s", err.message);
		assert_int_equal(fs_write_all(fd, out.data, out.len), 0);
	} while (r == 0);
	layer_tar_free(t);
}

static void remove_below(int dirfd, const char *name)
{
	if (unlinkat(dirfd, name, 0) < 0 && errno == EISDIR)
		assert_int_equal(fs_remove_tree(dirfd, name), 0);
}

/* The rules of an OCI layer, by hand: deletions first, then tar. */
static void apply_diff(const char *tar, const char *target)
{
	char command[256], path[8192];
	struct walk_entry e;
	struct walk *w;
	int r;

	(void)snprintf(command, sizeof(command),
		       "mkdir p/x && tar --xattrs --xattrs-include='*' -xpf %s -C p/x", tar);
	run(command);
	assert_int_equal(walk_new(open_dir("p/x"), UINT64_MAX, &w), 0);
	while ((r = walk_next(w, &e)) > 0) {
		size_t n = strlen(e.path) - strlen(e.name);
		_cleanup_close_ int fd = -EBADF;

		if (strncmp(e.name, ".wh.", 4) != 0)
			continue;
		(void)snprintf(path, sizeof(path), "%s/%.*s", target, (int)n, e.path);
		if (strcmp(e.name, ".wh..wh..opq") == 0) {
			path[strlen(path) - 1] = '\0';
			remove_below(AT_FDCWD, path);
		} else {
			fd = open_dir(path);
			remove_below(fd, e.name + 4);
		}
	}
	assert_int_equal(r, 0);
	walk_free(w);
	(void)snprintf(command, sizeof(command),
		       "tar --xattrs --xattrs-include='*' -xpf %s --exclude='.wh.*' -C %s", tar, target);
	run(command);
}

/* ---- what is told ----------------------------------------------------------------------- */

static void test_changes(void **state)
{
	_cleanup_buf_ struct buf out = BUF_INIT(65536);
	struct layer_view v;

	(void)state;
	if (!can_mount)
		skip();
	place_up();
	run("cd p/ws && mkdir -p d/sub gone opq/a keep && echo 1 >d/f && echo 2 >d/sub/g && echo 3 >gone/x &&"
	    "echo 4 >opq/a/y && echo 5 >opq/z && echo 6 >t && ln -s t link && echo 7 >keep/k && echo 8 "
	    ">same");
	overlay(0);
	run("cd p/m && echo new >n && echo 11 >>d/f && chmod 600 d/sub/g && rm -r gone && rm -r opq && mkdir "
	    "opq &&"
	    "echo z >opq/z && rm t && mkdir t && echo in >t/in && ln -sfn n link && mkfifo ff && chmod 700 "
	    "keep &&"
	    "python3 -c 'open(\"same\", \"r+\").close()' && mkdir -p brand/new && touch brand/new/e");
	overlay_down();
	view_open(&v, 0);
	assert_string_equal(changes(&out, &v),
			    "A brand\nA brand/new\nA brand/new/e\nM d/f\nm d/sub/g\nA ff\nD gone\n"
			    "m keep\nM link\nA n\nD opq/a\nM opq/z\nM t\nA t/in\n");
	view_close(&v);
	place_down();
}

/* A layer that changes what a layer below has made, seen alone and with it. */
static void test_pile(void **state)
{
	_cleanup_buf_ struct buf out = BUF_INIT(65536);
	struct layer_view v;

	(void)state;
	if (!can_mount)
		skip();
	place_up();
	run("cd p/ws && mkdir a b && echo 1 >a/f && echo 2 >b/g");
	overlay(0);
	run("cd p/m && echo x >a/new && rm -r b && echo y >y");
	overlay_down();
	run("mkdir p/stack/1");
	overlay(1);
	run("cd p/m && rm a/new y && mkdir b && echo 3 >b/h && echo 4 >>a/f");
	overlay_down();
	view_open(&v, 1);
	assert_string_equal(changes(&out, &v), "M a/f\nD b/g\nA b/h\n");
	v.uppers = 1; /* the second layer over the first */
	assert_string_equal(changes(&out, &v), "M a/f\nD a/new\nA b\nA b/h\nD y\n");
	view_close(&v);
	place_down();
}

/* ---- the property --------------------------------------------------------------------------- */

static unsigned seed;

static unsigned pick(unsigned n)
{
	seed = seed * 1103515245U + 12345U;
	return (seed >> 16) % n;
}

static const char *any_path(char out[256])
{
	static const char *const names[] = {"a", "b",  "c", "new\nline", "\xff\xfe",
					    " ", "-x", "d", "wh",	 ".h"};
	unsigned depth = 1 + pick(3);
	char *p = out;

	p += sprintf(p, "p/m");
	for (unsigned i = 0; i < depth; i++)
		p += sprintf(p, "/%s", names[pick(ARRAY_SIZE(names))]);
	return out;
}

static void fill_file(const char *path, int flags)
{
	int fd = open(path, flags | O_WRONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600 | pick(0100));
	char text[64];

	if (fd < 0)
		return;
	if (pick(4) == 0)
		(void)!ftruncate(fd, (off_t)pick(1U << 20));
	(void)snprintf(text, sizeof(text), "%u", pick(100000));
	(void)!write(fd, text, strlen(text));
	(void)close(fd);
}

static void random_operation(void)
{
	struct timespec times[2] = {{.tv_sec = 1000000 + pick(1000)},
				    {.tv_sec = 1000000 + pick(100000), .tv_nsec = 5}};
	char a[256], b[256];
	struct stat st;

	switch (pick(17)) {
	case 0:
	case 1:
	case 2:
		fill_file(any_path(a), O_CREAT);
		break;
	case 3:
		fill_file(any_path(a), O_APPEND);
		break;
	case 4:
	case 5:
	case 6:
		(void)mkdir(any_path(a), 0700 | pick(0100));
		break;
	case 7:
		(void)unlink(any_path(a));
		break;
	case 8:
		if (lstat(any_path(a), &st) == 0 && S_ISDIR(st.st_mode))
			(void)fs_remove_tree(AT_FDCWD, a);
		break;
	case 9:
	case 10:
		(void)rename(any_path(a), any_path(b));
		break;
	case 11:
		(void)!link(any_path(a), any_path(b));
		break;
	case 12:
		(void)!symlink("some/where", any_path(a));
		break;
	case 13:
		if (lstat(any_path(a), &st) == 0 && !S_ISLNK(st.st_mode))
			(void)!chmod(a, 0700 | pick(0100));
		break;
	case 14:
		(void)!lchown(any_path(a), pick(3) * 1000, pick(3) * 1000);
		break;
	case 15:
		(void)utimensat(AT_FDCWD, any_path(a), times, AT_SYMLINK_NOFOLLOW);
		break;
	default:
		(void)mkfifo(any_path(a), 0600);
		if (!userxattr)
			(void)lsetxattr(any_path(b), "user.t", "v", pick(2), 0);
	}
}

static void random_base(void)
{
	/* In the workspace itself; links of one file are told as one there and as two in an overlay. */
	run("mount --bind p/ws p/m");
	for (unsigned i = 0; i < 120; i++)
		random_operation();
	overlay_down();
	run("cd p/ws && find . -type f -links +1 -delete");
}

static void one_property(unsigned n)
{
	struct layer_commit_options o = {.inverse_fd = -EBADF};
	struct layer_commit_result result;
	unsigned layers = 1 + n % LAYERS;
	struct layer_view v, back = {.n = 2, .uppers = 1, .userxattr = userxattr};
	char path[64];

	seed = n;
	place_up();
	random_base();
	run("cp -a p/ws p/before && cp -a p/ws p/applied && cp -a p/ws p/before2");
	for (unsigned i = 0; i < layers; i++) {
		(void)snprintf(path, sizeof(path), "mkdir -p p/stack/%u; chmod --reference=p/ws p/stack/%u",
			       i, i);
		run(path);
		overlay(i);
		for (unsigned k = 0; k < 80; k++)
			random_operation();
		if (i + 1 < layers)
			overlay_down();
	}
	run("cp -a p/m p/merged");
	same_trees("p/m", "p/merged", false);
	overlay_down();

	view_open(&v, layers - 1);
	write_diff(&v, "p/diff.tar");
	apply_diff("p/diff.tar", "p/applied");
	same_trees("p/merged", "p/applied", true);

	o.inverse_fd = open_dir("p/inverse");
	commit(&v, &o, &result);
	same_trees("p/merged", "p/ws", false);
	/* Once more there is nothing to do. */
	fd_close(&o.inverse_fd);
	commit(&v, &o, &result);
	assert_int_equal(result.added + result.modified + result.deleted + result.directories, 0);
	same_trees("p/merged", "p/ws", false);

	back.fds[0] = open_dir("p/inverse");
	back.fds[1] = v.fds[v.n - 1];
	commit(&back, &o, &result);
	same_trees("p/before", "p/ws", false);
	fd_close(&back.fds[0]);
	view_close(&v);
	place_down();
}

static void test_property(void **state)
{
	(void)state;
	if (!can_mount)
		skip();
	for (unsigned n = 1; n <= 16; n++)
		one_property(n);
}

/* ---- squashed --------------------------------------------------------------------------------- */

static void test_squash(void **state)
{
	struct err err = {0};

	(void)state;
	if (!can_mount)
		skip();
	for (unsigned n = 101; n <= 108; n++) {
		_cleanup_close_ int stack = -EBADF;
		char command[64];

		seed = n;
		place_up();
		random_base();
		for (unsigned i = 0; i < LAYERS; i++) {
			(void)snprintf(command, sizeof(command), "mkdir -p p/stack/%u", i);
			run(command);
			overlay(i);
			for (unsigned k = 0; k < 60; k++)
				random_operation();
			if (i + 1 < LAYERS)
				overlay_down();
		}
		run("cp -a p/m p/merged");
		overlay_down();
		stack = open_dir("p/stack");
		if (layer_squash(stack, 1, userxattr, &err) < 0)
			fail_msg("%s", err.message);
		overlay(LAYERS - 2);
		same_trees("p/merged", "p/m", false);
		overlay_down();
		fd_close(&stack);
		place_down();
	}
}

/* ---- conflicts, selection ----------------------------------------------------------------------- */

static void test_conflicts(void **state)
{
	_cleanup_buf_ struct buf told_out = BUF_INIT(1U << 20);
	struct layer_commit_options o = {.inverse_fd = -EBADF};
	struct layer_commit_result result;
	struct layer_view v;
	struct err err = {0};
	struct stat st;

	(void)state;
	if (!can_mount)
		skip();
	place_up();
	run("cd p/ws && mkdir d e && echo 1 >f && echo 2 >g && echo 3 >d/x && echo 4 >e/y && echo 5 >same");
	overlay(0);
	run("cd p/m && echo a >>f && rm g && rm -r d && echo b >e/y && echo c >new && echo 6 >same");
	overlay_down();
	/* Later than everything so far, and the last thing before the others' changes. */
	assert_int_equal(stat("p/stack/0", &st), 0);
	o.since = st.st_ctim;
	view_open(&v, 0);
	for (;;) { /* until the file system's clock has gone on: a change cannot be told before */
		struct stat mark;

		assert_int_equal(fs_write_file(AT_FDCWD, "p/mark", "", 0, 0600), 0);
		assert_int_equal(chmod("p/mark", 0600), 0);
		assert_int_equal(stat("p/mark", &mark), 0);
		if (mark.st_ctim.tv_sec != st.st_ctim.tv_sec || mark.st_ctim.tv_nsec != st.st_ctim.tv_nsec)
			break;
	}
	run("cd p/ws && echo other >f && echo other >d/later && echo other >new && touch -r ../stack/0/same "
	    "same &&"
	    "cp -p ../stack/0/same same");
	assert_int_equal(layer_commit(&v, &o, &result, &told_out, &err), -EBUSY);
	assert_int_equal(err.kind, ERR_CONFLICT);
	assert_string_equal(buf_cstr(&told_out), "[\"d\",\"f\",\"new\"]");
	run("cd p/ws && test -e g && test \"$(cat e/y)\" = 4");

	o.since = (struct timespec){0};
	commit(&v, &o, &result);
	run("cd p/ws && test ! -e g && test ! -e d && test \"$(cat e/y)\" = b && test \"$(cat new)\" = c");
	view_close(&v);
	place_down();
}

static void test_selection(void **state)
{
	static const char *const paths[] = {"d/a", "n"};
	struct layer_commit_options o = {.inverse_fd = -EBADF, .paths = paths, .paths_n = 2};
	struct layer_commit_result result;
	struct layer_view v;

	(void)state;
	if (!can_mount)
		skip();
	place_up();
	run("cd p/ws && mkdir d && echo 1 >d/a && echo 2 >d/b && echo 3 >gone && chmod 755 d");
	overlay(0);
	run("cd p/m && echo x >d/a && echo y >d/b && chmod 700 d && rm gone && mkdir -p n/m na && echo z "
	    ">n/m/z");
	overlay_down();
	view_open(&v, 0);
	commit(&v, &o, &result);
	run("cd p/ws && test $(cat d/a) = x && test $(cat d/b) = 2 && test -e gone && test -e n/m/z && test "
	    "! -e na &&"
	    "test $(stat -c %a d) = 755");
	view_close(&v);
	place_down();
}

/* The inverse on another file system: nothing can be renamed or linked into it. */
static void test_inverse_elsewhere(void **state)
{
	struct layer_commit_options o = {.inverse_fd = -EBADF};
	struct layer_view v, back = {.n = 2, .uppers = 1, .userxattr = userxattr};
	struct layer_commit_result result;

	(void)state;
	if (!can_mount)
		skip();
	place_up();
	run("mount -t tmpfs tmpfs p/inverse && cd p/ws && mkdir -p d/e t && echo 1 >d/e/f && mkfifo d/p && "
	    "ln -s x d/l &&"
	    "chmod 711 d/e && echo 2 >t/g && echo 3 >h && touch -d @1000 d/e/f d/e d && true; "
	    "python3 -c 'import os; os.setxattr(\"h\", \"user.t\", b\"q\")';"
	    "cp -a . ../before");
	overlay(0);
	run("cd p/m && rm -r d && rm -r t && echo now >t && echo new >>h && echo n >n");
	overlay_down();
	view_open(&v, 0);
	o.inverse_fd = open_dir("p/inverse");
	commit(&v, &o, &result);
	assert_true(result.inverse_copied);
	back.fds[0] = TAKE_FD(o.inverse_fd);
	back.fds[1] = v.fds[1];
	o.inverse_fd = -EBADF;
	commit(&back, &o, &result);
	same_trees("p/before", "p/ws", false);
	view_close(&v);
	fd_close(&back.fds[0]);
	run("umount p/inverse");
	place_down();
}

/* ---- hostile ------------------------------------------------------------------------------------------ */

static void test_name_of_a_whiteout(void **state)
{
	_cleanup_buf_ struct buf out = BUF_INIT(16U << 20);
	struct layer_view v = {.n = 1, .uppers = 1};
	struct layer_tar *t;
	struct err err = {0};

	(void)state;
	run("rm -rf u && mkdir -p u/d && touch u/d/.wh.passwd");
	v.fds[0] = open_dir("u");
	assert_int_equal(layer_tar_new(&v, CODEC_NONE, UINT64_MAX, &t), 0);
	assert_int_equal(layer_tar_next(t, &out, &err), -EILSEQ);
	assert_int_equal(out.len, 0);
	assert_non_null(strstr(err.message, "d/.wh.passwd"));
	layer_tar_free(t);
	/* A limit is an error before the first byte, too. */
	run("rm u/d/.wh.passwd && truncate -s 1T u/big");
	assert_int_equal(layer_tar_new(&v, CODEC_NONE, 1U << 30, &t), 0);
	assert_int_equal(layer_tar_next(t, &out, &err), -EFBIG);
	assert_int_equal(out.len, 0);
	layer_tar_free(t);
	view_close(&v);
}

/* Links in the workspace, where the layer has directories: nothing may go where they lead. */
static void test_links_lead_nowhere(void **state)
{
	struct layer_commit_options o = {.inverse_fd = -EBADF};
	struct layer_commit_result result;
	struct layer_view v = {.n = 2, .uppers = 1};

	(void)state;
	run("rm -rf u w out && mkdir -p u/d/e w out/e && echo 1 >u/d/e/f && echo safe >out/e/f && ln -s "
	    "../out w/d");
	v.fds[0] = open_dir("u");
	v.fds[1] = open_dir("w");
	commit(&v, &o, &result);
	run("test $(cat out/e/f) = safe && test -d w/d && test ! -L w/d && test $(cat w/d/e/f) = 1");
	view_close(&v);
}

/* One swaps a directory of the workspace for a link to outside, as fast as it can. */
static void test_race(void **state)
{
	struct layer_commit_options o = {.inverse_fd = -EBADF};
	struct layer_view v = {.n = 2, .uppers = 1};
	struct layer_commit_result result;
	int status;
	pid_t racer;

	(void)state;
	run("rm -rf u w out && mkdir -p u/d w/d out && ln -s ../out w/l && for i in $(seq 200); do echo evil "
	    ">u/d/$i; done");
	racer = fork();
	assert_true(racer >= 0);
	if (racer == 0)
		for (;;)
			(void)renameat2(AT_FDCWD, "w/d", AT_FDCWD, "w/l", RENAME_EXCHANGE);
	v.fds[0] = open_dir("u");
	v.fds[1] = open_dir("w");
	for (int i = 0; i < 30; i++) {
		struct err err;

		/* It may fail; what it does stays inside. */
		(void)layer_commit(&v, &o, &result, NULL, &err);
		run("test -z \"$(ls -A out)\"");
	}
	assert_int_equal(kill(racer, SIGKILL), 0);
	assert_int_equal(waitpid(racer, &status, 0), racer);
	view_close(&v);
}

/* Deeper than PATH_MAX and than there are descriptors. */
static void test_deep(void **state)
{
	struct layer_commit_options o = {.inverse_fd = -EBADF};
	struct layer_commit_result result;
	struct layer_view v = {.n = 2, .uppers = 1};
	struct rlimit few = {.rlim_cur = 320, .rlim_max = 320}, was;
	_cleanup_close_ int at = -EBADF;
	_cleanup_buf_ struct buf out = BUF_INIT(64U << 20);
	const unsigned depth = 3000;

	(void)state;
	run("rm -rf u w && mkdir u w");
	at = open_dir("u");
	for (unsigned i = 0; i < depth; i++) {
		int next;

		assert_int_equal(mkdirat(at, "deep", 0755), 0);
		if (i % 500 == 0)
			assert_int_equal(fs_write_file(at, "f", "x", 1, 0644), 0);
		next = openat(at, "deep", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		assert_true(next >= 0);
		fd_close(&at);
		at = next;
	}
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &was), 0);
	few.rlim_max = was.rlim_max;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
	v.fds[0] = open_dir("u");
	v.fds[1] = open_dir("w");
	commit(&v, &o, &result);
	assert_int_equal(result.directories, depth);
	assert_int_equal(result.added, depth / 500);
	assert_string_equal(changes(&out, &v), "");
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &was), 0);
	view_close(&v);
}

static long peak_kb(void)
{
	struct rusage usage;

	assert_int_equal(getrusage(RUSAGE_SELF, &usage), 0);
	return usage.ru_maxrss;
}

/* 100,000 files in one directory: what is held are their names. */
static void test_wide(void **state)
{
	struct layer_commit_options o = {.inverse_fd = -EBADF};
	struct layer_commit_result result;
	struct layer_view v;
	const unsigned n = 100000;
	_cleanup_close_ int at = -EBADF;
	long before;

	(void)state;
	if (!can_mount)
		skip();
	place_up();
	assert_int_equal(mkdir("p/stack/0/wide", 0755), 0);
	at = open_dir("p/stack/0/wide");
	for (unsigned i = 0; i < n; i++) {
		char name[32];

		(void)snprintf(name, sizeof(name), "file number %u", i);
		assert_int_equal(mknodat(at, name, S_IFREG | 0644, 0), 0);
	}
	view_open(&v, 0);
	before = peak_kb();
	write_diff(&v, "p/diff.tar");
	commit(&v, &o, &result);
	assert_int_equal(result.added, n);
	/* Twice 100,000 names, and what a sanitizer keeps of what was freed. */
	assert_true(peak_kb() - before < 64 * 1024);
	view_close(&v);
	fd_close(&at);
	place_down();
}

/* ---- around it ------------------------------------------------------------------------------------------
 */

static int set_up(void **state)
{
	(void)state;
	if (!mkdtemp(dir) || chdir(dir) < 0)
		return -1;
	/* cp and tar must find the modes they are told. */
	(void)umask(0);
	if (unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0)
		can_mount = true;
	else
		print_message("the tests with overlay mounts are skipped: %s\n", strerror(errno));
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	return chdir("/") < 0 ? -1 : fs_remove_tree(AT_FDCWD, dir);
}

static int with_userxattr(void **state)
{
	(void)state;
	userxattr = true;
	return 0;
}

static int without_userxattr(void **state)
{
	(void)state;
	userxattr = false;
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_changes),
		cmocka_unit_test(test_pile),
		cmocka_unit_test(test_property),
		cmocka_unit_test(test_squash),
		cmocka_unit_test_setup_teardown(test_property, with_userxattr, without_userxattr),
		cmocka_unit_test_setup_teardown(test_squash, with_userxattr, without_userxattr),
		cmocka_unit_test(test_conflicts),
		cmocka_unit_test(test_selection),
		cmocka_unit_test(test_inverse_elsewhere),
		cmocka_unit_test(test_name_of_a_whiteout),
		cmocka_unit_test(test_links_lead_nowhere),
		cmocka_unit_test(test_race),
		cmocka_unit_test(test_deep),
		cmocka_unit_test(test_wide),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
