/* Multipart bodies: the same parts and the same verdict however the bytes are cut. The header's value comes
 * first, up to a newline. */
#include "proto/multipart.h"
#include "tests/fuzz/fuzz.h"

static int on_begin(void *arg, const struct multipart_part *part, struct err *err)
{
	struct buf *out = arg;

	(void)err;
	must(part->name);
	(void)buf_puts(out, "<");
	(void)buf_puts(out, part->name);
	(void)buf_puts(out, part->filename ? part->filename : "-");
	(void)buf_puts(out, part->content_type ? part->content_type : "-");
	return 0;
}

static int on_data(void *arg, const void *data, size_t n, struct err *err)
{
	(void)err;
	return buf_append(arg, data, n);
}

static int on_end(void *arg, struct err *err)
{
	(void)err;
	return buf_puts(arg, ">");
}

static int parse(const char *type, const uint8_t *data, size_t n, uint8_t cut, struct buf *out)
{
	static const struct multipart_events events = {on_begin, on_data, on_end};
	struct err err = {0};
	struct multipart *m;
	int r = multipart_new(type, &events, out, &m, &err);

	if (r < 0) {
		must_be_told(&err);
		return r;
	}
	for (size_t at = 0; at < n && r >= 0;) {
		size_t piece = fuzz_piece(cut, n - at);
		char *copy = fuzz_copy(data + at, piece);

		r = multipart_feed(m, copy, piece, &err);
		at += piece;
		free(copy);
	}
	if (r >= 0)
		r = multipart_finish(m, &err);
	if (r < 0)
		must_be_told(&err);
	multipart_free(m);
	return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	_cleanup_buf_ struct buf whole = BUF_INIT(FUZZ_OUT_MAX), pieces = BUF_INIT(FUZZ_OUT_MAX);
	const uint8_t *line = n > 0 ? memchr(data + 1, '\n', n - 1) : NULL;
	size_t type_n = line ? (size_t)(line - data - 1) : 0;
	char *type;
	int r;

	if (!line)
		return 0;
	type = fuzz_copy(data + 1, type_n);
	r = parse(type, line + 1, n - type_n - 2, 0, &whole);
	must(parse(type, line + 1, n - type_n - 2, data[0], &pieces) == r);
	if (r >= 0)
		must(whole.len == pieces.len &&
		     (whole.len == 0 || memcmp(whole.data, pieces.data, whole.len) == 0));
	free(type);
	return 0;
}
