/*
 * base64.h - bytes as text and back (RFC 4648, the alphabet with + and /, padded).
 */
#pragma once

#include "lib/buf.h"

int base64_encode(struct buf *out, const void *data, size_t n);
/* Strict: no other characters, no line breaks, the padding as it should be. -EINVAL; -errno of out. */
int base64_decode(struct buf *out, const char *text, size_t n);
