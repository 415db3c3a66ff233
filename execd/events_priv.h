/*
 * events_priv.h - what events.c (a position in a log) and events_control.c (the events of a run's life)
 * share.
 */
#pragma once

#include <string.h>

#include "execd/events.h"
#include "proto/json.h"

#define EVENTS_FRAME_MAX 256 /* bytes of an output event, everything but its text */

/* Each appends at `out`, where there is room, and returns how many bytes. */
static inline size_t events_put_str(uint8_t *out, const char *s)
{
	size_t n = strlen(s);

	memcpy(out, s, n);
	return n;
}

static inline size_t events_put_uint(uint8_t *out, uint64_t v)
{
	uint8_t digits[20];
	size_t n = 0;

	do {
		digits[sizeof(digits) - ++n] = (uint8_t)('0' + v % 10);
		v /= 10;
	} while (v > 0);
	memcpy(out, digits + sizeof(digits) - n, n);
	return n;
}

/* Everything before the JSON. id: UINT64_MAX for none. */
size_t events_put_head(uint8_t *out, enum events_framing framing, const char *type, size_t type_len,
		       uint64_t id);

/* An event that is no output: opens its JSON object, and ends it. Without memory b->failed is set. */
struct jw events_control_begin(struct buf *b, enum events_framing framing, const char *type, uint64_t id);
void events_control_end(struct jw *w, uint64_t time_ms);

/* The first event of every stream, and the last one of a run that has ended. */
void events_put_init(struct buf *b, const struct run *run, enum events_framing framing, uint64_t id);
void events_put_terminal(struct buf *b, const struct run *run, enum events_framing framing, uint64_t id);
