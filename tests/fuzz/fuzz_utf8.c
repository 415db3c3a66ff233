/* Bytes to UTF-8: valid whatever comes in, and the same however it is cut. */
#include "lib/utf8.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	_cleanup_buf_ struct buf whole = BUF_INIT(FUZZ_OUT_MAX), pieces = BUF_INIT(FUZZ_OUT_MAX);
	size_t tail = 0;

	if (n == 0)
		return 0;
	must(utf8_sanitize(&whole, data + 1, n - 1) == 0);
	for (size_t at = 1; at < n;) {
		/* What was left of the piece before comes first. */
		size_t piece = tail + fuzz_piece(data[0], n - at);
		char *copy = fuzz_copy(data + at - tail, piece);

		at += piece - tail;
		tail = utf8_incomplete_tail(copy, piece);
		must(tail <= 3);
		must(utf8_sanitize(&pieces, copy, piece - tail) == 0);
		free(copy);
	}
	must(utf8_sanitize(&pieces, data + n - tail, tail) == 0);
	must(utf8_valid(whole.data, whole.len));
	must(whole.len == pieces.len && (whole.len == 0 || memcmp(whole.data, pieces.data, whole.len) == 0));
	must(n == 1 || !utf8_valid(data + 1, n - 1) ||
	     (whole.len == n - 1 && memcmp(whole.data, data + 1, n - 1) == 0));
	return 0;
}
