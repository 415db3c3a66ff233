/*
 * ws.c - WebSocket connections on raw tunnels of http.h.
 *
 * libwebsockets has a WebSocket role of its own; it keeps the socket here, not
 * the framing. Read in 4.3.5, its server takes frames that are not masked
 * (RFC 6455 section 5.1: must fail), lengths that are not in their shortest
 * form and a Close of one byte; drops a ping while a pong waits and the answer
 * to a Close while output is held back; needs its own timers for the close
 * handshake, which bring a keep-alive tick and the HTTP role's housekeeping
 * with them; and takes a socket over only by parsing the request a second time,
 * in a header table with limits of its own. On a tunnel the connection stays
 * where it is counted, watched and closed like every other.
 *
 *   OPEN -> CLOSING (our Close is to be sent or answered) -> the tunnel's end
 *      \--> FAILED (the client broke a rule: Close, then the end) ---^
 *
 * A struct ws lives until its tunnel's stop(). Its owner knows it as long as
 * `ops` is set. Loop thread only.
 */
#include "proto/ws.h"

#include <libwebsockets.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "lib/utf8.h"
#include "proto/http_priv.h"
#include "proto/ws_frame.h"

#define ACCEPT_GUID	"258EAFA5-E914-47DA-95CA-C5AB0DC85B11" /* RFC 6455 section 1.3 */
#define KEY_LENGTH	24				       /* 16 bytes in base64 */
#define ACCEPT_ROOM	32
#define MESSAGE_KEPT	4096 /* memory that a connection keeps from one message to the next */
#define KEEPALIVE_S	60   /* after so much silence the kernel asks whether the client is there */
#define KEEPALIVE_GAP_S 15
#define KEEPALIVE_TRIES 4

enum state { OPEN, CLOSING, FAILED };

struct ws {
	struct http_tunnel tunnel;
	struct http_req *req;
	const struct ws_ops *ops; /* NULL: the owner has been told, or wants to know no more */
	void *arg;
	enum state state;

	struct buf in; /* not parsed yet: a piece of a head or of a control frame, or all while paused */
	struct buf message;
	bool in_message; /* its last fragment is to come */
	bool text;
	bool in_frame; /* `head` is that of a data frame with bytes to come */
	struct ws_head head;
	uint64_t taken; /* of the frame's payload */

	char accept[ACCEPT_ROOM]; /* of the answer to the handshake */
	bool answered;
	uint8_t pong[WS_CONTROL_MAX];
	size_t pong_n;
	bool pong_owed;
	uint8_t close[WS_CONTROL_MAX];
	size_t close_n;
	bool close_sent, close_seen;
	struct loop_timer timer;
	bool expired;

	struct buf *out; /* inside proceed() */
	size_t out_end;
};

static struct ws *ws_of(struct http_source *source)
{
	return container_of(source, struct ws, tunnel.source);
}

/* ---- the end ------------------------------------------------------------ */

static void close_expired(struct loop_timer *timer)
{
	struct ws *ws = container_of(timer, struct ws, timer);
	ws->expired = true;
	if (ws->close_sent)
		http_wake(ws->req);
	else
		conn_kill(ws->req->conn); /* it does not even take the Close */
}

static void begin_close(struct ws *ws, enum state state, unsigned code, const char *reason)
{
	struct loop *loop = ws->req->server->loop;
	size_t n = reason ? strlen(reason) : 0;
	if (ws->state != OPEN)
		return;
	ws->state = state;
	if (code != WS_CODE_NO_STATUS) {
		n = MIN(n, (size_t)WS_REASON_MAX);
		n -= n > 0 ? utf8_incomplete_tail(reason, n) : 0;
		ws->close[0] = (uint8_t)(code >> 8);
		ws->close[1] = (uint8_t)code;
		if (n > 0)
			memcpy(ws->close + 2, reason, n);
		ws->close_n = n + 2;
	}
	buf_done(&ws->message);
	if (loop_timer_set(loop, &ws->timer, loop_now_ms(loop) + WS_CLOSE_MS, close_expired) < 0)
		conn_kill(ws->req->conn);
	http_body_pause(ws->req, false);
	http_wake(ws->req);
}

static void tell_closed(struct ws *ws)
{
	const struct ws_ops *ops = TAKE_PTR(ws->ops);
	if (ops)
		ops->closed(ws);
}

/* RFC 6455 section 7.1.7 */
static void ws_fail(struct ws *ws, unsigned code, const char *why)
{
	begin_close(ws, FAILED, code, why);
	tell_closed(ws);
}

void ws_close(struct ws *ws, unsigned code, const char *reason)
{
	ws->ops = NULL;
	begin_close(ws, CLOSING, code, reason);
}

/* ---- what the client sends ---------------------------------------------- */

static void message_complete(struct ws *ws)
{
	size_t n = ws->message.len;
	const uint8_t *data = n > 0 ? ws->message.data : (const uint8_t *)"";
	ws->in_message = false;
	if (ws->text && !utf8_valid(data, n))
		ws_fail(ws, WS_CODE_NOT_UTF8, "the text is not valid UTF-8");
	else if (ws->ops)
		ws->ops->message(ws, ws->text, data, n);
	if (ws->message.cap > MESSAGE_KEPT)
		buf_done(&ws->message);
	buf_clear(&ws->message);
}

static void data_begin(struct ws *ws)
{
	const struct ws_head *h = &ws->head;
	if (ws->in_message == (h->opcode != WS_CONTINUATION)) {
		ws_fail(ws, WS_CODE_PROTOCOL, "fragments out of order");
		return;
	}
	if (h->opcode != WS_CONTINUATION)
		ws->text = h->opcode == WS_TEXT;
	ws->in_message = ws->in_frame = true;
	ws->taken = 0;
	if (h->length > WS_MESSAGE_MAX - ws->message.len)
		ws_fail(ws, WS_CODE_TOO_BIG, "the message is over the limit of 1 MiB");
}

/* A frame of a message, or what has come of it. Once closing it is thrown away. */
static size_t data_take(struct ws *ws, const uint8_t *data, size_t n)
{
	n = (size_t)MIN((uint64_t)n, ws->head.length - ws->taken);
	if (n > 0 && ws->state == OPEN) {
		if (buf_append(&ws->message, data, n) < 0) {
			ws_fail(ws, WS_CODE_INTERNAL, "no memory for the message");
			return n;
		}
		ws_mask(buf_tail(&ws->message) - n, n, ws->head.mask, ws->taken);
	}
	ws->taken += n;
	if (ws->taken == ws->head.length) {
		ws->in_frame = false;
		if (ws->head.fin && ws->state == OPEN)
			message_complete(ws);
		else if (ws->head.fin)
			ws->in_message = false;
	}
	return n;
}

static void close_take(struct ws *ws, const uint8_t *payload, size_t n)
{
	unsigned code, refused = ws_close_parse(payload, n, &code);
	ws->close_seen = true;
	if (refused)
		begin_close(ws, FAILED, refused, "a broken close");
	else
		begin_close(ws, CLOSING, code, NULL);
	tell_closed(ws);
	http_wake(ws->req);
}

/* payload: WS_CONTROL_MAX bytes at most, still masked. */
static void control_take(struct ws *ws, const struct ws_head *h, const uint8_t *masked)
{
	uint8_t payload[WS_CONTROL_MAX];
	size_t n = (size_t)h->length;
	memcpy(payload, masked, n);
	ws_mask(payload, n, h->mask, 0);
	if (h->opcode == WS_CLOSE) {
		close_take(ws, payload, n);
	} else if (h->opcode == WS_PING && ws->state == OPEN) {
		/* The latest ping is the one to be answered: RFC 6455 section 5.5.3. */
		memcpy(ws->pong, payload, n);
		ws->pong_n = n;
		ws->pong_owed = true;
		http_wake(ws->req);
	}
}

/* One step; returns what it has consumed, 0 when it needs more. */
static size_t parse_step(struct ws *ws, const uint8_t *data, size_t n)
{
	if (ws->in_frame)
		return data_take(ws, data, n);
	struct ws_head h;
	int size = ws_head_parse(data, n, &h);
	if (size < 0) {
		ws_fail(ws, WS_CODE_PROTOCOL, "a broken frame");
		return 0;
	}
	if (size == 0 || (h.opcode >= WS_CLOSE && n - (size_t)size < h.length))
		return 0;
	if (h.opcode >= WS_CLOSE) {
		control_take(ws, &h, data + size);
		return (size_t)size + (size_t)h.length;
	}
	ws->head = h;
	data_begin(ws);
	if (ws->state == OPEN && h.length == 0)
		(void)data_take(ws, data, 0);
	return (size_t)size;
}

static bool may_parse(const struct ws *ws)
{
	return ws->state != FAILED && !ws->close_seen && !ws->req->paused;
}

static void parse(struct ws *ws)
{
	size_t used = 0, n = 1;
	while (may_parse(ws) && used < ws->in.len && n > 0) {
		n = parse_step(ws, ws->in.data + used, ws->in.len - used);
		used += n;
	}
	if (ws->state == FAILED || ws->close_seen)
		used = ws->in.len; /* what comes after that is not looked at */
	if (used == ws->in.len)
		buf_done(&ws->in);
	else
		buf_consume(&ws->in, used);
}

static void tunnel_data(struct http_tunnel *t, const void *data, size_t n)
{
	struct ws *ws = container_of(t, struct ws, tunnel);
	if (n == 0) {
		/* There are no half-closed WebSockets; whoever just ends is gone. */
		tell_closed(ws);
		conn_kill(ws->req->conn);
		return;
	}
	if (buf_append(&ws->in, data, n) < 0) {
		ws_fail(ws, WS_CODE_INTERNAL, "no memory");
		return;
	}
	parse(ws);
}

/* ---- what the client gets ------------------------------------------------ */

static void put_frame(struct ws *ws, enum ws_opcode opcode, const void *data, size_t n)
{
	uint8_t head[WS_SERVER_HEAD_MAX];
	(void)buf_append(ws->out, head, ws_head_write(head, opcode, n));
	(void)buf_append(ws->out, data, n);
}

static void put_answer(struct ws *ws)
{
	ws->answered = true;
	(void)buf_printf(ws->out,
			 "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
			 "Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
			 ws->accept);
}

/* Behind every message there is room for a Close. */
size_t ws_room(const struct ws *ws)
{
	size_t reserve = WS_SERVER_HEAD_MAX + 2 + WS_CONTROL_MAX;
	if (!ws->out || ws->state != OPEN || ws->out->len + reserve >= ws->out_end)
		return 0;
	return ws->out_end - ws->out->len - reserve;
}

int ws_send(struct ws *ws, bool text, const struct iovec *pieces, size_t pieces_n)
{
	uint8_t head[WS_SERVER_HEAD_MAX];
	size_t n = 0;
	for (size_t i = 0; i < pieces_n; i++)
		n += pieces[i].iov_len;
	if (n > ws_room(ws))
		return -ENOBUFS;
	(void)buf_append(ws->out, head, ws_head_write(head, text ? WS_TEXT : WS_BINARY, n));
	for (size_t i = 0; i < pieces_n; i++)
		(void)buf_append(ws->out, pieces[i].iov_base, pieces[i].iov_len);
	return ws->out->failed ? -ENOMEM : 0;
}

/* Whether the tunnel has come to its end. */
static bool finished(const struct ws *ws)
{
	return ws->close_sent && (ws->close_seen || ws->state == FAILED || ws->expired);
}

static int tunnel_proceed(struct http_source *source, struct buf *out, size_t room)
{
	struct ws *ws = ws_of(source);
	ws->out = out;
	ws->out_end = out->len + room;
	if (!ws->answered)
		put_answer(ws);
	parse(ws); /* what has waited while paused */
	if (ws->pong_owed && ws->state == OPEN)
		put_frame(ws, WS_PONG, ws->pong, ws->pong_n);
	ws->pong_owed = false;
	if (ws->ops)
		ws->ops->writable(ws);
	if (ws->state != OPEN && !ws->close_sent) {
		put_frame(ws, WS_CLOSE, ws->close, ws->close_n);
		ws->close_sent = true;
	}
	ws->out = NULL;
	return finished(ws);
}

static void tunnel_stop(struct http_source *source, bool complete)
{
	struct ws *ws = ws_of(source);
	(void)complete;
	tell_closed(ws);
	loop_timer_del(&ws->timer);
	buf_done(&ws->in);
	buf_done(&ws->message);
	free(ws);
}

void ws_wake(struct ws *ws)
{
	http_wake(ws->req);
}

void ws_pause(struct ws *ws, bool pause)
{
	if (ws->req->paused == pause)
		return;
	http_body_pause(ws->req, pause);
	if (!pause)
		http_wake(ws->req);
}

void *ws_arg(const struct ws *ws)
{
	return ws->arg;
}

/* ---- the handshake ------------------------------------------------------- */

/* RFC 9110 section 5.6.1: a comma-separated list, over all fields of that name. */
static bool header_lists(struct http_req *req, const char *name, const char *token)
{
	size_t token_n = strlen(token);
	const char *value, *field;
	for (size_t i = 0; (field = http_header_at(req, i, &value)); i++) {
		if (strcasecmp(field, name) != 0)
			continue;
		while (*value) {
			value += strspn(value, " \t,");
			size_t n = strcspn(value, ", \t");
			if (n == token_n && strncasecmp(value, token, n) == 0)
				return true;
			value += n;
		}
	}
	return false;
}

/* 16 bytes in base64: 22 digits and two signs that there are no more. */
static bool key_is_valid(const char *key)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	return key && strlen(key) == KEY_LENGTH && strspn(key, digits) == KEY_LENGTH - 2 &&
	       strcmp(key + KEY_LENGTH - 2, "==") == 0;
}

static int refuse(struct err *err, const char *why)
{
	return err_set(err, ERR_INVALID, "INVALID_REQUEST", EINVAL, "WebSocket handshake: %s", why);
}

static int need_upgrade(struct http_req *req, struct err *err, const char *why)
{
	(void)http_add_header(req, "Connection", "Upgrade");
	(void)http_add_header(req, "Upgrade", "websocket");
	(void)http_add_header(req, "Sec-WebSocket-Version", "13");
	return err_set(err, ERR_UPGRADE, "UPGRADE_REQUIRED", EPROTO, "%s", why);
}

static int handshake_check(struct http_req *req, struct err *err)
{
	const char *version = http_header(req, "Sec-WebSocket-Version");
	if (strcmp(http_method(req), "GET") != 0)
		return refuse(err, "the method is not GET");
	if (!header_lists(req, "Upgrade", "websocket") || !header_lists(req, "Connection", "upgrade"))
		return need_upgrade(req, err, "this is a WebSocket: the request does not ask to upgrade");
	if (http_minor(req) == 0)
		return refuse(err, "the request is not HTTP/1.1");
	if (!version || strcmp(version, "13") != 0)
		return need_upgrade(req, err, "the version of WebSocket spoken here is 13");
	if (!key_is_valid(http_header(req, "Sec-WebSocket-Key")))
		return refuse(err, "header Sec-WebSocket-Key is not 16 bytes in base64");
	if (http_body_length(req) != 0)
		return refuse(err, "the request has a body");
	return 0;
}

static int accept_key(const char *key, char out[ACCEPT_ROOM])
{
	char text[KEY_LENGTH + sizeof(ACCEPT_GUID)];
	unsigned char digest[20];
	memcpy(text, key, KEY_LENGTH);
	memcpy(text + KEY_LENGTH, ACCEPT_GUID, sizeof(ACCEPT_GUID));
	(void)lws_SHA1((const unsigned char *)text, sizeof(text) - 1, digest);
	return lws_b64_encode_string((const char *)digest, sizeof(digest), out, ACCEPT_ROOM) < 0 ? -ENOBUFS
												 : 0;
}

/* A Unix socket has no such options and no need of them: its peer cannot vanish. */
static void keep_alive(int fd)
{
	static const int on = 1, idle = KEEPALIVE_S, gap = KEEPALIVE_GAP_S, tries = KEEPALIVE_TRIES;
	(void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &gap, sizeof(gap));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &tries, sizeof(tries));
}

int ws_accept(struct http_req *req, const struct ws_ops *ops, void *arg, struct ws **ret, struct err *err)
{
	int r = handshake_check(req, err);
	if (r < 0)
		return r;
	struct ws *ws = calloc(1, sizeof(*ws));
	if (!ws)
		return err_sys(err, "RUNTIME_ERROR", ENOMEM, "open a WebSocket");
	if (accept_key(http_header(req, "Sec-WebSocket-Key"), ws->accept) < 0) {
		free(ws);
		return err_sys(err, "RUNTIME_ERROR", ENOBUFS, "open a WebSocket");
	}
	ws->tunnel = (struct http_tunnel){
		.source = {tunnel_proceed, tunnel_stop}, .data = tunnel_data, .raw = true};
	ws->req = req;
	ws->ops = ops;
	ws->arg = arg;
	ws->in = BUF_INIT(SIZE_MAX / 2); /* what one read of the connection brings, and a frame's beginning */
	ws->message = BUF_INIT(WS_MESSAGE_MAX);
	keep_alive(req->conn->sock.io.fd);
	*ret = ws;
	http_tunnel_begin(req, &ws->tunnel);
	return 0;
}
