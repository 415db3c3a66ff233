/* Chunked bodies: the same content and the same verdict however the bytes are cut. */
#include "proto/chunked.h"
#include "tests/fuzz/fuzz.h"

/* The verdict; *ret_used: where the body has ended. */
static int decode(const uint8_t *data, size_t n, uint8_t cut, struct buf *out, size_t *ret_used)
{
	struct chunked c = {0};
	size_t at = 0;
	int r = 0;

	while (at < n && r == 0) {
		size_t piece = fuzz_piece(cut, n - at), used = 0, content_n = 0;
		char *copy = fuzz_copy(data + at, piece);
		const uint8_t *content = NULL;

		r = chunked_next(&c, (const uint8_t *)copy, piece, &used, &content, &content_n);
		must(used <= piece && content_n <= used && (r != 0 || used > 0));
		must(buf_append(out, content, content_n) == 0);
		at += used;
		free(copy);
	}
	*ret_used = at;
	return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	_cleanup_buf_ struct buf whole = BUF_INIT(FUZZ_OUT_MAX), pieces = BUF_INIT(FUZZ_OUT_MAX);
	size_t used_whole, used_pieces;
	int r;

	if (n == 0)
		return 0;
	r = decode(data + 1, n - 1, 0, &whole, &used_whole);
	must(decode(data + 1, n - 1, data[0], &pieces, &used_pieces) == r);
	if (r >= 0) {
		must(used_whole == used_pieces && whole.len == pieces.len);
		must(whole.len == 0 || memcmp(whole.data, pieces.data, whole.len) == 0);
	}
	return 0;
}
