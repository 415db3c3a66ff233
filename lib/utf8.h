/*
 * utf8.h - bytes of unknown origin to valid UTF-8 (RFC 3629).
 *
 * Each maximal ill-formed subsequence becomes one U+FFFD (Unicode chapter 3,
 * "substitution of maximal subparts").
 */
#pragma once

#include <stdbool.h>

#include "lib/buf.h"

bool utf8_valid(const void *data, size_t n);
/* The length of what begins at data (n > 0): a valid sequence, or the maximal subpart that is none. */
size_t utf8_step(const void *data, size_t n, bool *ret_valid);
/*
 * How many trailing bytes of data are the beginning of a sequence that more
 * bytes could still complete (0 to 3).
 */
size_t utf8_incomplete_tail(const void *data, size_t n);
/*
 * Appends data as valid UTF-8 to out, all or nothing. Of a text that comes in pieces, keep what
 * utf8_incomplete_tail() says for the next piece.
 */
int utf8_sanitize(struct buf *out, const void *data, size_t n);
