/*
 * stream.c - event streams: one encoder (execd/events.h) as a source of HTTP.
 *
 * Owns: the streams that are open, and the one timer that pings them all. They
 * stand in a list in the order in which their next ping is due; a ping sends a
 * stream to the end of the list, so the head is always the next. A turn wakes
 * at most PINGS_A_TURN of them, so that ten thousand streams opened at once
 * delay nobody.
 *
 * What the official clients accept was read from their sources, June 2026 and
 * the newest packages (PyPI 1.1.1, npm 0.1.11):
 *
 *   client                     "id:"      "event:"   "data: {}"  "{}"
 *   Python opensandbox 1.1     id         name       yes         yes (whole stream, or none of it)
 *   Python before 1.0          skipped    skipped    yes         yes
 *   Python code-interpreter    not JSON: skipped     yes         yes
 *   JavaScript, both           skipped    skipped    yes         yes
 *   C#, both                   skipped    skipped    yes         yes
 *   Kotlin sandbox             skipped    skipped    yes         yes
 *   Kotlin code-interpreter    logged as an error, data lines too: only "{}" works
 *   Go                         id         name       yes, but a handler that switches on event.Event, as
 *                                                    its README shows, needs "event:" then
 *
 * So everybody gets "id:" and "data:", the Go client the name of the event too,
 * and the Kotlin client, known by its User-Agent, bare JSON as the reference
 * writes it. The Python clients that read lines split them with
 * str.splitlines(): json_escape() leaves nothing in a line that could end it.
 * The Go client takes an unknown event that has "text" for output, and a line
 * of up to 4 MiB.
 *
 * Threads: the loop's only.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "execd/api/api.h"
#include "execd/events.h"
#include "execd/run.h"

#define PING_MS	     3000
#define PINGS_A_TURN 64
#define CONTENT_TYPE "text/event-stream"

struct stream {
	struct http_source source;
	struct http_req *req;
	struct events events;
	struct list pings;
	uint64_t ping_due_ms;
};

static struct {
	struct loop *loop; /* NULL: not used yet */
	struct list streams;
	struct loop_timer timer;
} pings;

/* ---- pings ------------------------------------------------------------ */

static void pings_due(struct loop_timer *timer);

static void pings_arm(uint64_t not_before_ms)
{
	if (!list_empty(&pings.streams)) {
		const struct stream *next = list_entry(pings.streams.next, struct stream, pings);

		(void)loop_timer_set(pings.loop, &pings.timer, MAX(next->ping_due_ms, not_before_ms),
				     pings_due);
	}
}

static void pings_due(struct loop_timer *timer)
{
	uint64_t now_ms = loop_now_ms(timer->loop);

	for (int n = 0; n < PINGS_A_TURN && !list_empty(&pings.streams); n++) {
		struct stream *s = list_entry(pings.streams.next, struct stream, pings);

		if (s->ping_due_ms > now_ms)
			break;
		s->ping_due_ms = now_ms + PING_MS;
		list_del(&s->pings);
		list_add_tail(&pings.streams, &s->pings);
		events_ping(&s->events);
		http_wake(s->req);
	}
	pings_arm(now_ms + 1);
}

static void pings_add(struct loop *loop, struct stream *s)
{
	if (!pings.loop) {
		pings.loop = loop;
		list_init(&pings.streams);
	}
	s->ping_due_ms = loop_now_ms(loop) + PING_MS;
	list_add_tail(&pings.streams, &s->pings);
	if (!loop_timer_armed(&pings.timer))
		pings_arm(0);
}

static void pings_del(struct stream *s)
{
	list_del(&s->pings);
	if (list_empty(&pings.streams))
		loop_timer_del(&pings.timer);
}

/* ---- the source --------------------------------------------------------- */

static int stream_proceed(struct http_source *src, struct buf *out, size_t room)
{
	return events_next(&container_of(src, struct stream, source)->events, out, room);
}

static void stream_stop(struct http_source *src, bool complete)
{
	struct stream *s = container_of(src, struct stream, source);

	(void)complete;
	pings_del(s);
	events_done(&s->events);
	free(s);
}

static void stream_wake(struct events *e)
{
	http_wake(container_of(e, struct stream, events)->req);
}

/* ---- replies -------------------------------------------------------------- */

static enum events_framing framing_for(struct http_req *req)
{
	static const struct {
		const char *agent; /* how its User-Agent begins */
		enum events_framing framing;
	} clients[] = {
		{"OpenSandbox-Kotlin-SDK/", EVENTS_BARE},
		{"OpenSandbox-Go-SDK/", EVENTS_SSE_NAMED},
	};
	const char *agent = http_header(req, "User-Agent");

	for (size_t i = 0; agent && i < ARRAY_SIZE(clients); i++)
		if (strncmp(agent, clients[i].agent, strlen(clients[i].agent)) == 0)
			return clients[i].framing;
	return EVENTS_SSE;
}

static int add_headers(struct http_req *req, struct err *err)
{
	/* The second keeps nginx from holding events back. */
	if (http_add_header(req, "Cache-Control", "no-cache") < 0 ||
	    http_add_header(req, "X-Accel-Buffering", "no") < 0)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "reply");
	return 0;
}

int stream_reply(struct http_req *req, struct run *run, uint64_t offset, struct err *err)
{
	const struct execd *execd = http_app(req);
	struct stream *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "event stream");
	s->source = (struct http_source){.proceed = stream_proceed, .stop = stream_stop};
	s->req = req;
	r = events_init(&s->events, run, offset, framing_for(req), stream_wake, err);
	if (r >= 0)
		r = add_headers(req, err);
	if (r < 0) {
		events_done(&s->events);
		free(s);
		return r;
	}
	pings_add(execd->loop, s);
	http_reply_source(req, 200, CONTENT_TYPE, -1, &s->source);
	return 0;
}

int stream_reply_detached(struct http_req *req, struct run *run, struct err *err)
{
	struct buf body = BUF_INIT(EVENT_CONTROL_MAX);
	int r = events_detached(run, framing_for(req), &body);

	if (r < 0)
		(void)err_sys(err, "RUNTIME_ERROR", -r, "event stream");
	else
		r = add_headers(req, err);
	if (r < 0) {
		buf_done(&body);
		return r;
	}
	http_reply_buf(req, 200, CONTENT_TYPE, &body);
	return 0;
}

int stream_told(struct run *run, int r)
{
	if (r < 0)
		(void)run_interrupt(run);
	run_unref(run);
	return r;
}

/* Last-Event-ID before ?offset=; 0 when the client names none, -EINVAL when it is no number. */
static int stream_offset(struct http_req *req, uint64_t *ret, struct err *err)
{
	const char *text = http_header(req, "Last-Event-ID");
	const char *where = "header Last-Event-ID";
	char *end;

	if (!text) {
		text = http_query(req, "offset");
		where = "query parameter 'offset'";
	}
	*ret = 0;
	if (!text)
		return 0;
	errno = 0;
	*ret = strtoull(text, &end, 10);
	if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0)
		return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL, "%s: not an offset", where);
	return 0;
}

/* GET /command/{id}/stream: comes back to a command, or comes to it from elsewhere. */
int command_stream_get(struct http_req *req, struct err *err)
{
	const struct execd *execd = http_app(req);
	const char *id = http_param(req, "id");
	struct run *run = runs_get(execd->runs, id);
	uint64_t offset;

	if (!run)
		return err_set(err, ERR_NOT_FOUND, "COMMAND_NOT_FOUND", ENOENT, "there is no command '%s'",
			       id);
	if (stream_offset(req, &offset, err) < 0)
		return -EINVAL;
	return stream_reply(req, run, offset, err);
}
