/*
 * codec.c - zlib and zstd behind two small interfaces. No threads, no state beyond the objects.
 */
#include "execd/codec.h"

#include <string.h>
#define ZLIB_CONST
#include <zlib.h>
#define ZSTD_STATIC_LINKING_ONLY
#include <zstd.h>
#include <zstd_errors.h>

#define GZIP_LEVEL 3	     /* half the time of the usual 6 for a few percent more bytes */
#define ZSTD_LEVEL 1	     /* the only strategy that is linked in (tools/deps.sh) */
#define GZIP_BITS  (15 + 16) /* the largest window, gzip's framing */
#define PIECE	   (64U << 10)
#define MAGIC_MAX  4

struct codec_out {
	enum codec codec;
	z_stream z;
	ZSTD_CCtx *zstd;
};

int codec_out_new(enum codec codec, struct codec_out **ret)
{
	struct codec_out *c = calloc(1, sizeof(*c));
	bool made = c != NULL;

	if (!c)
		return -ENOMEM;
	if (codec == CODEC_GZIP) {
		made = deflateInit2(&c->z, GZIP_LEVEL, Z_DEFLATED, GZIP_BITS, 8, Z_DEFAULT_STRATEGY) == Z_OK;
	} else if (codec == CODEC_ZSTD) {
		c->zstd = ZSTD_createCCtx();
		made = c->zstd &&
		       !ZSTD_isError(ZSTD_CCtx_setParameter(c->zstd, ZSTD_c_compressionLevel, ZSTD_LEVEL)) &&
		       !ZSTD_isError(ZSTD_CCtx_setParameter(c->zstd, ZSTD_c_checksumFlag, 1));
	}
	if (made)
		c->codec = codec;
	else
		codec_out_free(TAKE_PTR(c));
	*ret = c;
	return made ? 0 : -ENOMEM;
}

void codec_out_free(struct codec_out *c)
{
	if (c && c->codec == CODEC_GZIP)
		(void)deflateEnd(&c->z);
	if (c)
		(void)ZSTD_freeCCtx(c->zstd);
	free(c);
}

static int gzip(struct codec_out *c, const void *data, size_t n, bool last, struct buf *out)
{
	int r;

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

static int zstd(struct codec_out *c, const void *data, size_t n, bool last, struct buf *out)
{
	ZSTD_inBuffer in = {data, n, 0};
	size_t left;

	do {
		ZSTD_outBuffer piece;

		if (buf_reserve(out, PIECE) < 0)
			return -ENOMEM;
		piece = (ZSTD_outBuffer){buf_tail(out), PIECE, 0};
		left = ZSTD_compressStream2(c->zstd, &piece, &in, last ? ZSTD_e_end : ZSTD_e_continue);
		if (ZSTD_isError(left))
			return -ENOMEM;
		out->len += piece.pos;
	} while (last ? left > 0 : in.pos < in.size);
	return 0;
}

int codec_out_push(struct codec_out *c, const void *data, size_t n, bool last, struct buf *out)
{
	switch (c->codec) {
	case CODEC_GZIP:
		return gzip(c, data, n, last, out);
	case CODEC_ZSTD:
		return zstd(c, data, n, last, out);
	default:
		return buf_append(out, data, n);
	}
}

/* ---- in --------------------------------------------------------------------- */

struct codec_in {
	codec_sink_fn *sink;
	void *arg;
	enum codec codec; /* once recognized */
	bool recognized;
	uint8_t magic[MAGIC_MAX];
	size_t have;
	z_stream z;
	ZSTD_DCtx *zstd;
	bool ended;   /* a member of the gzip file or a frame is complete */
	bool padding; /* the rest of the gzip file is none */
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
	if (c && c->codec == CODEC_GZIP)
		(void)inflateEnd(&c->z);
	if (c)
		(void)ZSTD_freeDCtx(c->zstd);
	free(c);
}

static int broken(const struct codec_in *c, struct err *err, const char *what)
{
	return err_set(err, ERR_INVALID, "INVALID_FILE_CONTENT", EINVAL, "the %s data is broken: %s",
		       c->codec == CODEC_ZSTD ? "Zstandard" : "gzip", what);
}

static int gunzip(struct codec_in *c, const uint8_t *data, size_t n, struct err *err)
{
	int r = 0;

	c->z.next_in = data;
	c->z.avail_in = (unsigned)n;
	while (r >= 0 && (c->z.avail_in > 0 || c->z.avail_out == 0)) {
		int z;

		if (c->ended) {
			/* Files put one behind the other are one file; what else follows is padding, as
			 * gzip(1) has it. */
			if (c->z.avail_in > 0 && *c->z.next_in != 0x1f)
				c->padding = true;
			if (c->z.avail_in == 0 || c->padding)
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
			return broken(c, err, c->z.msg ? c->z.msg : "no gzip");
		c->ended = z == Z_STREAM_END;
		if (c->z.avail_out < PIECE)
			r = c->sink(c->arg, c->piece, PIECE - c->z.avail_out, err);
		if (z == Z_BUF_ERROR)
			break;
	}
	return r;
}

static int unzstd_err(const struct codec_in *c, size_t code, struct err *err)
{
	switch (ZSTD_getErrorCode(code)) {
	case ZSTD_error_memory_allocation:
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "decompress");
	case ZSTD_error_frameParameter_windowTooLarge:
		return err_set(
			err, ERR_TOO_LARGE, "INVALID_FILE_CONTENT", E2BIG,
			"the Zstandard data needs a window over the limit of %u MiB; compress it without "
			"--long, at level 19 or less",
			1U << (CODEC_WINDOW_LOG_MAX - 20));
	case ZSTD_error_checksum_wrong:
		return broken(c, err, "its checksum is wrong");
	default:
		return broken(c, err, "no frame that makes sense");
	}
}

/* Frames put one behind the other are one file. */
static int unzstd(struct codec_in *c, const uint8_t *data, size_t n, struct err *err)
{
	ZSTD_inBuffer in = {data, n, 0};
	ZSTD_outBuffer out;
	int r = 0;

	do {
		size_t left, before = in.pos;

		out = (ZSTD_outBuffer){c->piece, PIECE, 0};
		left = ZSTD_decompressStream(c->zstd, &out, &in);
		if (ZSTD_isError(left))
			return unzstd_err(c, left, err);
		if (in.pos > before || out.pos > 0) /* else it asks for the next frame's beginning */
			c->ended = left == 0;
		if (out.pos > 0)
			r = c->sink(c->arg, c->piece, out.pos, err);
	} while (r >= 0 && (in.pos < in.size || out.pos == out.size));
	return r;
}

static int decode(struct codec_in *c, const uint8_t *data, size_t n, struct err *err)
{
	if (n == 0)
		return 0;
	switch (c->codec) {
	case CODEC_GZIP:
		return gunzip(c, data, n, err);
	case CODEC_ZSTD:
		return unzstd(c, data, n, err);
	default:
		return c->sink(c->arg, data, n, err);
	}
}

static int gunzip_begin(struct codec_in *c, struct err *err)
{
	if (inflateInit2(&c->z, GZIP_BITS) != Z_OK)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "decompress");
	c->codec = CODEC_GZIP;
	c->z.avail_out = PIECE;
	return 0;
}

static int unzstd_begin(struct codec_in *c, struct err *err)
{
	c->zstd = ZSTD_createDCtx();
	if (!c->zstd ||
	    ZSTD_isError(ZSTD_DCtx_setParameter(c->zstd, ZSTD_d_windowLogMax, CODEC_WINDOW_LOG_MAX)))
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "decompress");
	c->codec = CODEC_ZSTD;
	return 0;
}

/* The first bytes are here, or all there are. */
static int recognize(struct codec_in *c, struct err *err)
{
	int r = 0;

	c->recognized = true;
	if (c->have >= 2 && memcmp(c->magic, "\x1f\x8b", 2) == 0)
		r = gunzip_begin(c, err);
	else if (c->have == MAGIC_MAX &&
		 (memcmp(c->magic, "\x28\xb5\x2f\xfd", MAGIC_MAX) == 0 ||
		  /* a frame to skip, with which some writers begin */
		  ((c->magic[0] & 0xf0) == 0x50 && memcmp(c->magic + 1, "\x2a\x4d\x18", 3) == 0)))
		r = unzstd_begin(c, err);
	return r < 0 ? r : decode(c, c->magic, c->have, err);
}

int codec_in_push(struct codec_in *c, const void *data, size_t n, struct err *err)
{
	const uint8_t *p = data;
	int r = 0;

	while (!c->recognized && n > 0) {
		c->magic[c->have++] = *p++;
		n--;
		if (c->have == MAGIC_MAX)
			r = recognize(c, err);
		if (r < 0)
			return r;
	}
	return decode(c, p, n, err);
}

int codec_in_finish(struct codec_in *c, struct err *err)
{
	int r = c->recognized ? 0 : recognize(c, err);

	if (r >= 0 && c->codec != CODEC_NONE && !c->ended)
		return broken(c, err, "it breaks off");
	return r;
}
