/* A container's output as the Docker daemon sends it: the same bytes and the same verdict however they are
 * cut. */
#include "sandboxd/docker/box.h"
#include "tests/fuzz/fuzz.h"

static int demux(const uint8_t *data, size_t n, uint8_t cut, struct buf *out)
{
	_cleanup_buf_ struct buf in = BUF_INIT(FUZZ_OUT_MAX);
	int r = 0;

	for (size_t at = 0; at < n && r == 0;) {
		size_t piece = fuzz_piece(cut, n - at);

		must(buf_append(&in, data + at, piece) == 0);
		r = output_demux(&in, out);
		at += piece;
	}
	return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	_cleanup_buf_ struct buf whole = BUF_INIT(FUZZ_OUT_MAX), pieces = BUF_INIT(FUZZ_OUT_MAX);
	int r;

	if (n == 0)
		return 0;
	r = demux(data + 1, n - 1, 0, &whole);
	must(demux(data + 1, n - 1, data[0], &pieces) == r);
	must(whole.len == pieces.len && (whole.len == 0 || memcmp(whole.data, pieces.data, whole.len) == 0));
	return 0;
}
