/* JSON in: parsed or refused with words; JSON out: any bytes make a string that is read back. */
#include "lib/utf8.h"
#include "proto/json.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	_cleanup_buf_ struct buf out = BUF_INIT(FUZZ_OUT_MAX), clean = BUF_INIT(FUZZ_OUT_MAX);
	struct jw w = JW_INIT(&out);
	struct err err = {0};
	json_t *root = NULL;

	if (json_parse(data, n, &root, &err) < 0)
		must_be_told(&err);
	json_decref(root);

	root = NULL;
	jw_arr_begin(&w);
	jw_strn(&w, data, n);
	jw_arr_end(&w);
	must(!out.failed);
	root = json_loadb((const char *)out.data, out.len, JSON_ALLOW_NUL,
			  NULL); /* which json_parse() refuses */
	must(root);
	must(utf8_sanitize(&clean, data, n) == 0);
	must(json_string_length(json_array_get(root, 0)) == clean.len);
	must(clean.len == 0 ||
	     memcmp(json_string_value(json_array_get(root, 0)), clean.data, clean.len) == 0);
	json_decref(root);
	return 0;
}
