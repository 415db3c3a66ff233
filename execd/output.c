/*
 * output.c - the output log: what is in it, and appending.
 *
 * Owns: the bytes of one execution, in blocks. output_spill.c has the file that
 * takes what memory does not, output_read.c the readers.
 *
 * A block is a run of records, each an 8-byte header (stream, length, arrival
 * relative to the block) and its payload, so the index lies beside the bytes,
 * costs what it counts and is spilled with them. Blocks form a queue:
 *
 *   oldest                                              newest
 *   [spilled] [spilled] ... | [memory] [memory] ... [being filled]
 *
 * Bytes are never moved: a full memory pushes its oldest block to the spill
 * file with one pwrite, a full file overwrites its oldest blocks, and what has
 * been overwritten is dropped. Where nothing can be spilled the oldest memory
 * block is dropped instead; an append never fails for it. A log that nothing
 * was written to holds no block, one with a few bytes holds a few hundred.
 *
 * Threads: the loop's only.
 */
#include "execd/output.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "execd/output_priv.h"
#include "lib/clock.h"

#define MEMORY_DEFAULT ((size_t)256 * 1024)
#define TOTAL_DEFAULT  ((uint64_t)64 * 1024 * 1024)
#define LAG_DEFAULT    ((size_t)1024 * 1024)
#define MERGE_MS       5 /* appends of one stream that arrive this close are one record */

int output_new(struct loop *loop, const struct output_limits *limits, struct output **ret)
{
	struct output *o = calloc(1, sizeof(*o));

	if (!o)
		return -ENOMEM;
	o->loop = loop;
	o->refs = 1;
	if (limits)
		o->limits = *limits;
	if (o->limits.memory_max == 0)
		o->limits.memory_max = MEMORY_DEFAULT;
	if (o->limits.total_max == 0)
		o->limits.total_max = TOTAL_DEFAULT;
	if (o->limits.reader_lag_max == 0)
		o->limits.reader_lag_max = LAG_DEFAULT;
	o->spill.fd = -EBADF;
	if (o->limits.total_max > o->limits.memory_max)
		o->spill.cap = o->limits.total_max - o->limits.memory_max;
	else
		o->spill.broken = true;
	list_init(&o->readers);
	*ret = o;
	return 0;
}

struct output *output_ref(struct output *o)
{
	o->refs++;
	return o;
}

void output_drop_oldest(struct output *o)
{
	struct output_block *b = block_at(o, 0);

	if (b->data) {
		o->memory -= b->cap;
		free(b->data);
	} else {
		o->spill.bytes -= b->used;
		o->spilled_n--;
		output_scratch_forget(o, b);
	}
	if (o->cursor.block_offset == b->offset)
		o->cursor.valid = false;
	o->head = (o->head + 1) & (o->cap - 1);
	o->n--;
}

/* Drops the block that begins at offset and everything older. */
void output_drop_through(struct output *o, uint64_t offset)
{
	while (o->n > 0 && block_at(o, 0)->offset <= offset)
		output_drop_oldest(o);
}

static void drop_all(struct output *o)
{
	while (o->n > 0)
		output_drop_oldest(o);
	output_spill_close(o);
	o->spill.next = 0;
	free(o->blocks);
	o->blocks = NULL;
	o->head = o->cap = 0;
}

void output_unref(struct output *o)
{
	if (!o || --o->refs > 0)
		return;
	assert(list_empty(&o->readers));
	loop_defer_cancel(&o->room_defer);
	drop_all(o);
	free(o);
}

bool output_drop(struct output *o)
{
	if (!list_empty(&o->readers))
		return false;
	drop_all(o);
	return true;
}

static int blocks_grow(struct output *o)
{
	size_t cap = o->cap > 0 ? o->cap * 2 : 1;
	struct output_block *blocks = calloc(cap, sizeof(*blocks));

	if (!blocks)
		return -ENOMEM;
	for (size_t i = 0; i < o->n; i++)
		blocks[i] = *block_at(o, i);
	free(o->blocks);
	o->blocks = blocks;
	o->head = 0;
	o->cap = cap;
	return 0;
}

/* A new newest block with at least `need` bytes. */
static int block_add(struct output *o, size_t need, uint64_t now_ms)
{
	uint64_t stored = 0;
	size_t cap = o->n > 0 ? block_max(o) : OUTPUT_BLOCK_MIN;
	uint8_t *data;

	if (o->n == o->cap && blocks_grow(o) < 0)
		return -ENOMEM;
	cap = MAX(cap, need);
	data = malloc(cap);
	if (!data)
		return -ENOMEM;
	if (o->n > 0)
		stored = block_at(o, o->n - 1)->stored + block_at(o, o->n - 1)->used;
	o->n++;
	struct output_block *b = block_at(o, o->n - 1);
	*b = (struct output_block){
		.offset = o->end, .stored = stored, .time_ms = now_ms, .data = data, .cap = (uint32_t)cap};
	memcpy(b->stream_offset, o->stream_end, sizeof(b->stream_offset));
	o->memory += cap;
	return 0;
}

/* Room for `need` more bytes in the newest block, which grows in place up to the usual size. */
static bool block_fits(struct output *o, struct output_block *b, size_t need, size_t want)
{
	size_t max = block_max(o), cap;
	uint8_t *data;

	if (b->cap - b->used >= need && (b->cap >= max || b->cap - b->used >= want))
		return true;
	if (b->cap >= max || b->used + need > max)
		return b->cap - b->used >= need;
	cap = b->cap;
	while (cap < max && cap - b->used < want)
		cap *= 2;
	cap = MIN(cap, max);
	data = realloc(b->data, cap);
	if (!data)
		return b->cap - b->used >= need;
	o->memory += cap - b->cap;
	b->data = data;
	b->cap = (uint32_t)cap;
	return true;
}

/* The newest block when it is in memory and can still be written to. */
static struct output_block *block_open(const struct output *o)
{
	struct output_block *b = o->n > 0 ? block_at(o, o->n - 1) : NULL;

	return b && b->data ? b : NULL;
}

/* Lengthens the newest record when this is more of the same. Returns the bytes taken. */
static size_t merge(struct output *o, enum output_stream stream, const uint8_t *data, size_t n,
		    uint64_t now_ms)
{
	struct output_block *b = block_open(o);

	if (!b || stream == OUTPUT_EVENT)
		return 0;
	struct output_record r = record_at(b->data, b->last);

	if (r.stream != (uint32_t)stream || now_ms - b->time_ms - r.time_ms > MERGE_MS)
		return 0;
	if (!block_fits(o, b, 1, n))
		return 0;
	n = MIN(n, (size_t)(b->cap - b->used));
	memcpy(b->data + b->used, data, n);
	b->used += (uint32_t)n;
	r.len += (uint32_t)n;
	memcpy(b->data + b->last, &r, sizeof(r));
	return n;
}

static int record_add(struct output *o, enum output_stream stream, const uint8_t *data, size_t n,
		      uint64_t now_ms, size_t *ret_taken)
{
	bool whole = stream == OUTPUT_EVENT;
	size_t need = sizeof(struct output_record) + (whole ? n : 1), want = sizeof(struct output_record) + n;
	struct output_block *b = block_open(o);

	if (!b || now_ms - b->time_ms > UINT32_MAX || !block_fits(o, b, need, want)) {
		if (block_add(o, need, now_ms) < 0)
			return -ENOMEM;
		b = block_at(o, o->n - 1);
		(void)block_fits(o, b, need, want);
	}
	n = MIN(n, (size_t)(b->cap - b->used) - sizeof(struct output_record));
	struct output_record r = {.len = (uint32_t)n & (OUTPUT_RECORD_MAX - 1),
				  .stream = (uint32_t)stream & 3,
				  .time_ms = (uint32_t)(now_ms - b->time_ms)};

	b->last = b->used;
	memcpy(b->data + b->used, &r, sizeof(r));
	memcpy(b->data + b->used + sizeof(r), data, n);
	b->used += (uint32_t)(sizeof(r) + n);
	*ret_taken = n;
	return 0;
}

int output_append(struct output *o, enum output_stream stream, const void *data, size_t n)
{
	const uint8_t *p = data;
	uint64_t old_end = o->end, now_ms;
	int r = 0;

	if (o->closed || n == 0)
		return 0;
	if (stream == OUTPUT_EVENT && n >= OUTPUT_RECORD_MAX)
		return -ENOMEM;
	now_ms = clock_real_ms();
	while (n > 0 && r == 0) {
		size_t taken = merge(o, stream, p, n, now_ms);

		if (taken == 0)
			r = record_add(o, stream, p, n, now_ms, &taken);
		o->end += taken;
		o->stream_end[stream] += taken;
		p += taken;
		n -= taken;
		output_balance(o);
	}
	if (o->end > old_end)
		list_foreach_safe (node, &o->readers) {
			struct output_reader *reader = list_entry(node, struct output_reader, link);

			if (reader->offset >= old_end)
				reader->wake(reader);
		}
	return r;
}

/* The last block gives back what it will not use. */
static void trim(struct output *o)
{
	struct output_block *b = block_open(o);
	uint8_t *data;

	if (!b || b->used == b->cap)
		return;
	data = realloc(b->data, b->used);
	if (!data)
		return;
	o->memory -= b->cap - b->used;
	b->data = data;
	b->cap = b->used;
}

void output_close(struct output *o)
{
	if (!o->closed)
		trim(o);
	o->closed = true;
	o->blocked = false;
	loop_defer_cancel(&o->room_defer);
	list_foreach_safe (node, &o->readers) {
		struct output_reader *reader = list_entry(node, struct output_reader, link);

		reader->wake(reader);
	}
}

bool output_closed(const struct output *o)
{
	return o->closed;
}

uint64_t output_begin(const struct output *o)
{
	return o->n > 0 ? block_at(o, 0)->offset : o->end;
}

uint64_t output_end(const struct output *o)
{
	return o->end;
}

uint64_t output_stream_end(const struct output *o, enum output_stream stream)
{
	return o->stream_end[stream];
}

size_t output_memory(const struct output *o)
{
	return sizeof(*o) + o->memory + o->cap * sizeof(*o->blocks);
}

uint64_t output_spilled(const struct output *o)
{
	return o->spill.bytes;
}
