/*
 * file_read.c - files that are sent. No state; any thread.
 */
#include "execd/file_read.h"

#include <fcntl.h>
#include <string.h>

#include "execd/file_info.h"

#define SCAN_SIZE (256U << 10)

static int refuse(const char *path, mode_t mode, struct err *err)
{
	return err_set(err, ERR_INVALID, "INVALID_FILE", S_ISDIR(mode) ? EISDIR : EINVAL,
		       "read '%s': it is %s, only regular files can be read", path, file_kind(mode));
}

int file_read_open(const char *path, int *ret_fd, struct stat *ret_st, struct err *err)
{
	_cleanup_close_ int fd = -EBADF;
	struct stat st;

	/* Looked at first: to open a device is to touch it. */
	if (stat(path, &st) < 0)
		return file_err(err, errno, "read '%s'", path);
	if (!S_ISREG(st.st_mode))
		return refuse(path, st.st_mode, err);
	fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return file_err(err, errno, "read '%s'", path);
	if (!S_ISREG(st.st_mode))
		return refuse(path, st.st_mode, err);
	*ret_fd = TAKE_FD(fd);
	*ret_st = st;
	return 0;
}

/* Counts lines through pieces of a text. */
struct line_scan {
	uint64_t first, count; /* what is looked for */
	uint64_t line;	       /* the line at `offset`, from 1 */
	uint64_t offset;       /* bytes seen */
	uint64_t begin, end;
	bool begun, ended;
};

static void scan_init(struct line_scan *s, uint64_t first, uint64_t count)
{
	*s = (struct line_scan){.first = first, .count = count, .line = 1};
	s->begun = first <= 1;
	s->ended = s->begun && count == 0;
}

static void scan_piece(struct line_scan *s, const uint8_t *data, size_t n)
{
	const uint8_t *p = data, *end = data + n;

	while (!s->ended) {
		p = memchr(p, '\n', (size_t)(end - p));
		if (!p)
			break;
		p++;
		s->line++;
		if (!s->begun && s->line == s->first) {
			s->begun = true;
			s->begin = s->offset + (uint64_t)(p - data);
			s->ended = s->count == 0;
			s->end = s->begin;
		} else if (s->begun && s->line - s->first == s->count) {
			s->ended = true;
			s->end = s->offset + (uint64_t)(p - data);
		}
	}
	s->offset += n;
}

static void scan_result(const struct line_scan *s, uint64_t *ret_begin, uint64_t *ret_end)
{
	*ret_begin = s->begun ? s->begin : s->offset;
	*ret_end = s->ended ? s->end : s->offset;
}

void lines_find(const void *data, size_t n, uint64_t first, uint64_t count, uint64_t *ret_begin,
		uint64_t *ret_end)
{
	struct line_scan s;

	scan_init(&s, first, count);
	if (n > 0)
		scan_piece(&s, data, n);
	scan_result(&s, ret_begin, ret_end);
}

int file_find_lines(int fd, uint64_t first, uint64_t count, const atomic_bool *cancel, uint64_t *ret_begin,
		    uint64_t *ret_end)
{
	_cleanup_free_ uint8_t *piece = malloc(SCAN_SIZE);
	struct line_scan s;

	if (!piece)
		return -ENOMEM;
	scan_init(&s, first, count);
	while (!s.ended) {
		ssize_t n;

		if (atomic_load(cancel))
			return -ECANCELED;
		n = pread(fd, piece, SCAN_SIZE, (off_t)s.offset);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		scan_piece(&s, piece, (size_t)n);
	}
	scan_result(&s, ret_begin, ret_end);
	return 0;
}
