/*
 * http_priv.h - what the files of the HTTP server share: server, connection, request.
 *
 *   server.c   listeners, limits, the connections as a whole
 *   conn.c     one connection: its states, reading, writing, timeouts, its end
 *   body.c     the request's body: framing, JSON, sinks, draining
 *   http.c     one request: from the head to its handler, and its accessors
 *   reply.c    the reply: status line and headers, whole bodies, sources
 *
 * All of it runs on the loop thread. A connection has one request at a time;
 * what a client pipelines behind it waits in conn->in, or in the socket.
 *
 * Nothing of a request is lost on the way here: head.target is the request line
 * byte for byte, for a proxy; and the head as it came can be handed on with the
 * socket, for a WebSocket (lws_loop.h).
 */
#pragma once

#include "proto/chunked.h"
#include "proto/headers.h"
#include "proto/http.h"
#include "proto/lws_loop.h"
#include "proto/router.h"

#define HTTP_PIECE_MAX	      0x40000 /* what a source may give at a time, and what is written at once */
#define HTTP_DRAIN_MAX	      65536   /* of an unwanted body that is read to keep the connection */
#define HTTP_LINGER_MS	      5000 /* for the client to see the last reply before the connection is reset */
#define HTTP_FRESH_MS	      1000 /* in which a new connection is not taken for an idle one */
#define HTTP_REPLY_HEAD_MAX   65536
#define HTTP_REQUEST_ID_MAX   128
#define HTTP_REQUESTS_SPARE   64
#define HTTP_SPARE_BUFFER_MAX (HTTP_PIECE_MAX + 0x10000)

struct http_server {
	struct loop *loop;
	struct lws_loop *lws;
	struct http_config config; /* defaults filled in */

	struct list listeners;
	struct list conns; /* all that are busy */
	struct list idle;  /* between requests, longest idle first */
	struct list slow;  /* within a request's head, or after a last reply, longest first */
	unsigned conns_n;

	int reserve_fd;	    /* given up to accept and refuse when descriptors run out */
	bool accept_paused; /* until a connection ends or the timer fires */
	struct loop_timer accept_timer;
	uint64_t accept_warned_ms;

	/* Kept for the next one that needs it, so that a request costs no allocation. */
	struct buf spare_in, spare_out;
	struct list spare_reqs;
	unsigned spare_reqs_n;
};

enum conn_state {
	CONN_HEAD,    /* no request: what arrives is the next one's head */
	CONN_BODY,    /* the body is being received */
	CONN_WAIT,    /* the handler will reply later */
	CONN_SOURCE,  /* a source makes the reply */
	CONN_TUNNEL,  /* the same, while the client's bytes go to the tunnel */
	CONN_DRAIN,   /* replied; the rest of the body is thrown away */
	CONN_CLOSING, /* replied for the last time; waits for the client to have read it */
	CONN_DEAD,    /* torn down in deferred work */
};

struct body {
	int64_t left; /* by Content-Length */
	bool chunked;
	bool complete;
	struct chunked decoder;
	size_t drained;
};

struct http_conn {
	struct list link; /* in server->conns, ->idle or ->slow */
	struct http_server *server;
	struct lws_sock sock;
	enum conn_state state;
	struct http_req *req; /* NULL in HEAD, DRAIN and CLOSING */
	struct body body;

	struct buf in;	/* read and not yet consumed */
	size_t in_off;	/* consumed */
	size_t scanned; /* of an incomplete head */
	struct buf out; /* LWS_SOCK_PRE, then what will be written at the end of this run */

	struct loop_timer timer; /* armed no later than deadline_ms */
	uint64_t deadline_ms;	 /* 0: none */
	struct loop_defer work;

	uint64_t idle_since_ms;
	bool fresh;	 /* has not had a request yet */
	bool running;	 /* inside conn_run() */
	bool blocked;	 /* part of the last write is held back */
	bool in_masked;	 /* data waits that nobody wants yet */
	bool fin_masked; /* the client's FIN has been seen */
	bool eof;	 /* and all that came before it has been read */
	bool probed;	 /* an answer that only a living client leaves unanswered was sent after the FIN */
	bool fin_passed; /* to the other side of a raw tunnel */
	bool lingers;	 /* in CLOSING: input is outstanding, so a plain close would be a reset */
	bool shut;	 /* in CLOSING: our FIN is sent */
};

struct http_req {
	struct list link; /* when spare */
	struct http_conn *conn;
	struct http_server *server;

	struct buf text; /* the head, cut into strings; behind it what was decoded from it */
	struct head head;
	const char *path;
	const char *query; /* decoded, query_n bytes */
	size_t query_n;
	struct route_match match;
	char *host; /* local address, made on demand */
	char request_id[HTTP_REQUEST_ID_MAX + 1];

	void *data;
	void (*on_gone)(struct http_req *req);

	struct buf json_text;
	json_t *json;
	const struct http_sink *sink; /* open: neither ended nor aborted */
	bool paused;
	bool continue_owed; /* the client waits for 100 Continue */

	struct buf headers; /* added to the reply to come */
	bool close;	    /* the reply is the last one */
	bool replied;	    /* reply begun */

	struct http_tunnel *tunnel; /* its source is `source` */
	struct http_source *source;
	int64_t source_left; /* -1: unknown */
	bool source_chunked;
	bool source_idle; /* gave nothing; waits for http_wake() */
	bool silent;	  /* a tunnel on which nothing of a reply has come */
	bool head_only;	  /* the body of the reply is not sent */
};

/* ---- server.c --------------------------------------------------------- */

/* A connection has gone: there is room for another. */
void server_conn_gone(struct http_server *s);

/* ---- conn.c ----------------------------------------------------------- */

/* Consumes fd. */
int conn_new(struct http_server *s, int fd);
/* Now, outside of any callback of the connection. */
void conn_free(struct http_conn *c);
/* In deferred work of this turn; nothing more is read or written. */
void conn_kill(struct http_conn *c);
/* Goes on in deferred work of this turn. */
void conn_kick(struct http_conn *c);
/* Between requests, and none is on its way as far as can be known. */
bool conn_is_idle(const struct http_conn *c);
/* Of those in ->slow. */
bool conn_gives_way(const struct http_conn *c);
/* Writes what is in out. */
void conn_flush(struct http_conn *c);
/* ms from now, 0: no deadline. */
void conn_deadline(struct http_conn *c, uint64_t ms);
/* The buffer for the next write, with LWS_SOCK_PRE bytes in front. */
struct buf *conn_out(struct http_conn *c);
/* To the next request, or to the end. */
void conn_idle(struct http_conn *c);
void conn_close(struct http_conn *c);
/* The reply is complete in out or written: what comes after it. */
void conn_replied(struct http_conn *c, bool keep);

/* ---- http.c ----------------------------------------------------------- */

struct http_req *req_new(struct http_conn *c);
void req_free(struct http_req *req);
/* The head is in req->text; replies, or sets the connection's state for what follows. */
void req_begin(struct http_req *req, size_t head_n);
/* The body is complete. */
void req_body_done(struct http_req *req);
/* Runs what may fail with an error reply: r < 0 makes it. */
void req_result(struct http_req *req, int r, const struct err *err);

/* ---- body.c ----------------------------------------------------------- */

void body_begin(struct body *b, const struct head *head);
/* Consumes what it can of the body; the connection's state tells what came of it. */
size_t body_feed(struct http_conn *c, const uint8_t *data, size_t n);
/* Hands the client's bytes to the tunnel as they are, up to the end of the body unless it is raw. */
size_t body_tunnel(struct http_conn *c, const uint8_t *data, size_t n);
/* Whether the rest may be read and thrown away to keep the connection. */
bool body_drainable(const struct body *b);
/* Asks the client for the body when it waits to be asked. */
void body_continue(struct http_req *req);

/* ---- reply.c ---------------------------------------------------------- */

/* An error of the framework itself; close: the connection can not go on. */
void reply_status(struct http_req *req, unsigned status, const char *code, bool close, const char *fmt, ...)
	PRINTF_LIKE(5, 6);
/* One round of the source: true when its reply is complete. */
bool reply_pump(struct http_req *req);
/* After the client's FIN: sends something harmless that a client that is gone answers with a reset. */
void reply_probe(struct http_conn *c);
