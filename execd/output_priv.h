/*
 * output_priv.h - what the files of output.h share: blocks, records, the log itself.
 */
#pragma once

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "execd/output.h"
#include "lib/util.h"

#define OUTPUT_BLOCK_MIN  ((size_t)256)
#define OUTPUT_BLOCK_MAX  ((size_t)64 * 1024)
#define OUTPUT_RECORD_MAX ((size_t)1 << 30) /* what a header can say */

/* Lies unaligned in the block: read and written with memcpy. */
struct output_record {
	uint32_t len : 30;
	uint32_t stream : 2;
	uint32_t time_ms; /* since the block's */
};
static_assert(sizeof(struct output_record) == 8, "a record header is eight bytes");

struct output_block {
	uint64_t offset;			/* of its first byte */
	uint64_t stream_offset[OUTPUT_STREAMS]; /* of each stream, where the block begins */
	uint64_t stored;			/* bytes of all blocks before it, headers included */
	uint64_t time_ms;
	uint8_t *data;	   /* NULL: in the spill file */
	uint64_t file_pos; /* when data is NULL */
	uint32_t used, cap;
	uint32_t last; /* position of the newest record */
};

/* A record that was found, and where: the next search begins here when it can. */
struct output_cursor {
	uint64_t block_offset;
	uint64_t offset; /* of the record's first byte */
	uint64_t stream_offset[OUTPUT_STREAMS];
	uint32_t pos; /* of the record in its block */
	bool valid;
};

struct output_spill {
	int fd;
	bool broken;	/* could not be made or written: never tried again */
	uint64_t cap;	/* bytes the file may have */
	uint64_t next;	/* where the next block goes */
	uint64_t bytes; /* of the blocks in it */
};

struct output {
	struct loop *loop;
	unsigned refs;
	bool closed;
	bool blocked; /* room was refused: on_room is owed */
	struct output_limits limits;

	struct output_block *blocks; /* a ring of cap entries, a power of two */
	size_t head, n, cap;
	size_t spilled_n; /* the oldest blocks, those in the file */
	size_t memory;	  /* capacity of the blocks in memory */
	struct output_spill spill;

	uint64_t end;
	uint64_t stream_end[OUTPUT_STREAMS];
	struct output_cursor cursor;

	struct list readers;
	void (*on_room)(void *arg);
	void *on_room_arg;
	struct loop_defer room_defer;
};

static inline struct output_block *block_at(const struct output *o, size_t i)
{
	return &o->blocks[(o->head + i) & (o->cap - 1)];
}

static inline struct output_record record_at(const uint8_t *data, uint32_t pos)
{
	struct output_record r;

	memcpy(&r, data + pos, sizeof(r));
	return r;
}

static inline size_t block_max(const struct output *o)
{
	size_t quarter = o->limits.memory_max / 4;

	return quarter < OUTPUT_BLOCK_MIN ? OUTPUT_BLOCK_MIN : MIN(quarter, OUTPUT_BLOCK_MAX);
}

/* ---- output.c ---- */

void output_drop_oldest(struct output *o);
/* Drops the block that begins at offset and everything older. */
void output_drop_through(struct output *o, uint64_t offset);

/* ---- output_spill.c ---- */

/* Memory within its bound: what is over it goes to the file, or is dropped. */
void output_balance(struct output *o);
/* The block's bytes, from memory or read back; NULL when the file cannot be read. Until the next call of any
 * log. */
const uint8_t *output_block_load(struct output *o, const struct output_block *b);
/* What was read back of this block (NULL: of any of the log's) is not to be used any more. */
void output_scratch_forget(const struct output *o, const struct output_block *b);
void output_spill_close(struct output *o);
