/*
 * grep.c - searching in files.
 *
 * The walk and the globs are shared by the lanes under `lock`; a lane takes a
 * few open files from it at a time and searches them alone. Counters are atomic.
 */
#include "execd/grep.h"

#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "execd/file_info.h"
#include "execd/glob.h"
#include "execd/path.h"
#include "execd/regex.h"
#include "execd/walk.h"
#include "proto/json.h"

#define BATCH	    32		 /* files that a lane takes at once */
#define STEPS	    4096	 /* entries looked at under the lock */
#define PIECE_SIZE  (128U << 10) /* a piece is complete with this many bytes */
#define WORK_SIZE   (16U << 20)	 /* bytes read for one piece */
#define KEEP_SIZE   (1U << 20)	 /* a larger buffer is not kept for the next file */
#define BINARY_SIZE 8192
#define LEAD_SIZE   256 /* bytes told before a match that is far in its line */

struct lane {
	struct regex_run *run;
	int fds[BATCH];
	char *paths[BATCH];
	unsigned n, at;

	/* The file at hand: fds[at] has been read. */
	bool open, matched;
	struct buf text;
	size_t pos;	/* the next line to look at */
	size_t counted; /* up to here newlines have been counted */
	uint64_t line;	/* the number of the line at `counted` */
};

struct globs {
	struct glob *v[GREP_GLOBS_MAX];
	size_t n;
};

struct grep {
	char *root, *pattern;
	size_t pattern_n;
	struct regex *regex; /* NULL: literal */
	struct globs include, exclude;
	bool binary;
	uint64_t max_results, context, max_file_bytes;

	pthread_mutex_t lock;
	bool begun, over;
	struct walk *walk;

	atomic_bool cancelled, truncated;
	atomic_uint_fast64_t results, files, matched, skipped_binary, skipped_large, skipped_unreadable;
	struct lane lanes[GREP_LANES];
};

/* ---- new and free ------------------------------------------------------------- */

static int compile_globs(struct globs *globs, json_t *array, const char *field, struct err *err)
{
	json_t *item;
	size_t i;

	if (json_array_size(array) > GREP_GLOBS_MAX)
		return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", E2BIG,
			       "'%s' has more than %d patterns", field, GREP_GLOBS_MAX);
	json_array_foreach(array, i, item)
	{
		int r = glob_new(json_string_value(item), &globs->v[i], err);

		if (r < 0) {
			struct err cause = *err;

			return err_set(err, ERR_INVALID, cause.code, EINVAL, "'%s'[%zu]: %.400s", field, i,
				       cause.message);
		}
		globs->n++;
	}
	return 0;
}

/* A literal whose case does not matter as a pattern. */
static int compile_folded(struct grep *g, const char *literal, struct err *err)
{
	_cleanup_buf_ struct buf escaped = BUF_INIT(2 * REGEX_PATTERN_MAX + 2);

	for (; *literal; literal++) {
		if (strchr("\\.[](){}*+?^$|", *literal))
			(void)buf_putc(&escaped, '\\');
		(void)buf_putc(&escaped, *literal);
	}
	if (escaped.failed || !buf_cstr(&escaped))
		return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", E2BIG, "'pattern' is over %d bytes",
			       REGEX_PATTERN_MAX);
	return regex_new((const char *)escaped.data, true, &g->regex, err);
}

static int compile(struct grep *g, const struct grep_spec *spec, struct err *err)
{
	bool plain = spec->literal || !strpbrk(spec->pattern, "\\.[](){}*+?^$|");
	int r = 0;

	if (!spec->pattern[0])
		return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL, "'pattern' is empty");
	if (strchr(spec->pattern, '\n'))
		return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL,
			       "'pattern' has a newline: lines are searched one by one");
	if (!plain)
		r = regex_new(spec->pattern, spec->ignore_case, &g->regex, err);
	else if (spec->ignore_case)
		r = compile_folded(g, spec->pattern, err);
	for (size_t i = 0; i < GREP_LANES && r >= 0 && g->regex; i++)
		if (regex_run_new(g->regex, &g->lanes[i].run) < 0)
			r = err_sys(err, "RUNTIME_ERROR", ENOMEM, "grep");
	if (r >= 0)
		r = compile_globs(&g->include, spec->include, "include", err);
	if (r >= 0)
		r = compile_globs(&g->exclude, spec->exclude, "exclude", err);
	return r;
}

int grep_new(const struct grep_spec *spec, struct grep **ret, struct err *err)
{
	struct grep *g = calloc(1, sizeof(*g));
	int r;

	if (!g)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "grep");
	(void)pthread_mutex_init(&g->lock, NULL);
	g->binary = spec->binary;
	g->max_results = spec->max_results;
	g->context = spec->context;
	g->max_file_bytes = spec->max_file_bytes;
	g->root = strdup(spec->path);
	g->pattern = strdup(spec->pattern);
	g->pattern_n = strlen(spec->pattern);
	for (size_t i = 0; i < GREP_LANES; i++)
		g->lanes[i].text = BUF_INIT(GREP_FILE_BYTES_MAX + 1);
	r = g->root && g->pattern ? compile(g, spec, err) : err_sys(err, "RUNTIME_ERROR", ENOMEM, "grep");
	if (r < 0) {
		grep_free(g);
		return r;
	}
	*ret = g;
	return 0;
}

static void globs_done(struct globs *globs)
{
	for (size_t i = 0; i < globs->n; i++)
		glob_free(globs->v[i]);
}

void grep_free(struct grep *g)
{
	if (!g)
		return;
	for (size_t i = 0; i < GREP_LANES; i++) {
		struct lane *l = &g->lanes[i];

		for (unsigned j = l->at; j < l->n; j++) {
			fd_close(&l->fds[j]);
			free(l->paths[j]);
		}
		buf_done(&l->text);
		regex_run_free(l->run);
	}
	globs_done(&g->include);
	globs_done(&g->exclude);
	regex_free(g->regex);
	walk_free(g->walk);
	free(g->root);
	free(g->pattern);
	(void)pthread_mutex_destroy(&g->lock);
	free(g);
}

void grep_cancel(struct grep *g)
{
	atomic_store(&g->cancelled, true);
}

/* ---- which files: under the lock ------------------------------------------------- */

static bool any(struct globs *globs, const char *name, const char *path)
{
	for (size_t i = 0; i < globs->n; i++)
		if (glob_match(globs->v[i], name) ||
		    (glob_has_slash(globs->v[i]) && glob_match(globs->v[i], path)))
			return true;
	return false;
}

/* Takes fd and path when it is a regular file. */
static int take_file(struct grep *g, struct lane *l, int fd_consumed, const char *path)
{
	_cleanup_close_ int fd = fd_consumed;
	struct stat st;
	char *copy;

	if (fd < 0 && walk_is_fatal(-errno))
		return -errno;
	if (fd < 0 || fstat(fd, &st) < 0) {
		g->skipped_unreadable++;
		return 0;
	}
	if (!S_ISREG(st.st_mode))
		return 0;
	if ((uint64_t)st.st_size > g->max_file_bytes) {
		g->skipped_large++;
		return 0;
	}
	copy = strdup(path);
	if (!copy)
		return -ENOMEM;
	l->paths[l->n] = copy;
	l->fds[l->n++] = TAKE_FD(fd);
	return 0;
}

static int begin(struct grep *g, struct lane *l)
{
	int flags = O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, fd;
	struct stat st;

	g->begun = true;
	if (stat(g->root, &st) < 0)
		return -errno;
	if (S_ISREG(st.st_mode)) {
		g->over = true;
		fd = open(g->root, flags);
		return fd < 0 ? -errno : take_file(g, l, fd, "");
	}
	fd = open(g->root, flags | O_DIRECTORY);
	return fd < 0 ? -errno : walk_new(fd, UINT64_MAX, &g->walk);
}

static int take_entry(struct grep *g, struct lane *l, const struct walk_entry *e)
{
	struct stat st;

	if (any(&g->exclude, e->name, e->path)) {
		walk_skip(g->walk);
		return 0;
	}
	if (e->is_dir || (g->include.n > 0 && !any(&g->include, e->name, e->path)))
		return 0;
	/* Looked at first: to open a device is to touch it. */
	if (fstatat(e->dirfd, e->name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
		if (walk_is_fatal(-errno))
			return -errno;
		g->skipped_unreadable += errno != ENOENT;
		return 0;
	}
	if (!S_ISREG(st.st_mode))
		return 0;
	return take_file(g, l,
			 openat(e->dirfd, e->name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC),
			 e->path);
}

/* The next files for the lane; none when the walk is over, or was long without one. */
static int take_batch(struct grep *g, struct lane *l)
{
	struct walk_entry e;
	int r = 0;

	l->n = l->at = 0;
	if (!g->begun)
		r = begin(g, l);
	for (unsigned i = 0; r >= 0 && !g->over && i < STEPS && l->n < BATCH; i++) {
		r = walk_next(g->walk, &e);
		if (r == 0)
			g->over = true;
		else if (r > 0)
			r = take_entry(g, l, &e);
	}
	if (r < 0)
		g->over = true;
	return r;
}

/* ---- one file ------------------------------------------------------------------------ */

static void close_file(struct grep *g, struct lane *l)
{
	g->matched += l->matched;
	l->open = l->matched = false;
	fd_close(&l->fds[l->at]);
	free(TAKE_PTR(l->paths[l->at]));
	l->at++;
	if (l->text.cap > KEEP_SIZE)
		buf_done(&l->text);
	buf_clear(&l->text);
}

/* Reads the whole file. 1: it is to be searched; 0: not; -ENOMEM. */
static int read_file(struct grep *g, struct lane *l)
{
	int fd = l->fds[l->at];
	ssize_t n;

	l->open = true;
	l->matched = false;
	l->pos = l->counted = 0;
	l->line = 1;
	do {
		if (buf_reserve(&l->text, 65536) < 0)
			return l->text.len + 65536 > l->text.max ? 0 : -ENOMEM;
		n = read(fd, buf_tail(&l->text), MIN((size_t)65536, l->text.cap - l->text.len));
		if (n > 0)
			l->text.len += (size_t)n;
		if (n > 0 && l->text.len == (size_t)n && !g->binary &&
		    memchr(l->text.data, '\0', MIN((size_t)n, (size_t)BINARY_SIZE))) {
			g->skipped_binary++;
			return 0;
		}
		if (l->text.len > g->max_file_bytes) {
			g->skipped_large++;
			return 0;
		}
	} while (n > 0 || (n < 0 && errno == EINTR));
	if (n < 0) {
		g->skipped_unreadable++;
		return 0;
	}
	g->files++;
	return l->text.len > 0;
}

struct hit {
	size_t line, line_end; /* offsets */
	size_t begin, end;     /* in the line */
};

static size_t line_end(const struct buf *text, size_t at)
{
	const uint8_t *p = memchr(text->data + at, '\n', text->len - at);

	return p ? (size_t)(p - text->data) : text->len;
}

/* 1 and the next line with a match. */
static int find(struct grep *g, struct lane *l, struct hit *hit)
{
	const char *text = (const char *)l->text.data, *p, *found;
	size_t left = l->text.len - l->pos;
	ssize_t line;
	int r;

	if (!g->regex) {
		found = memmem(text + l->pos, left, g->pattern, g->pattern_n);
		if (!found)
			return 0;
		p = memrchr(text + l->pos, '\n', (size_t)(found - text) - l->pos);
		hit->line = p ? (size_t)(p + 1 - text) : l->pos;
		hit->line_end = line_end(&l->text, (size_t)(found - text));
		hit->begin = (size_t)(found - text) - hit->line;
		hit->end = hit->begin + g->pattern_n;
		return 1;
	}
	line = regex_scan(l->run, text + l->pos, left);
	if (line < 0)
		return (int)line;
	/* Behind the last newline there is no line. */
	if ((size_t)line >= left)
		return 0;
	hit->line = l->pos + (size_t)line;
	hit->line_end = line_end(&l->text, hit->line);
	hit->begin = hit->end = 0;
	r = regex_search(l->run, text + hit->line, hit->line_end - hit->line, &hit->begin, &hit->end);
	return r < 0 ? r : 1;
}

static void put_lines(struct jw *w, const char *key, const struct buf *text, size_t from, size_t to)
{
	if (from >= to)
		return;
	jw_key(w, key);
	jw_arr_begin(w);
	while (from < to) {
		size_t end = line_end(text, from);

		jw_strn(w, text->data + from, MIN(end - from, (size_t)GREP_TEXT_MAX));
		from = end + 1;
	}
	jw_arr_end(w);
}

static void put_context(struct grep *g, struct lane *l, const struct hit *hit, struct jw *w)
{
	size_t from = hit->line, to = MIN(hit->line_end + 1, l->text.len);
	size_t after = to;

	for (uint64_t i = 0; i < g->context && from > 0; i++) {
		const uint8_t *p = memrchr(l->text.data, '\n', from - 1);

		from = p ? (size_t)(p + 1 - l->text.data) : 0;
	}
	for (uint64_t i = 0; i < g->context && to < l->text.len; i++)
		to = MIN(line_end(&l->text, to) + 1, l->text.len);
	put_lines(w, "before", &l->text, from, hit->line);
	put_lines(w, "after", &l->text, after, to);
}

static void put_path(const struct grep *g, const struct lane *l, struct jw *w)
{
	_cleanup_buf_ struct buf path = BUF_INIT(WALK_PATH_MAX + PATH_MAX);
	const char *below = l->paths[l->at];

	(void)buf_puts(&path, below[0] && strcmp(g->root, "/") == 0 ? "" : g->root);
	if (below[0])
		(void)buf_putc(&path, '/');
	(void)buf_puts(&path, below);
	jw_key(w, "path");
	jw_strn(w, path.data, path.len);
}

static void put_hit(struct grep *g, struct lane *l, const struct hit *hit, struct buf *out)
{
	const uint8_t *line = l->text.data + hit->line;
	size_t n = hit->line_end - hit->line, start = 0;
	struct jw w = JW_INIT(out);

	if (n > GREP_TEXT_MAX && hit->end > GREP_TEXT_MAX)
		start = hit->begin > LEAD_SIZE ? hit->begin - LEAD_SIZE : 0;
	jw_obj_begin(&w);
	jw_kstr(&w, "type", "match");
	put_path(g, l, &w);
	jw_kint(&w, "line", (int64_t)l->line);
	jw_kint(&w, "column", (int64_t)hit->begin + 1);
	jw_kint(&w, "length", (int64_t)(hit->end - hit->begin));
	jw_key(&w, "text");
	jw_strn(&w, line + start, MIN(n - start, (size_t)GREP_TEXT_MAX));
	if (n > GREP_TEXT_MAX)
		jw_kint(&w, "text_start", (int64_t)start);
	if (g->context > 0)
		put_context(g, l, hit, &w);
	jw_obj_end(&w);
	(void)buf_putc(out, '\n');
}

static void count_lines(struct lane *l, size_t to)
{
	const uint8_t *p = l->text.data + l->counted, *end = l->text.data + to;

	while (p < end && (p = memchr(p, '\n', (size_t)(end - p)))) {
		l->line++;
		p++;
	}
	l->counted = to;
}

/* Up to the end of the file, of the piece or of the results. */
static int search_file(struct grep *g, struct lane *l, struct buf *out)
{
	while (out->len < PIECE_SIZE && l->pos < l->text.len) {
		struct hit hit;
		int r;

		if (atomic_load_explicit(&g->cancelled, memory_order_relaxed))
			return -ECANCELED;
		r = find(g, l, &hit);
		if (r < 0)
			return r;
		if (r == 0)
			break;
		if (g->results++ >= g->max_results) {
			g->results--;
			g->truncated = true;
			break;
		}
		l->matched = true;
		count_lines(l, hit.line);
		put_hit(g, l, &hit, out);
		l->pos = hit.line_end + 1;
		if (l->pos < l->text.len && out->len >= PIECE_SIZE)
			return 0;
	}
	close_file(g, l);
	return 0;
}

/* ---- pieces ------------------------------------------------------------------------------ */

static int grep_err(const struct grep *g, int r, struct err *err)
{
	if (r == -E2BIG || r == -ENAMETOOLONG)
		return err_set(err, ERR_TOO_LARGE, "RUNTIME_ERROR", -r,
			       "grep in '%s': its names are over a limit", g->root);
	return file_err(err, -r, "grep in '%s'", g->root);
}

int grep_next(struct grep *g, unsigned lane, struct buf *out, struct err *err)
{
	struct lane *l = &g->lanes[lane];
	size_t work = 0;
	int r = 0;

	while (r >= 0 && out->len < PIECE_SIZE && work < WORK_SIZE && !g->truncated) {
		if (atomic_load_explicit(&g->cancelled, memory_order_relaxed))
			return grep_err(g, -ECANCELED, err);
		if (l->at == l->n) {
			bool over;

			(void)pthread_mutex_lock(&g->lock);
			r = take_batch(g, l);
			over = g->over;
			(void)pthread_mutex_unlock(&g->lock);
			if (r >= 0 && l->n == 0)
				return over; /* 0: a long way without a file; others get their turn */
			continue;
		}
		if (!l->open) {
			r = read_file(g, l);
			work += l->text.len;
			if (r == 0)
				close_file(g, l);
			if (r <= 0)
				continue;
		}
		r = search_file(g, l, out);
	}
	return r < 0 ? grep_err(g, r, err) : g->truncated;
}

void grep_finish(struct grep *g, struct buf *out)
{
	struct jw w = JW_INIT(out);

	jw_obj_begin(&w);
	jw_kstr(&w, "type", "end");
	jw_kint(&w, "matches", (int64_t)g->results);
	jw_kint(&w, "files", (int64_t)g->files);
	jw_kint(&w, "files_matched", (int64_t)g->matched);
	jw_kint(&w, "skipped_binary", (int64_t)g->skipped_binary);
	jw_kint(&w, "skipped_large", (int64_t)g->skipped_large);
	jw_kint(&w, "skipped_unreadable", (int64_t)g->skipped_unreadable);
	jw_kbool(&w, "truncated", g->truncated);
	jw_obj_end(&w);
	(void)buf_putc(out, '\n');
}
