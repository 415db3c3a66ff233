/*
 * frame.c - the codec of frames; no state, no descriptors.
 */
#include "execd/frame.h"

int frame_peek(const struct buf *in, struct frame *ret)
{
	const uint8_t *p = in->data;
	if (in->len < FRAME_HEADER)
		return 0;
	uint32_t n = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
	if (n > FRAME_MAX)
		return -EMSGSIZE;
	if (in->len - FRAME_HEADER < n)
		return 0;
	*ret = (struct frame){.kind = (char)p[4], .data = p + FRAME_HEADER, .len = n};
	return 1;
}

void frame_consume(struct buf *in, const struct frame *f)
{
	buf_consume(in, FRAME_HEADER + f->len);
}

int frame_append(struct buf *out, char kind, const void *data, size_t n)
{
	if (n > FRAME_MAX)
		return -EMSGSIZE;
	const uint8_t head[FRAME_HEADER] = {(uint8_t)(n >> 24), (uint8_t)(n >> 16), (uint8_t)(n >> 8),
					    (uint8_t)n, (uint8_t)kind};
	int r = buf_reserve(out, FRAME_HEADER + n);
	if (r < 0)
		return r;
	(void)buf_append(out, head, sizeof(head));
	return n > 0 ? buf_append(out, data, n) : 0;
}
