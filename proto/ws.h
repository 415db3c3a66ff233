/*
 * ws.h - the server's side of a WebSocket (RFC 6455), as callbacks on the loop.
 *
 * Messages arrive whole. Sending is pulled: writable() is called when the
 * socket has room and takes what there is then; ws_wake() says that there is
 * something again. So nothing is queued for a slow client, but while its socket
 * is full nothing is read from it either.
 *
 * Pings are answered, fragments put together, closes answered and checked here.
 * A client that vanishes without a word is found out by the kernel
 * (SO_KEEPALIVE): an open connection on which nothing happens costs no wake-up.
 */
#pragma once

#include <stdbool.h>
#include <sys/uio.h>

#include "lib/err.h"

#define WS_MESSAGE_MAX (1U << 20) /* bytes of a message from a client; over it: close code 1009 */
#define WS_REASON_MAX  123	  /* bytes of the text of a close */
#define WS_CLOSE_MS    5000	  /* for the other side to take note of a close */

struct http_req;
struct ws;

struct ws_ops {
	/* Data is valid during the call. Text is valid UTF-8. */
	void (*message)(struct ws *ws, bool text, const uint8_t *data, size_t n);
	/* The only place for ws_send(). What is not sent now waits for the next call, or for ws_wake(). */
	void (*writable)(struct ws *ws);
	/* The client has closed it, or is gone. Nothing may be called on ws any more. */
	void (*closed)(struct ws *ws);
};

/*
 * Checks the handshake and answers it. Ends the request as a reply does; on
 * failure -errno with *err (400, 426), and nothing has been sent. ops is
 * static. The first call is writable(), not from within this one.
 */
int ws_accept(struct http_req *req, const struct ws_ops *ops, void *arg, struct ws **ret, struct err *err);
void *ws_arg(const struct ws *ws);

/* How many bytes ws_send() takes now; 0 outside of writable(). */
size_t ws_room(const struct ws *ws);
/* One whole message made of the pieces. -ENOBUFS when it is over ws_room(). */
int ws_send(struct ws *ws, bool text, const struct iovec *pieces, size_t pieces_n);
/* There is something to send. */
void ws_wake(struct ws *ws);
/* No message is delivered while paused; pings are not answered then, and a close not seen. */
void ws_pause(struct ws *ws, bool pause);
/*
 * Sends a Close behind what has been sent and forgets the connection: no
 * callback follows, ws belongs to the server. reason: text, cut to WS_REASON_MAX.
 */
void ws_close(struct ws *ws, unsigned code, const char *reason);
