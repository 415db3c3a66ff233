/*
 * events.h - a run as the events its clients know: init, output lines, one terminal event.
 *
 * An encoder reads a run's log from an offset on and appends events to a
 * buffer as there is room. It knows no HTTP: it is pulled, and says through
 * wake() when there is something to pull again.
 *
 *   init, {stdout | stderr | status | a record of the log | ping}..., execution_complete | error
 *
 * Lines: `\n`, `\r` and `\r\n` end one; the terminator is not sent; an empty
 * line is sent as "\n"; what is unterminated at the end is sent then. A line
 * longer than EVENT_LINE_MAX comes in pieces. Bytes that are not UTF-8 become
 * U+FFFD.
 *
 * Ids: an event's id is the log offset that follows it, and all a reader needs
 * to go on without loss or repetition, also while both streams are in the
 * middle of a line. The unterminated last lines come after the last byte, so
 * they have the ids end + 1 (stdout) and end + 2 (stderr). A ping has no id.
 * Every stream, resumed or not, begins with init.
 *
 * Source: ServerStreamEvent in the reference's execd-api.yaml, and the wire
 * notes. `end` on the terminal event and `dropped_bytes` on a status are ours.
 */
#pragma once

#include <stdbool.h>

#include "execd/run.h"
#include "lib/buf.h"

#define EVENT_LINE_MAX	  ((size_t)64 * 1024)
#define EVENT_TAIL_IDS	  2			    /* ids beyond the end of a closed log */
#define EVENT_CONTROL_MAX ((size_t)8 * 1024 * 1024) /* an init or terminal event, with its traceback */

enum events_framing {
	EVENTS_SSE,	  /* "id: N", "data: {...}", an empty line */
	EVENTS_SSE_NAMED, /* and "event: type" before them */
	EVENTS_BARE,	  /* "{...}" and an empty line, as the reference writes it; no ids */
};

/* What has been read of one stream since its last event. */
struct events_line {
	uint8_t *partial;
	uint32_t len, cap;
	uint64_t pos;	/* stream offset of the next byte */
	uint64_t start; /* stream offset where the line began */
	bool cr;	/* a \n that comes next belongs to the \r before */
	bool piece;	/* a piece of this line has been sent */
};

struct events {
	struct run *run;
	struct output_reader reader;
	void (*wake)(struct events *e);
	enum events_framing framing;
	struct events_line lines[2]; /* stdout, stderr */
	struct buf pending;	     /* the rest of an event that did not fit */
	size_t pending_at;
	uint8_t tail; /* ids beyond the end: which last lines are out */
	uint8_t tail_id;
	bool init_sent, ping, done, failed;
};

/*
 * e is embedded and zeroed by this. Holds a reference on the run. -ERANGE with
 * *err when offset is beyond what the log can have.
 */
int events_init(struct events *e, struct run *run, uint64_t offset, enum events_framing framing,
		void (*wake)(struct events *e), struct err *err);
void events_done(struct events *e);

/*
 * Appends up to room bytes. 1: that was the last of it; 0: there is more, now
 * or, when nothing was appended, after wake(); -errno: the stream is broken.
 */
int events_next(struct events *e, struct buf *out, size_t room);
/* A ping goes out with the next bytes. */
void events_ping(struct events *e);

/* init and execution_complete: the whole answer for a run that goes on without its client. */
int events_detached(struct run *run, enum events_framing framing, struct buf *out);
