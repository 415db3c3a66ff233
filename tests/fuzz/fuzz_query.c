/* Query strings and percent-encoding. */
#include "proto/query.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	char *text = fuzz_copy(data, n), *out = malloc(QUERY_ROOM(strlen(text)));
	const char *values[4];
	ssize_t r;

	must(out);
	r = query_decode(out, text);
	if (r >= 0) {
		must((size_t)r <= QUERY_ROOM(strlen(text)) && (r == 0 || out[r - 1] == '\0'));
		(void)query_get(out, (size_t)r, "path", values, 4);
		(void)query_get(out, (size_t)r, "", values, 4);
	}
	r = url_decode(text, text, strlen(text), false);
	must(r < 0 || strlen(text) == (size_t)r);
	free(out);
	free(text);
	return 0;
}
