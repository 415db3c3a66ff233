/*
 * frame.h - frames of the kernel protocol (proto/kernel-protocol.md).
 *
 *   4 bytes  length of the payload, big-endian, at most FRAME_MAX
 *   1 byte   kind
 *   payload
 */
#pragma once

#include "lib/buf.h"

#define FRAME_HEADER 5
#define FRAME_MAX    (64U << 20) /* bytes of a payload */

enum frame_kind {
	/* to a kernel */
	FRAME_EXECUTE = 'X',
	FRAME_FORK = 'F',
	FRAME_SYNCED = 'Y',
	FRAME_BEGIN = 'C',
	FRAME_INTERRUPT = 'I',
	/* from a kernel */
	FRAME_HELLO = 'H',
	FRAME_STARTED = 'S',
	FRAME_RESULT = 'R',
	FRAME_END = 'E',
	FRAME_FORKED = 'K',
	FRAME_SYNC = 'Y',
	FRAME_INTERRUPTED = 'I',
};

struct frame {
	char kind;
	const uint8_t *data; /* borrowed from the buffer until frame_consume() */
	size_t len;
};

/* 1: *ret is the frame at the front of in; 0: it is not all there yet; -EMSGSIZE: it says it is too long. */
int frame_peek(const struct buf *in, struct frame *ret);
void frame_consume(struct buf *in, const struct frame *f);
/* -EMSGSIZE over FRAME_MAX, -ENOBUFS or -ENOMEM as buf_append(); out is unchanged then. */
int frame_append(struct buf *out, char kind, const void *data, size_t n);
