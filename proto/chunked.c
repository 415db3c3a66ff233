/*
 * chunked.c - the decoder, one state a byte except in the content itself, which
 * is handed out where it lies.
 */
#include "proto/chunked.h"

#include "lib/scan.h"

#define CHUNK_DIGITS_MAX 15

static int size_byte(struct chunked *c, uint8_t b)
{
	int digit = scan_digit((char)b, 16);

	if (digit >= 0) {
		if (++c->digits > CHUNK_DIGITS_MAX)
			return -EINVAL;
		c->left = c->left << 4 | (uint64_t)digit;
		return 0;
	}
	if (c->digits == 0)
		return -EINVAL;
	if (b == '\r')
		c->state = CHUNKED_SIZE_LF;
	else if (b == ';')
		c->state = CHUNKED_EXTENSION;
	else if (b == ' ' || b == '\t')
		c->state = CHUNKED_SIZE_SPACE;
	else
		return -EINVAL;
	return 0;
}

/* Some pad the size; "5 5" may be one length here and another behind a proxy. */
static int space_byte(struct chunked *c, uint8_t b)
{
	if (++c->line > CHUNK_LINE_MAX)
		return -EINVAL;
	if (b == '\r')
		c->state = CHUNKED_SIZE_LF;
	else if (b == ';')
		c->state = CHUNKED_EXTENSION;
	else if (b != ' ' && b != '\t')
		return -EINVAL;
	return 0;
}

static int expect(struct chunked *c, uint8_t b, uint8_t wanted, enum chunked_state next)
{
	if (b != wanted)
		return -EINVAL;
	c->state = next;
	c->line = 0;
	return 0;
}

static int trailer_byte(struct chunked *c, uint8_t b)
{
	if (++c->line > CHUNK_TRAILER_MAX || b == '\n')
		return -EINVAL;
	if (b == '\r')
		c->state = CHUNKED_TRAILER_LF;
	else
		c->line_empty = false;
	return 0;
}

/* Any byte that is not content. */
static int framing_byte(struct chunked *c, uint8_t b)
{
	switch (c->state) {
	case CHUNKED_SIZE:
		return size_byte(c, b);
	case CHUNKED_SIZE_SPACE:
		return space_byte(c, b);
	case CHUNKED_EXTENSION:
		if (++c->line > CHUNK_LINE_MAX || b == '\n')
			return -EINVAL;
		if (b == '\r')
			c->state = CHUNKED_SIZE_LF;
		return 0;
	case CHUNKED_SIZE_LF:
		c->line_empty = true;
		return expect(c, b, '\n', c->left ? CHUNKED_DATA : CHUNKED_TRAILER);
	case CHUNKED_DATA_CR:
		return expect(c, b, '\r', CHUNKED_DATA_LF);
	case CHUNKED_DATA_LF:
		c->digits = 0;
		return expect(c, b, '\n', CHUNKED_SIZE);
	case CHUNKED_TRAILER:
		return trailer_byte(c, b);
	case CHUNKED_TRAILER_LF:
		if (b != '\n')
			return -EINVAL;
		c->state = c->line_empty ? CHUNKED_END : CHUNKED_TRAILER;
		c->line_empty = true;
		return 0;
	case CHUNKED_DATA:
	case CHUNKED_END:
		break;
	}
	return -EINVAL;
}

int chunked_next(struct chunked *c, const uint8_t *data, size_t n, size_t *used, const uint8_t **ret,
		 size_t *ret_n)
{
	size_t i = 0;
	int r = 0;

	*ret_n = 0;
	while (i < n && c->state != CHUNKED_END && r == 0) {
		if (c->state == CHUNKED_DATA) {
			*ret = data + i;
			*ret_n = c->left < n - i ? (size_t)c->left : n - i;
			i += *ret_n;
			c->left -= *ret_n;
			if (c->left == 0)
				c->state = CHUNKED_DATA_CR;
			break;
		}
		r = framing_byte(c, data[i++]);
	}
	*used = i;
	return r < 0 ? r : c->state == CHUNKED_END;
}
