/*
 * ws_frame.c - WebSocket frames to and from bytes. No state.
 */
#include "proto/ws_frame.h"

#include <string.h>

#include "lib/utf8.h"

static uint64_t big_endian(const uint8_t *p, size_t n)
{
	uint64_t v = 0;
	while (n-- > 0)
		v = v << 8 | *p++;
	return v;
}

static bool opcode_known(unsigned opcode)
{
	return opcode <= WS_BINARY || (opcode >= WS_CLOSE && opcode <= WS_PONG);
}

int ws_head_parse(const uint8_t *data, size_t n, struct ws_head *ret)
{
	if (n < 1)
		return 0;
	unsigned opcode = data[0] & 0x0f;
	bool fin = data[0] & 0x80;
	if (data[0] & 0x70 || !opcode_known(opcode) || (opcode >= WS_CLOSE && !fin))
		return -EPROTO;
	if (n < 2)
		return 0;
	uint64_t length = data[1] & 0x7f;
	if (!(data[1] & 0x80) || (opcode >= WS_CLOSE && length > WS_CONTROL_MAX))
		return -EPROTO;
	size_t more = length == 126 ? 2 : length == 127 ? 8 : 0, size = 2 + more + 4;
	if (n < 2 + more)
		return 0;
	if (more) {
		length = big_endian(data + 2, more);
		if (length < (more == 2 ? 126 : 65536) || length >> 63)
			return -EPROTO;
	}
	if (n < size)
		return 0;
	*ret = (struct ws_head){.opcode = opcode, .fin = fin, .length = length};
	memcpy(ret->mask, data + size - 4, 4);
	return (int)size;
}

void ws_mask(uint8_t *data, size_t n, const uint8_t mask[4], uint64_t offset)
{
	uint8_t turned[8];
	uint64_t word, at;
	size_t i = 0;
	for (size_t k = 0; k < sizeof(turned); k++)
		turned[k] = mask[(offset + k) & 3];
	memcpy(&word, turned, sizeof(word));
	for (; n - i >= sizeof(word); i += sizeof(word)) {
		memcpy(&at, data + i, sizeof(at));
		at ^= word;
		memcpy(data + i, &at, sizeof(at));
	}
	for (; i < n; i++)
		data[i] ^= turned[i & 7];
}

size_t ws_head_write(uint8_t out[WS_SERVER_HEAD_MAX], enum ws_opcode opcode, uint64_t length)
{
	size_t more = length < 126 ? 0 : length < 65536 ? 2 : 8;
	out[0] = (uint8_t)(0x80 | opcode);
	out[1] = (uint8_t)(more == 0 ? length : more == 2 ? 126 : 127);
	for (size_t i = 0; i < more; i++)
		out[2 + i] = (uint8_t)(length >> (8 * (more - 1 - i)));
	return 2 + more;
}

/* RFC 6455 section 7.4, and what has been registered since (1012 to 1014). */
static bool code_may_be_sent(unsigned code)
{
	return (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014) ||
	       (code >= 3000 && code <= 4999);
}

unsigned ws_close_parse(const uint8_t *payload, size_t n, unsigned *ret_code)
{
	*ret_code = WS_CODE_NO_STATUS;
	if (n == 0)
		return 0;
	if (n == 1)
		return WS_CODE_PROTOCOL;
	*ret_code = (unsigned)big_endian(payload, 2);
	if (!code_may_be_sent(*ret_code))
		return WS_CODE_PROTOCOL;
	return utf8_valid(payload + 2, n - 2) ? 0 : WS_CODE_NOT_UTF8;
}
