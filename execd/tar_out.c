/*
 * tar_out.c - a tar archive that is written piece by piece, compressed.
 *
 * Owns the compressor and the file at hand. No threads of its own.
 */
#include "execd/tar_out.h"

#include <string.h>
#include <unistd.h>

#include "lib/util.h"

#define READ_SIZE (64U << 10)

int tar_out_init(struct tar_out *t, enum codec codec)
{
	*t = (struct tar_out){.fd = -EBADF, .scratch = BUF_INIT(TAR_HEADER_MAX + READ_SIZE)};
	return codec_out_new(codec, &t->codec);
}

void tar_out_done(struct tar_out *t)
{
	fd_close(&t->fd);
	codec_out_free(t->codec);
	buf_done(&t->scratch);
}

int tar_out_entry(struct tar_out *t, const struct tar_entry *e, int *fd, struct buf *out)
{
	buf_clear(&t->scratch);
	int r = tar_header(&t->scratch, e);
	if (r >= 0)
		r = codec_out_push(t->codec, t->scratch.data, t->scratch.len, false, out);
	if (r >= 0 && e->type == TAR_FILE && *fd >= 0) {
		t->fd = TAKE_FD(*fd);
		t->left = e->size;
		t->padding = tar_padding(e->size);
	}
	return r;
}

/* Shorter than it was: the size is promised. */
static ssize_t read_or_fill(struct tar_out *t, size_t want)
{
	ssize_t n;

	do
		n = read(t->fd, t->scratch.data, want);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	if (n > 0 || want == 0)
		return n;
	memset(t->scratch.data, 0, want);
	return (ssize_t)want;
}

int tar_out_content(struct tar_out *t, struct buf *out, size_t *done)
{
	buf_clear(&t->scratch);
	if (buf_reserve(&t->scratch, READ_SIZE + TAR_BLOCK) < 0)
		return -ENOMEM;
	ssize_t n = read_or_fill(t, (size_t)MIN(t->left, (uint64_t)READ_SIZE));
	if (n < 0)
		return (int)n;
	t->left -= (uint64_t)n;
	*done += (size_t)n;
	if (t->left == 0) {
		memset(t->scratch.data + n, 0, t->padding);
		n += (ssize_t)t->padding;
		fd_close(&t->fd);
	}
	return codec_out_push(t->codec, t->scratch.data, (size_t)n, false, out);
}

int tar_out_end(struct tar_out *t, struct buf *out)
{
	buf_clear(&t->scratch);
	int r = tar_trailer(&t->scratch);
	return r < 0 ? r : codec_out_push(t->codec, t->scratch.data, t->scratch.len, true, out);
}
