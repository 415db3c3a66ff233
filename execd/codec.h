/*
 * codec.h - compression as a stream: gzip (RFC 1952), Zstandard (RFC 8878), or nothing.
 */
#pragma once

#include <stdbool.h>

#include "lib/buf.h"
#include "lib/err.h"

/* Memory that a Zstandard frame may ask for is two to this power: what RFC 8878 (3.1.1.1.2) wants of every
 * decoder. */
#define CODEC_WINDOW_LOG_MAX 23

enum codec { CODEC_NONE, CODEC_GZIP, CODEC_ZSTD };

struct codec_out;
int codec_out_new(enum codec codec, struct codec_out **ret);
void codec_out_free(struct codec_out *c);
/* Appends what n bytes become; last: and the end. -ENOMEM. */
int codec_out_push(struct codec_out *c, const void *data, size_t n, bool last, struct buf *out);

/* What comes out: any number of pieces. */
typedef int codec_sink_fn(void *arg, const void *data, size_t n, struct err *err);

/* Recognizes the compression by the first bytes. */
struct codec_in;
int codec_in_new(codec_sink_fn *sink, void *arg, struct codec_in **ret);
void codec_in_free(struct codec_in *c);
/* -EINVAL for broken data, -E2BIG for a window over the limit, or -errno of the sink. */
int codec_in_push(struct codec_in *c, const void *data, size_t n, struct err *err);
/* -EINVAL when it breaks off. */
int codec_in_finish(struct codec_in *c, struct err *err);
