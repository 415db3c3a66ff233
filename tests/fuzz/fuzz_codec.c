/* Compressed bytes: the same plain ones however they are cut, in bounded memory; and there and back. */
#include "execd/codec.h"
#include "tests/fuzz/fuzz.h"

#define PLAIN_MAX (4U << 20)

/* A bomb is not waited for. */
static int collect(void *arg, const void *data, size_t n, struct err *err)
{
	struct buf *out = arg;

	if (out->len + n > PLAIN_MAX)
		return err_set(err, ERR_TOO_LARGE, "TOO_LARGE", EFBIG, "enough");
	return buf_append(out, data, n);
}

static int decode(const uint8_t *data, size_t n, uint8_t cut, struct buf *out)
{
	struct codec_in *in;
	struct err err = {0};
	int r = codec_in_new(collect, out, &in);

	must(r == 0);
	for (size_t at = 0; at < n && r >= 0;) {
		size_t piece = fuzz_piece(cut, n - at);
		char *copy = fuzz_copy(data + at, piece);

		r = codec_in_push(in, copy, piece, &err);
		at += piece;
		free(copy);
	}
	if (r >= 0)
		r = codec_in_finish(in, &err);
	if (r < 0)
		must_be_told(&err);
	codec_in_free(in);
	return r;
}

static void there_and_back(enum codec codec, const uint8_t *data, size_t n)
{
	_cleanup_buf_ struct buf packed = BUF_INIT(FUZZ_OUT_MAX), plain = BUF_INIT(FUZZ_OUT_MAX);
	struct codec_out *out;

	must(codec_out_new(codec, &out) == 0);
	must(codec_out_push(out, data, n / 2, false, &packed) == 0);
	must(codec_out_push(out, data + n / 2, n - n / 2, true, &packed) == 0);
	codec_out_free(out);
	must(decode(packed.data, packed.len, 0, &plain) == 0);
	must(plain.len == n && (n == 0 || memcmp(plain.data, data, n) == 0));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	_cleanup_buf_ struct buf whole = BUF_INIT(FUZZ_OUT_MAX), pieces = BUF_INIT(FUZZ_OUT_MAX);
	int r;

	if (n == 0)
		return 0;
	r = decode(data + 1, n - 1, 0, &whole);
	must((decode(data + 1, n - 1, data[0], &pieces) < 0) == (r < 0));
	if (r >= 0)
		must(whole.len == pieces.len &&
		     (whole.len == 0 || memcmp(whole.data, pieces.data, whole.len) == 0));
	if (n < 4096) {
		there_and_back(CODEC_GZIP, data + 1, n - 1);
		there_and_back(CODEC_ZSTD, data + 1, n - 1);
	}
	return 0;
}
