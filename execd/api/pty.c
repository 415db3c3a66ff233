/*
 * pty.c - /pty: terminal sessions, and the WebSocket to one.
 *
 * A `link` is one WebSocket on one session; it belongs to its ws and ends with
 * it. Nothing of a session's output is copied for it: what it is to get next
 * follows from where it is.
 *
 *   replay up to the end at the moment of connecting -> connected -> live -> exit -> close
 *
 * What answers the client's frames (pongs, errors) goes before output. While
 * there are too many errors to be taken, or too much input, nothing is read.
 *
 * Frames as in the reference's components/execd/PTY.md. A 0x03 frame also marks
 * a gap: the client was too slow and the log has moved on to that offset.
 */
#include <stdio.h>
#include <string.h>

#include "execd/api/api.h"
#include "execd/pty.h"
#include "lib/clock.h"
#include "proto/json.h"
#include "proto/ws.h"
#include "proto/ws_frame.h"

#define FRAME_MAX	32768 /* bytes of output in one frame; a client's own limit may be small */
#define NOTES_HIGH	4096  /* bytes of errors that wait */
#define NOTES_MAX	16384
#define TEXT_ROOM	1024 /* for any text frame of ours */
#define LIST_MAX	(4U << 20)
#define CODE_TAKEN	4001 /* close code, as in the reference */
#define FRAME_STDIN	0x00
#define FRAME_STDOUT	0x01
#define FRAME_STDERR	0x02
#define FRAME_REPLAY	0x03
#define REPLAY_HEAD_MAX 9

struct link {
	struct pty_client client;
	struct ws *ws;
	char *id;
	uint64_t replay_end;
	bool connected; /* the frame has been sent */
	bool pipe;
	bool deleted;	  /* the session is no more */
	bool failed;	  /* the shell does not start: the reason is in notes */
	size_t pongs;	  /* owed */
	struct buf notes; /* texts to be sent, each with its NUL */
};

/* ---- to the client -------------------------------------------------------- */

static void link_free(struct link *l)
{
	pty_detach(&l->client);
	buf_done(&l->notes);
	free(l->id);
	free(l);
}

static void link_close(struct link *l, unsigned code, const char *reason)
{
	ws_close(l->ws, code, reason);
	link_free(l);
}

static void send_text(struct link *l, const void *text, size_t n)
{
	const struct iovec piece = {(void *)text, n};
	(void)ws_send(l->ws, true, &piece, 1);
}

static void note_error(struct link *l, const char *code, const char *message)
{
	struct jw w = JW_INIT(&l->notes);
	size_t before = l->notes.len;
	jw_obj_begin(&w);
	jw_kstr(&w, "type", "error");
	jw_kstr(&w, "error", message);
	jw_kstr(&w, "code", code);
	jw_obj_end(&w);
	(void)buf_putc(&l->notes, '\0');
	if (l->notes.failed) {
		l->notes.len = before;
		l->notes.failed = false;
	}
	ws_wake(l->ws);
}

static void send_notes(struct link *l)
{
	size_t used = 0;
	while (used < l->notes.len && ws_room(l->ws) >= TEXT_ROOM) {
		const char *text = (const char *)l->notes.data + used;
		size_t n = strlen(text);
		send_text(l, text, n);
		used += n + 1;
	}
	if (used == l->notes.len)
		buf_done(&l->notes);
	else
		buf_consume(&l->notes, used);
}

static void send_pongs(struct link *l)
{
	static const char pong[] = "{\"type\":\"pong\"}";
	for (; l->pongs > 0 && ws_room(l->ws) >= TEXT_ROOM; l->pongs--)
		send_text(l, pong, sizeof(pong) - 1);
}

/* name: as sigabbrev_np(3) has it, or NULL. */
static void put_signal(struct jw *w, const char *name)
{
	char full[32];
	(void)snprintf(full, sizeof(full), "SIG%s", name ? name : "");
	jw_kstr(w, "signal", name ? full : NULL);
}

static void send_connected(struct link *l)
{
	uint8_t room[TEXT_ROOM];
	struct buf text = {.data = room, .cap = sizeof(room), .max = sizeof(room)};
	struct jw w = JW_INIT(&text);
	jw_obj_begin(&w);
	jw_kstr(&w, "type", "connected");
	jw_kstr(&w, "session_id", l->id);
	jw_kstr(&w, "mode", l->pipe ? "pipe" : "pty");
	jw_kint(&w, "offset", (int64_t)l->client.offset);
	jw_obj_end(&w);
	send_text(l, text.data, text.len);
	l->connected = true;
}

/* Frees l. */
static void send_exit(struct link *l, int exit_code, int signo)
{
	uint8_t room[TEXT_ROOM];
	struct buf text = {.data = room, .cap = sizeof(room), .max = sizeof(room)};
	struct jw w = JW_INIT(&text);
	const char *name = signo ? sigabbrev_np(signo) : NULL;
	jw_obj_begin(&w);
	jw_kstr(&w, "type", "exit");
	jw_kint(&w, "exit_code", exit_code);
	if (name)
		put_signal(&w, name);
	if (l->deleted)
		jw_kstr(&w, "code", "SESSION_GONE");
	jw_obj_end(&w);
	send_text(l, text.data, text.len);
	link_close(l, WS_CODE_NORMAL, l->deleted ? "session deleted" : "process exited");
}

static void send_slice(struct link *l, const struct output_slice *s, bool replay)
{
	uint8_t head[REPLAY_HEAD_MAX] = {replay			      ? FRAME_REPLAY
					 : s->stream == OUTPUT_STDERR ? FRAME_STDERR
								      : FRAME_STDOUT};
	for (size_t i = 0; replay && i < 8; i++)
		head[1 + i] = (uint8_t)(s->offset >> (8 * (7 - i)));
	const struct iovec pieces[] = {{head, replay ? REPLAY_HEAD_MAX : 1}, {(void *)s->data, s->len}};
	(void)ws_send(l->ws, false, pieces, 2);
}

/* Whether all that there is up to `end` has been sent. */
static bool send_output(struct link *l, uint64_t end, bool replay)
{
	while (l->client.offset < end) {
		struct output_slice slice;
		size_t room = ws_room(l->ws);
		bool missed;
		if (room < TEXT_ROOM)
			return false;
		size_t max = MIN(room - REPLAY_HEAD_MAX, (size_t)FRAME_MAX);
		max = (size_t)MIN((uint64_t)max, end - l->client.offset);
		if (pty_read(&l->client, max, &slice, &missed) != 1)
			return true;
		send_slice(l, &slice, replay || missed);
		pty_advance(&l->client, &slice);
	}
	return true;
}

static void link_pause(struct link *l)
{
	const struct pty *p = l->client.pty;
	ws_pause(l->ws, l->notes.len >= NOTES_HIGH || (p && pty_input_full(p)));
}

static void link_writable(struct ws *ws)
{
	struct link *l = ws_arg(ws);
	int exit_code = -1, signo = 0;
	if (l->failed) {
		send_notes(l);
		link_close(l, WS_CODE_INTERNAL, "START_FAILED");
		return;
	}
	if (l->client.pty && !send_output(l, l->replay_end, true))
		return;
	if (!l->connected)
		send_connected(l);
	send_pongs(l);
	send_notes(l);
	link_pause(l);
	if (l->client.pty && !send_output(l, UINT64_MAX, false))
		return;
	if (ws_room(ws) < TEXT_ROOM)
		return;
	if (l->deleted || (l->client.pty && pty_take_end(&l->client, &exit_code, &signo)))
		send_exit(l, exit_code, signo);
}

static void link_closed(struct ws *ws)
{
	link_free(ws_arg(ws));
}

static void client_wake(struct pty_client *c)
{
	ws_wake(container_of(c, struct link, client)->ws);
}

static void client_evicted(struct pty_client *c, enum pty_eviction why)
{
	struct link *l = container_of(c, struct link, client);
	switch (why) {
	case PTY_TAKEN_OVER:
		link_close(l, CODE_TAKEN, "TAKEN_OVER");
		break;
	case PTY_SHUTDOWN:
		link_close(l, WS_CODE_GOING_AWAY, "the agent is shutting down");
		break;
	case PTY_DELETED:
		l->deleted = true;
		ws_pause(l->ws, false);
		ws_wake(l->ws);
		break;
	}
}

static const struct pty_client_ops client_ops = {.wake = client_wake, .evicted = client_evicted};

/* ---- from the client ------------------------------------------------------ */

static void take_input(struct link *l, const void *data, size_t n)
{
	int r = n > 0 ? pty_write(l->client.pty, data, n) : 0;
	if (r < 0)
		note_error(l, "STDIN_WRITE_FAILED",
			   r == -ENOBUFS ? "the shell does not take its input: too much waits already"
					 : "the shell takes no more input");
}

static int take_resize(struct link *l, json_t *frame, struct err *err)
{
	int64_t cols = 0, rows = 0;
	int r = json_get_int(frame, "cols", JSON_OPTIONAL, 0, PTY_SIZE_MAX, &cols, err);
	if (r >= 0)
		r = json_get_int(frame, "rows", JSON_OPTIONAL, 0, PTY_SIZE_MAX, &rows, err);
	/* A terminal that is not shown yet has no size, and some clients say so. */
	if (r >= 0 && cols > 0 && rows > 0)
		(void)pty_resize(l->client.pty, (unsigned)cols, (unsigned)rows);
	return r;
}

static int take_signal(struct link *l, json_t *frame, struct err *err)
{
	const char *name;
	int r = json_get_str(frame, "signal", JSON_REQUIRED, &name, err);
	if (r >= 0 && pty_signal(l->client.pty, name) == -EINVAL)
		r = err_set(err, ERR_INVALID, "INVALID_FRAME", EINVAL, "signal: there is no '%.32s'", name);
	return r;
}

static int take_frame(struct link *l, json_t *frame, struct err *err)
{
	const char *type, *data;
	int r = json_need_obj(frame, JSON_REQUIRED, err);
	if (r >= 0)
		r = json_get_str(frame, "type", JSON_REQUIRED, &type, err);
	if (r < 0)
		return r;
	if (strcmp(type, "stdin") == 0) {
		r = json_get_str(frame, "data", JSON_REQUIRED, &data, err);
		if (r >= 0)
			take_input(l, data, strlen(data));
	} else if (strcmp(type, "resize") == 0) {
		r = take_resize(l, frame, err);
	} else if (strcmp(type, "signal") == 0) {
		r = take_signal(l, frame, err);
	} else if (strcmp(type, "ping") == 0) {
		l->pongs++;
		ws_wake(l->ws);
	} else {
		r = err_set(err, ERR_INVALID, "INVALID_FRAME", EINVAL, "unknown frame type '%.64s'", type);
	}
	return r;
}

static void link_message(struct ws *ws, bool text, const uint8_t *data, size_t n)
{
	struct link *l = ws_arg(ws);
	struct err err = {0};
	json_t *frame = NULL;
	int r = 0;
	if (!l->client.pty || l->failed)
		return; /* about to be closed */
	if (text) {
		r = json_parse(data, n, &frame, &err);
		if (r >= 0)
			r = take_frame(l, frame, &err);
		json_decref(frame);
	} else if (n > 0 && data[0] == FRAME_STDIN) {
		take_input(l, data + 1, n - 1);
	} else if (n > 0) {
		r = err_set(&err, ERR_INVALID, "INVALID_FRAME", EINVAL, "unknown frame 0x%02x", data[0]);
	}
	if (r < 0)
		note_error(l, "INVALID_FRAME", err.message);
	link_pause(l);
}

static const struct ws_ops link_ops = {
	.message = link_message, .writable = link_writable, .closed = link_closed};

/* ---- GET /pty/{id}/ws ------------------------------------------------------ */

static int get_since(struct http_req *req, uint64_t *ret, struct err *err)
{
	const char *text = http_query(req, "since");
	char *end;
	*ret = 0;
	if (!text || !*text)
		return 0;
	errno = 0;
	*ret = strtoull(text, &end, 10);
	if (*text < '0' || *text > '9' || *end || errno)
		return err_set(err, ERR_INVALID, "INVALID_REQUEST", EINVAL, "since: '%.64s' is not an offset",
			       text);
	return 0;
}

static bool query_is(struct http_req *req, const char *name, const char *value)
{
	const char *given = http_query(req, name);
	return given && strcmp(given, value) == 0;
}

static struct link *link_new(const char *id)
{
	struct link *l = calloc(1, sizeof(*l));
	if (!l)
		return NULL;
	l->notes = BUF_INIT(NOTES_MAX);
	l->id = strdup(id);
	if (!l->id) {
		free(l);
		return NULL;
	}
	return l;
}

/* The handshake has been accepted: now the session is the client's. */
static void link_begin(struct link *l, struct pty *p, uint64_t since, bool pipe)
{
	struct pty_info info;
	struct err err = {0};
	pty_attach(p, &l->client, since, &client_ops);
	pty_info(p, &info);
	l->replay_end = info.end;
	if (pty_needs_start(p) && pty_start(p, pipe, &err) < 0) {
		note_error(l, "START_FAILED", err.message);
		l->failed = true;
	}
	pty_info(p, &info);
	l->pipe = info.pipe;
}

int pty_ws_get(struct http_req *req, struct err *err)
{
	const struct execd *execd = http_app(req);
	bool pipe = query_is(req, "pty", "0"), takeover = query_is(req, "takeover", "1");
	struct pty_info info;
	struct pty *p;
	uint64_t since = 0;
	int r = pty_get(execd->ptys, http_param(req, "id"), &p, err);
	if (r >= 0)
		r = get_since(req, &since, err);
	if (r < 0)
		return r;
	pty_info(p, &info);
	if (info.connected && !takeover)
		return err_set(err, ERR_CONFLICT, "ALREADY_CONNECTED", EBUSY,
			       "another client is connected to terminal session '%s'", info.id);
	struct link *l = link_new(info.id);
	if (!l)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "connect to a terminal session");
	r = ws_accept(req, &link_ops, l, &l->ws, err);
	if (r < 0) {
		link_free(l);
		return r;
	}
	link_begin(l, p, since, pipe);
	return 0;
}

/* ---- the sessions ---------------------------------------------------------- */

static int get_id(json_t *body, const char *field, bool *has, uint32_t *ret, struct err *err)
{
	int64_t v = 0;
	/* (uid_t)-1 means "leave it as it is" to the kernel. */
	int r = json_get_int(body, field, JSON_OPTIONAL, 0, UINT32_MAX - 1, &v, err);
	if (r > 0) {
		*has = true;
		*ret = (uint32_t)v;
	}
	return r;
}

static int get_size(json_t *body, const char *field, unsigned *ret, struct err *err)
{
	int64_t v = 0;
	int r = json_get_int(body, field, JSON_OPTIONAL, 1, PTY_SIZE_MAX, &v, err);
	*ret = (unsigned)v;
	return r;
}

static int parse_spec(json_t *body, struct pty_spec *spec, struct err *err)
{
	int r = json_need_obj(body, JSON_OPTIONAL, err);
	if (r >= 0)
		r = json_get_str(body, "cwd", JSON_OPTIONAL, &spec->cwd, err);
	if (r >= 0)
		r = json_get_str(body, "command", JSON_OPTIONAL, &spec->command, err);
	if (r >= 0)
		r = json_get_str_map(body, "envs", JSON_OPTIONAL, &spec->envs, err);
	if (r >= 0)
		r = get_id(body, "uid", &spec->has_uid, &spec->uid, err);
	if (r >= 0)
		r = get_id(body, "gid", &spec->has_gid, &spec->gid, err);
	if (r >= 0)
		r = get_size(body, "cols", &spec->cols, err);
	if (r >= 0)
		r = get_size(body, "rows", &spec->rows, err);
	if (r >= 0 && spec->has_gid && !spec->has_uid)
		r = err_set(err, ERR_INVALID, "INVALID_REQUEST_BODY", EINVAL,
			    "uid: is required when gid is given");
	spec->confinement = json_object_get(body, "confinement");
	/* Clients send what they have, an empty text for nothing. */
	if (spec->cwd && !*spec->cwd)
		spec->cwd = NULL;
	if (spec->command && !*spec->command)
		spec->command = NULL;
	return r < 0 ? r : 0;
}

int pty_post(struct http_req *req, struct err *err)
{
	const struct execd *execd = http_app(req);
	struct pty_spec spec = {0};
	const char *id;
	int r = parse_spec(http_json(req), &spec, err);
	if (r >= 0)
		r = pty_create(execd->ptys, &spec, &id, err);
	if (r < 0)
		return r;
	http_reply_json(req, 201, json_pack("{s:s}", "session_id", id));
	return 0;
}

static void put_info(void *arg, const struct pty_info *info)
{
	char created[CLOCK_RFC3339_MAX];
	struct jw *w = arg;
	const char *signal = info->ended && info->signo ? sigabbrev_np(info->signo) : NULL;
	jw_obj_begin(w);
	jw_kstr(w, "session_id", info->id);
	jw_kbool(w, "running", info->running);
	jw_kint(w, "output_offset", (int64_t)info->end);
	jw_kint(w, "replay_offset", (int64_t)info->begin);
	jw_kbool(w, "connected", info->connected);
	jw_kstr(w, "mode", info->running || info->ended ? info->pipe ? "pipe" : "pty" : NULL);
	jw_key(w, "exit_code");
	if (info->ended)
		jw_int(w, info->exit_code);
	else
		jw_str(w, NULL);
	put_signal(w, signal);
	jw_kint(w, "cols", info->cols);
	jw_kint(w, "rows", info->rows);
	jw_kraw(w, "confinement", info->confinement);
	jw_kraw(w, "denied", info->denied);
	jw_kstr(w, "command", info->command);
	jw_kstr(w, "cwd", info->cwd);
	jw_kstr(w, "created_at", clock_rfc3339(info->created_ms, created));
	jw_obj_end(w);
}

static int reply_infos(struct http_req *req, struct buf *body, struct err *err)
{
	if (body->failed)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "list terminal sessions");
	http_reply_buf(req, 200, "application/json", body);
	return 0;
}

int ptys_get(struct http_req *req, struct err *err)
{
	const struct execd *execd = http_app(req);
	_cleanup_buf_ struct buf body = BUF_INIT(LIST_MAX);
	struct jw w = JW_INIT(&body);
	jw_arr_begin(&w);
	ptys_each(execd->ptys, put_info, &w);
	jw_arr_end(&w);
	return reply_infos(req, &body, err);
}

int pty_get_one(struct http_req *req, struct err *err)
{
	const struct execd *execd = http_app(req);
	_cleanup_buf_ struct buf body = BUF_INIT(LIST_MAX);
	struct jw w = JW_INIT(&body);
	struct pty_info info;
	struct pty *p;
	int r = pty_get(execd->ptys, http_param(req, "id"), &p, err);
	if (r < 0)
		return r;
	pty_info(p, &info);
	put_info(&w, &info);
	return reply_infos(req, &body, err);
}

int pty_delete_one(struct http_req *req, struct err *err)
{
	const struct execd *execd = http_app(req);
	struct pty *p;
	int r = pty_get(execd->ptys, http_param(req, "id"), &p, err);
	if (r < 0)
		return r;
	pty_delete(p);
	http_reply_empty(req, 200);
	return 0;
}
