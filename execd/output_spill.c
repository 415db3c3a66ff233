/*
 * output_spill.c - what a log's memory does not hold.
 *
 * Owns at most one file a log, without a name. It is a ring: blocks lie whole
 * at file_pos, in the order of the queue, and spill.next is where the next one
 * goes. Also the one block that has been read back.
 *
 * Threads: the loop's only.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "execd/output_priv.h"

#define SPILL_FILES_MAX 256 /* descriptors all logs together may hold */

/*
 * One block read back from a spill file, for whichever log was read last: a
 * slice is used up before the next call, so one serves the whole process.
 */
static struct {
	const struct output *owner;
	uint64_t offset;
	uint8_t *data;
	size_t cap;
} scratch;

static unsigned spill_files;

void output_scratch_forget(const struct output *o, const struct output_block *b)
{
	if (scratch.owner == o && (!b || scratch.offset == b->offset))
		scratch.owner = NULL;
	/* One oversized record does not keep its memory for good. */
	if (!scratch.owner && scratch.cap > OUTPUT_BLOCK_MAX) {
		free(scratch.data);
		scratch.data = NULL;
		scratch.cap = 0;
	}
}

void output_spill_close(struct output *o)
{
	if (o->spill.fd >= 0) {
		fd_close(&o->spill.fd);
		spill_files--;
	}
	output_scratch_forget(o, NULL);
}

static int spill_open_named(const char *dir)
{
	_cleanup_free_ char *path = NULL;
	int fd;

	if (asprintf(&path, "%s/.execd-output-XXXXXX", dir) < 0)
		return -ENOMEM;
	fd = mkostemp(path, O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (unlink(path) < 0) {
		int r = -errno;

		(void)close(fd);
		return r;
	}
	return fd;
}

static int spill_open_in(const char *dir)
{
	int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC | O_EXCL, 0600);

	if (fd >= 0)
		return fd;
	/* Not every file system has O_TMPFILE. */
	if (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL)
		return spill_open_named(dir);
	return -errno;
}

static bool spill_open(struct output *o)
{
	/* An image may lack the first; the last is often memory. */
	const char *dirs[] = {"/var/tmp", "/", "/tmp"};
	size_t n = ARRAY_SIZE(dirs);
	int fd = -EMFILE;

	if (o->spill.fd >= 0)
		return true;
	if (o->limits.spill_dir) {
		dirs[0] = o->limits.spill_dir;
		n = 1;
	}
	if (!o->spill.broken && spill_files < SPILL_FILES_MAX)
		for (size_t i = 0; i < n && fd < 0; i++)
			fd = spill_open_in(dirs[i]);
	if (fd < 0) {
		o->spill.broken = true;
		return false;
	}
	o->spill.fd = fd;
	spill_files++;
	return true;
}

static int write_at(int fd, const uint8_t *data, size_t n, uint64_t pos)
{
	while (n > 0) {
		ssize_t w = pwrite(fd, data, n, (off_t)pos);

		if (w < 0 && errno == EINTR)
			continue;
		if (w <= 0)
			return w < 0 ? -errno : -ENOSPC;
		data += w;
		n -= (size_t)w;
		pos += (uint64_t)w;
	}
	return 0;
}

static int read_at(int fd, uint8_t *data, size_t n, uint64_t pos)
{
	while (n > 0) {
		ssize_t r = pread(fd, data, n, (off_t)pos);

		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			return r < 0 ? -errno : -EIO;
		data += r;
		n -= (size_t)r;
		pos += (uint64_t)r;
	}
	return 0;
}

/* Makes room for n bytes in the file, at spill.next. The file holds n bytes at least. */
static void spill_place(struct output *o, size_t n)
{
	struct output_spill *s = &o->spill;

	if (s->next + n > s->cap) {
		while (o->spilled_n > 0 && block_at(o, 0)->file_pos >= s->next)
			output_drop_oldest(o);
		s->next = 0;
	}
	while (o->spilled_n > 0) {
		const struct output_block *b = block_at(o, 0);

		if (b->file_pos >= s->next + n || b->file_pos + b->used <= s->next)
			break;
		output_drop_oldest(o);
	}
}

static int spill_write(struct output *o, const struct output_block *b)
{
	struct output_spill *s = &o->spill;
	int r;

	if (b->used > s->cap)
		return -EMSGSIZE;
	spill_place(o, b->used);
	r = write_at(s->fd, b->data, b->used, s->next);
	/* A full disk: what the file has already becomes the ring. */
	if ((r == -ENOSPC || r == -EDQUOT || r == -EFBIG) && s->next >= b->used) {
		s->cap = s->next;
		spill_place(o, b->used);
		r = write_at(s->fd, b->data, b->used, s->next);
	}
	return r;
}

/* Moves the oldest block in memory to the file, or drops it with what is older. */
static void spill_oldest(struct output *o)
{
	struct output_block copy = *block_at(o, o->spilled_n);
	int r = spill_open(o) ? spill_write(o, &copy) : -EBADF;

	if (r < 0) {
		output_drop_through(o, copy.offset);
		if (r != -EMSGSIZE) {
			o->spill.broken = true;
			output_spill_close(o);
		}
		return;
	}
	/* The queue may have lost its head meanwhile, but this block is still the first one in memory. */
	struct output_block *b = block_at(o, o->spilled_n);

	b->data = NULL;
	b->file_pos = o->spill.next;
	o->spilled_n++;
	o->spill.next += b->used;
	o->spill.bytes += b->used;
	o->memory -= b->cap;
	free(copy.data);
}

/*
 * Memory within its bound. The newest block stays, so that a reader that keeps
 * up misses nothing; unless it alone is too much, and the file can take it.
 */
void output_balance(struct output *o)
{
	while (o->memory > o->limits.memory_max) {
		const struct output_block *b = block_at(o, o->spilled_n);

		if (o->n - o->spilled_n == 1 &&
		    (b->cap <= o->limits.memory_max || !spill_open(o) || b->used > o->spill.cap))
			break;
		spill_oldest(o);
	}
}

/* The block's bytes, from memory or through the scratch; NULL when the file cannot be read. */
const uint8_t *output_block_load(struct output *o, const struct output_block *b)
{
	if (b->data)
		return b->data;
	if (scratch.owner == o && scratch.offset == b->offset)
		return scratch.data;
	scratch.owner = NULL;
	if (scratch.cap < b->used || scratch.cap > MAX((size_t)b->used, OUTPUT_BLOCK_MAX)) {
		size_t cap = MAX((size_t)b->used, OUTPUT_BLOCK_MAX);

		free(scratch.data);
		scratch.data = malloc(cap);
		scratch.cap = scratch.data ? cap : 0;
		if (!scratch.data)
			return NULL;
	}
	if (read_at(o->spill.fd, scratch.data, b->used, b->file_pos) < 0)
		return NULL;
	scratch.owner = o;
	scratch.offset = b->offset;
	return scratch.data;
}
