/*
 * headers.h - the head of a request: request line and header fields, parsed in place.
 *
 * Sources: RFC 9112 (sections 2 to 6), RFC 9110 (sections 5 and 10.1.1). The
 * parser is strict where leniency is how requests get smuggled: lines end with
 * CRLF, no folding, no space before a colon, one unambiguous length.
 */
#pragma once

#include <stdbool.h>

#include "lib/util.h"

#define HEAD_FIELDS_MAX 100

struct head_field {
	const char *name, *value;
};

struct head {
	const char *method;
	char *target; /* as sent, without scheme and authority: "/path?query", or "*" */
	const char *host;
	unsigned minor; /* of HTTP/1.x */
	struct head_field fields[HEAD_FIELDS_MAX];
	size_t fields_n;
	int64_t length; /* Content-Length, -1 without one */
	bool chunked;	/* Transfer-Encoding: chunked */
	bool keep_alive;
	bool expect_continue;
};

/*
 * Size of the head with its empty line, 0 when it is not complete yet, -EINVAL
 * when it can not become one (a line that ends in a bare LF). *scanned is how
 * far earlier calls have looked; 0 at the start.
 */
ssize_t head_find(const uint8_t *data, size_t n, size_t *scanned);

/*
 * Parses the n bytes of one head, which are changed and must outlive *head.
 * Returns 0, or the status to refuse the request with, and why. The fields
 * that decide on the reply (minor, keep_alive, method) are valid either way.
 */
unsigned head_parse(char *text, size_t n, struct head *head, const char **ret_why);

/* RFC 9110 section 5.6.2: what may be the name of a field. */
bool is_token(const char *s, size_t n);
/* The first field of that name, in any case, or NULL. */
const char *head_get(const struct head *head, const char *name);
