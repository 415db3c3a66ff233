/*
 * output.h - the one output log: bytes with offsets, many readers.
 *
 * Whatever a command, a session run, a cell or a terminal writes is appended
 * here in order of arrival. An offset counts every byte ever appended, of all
 * streams together; each stream also counts its own. The newest bytes are held
 * (memory first, then a private unlinked spill file, then the oldest are
 * dropped and output_begin() moves up): memory is bounded whatever is written.
 *
 * Readers pull at their own offset and are woken when there is more. Pressure
 * is a predicate: whoever fills the log asks output_room() before it reads its
 * pipe, and is told through on_room when a slow reader has caught up.
 */
#pragma once

#include <stdbool.h>

#include "lib/list.h"
#include "lib/loop.h"

enum output_stream {
	OUTPUT_STDOUT,
	OUTPUT_STDERR,
	OUTPUT_EVENT, /* one JSON object a record, without braces closed by others: sent as it is */
	OUTPUT_STREAMS,
};

struct output_limits {
	size_t memory_max;     /* bytes held in memory (0: 256 KiB) */
	uint64_t total_max;    /* bytes held in all, memory and spill (0: 64 MiB) */
	size_t reader_lag_max; /* an attached live reader further behind stops the writer (0: 1 MiB) */
};

struct output;

int output_new(struct loop *loop, const struct output_limits *limits, struct output **ret);
struct output *output_ref(struct output *o);
void output_unref(struct output *o);

/* Never refuses for want of room: pressure is the caller's, see output_room(). -ENOMEM only. */
int output_append(struct output *o, enum output_stream stream, const void *data, size_t n);
/* No more will come: readers at the end are woken and see end of file. */
void output_close(struct output *o);
bool output_closed(const struct output *o);

uint64_t output_begin(const struct output *o); /* oldest offset still held */
uint64_t output_end(const struct output *o);   /* one past the newest */
uint64_t output_stream_end(const struct output *o, enum output_stream stream);

/*
 * Bytes the writer should take now (0: wait for on_room). Unbounded by readers
 * that are not attached: a log without readers never stops its writer.
 */
size_t output_room(const struct output *o);
/* Called on the loop when output_room() has become non-zero again. */
void output_set_on_room(struct output *o, void (*fn)(void *arg), void *arg);

struct output_slice {
	enum output_stream stream;
	uint64_t offset;	/* of data[0] */
	uint64_t stream_offset; /* of data[0] in its own stream */
	uint64_t time_ms;	/* when it arrived, Unix milliseconds */
	const uint8_t *data;	/* valid until the next call on this log */
	size_t len;
};

/*
 * The contiguous piece of one stream that begins at offset, at most max bytes.
 * 1: a slice; 0: offset is the end; -ERANGE: dropped already (begin is beyond).
 * An OUTPUT_EVENT record is always returned whole.
 */
int output_read(struct output *o, uint64_t offset, size_t max, struct output_slice *ret);

struct output_reader {
	struct list link;
	struct output *output;		       /* a reference while attached */
	uint64_t offset;		       /* moved by the owner through output_reader_advance() */
	void (*wake)(struct output_reader *r); /* more to read, or the end */
};

void output_attach(struct output *o, struct output_reader *r, uint64_t offset,
		   void (*wake)(struct output_reader *r));
void output_reader_advance(struct output_reader *r, uint64_t offset);
void output_detach(struct output_reader *r);
