/*
 * buf.c - the growable buffer. One owner at a time, no locks.
 *
 * One byte more than cap is always allocated, so that a terminating NUL (of
 * vsnprintf or buf_cstr) has a place also in a buffer that is full to its max.
 */
#include "lib/buf.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#define BUF_FIRST_CAP 256

void buf_done(struct buf *b)
{
	free(b->data);
	*b = BUF_INIT(b->max);
}

static int buf_fail(struct buf *b, int r)
{
	b->failed = true;
	return r;
}

int buf_reserve(struct buf *b, size_t n)
{
	size_t need, cap;
	uint8_t *p;

	if (b->data && n <= b->cap - b->len)
		return 0;
	if (b->len > b->max || n > b->max - b->len)
		return buf_fail(b, -ENOBUFS);
	need = b->len + n;

	cap = b->cap > SIZE_MAX / 2 ? b->max : b->cap * 2;
	cap = MIN(MAX(cap, (size_t)BUF_FIRST_CAP), b->max);
	if (cap < need)
		cap = need;
	if (cap == SIZE_MAX)
		return buf_fail(b, -ENOMEM);
	p = realloc(b->data, cap + 1);
	if (!p)
		return buf_fail(b, -ENOMEM);
	b->data = p;
	b->cap = cap;
	return 0;
}

int buf_append(struct buf *b, const void *data, size_t n)
{
	int r;

	if (n == 0)
		return 0;
	r = buf_reserve(b, n);
	if (r < 0)
		return r;
	memcpy(buf_tail(b), data, n);
	b->len += n;
	return 0;
}

int buf_puts(struct buf *b, const char *s)
{
	return buf_append(b, s, strlen(s));
}

int buf_putc(struct buf *b, char c)
{
	return buf_append(b, &c, 1);
}

int buf_printf(struct buf *b, const char *fmt, ...)
{
	va_list ap;
	int n, r;

	r = buf_reserve(b, 0);
	if (r < 0)
		return r;
	va_start(ap, fmt);
	n = vsnprintf((char *)buf_tail(b), b->cap - b->len + 1, fmt, ap);
	va_end(ap);
	if (n < 0)
		return buf_fail(b, -EINVAL);
	if ((size_t)n > b->cap - b->len) {
		r = buf_reserve(b, (size_t)n);
		if (r < 0)
			return r;
		va_start(ap, fmt);
		(void)vsnprintf((char *)buf_tail(b), (size_t)n + 1, fmt, ap);
		va_end(ap);
	}
	b->len += (size_t)n;
	return 0;
}

void buf_consume(struct buf *b, size_t n)
{
	assert(n <= b->len);
	if (n > 0 && n < b->len)
		memmove(b->data, b->data + n, b->len - n);
	b->len -= n;
}

const char *buf_cstr(struct buf *b)
{
	if (buf_reserve(b, 0) < 0)
		return NULL;
	b->data[b->len] = '\0';
	return (const char *)b->data;
}
