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
	OUTPUT_EVENT, /* one whole JSON object a record, "type" its first member: sent as it is */
	OUTPUT_STREAMS,
};

struct output_limits {
	size_t memory_max;     /* bytes held in memory (0: 256 KiB) */
	uint64_t total_max;    /* bytes held in all, memory and spill (0: 64 MiB) */
	size_t reader_lag_max; /* an attached live reader further behind stops the writer (0: 1 MiB) */
	/* Where spill files are made, without a name (NULL: /var/tmp, without it / or /tmp); borrowed. */
	const char *spill_dir;
};

struct output;

int output_new(struct loop *loop, const struct output_limits *limits, struct output **ret);
struct output *output_ref(struct output *o);
void output_unref(struct output *o);

/*
 * Never refuses for want of room: pressure is the caller's, see output_room().
 * -ENOMEM only. After output_close() it does nothing. A disk that is full or
 * cannot be written costs the oldest bytes, never the append.
 */
int output_append(struct output *o, enum output_stream stream, const void *data, size_t n);
/* No more will come: readers are woken and see end of file. Again: wakes them again. */
void output_close(struct output *o);
bool output_closed(const struct output *o);

uint64_t output_begin(const struct output *o); /* oldest offset still held */
uint64_t output_end(const struct output *o);   /* one past the newest */
uint64_t output_stream_end(const struct output *o, enum output_stream stream);

/* What the log costs now, overhead included. */
size_t output_memory(const struct output *o);
uint64_t output_spilled(const struct output *o);
/* Lets go of every byte held (begin becomes end) unless a reader is attached. True when it did. */
bool output_drop(struct output *o);

/*
 * Bytes the writer should take now (0: wait for on_room). Unbounded by readers
 * that are not attached: a log without readers never stops its writer.
 */
size_t output_room(struct output *o);
/* Called from the loop, never from inside a call on the log, when output_room() has become non-zero again. */
void output_set_on_room(struct output *o, void (*fn)(void *arg), void *arg);

struct output_slice {
	enum output_stream stream;
	uint64_t offset;	/* of data[0] */
	uint64_t stream_offset; /* of data[0] in its own stream */
	uint64_t time_ms;	/* when it arrived, Unix milliseconds */
	const uint8_t *data;	/* valid until the next call on any log */
	size_t len;
};

/*
 * The contiguous piece of one stream that begins at offset, at most max bytes.
 * 1: a slice; 0: offset is the end; -ERANGE: dropped already (begin is beyond).
 * An OUTPUT_EVENT record is always returned whole, also for an offset inside it.
 */
int output_read(struct output *o, uint64_t offset, size_t max, struct output_slice *ret);
/*
 * The same within one stream: the contiguous piece that begins at
 * stream_offset and lies before the log offset `before` (UINT64_MAX: anywhere).
 */
int output_read_stream(struct output *o, enum output_stream stream, uint64_t stream_offset, uint64_t before,
		       size_t max, struct output_slice *ret);
/* How many bytes of the stream lie before the log offset; -ERANGE when that has been dropped. */
int output_stream_offset(struct output *o, enum output_stream stream, uint64_t offset, uint64_t *ret);

/*
 * A reader that was at the end is woken when there is more, every reader when
 * the log is closed. wake() may detach its own reader and make no other call
 * on the log. A reader that attaches far behind does not stop the writer while
 * it catches up, unless its next bytes would be dropped.
 */
struct output_reader {
	struct list link;
	struct output *output;		       /* a reference while attached, NULL otherwise */
	uint64_t offset;		       /* moved by the owner through output_reader_advance() */
	bool live;			       /* has once been within reader_lag_max */
	void (*wake)(struct output_reader *r); /* more to read, or the end */
};

void output_attach(struct output *o, struct output_reader *r, uint64_t offset,
		   void (*wake)(struct output_reader *r));
void output_reader_advance(struct output_reader *r, uint64_t offset);
/* Harmless when not attached. */
void output_detach(struct output_reader *r);
