/*
 * http.h - an HTTP/1.1 server on the loop: routes, requests, responses that are generators.
 *
 * libwebsockets is behind this header, in lws_loop.c alone. A request is
 * handled in callbacks on the loop. Its life:
 *
 *   headers complete -> authorize -> route -> [body] -> handler -> reply
 *
 * A handler either replies (at once or later) or returns -errno with *err
 * filled, and the server replies from that. Every error reply is JSON,
 * {"code", "message"} (shared reference: ErrorResponse), and every request gets
 * exactly one reply. A reply may be a generator in the sense of h2o: the server
 * pulls (`proceed`) when the socket has room and tells it when to `stop`, so a
 * slow client costs one bounded buffer and nothing is ever queued for it.
 *
 * Sources: RFC 9110 (semantics), RFC 9112 (HTTP/1.1 framing).
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>

#include "lib/buf.h"
#include "lib/err.h"
#include "lib/loop.h"

struct http_server;
struct http_req;

/* ---- routes ---------------------------------------------------------- */

enum http_body {
	HTTP_BODY_NONE,	  /* any body is drained and ignored */
	HTTP_BODY_JSON,	  /* read whole (bounded) and parsed before the handler runs */
	HTTP_BODY_STREAM, /* the handler runs at the headers and installs a sink */
};

/* 0: replied, or will reply later. -errno: *err is filled and no reply was begun. */
typedef int http_handler_fn(struct http_req *req, struct err *err);

struct http_route {
	const char *method; /* "GET", ...; a GET route also answers HEAD; "*": any */
	const char *path;   /* "/command/{id}/logs"; a final "/" + "*" takes the rest */
	http_handler_fn *fn;
	enum http_body body;
	bool open; /* answered without authorization */
};

/* ---- server ---------------------------------------------------------- */

struct http_config {
	const struct http_route *routes; /* ends with .method == NULL; borrowed for good */
	void *app;			 /* http_app(req) */

	/* Called before routing unless the route is open. NULL: everything is allowed. */
	int (*authorize)(struct http_req *req, struct err *err);

	const char *prefix; /* optional path prefix under which the same routes exist ("/v1"), or NULL */
	bool request_id;    /* X-Request-ID: echo or make one */

	size_t header_max;	     /* bytes of request line and headers (0: 65536); over it 431 */
	size_t json_max;	     /* bytes of a JSON body (0: 8 MiB); over it 413 */
	unsigned conns_max;	     /* connections (0: by the descriptor limit less a reserve) */
	uint64_t head_timeout_ms;    /* to receive the headers (0: 30000) */
	uint64_t idle_timeout_ms;    /* keep-alive without a request (0: 120000) */
	void (*on_empty)(void *app); /* the last connection has gone; or NULL */
};

int http_server_new(struct loop *loop, const struct http_config *config, struct http_server **ret,
		    struct err *err);
/* Closes every connection (sources are stopped, sinks and on_gone told) and listener. */
void http_server_free(struct http_server *s);
/* Serves a listening stream socket; consumes fd. */
int http_server_listen(struct http_server *s, int fd, struct err *err);
/* Serves one connection that is there already; consumes fd, a stream socket. */
int http_server_adopt(struct http_server *s, int fd, struct err *err);
/* No connection is open. */
bool http_server_is_empty(const struct http_server *s);
/* Binds host:port (port 0: any) and returns the listening descriptor, close-on-exec and non-blocking. */
int http_bind(const char *host, uint16_t port, int *ret_fd, uint16_t *ret_port, struct err *err);

/* ---- request --------------------------------------------------------- */
/* Strings are borrowed and live as long as the request. */

void *http_app(struct http_req *req);
const char *http_method(struct http_req *req);
const char *http_path(struct http_req *req);			/* decoded */
const char *http_param(struct http_req *req, const char *name); /* path parameter; "*" for the rest */
const char *http_query(struct http_req *req, const char *name); /* first value, decoded once, or NULL */
size_t http_query_all(struct http_req *req, const char *name, const char **ret,
		      size_t max);				 /* returns the count */
const char *http_header(struct http_req *req, const char *name); /* case-insensitive, or NULL */
json_t *http_json(struct http_req *req);			 /* NULL when the body was empty */
const char *http_request_id(struct http_req *req);		 /* NULL unless configured */
/* The Host header, or the local address of the connection: what the client calls us. */
const char *http_host(struct http_req *req);

/*
 * A page that is not ours asks for a change, out of the browser of somebody whom we know by no more than the
 * address. Never for a route of any method: what is behind it has to know whose pages it trusts.
 */
bool http_cross_site(struct http_req *req);

/* Object of the handler that outlives the callback; free for its use. */
void http_set_data(struct http_req *req, void *data);
void *http_data(struct http_req *req);

/*
 * For a handler that replies later: fn runs once if the client vanishes before
 * a reply is begun; afterwards req is invalid. Not called after a reply began
 * (a source has stop() for that), nor while a sink is open (it has abort()).
 *
 * A client that only ends its own sending (shutdown(2) after the request) has
 * not vanished and gets its reply. HTTP/1.0 clients that do so while a source
 * of unknown length is idle are the exception: nothing tells them from others.
 */
void http_on_gone(struct http_req *req, void (*fn)(struct http_req *req));

/* ---- request body as a stream ---------------------------------------- */

struct http_sink {
	/* Transfer coding already removed. -errno with *err filled ends the request with that error. */
	int (*data)(struct http_req *req, const void *data, size_t n, struct err *err);
	/* The body is complete: the handler replies now or later. */
	int (*end)(struct http_req *req, struct err *err);
	/* The client vanished before the end, or data()/end() failed: release what is held. Never after end()
	 * returned 0. */
	void (*abort)(struct http_req *req);
};

/*
 * HTTP_BODY_STREAM handlers call it once, before returning 0. sink is static.
 * Whoever replies before the body is complete gets neither end() nor abort();
 * what is left of the body is drained.
 */
void http_set_sink(struct http_req *req, const struct http_sink *sink);
/* Stops and resumes delivery (a sink that waits for a slow disk or a pipe). */
void http_body_pause(struct http_req *req, bool pause);
/* Content-Length, or -1 when the body is chunked. */
int64_t http_body_length(struct http_req *req);

/* ---- reply ------------------------------------------------------------ */

/* Adds a header to the reply to come. CR, LF and NUL in value are refused with -EINVAL. */
int http_add_header(struct http_req *req, const char *name, const char *value);

/* One whole reply; data is copied. Ends the request: req is invalid after these. */
void http_reply(struct http_req *req, unsigned status, const char *content_type, const void *data, size_t n);
void http_reply_empty(struct http_req *req, unsigned status);
void http_reply_buf(struct http_req *req, unsigned status, const char *content_type,
		    struct buf *body); /* b is emptied */
void http_reply_json(struct http_req *req, unsigned status, json_t *json_consumed);
void http_reply_err(struct http_req *req, const struct err *err);

struct http_source {
	/*
	 * The socket has room: append up to `room` bytes to out. Returns 1 when
	 * that was the last of it, 0 when there is more (nothing appended: the
	 * source calls http_wake() when there is), -errno to break the
	 * connection off, so that the client sees the cut.
	 */
	int (*proceed)(struct http_source *src, struct buf *out, size_t room);
	/* Called once, after the end or when the client has gone; src may be freed. */
	void (*stop)(struct http_source *src, bool complete);
};

/* length: Content-Length, or -1 (chunked). The server owns src until stop(). */
void http_reply_source(struct http_req *req, unsigned status, const char *content_type, int64_t length,
		       struct http_source *src);
/* The source has something to give. Valid until stop(). */
void http_wake(struct http_req *req);

/* ---- the connection itself --------------------------------------------- */

/*
 * For whoever speaks HTTP with somebody else on behalf of the client (a reverse
 * proxy): the reply is written as it is, head and framing included, and the
 * request's body is handed on with its framing. Begun instead of a reply.
 */
struct http_tunnel {
	/* As for a source; what it appends is not framed. 1: the reply is complete. */
	struct http_source source;
	/* From the client: its body's bytes as framed, or, when raw, all it sends; n == 0: it sends no more.
	 */
	void (*data)(struct http_tunnel *t, const void *data, size_t n);
	bool raw;     /* set it when the protocol has been switched (101): there is no next request */
	bool keep;    /* after the reply the connection may serve another request */
	bool framed;  /* the head of the reply tells where it ends: a client sees by itself that it is cut */
	bool between; /* what has been given ends between two chunks: a zero may lead the size of the next */
};

/* t lives until its source's stop(). http_body_pause() and http_wake() work as usual. */
void http_tunnel_begin(struct http_req *req, struct http_tunnel *t);

/* The request target as sent: byte-faithful path and query, "/path?query". */
const char *http_target(struct http_req *req);
/* 0 for HTTP/1.0, 1 for HTTP/1.1. */
unsigned http_minor(struct http_req *req);
/* The client expects the connection to go on after the reply. */
bool http_keep_alive(struct http_req *req);
/* The i-th header field as sent, in order; NULL behind the last. */
const char *http_header_at(struct http_req *req, size_t i, const char **ret_value);
