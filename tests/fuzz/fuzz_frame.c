/* Frames from a kernel, and the JSON in them. */
#include "execd/frame.h"
#include "proto/json.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	_cleanup_buf_ struct buf in = BUF_INIT(FUZZ_OUT_MAX), again = BUF_INIT(FUZZ_OUT_MAX);
	struct frame f;
	int r;

	must(buf_append(&in, data, n) == 0);
	while ((r = frame_peek(&in, &f)) == 1) {
		struct err err = {0};
		json_t *json = NULL;

		must(f.len <= FRAME_MAX && f.data + f.len <= in.data + in.len);
		must(frame_append(&again, f.kind, f.data, f.len) == 0);
		if (json_parse(f.data, f.len, &json, &err) < 0)
			must_be_told(&err);
		json_decref(json);
		frame_consume(&in, &f);
	}
	must(r == 0 || r == -EMSGSIZE);
	must(again.len <= n && (again.len == 0 || memcmp(again.data, data, again.len) == 0));
	return 0;
}
