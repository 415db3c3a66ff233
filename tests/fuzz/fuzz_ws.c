/* WebSocket frames of a client: heads, masks, what a Close carries. */
#include "proto/ws_frame.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	size_t at = 0;

	while (at < n) {
		char *copy = fuzz_copy(data + at, n - at);
		struct ws_head head;
		int r = ws_head_parse((const uint8_t *)copy, n - at, &head);
		unsigned code = 0;
		size_t payload;

		if (r <= 0) {
			must(r < 0 || n - at < WS_HEAD_MAX);
			free(copy);
			break;
		}
		must(r <= WS_HEAD_MAX && (size_t)r <= n - at);
		payload = (uint64_t)(n - at - (size_t)r) < head.length ? n - at - (size_t)r
								       : (size_t)head.length;
		ws_mask((uint8_t *)copy + r, payload, head.mask, 0);
		if (head.opcode == WS_CLOSE)
			(void)ws_close_parse((const uint8_t *)copy + r, payload, &code);
		ws_mask((uint8_t *)copy + r, payload / 2, head.mask, 0);
		ws_mask((uint8_t *)copy + r + payload / 2, payload - payload / 2, head.mask, payload / 2);
		must(memcmp(copy, data + at, n - at) == 0); /* on again, in two pieces */
		at += (size_t)r + payload;
		free(copy);
	}
	return 0;
}
