/*
 * events.c - the event encoder.
 *
 * Owns: the position of one client in a run's log, and what it has read of
 * unfinished lines. A finished line is encoded straight from the log into the
 * caller's buffer; only the beginning of a line that a read cut off is copied.
 *
 * Where a long line is cut depends on offsets within its stream alone: at each
 * multiple of CUT (less an unfinished UTF-8 sequence) that lies at least CUT
 * after the beginning of the line. So a piece has CUT to 2 * CUT bytes, and
 * whoever knows the last 2 * CUT bytes of a stream knows where its current
 * piece began, without the line's beginning. Resuming reads just those.
 *
 * Threads: the loop's only.
 */
#include "execd/events_priv.h"

#include <assert.h>
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "lib/clock.h"
#include "lib/utf8.h"
#include "proto/json.h"
#include "proto/json_escape.h"

#define CUT	     (EVENT_LINE_MAX / 2)
#define READ_MAX     ((size_t)64 * 1024)
#define PARTIAL_KEPT 1024 /* a line buffer that grew beyond this is given back */
#define TYPE_MAX     32

/* ---- where events go ---------------------------------------------------- */

static bool has_pending(const struct events *e)
{
	return e->pending.len > e->pending_at;
}

static bool has_space(const struct events *e, const struct buf *out, size_t limit)
{
	return out->len < limit && !has_pending(e) && !e->failed;
}

/* Hands over what fits of the pending event. */
static void settle(struct events *e, struct buf *out, size_t limit)
{
	size_t n = MIN(e->pending.len - e->pending_at, limit - MIN(limit, out->len));

	if (n > 0 && buf_append(out, e->pending.data + e->pending_at, n) < 0)
		e->failed = true;
	e->pending_at += n;
	if (!has_pending(e)) {
		buf_done(&e->pending);
		e->pending_at = 0;
	}
}

/* A buffer with room for `worst` bytes: the caller's when they fit for sure, the pending one otherwise. */
static struct buf *event_begin(struct events *e, struct buf *out, size_t limit, size_t worst)
{
	struct buf *b = out;

	if (has_pending(e) || out->len + worst > limit) {
		b = &e->pending;
		b->max = MAX(b->max, b->len + worst);
	}
	if (buf_reserve(b, worst) < 0) {
		e->failed = true;
		return NULL;
	}
	return b;
}

static void event_end(struct events *e, struct buf *b, struct buf *out, size_t limit)
{
	if (b == &e->pending)
		settle(e, out, limit);
}

/* ---- output lines ------------------------------------------------------- */

/*
 * A million lines a second pass here, so the texts around a line are copied in
 * pieces of fixed size, longer than they are, and numbers are not made again
 * that have been made for the line before.
 */
#define FIXED 48

struct frame {
	char before[FIXED], after[FIXED]; /* the id */
	uint8_t before_n, after_n;
	bool id;
};

#define FRAME(before_text, after_text, with_id)                                                              \
	{                                                                                                    \
		.before = before_text, .after = after_text, .before_n = sizeof(before_text) - 1,             \
		.after_n = sizeof(after_text) - 1, .id = with_id                                             \
	}

static const struct frame frames[][2] = {
	[EVENTS_SSE] = {FRAME("id: ", "\ndata: {\"type\":\"stdout\",\"text\":\"", true),
			FRAME("id: ", "\ndata: {\"type\":\"stderr\",\"text\":\"", true)},
	[EVENTS_SSE_NAMED] = {FRAME("event: stdout\nid: ", "\ndata: {\"type\":\"stdout\",\"text\":\"", true),
			      FRAME("event: stderr\nid: ", "\ndata: {\"type\":\"stderr\",\"text\":\"", true)},
	[EVENTS_BARE] = {FRAME("", "{\"type\":\"stdout\",\"text\":\"", false),
			 FRAME("", "{\"type\":\"stderr\",\"text\":\"", false)},
};

static size_t put_id(uint8_t *out, uint64_t id)
{
	static uint64_t last_high = UINT64_MAX;
	static uint8_t text[20];
	static size_t len;
	uint64_t high = id / 10000;
	unsigned low = (unsigned)(id % 10000);

	if (high == 0)
		return events_put_uint(out, id);
	if (high != last_high) {
		last_high = high;
		len = events_put_uint(text, high);
	}
	memcpy(out, text, sizeof(text));
	out[len] = (uint8_t)('0' + low / 1000);
	out[len + 1] = (uint8_t)('0' + low / 100 % 10);
	out[len + 2] = (uint8_t)('0' + low / 10 % 10);
	out[len + 3] = (uint8_t)('0' + low % 10);
	return len + 4;
}

static size_t put_end(uint8_t *out, uint64_t time_ms)
{
	static uint64_t last_ms = UINT64_MAX;
	static uint8_t text[FIXED];
	static size_t len;

	if (time_ms != last_ms) {
		last_ms = time_ms;
		len = events_put_str(text, "\",\"timestamp\":");
		len += events_put_uint(text + len, time_ms);
		len += events_put_str(text + len, "}\n\n");
	}
	memcpy(out, text, FIXED);
	return len;
}

/* out NULL: the event went out before this client came back. */
static void emit_text(struct events *e, struct buf *out, size_t limit, enum output_stream stream,
		      const uint8_t *text, size_t n, uint64_t time_ms, uint64_t id)
{
	const struct frame *frame = &frames[e->framing][stream];
	struct buf *b;
	uint8_t *p;

	if (!out)
		return;
	b = event_begin(e, out, limit, n * JSON_ESCAPE_MAX + EVENTS_FRAME_MAX);
	if (!b)
		return;
	p = buf_tail(b);
	memcpy(p, frame->before, FIXED);
	p += frame->before_n;
	if (frame->id)
		p += put_id(p, id);
	memcpy(p, frame->after, FIXED);
	p += frame->after_n;
	p += json_escape(p, text, n);
	p += put_end(p, time_ms);
	b->len = (size_t)(p - b->data);
	event_end(e, b, out, limit);
}

static bool partial_add(struct events *e, struct events_line *line, const uint8_t *p, size_t n)
{
	if (n == 0)
		return true;
	if (n > line->cap - line->len) {
		size_t cap = MAX((size_t)128, line->cap * (size_t)2);
		uint8_t *partial;

		while (cap < line->len + n)
			cap *= 2;
		partial = realloc(line->partial, cap);
		if (!partial) {
			e->failed = true;
			return false;
		}
		line->partial = partial;
		line->cap = (uint32_t)cap;
	}
	memcpy(line->partial + line->len, p, n);
	line->len += (uint32_t)n;
	return true;
}

static void partial_clear(struct events_line *line)
{
	line->len = 0;
	if (line->cap > PARTIAL_KEPT) {
		free(line->partial);
		line->partial = NULL;
		line->cap = 0;
	}
}

/* Where the line is to be cut if it has not ended by then. */
static uint64_t next_cut(const struct events_line *line)
{
	uint64_t after_pos = (line->pos / CUT + 1) * CUT;
	uint64_t after_start = (line->start + CUT + CUT - 1) / CUT * CUT;

	return MAX(after_pos, after_start);
}

/* n bytes at p complete a line. */
static void line_end(struct events *e, struct buf *out, size_t limit, const struct output_slice *s,
		     const uint8_t *p, size_t n, uint64_t id)
{
	struct events_line *line = &e->lines[s->stream];

	if (line->len > 0) {
		if (!partial_add(e, line, p, n))
			return;
		p = line->partial;
		n = line->len;
	}
	if (n == 0 && !line->piece) {
		p = (const uint8_t *)"\n";
		n = 1;
	}
	if (n > 0)
		emit_text(e, out, limit, s->stream, p, n, s->time_ms, id);
	partial_clear(line);
	line->piece = false;
}

/* n bytes at p bring the line to its cut. */
static void line_cut(struct events *e, struct buf *out, size_t limit, const struct output_slice *s,
		     const uint8_t *p, size_t n, uint64_t id)
{
	struct events_line *line = &e->lines[s->stream];
	uint8_t rest[4];
	size_t tail;

	if (!partial_add(e, line, p, n))
		return;
	tail = utf8_incomplete_tail(line->partial, line->len);
	memcpy(rest, line->partial + line->len - tail, tail);
	emit_text(e, out, limit, s->stream, line->partial, line->len - tail, s->time_ms, id);
	partial_clear(line);
	(void)partial_add(e, line, rest, tail);
	line->piece = true;
}

/* Reads lines from a slice while there is space; returns the bytes taken. out NULL: takes all, sends nothing.
 */
static size_t feed(struct events *e, struct buf *out, size_t limit, const struct output_slice *s)
{
	struct events_line *line = &e->lines[s->stream];
	const uint8_t *begin = s->data, *p = begin, *end = begin + s->len, *cr = NULL;

	while (p < end && (!out || has_space(e, out, limit)) && !e->failed) {
		if (line->cr && *p == '\n') {
			line->cr = false;
			p++;
			line->start = ++line->pos;
			continue;
		}
		line->cr = false;
		/* The next \r is looked for once, not once a line. */
		if (!cr || cr < p) {
			cr = memchr(p, '\r', (size_t)(end - p));
			cr = cr ? cr : end;
		}
		size_t to_cut = (size_t)MIN(next_cut(line) - line->pos, (uint64_t)READ_MAX * 2);
		size_t n = MIN((size_t)(end - p), to_cut);
		const uint8_t *stop = memchr(p, '\n', MIN(n, (size_t)(cr - p)));

		if (!stop && cr < p + n)
			stop = cr;
		if (stop) {
			uint64_t id = s->offset + (uint64_t)(stop + 1 - begin);

			line_end(e, out, limit, s, p, (size_t)(stop - p), id);
			line->cr = *stop == '\r';
			line->pos += (uint64_t)(stop + 1 - p);
			line->start = line->pos;
			p = stop + 1;
			continue;
		}
		line->pos += n;
		if (n == to_cut)
			line_cut(e, out, limit, s, p, n, s->offset + (uint64_t)(p + n - begin));
		else
			(void)partial_add(e, line, p, n);
		p += n;
	}
	return (size_t)(p - begin);
}

/* ---- the other events ---------------------------------------------------- */

/* "type" of a record, when it stands where it should; "message" is what SSE calls an event without a name. */
static size_t record_type(const uint8_t *data, size_t n, char out[TYPE_MAX])
{
	static const char before[] = "{\"type\":\"";
	size_t at = sizeof(before) - 1, len = 0;

	if (n > at && memcmp(data, before, at) == 0)
		while (at + len < n && len < TYPE_MAX && (islower(data[at + len]) || data[at + len] == '_')) {
			out[len] = (char)data[at + len];
			len++;
		}
	if (len == 0 || len == TYPE_MAX || at + len >= n || data[at + len] != '"')
		len = events_put_str((uint8_t *)out, "message");
	return len;
}

static void emit_record(struct events *e, struct buf *out, size_t limit, const struct output_slice *s)
{
	char type[TYPE_MAX];
	size_t type_len = record_type(s->data, s->len, type);
	struct buf *b = event_begin(e, out, limit, s->len * JSON_ESCAPE_MAX + EVENTS_FRAME_MAX);
	uint8_t *p;

	if (!b)
		return;
	p = buf_tail(b);
	p += events_put_head(p, e->framing, type, type_len, s->offset + s->len);
	p += json_one_line(p, s->data, s->len);
	p += events_put_str(p, "\n\n");
	b->len = (size_t)(p - b->data);
	event_end(e, b, out, limit);
}

/* Control events are small and rare: they always take the way through the pending buffer. */
static struct buf *control_buf(struct events *e)
{
	e->pending.max = MAX(e->pending.max, EVENT_CONTROL_MAX);
	return &e->pending;
}

static void control_sent(struct events *e, struct buf *out, size_t limit)
{
	if (e->pending.failed)
		e->failed = true;
	else
		settle(e, out, limit);
}

static uint64_t position(const struct events *e)
{
	return e->reader.offset + e->tail_id;
}

static void emit_init(struct events *e, struct buf *out, size_t limit)
{
	e->init_sent = true;
	events_put_init(control_buf(e), e->run, e->framing, position(e));
	control_sent(e, out, limit);
}

static void emit_ping(struct events *e, struct buf *out, size_t limit)
{
	struct jw w = events_control_begin(control_buf(e), e->framing, "ping", UINT64_MAX);

	e->ping = false;
	jw_kstr(&w, "text", "pong");
	events_control_end(&w, clock_real_ms());
	control_sent(e, out, limit);
}

static void emit_terminal(struct events *e, struct buf *out, size_t limit)
{
	e->done = true;
	events_put_terminal(control_buf(e), e->run, e->framing, position(e));
	control_sent(e, out, limit);
}

/* What was read of a line that will not be completed. */
static void emit_partial(struct events *e, struct buf *out, size_t limit, enum output_stream stream,
			 uint64_t id)
{
	struct events_line *line = &e->lines[stream];

	if (line->len > 0)
		emit_text(e, out, limit, stream, line->partial, line->len, clock_real_ms(), id);
	partial_clear(line);
	line->piece = false;
}

/* Bytes were dropped before they could be sent: says so, and goes on with the oldest there are. */
static void emit_dropped(struct events *e, struct buf *out, size_t limit)
{
	struct output *o = e->run->output;
	uint64_t begin = output_begin(o), dropped = begin - e->reader.offset;

	for (enum output_stream s = OUTPUT_STDOUT; s <= OUTPUT_STDERR; s++) {
		emit_partial(e, out, limit, s, e->reader.offset);
		(void)output_stream_offset(o, s, begin, &e->lines[s].pos);
		e->lines[s].start = e->lines[s].pos;
		e->lines[s].cr = false;
	}
	output_reader_advance(&e->reader, begin);
	struct jw w = events_control_begin(control_buf(e), e->framing, "status", begin);

	jw_kint(&w, "dropped_bytes", (int64_t)dropped);
	events_control_end(&w, clock_real_ms());
	control_sent(e, out, limit);
}

/* ---- the encoder ---------------------------------------------------------- */

/* Brings one stream's line to where it stood at the log offset. */
static int restore_line(struct events *e, enum output_stream stream, uint64_t offset)
{
	struct output *o = e->run->output;
	struct events_line *line = &e->lines[stream];
	uint64_t to, from, oldest;
	struct output_slice s;

	if (output_stream_offset(o, stream, offset, &to) < 0 ||
	    output_stream_offset(o, stream, output_begin(o), &oldest) < 0)
		return -EIO;
	from = to / CUT * CUT;
	from = from >= CUT ? from - CUT : 0;
	line->pos = line->start = MAX(from, oldest);
	while (line->pos < to) {
		if (output_read_stream(o, stream, line->pos, offset, READ_MAX, &s) <= 0)
			return -EIO;
		(void)feed(e, NULL, 0, &s);
		if (e->failed)
			return -ENOMEM;
	}
	return 0;
}

static void reader_wake(struct output_reader *reader)
{
	struct events *e = container_of(reader, struct events, reader);

	e->wake(e);
}

int events_init(struct events *e, struct run *run, uint64_t offset, enum events_framing framing,
		void (*wake)(struct events *e), struct err *err)
{
	struct output *o = run->output;
	uint64_t end = output_end(o), beyond = offset > end ? offset - end : 0;
	int r = 0;

	if (beyond > (output_closed(o) ? EVENT_TAIL_IDS : 0))
		return err_set(err, ERR_RANGE, "INVALID_REQUEST_BODY", ERANGE,
			       "offset %llu is beyond the end of the output, %llu",
			       (unsigned long long)offset, (unsigned long long)end);
	offset -= beyond;
	*e = (struct events){.run = run_ref(run), .framing = framing, .wake = wake};
	output_attach(o, &e->reader, offset, reader_wake);
	if (offset >= output_begin(o))
		for (enum output_stream s = OUTPUT_STDOUT; s <= OUTPUT_STDERR && r == 0; s++)
			r = restore_line(e, s, offset);
	if (r < 0) {
		events_done(e);
		return err_sys(err, "RUNTIME_ERROR", -r, "resume at offset %llu", (unsigned long long)offset);
	}
	e->tail = e->tail_id = (uint8_t)beyond;
	return 0;
}

void events_done(struct events *e)
{
	if (!e->run)
		return;
	output_detach(&e->reader);
	for (size_t i = 0; i < ARRAY_SIZE(e->lines); i++)
		free(e->lines[i].partial);
	buf_done(&e->pending);
	run_unref(e->run);
	*e = (struct events){};
}

void events_ping(struct events *e)
{
	e->ping = true;
}

/* Sends what the log holds. False when the end of it was reached. */
static bool drain(struct events *e, struct buf *out, size_t limit)
{
	struct output *o = e->run->output;
	struct output_slice s;

	while (has_space(e, out, limit)) {
		int r = output_read(o, e->reader.offset, READ_MAX, &s);

		if (r == -ERANGE) {
			emit_dropped(e, out, limit);
		} else if (r <= 0) {
			return false;
		} else if (s.stream == OUTPUT_EVENT) {
			emit_record(e, out, limit, &s);
			output_reader_advance(&e->reader, s.offset + s.len);
		} else {
			output_reader_advance(&e->reader, s.offset + feed(e, out, limit, &s));
		}
	}
	return true;
}

/* The last lines, then the terminal event. */
static void finish(struct events *e, struct buf *out, size_t limit)
{
	while (e->tail < EVENT_TAIL_IDS && has_space(e, out, limit)) {
		enum output_stream s = (enum output_stream)e->tail++;

		if (e->lines[s].len > 0) {
			e->tail_id = e->tail;
			emit_partial(e, out, limit, s, position(e));
		}
	}
	if (e->tail == EVENT_TAIL_IDS && e->run->state == RUN_ENDED && has_space(e, out, limit))
		emit_terminal(e, out, limit);
}

int events_next(struct events *e, struct buf *out, size_t room)
{
	size_t limit = out->len + room;

	settle(e, out, limit);
	if (!e->init_sent && has_space(e, out, limit))
		emit_init(e, out, limit);
	if (e->ping && !e->done && has_space(e, out, limit))
		emit_ping(e, out, limit);
	if (!e->done && !drain(e, out, limit) && output_closed(e->run->output))
		finish(e, out, limit);
	if (e->failed)
		return -ENOMEM;
	return e->done && !has_pending(e);
}
