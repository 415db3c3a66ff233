/*
 * buf.h - a growable byte buffer with a hard maximum.
 *
 * The live bytes are data[0..len). Growth doubles, never past max; an append
 * that does not fit fails with -ENOBUFS (over max) or -ENOMEM and changes
 * nothing. After a failed append or buf_reserve `failed` stays set until
 * buf_clear or buf_done, so that a chain of appends is checked once at its end.
 */
#pragma once

#include <stdarg.h>
#include <stdbool.h>

#include "lib/util.h"

struct buf {
	uint8_t *data;
	size_t len, cap, max;
	bool failed;
};

#define BUF_INIT(limit) ((struct buf){.max = (limit)})

/* buf_done releases the bytes; the buffer may be used again afterwards. */
void buf_done(struct buf *b);
#define _cleanup_buf_ _cleanup_(buf_done)

/* Makes room for n more bytes: buf_tail() then points at n writable bytes. */
int buf_reserve(struct buf *b, size_t n);
static inline uint8_t *buf_tail(struct buf *b)
{
	return b->data + b->len;
}

int buf_append(struct buf *b, const void *data, size_t n);
int buf_puts(struct buf *b, const char *s);
int buf_putc(struct buf *b, char c);
int buf_printf(struct buf *b, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Drops the first n bytes; n <= len. */
void buf_consume(struct buf *b, size_t n);
static inline void buf_clear(struct buf *b)
{
	b->len = 0;
	b->failed = false;
}

/* Appends a NUL that len does not count and returns the bytes as a string, or NULL without room. */
const char *buf_cstr(struct buf *b);
