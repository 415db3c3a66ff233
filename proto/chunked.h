/*
 * chunked.h - decoder of the chunked transfer coding (RFC 9112 section 7.1).
 */
#pragma once

#include <stdbool.h>

#include "lib/util.h"

#define CHUNK_LINE_MAX	  1024 /* bytes of one size line with its extensions */
#define CHUNK_TRAILER_MAX 8192 /* bytes of all trailer fields, which are ignored */

enum chunked_state {
	CHUNKED_SIZE,
	CHUNKED_SIZE_SPACE,
	CHUNKED_EXTENSION,
	CHUNKED_SIZE_LF,
	CHUNKED_DATA,
	CHUNKED_DATA_CR,
	CHUNKED_DATA_LF,
	CHUNKED_TRAILER,
	CHUNKED_TRAILER_LF,
	CHUNKED_END,
};

/* Zeroed at the start. */
struct chunked {
	enum chunked_state state;
	uint64_t left; /* of the chunk at hand */
	size_t line;   /* bytes of the line, or of the trailer, so far */
	unsigned digits;
	bool line_empty; /* of the trailer */
};

/* Whether what was consumed ends before the first digit of a size, which may be led by any number of zeros.
 */
static inline bool chunked_between(const struct chunked *c)
{
	return c->state == CHUNKED_SIZE && c->digits == 0;
}

/*
 * Consumes from data[0..n) up to and including the next run of content, the end
 * of the body, or all of it. *used is what was consumed; *ret_n > 0 bytes of
 * content are at *ret. Returns 1 at the end of the body (bytes behind it are not
 * consumed), 0 when there is more to come, -EINVAL when this is no chunked body.
 */
int chunked_next(struct chunked *c, const uint8_t *data, size_t n, size_t *used, const uint8_t **ret,
		 size_t *ret_n);
