/*
 * command_io.c - what goes into a running command: bytes for its standard input, signals.
 *
 * A POST to stdin hands its body on piece by piece. What the pipe does not take
 * at once is held (a piece is bounded by the connection's buffer) and the body
 * paused until there is room.
 */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "execd/api/api.h"
#include "execd/command.h"
#include "execd/feed.h"
#include "execd/run.h"
#include "lib/scan.h"
#include "proto/json.h"

#define PIECE_MAX ((size_t)1 << 20)

static int find_command(struct http_req *req, struct run **ret, struct err *err)
{
	const struct execd *execd = http_app(req);
	const char *id = http_param(req, "id");
	*ret = runs_get(execd->runs, id);
	if (*ret)
		return 0;
	return err_set(err, ERR_NOT_FOUND, "COMMAND_NOT_FOUND", ENOENT, "there is no command '%s'", id);
}

/* ---- POST and DELETE /command/{id}/stdin ---------------------------------- */

struct input {
	struct feed_writer writer;
	struct http_req *req;
	struct feed *feed; /* valid while the writer is attached */
	struct buf rest;   /* of the piece that did not fit */
	uint64_t written;
	bool close, ended; /* at the end; the body is complete */
};

static void input_free(struct input *in)
{
	feed_detach(&in->writer);
	buf_done(&in->rest);
	free(in);
}

static int input_gone(const struct input *in, struct err *err)
{
	return err_set(err, ERR_GONE, "STDIN_CLOSED", EPIPE,
		       "nobody reads the standard input of the command any more; %" PRIu64
		       " bytes had been written",
		       in->written);
}

/* The pipe has all of it. */
static void input_finish(struct input *in)
{
	struct http_req *req = in->req;
	struct feed *feed = in->feed;
	bool close = in->close;
	char text[64];
	int n = snprintf(text, sizeof(text), "{\"written\":%" PRIu64 "}", in->written);
	http_set_data(req, NULL);
	input_free(in);
	if (close)
		feed_close(feed);
	http_reply(req, 200, "application/json", text, (size_t)n);
}

/* Writes what it can. 1: all of it; 0: the rest waits; -EPIPE. */
static int input_put(struct input *in, const uint8_t *data, size_t n)
{
	ssize_t r = feed_write(&in->writer, data, n);
	if (r < 0)
		return (int)r;
	in->written += (uint64_t)r;
	return (size_t)r == n;
}

static void input_ready(struct feed_writer *w)
{
	struct input *in = container_of(w, struct input, writer);
	struct http_req *req = in->req;
	struct err err = {0};
	uint64_t before = in->written;
	int r = input_put(in, in->rest.data, in->rest.len);
	if (r < 0) {
		(void)input_gone(in, &err);
		http_set_data(req, NULL);
		input_free(in);
		http_reply_err(req, &err);
		return;
	}
	buf_consume(&in->rest, (size_t)(in->written - before));
	if (r == 0)
		return;
	if (in->ended)
		input_finish(in);
	else
		http_body_pause(req, false);
}

static int input_data(struct http_req *req, const void *data, size_t n, struct err *err)
{
	struct input *in = http_data(req);
	uint64_t before = in->written;
	if (in->rest.len > 0) /* the end of what had been read before the pause */
		return buf_append(&in->rest, data, n) < 0 ? err_sys(err, "RUNTIME_ERROR", ENOMEM, "stdin")
							  : 0;
	int r = input_put(in, data, n);
	if (r < 0)
		return input_gone(in, err);
	size_t done = (size_t)(in->written - before);
	if (r == 0 && buf_append(&in->rest, (const uint8_t *)data + done, n - done) < 0)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "stdin");
	if (r == 0)
		http_body_pause(req, true);
	return 0;
}

static void input_vanished(struct http_req *req)
{
	struct input *in = http_data(req);
	if (in)
		input_free(in);
}

static int input_end(struct http_req *req, struct err *err)
{
	struct input *in = http_data(req);
	(void)err;
	in->ended = true;
	if (in->rest.len > 0)
		http_on_gone(req, input_vanished);
	else
		input_finish(in);
	return 0;
}

static const struct http_sink input_sink = {.data = input_data, .end = input_end, .abort = input_vanished};

static int parse_flag(struct http_req *req, const char *name, bool *ret, struct err *err)
{
	const char *text = http_query(req, name);
	*ret = text && strcmp(text, "true") == 0;
	if (!text || *ret || strcmp(text, "false") == 0)
		return 0;
	return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL,
		       "query parameter '%s' must be true or false", name);
}

int command_stdin_post(struct http_req *req, struct err *err)
{
	struct run *run;
	struct feed *feed;
	bool close;
	int r = find_command(req, &run, err);
	if (r >= 0)
		r = command_feed(run, &feed, err);
	if (r >= 0)
		r = parse_flag(req, "close", &close, err);
	if (r < 0)
		return r;
	struct input *in = calloc(1, sizeof(*in));
	if (!in)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "stdin");
	in->req = req;
	in->feed = feed;
	in->close = close;
	in->rest = BUF_INIT(PIECE_MAX);
	if (feed_attach(feed, &in->writer, input_ready) < 0) {
		free(in);
		return err_set(err, ERR_CONFLICT, "STDIN_BUSY", EBUSY,
			       "another request writes to the standard input of '%s'", run->id);
	}
	http_set_data(req, in);
	http_set_sink(req, &input_sink);
	return 0;
}

int command_stdin_delete(struct http_req *req, struct err *err)
{
	struct run *run;
	struct feed *feed;
	int r = find_command(req, &run, err);
	if (r >= 0)
		r = command_feed(run, &feed, err);
	if (r < 0)
		return r;
	feed_close(feed);
	http_reply_empty(req, 200);
	return 0;
}

/* ---- POST /command/{id}/signal --------------------------------------------- */

/* "SIGTERM", "term", "RTMIN+1", 15: whatever kill(1) understands. */
static int signal_by_name(const char *name)
{
	if (strncasecmp(name, "SIG", 3) == 0)
		name += 3;
	for (int signo = 1; signo < NSIG; signo++) {
		const char *known = sigabbrev_np(signo);
		if (known && strcasecmp(known, name) == 0)
			return signo;
	}
	if (strcasecmp(name, "RTMIN") == 0)
		return SIGRTMIN;
	if (strncasecmp(name, "RTMIN+", 6) != 0)
		return -EINVAL;
	struct scan s = SCAN(name + 6);
	int n = (int)scan_number(&s, 10, (uint64_t)(SIGRTMAX - SIGRTMIN));
	scan_end(&s);
	return scan_ok(&s) ? SIGRTMIN + n : -EINVAL;
}

static int parse_signal(json_t *body, int *ret, struct err *err)
{
	const char *name = NULL;
	int64_t number = 0;
	int r;
	if (json_is_integer(json_object_get(body, "signal"))) {
		r = json_get_int(body, "signal", JSON_REQUIRED, 1, NSIG - 1, &number, err);
		*ret = (int)number;
		return r;
	}
	r = json_get_str(body, "signal", JSON_REQUIRED, &name, err);
	if (r < 0)
		return r;
	*ret = signal_by_name(name);
	return *ret > 0 ? 0
			: err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL,
				  "signal: there is no signal '%.64s'", name);
}

static int parse_scope(json_t *body, const char **ret, struct err *err)
{
	int r = json_get_str(body, "scope", JSON_OPTIONAL, ret, err);
	if (r < 0 || strcmp(*ret, "group") == 0 || strcmp(*ret, "process") == 0)
		return r;
	return err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL,
		       "scope: must be \"group\" or \"process\"");
}

static void reply_signal(struct http_req *req, int signo, const char *scope)
{
	struct buf body = BUF_INIT(256);
	struct jw w = JW_INIT(&body);
	char name[RUN_SIGNAL_MAX];
	jw_obj_begin(&w);
	jw_kstr(&w, "signal", run_signal_name(signo, name));
	jw_kstr(&w, "scope", scope);
	jw_obj_end(&w);
	http_reply_buf(req, 200, "application/json", &body);
}

int command_signal_post(struct http_req *req, struct err *err)
{
	json_t *body = http_json(req);
	const char *scope = "group";
	struct run *run;
	int signo = 0;
	int r = find_command(req, &run, err);
	if (r >= 0)
		r = json_need_obj(body, JSON_REQUIRED, err);
	if (r >= 0)
		r = parse_signal(body, &signo, err);
	if (r >= 0)
		r = parse_scope(body, &scope, err);
	if (r < 0)
		return r;
	r = run_signal(run, signo, strcmp(scope, "group") == 0);
	if (r == -ESRCH)
		return err_set(err, ERR_CONFLICT, "RUNTIME_ERROR", ESRCH, "command '%s' is not running",
			       run->id);
	if (r == -EOPNOTSUPP)
		return err_set(err, ERR_CONFLICT, "RUNTIME_ERROR", EOPNOTSUPP,
			       "'%s' is not a command: it takes no signals", run->id);
	if (r < 0)
		return err_sys(err, "RUNTIME_ERROR", -r, "signal command '%s'", run->id);
	reply_signal(req, signo, scope);
	return 0;
}
