/*
 * file_data.c - copying the bytes of a file. No state.
 */
#include "execd/file_data.h"

#include <linux/fs.h>
#include <stdbool.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "lib/fs.h"

#define PIECE_SIZE (128U << 10)
#define RANGE_SIZE (64U << 20) /* of one copy_file_range(): between two looks at cancel */

static bool is_cancelled(const atomic_bool *cancel)
{
	return cancel && atomic_load_explicit(cancel, memory_order_relaxed);
}

/* What a copy within the kernel says when a plain one would fail, too. */
static bool is_final(int errnum)
{
	return errnum == ENOSPC || errnum == EDQUOT || errnum == EFBIG || errnum == EIO;
}

/* From where both stand, at most `left` bytes. 0: the rest, if any, is for copy_by_hand(). */
static int copy_in_kernel(int to, int from, const atomic_bool *cancel, uint64_t *left)
{
	while (*left > 0) {
		ssize_t n;

		if (is_cancelled(cancel))
			return -ECANCELED;
		n = copy_file_range(from, NULL, to, NULL, (size_t)MIN(*left, (uint64_t)RANGE_SIZE), 0);
		if (n == 0)
			return 0; /* the end, or a file that says nothing of its size: a read tells */
		if (n < 0 && is_final(errno))
			return -errno;
		if (n < 0 && errno != EINTR)
			return 0;
		if (n > 0)
			*left -= (uint64_t)n;
	}
	return 0;
}

static int copy_by_hand(int to, int from, const atomic_bool *cancel, uint64_t *left)
{
	_cleanup_free_ char *piece = NULL;

	while (*left > 0) {
		ssize_t n;
		int r;

		if (!piece)
			piece = malloc(PIECE_SIZE);
		if (!piece)
			return -ENOMEM;
		if (is_cancelled(cancel))
			return -ECANCELED;
		n = read(from, piece, (size_t)MIN(*left, (uint64_t)PIECE_SIZE));
		if (n == 0)
			return 0;
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		r = fs_write_all(to, piece, (size_t)n);
		if (r < 0)
			return r;
		*left -= (uint64_t)n;
	}
	return 0;
}

static int copy_range(int to, int from, const atomic_bool *cancel, uint64_t n, uint64_t *bytes)
{
	uint64_t left = n;
	int r = copy_in_kernel(to, from, cancel, &left);

	if (r >= 0)
		r = copy_by_hand(to, from, cancel, &left);
	*bytes += n - left;
	return r;
}

/* The pieces between the holes. */
static int copy_sparse(int to, int from, off_t size, const atomic_bool *cancel, uint64_t *bytes)
{
	off_t begin, end = 0;

	while (end < size) {
		int r;

		begin = lseek(from, end, SEEK_DATA);
		if (begin < 0 && errno == ENXIO)
			break;
		end = begin < 0 ? begin : lseek(from, begin, SEEK_HOLE);
		if (end < 0 || lseek(from, begin, SEEK_SET) < 0 || lseek(to, begin, SEEK_SET) < 0)
			return -errno;
		r = copy_range(to, from, cancel, (uint64_t)(end - begin), bytes);
		if (r < 0)
			return r;
	}
	return ftruncate(to, size) < 0 ? -errno : 0;
}

int file_data_copy(int to, int from, const atomic_bool *cancel, uint64_t *ret_bytes)
{
	uint64_t bytes = 0;
	struct stat st;
	int r;

	if (fstat(from, &st) < 0)
		return -errno;
	if (st.st_size > 0 && ioctl(to, FICLONE, from) == 0) {
		*ret_bytes = (uint64_t)st.st_size;
		return 0;
	}
	if (S_ISREG(st.st_mode) && (uint64_t)st.st_blocks * 512 < (uint64_t)st.st_size &&
	    lseek(from, 0, SEEK_HOLE) >= 0 && lseek(from, 0, SEEK_HOLE) < st.st_size)
		r = copy_sparse(to, from, st.st_size, cancel, &bytes);
	else if (lseek(from, 0, SEEK_SET) < 0)
		r = errno == ESPIPE ? copy_range(to, from, cancel, UINT64_MAX, &bytes) : -errno;
	else /* what is appended meanwhile could go on for ever; procfs says 0 of what it has */
		r = copy_range(to, from, cancel, st.st_size > 0 ? (uint64_t)st.st_size : UINT64_MAX, &bytes);
	if (r >= 0)
		*ret_bytes = bytes;
	return r;
}
