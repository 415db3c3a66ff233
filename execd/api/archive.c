/*
 * archive.c - GET and POST /directories/archive: a tree as a tar stream, down and up.
 */
#include "execd/archive.h"

#include <string.h>

#include "execd/api/flow.h"
#include "execd/api/query.h"
#include "execd/path.h"

/* The path of the query, canonical. */
static int archive_path(struct http_req *req, char **ret, struct err *err)
{
	const char *given;
	int r = query_need(req, "path", &given, err);

	return r < 0 ? r : path_canonical(given, ret, err);
}

/* ---- down ------------------------------------------------------------------- */

static int out_next(void *state, unsigned lane, struct buf *out, struct err *err)
{
	(void)lane;
	return archive_out_next(state, out, err);
}

static void out_cancel(void *state)
{
	archive_out_cancel(state);
}

static void out_free(void *state)
{
	archive_out_free(state);
}

#define OUT_OPS(type)                                                                                        \
	{                                                                                                    \
		.content_type = (type), .next = out_next, .cancel = out_cancel, .free = out_free             \
	}
static const struct flow_out_ops out_ops[] = {
	[CODEC_NONE] = OUT_OPS("application/x-tar"),
	[CODEC_GZIP] = OUT_OPS("application/gzip"),
	[CODEC_ZSTD] = OUT_OPS("application/zstd"),
};

static int parse_format(const char *text, enum codec *ret, struct err *err)
{
	if (!text || !text[0] || strcmp(text, "tar") == 0)
		*ret = CODEC_NONE;
	else if (strcmp(text, "tar.gz") == 0 || strcmp(text, "tgz") == 0)
		*ret = CODEC_GZIP;
	else if (strcmp(text, "tar.zst") == 0 || strcmp(text, "tzst") == 0)
		*ret = CODEC_ZSTD;
	else
		return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL,
			       "query parameter 'format' is '%s' and not tar, tar.gz or tar.zst", text);
	return 0;
}

int directories_archive_get(struct http_req *req, struct err *err)
{
	_cleanup_free_ char *path = NULL;
	struct archive_out *archive;
	enum codec codec;
	int r = archive_path(req, &path, err);

	if (r >= 0)
		r = parse_format(http_query(req, "format"), &codec, err);
	if (r >= 0)
		r = archive_out_new(path, codec, &archive, err);
	if (r < 0)
		return r;
	return flow_out(req, &out_ops[codec], 1, archive, err);
}

/* ---- up --------------------------------------------------------------------- */

static int in_feed(void *state, const void *data, size_t n, struct err *err)
{
	return archive_in_feed(state, data, n, err);
}

static int in_end(void *state, struct buf *out, struct err *err)
{
	return archive_in_end(state, out, err);
}

static void in_cancel(void *state)
{
	archive_in_cancel(state);
}

static void in_free(void *state)
{
	archive_in_free(state);
}

int directories_archive_post(struct http_req *req, struct err *err)
{
	static const struct flow_in_ops ops = {in_feed, in_end, in_cancel, in_free};
	struct archive_in_options options = {
		.owner = geteuid() == 0, .overwrite = true, .bytes_max = ARCHIVE_BYTES_MAX};
	_cleanup_free_ char *path = NULL;
	struct archive_in *archive;
	enum codec codec; /* only checked: the bytes themselves tell */
	int r = archive_path(req, &path, err);

	if (r >= 0)
		r = parse_format(http_query(req, "format"), &codec, err);
	if (r >= 0)
		r = query_bool(req, "owner", &options.owner, err);
	if (r >= 0)
		r = query_bool(req, "overwrite", &options.overwrite, err);
	if (r >= 0)
		r = query_uint(req, "max_bytes", 0, ARCHIVE_BYTES_MAX, &options.bytes_max, err);
	if (r >= 0)
		r = archive_in_new(path, &options, &archive, err);
	return r < 0 ? r : flow_in(req, &ops, archive, err);
}
