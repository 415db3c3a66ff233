/*
 * query.h - percent-decoding (RFC 3986 section 2.1) and query strings (WHATWG urlencoded).
 */
#pragma once

#include <stdbool.h>

#include "lib/util.h"

/*
 * Decodes n bytes of in to out, which has room for n + 1 bytes, adds a NUL and
 * returns the length. plus: a '+' is a space (in a query, never in a path).
 * -EINVAL for an incomplete escape and for %00. in and out may be the same.
 */
ssize_t url_decode(char *out, const char *in, size_t n, bool plus);

/*
 * "a=1&b&a=2" decoded once into "a\0" "1\0" "b\0" "\0" "a\0" "2\0". out has room
 * for QUERY_ROOM(strlen(query)); returns the bytes used, or -EINVAL.
 */
#define QUERY_ROOM(n) (2 * (n) + 2)
ssize_t query_decode(char *out, const char *query);

/* The values of name in a decoded query, in order: stores up to max, returns how many there are. */
size_t query_get(const char *decoded, size_t n, const char *name, const char **ret, size_t max);
