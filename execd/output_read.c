/*
 * output_read.c - reading a log, and holding up its writer.
 *
 * Owns nothing: readers belong to whoever attaches them. A search begins at the
 * record that was found last, when it can.
 *
 * Threads: the loop's only.
 */
#include <string.h>

#include "execd/output_priv.h"

#define ROOM_UNBOUNDED ((size_t)1024 * 1024) /* what a log without readers takes at once */

/* Bytes that cannot be read back are as good as dropped. */
static int block_lost(struct output *o, const struct output_block *b)
{
	output_drop_through(o, b->offset);
	return -ERANGE;
}

/* The last block that begins at or before a position, by log offset (stream < 0) or within a stream. */
static size_t output_block_find(const struct output *o, int stream, uint64_t position)
{
	size_t lo = 0, hi = o->n;

	while (hi - lo > 1) {
		size_t mid = lo + (hi - lo) / 2;
		const struct output_block *b = block_at(o, mid);

		if ((stream < 0 ? b->offset : b->stream_offset[stream]) <= position)
			lo = mid;
		else
			hi = mid;
	}
	return lo;
}

/* Where to begin in block b: at the last record found when that is not beyond the position. */
static struct output_cursor cursor_begin(const struct output *o, const struct output_block *b, int stream,
					 uint64_t position)
{
	const struct output_cursor *last = &o->cursor;
	struct output_cursor c = {.block_offset = b->offset, .offset = b->offset, .valid = true};

	if (last->valid && last->block_offset == b->offset &&
	    (stream < 0 ? last->offset : last->stream_offset[stream]) <= position)
		return *last;
	memcpy(c.stream_offset, b->stream_offset, sizeof(c.stream_offset));
	return c;
}

static void cursor_next(struct output_cursor *c, struct output_record r)
{
	c->offset += r.len;
	c->stream_offset[r.stream] += r.len;
	c->pos += (uint32_t)sizeof(r) + r.len;
}

/* The piece of record r at cursor c that begins `skip` bytes into it. */
static void slice_set(struct output_slice *ret, const struct output_cursor *c, struct output_record r,
		      const struct output_block *b, const uint8_t *data, uint64_t skip, size_t max)
{
	size_t len = r.len - (size_t)skip;

	if (r.stream == OUTPUT_EVENT) {
		skip = 0;
		len = max = r.len;
	}
	*ret = (struct output_slice){
		.stream = (enum output_stream)r.stream,
		.offset = c->offset + skip,
		.stream_offset = c->stream_offset[r.stream] + skip,
		.time_ms = b->time_ms + r.time_ms,
		.data = data + c->pos + sizeof(r) + skip,
		.len = MIN(max, len),
	};
}

/* The cursor goes to the record that holds the byte at offset, which is before the end. */
static int find_byte(struct output *o, uint64_t offset, const struct output_block **ret_b,
		     const uint8_t **ret_data, struct output_record *ret)
{
	if (offset < output_begin(o))
		return -ERANGE;
	const struct output_block *b = block_at(o, output_block_find(o, -1, offset));
	const uint8_t *data = output_block_load(o, b);

	if (!data)
		return block_lost(o, b);
	struct output_cursor c = cursor_begin(o, b, -1, offset);
	struct output_record r = record_at(data, c.pos);

	while (c.offset + r.len <= offset) {
		cursor_next(&c, r);
		r = record_at(data, c.pos);
	}
	o->cursor = c;
	*ret_b = b;
	*ret_data = data;
	*ret = r;
	return 0;
}

int output_read(struct output *o, uint64_t offset, size_t max, struct output_slice *ret)
{
	if (offset >= o->end)
		return 0;
	const struct output_block *b;
	const uint8_t *data;
	struct output_record record;
	int r = find_byte(o, offset, &b, &data, &record);

	if (r < 0)
		return r;
	slice_set(ret, &o->cursor, record, b, data, offset - o->cursor.offset, max);
	return 1;
}

int output_read_stream(struct output *o, enum output_stream stream, uint64_t stream_offset, uint64_t before,
		       size_t max, struct output_slice *ret)
{
	if (stream_offset >= o->stream_end[stream])
		return 0;
	if (o->n == 0 || stream_offset < block_at(o, 0)->stream_offset[stream])
		return -ERANGE;
	const struct output_block *b = block_at(o, output_block_find(o, stream, stream_offset));

	if (b->offset >= before)
		return 0;
	const uint8_t *data = output_block_load(o, b);

	if (!data)
		return block_lost(o, b);
	struct output_cursor c = cursor_begin(o, b, stream, stream_offset);
	struct output_record r = record_at(data, c.pos);

	while (r.stream != (uint32_t)stream || c.stream_offset[stream] + r.len <= stream_offset) {
		cursor_next(&c, r);
		r = record_at(data, c.pos);
	}
	o->cursor = c;
	slice_set(ret, &c, r, b, data, stream_offset - c.stream_offset[stream], max);
	if (ret->offset >= before)
		return 0;
	if (stream != OUTPUT_EVENT)
		ret->len = (size_t)MIN((uint64_t)ret->len, before - ret->offset);
	return 1;
}

int output_stream_offset(struct output *o, enum output_stream stream, uint64_t offset, uint64_t *ret)
{
	if (offset >= o->end) {
		*ret = o->stream_end[stream];
		return 0;
	}
	const struct output_block *b;
	const uint8_t *data;
	struct output_record record;
	int r = find_byte(o, offset, &b, &data, &record);

	if (r < 0)
		return r;
	const struct output_cursor *c = &o->cursor;
	*ret = c->stream_offset[stream] + (record.stream == (uint32_t)stream ? offset - c->offset : 0);
	return 0;
}

/* ---- readers and pressure --------------------------------------------- */

/* Bytes that may be appended before the reader's next ones are dropped, in steps of a block. */
static size_t drop_distance(const struct output *o, const struct output_reader *r)
{
	uint64_t capacity = o->spill.broken ? o->limits.memory_max : o->limits.total_max;
	const struct output_block *newest, *oldest;
	uint64_t behind, reserve = 2 * (uint64_t)block_max(o);

	if (r->offset >= o->end || r->offset < output_begin(o))
		return SIZE_MAX;
	newest = block_at(o, o->n - 1);
	oldest = block_at(o, output_block_find(o, -1, r->offset));
	/* One that shares its block with the end is as near as it can be. */
	if (newest == oldest)
		return SIZE_MAX;
	behind = newest->stored + newest->used - oldest->stored;
	return behind + reserve < capacity ? (size_t)(capacity - behind - reserve) : 0;
}

static size_t reader_room(const struct output *o, const struct output_reader *r)
{
	uint64_t lag = o->end > r->offset ? o->end - r->offset : 0;
	size_t room = drop_distance(o, r);

	if (!r->live)
		return room;
	return MIN(room, lag < o->limits.reader_lag_max ? (size_t)(o->limits.reader_lag_max - lag) : 0);
}

static size_t slowest_room(const struct output *o)
{
	size_t room = ROOM_UNBOUNDED;

	list_foreach_safe (node, &o->readers) {
		room = MIN(room, reader_room(o, list_entry(node, struct output_reader, link)));
		if (room == 0)
			break;
	}
	return room;
}

size_t output_room(struct output *o)
{
	size_t room;

	if (o->blocked)
		return 0;
	room = slowest_room(o);
	if (room == 0)
		o->blocked = true;
	return room;
}

void output_set_on_room(struct output *o, void (*fn)(void *arg), void *arg)
{
	o->on_room = fn;
	o->on_room_arg = arg;
}

static void room_deferred(struct loop_defer *d)
{
	struct output *o = container_of(d, struct output, room_defer);

	if (o->on_room)
		o->on_room(o->on_room_arg);
}

/* Readers have moved. The writer goes on only when that is worth its while: a quarter of the lag is free
 * again. */
static void unblock(struct output *o)
{
	if (!o->blocked || o->closed)
		return;
	if (slowest_room(o) < MIN(o->limits.reader_lag_max / 4, block_max(o)))
		return;
	o->blocked = false;
	loop_defer(o->loop, &o->room_defer, room_deferred);
}

static void reader_move(struct output_reader *r, uint64_t offset)
{
	const struct output *o = r->output;

	r->offset = offset;
	if (!r->live)
		r->live = o->end <= offset || o->end - offset <= o->limits.reader_lag_max;
}

void output_attach(struct output *o, struct output_reader *r, uint64_t offset,
		   void (*wake)(struct output_reader *r))
{
	r->output = output_ref(o);
	r->live = false;
	r->wake = wake;
	reader_move(r, offset);
	list_add_tail(&o->readers, &r->link);
}

void output_reader_advance(struct output_reader *r, uint64_t offset)
{
	reader_move(r, offset);
	unblock(r->output);
}

void output_detach(struct output_reader *r)
{
	struct output *o = r->output;

	if (!o)
		return;
	list_del(&r->link);
	r->output = NULL;
	unblock(o);
	output_unref(o);
}
