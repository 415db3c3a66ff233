/* The head of a request: the same size however the bytes arrive; parsed fields lie within it. */
#include "proto/headers.h"
#include "tests/fuzz/fuzz.h"

static ssize_t find_in_pieces(const uint8_t *data, size_t n, size_t piece)
{
	size_t scanned = 0;

	for (size_t have = 0;; have += piece) {
		ssize_t r = head_find(data, have < n ? have : n, &scanned);

		if (r != 0 || have >= n)
			return r;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	size_t scanned = 0, size;
	const char *why = NULL;
	struct head head;
	ssize_t r;
	char *text;

	if (n == 0)
		return 0;
	text = fuzz_copy(data + 1, n - 1);
	r = head_find((const uint8_t *)text, n - 1, &scanned);
	must(r <= (ssize_t)n - 1);
	must(find_in_pieces((const uint8_t *)text, n - 1, data[0] ? data[0] : 1) == r);
	if (r > 0) {
		size = (size_t)r;
		if (head_parse(text, size, &head, &why) != 0)
			must(why);
		else
			must(head.target >= text && head.target + strlen(head.target) <= text + size &&
			     head.fields_n <= HEAD_FIELDS_MAX && head.length >= -1);
		(void)head_get(&head, "x");
	}
	free(text);
	return 0;
}
