/*
 * codec.c - zlib behind two small interfaces. No threads, no state beyond the objects.
 */
#include "execd/codec.h"

#include <string.h>
#define ZLIB_CONST
#include <zlib.h>

#define LEVEL	  3	    /* half the time of the usual 6 for a few percent more bytes */
#define GZIP_BITS (15 + 16) /* the largest window, gzip's framing */
#define PIECE	  (64U << 10)
#define MAGIC_MAX 4

struct codec_out {
	bool active; /* gzip */
	z_stream z;
};

int codec_out_new(enum codec codec, struct codec_out **ret)
{
	struct codec_out *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	c->active = codec == CODEC_GZIP;
	if (c->active && deflateInit2(&c->z, LEVEL, Z_DEFLATED, GZIP_BITS, 8, Z_DEFAULT_STRATEGY) != Z_OK) {
		free(c);
		return -ENOMEM;
	}
	*ret = c;
	return 0;
}

void codec_out_free(struct codec_out *c)
{
	if (c && c->active)
		(void)deflateEnd(&c->z);
	free(c);
}

int codec_out_push(struct codec_out *c, const void *data, size_t n, bool last, struct buf *out)
{
	int r;

	if (!c->active)
		return buf_append(out, data, n);
	c->z.next_in = data;
	c->z.avail_in = (unsigned)n;
	do {
		if (buf_reserve(out, PIECE) < 0)
			return -ENOMEM;
		c->z.next_out = buf_tail(out);
		c->z.avail_out = PIECE;
		r = deflate(&c->z, last ? Z_FINISH : Z_NO_FLUSH);
		if (r == Z_STREAM_ERROR)
			return -EINVAL;
		out->len += PIECE - c->z.avail_out;
	} while (c->z.avail_out == 0 || (last && r != Z_STREAM_END));
	return 0;
}

/* ---- in --------------------------------------------------------------------- */

enum in_state { IN_MAGIC, IN_PLAIN, IN_GZIP };

struct codec_in {
	codec_sink_fn *sink;
	void *arg;
	enum in_state state;
	uint8_t magic[MAGIC_MAX];
	size_t have;
	z_stream z;
	bool open;  /* z is */
	bool ended; /* a member of the gzip file is complete */
	uint8_t piece[PIECE];
};

int codec_in_new(codec_sink_fn *sink, void *arg, struct codec_in **ret)
{
	struct codec_in *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	c->sink = sink;
	c->arg = arg;
	*ret = c;
	return 0;
}

void codec_in_free(struct codec_in *c)
{
	if (c && c->open)
		(void)inflateEnd(&c->z);
	free(c);
}

static int broken(struct err *err, const char *what)
{
	return err_set(err, ERR_INVALID, "INVALID_FILE_CONTENT", EINVAL, "the gzip data is broken: %s", what);
}

static int gunzip(struct codec_in *c, const uint8_t *data, size_t n, struct err *err)
{
	int r = 0;

	c->z.next_in = data;
	c->z.avail_in = (unsigned)n;
	while (r >= 0 && (c->z.avail_in > 0 || c->z.avail_out == 0)) {
		int z;

		if (c->ended) {
			/* Files put one behind the other are one file; zeros are a tape's padding. */
			if (c->z.avail_in > 0 && *c->z.next_in != 0x1f)
				return 0;
			if (c->z.avail_in == 0)
				return 0;
			(void)inflateReset(&c->z);
			c->ended = false;
		}
		c->z.next_out = c->piece;
		c->z.avail_out = PIECE;
		z = inflate(&c->z, Z_NO_FLUSH);
		if (z == Z_MEM_ERROR)
			return err_sys(err, "RUNTIME_ERROR", ENOMEM, "decompress");
		if (z != Z_OK && z != Z_STREAM_END && z != Z_BUF_ERROR)
			return broken(err, c->z.msg ? c->z.msg : "no gzip");
		c->ended = z == Z_STREAM_END;
		if (c->z.avail_out < PIECE)
			r = c->sink(c->arg, c->piece, PIECE - c->z.avail_out, err);
		if (z == Z_BUF_ERROR)
			break;
	}
	return r;
}

static int plain_or_gzip(struct codec_in *c, const uint8_t *data, size_t n, struct err *err)
{
	if (n == 0)
		return 0;
	return c->state == IN_PLAIN ? c->sink(c->arg, data, n, err) : gunzip(c, data, n, err);
}

/* The first bytes are here, or all there are. */
static int recognize(struct codec_in *c, struct err *err)
{
	if (c->have >= 4 && memcmp(c->magic, "\x28\xb5\x2f\xfd", 4) == 0)
		return err_set(err, ERR_NOT_SUPPORTED, "INVALID_FILE_CONTENT", ENOTSUP,
			       "the data is compressed with Zstandard, which this build cannot read; use "
			       "gzip or none");
	c->state = c->have >= 2 && memcmp(c->magic, "\x1f\x8b", 2) == 0 ? IN_GZIP : IN_PLAIN;
	if (c->state == IN_GZIP) {
		if (inflateInit2(&c->z, GZIP_BITS) != Z_OK)
			return err_sys(err, "RUNTIME_ERROR", ENOMEM, "decompress");
		c->open = true;
		c->z.avail_out = PIECE;
	}
	return plain_or_gzip(c, c->magic, c->have, err);
}

int codec_in_push(struct codec_in *c, const void *data, size_t n, struct err *err)
{
	const uint8_t *p = data;
	int r = 0;

	while (c->state == IN_MAGIC && n > 0) {
		c->magic[c->have++] = *p++;
		n--;
		if (c->have == MAGIC_MAX)
			r = recognize(c, err);
		if (r < 0)
			return r;
	}
	return n > 0 ? plain_or_gzip(c, p, n, err) : r;
}

int codec_in_finish(struct codec_in *c, struct err *err)
{
	int r = c->state == IN_MAGIC ? recognize(c, err) : 0;

	if (r >= 0 && c->state == IN_GZIP && !c->ended)
		return broken(err, "it breaks off");
	return r;
}
