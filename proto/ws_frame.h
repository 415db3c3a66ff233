/*
 * ws_frame.h - the framing of the WebSocket protocol (RFC 6455 section 5), no I/O and no state.
 */
#pragma once

#include <stdbool.h>

#include "lib/util.h"

#define WS_HEAD_MAX	   14  /* bytes of a frame's head from a client */
#define WS_SERVER_HEAD_MAX 10  /* and from a server, which does not mask */
#define WS_CONTROL_MAX	   125 /* bytes that a control frame carries */

enum ws_opcode {
	WS_CONTINUATION = 0,
	WS_TEXT = 1,
	WS_BINARY = 2,
	WS_CLOSE = 8,
	WS_PING = 9,
	WS_PONG = 10,
};

/* Close codes, RFC 6455 section 7.4.1. */
#define WS_CODE_NORMAL	   1000
#define WS_CODE_GOING_AWAY 1001
#define WS_CODE_PROTOCOL   1002
#define WS_CODE_NO_STATUS  1005 /* never sent: a Close without a code */
#define WS_CODE_NOT_UTF8   1007
#define WS_CODE_TOO_BIG	   1009
#define WS_CODE_INTERNAL   1011

struct ws_head {
	enum ws_opcode opcode;
	bool fin;
	uint8_t mask[4];
	uint64_t length; /* of the payload */
};

/*
 * The head of a client's frame. Returns its size, 0 when more bytes are
 * needed, -EPROTO when it breaks a rule that shows in the head alone: reserved
 * bits and opcodes, no mask, a control frame that is long or in fragments, a
 * length not in its shortest form.
 */
int ws_head_parse(const uint8_t *data, size_t n, struct ws_head *ret);
/* Takes the mask off n bytes, or puts it on; offset: their place in the payload. */
void ws_mask(uint8_t *data, size_t n, const uint8_t mask[4], uint64_t offset);
/* The head of a server's whole message. Returns its size. */
size_t ws_head_write(uint8_t out[WS_SERVER_HEAD_MAX], enum ws_opcode opcode, uint64_t length);
/*
 * What a Close carries. *ret_code: WS_CODE_NO_STATUS for none. Returns 0, or
 * the code to refuse it with.
 */
unsigned ws_close_parse(const uint8_t *payload, size_t n, unsigned *ret_code);
