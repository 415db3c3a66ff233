/*
 * multipart.h - streaming multipart/form-data parser (RFC 7578, RFC 2046 section 5.1).
 *
 * Bytes go in as they arrive, parts come out in order; memory is bounded by the
 * header limit, whatever the size of a part.
 */
#pragma once

#include <stdbool.h>

#include "lib/err.h"

#define MULTIPART_HEADER_MAX 8192 /* bytes of one part's headers */

struct multipart;

struct multipart_part {
	const char *name;	  /* never NULL */
	const char *filename;	  /* NULL when the part is not a file */
	const char *content_type; /* NULL when not given */
};

struct multipart_events {
	int (*begin)(void *arg, const struct multipart_part *part, struct err *err);
	int (*data)(void *arg, const void *data, size_t n, struct err *err);
	int (*end)(void *arg, struct err *err);
};

/* content_type: the request's header value. -EINVAL when it is not multipart/form-data with a boundary. */
int multipart_new(const char *content_type, const struct multipart_events *events, void *arg,
		  struct multipart **ret, struct err *err);
void multipart_free(struct multipart *m);
/* -errno of a callback, or -EINVAL for a malformed body. */
int multipart_feed(struct multipart *m, const void *data, size_t n, struct err *err);
/* The body has ended: -EINVAL when the closing boundary has not been seen. */
int multipart_finish(struct multipart *m, struct err *err);
