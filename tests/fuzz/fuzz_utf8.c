/* Bytes to UTF-8: valid whatever comes in, and the same however it is cut. */
#include "lib/utf8.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	_cleanup_buf_ struct buf whole = BUF_INIT(FUZZ_OUT_MAX), pieces = BUF_INIT(FUZZ_OUT_MAX);
	struct utf8_carry carry = {0};

	if (n == 0)
		return 0;
	must(utf8_sanitize(&whole, NULL, data + 1, n - 1) == 0);
	for (size_t at = 1; at < n;) {
		size_t piece = fuzz_piece(data[0], n - at);
		char *copy = fuzz_copy(data + at, piece);

		must(utf8_incomplete_tail(copy, piece) <= 3);
		must(utf8_sanitize(&pieces, &carry, copy, piece) == 0);
		at += piece;
		free(copy);
	}
	must(utf8_flush(&pieces, &carry) == 0);
	must(utf8_valid(whole.data, whole.len));
	must(whole.len == pieces.len && (whole.len == 0 || memcmp(whole.data, pieces.data, whole.len) == 0));
	must(n == 1 || !utf8_valid(data + 1, n - 1) ||
	     (whole.len == n - 1 && memcmp(whole.data, data + 1, n - 1) == 0));
	return 0;
}
