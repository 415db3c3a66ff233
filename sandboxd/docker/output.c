/*
 * output.c - the multiplexed stream in which the daemon sends a container's output.
 *
 * Frames of 8 bytes of head (stream, 0, 0, 0, length in network order) and the
 * bytes. Source: Docker Engine API, "Attach to a container", stream format.
 */
#include <arpa/inet.h>
#include <string.h>

#include "sandboxd/docker/box.h"

#define HEAD 8

int output_demux(struct buf *in, struct buf *out)
{
	size_t at = 0;
	int r = 0;

	while (r == 0 && in->len - at >= HEAD) {
		uint32_t n;
		memcpy(&n, in->data + at + 4, sizeof(n));
		n = ntohl(n);
		if (in->data[at] > 3 || in->data[at + 1] || n > ENGINE_BODY_MAX / 2)
			r = -EBADMSG;
		else if (in->len - at - HEAD < n)
			break;
		else if (buf_append(out, in->data + at + HEAD, MIN((size_t)n, out->max - out->len)) == 0)
			at += HEAD + n;
		else
			r = -ENOMEM;
	}
	buf_consume(in, at);
	return r;
}
